// What a reader sees when something under a live session falls over: a worker killed or frozen, a front killed, a relay
// restarted. Real processes and signals. Needs the binary (VIGIE_BINARY), the models, Chromium and coturn. Prints the
// table of docs/weather.md.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, describe, test } from 'node:test';

import { eventually, launch, openPage } from '../browser/chromium.mjs';
import { Service } from '../browser/processes.mjs';
import { clip } from '../browser/service.mjs';

const ROOT = path.join(import.meta.dirname, '../..');
const SECRET = { VIGIE_TURN_SECRET: 'the-relay-of-this-test' };
/** Few enough for two cores that also run the browser. */
const RATE = 4;
const FREEZE_MS = 10_000;
const PATIENCE_MS = 90_000;

const pause = (/** @type {number} */ ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** @type {Awaited<ReturnType<typeof launch>>} */ let browser;
let folder = '';
/** @type {{ fault: string, saw: string, longest: string, back: string }[]} */
const rows = [];

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'vigie-chaos-'));
  browser = await launch({ camera: await clip('people.y4m') });
});
after(async () => {
  await browser?.close();
  await rm(folder, { recursive: true, force: true });
  if (rows.length === 0) return;
  console.log('| fault | what the reader saw | longest pause, s | third result after, s |\n| --- | --- | --- | --- |');
  for (const { fault, saw, longest, back } of rows) console.log(`| ${fault} | ${saw} | ${longest} | ${back} |`);
});
afterEach(async () => {
  for (const page of browser.context.pages().slice(1)) await page.close();
  await Service.endAll();
});

/** @param {string} name */
const worker = (name) => Service.start([
  'worker', '--control', '127.0.0.1:0', '--media', '127.0.0.1:0', '--lanes', '1', '--name', name, '--admit', 'count',
  '--store', path.join(folder, 'store'),
]);

/** @param {Service[]} workers @param {string[]} [more] @param {string} [listen] */
const front = (workers, more = [], listen = '127.0.0.1:0') => Service.start(
  ['signal', '--listen', listen, '--workers', workers.map(({ address }) => address).join(','), ...more], { env: SECRET });

/** @param {Service} service @param {string} [query] */
async function join(service, query = '') {
  const { page } = await openPage(browser.context, `${service.url}?rate=${RATE}${query}`);
  await page.selectOption('#resolution', '320x240');
  await page.click('#agree-camera');
  await eventually('a report', () => page.evaluate(() => window.vigie.lastReport !== null), PATIENCE_MS);
  await page.evaluate(() => {
    const record = { states: [], messages: [], reports: [performance.now()], last: null };
    Object.assign(window, { record });
    setInterval(() => {
      const { state, lastReport } = window.vigie;
      if (record.states[record.states.length - 1] !== state) record.states.push(state);
      for (const { dataset } of document.querySelectorAll('[data-message]')) {
        if (!record.messages.includes(dataset.message)) record.messages.push(dataset.message);
      }
      if (!lastReport || lastReport === record.last) return;
      record.last = lastReport;
      record.reports.push(performance.now());
    }, 10);
  });
  return page;
}

/** @param {import('playwright-core').Page} page */
const count = (page) => page.evaluate(() => window.record.reports.length);

/** Waits for reports that come after now. @param {import('playwright-core').Page} page @param {number} [more] */
async function reportsFlow(page, more = 3) {
  const [began, before] = [Date.now(), await count(page)];
  await eventually('results come', async () => (await count(page)) >= before + more, PATIENCE_MS);
  return Date.now() - began;
}

/** @param {string} fault @param {import('playwright-core').Page} page @param {number} backMs */
async function note(fault, page, backMs) {
  const seen = await page.evaluate(() => {
    const { states, messages, reports } = window.record;
    const times = [...reports, performance.now()];
    return { states, messages, longestMs: Math.max(...times.slice(1).map((at, i) => at - times[i])) };
  });
  const said = seen.messages.length > 0 ? `, told "${seen.messages.join('", "')}"` : '';
  rows.push({
    fault,
    saw: `${seen.states.join(', ')}${said}`,
    longest: (seen.longestMs / 1000).toFixed(1),
    back: (backMs / 1000).toFixed(1),
  });
  assert.equal(await page.evaluate(() => window.vigie.state), 'live', `${fault}: ${seen.states}`);
}

/** @param {import('playwright-core').Page} page */
const workerOf = (page) => page.evaluate(() => window.vigie.session?.split('.')[0]);

describe('under a live session', () => {
  test('a worker is killed', async () => {
    const workers = { one: await worker('one'), two: await worker('two') };
    const page = await join(await front(Object.values(workers)));
    const doomed = await workerOf(page);
    await workers[doomed].end('SIGKILL');
    const backMs = await reportsFlow(page);
    assert.notEqual(await workerOf(page), doomed);
    await note('worker killed', page, backMs);
  });

  test('a worker stands still for ten seconds', async () => {
    const workers = { one: await worker('one'), two: await worker('two') };
    const page = await join(await front(Object.values(workers)));
    const frozen = workers[await workerOf(page)];
    frozen.child.kill('SIGSTOP');
    const stopped = Date.now();
    const before = await count(page);
    // The page may have gone elsewhere long before it wakes.
    await Promise.race([pause(FREEZE_MS), eventually('results', async () => (await count(page)) > before + 3, PATIENCE_MS)]);
    const early = (await count(page)) > before + 3 ? Date.now() - stopped : 0;
    await pause(Math.max(0, FREEZE_MS - (Date.now() - stopped)));
    frozen.child.kill('SIGCONT');
    const backMs = early || (Date.now() - stopped) + (await reportsFlow(page));
    await reportsFlow(page);
    await note('worker frozen 10 s', page, backMs);
    await eventually('the one that was left has nobody', async () => {
      const sessions = await Promise.all(Object.values(workers).map((one) => one.metric('vigie_sessions_active')));
      return sessions.reduce((sum, one) => sum + one, 0) === 1;
    }, PATIENCE_MS);
  });

  test('a front is killed and started again', async () => {
    const one = await worker('one');
    const first = await front([one]);
    const page = await join(first);
    const session = await page.evaluate(() => window.vigie.session);
    await first.end('SIGKILL');
    const backMs = await reportsFlow(page);
    await front([one], [], first.address);
    await pause(3000);
    await reportsFlow(page);
    assert.equal(await page.evaluate(() => window.vigie.session), session, 'the same session all along');
    await note('front killed, started again', page, backMs);
  });

  test('the relay is killed and started again', async () => {
    const server = createServer();
    await new Promise((resolve) => server.listen(0, '127.0.0.1', () => resolve(undefined)));
    const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
    server.close();
    const relay = () => spawn('turn/start', [
      '--listening-ip=127.0.0.1', '--relay-ip=127.0.0.1', `--listening-port=${port}`, '--allow-loopback-peers',
    ], { cwd: ROOT, env: { ...process.env, ...SECRET, TMPDIR: folder, VIGIE_TURN_WORKERS: '127.0.0.1' }, stdio: 'ignore' });
    let coturn = relay();
    try {
      const one = await worker('one');
      const service = await front([one], ['--turn-url', `turn:127.0.0.1:${port}?transport=udp,turn:127.0.0.1:${port}?transport=tcp`]);
      const page = await join(service, '&relay=1');
      const ended = new Promise((resolve) => coturn.once('exit', resolve));
      coturn.kill('SIGKILL');
      await ended;
      coturn = relay();
      const before = await count(page);
      const began = Date.now();
      await eventually('results through the new relay', async () => (await count(page)) > before + 3, PATIENCE_MS);
      await note('relay killed, started again', page, Date.now() - began);
    } finally {
      coturn.kill('SIGKILL');
    }
  });
});
