// What the page does when cameras and servers misbehave, against a scripted far end: these need no
// service, since a real one cannot be made to misbehave on demand.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, beforeEach, describe, test } from 'node:test';

import { eventually, goLive, launch, openPage, waitForMessage, waitForState } from './chromium.mjs';
import { FarEnd, serveStatic } from './far-end.mjs';
import { clip } from './service.mjs';

const REPORT = {
  rtp_timestamp: 1,
  width: 640,
  height: 480,
  latency_ms: 40,
  dropped: 3,
  tracks: [
    { id: 1, kind: 'face', label: 'face', score: 0.97, box: [64, 48, 128, 144], attributes: { apparent_gender: { label: 'unsure', score: 0.6 } } },
    { id: 2, kind: 'object', label: 'cup', score: 0.83, box: [400, 240, 160, 192] },
  ],
  models: { blazeface: '1' },
  timings_ms: { receive: 1, decode: 1, queue: 2, prepare: 1, infer: 20, track: 0, total: 25 },
};

/** @type {Awaited<ReturnType<typeof serveStatic>>} */
let files;
before(async () => {
  files = await serveStatic();
});
after(() => files.close());

describe('with a willing camera', () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */ let browser;
  /** @type {FarEnd} */ let far;
  /** @type {import('playwright-core').Page} */ let page;
  /** @type {string[]} */ let faults;

  beforeEach(async () => {
    browser = await launch({ camera: await clip('people.y4m') });
    far = await FarEnd.install(browser.context, files.url);
    ({ page, faults } = await openPage(browser.context, files.url));
    await far.report(REPORT);
  });
  afterEach(() => browser.close());

  test('nothing leaves the page before consent', async () => {
    assert.equal(far.sockets.length, 0);
    assert.ok(await page.isVisible('#notice'));
    assert.equal(await page.$eval('#local', ({ srcObject }) => srcObject), null);
  });

  test('sends all settings when the control channel opens, then each change', async () => {
    await goLive(page);
    const settings = () => far.received.filter(({ type }) => type === 'settings');
    await eventually('the first settings', () => settings().length === 1);
    assert.deepEqual(settings()[0], {
      type: 'settings', tasks: { faces: true, gender: true, objects: true }, output: 'overlay', max_rate: 30,
    });
    await page.click('label:has([data-task="gender"])');
    await eventually('the change', () => settings().length === 2);
    assert.deepEqual(settings()[1], { type: 'settings', tasks: { gender: false } });
    await page.click('label:has([data-task="text"])');
    await eventually('the wish to read', () => settings().length === 3);
    assert.deepEqual(settings()[2], { type: 'settings', tasks: { text: true } });
    assert.deepEqual(faults, []);
  });

  test('draws boxes where the picture is, mirrored with it', async () => {
    await goLive(page);
    await eventually('a report', () => page.evaluate(() => window.vigie.lastReport !== null));
    /** Painted pixels left of the middle, as a share. */
    const leftShare = () => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => {
      const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('overlay'));
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let left = 0;
      let all = 0;
      for (let i = 3; i < data.length; i += 4) {
        if (data[i] === 0) continue;
        all += 1;
        if (((i - 3) / 4) % canvas.width < canvas.width / 2) left += 1;
      }
      resolve(all > 500 ? left / all : null);
    })));
    await far.report({ ...REPORT, tracks: [REPORT.tracks[0]] });
    await eventually('the face on the right: a desk camera is mirrored', async () => (await leftShare()) === 0);
    await page.click('label:has(#mirror)');
    await eventually('the face on the left', async () => (await leftShare()) === 1);
  });

  test('counts by class, in the reader’s language', async () => {
    await goLive(page);
    await page.waitForSelector('#counts [data-label="cup"]');
    await page.click('[data-language="fr"]');
    await page.waitForFunction(() => document.documentElement.lang === 'fr');
    await eventually('French counts', async () => {
      const text = await page.textContent('#counts');
      return text?.includes('tasse') && text.includes('visage') && text.includes('incertain 1');
    });
  });

  test('shows what was read beside what it stands on', async () => {
    await goLive(page);
    const text = { label: 'STOP', score: 0.98 };
    const sign = { id: 8, kind: 'object', label: 'stop sign', score: 0.9, box: [60, 60, 80, 80], attributes: { text } };
    const line = { id: 9, kind: 'text', label: 'text', score: 0.8, box: [200, 60, 90, 20], attributes: { text: { label: '<b>Nord</b>', score: 0.9 } } };
    await far.report({ ...REPORT, tracks: [sign, line] });
    await page.waitForSelector('#counts [data-label="stop sign"]');
    await eventually('the texts', async () => {
      const shown = await page.textContent('#counts');
      return shown?.includes('“STOP”') && shown.includes('“<b>Nord</b>”');
    });
  });

  test('forgets what it saw when reports stop', async () => {
    await goLive(page);
    await page.waitForSelector('#counts li');
    await far.report(null);
    await page.waitForSelector('#counts li', { state: 'detached' });
  });

  test('waits for a place when the server is full', async () => {
    far.accept = (socket, n) => {
      if (n > 0) return true;
      socket.send(JSON.stringify({ type: 'error', code: 'busy', message: 'all places are taken', retry_after_s: 1 }));
      socket.close();
      return false;
    };
    await page.click('#agree-camera');
    await waitForMessage(page, 'busy');
    await waitForState(page, 'busy');
    await waitForState(page, 'live');
    assert.equal(await page.$('[data-message="busy"]'), null);
  });

  test('says why the server ended the session, and frees the camera', async () => {
    await goLive(page);
    far.send({ type: 'bye', reason: 'the time limit is reached' });
    const message = await waitForMessage(page, 'session_ended');
    assert.match(await message.innerText(), /the time limit is reached/);
    assert.equal(await page.evaluate(() => window.vigie.state), 'ended');
    assert.equal(await page.$eval('#local', ({ srcObject }) => srcObject), null);
  });

  test('moves to another worker without a gap', async () => {
    await goLive(page);
    await eventually('the first session', () => page.evaluate(() => window.vigie.session === 'w1.test0'));
    await page.evaluate(() => {
      window.states = new Set();
      setInterval(() => window.states.add(window.vigie.state), 10);
    });
    far.send({ type: 'migrate' });
    await eventually('the second session', () => page.evaluate(() => window.vigie.session === 'w1.test1'));
    await eventually('the goodbye to the first', () => far.received.some(({ type }) => type === 'bye'));
    await eventually('reports', () => page.evaluate(() => window.vigie.lastReport !== null));
    assert.deepEqual(await page.evaluate(() => [...window.states]), ['live']);
  });

  test('drops a link by a relay that is not wanted any more', async () => {
    await goLive(page);
    let isDropped = false;
    // The link by the relay is left without an answer.
    far.accept = (socket) => {
      socket.onClose(() => {
        isDropped = true;
      });
      return false;
    };
    await page.click('label:has(#relay)');
    await eventually('a second link', () => far.sockets.length === 2);
    assert.ok(!isDropped);
    await page.click('label:has(#relay)');
    await eventually('its end', () => isDropped, 5000);
    assert.equal(far.sockets.length, 2, 'the first link is what is wanted');
    assert.equal(await page.evaluate(() => window.vigie.session), 'w1.test0');
    assert.equal(await page.evaluate(() => window.vigie.pc.getConfiguration().iceTransportPolicy), 'all');
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
  });

  test('carries on while only the signalling server restarts', async () => {
    await goLive(page);
    await eventually('a report', () => page.evaluate(() => window.vigie.lastReport !== null));
    await page.evaluate(() => {
      window.firstConnection = window.vigie.pc;
    });
    far.sockets[0].close();
    await eventually('another socket to the same session', () => far.sockets.length === 2);
    assert.match(far.sockets[1].url(), /resume=resume0/);
    const seq = await page.evaluate(() => window.vigie.lastReport.seq);
    await eventually('reports all the while', () => page.evaluate((before) => window.vigie.lastReport.seq > before + 60, seq));
    assert.ok(await page.evaluate(() => window.firstConnection === window.vigie.pc));
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
  });

  test('reconnects when the server vanishes', async () => {
    await goLive(page);
    far.accept = (socket, n) => {
      if (n > 2) return true;
      socket.close();
      return false;
    };
    far.sockets[0].close();
    await far.vanish();
    await waitForState(page, 'reconnecting');
    await waitForMessage(page, 'connection_lost');
    await waitForState(page, 'live');
    assert.equal(await page.$('[data-message="connection_lost"]'), null);
  });

  test('shows what the server remarks', async () => {
    await goLive(page);
    await eventually('an open control channel', () => far.received.some(({ type }) => type === 'settings'));
    await far.control({ type: 'notice', code: 'picture_too_large', message: 'the picture has 4096x4096 pixels' });
    const message = await waitForMessage(page, 'server_notice');
    assert.match(await message.innerText(), /4096x4096/);
    await page.click('[data-message="server_notice"] .dismiss');
    await page.waitForSelector('[data-message="server_notice"]', { state: 'detached' });

    await far.control({ type: 'notice', code: 'annotated_half_rate', message: 'half the rate' });
    await waitForMessage(page, 'annotated_half_rate');
    await far.control({ type: 'notice', code: 'annotated_off', message: 'none' });
    await waitForMessage(page, 'annotated_off');
    assert.equal(await page.$('[data-message="annotated_half_rate"]'), null);
    await far.control({ type: 'notice', code: 'annotated_full', message: 'all' });
    await page.waitForSelector('.message', { state: 'detached' });
  });

  test('sends as many frames as the server can decode', async () => {
    const sent = () => page.evaluate(() => window.vigie.stats().sentFps);
    await goLive(page);
    await eventually('all frames', async () => (await sent()) > 20);
    await far.control({ type: 'notice', code: 'camera_half_rate', message: 'half' });
    await waitForMessage(page, 'camera_half_rate');
    await eventually('half of them', async () => (await sent()) > 10 && (await sent()) < 18);
    await far.control({ type: 'notice', code: 'camera_quarter_rate', message: 'a quarter' });
    await eventually('a quarter of them', async () => (await sent()) > 3 && (await sent()) < 9);
    await far.control({ type: 'notice', code: 'camera_full', message: 'all' });
    await page.waitForSelector('.message', { state: 'detached' });
    await eventually('all again', async () => (await sent()) > 20);
  });

  test('says that there is no common codec', async () => {
    far.accept = (socket) => {
      socket.send(JSON.stringify({ type: 'error', code: 'codec_unsupported', message: 'offered: H265' }));
      return false;
    };
    await page.click('#agree-camera');
    assert.match(await (await waitForMessage(page, 'codec_unsupported')).innerText(), /H265/);
    await waitForState(page, 'ended');
  });

  test('outlives a camera that is unplugged', async () => {
    await goLive(page);
    await page.evaluate(() => {
      const [track] = /** @type {MediaStream} */ (/** @type {HTMLVideoElement} */ (document.getElementById('local')).srcObject).getVideoTracks();
      track.stop();
      track.dispatchEvent(new Event('ended'));
    });
    await waitForMessage(page, 'camera_unplugged');
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
    await page.setInputFiles('#file', await clip('people.webm'));
    await page.waitForSelector('[data-message="camera_unplugged"]', { state: 'detached' });
    await eventually('the file is sent', () => page.evaluate(() => window.vigie.stats().sentFps > 5));
  });

  test('a file that cannot be read leaves the camera live', async () => {
    await goLive(page);
    const transfer = await page.evaluateHandle(() => {
      const data = new DataTransfer();
      data.items.add(new File(['This is no video.'], 'notes.mp4', { type: 'video/mp4' }));
      return data;
    });
    await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
    const message = await waitForMessage(page, 'file_unreadable');
    assert.match(await message.innerText(), /notes\.mp4/);
    const track = () => page.$eval('#local', (video) => ({
      state: video.srcObject.getVideoTracks()[0].readyState, frames: video.getVideoPlaybackQuality().totalVideoFrames,
    }));
    const { state, frames } = await track();
    assert.equal(state, 'live');
    await eventually('the camera goes on', async () => (await track()).frames > frames + 10);
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
    assert.ok(await page.isVisible('[data-message="file_unreadable"]'), 'why it was not read stays');
  });

  test('lets its camera go for another, and takes it back where that does not open', async () => {
    await goLive(page);
    await page.evaluate(() => {
      const open = MediaDevices.prototype.getUserMedia;
      Object.assign(window, { refusals: 0, heights: [] });
      MediaDevices.prototype.getUserMedia = function (constraints) {
        window.heights.push(constraints.video.height.ideal);
        if (window.refusals === 0) return open.call(this, constraints);
        window.refusals -= 1;
        return Promise.reject(new DOMException('Could not start video source', 'NotReadableError'));
      };
    });
    /** Whether another track than before is live. */
    const isNew = () => page.evaluate(() => {
      const [track] = document.getElementById('local').srcObject.getVideoTracks();
      return track !== window.known && track.readyState === 'live';
    });
    /** @param {number} refusals @param {string} size */
    const ask = (refusals, size) => page.evaluate(([count, wanted]) => {
      const picker = /** @type {HTMLSelectElement} */ (document.getElementById('resolution'));
      [window.known] = document.getElementById('local').srcObject.getVideoTracks();
      window.refusals = count;
      picker.value = wanted;
      picker.dispatchEvent(new Event('change'));
    }, /** @type {const} */ ([refusals, size]));

    await ask(1, '320x240');
    await eventually('the camera at another size', isNew);
    assert.equal(await page.$('.message'), null);

    await ask(2, '1280x720');
    await waitForMessage(page, 'camera_in_use');
    await eventually('the camera as it was', isNew);
    assert.ok(await page.isVisible('[data-message="camera_in_use"]'), 'why there is no other stays');
    assert.deepEqual(await page.evaluate(() => window.heights), [240, 240, 720, 720, 240]);
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
  });

  test('a dropped file waits for consent', async () => {
    const transfer = await page.evaluateHandle(async (bytes) => {
      const data = new DataTransfer();
      data.items.add(new File([Uint8Array.from(bytes)], 'astronaut.jpg', { type: 'image/jpeg' }));
      return data;
    }, [...(await import('node:fs')).readFileSync(path.join(import.meta.dirname, '../data/pictures/astronaut.jpg'))]);
    await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
    await page.waitForFunction(() => document.getElementById('agree-file')?.textContent?.includes('astronaut.jpg'));
    assert.equal(far.sockets.length, 0);
    await page.click('#agree-file');
    await waitForState(page, 'live');
    await eventually('the picture is sent', () => page.evaluate(() => window.vigie.stats().sentFps > 5));
  });

  test('works by keyboard', async () => {
    await page.focus('#agree-camera');
    await page.keyboard.press('Enter');
    await waitForState(page, 'live');
    await page.focus('[name="output"][value="overlay"]');
    await page.keyboard.press('ArrowRight');
    assert.equal(await page.$eval('#stage', ({ dataset }) => dataset.output), 'annotated');
    await page.focus('[data-task="faces"]');
    await page.keyboard.press('Space');
    assert.equal(await page.isChecked('[data-task="faces"]'), false);
    await page.focus('#hang-up');
    await page.keyboard.press('Enter');
    await waitForState(page, 'idle');
  });
});

test('says that the camera was refused', async () => {
  const browser = await launch({ cameraAnswer: 'refuse' });
  try {
    const { page } = await openPage(browser.context, files.url);
    await page.click('#agree-camera');
    await waitForMessage(page, 'camera_refused');
    await waitForState(page, 'idle');
  } finally {
    await browser.close();
  }
});

test('says that there is no camera', async () => {
  const browser = await launch({ cameraAnswer: 'none' });
  try {
    const { page } = await openPage(browser.context, files.url);
    await page.click('#agree-camera');
    await waitForMessage(page, 'no_camera');
  } finally {
    await browser.close();
  }
});

test('says that the server cannot be reached, and tries again', async () => {
  const browser = await launch();
  try {
    const { page } = await openPage(browser.context, files.url);
    await page.click('#agree-camera');
    await waitForMessage(page, 'server_unreachable');
    await waitForState(page, 'reconnecting');
    await page.click('#hang-up');
    await waitForState(page, 'idle');
    assert.equal(await page.$('.message'), null);
  } finally {
    await browser.close();
  }
});

test('fits a phone, upright and on its side, in both languages', async () => {
  for (const locale of ['en-GB', 'fr-FR']) {
    for (const viewport of [{ width: 390, height: 844 }, { width: 844, height: 390 }]) {
      const browser = await launch({ locale, viewport });
      try {
        const { page } = await openPage(browser.context, files.url);
        assert.equal(await page.evaluate(() => document.documentElement.lang), locale.slice(0, 2));
        const isNarrow = () => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
        assert.ok(await isNarrow(), `${locale} ${viewport.width}: at rest`);
        // A click finds its way only to what nothing else covers.
        await page.click('#agree-camera', { timeout: 5000 });
        await waitForMessage(page, 'server_unreachable');
        await page.click('#hang-up', { trial: true, timeout: 5000 });
        assert.ok(await isNarrow(), `${locale} ${viewport.width}: in a call`);
      } finally {
        await browser.close();
      }
    }
  }
});
