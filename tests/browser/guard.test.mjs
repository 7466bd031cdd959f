// The page as a phone on the LAN opens it: over TLS with a certificate that the service made for itself, and with a
// session token. Needs the binary (VIGIE_BINARY, by default the release build) and the models.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { networkInterfaces, tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { eventually, goLive, launch, openPage, waitForMessage, waitForState } from './chromium.mjs';
import { clip } from './service.mjs';

const ROOT = path.join(import.meta.dirname, '../..');
const BINARY = process.env.VIGIE_BINARY ?? path.join(ROOT, 'target/release/vigie');
const env = {
  ...process.env,
  VIGIE_SESSION_SECRET: 'the-session-secret-of-this-test-0',
  VIGIE_ADMIN_TOKEN: 'the-admin-token-of-this-test-00000',
};

/** @param {string[]} args */
async function mint(...args) {
  const { stdout } = await promisify(execFile)(BINARY, ['token', '--subject', 'phone', ...args], { env });
  return stdout.trim();
}

describe('the door', () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  /** @type {import('node:child_process').ChildProcess} */
  let service;
  let folder = '';
  let url = '';

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'vigie-tls-'));
    service = spawn(BINARY, ['serve', '--listen', '0.0.0.0:0', '--tls-self-signed', '--tls-folder', folder], {
      cwd: ROOT, env, stdio: ['ignore', 'pipe', 'ignore'],
    });
    const port = await new Promise((resolve, reject) => {
      service.once('exit', (code) => reject(new Error(`vigie ended with ${code}`)));
      service.stdout?.on('data', (chunk) => {
        const ready = /is ready: https:\/\/0\.0\.0\.0:(\d+)/.exec(String(chunk));
        if (ready) resolve(ready[1]);
      });
    });
    const addresses = Object.values(networkInterfaces()).flat();
    const own = addresses.find((address) => address?.family === 'IPv4' && !address.internal);
    url = `https://${own?.address ?? '127.0.0.1'}:${port}/`;
    browser = await launch({ camera: await clip('people.y4m'), switches: ['--ignore-certificate-errors'] });
  });
  after(async () => {
    await browser?.close();
    service?.kill();
    await rm(folder, { recursive: true, force: true });
  });

  test('opens to a token in the fragment, over TLS, and the token stays out of the address', async () => {
    const { page, faults } = await openPage(browser.context, `${url}#token=${await mint()}`);
    /** @type {string[]} */
    const sockets = [];
    page.on('websocket', (socket) => sockets.push(socket.url()));
    assert.equal(page.url(), url);
    await goLive(page);
    await eventually('reports with a person', () => page.evaluate(() =>
      window.vigie.lastReport?.tracks.some(({ label }) => label === 'person')));
    assert.deepEqual(sockets.map((socket) => socket.replace(/\?sticky=[0-9a-f]{16}$/, '')), [`${url.replace('https:', 'wss:')}api/session`]);

    await page.reload();
    await page.waitForFunction(() => 'vigie' in window);
    await goLive(page);
    assert.deepEqual(faults, []);
    await page.close();
  });

  test('holds a session to what its token allows', async () => {
    const { page } = await openPage(browser.context, `${url}#token=${await mint('--tasks', 'faces')}`);
    await goLive(page);
    await eventually('reports with a face', () => page.evaluate(() =>
      window.vigie.lastReport?.tracks.some(({ kind }) => kind === 'face')));
    const kinds = await page.evaluate(() => window.vigie.lastReport.tracks.map(({ kind }) => kind));
    assert.ok(kinds.every((/** @type {string} */ kind) => kind === 'face'), String(kinds));
    await page.close();
  });

  test('stays shut without a token, with the reason on the page', async () => {
    for (const fragment of ['', '#token=nonsense']) {
      const { page } = await openPage(browser.context, `${url}${fragment}`);
      await page.click('#agree-camera');
      await waitForState(page, 'ended');
      const message = await waitForMessage(page, 'server_refused');
      assert.match(await message.innerText(), /token/);
      await page.close();
    }
  });
});
