// The reference of the HTTP API at /docs: every operation of openapi.json is there, and nothing is blocked.

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './chromium.mjs';
import { URL_BASE, withoutService } from './service.mjs';

describe('the reference', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  before(async () => { browser = await launch({}); });
  after(async () => { await browser.close(); });

  test('every operation is shown and opens', async () => {
    const { paths } = await (await fetch(`${URL_BASE}openapi.json`)).json();
    const told = Object.entries(paths).flatMap(([path, methods]) => Object.keys(methods).map((method) => `${method} ${path}`));
    const page = await browser.context.newPage();
    /** @type {string[]} */
    const faults = [];
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('console', (message) => { if (message.type() === 'error') faults.push(message.text()); });
    await page.goto(`${URL_BASE}docs`);
    await page.locator('[data-operation]').nth(told.length - 1).waitFor();
    const shown = await page.locator('[data-operation]').evaluateAll((all) => all.map((one) => one.getAttribute('data-operation')));
    assert.deepEqual(shown.sort(), told.sort());
    const infer = page.locator('[data-operation="post /v2/models/{model}/infer"]');
    await infer.locator('summary').click();
    assert.match(await infer.innerText(), /Inference-Header-Content-Length/);
    assert.match(await infer.innerText(), /"datatype"/);
    assert.ok(await page.locator('#fault').isHidden());
    assert.deepEqual(faults, []);
  });
});
