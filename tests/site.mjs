// Opens pages of the documentation site in Chromium and searches it. Environment: CHROMIUM, SITE_URL, PAGES (with spaces between).
import assert from 'node:assert/strict';

import { onEachScreen } from './screens.mjs';

const { PAGES, SITE_URL } = process.env;

await onEachScreen(async (page, screen, check) => {
  const elsewhere = [];
  page.on('request', (request) => request.url().startsWith(SITE_URL) || elsewhere.push(request.url()));
  for (const path of PAGES.split(' ')) {
    await page.goto(`${SITE_URL}/${path}`);
    await page.locator('article h1').waitFor();
    await check(path);
  }
  if (screen === 'desk') {
    const search = page.getByRole('textbox', { name: 'Search' });
    await search.click();
    // On a busy machine the index of all pages takes a while. The page reads what is typed only after that.
    await page.getByText('Type to start searching').waitFor({ timeout: 120_000 });
    await search.pressSequentially('coupon');
    await page.locator('.md-search-result__link').first().waitFor({ timeout: 120_000 });
  }
  assert.deepEqual(elsewhere.filter((url) => !url.startsWith('data:')), [], 'the site works offline');
});
