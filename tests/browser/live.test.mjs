// The whole loop in Chromium, against the service at VIGIE_URL: a picture goes out, recognition and
// the annotated video come back.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

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
 * How drawn upon a video is: of the newest report's boxes, the share with a straight line of one
 * colour near an edge, which no photograph has at a face or a cup.
 * @param {Page} page @param {string} video
 */
const drawnShare = (page, video) => page.evaluate((selector) => {
  const element = /** @type {HTMLVideoElement} */ (document.querySelector(selector));
  const report = window.vigie.lastReport;
  if (!report?.tracks.length || !element.videoWidth) return 0;
  const canvas = new OffscreenCanvas(report.width, report.height);
  const context = canvas.getContext('2d');
  context.drawImage(element, 0, 0, report.width, report.height);
  const { data } = context.getImageData(0, 0, report.width, report.height);

  /** Spread of the colour along a line, summed over the channels. */
  const spread = (points) => {
    let total = 0;
    for (let channel = 0; channel < 3; channel += 1) {
      const values = points.map(([x, y]) => data[(y * report.width + x) * 4 + channel]);
      const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
      total += Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / values.length);
    }
    return total;
  };
  const range = (from, to) => Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);
  const inside = ([x, y]) => x >= 0 && y >= 0 && x < report.width && y < report.height;
  const isDrawn = ([left, top, width, height]) => {
    const across = range(Math.round(left + width * 0.2), Math.round(left + width * 0.8));
    const down = range(Math.round(top + height * 0.2), Math.round(top + height * 0.8));
    return range(-12, 13).some((shift) => [
      across.map((x) => [x, Math.round(top) + shift]),
      across.map((x) => [x, Math.round(top + height) + shift]),
      down.map((y) => [Math.round(left) + shift, y]),
      down.map((y) => [Math.round(left + width) + shift, y]),
    ].some((line) => line.length > 20 && line.every(inside) && spread(line) < 24));
  };
  const drawn = report.tracks.filter(({ box }) => isDrawn(box));
  return drawn.length / report.tracks.length;
}, video);

describe('the live page', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  let people = '';

  before(async () => {
    people = await clip('people.y4m');
    browser = await launch({ camera: people });
  });
  after(async () => {
    await browser?.close();
    await waitForNoSessions();
  });

  test('shows a face with an apparent gender, a person and another object, and how long it took', async () => {
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
    await page.waitForFunction(() => /^\d/.test(document.getElementById('latency')?.textContent ?? ''));
    await page.waitForFunction(() => [...document.querySelectorAll('#stage-key .value')].every(({ textContent }) => /^\d/.test(textContent)));
    await page.screenshot({ path: path.join(OUT, 'screenshot.png') });
    assert.deepEqual(faults, []);
    await hangUp(page);
    await waitForNoSessions();
    await page.close();
  });

  test('plays the annotated video with the boxes drawn into it', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await eventually('a face', async () => (await faces(page)).length > 0);
    await choose(page, 'annotated');
    await eventually('annotated frames', async () => (await stats(page)).annotatedFps > 2);
    await eventually('boxes in the annotated picture', async () => (await drawnShare(page, '#annotated')) >= 0.5);
    await choose(page, 'both');
    await page.waitForFunction(() => ['local', 'annotated'].every((id) => (document.getElementById(id)?.clientWidth ?? 0) > 100));
    await page.screenshot({ path: path.join(OUT, 'screenshot-both.png') });
    await choose(page, 'overlay');
    await eventually('the annotated video to rest', async () => (await stats(page)).annotatedFps === 0);
    await hangUp(page);
    await page.close();
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
    await eventually('only what is nearly certain', async () => {
      const tracks = await page.evaluate(() => window.vigie.lastReport.tracks);
      return tracks.every(({ score }) => score >= 0.9);
    });
    await hangUp(page);
    await page.close();
  });

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
    await page.close();
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
    await waitForNoSessions();
    for (const { page } of tabs) await page.close();
  });

  test('frees the session of a page that is left without goodbye', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await page.goto('about:blank');
    await waitForNoSessions();
    await page.close();
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
