// The whole loop in Chromium, against the service at VIGIE_URL: a picture goes out, recognition and
// the annotated video come back.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { eventually, goLive, launch, openPage, OUT, waitForMessage, waitForState } from './chromium.mjs';
import { clip, URL_BASE, waitForNoSessions, withoutService } from './service.mjs';

/** @typedef {import('playwright-core').Page} Page */

/** Labels of the objects in view, as the newest report has them. @param {Page} page */
const labels = (page) => page.evaluate(() =>
  (window.vigie.lastReport?.tracks ?? []).filter(({ kind }) => kind === 'object').map(({ label }) => label));

/** @param {Page} page */
const faces = (page) => page.evaluate(() =>
  (window.vigie.lastReport?.tracks ?? []).filter(({ kind }) => kind === 'face'));

/** @param {Page} page */
const stats = (page) => page.evaluate(() => window.vigie.stats());

/** @param {Page} page @param {string} task */
const toggle = (page, task) => page.click(`label:has([data-task="${task}"])`);

/** @param {Page} page @param {string} output */
const choose = (page, output) => page.click(`label:has([name="output"][value="${output}"])`);

/** @param {Page} page */
async function hangUp(page) {
  await page.click('#hang-up');
  await waitForState(page, 'idle');
}

/**
 * How much of the face's frame stands in the annotated picture and not in the local one: the share
 * of points on its edges near which the two differ by more than coding does. Only for a picture
 * that does not move.
 * @param {Page} page
 */
const drawnShare = (page) => page.evaluate(() => {
  const report = window.vigie.lastReport;
  const face = report?.tracks.find(({ kind }) => kind === 'face');
  if (!face) return 0;
  const { width, height } = report;
  const [local, annotated] = ['local', 'annotated'].map((id) => {
    const context = new OffscreenCanvas(width, height).getContext('2d');
    context.drawImage(/** @type {HTMLVideoElement} */ (document.getElementById(id)), 0, 0, width, height);
    return context.getImageData(0, 0, width, height).data;
  });
  const differs = (x, y) => [0, 1, 2].some((channel) => {
    const at = (y * width + x) * 4 + channel;
    return Math.abs(local[at] - annotated[at]) > 60;
  });
  const nearby = [-4, -3, -2, -1, 0, 1, 2, 3, 4];
  const [left, top, w, h] = face.box.map(Math.round);
  let drawn = 0;
  let all = 0;
  for (let step = 0.1; step <= 0.9; step += 0.02) {
    const x = Math.round(left + w * step);
    const y = Math.round(top + h * step);
    for (const edge of [
      nearby.map((shift) => [x, top + shift]),
      nearby.map((shift) => [x, top + h + shift]),
      nearby.map((shift) => [left + shift, y]),
      nearby.map((shift) => [left + w + shift, y]),
    ]) {
      all += 1;
      if (edge.some(([px, py]) => px >= 0 && py >= 0 && px < width && py < height && differs(px, py))) drawn += 1;
    }
  }
  return drawn / all;
});

/** Notes in the page when its first offer left and when its first report came. */
function noteJoining() {
  const { send } = WebSocket.prototype;
  WebSocket.prototype.send = function (data) {
    if (String(data).includes('"offer"')) window.offeredAt ??= performance.now();
    return send.call(this, data);
  };
  const { createDataChannel } = RTCPeerConnection.prototype;
  RTCPeerConnection.prototype.createDataChannel = function (label, options) {
    const channel = createDataChannel.call(this, label, options);
    if (label === 'results') channel.addEventListener('message', () => { window.reportedAt ??= performance.now(); });
    return channel;
  };
}

describe('the live page', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  let people = '';

  before(async () => {
    people = await clip('people.y4m');
    browser = await launch({ camera: people });
    await browser.context.addInitScript(noteJoining);
  });
  after(() => browser?.close());
  // However a test ended, its pages leave before the next one, which then counts sessions alone.
  afterEach(async () => {
    const [, ...pages] = browser.context.pages();
    for (const page of pages) {
      await page.goto('about:blank');
      await page.close();
    }
    await waitForNoSessions();
  });

  test('shows a face with an apparent gender, a person and another object, and how long it took', async (t) => {
    const { page, faults } = await openPage(browser.context, URL_BASE);
    assert.equal(await page.evaluate(() => window.vigie.state), 'idle', 'nothing starts before consent');
    await goLive(page);

    await eventually('a face with an apparent gender', async () =>
      (await faces(page)).some(({ attributes }) => ['female', 'male', 'unsure'].includes(attributes?.apparent_gender?.label)));
    await eventually('a person', async () => (await labels(page)).includes('person'));
    await eventually('another object', async () => (await labels(page)).some((label) => label !== 'person'));
    await page.waitForSelector('#counts [data-kind="face"]');
    await page.waitForSelector('#counts [data-label="person"]');

    const measured = await eventually('every figure of the panel', async () => {
      const figures = await stats(page);
      return figures.sentFps > 5 && figures.recognisedFps > 1 && figures.latencyMs > 0 && figures.rttMs !== null && figures.codec && figures;
    });
    assert.ok(measured.latencyMs < 5000, `latency ${measured.latencyMs} ms`);
    const joined = await page.evaluate(() => window.reportedAt - window.offeredAt);
    t.diagnostic(`first report ${joined.toFixed(0)} ms after the offer, latency ${measured.latencyMs.toFixed(0)} ms end to end`);
    await page.waitForFunction(() => /^\d/.test(document.getElementById('latency')?.textContent ?? ''));
    await page.waitForFunction(() => [...document.querySelectorAll('#stage-key .value')].every(({ textContent }) => /^\d/.test(textContent)));
    // For the README: a filled plot, and the name that a camera has outside a test.
    await eventually('enough of the plot', () => page.evaluate(() => window.vigie.lastReport.seq > 120), 60_000);
    await page.$eval('#source option:checked', (option) => { option.textContent = 'Camera'; });
    await page.screenshot({ path: path.join(OUT, 'screenshot.png') });
    assert.deepEqual(faults, []);
    await hangUp(page);
    await waitForNoSessions();
  });

  test('plays the annotated video with the boxes drawn into it', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await page.setInputFiles('#file', path.join(OUT, '../../data/astronaut.jpg'));
    await page.click('#agree-file');
    await waitForState(page, 'live');
    await eventually('a face', async () => (await faces(page)).length > 0);
    await choose(page, 'annotated');
    await eventually('annotated frames', async () => (await stats(page)).annotatedFps > 2);
    await eventually('the face’s frame in the annotated picture', async () => (await drawnShare(page)) >= 0.6);
    await choose(page, 'both');
    await page.waitForFunction(() => ['local', 'annotated'].every((id) => (document.getElementById(id)?.clientWidth ?? 0) > 100));
    await page.screenshot({ path: path.join(OUT, 'screenshot-both.png') });
    await choose(page, 'overlay');
    await eventually('the annotated video to rest', async () => (await stats(page)).annotatedFps === 0);
    await hangUp(page);
  });

  test('follows the switches', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await eventually('faces and objects', async () => (await faces(page)).length > 0 && (await labels(page)).length > 0);

    await toggle(page, 'faces');
    await eventually('no faces', async () => (await faces(page)).length === 0 && (await labels(page)).length > 0);
    await toggle(page, 'objects');
    await eventually('nothing', async () => (await faces(page)).length === 0 && (await labels(page)).length === 0);
    await toggle(page, 'faces');
    await eventually('faces again', async () => (await faces(page)).length > 0);
    await toggle(page, 'gender');
    await eventually('faces without apparent gender', async () => {
      const found = await faces(page);
      return found.length > 0 && found.every(({ attributes }) => !attributes?.apparent_gender);
    });
    await toggle(page, 'objects');
    await page.fill('#threshold', '0.95');
    // The cat, the cup and the person score between 0.4 and 0.8.
    await eventually('no object, none being nearly certain', async () => (await labels(page)).length === 0);
    await hangUp(page);
  });

  for (const codec of ['VP8', 'VP9', 'H264', 'AV1']) {
    test(`recognises what is sent as ${codec}, and sends annotated video back`, async () => {
      const { page } = await openPage(browser.context, `${URL_BASE}?codec=${codec.toLowerCase()}`);
      await goLive(page);
      await eventually('a face', async () => (await faces(page)).length > 0);
      await eventually(`to send ${codec}`, async () => (await stats(page)).codec === codec);
      await choose(page, 'both');
      await eventually('annotated frames', async () => (await stats(page)).annotatedFps > 2);
      await hangUp(page);
      await page.close();
    });
  }

  test('changes size and source in mid-call without a new connection', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await eventually('reports', () => page.evaluate(() => window.vigie.lastReport !== null));
    const session = await page.evaluate(() => window.vigie.session);
    await page.evaluate(() => {
      window.firstConnection = window.vigie.pc;
    });

    await page.selectOption('#resolution', '320x240');
    await eventually('reports of 320x240', () => page.evaluate(() => window.vigie.lastReport.width === 320 && window.vigie.lastReport.height === 240));
    await page.selectOption('#resolution', '640x480');
    await eventually('reports of 640x480', () => page.evaluate(() => window.vigie.lastReport.width === 640));

    const others = await page.$$eval('#source option', (options) => options.filter(({ selected }) => !selected).map(({ value }) => value));
    for (const value of others) {
      const seq = await page.evaluate(() => window.vigie.lastReport.seq);
      await page.selectOption('#source', value);
      await eventually('reports of the other camera', () => page.evaluate((before) => window.vigie.lastReport.seq > before, seq));
    }

    await page.setInputFiles('#file', await clip('people.webm'));
    await eventually('the file as the source', () => page.$eval('#source', ({ value }) => value === 'file'));
    await eventually('the person of the file', async () => (await labels(page)).includes('person'));
    assert.equal(await page.evaluate(() => window.vigie.session), session);
    assert.ok(await page.evaluate(() => window.firstConnection === window.vigie.pc));
    await hangUp(page);
  });

  test('serves two tabs, each by itself', async () => {
    const tabs = await Promise.all([1, 2].map(() => openPage(browser.context, URL_BASE)));
    for (const { page } of tabs) {
      await page.bringToFront();
      await goLive(page);
    }
    for (const { page } of tabs) {
      await page.bringToFront();
      await eventually('a face in each tab', async () => (await faces(page)).length > 0);
    }
    const ids = await Promise.all(tabs.map(({ page }) => page.evaluate(() => window.vigie.session)));
    assert.notEqual(ids[0], ids[1]);
    await hangUp(tabs[0].page);
    const seq = await tabs[1].page.evaluate(() => window.vigie.lastReport.seq);
    await eventually('the other goes on', () => tabs[1].page.evaluate((before) => window.vigie.lastReport.seq > before + 3, seq));
    await hangUp(tabs[1].page);
  });

  test('frees the session of a page that is left without goodbye', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await page.goto('about:blank');
    await waitForNoSessions();
  });
});

test('a file stands in where there is no camera', { skip: withoutService }, async () => {
  const browser = await launch({ cameraAnswer: 'none' });
  try {
    const { page } = await openPage(browser.context, URL_BASE);
    await page.click('#agree-camera');
    await waitForMessage(page, 'no_camera');
    for (const name of ['people.webm', '../../data/astronaut.jpg']) {
      await page.setInputFiles('#file', name.endsWith('webm') ? await clip(name) : path.join(OUT, name));
      // A file chosen without the notice's button waits for it.
      assert.equal(await page.evaluate(() => window.vigie.state), 'idle');
      await page.click('#agree-file');
      await waitForState(page, 'live');
      await eventually(`a face in ${name}`, async () => (await faces(page)).length > 0);
      await eventually(`a person in ${name}`, async () => (await labels(page)).includes('person'));
      await hangUp(page);
    }
    await waitForNoSessions();
  } finally {
    await browser.close();
  }
});

test('a black picture is remarked upon', { skip: withoutService }, async () => {
  const browser = await launch({ camera: await clip('black.y4m') });
  try {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await waitForMessage(page, 'picture_black');
    await hangUp(page);
    await waitForNoSessions();
  } finally {
    await browser.close();
  }
});
