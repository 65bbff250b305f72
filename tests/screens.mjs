// Runs a visit in Chromium on a desk, and on a phone in the dark. Environment: CHROMIUM.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';

const require = createRequire(new URL('../examples/web/package.json', import.meta.url));
const axe = require('axe-core');
const { chromium } = require('playwright-core');

const SCREENS = {
  desk: { viewport: { width: 1280, height: 900 }, colorScheme: 'light' },
  phone: { viewport: { width: 375, height: 740 }, isMobile: true, colorScheme: 'dark' },
};

/** Pictures of the README are of one height, and legible at its width. */
export const PICTURE = { x: 0, y: 0, width: 1280, height: 720 };

/** `visit` gets a page, the name of the screen, and a check of the page as it is: accessible, not too wide, no error. */
export async function onEachScreen(visit) {
  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM, args: ['--no-sandbox'] });
  try {
    for (const [screen, options] of Object.entries(SCREENS)) {
      const context = await browser.newContext(options);
      context.setDefaultTimeout(30_000);
      const page = await context.newPage();
      const problems = [];
      page.on('pageerror', (error) => problems.push(error.message));
      page.on('console', (message) => message.type() === 'error' && problems.push(message.text()));
      await visit(page, screen, async (name) => {
        const serious = await page.evaluate(`(async () => { ${axe.source}; return (await window.axe.run()).violations
          .filter(({ impact }) => ['serious', 'critical'].includes(impact))
          .map(({ id, nodes }) => id + ': ' + nodes.map((node) => node.html).join(' ')); })()`);
        assert.deepEqual(serious, [], `${name} on a ${screen}`);
        const over = await page.evaluate(() => document.documentElement.scrollWidth - screen.width);
        assert.ok(over <= 0, `${name} is ${over} pixels wider than the ${screen}`);
        assert.deepEqual(problems, [], name);
      });
      await context.close();
    }
  } finally {
    await browser.close();
  }
}
