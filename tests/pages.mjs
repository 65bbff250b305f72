// Opens every page of the stack in Chromium, on a desk and on a phone in the dark.
// Environment: CHROMIUM, API_URL, STRIPE_API_BASE; PICTURES (a folder) is optional.
import assert from 'node:assert/strict';

import { onEachScreen, PICTURE } from './screens.mjs';

const { API_URL, PICTURES, STRIPE_API_BASE } = process.env;

await onEachScreen(async (page, screen, check) => {
  const inspect = async (name) => {
    if (PICTURES && screen === 'desk') await page.screenshot({ path: `${PICTURES}/${name}.png`, clip: PICTURE });
    await check(name);
  };

  await page.goto(`${API_URL}/#owner@acme.test`);
  await page.locator('#feed time').nth(4).waitFor();
  assert.equal(await page.getByText('running', { exact: true }).count(), 3);
  // The feed shows what happens, as soon as the page has subscribed.
  const live = page.locator('#feed .new').first();
  const happened = () => live.waitFor({ timeout: 1000 }).then(() => true, () => false);
  do await page.locator('#record').click(); while (!(await happened()));
  await inspect('landing');
  await page.getByRole('link', { name: '/functions/v1/submit-order' }).click();
  await page.getByRole('heading', { name: 'Submit a draft' }).waitFor();
  await inspect('function');

  // Every function and every rpc is listed; the search finds one by what it does; a demo account calls it.
  await page.goto(`${API_URL}/functions/v1/docs`);
  await page.locator('.list a').first().waitFor();
  const { paths } = await (await fetch(`${API_URL}/functions/v1/openapi.json`)).json();
  const shown = await page.locator('.list a').evaluateAll((links) => links.map((link) => link.getAttribute('href')));
  for (const { post } of Object.values(paths)) assert.ok(shown.includes(`#${post.operationId}`), post.operationId);
  assert.ok(shown.filter((href) => href.startsWith('#rpc/')).length > 100);
  await inspect('reference');
  await page.getByLabel('Search').fill('pipeline report');
  await page.locator('main').getByRole('link', { name: 'pipeline_report' }).click();
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByText('owner@acme.test', { exact: true }).waitFor();
  await page.getByRole('button', { name: 'Send' }).click();
  await page.getByLabel('Response').getByText('NEGOTIATION').waitFor();
  await page.getByRole('button', { name: 'supabase-py' }).click();
  await page.getByLabel('Code').getByText('strive.rpc("pipeline_report")').waitFor();
  await inspect('rpc');
  // Texts with quotes and words of other languages are copied into code that runs.
  await page.getByLabel('Arguments').fill('{"note": "it\'s true", "sent": true}');
  await page.getByLabel('Code').getByText('"it\'s true", "sent": True').waitFor();
  await page.getByRole('button', { name: 'curl' }).click();
  await page.getByLabel('Code').getByText(`-d '{"note": "it'\\''s true", "sent": true}'`).waitFor();
  await page.getByRole('button', { name: 'supabase-py' }).click();
  await page.goto(`${API_URL}/functions/v1/docs#table/deals`);
  await page.getByRole('heading', { name: 'deals', exact: true }).waitFor();
  await inspect('table');

  for (const [name, address] of [['mail', `${API_URL}/mail`], ['payments', STRIPE_API_BASE]]) {
    await page.goto(address);
    await inspect(name);
  }
});
