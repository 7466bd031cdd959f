// The deployment as a person meets it: a page from the front, media through the relay, a worker killed under it.
// Run by tests/deploy/run, in a network that reaches published ports only.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { connect } from 'node:net';
import { after, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { eventually, goLive, launch, openPage } from '../browser/chromium.mjs';
import { clip } from '../browser/service.mjs';

const URL_BASE = process.env.VIGIE_URL ?? '';
const run = promisify(execFile);

/** @param {import('playwright-core').Page} page */
const reportsFlow = (page) => eventually('reports with a person', () => page.evaluate(() =>
  window.vigie.lastReport?.tracks.some(({ label }) => label === 'person')), 60_000);

/** @param {import('playwright-core').Page} page */
const mediaPath = (page) => page.evaluate(async () => {
  const stats = [...(await window.vigie.pc.getStats()).values()];
  const pair = stats.find(({ type, nominated, state }) => type === 'candidate-pair' && nominated && state === 'succeeded');
  return stats.find(({ id }) => id === pair?.localCandidateId)?.candidateType;
});

/** Whether a TCP connection comes about. @param {string} host @param {number} port @returns {Promise<boolean>} */
const reaches = (host, port) => new Promise((resolve) => {
  const socket = connect({ host, port, timeout: 2000 });
  for (const [event, answer] of /** @type {const} */ ([['connect', true], ['error', false], ['timeout', false]])) {
    socket.once(event, () => {
      socket.destroy();
      resolve(answer);
    });
  }
});

describe('the deployment', () => {
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  before(async () => {
    await eventually('the front is ready', async () => (await fetch(`${URL_BASE}/readyz`).catch(() => null))?.ok, 120_000);
    // A page that is not on localhost has no camera without HTTPS.
    browser = await launch({ camera: await clip('people.y4m'), switches: [`--unsafely-treat-insecure-origin-as-secure=${URL_BASE}`] });
  });
  after(() => browser?.close());

  test('no worker is reachable from here', async () => {
    for (let last = 2; last < 10; last++) {
      assert.equal(await reaches(`${process.env.VIGIE_WORKER_PODS}.${last}`, 8090), false);
    }
  });

  test('a page is recognised through the relay, and comes back when its worker is killed', async () => {
    const { page } = await openPage(browser.context, URL_BASE);
    await goLive(page);
    await reportsFlow(page);
    assert.equal(await mediaPath(page), 'relay');

    const session = await page.evaluate(() => window.vigie.session);
    const worker = session.split('.')[0];
    const began = Date.now();
    await run('podman', ['kill', '--signal', 'KILL', `${worker}-worker`]);
    await eventually('a session elsewhere with results', () => page.evaluate((old) =>
      window.vigie.session !== old && window.vigie.state === 'live' && window.vigie.lastReport?.tracks.length > 0, session), 60_000);
    const seconds = (Date.now() - began) / 1000;
    console.log(`worker ${worker} killed: results from ${await page.evaluate(() => window.vigie.session.split('.')[0])} after ${seconds.toFixed(1)} s`);
    assert.ok(seconds < 30, `${seconds} s`);
  });
});
