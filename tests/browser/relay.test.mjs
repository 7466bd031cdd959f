// Media through coturn: a front, a worker and coturn as processes of their own, and a page that may use the relay
// only. Needs the binary (VIGIE_BINARY, by default the release build), the models and Debian's coturn.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { createHash, X509Certificate } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { eventually, goLive, launch, openPage, waitForMessage, waitForState } from './chromium.mjs';
import { clip } from './service.mjs';

const ROOT = path.join(import.meta.dirname, '../..');
const BINARY = process.env.VIGIE_BINARY ?? path.join(ROOT, 'target/release/vigie');
const SECRETS = { VIGIE_CLUSTER_TOKEN: 'the-cluster-of-this-test', VIGIE_TURN_SECRET: 'the-relay-of-this-test' };

/** @type {import('node:child_process').ChildProcess[]} */
const children = [];

/** @param {string} command @param {string[]} args @param {Record<string, string>} [env] */
function start(command, args, env = {}) {
  const child = spawn(command, args, {
    cwd: ROOT,
    env: { ...process.env, ...SECRETS, ...env },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  children.push(child);
  return child;
}

/** Starts vigie and waits for its address. @param {string[]} args @returns {Promise<string>} */
function startVigie(...args) {
  const child = start(BINARY, args);
  return new Promise((resolve, reject) => {
    child.once('exit', (code) => reject(new Error(`vigie ${args[0]} ended with ${code}`)));
    child.stdout?.on('data', (chunk) => {
      const address = /is ready: (\S+)/.exec(String(chunk));
      if (address) resolve(address[1]);
    });
  });
}

/** A loopback port that is free for UDP and TCP: coturn cannot choose one itself. @returns {Promise<number>} */
async function freePort() {
  const server = createServer();
  await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  const socket = createSocket('udp4');
  await new Promise((resolve, reject) => {
    socket.once('error', reject);
    socket.bind(port, '127.0.0.1', () => resolve(undefined));
  });
  socket.close();
  server.close();
  return port;
}

/**
 * A certificate that nobody has signed, for a relay on loopback.
 * @param {string} folder
 * @returns {Promise<{ certificate: string, key: string, flag: string }>} its files, and the browser's flag that trusts
 *   this very key and no other
 */
async function selfSigned(folder) {
  const [certificate, key] = [path.join(folder, 'certificate.pem'), path.join(folder, 'key.pem')];
  await promisify(execFile)('openssl', [
    'req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2',
    '-subj', '/CN=127.0.0.1', '-addext', 'subjectAltName=IP:127.0.0.1', '-keyout', key, '-out', certificate,
  ]);
  const spki = new X509Certificate(await readFile(certificate)).publicKey.export({ type: 'spki', format: 'der' });
  const pin = createHash('sha256').update(spki).digest('base64');
  return { certificate, key, flag: `--ignore-certificate-errors-spki-list=${pin}` };
}

/** The candidate that media leaves by: its type, and how the relay is reached. @param {import('playwright-core').Page} page */
const mediaPath = (page) => page.evaluate(async () => {
  const stats = [...(await window.vigie.pc.getStats()).values()];
  const pair = stats.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded');
  const local = stats.find(({ id }) => id === pair?.localCandidateId);
  return local && { type: local.candidateType, over: local.relayProtocol };
});

/** @param {import('playwright-core').Page} page */
const reportsFlow = (page) => eventually('reports with a person', () => page.evaluate(() =>
  window.vigie.lastReport?.tracks.some(({ label }) => label === 'person')));

describe('the relay', () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  let folder = '';
  let worker = '';
  let turn = '';
  let turns = '';

  before(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'vigie-turn-'));
    const { certificate, key, flag } = await selfSigned(folder);
    const [port, tlsPort] = [await freePort(), await freePort()];
    turn = `turn:127.0.0.1:${port}`;
    turns = `turns:127.0.0.1:${tlsPort}`;
    start('turn/start', [
      '--listening-ip=127.0.0.1', '--relay-ip=127.0.0.1', `--listening-port=${port}`, `--tls-listening-port=${tlsPort}`,
      // The worker of this test is on loopback, which coturn refuses whatever its ranges say.
      '--allow-loopback-peers',
    ], {
      TMPDIR: folder, VIGIE_TURN_WORKERS: '127.0.0.1', VIGIE_TURN_CERTIFICATE: certificate, VIGIE_TURN_KEY: key,
    }).stdout?.resume();
    worker = (await startVigie('worker', '--control', '127.0.0.1:0', '--media', '127.0.0.1:0')).replace('http://', '');
    browser = await launch({ camera: await clip('people.y4m'), switches: [flag] });
  });
  after(async () => {
    await browser?.close();
    for (const child of children) child.kill();
    await rm(folder, { recursive: true, force: true });
  });

  /** @param {string[]} urls */
  const front = (...urls) => startVigie('signal', '--listen', '127.0.0.1:0', '--workers', worker,
    ...(urls.length > 0 ? ['--turn-url', urls.join(',')] : []));

  for (const transport of ['udp', 'tcp', 'tls']) {
    test(`carries media both ways over ${transport.toUpperCase()}`, async () => {
      const url = transport === 'tls' ? `${turns}?transport=tcp` : `${turn}?transport=${transport}`;
      const { page, faults } = await openPage(browser.context, `${await front(url)}/?relay=1`);
      assert.ok(await page.isChecked('#relay'));
      await goLive(page);
      await reportsFlow(page);
      assert.deepEqual(await mediaPath(page), { type: 'relay', over: transport });
      await page.click('label:has([name="output"][value="annotated"])');
      await eventually('annotated frames', () => page.evaluate(() => window.vigie.stats().annotatedFps > 2));
      assert.deepEqual(faults, []);
      await page.close();
    });
  }

  test('is taken and left in mid-call', async () => {
    const { page } = await openPage(browser.context, await front(`${turn}?transport=udp`));
    await goLive(page);
    await reportsFlow(page);
    assert.equal((await mediaPath(page))?.type, 'host');
    for (const type of ['relay', 'host']) {
      const before = await page.evaluate(() => window.vigie.session);
      await page.click('label:has(#relay)');
      await eventually(`the path by ${type}`, async () => (await mediaPath(page))?.type === type);
      await reportsFlow(page);
      assert.notEqual(await page.evaluate(() => window.vigie.session), before, 'a new session took over');
      assert.equal(await page.evaluate(() => window.vigie.state), 'live');
    }
    await page.close();
  });

  test('is taken where it is asked for while the session is still made', async () => {
    const page = await browser.context.newPage();
    let answer = () => {};
    const mayAnswer = new Promise((resolve) => {
      answer = () => resolve(undefined);
    });
    // What the server says is kept back until the switch has been turned.
    await page.routeWebSocket(/\/api\/session/, (socket) => {
      const server = socket.connectToServer();
      server.onMessage(async (message) => {
        await mayAnswer;
        socket.send(message);
      });
    });
    await page.goto(await front(`${turn}?transport=udp`));
    await page.waitForFunction(() => 'vigie' in window);
    await page.click('#agree-camera');
    await waitForState(page, 'connecting');
    await page.click('label:has(#relay)');
    answer();
    await waitForState(page, 'live');
    await eventually('the path by the relay', async () => (await mediaPath(page))?.type === 'relay');
    await reportsFlow(page);
    assert.equal(await page.evaluate(() => window.vigie.pc.getConfiguration().iceTransportPolicy), 'relay');
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
    await page.close();
  });

  test('is missed aloud where there is none', async () => {
    const { page } = await openPage(browser.context, `${await front()}/?relay=1`);
    await page.click('#agree-camera');
    await waitForMessage(page, 'no_relay');
    await waitForState(page, 'ended');
    await page.close();
  });
});
