// Uses the whole application as two people do, in Chromium: an owner at a desk, an invited member on a phone.
// Environment: APP (its address), CHROMIUM, API_URL, PUBLISHABLE_KEY; PICTURES (a folder) is optional.
import assert from 'node:assert/strict';
import axe from 'axe-core';
import { createClient } from '@supabase/supabase-js';
import { chromium } from 'playwright-core';

const { APP, CHROMIUM, API_URL, PUBLISHABLE_KEY, PICTURES } = process.env;
const WAIT = 30_000;
const PASSWORD = 'strive-demo-1';
const run = Date.now().toString(36);
const owner = `owner-${run}@example.test`;
const member = `member-${run}@example.test`;

/** The same account outside the browser, to see what the database has and to act from elsewhere. */
async function connect(email) {
  const client = createClient(API_URL, PUBLISHABLE_KEY, { auth: { persistSession: false, autoRefreshToken: false } });
  const { error } = await client.auth.signInWithPassword({ email, password: PASSWORD });
  assert.equal(error, null);
  return client;
}

async function until(what, condition) {
  for (const end = Date.now() + WAIT; !(await condition()); ) {
    assert.ok(Date.now() < end, `still waiting: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const browser = await chromium.launch({ executablePath: CHROMIUM, args: ['--no-sandbox'] });

async function open(options) {
  const context = await browser.newContext({ reducedMotion: 'reduce', ...options });
  context.setDefaultTimeout(WAIT);
  const page = await context.newPage();
  page.on('pageerror', (error) => assert.fail(error));
  return page;
}

/** No serious problem for people with disabilities, nothing wider than the screen. */
async function inspect(page, name) {
  const serious = await page.evaluate(async (source) => {
    if (!window.axe) new Function(source)();
    const { violations } = await window.axe.run();
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(' ')}`);
  }, axe.source);
  assert.deepEqual(serious, [], name);
  const over = await page.evaluate(() => document.documentElement.scrollWidth - screen.width);
  assert.ok(over <= 0, `${name} is ${over} pixels wider than the screen`);
  if (PICTURES) await page.screenshot({ path: `${PICTURES}/${name}.png` });
}

/** For the README, where all pictures are of one height. */
const picture = (page, name) => PICTURES && page.screenshot({ path: `${PICTURES}/${name}.png`, clip: { x: 0, y: 0, width: 1280, height: 720 } });

async function goTo(page, name) {
  await page.getByRole('link', { name, exact: true }).click();
  await page.getByRole('heading', { name, exact: true, level: 1 }).waitFor();
}

async function signUp(page, name, email) {
  await page.getByLabel('Your name').fill(name);
  await page.getByLabel('Email').fill(email);
  await page.getByLabel('Password').fill(PASSWORD);
  await page.getByRole('button', { name: 'Sign up' }).click();
}

try {
  const desk = await open({ viewport: { width: 1280, height: 800 }, colorScheme: 'light' });
  await desk.goto(APP);
  await desk.getByRole('button', { name: 'I am new here' }).click();
  await inspect(desk, 'sign-up');
  await signUp(desk, 'Gavin Hooli', owner);

  // Onboarding: a declined card first, then one that succeeds.
  await desk.getByLabel('Name', { exact: true }).fill(`Hooli Homes ${run}`);
  await desk.getByRole('button', { name: 'Continue' }).click();
  await desk.getByRole('button', { name: 'Choose Growth' }).waitFor();
  await inspect(desk, 'plans');
  await desk.getByRole('button', { name: 'Choose Growth' }).click();
  await desk.getByLabel('Test card').selectOption('4000000000000002');
  await desk.getByRole('button', { name: 'Pay' }).click();
  await desk.getByRole('alert').getByText('another card').waitFor();
  await inspect(desk, 'declined');
  await desk.getByLabel('Test card').selectOption('4242424242424242');
  await desk.getByRole('button', { name: 'Pay' }).click();
  await desk.getByRole('heading', { name: 'Dashboard', level: 1 }).waitFor();
  await desk.getByText('GROWTH', { exact: true }).waitFor();
  const database = await connect(owner);

  // The live feed shows what happens elsewhere.
  await desk.getByText('live', { exact: true }).waitFor();
  await desk.getByLabel('Share with your team').fill('Hello from the desk');
  await desk.getByRole('button', { name: 'Share' }).click();
  await desk.getByLabel('Feed').getByText('Hello from the desk').waitFor();
  const activity = { type: 'USER_ACTION', title: 'Hello from elsewhere', entity_type: 'note', entity_id: 'walk', action: 'shared' };
  assert.equal((await database.functions.invoke('record-activity', { body: activity })).error, null);
  await desk.getByLabel('Feed').getByText('Hello from elsewhere').waitFor();

  // A flag appears and disappears while the page is open.
  const admin = await connect('admin@strive.test');
  const before = (await admin.from('feature_flags').select('*').eq('name', 'crm.match-buyers').single()).data;
  const change = async (values) => assert.equal((await admin.from('feature_flags').update(values).eq('id', before.id)).error, null);
  try {
    await change({ is_enabled: true, rollout_percent: 100, target_tiers: [] });
    await desk.getByRole('heading', { name: 'Suggested buyers' }).waitFor();
    await inspect(desk, 'dashboard');
    await change({ is_enabled: false });
    await desk.getByRole('heading', { name: 'Suggested buyers' }).waitFor({ state: 'detached' });
  } finally {
    const { is_enabled, rollout_percent, target_tiers } = before;
    await change({ is_enabled, rollout_percent, target_tiers });
  }

  // The board: by mouse, by the list on a card, and back after a refusal.
  await goTo(desk, 'Pipeline');
  await desk.getByLabel('New deal').fill('Villa by the lake');
  await desk.getByLabel('Value in dollars').fill('950000');
  await desk.getByRole('button', { name: 'Add' }).click();
  const card = (stage) => desk.getByRole('region', { name: stage, exact: true }).getByRole('listitem').filter({ hasText: 'Villa' });
  await card('Lead').dragTo(desk.getByRole('region', { name: 'Qualified', exact: true }));
  const stage = async () => (await database.from('deals').select('stage').single()).data.stage;
  await until('the deal is QUALIFIED', async () => (await stage()) === 'QUALIFIED');
  await card('Qualified').getByRole('combobox').selectOption('NEGOTIATION');
  await until('the deal is NEGOTIATION', async () => (await stage()) === 'NEGOTIATION');
  await card('Negotiation').getByRole('combobox').selectOption('LEAD');
  await desk.getByRole('alert').waitFor();
  await card('Negotiation').waitFor();
  assert.equal(await stage(), 'NEGOTIATION');
  await inspect(desk, 'pipeline');

  // A file on the deal, and its bytes back.
  await card('Negotiation').getByRole('button', { name: 'Villa by the lake' }).click();
  await desk.getByLabel('Add a file').setInputFiles({ name: 'plan.txt', mimeType: 'text/plain', buffer: Buffer.from('two rooms') });
  const [download] = await Promise.all([desk.waitForEvent('download'), desk.getByRole('button', { name: 'plan.txt' }).click()]);
  const bytes = await (await download.createReadStream()).toArray();
  assert.equal(Buffer.concat(bytes).toString(), 'two rooms');
  await inspect(desk, 'deal');
  await desk.getByRole('button', { name: 'Close' }).click();

  await goTo(desk, 'Agents');
  await desk.getByLabel('Name', { exact: true }).fill('Night desk');
  await desk.getByLabel('What should it do?').fill('Answers at night');
  await desk.getByText(/^About \$/).waitFor();
  await desk.getByRole('button', { name: 'Order', exact: true }).click();
  await desk.getByLabel('Orders').getByText('Submitted').waitFor();
  await desk.getByText('2 of 3 left this month').waitFor();
  await inspect(desk, 'agents');

  await goTo(desk, 'Plan');
  await desk.getByRole('button', { name: 'Choose Elite' }).click();
  await desk.getByText('Due now').waitFor();
  await inspect(desk, 'plan-preview');
  await desk.getByRole('button', { name: 'Confirm the change' }).click();
  await desk.getByRole('status').getByText('You have Elite now').waitFor();

  await goTo(desk, 'People');
  await desk.getByLabel('Email').fill(member);
  await desk.getByRole('button', { name: 'Invite' }).click();
  const link = await desk.getByLabel('Link for the invited person').inputValue();
  await inspect(desk, 'people');

  // The invited member, on a phone in the dark.
  const phone = await open({ viewport: { width: 375, height: 740 }, hasTouch: true, isMobile: true, colorScheme: 'dark' });
  await phone.goto(link);
  await signUp(phone, 'Dinesh', member);
  await phone.getByRole('button', { name: 'Accept the invitation' }).click();
  for (const name of ['Dashboard', 'Pipeline', 'Agents', 'People', 'Plan']) {
    await goTo(phone, name);
    await phone.getByText('Loading…').waitFor({ state: 'detached' });
    await inspect(phone, `phone-${name.toLowerCase()}`);
  }
  await phone.getByText('Only the owner can change the plan').waitFor();

  // A demo account has a year of data.
  const demo = await open({ viewport: { width: 1280, height: 900 }, colorScheme: 'light' });
  await demo.goto(APP);
  await demo.getByLabel('Email').fill('owner@acme.test');
  await demo.getByLabel('Password').fill(PASSWORD);
  await demo.getByRole('button', { name: 'Sign in' }).click();
  await demo.getByText('live', { exact: true }).waitFor();
  await demo.getByLabel('Feed').getByRole('listitem').nth(7).waitFor();
  await inspect(demo, 'dashboard-demo');
  await picture(demo, 'example');
  await goTo(demo, 'Pipeline');
  await demo.getByRole('region', { name: 'Proposal' }).getByRole('listitem').first().waitFor();
  await inspect(demo, 'example-pipeline');
  console.log('done');
} catch (failure) {
  for (const page of browser.contexts().flatMap((context) => context.pages())) {
    console.error(page.url(), await page.locator('body').innerText());
    if (PICTURES) await page.screenshot({ path: `${PICTURES}/failure.png` });
  }
  throw failure;
} finally {
  await browser.close();
}
