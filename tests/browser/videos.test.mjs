// The page of videos against the running service: real uploads, real jobs, a real player.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { open, readFile, stat, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import path from 'node:path';
import { afterEach, before, beforeEach, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { eventually, launch, openPage, OUT } from './chromium.mjs';
import { clip, URL_BASE, withoutService } from './service.mjs';

const run = promisify(execFile);
/** Jobs run one after another, on a machine that may have other things to do. */
const PATIENCE_MS = 120_000;

/** @param {string} name @param {string[]} options of ffmpeg @returns {Promise<string>} the path of a video of the people's clip */
async function video(name, options) {
  const file = path.join(OUT, name);
  const source = await clip('people.webm');
  await run('ffmpeg', ['-v', 'error', '-y', '-stream_loop', '9', '-i', source, ...options, file]);
  return file;
}

/** A network between the browser and the service that can be cut and mended: TCP, passed on as it is. */
class Line {
  bytes = 0;
  cutAfterBytes = Infinity;
  wasCut = false;
  /** @type {Set<import('node:net').Socket>} */ #sockets = new Set();
  /** @type {import('node:net').Server} */ #server;

  /** @param {URL} service */
  static async open(service) {
    const line = new Line();
    line.#server = createServer((near) => {
      if (line.wasCut) {
        near.destroy();
        return;
      }
      const far = connect(Number(service.port), service.hostname);
      for (const socket of [near, far]) {
        line.#sockets.add(socket);
        socket.on('error', () => {});
        socket.on('close', () => {
          line.#sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.on('data', (data) => {
        line.bytes += data.length;
        if (line.bytes > line.cutAfterBytes) line.cut();
      });
      near.pipe(far);
      far.pipe(near);
    });
    await new Promise((resolve) => line.#server.listen(0, '127.0.0.1', () => resolve(undefined)));
    return line;
  }

  get url() {
    const { port } = /** @type {import('node:net').AddressInfo} */ (this.#server.address());
    return `http://127.0.0.1:${port}/`;
  }

  cut() {
    this.wasCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.cutAfterBytes = Infinity;
    this.wasCut = false;
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

const small = ['-t', '4', '-vf', 'scale=320:240,fps=10', '-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p'];

describe('the page of videos', { skip: withoutService }, () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */ let browser;
  /** @type {import('playwright-core').Page} */ let page;
  /** @type {string[]} */ let faults;
  /** @type {string} */ let first;
  /** @type {string} */ let second;
  /** @type {string} takes long enough to be cancelled */ let long;
  /** @type {string} too large to be sent in one piece */ let large;
  /** @type {string} */ let text;

  before(async () => {
    first = await video('first.mp4', small);
    second = await video('second.mkv', [...small, '-t', '2']);
    long = await video('long.mp4', ['-t', '36', '-c:v', 'libx264', '-preset', 'ultrafast', '-pix_fmt', 'yuv420p']);
    large = path.join(OUT, 'large.mp4');
    // A good video with a tail of nothing that its boxes allow: several pieces of an upload, one short job.
    await writeFile(large, await readFile(first));
    const file = await open(large, 'a');
    const bytes = 30_000_000;
    const head = Buffer.alloc(8);
    head.writeUInt32BE(bytes, 0);
    head.write('free', 4, 'latin1');
    await file.write(head);
    await file.truncate((await stat(first)).size + bytes);
    await file.close();
    text = path.join(OUT, 'text.mp4');
    await writeFile(text, 'This is no video, whatever its name says.\n'.repeat(100));
  });
  beforeEach(async () => {
    browser = await launch({ cameraAnswer: 'none' });
    ({ page, faults } = await openPage(browser.context, `${URL_BASE}videos`));
  });
  afterEach(() => browser.close());

  /** @param {string} name */
  const row = (name) => page.locator('.job', { has: page.locator('.job-name', { hasText: name }) });
  /** @param {string} name @param {string} state */
  const waitForState = (name, state) => row(name).and(page.locator(`[data-state="${state}"]`)).waitFor({ timeout: PATIENCE_MS });
  /** @param {string[]} files */
  const chooseFiles = (files) => page.setInputFiles('#files', files);

  /** @param {string[]} files */
  async function drop(files) {
    const given = await Promise.all(files.map(async (file) => ({ name: path.basename(file), base64: (await readFile(file)).toString('base64') })));
    const transfer = await page.evaluateHandle((items) => {
      const made = new DataTransfer();
      for (const { name, base64 } of items) {
        made.items.add(new File([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], name));
      }
      return made;
    }, given);
    await page.dispatchEvent('body', 'dragenter', { dataTransfer: transfer });
    assert.ok(await page.isVisible('#drop-veil'));
    await page.dispatchEvent('body', 'drop', { dataTransfer: transfer });
    assert.ok(!(await page.isVisible('#drop-veil')));
  }

  test('explains itself while there is nothing', async () => {
    assert.ok(await page.isVisible('#intro'));
    assert.match(await page.innerText('#intro-take'), /MP4.*up to 2\.1 GB/);
    assert.ok(await page.isVisible('#no-videos'));
    await page.click('[data-language="fr"]');
    assert.match(await page.innerText('#intro-title'), /Déposez une vidéo/);
    assert.equal(await page.title(), 'vigie · vidéos');
    await page.click('.pages a:first-child');
    await page.waitForSelector('#agree-camera');
    await page.click('.pages a[href="videos"]');
    await page.waitForSelector('#intro');
    assert.deepEqual(faults, []);
  });

  test('takes videos by drop and by button, and plays them with a timeline', async () => {
    await drop([first, second]);
    await row('second.mkv').waitFor();
    await page.waitForSelector('.videos[data-view="progress"]');
    const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.click('#add')]);
    await chooser.setFiles(long);
    await waitForState('first.mp4', 'done');
    await waitForState('second.mkv', 'done');
    await waitForState('long.mp4', 'running');
    await eventually('figures of progress', async () => /\d+ of [\d,]+ pictures/.test(await row('long.mp4').innerText()), PATIENCE_MS);

    await row('first.mp4').locator('.job-open').click();
    await page.waitForFunction(() => /** @type {HTMLVideoElement} */ (document.querySelector('#player')).readyState >= 2);
    assert.equal(await page.innerText('#result-name'), 'first.mp4');
    const at = () => page.$eval('#player', ({ currentTime }) => currentTime);
    const duration = await page.$eval('#player', (player) => player.duration);
    assert.ok(Math.abs(duration - 4) < 0.3, `${duration} s`);
    await page.waitForSelector('.lane[data-label="person"] rect');
    assert.ok(await page.isVisible('#video-counts [data-label="face"]'));

    // A click on the plot goes there, and so do the keys.
    const plot = await page.locator('.plot-area').boundingBox();
    assert.ok(plot);
    await page.mouse.click(plot.x + plot.width * 0.5, plot.y + 8);
    await eventually('half-way', async () => Math.abs(await at() - duration / 2) < 0.1);
    await page.focus('.ruler');
    await page.keyboard.press('ArrowRight');
    await eventually('a second later', async () => Math.abs(await at() - duration / 2 - 1) < 0.1);
    await page.keyboard.press('Home');
    await eventually('the start', async () => (await at()) === 0);
    const head = () => page.$eval('.playhead', (element) => Number.parseFloat(element.style.left));
    await page.$eval('#player', (player) => { player.currentTime = 3; });
    await eventually('the playhead follows', async () => Math.abs(await head() - (3 / duration) * 100) < 1);

    // A bar says what it is, and Enter goes to its first moment.
    await page.focus('.lane rect[tabindex="0"]');
    assert.match(await page.innerText('.track-tooltip'), /face.* to .*no\. \d/s);
    await page.keyboard.press('ArrowDown');
    assert.notEqual(await page.evaluate(() => document.activeElement?.closest('.lane')?.getAttribute('data-label')), 'face');
    await page.keyboard.press('Enter');
    await eventually('the start of the track', async () => (await at()) < 2.9);
    await page.$eval('#player', async (player) => { player.muted = true; await player.play(); });
    const before = await at();
    await eventually('it plays', async () => (await at()) > before + 0.3);

    for (const [id, type] of [['download-mp4', 'video/mp4'], ['download-jsonl', null], ['download-summary', 'application/json']]) {
      const answer = await fetch(String(await page.$eval(`#${id}`, ({ href }) => href)));
      assert.equal(answer.status, 200);
      assert.match(answer.headers.get('content-disposition') ?? '', /attachment/);
      if (type) assert.match(answer.headers.get('content-type') ?? '', new RegExp(type));
      assert.ok((await answer.arrayBuffer()).byteLength > 100);
    }

    // A running job is cancelled, and all of them are found again.
    await row('long.mp4').locator('[data-action="cancel"]').click();
    await waitForState('long.mp4', 'cancelled');
    await page.reload();
    for (const [name, state] of [['first.mp4', 'done'], ['second.mkv', 'done'], ['long.mp4', 'cancelled']]) await waitForState(name, state);

    // A deletion can be undone for a while; then it is one.
    const id = await row('second.mkv').getAttribute('data-job');
    await row('second.mkv').locator('[data-action="delete"]').click();
    await row('second.mkv').locator('[data-action="undo"]').click();
    await waitForState('second.mkv', 'done');
    assert.equal((await fetch(`${URL_BASE}api/videos/${id}`)).status, 200);
    await row('second.mkv').locator('[data-action="delete"]').click();
    await row('second.mkv').waitFor({ state: 'detached', timeout: PATIENCE_MS });
    assert.equal((await fetch(`${URL_BASE}api/videos/${id}`)).status, 404);
    await page.reload();
    await waitForState('first.mp4', 'done');
    assert.equal(await row('second.mkv').count(), 0);
    assert.deepEqual(faults, []);
  });

  test('says in plain words why a file was refused', async () => {
    await chooseFiles([text]);
    await waitForState('text.mp4', 'failed');
    assert.equal(await row('text.mp4').getAttribute('data-code'), 'unsupported_type');
    assert.match(await row('text.mp4').innerText(), /This is no MP4/);
    await page.click('[data-language="fr"]');
    await eventually('French', async () => /Ce n’est pas une vidéo/.test(await row('text.mp4').innerText()));
    // Nothing of it is at the server: it only leaves the list.
    await row('text.mp4').locator('[data-action="delete"]').click();
    await row('text.mp4').waitFor({ state: 'detached', timeout: PATIENCE_MS });
    assert.ok(await page.isVisible('#no-videos'));
  });

  test('goes on by itself when the network comes back', async () => {
    // The second piece breaks in the middle, and for a while so does whatever comes after it.
    let patches = 0;
    let isDown = false;
    /** @type {number[]} */
    const offsets = [];
    await page.route('**/api/uploads/*', async (route) => {
      if (isDown) return route.abort('internetdisconnected');
      if (route.request().method() === 'PATCH') {
        patches += 1;
        offsets.push(Number(route.request().headers()['upload-offset']));
        if (patches === 2) {
          isDown = true;
          return route.abort('connectionreset');
        }
      }
      return route.continue();
    });
    await chooseFiles([large]);
    await waitForState('large.mp4', 'offline');
    assert.match(await row('large.mp4').innerText(), /goes on by itself/);
    isDown = false;
    await waitForState('large.mp4', 'done');
    assert.deepEqual([offsets[0], offsets[1], offsets[2]], [0, 8 << 20, 8 << 20], 'the piece that was lost is sent again, and no other');
    assert.equal(new Set(offsets).size, 4, `${offsets}`);
  });

  test('survives a network that is cut in mid-sentence', async () => {
    const line = await Line.open(new URL(URL_BASE));
    try {
      await page.goto(`${line.url}videos`);
      await page.waitForFunction(() => 'vigie' in window);
      // In the middle of the second piece, after which nobody answers for a while.
      line.cutAfterBytes = 12_000_000;
      await chooseFiles([large]);
      await waitForState('large.mp4', 'offline');
      assert.ok(line.wasCut);
      const sent = await page.evaluate(() => window.vigie.rows[0].entry.sentBytes);
      assert.ok(sent >= 8 << 20, `${sent} bytes were not forgotten`);
      line.mend();
      await waitForState('large.mp4', 'done');
      assert.ok(line.bytes < 45_000_000, `${line.bytes} bytes for 30 million: what was there was not sent again`);
    } finally {
      await line.close();
    }
  });

  test('carries an upload on after a reload, when it is given the file again', async () => {
    /** @type {string[]} */
    const methods = [];
    let isStuck = true;
    await page.route('**/api/uploads', (route) => {
      methods.push(route.request().method());
      return route.continue();
    });
    await page.route('**/api/uploads/*', async (route) => {
      const offset = Number(route.request().headers()['upload-offset'] ?? 0);
      if (isStuck && offset > 0) return route.abort('connectionreset');
      methods.push(`${route.request().method()} ${offset >> 20}`);
      return route.continue();
    });
    await chooseFiles([large]);
    await waitForState('large.mp4', 'offline');
    page.on('dialog', (dialog) => dialog.accept());
    await page.reload();
    await waitForState('large.mp4', 'interrupted');
    assert.match(await row('large.mp4').innerText(), /Interrupted at 28%/);
    isStuck = false;
    methods.length = 0;
    const [chooser] = await Promise.all([page.waitForEvent('filechooser'), row('large.mp4').locator('[data-action="choose"]').click()]);
    await chooser.setFiles(large);
    await waitForState('large.mp4', 'done');
    assert.deepEqual(methods, ['HEAD 0', 'PATCH 8', 'PATCH 16', 'PATCH 24'], 'no upload was begun anew');
    assert.equal(await page.locator('.job').count(), 1);
  });

  test('keeps one list with the other tabs', async () => {
    /** @param {import('playwright-core').Page} tab @param {string} name @param {string} state */
    const waitIn = async (tab, name, state) => {
      await tab.bringToFront();
      const found = tab.locator(`.job[data-state="${state}"]`, { has: tab.locator('.job-name', { hasText: name }) });
      await found.waitFor({ timeout: PATIENCE_MS });
      return found;
    };
    const { page: other } = await openPage(browser.context, `${URL_BASE}videos`);
    /** @type {string[]} */
    const asked = [];
    other.on('request', (request) => asked.push(request.url()));

    // An upload that waits for its network in one tab is an unfinished one in the other, which leaves it alone.
    let isStuck = true;
    await page.route('**/api/uploads/*', (route) => {
      const offset = Number(route.request().headers()['upload-offset'] ?? 0);
      return isStuck && offset > 0 ? route.abort('connectionreset') : route.continue();
    });
    await page.bringToFront();
    await chooseFiles([large]);
    await waitForState('large.mp4', 'offline');
    await waitIn(other, 'large.mp4', 'interrupted');

    // What the other adds meanwhile is seen here, and stays when that tab is left.
    await other.setInputFiles('#files', second);
    await waitIn(other, 'second.mkv', 'done');
    const upload = await page.evaluate(() => window.vigie.rows.find(({ entry }) => entry.name === 'large.mp4').entry.upload);
    await other.goto('about:blank');
    assert.ok(upload && !asked.includes(upload), 'the other tab did nothing about the upload');
    await waitIn(page, 'second.mkv', 'done');
    isStuck = false;
    await waitIn(page, 'large.mp4', 'done');

    // A tab that is opened later has both, the newest first; what is deleted there goes here too.
    const { page: later } = await openPage(browser.context, `${URL_BASE}videos`);
    await waitIn(later, 'large.mp4', 'done');
    const doomed = await waitIn(later, 'second.mkv', 'done');
    assert.deepEqual(await later.locator('.job-name').allTextContents(), ['second.mkv', 'large.mp4']);
    await doomed.locator('[data-action="delete"]').click();
    await page.bringToFront();
    await row('second.mkv').waitFor({ state: 'detached', timeout: PATIENCE_MS });
    assert.equal(await row('large.mp4').count(), 1);
    await page.reload();
    await waitForState('large.mp4', 'done');
    assert.equal(await page.locator('.job').count(), 1);
  });

  test('tells that the server cannot be reached, and finds it again', async () => {
    await chooseFiles([second]);
    await waitForState('second.mkv', 'done');
    await page.evaluate(() => {
      const entries = JSON.parse(localStorage.getItem('vigie.videos') ?? '[]');
      localStorage.setItem('vigie.videos', JSON.stringify([...entries, { ...entries[0], key: 'gone', id: '0'.repeat(32), name: 'gone.mp4' }]));
    });
    await page.route('**/api/videos**', (route) => route.abort());
    // The list is kept at leaving: what the test wrote must come after that.
    await page.addInitScript((kept) => localStorage.setItem('vigie.videos', kept), await page.evaluate(() => localStorage.getItem('vigie.videos') ?? ''));
    await page.reload();
    await page.waitForSelector('[data-message="page_unreachable"]');
    await page.unroute('**/api/videos**');
    await waitForState('second.mkv', 'done');
    await waitForState('gone.mp4', 'gone');
    assert.equal(await page.$('[data-message="page_unreachable"]'), null);
  });
});

describe('on a telephone', { skip: withoutService }, () => {
  test('nothing is wider than the screen, in either language', async () => {
    for (const locale of ['en-GB', 'fr-FR']) {
      const browser = await launch({ cameraAnswer: 'none', locale, viewport: { width: 360, height: 740 } });
      try {
        const { page } = await openPage(browser.context, `${URL_BASE}videos`);
        await page.setInputFiles('#files', path.join(OUT, 'first.mp4'));
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${locale}: at first`);
        await page.locator('.job[data-state="done"]').waitFor({ timeout: PATIENCE_MS });
        await page.waitForSelector('.lane rect');
        assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), `${locale}: with a result`);
      } finally {
        await browser.close();
      }
    }
  });
});

