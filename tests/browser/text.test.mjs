// Text in the camera's picture, read live: switched on by the page, shown in its view, switched off again.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { eventually, goLive, launch, openPage, waitForState } from './chromium.mjs';
import { clip, URL_BASE, waitForNoSessions } from './service.mjs';

describe('reading text', () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */ let browser;

  before(async () => {
    browser = await launch({ camera: await clip('signs.y4m') });
  });
  after(async () => {
    await browser.close();
    await waitForNoSessions();
  });

  test('reads signs when it is switched on, and forgets them when it is switched off', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    const texts = () => page.evaluate(() => (window.vigie.lastReport?.tracks ?? [])
      .flatMap(({ attributes }) => attributes?.text?.label ?? []));
    await goLive(page);
    await eventually('reports', () => page.evaluate(() => window.vigie.lastReport !== null));
    assert.equal(await page.isChecked('[data-task="text"]'), false);
    assert.deepEqual(await texts(), []);

    await page.click('label:has([data-task="text"])');
    await eventually('the stop sign', async () => (await texts()).includes('STOP'), 120_000);
    await eventually('it in view', async () => (await page.textContent('#counts'))?.includes('“STOP”'));

    await page.click('label:has([data-task="text"])');
    await eventually('no text', async () => (await texts()).length === 0);
    await page.click('#hang-up');
    await waitForState(page, 'idle');
  });
});
