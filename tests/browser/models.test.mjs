// The page of models against the running service: real files, real trials, and a rollout to a session that goes on meanwhile.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import { eventually, goLive, launch, openPage, OUT } from './chromium.mjs';
import { brightDetector, unclearDetector } from './onnx.mjs';
import { clip, metric, URL_BASE, waitForNoSessions, withoutService } from './service.mjs';

/** @typedef {import('playwright-core').Page} Page */

const ROOT = path.join(import.meta.dirname, '../..');
const BINARY = process.env.VIGIE_BINARY ?? path.join(ROOT, 'target/release/vigie');
/** Trials and loads take turns with whatever else the machine does. */
const PATIENCE_MS = 60_000;
const LABELS = /** @type {[string, string]} */ (['dark thing', 'bright thing']);

/** @param {Page} page @param {string} name @param {Buffer} buffer */
const choose = (page, name, buffer) => page.setInputFiles('#file', { name, mimeType: 'application/octet-stream', buffer });

/** @param {Page} page @param {string} view */
const waitForView = (page, view) => page.waitForFunction((wanted) => window.vigie.view === wanted, view, { timeout: PATIENCE_MS });

/** @param {Page} page @param {string} name @param {Buffer} buffer */
async function add(page, name, buffer) {
  await choose(page, name, buffer);
  await waitForView(page, 'report');
  return String(await page.textContent('#report-title'));
}

/** What the newest report of a live page says that its objects are. @param {Page} live */
const objects = (live) => live.evaluate(() =>
  (window.vigie.lastReport?.tracks ?? []).filter(({ kind }) => kind === 'object').map(({ label }) => label));

/** @param {Page} page @param {string} slot */
const card = (page, slot) => page.locator(`.slot[data-slot="${slot}"]`);

/** Gives the version that is shown a role. @param {Page} page @param {'stable' | 'canary' | 'variant' | 'shadow'} role */
async function use(page, role) {
  await page.click('#report-use');
  await page.check(`#assign input[value="${role}"]`);
  await page.click('#assign .primary');
  await page.waitForSelector('#assign', { state: 'hidden' });
}

/** Takes what this test brought away again. */
async function clean() {
  for (const { slot } of (await (await fetch(`${URL_BASE}api/traffic`)).json()).traffic) {
    await fetch(`${URL_BASE}api/traffic/${encodeURIComponent(slot)}`, { method: 'DELETE' });
  }
  for (const { name, versions } of (await (await fetch(`${URL_BASE}api/models`)).json()).models) {
    for (const { version } of versions) await fetch(`${URL_BASE}api/models/${name}/versions/${version}`, { method: 'DELETE' });
  }
}

describe('the page of models', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */ let browser;
  /** @type {Page} */ let page;
  /** @type {string[]} */ let faults;

  before(async () => {
    await mkdir(OUT, { recursive: true });
    browser = await launch({ camera: await clip('people.y4m'), colorScheme: 'light', viewport: { width: 1400, height: 900 } });
  });
  beforeEach(async () => {
    ({ page, faults } = await openPage(browser.context, `${URL_BASE}models`));
    await page.waitForSelector('#models[data-known="yes"]');
  });
  afterEach(async () => {
    const [, ...pages] = browser.context.pages();
    for (const opened of pages) {
      await opened.goto('about:blank');
      await opened.close();
    }
    await clean();
    await waitForNoSessions();
  });
  after(() => browser?.close());

  test('takes a model in and shows what it sees', async () => {
    assert.equal(await page.getAttribute('.pages a[aria-current="page"]', 'href'), 'models');
    const model = await add(page, 'Bright Things.onnx', brightDetector({ labels: LABELS }));
    assert.match(model, /^bright-things@\d+$/);
    const facts = await page.textContent('[data-sheet="recognised"]');
    for (const fact of ['yolo', 'bright thing', '64 × 64', 'RGB']) assert.ok(facts?.includes(fact), `${fact} in ${facts}`);
    assert.equal(await page.locator('[data-sheet="checks"] li').count(), 7);
    assert.match(String(await page.textContent('[data-sheet="speed"] strong')), /^[0-9.]+$/);
    assert.match(String(await page.textContent('[data-sheet="found"]')), /bright thing/);
    await eventually('the trial’s picture is there', () => page.evaluate(() =>
      /** @type {HTMLImageElement} */ (document.getElementById('trial-picture')).naturalWidth > 100));
    assert.match(String(await page.getAttribute('#trial-picture', 'alt')), /bright thing \d+/);
    await page.screenshot({ path: path.join(OUT, 'models-report.png'), fullPage: true });

    // The same file again is no new version; after a reload it is still there.
    await page.click('#report-close');
    assert.equal(await add(page, 'Bright Things.onnx', brightDetector({ labels: LABELS })), model);
    assert.match(String(await page.textContent('#report-state')), /already/);
    await page.reload();
    await page.click(`[data-model="${model}"]`);
    await waitForView(page, 'report');
    assert.match(String(await page.textContent('#report-state')), /Serves nobody/);
    await page.click('#report-remove');
    await page.click('#report-remove');
    await page.waitForSelector(`[data-model="${model}"]`, { state: 'detached' });
    assert.deepEqual(faults, []);
  });

  test('refuses what is no model, and says what would settle what is not clear', async () => {
    await choose(page, 'notes.onnx', Buffer.from('This is no model, whatever its name says.\n'.repeat(40)));
    await waitForView(page, 'refusal');
    const code = String(await page.textContent('#refusal-code'));
    assert.ok(['not_onnx', 'malformed', 'truncated'].includes(code), code);
    assert.ok(String(await page.textContent('#refusal-title')).length > 10);
    assert.equal(await page.evaluate(() => document.activeElement?.id), 'refusal-title', 'whoever cannot see hears it');
    assert.equal(await page.locator('#shelf [data-model]').count(), 0);

    await choose(page, 'finished.onnx', unclearDetector());
    await page.waitForFunction(() => document.getElementById('refusal-code')?.textContent === 'unclear', undefined, { timeout: PATIENCE_MS });
    assert.ok(await page.isVisible('.entry.asked textarea[name="labels"]'), 'the field that settles it is shown');
    await page.screenshot({ path: path.join(OUT, 'models-refusal.png'), fullPage: true });
    await page.fill('textarea[name="labels"]', 'dark thing\nbright thing');
    await page.click('#refusal-again');
    await waitForView(page, 'report');
    assert.match(String(await page.textContent('[data-sheet="recognised"]')), /yolo-end2end/);
    // The browser itself notes answers that are errors; nothing else went wrong.
    assert.deepEqual(faults.filter((fault) => !fault.includes('422')), []);
  });

  test('removes only what it was asked twice to remove', async () => {
    const one = await add(page, 'one.onnx', brightDetector({ labels: LABELS }));
    await page.click('#report-close');
    const two = await add(page, 'two.onnx', brightDetector({ labels: LABELS, weight: 0.9 }));
    const button = page.locator('#report-remove');
    await button.click();
    assert.equal(await button.textContent(), 'Remove for good?');
    await page.click(`#shelf [data-model="${one}"]`);
    assert.equal(await page.textContent('#report-title'), one);
    assert.equal(await button.textContent(), 'Remove');
    await button.click();
    assert.equal(await button.textContent(), 'Remove for good?', 'one click on another version only asks');
    await page.click('[data-language="fr"]');
    assert.equal(await button.textContent(), 'Supprimer');
    await page.click('[data-language="en"]');
    const { models } = await (await fetch(`${URL_BASE}api/models`)).json();
    assert.deepEqual(models.filter(({ versions }) => versions.length > 0).map(({ name }) => name).sort(), ['one', 'two']);
    await button.click();
    await button.click();
    await page.waitForSelector(`#shelf [data-model="${one}"]`, { state: 'detached' });
    assert.equal(await page.locator(`#shelf [data-model="${two}"]`).count(), 1);
    assert.deepEqual(faults, []);
  });

  test('a download holds no change up', async () => {
    const model = await add(page, 'bright.onnx', brightDetector({ labels: LABELS }));
    let send = () => {};
    const maySend = new Promise((resolve) => {
      send = () => resolve(undefined);
    });
    await page.route('**/model.onnx', async (route) => {
      await maySend;
      await route.continue();
    });
    await page.click('#report-download');
    await use(page, 'canary');
    await card(page, 'objects').locator('.route[data-role="canary"]').waitFor({ timeout: PATIENCE_MS });
    const [download] = await Promise.all([page.waitForEvent('download'), send()]);
    assert.equal(download.suggestedFilename(), `${model.replace('@', '-')}.onnx`);
  });

  test('rolls a version out to a live session, which goes on', async () => {
    const { page: live } = await openPage(browser.context, URL_BASE);
    await goLive(live);
    await eventually('people are recognised', async () => (await objects(live)).includes('person'), PATIENCE_MS);
    const sessions = await metric('vigie_sessions_total');
    await live.evaluate(() => {
      window.statesSeen = new Set();
      setInterval(() => window.statesSeen.add(window.vigie.state), 50);
    });

    await page.bringToFront();
    const first = await add(page, 'bright.onnx', brightDetector({ labels: LABELS }));
    await use(page, 'stable');
    await eventually('the new model is what the session sees by', async () => (await objects(live)).includes('bright thing'), PATIENCE_MS);
    const stable = card(page, 'objects').locator('.route[data-role="stable"]');
    await eventually('its figures are drawn', async () => (await stable.locator('.plot .runs').count()) > 0, PATIENCE_MS);
    assert.equal(await stable.getAttribute('data-model'), first);
    assert.match(String(await page.textContent('#report-state')), /Objects \(stable\)/);
    assert.ok(await page.isDisabled('#report-remove'), 'what serves cannot be removed');

    // A second version as a shadow is run and compared, and nobody sees it.
    await page.click('#report-close');
    const second = await add(page, 'bright.onnx', brightDetector({ labels: LABELS, weight: 0.9 }));
    await use(page, 'shadow');
    const shadow = card(page, 'objects').locator('.route[data-role="shadow"]');
    await eventually('the shadow agrees', async () => /\d+(\.\d)?%/.test(String(await shadow.locator('[data-figure="agreement"] strong').textContent().catch(() => ''))), PATIENCE_MS);
    await page.screenshot({ path: path.join(OUT, 'models-rollout.png'), fullPage: true });
    await shadow.locator('[data-key="shadow-promote"]').click();
    await eventually('the shadow is stable', async () => (await stable.getAttribute('data-model')) === second, PATIENCE_MS);

    await stable.locator('[data-key="roll-back"]').click();
    await eventually('what was before is back', async () => (await stable.getAttribute('data-model')) === first, PATIENCE_MS);
    await card(page, 'objects').locator('.history summary').click();
    assert.ok(await card(page, 'objects').locator('.history li').count() >= 3);
    await stable.locator('[data-key="to-default"]').click();
    await eventually('people are recognised again', async () => (await objects(live)).includes('person'), PATIENCE_MS);

    assert.equal(await metric('vigie_sessions_total'), sessions, 'no session was begun anew');
    assert.deepEqual(await live.evaluate(() => [...window.statesSeen]), ['live']);
    assert.deepEqual(faults, []);
  });

  test('gives a canary its share, by mouse and by keyboard', async () => {
    await add(page, 'bright.onnx', brightDetector({ labels: LABELS }));
    await page.click('#report-use');
    await page.keyboard.press('Escape');
    await page.waitForSelector('#assign', { state: 'hidden' });
    assert.equal(await page.evaluate(() => window.vigie.shelf.traffic.length), 0, 'Escape changes nothing');

    await use(page, 'canary');
    const canary = card(page, 'objects').locator('.route[data-role="canary"]');
    await canary.waitFor({ timeout: PATIENCE_MS });
    await canary.locator('[data-key="canary-percent"]').focus();
    for (let step = 0; step < 5; step += 1) await page.keyboard.press('ArrowRight');
    const percent = async () => (await (await fetch(`${URL_BASE}api/traffic/objects`)).json()).canary?.percent;
    await eventually('the share is 15 %', async () => (await percent()) === 15);
    await eventually('the focus stays', () => page.evaluate(() => /** @type {HTMLElement} */ (document.activeElement)?.dataset.key === 'canary-percent'));
    await canary.locator('[data-key="canary-stop"]').click();
    await canary.waitFor({ state: 'detached' });
    await page.click('[data-language="fr"]');
    assert.equal(await page.textContent('#slots-title'), 'En service');
    await page.click('[data-language="en"]');
    assert.deepEqual(faults, []);
  });

  test('fits a phone', async () => {
    await page.setViewportSize({ width: 360, height: 740 });
    await add(page, 'bright.onnx', brightDetector({ labels: LABELS }));
    const overflow = () => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.equal(await overflow(), 0);
    await page.click('#report-use');
    await page.screenshot({ path: path.join(OUT, 'models-phone.png') });
    assert.equal(await overflow(), 0);
    await page.keyboard.press('Escape');
    await page.setViewportSize({ width: 1400, height: 900 });
  });
});

describe('the page of models behind a token', () => {
  /** @type {import('node:child_process').ChildProcess} */ let service;
  /** @type {Awaited<ReturnType<typeof launch>>} */ let browser;
  let store = '';
  let url = '';
  const secrets = { VIGIE_SESSION_SECRET: 'the-session-secret-of-this-test-0', VIGIE_ADMIN_TOKEN: 'the-admin-token-of-this-test-00000' };

  before(async () => {
    store = await mkdtemp(path.join(tmpdir(), 'vigie-models-'));
    service = spawn(BINARY, ['serve', '--listen', '127.0.0.1:0', '--store', store], {
      cwd: ROOT, env: { ...process.env, ...secrets }, stdio: ['ignore', 'pipe', 'ignore'],
    });
    url = await new Promise((resolve, reject) => {
      service.once('exit', (code) => reject(new Error(`vigie ended with ${code}`)));
      service.stdout?.on('data', (chunk) => {
        const ready = /is ready: (http:\/\/\S+)/.exec(String(chunk));
        if (ready) resolve(ready[1]);
      });
    });
    browser = await launch({ cameraAnswer: 'none' });
  });
  after(async () => {
    await browser?.close();
    service?.kill();
    await rm(store, { recursive: true, force: true });
  });

  test('asks for it, refuses a wrong one, and keeps the right one in the tab', async () => {
    const page = await browser.context.newPage();
    await page.goto(`${url.replace(/\/+$/, '')}/models`);
    await page.waitForSelector('#token');
    assert.ok(await page.isHidden('#bench'));
    await page.fill('#token-text', 'the-wrong-token-of-this-test-00000');
    await page.keyboard.press('Enter');
    await page.waitForSelector('#token[data-code="token_invalid"]');
    await page.fill('#token-text', secrets.VIGIE_ADMIN_TOKEN);
    await page.keyboard.press('Enter');
    await page.waitForSelector('#models[data-known="yes"]');
    assert.equal(await add(page, 'bright.onnx', brightDetector({ labels: LABELS })), 'bright@1');
    await page.reload();
    await page.waitForSelector('[data-model="bright@1"]');
    assert.ok(await page.isHidden('#token'));
  });
});
