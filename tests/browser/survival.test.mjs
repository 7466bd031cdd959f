// Sessions that survive: workers and fronts as processes of their own, killed and restarted for real under live
// pages, and a network that goes away. Needs the binary (VIGIE_BINARY, by default the release build) and the
// models; the tests with a network of their own need root and are skipped without it.

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { after, afterEach, before, describe, test } from 'node:test';
import { promisify } from 'node:util';

import { eventually, goLive, launch, openPage, waitForMessage, waitForState } from './chromium.mjs';
import { Service } from './processes.mjs';
import { clip } from './service.mjs';

/** Few enough for two cores that also run the browser. */
const RATE = 4;
const SMALL = '320x240';

/** @type {Awaited<ReturnType<typeof launch>>} */
let browser;

before(async () => {
  browser = await launch({ camera: await clip('people.y4m') });
});
after(() => browser?.close());
afterEach(async () => {
  for (const page of browser.context.pages().slice(1)) await page.close();
  await Service.endAll();
});

/** @param {string} name @param {string[]} more */
const worker = (name, ...more) => Service.start([
  'worker', '--control', '127.0.0.1:0', '--media', '127.0.0.1:0', '--lanes', '1', '--name', name, '--admit', 'count', ...more,
]);

/** @param {Service[]} workers @param {string} [listen] */
const front = (workers, listen = '127.0.0.1:0') =>
  Service.start(['signal', '--listen', listen, '--workers', workers.map(({ address }) => address).join(',')]);

/**
 * Opens a live session and notes, from then on, every state and when reports come.
 * @param {Service} service
 */
async function join(service) {
  const { page } = await openPage(browser.context, `${service.url}?rate=${RATE}`);
  await page.selectOption('#resolution', SMALL);
  await goLive(page);
  await eventually('a report', () => page.evaluate(() => window.vigie.lastReport !== null));
  await page.evaluate(() => {
    const record = { states: ['live'], reports: [performance.now()], handovers: [], last: null, session: window.vigie.session };
    Object.assign(window, { record });
    new MutationObserver(() => record.states.push(document.getElementById('live').dataset.state))
      .observe(document.getElementById('live'), { attributeFilter: ['data-state'] });
    setInterval(() => {
      const report = window.vigie.lastReport;
      if (!report || report === record.last) return;
      record.last = report;
      const now = performance.now();
      if (record.session !== window.vigie.session) record.handovers.push(Math.round(now - record.reports[record.reports.length - 1]));
      record.session = window.vigie.session;
      record.reports.push(now);
    }, 10);
  });
  return page;
}

/** @param {import('playwright-core').Page} page */
const workerOf = (page) => page.evaluate(() => window.vigie.session?.split('.')[0]);

/** @param {import('playwright-core').Page} page */
const states = (page) => page.evaluate(() => window.record.states);

/** The longest time without a report so far, in milliseconds. @param {import('playwright-core').Page} page */
const longestGap = (page) => page.evaluate(() => {
  const times = [...window.record.reports, performance.now()];
  return Math.round(Math.max(...times.slice(1).map((at, i) => at - times[i])));
});

/**
 * The time between the last report of one session and the first of the next, in milliseconds, for each change.
 * @param {import('playwright-core').Page} page
 */
const handovers = (page) => page.evaluate(() => window.record.handovers);

/** @param {import('playwright-core').Page} page @param {number} more */
async function reportsFlow(page, more = RATE) {
  const count = await page.evaluate(() => window.record.reports.length);
  await eventually('more reports', () => page.evaluate((wanted) => window.record.reports.length >= wanted, count + more), 40_000);
}

/** How many frames of the annotated video the page has decoded. @param {import('playwright-core').Page} page */
const annotatedFrames = (page) => page.evaluate(async () => {
  const stats = [...(await window.vigie.pc.getStats()).values()];
  return stats.find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video')?.framesDecoded ?? 0;
});

test('a killed worker\'s sessions are back with results on another one', async (t) => {
  const [one, two] = [await worker('one'), await worker('two')];
  const pages = [];
  const service = await front([one, two]);
  for (let i = 0; i < 2; i += 1) pages.push(await join(service));
  const doomed = await workerOf(pages[0]);
  const struck = [];
  for (const page of pages) if (await workerOf(page) === doomed) struck.push(page);
  const before = await Promise.all(struck.map((page) => page.evaluate(() => window.vigie.session)));

  const killed = Date.now();
  await (doomed === 'one' ? one : two).end('SIGKILL');
  for (const [i, page] of struck.entries()) {
    await page.waitForFunction((old) => window.vigie.session !== old && window.vigie.lastReport, before[i], { polling: 20 });
    const seq = await page.evaluate(() => window.vigie.lastReport.seq);
    await page.waitForFunction((old) => window.vigie.lastReport.seq !== old, seq, { polling: 20 });
    t.diagnostic(`results from another worker ${Date.now() - killed} ms after the kill`);
  }
  for (const page of pages) {
    await reportsFlow(page);
    assert.notEqual(await workerOf(page), doomed);
    assert.equal(await page.evaluate(() => window.vigie.state), 'live');
    assert.ok((await states(page)).every((state) => ['live', 'reconnecting', 'connecting'].includes(state)), `${await states(page)}`);
  }
});

test('a rolling restart of two workers under four live sessions loses none', async (t) => {
  let workers = [await worker('one'), await worker('two')];
  const service = await front(workers);
  const pages = [];
  for (let i = 0; i < 4; i += 1) pages.push(await join(service));
  t.diagnostic(`at first on ${await Promise.all(pages.map(workerOf))}; longest gap ${await Promise.all(pages.map(longestGap))} ms`);

  for (const [i, name] of ['one', 'two'].entries()) {
    const leaving = workers[i];
    assert.equal(await leaving.end('SIGTERM'), 0, 'it ends by itself, once its sessions have moved');
    for (const page of pages) assert.notEqual(await workerOf(page), name);
    // As a StatefulSet does: the same name and address, a new process.
    workers[i] = await Service.start([
      'worker', '--control', leaving.address, '--media', '127.0.0.1:0', '--lanes', '1', '--name', `${name}-again`, '--admit', 'count',
    ]);
    await eventually('the front knows both', async () =>
      (await (await fetch(`${service.url}metrics`)).text()).includes('vigie_workers{state="admitting"} 2'));
    for (const page of pages) await reportsFlow(page);
  }
  for (const [i, page] of pages.entries()) {
    t.diagnostic(`session ${i}: without results for ${await handovers(page)} ms at its handovers, `
      + `for ${await longestGap(page)} ms at the worst; now on ${await workerOf(page)}`);
    assert.deepEqual(await states(page), ['live'], 'nobody saw it');
  }
  assert.equal(await workers[0].metric('vigie_sessions_active') + await workers[1].metric('vigie_sessions_active'), 4);
});

test('nobody notices that a front restarts, and the next one reaches the session', async (t) => {
  const [one, two] = [await worker('one'), await worker('two')];
  let service = await front([one, two]);
  const page = await join(service);
  await page.click('label:has([name="output"][value="both"])');
  await eventually('annotated frames', async () => (await annotatedFrames(page)) > 5);
  const session = await page.evaluate(() => window.vigie.session);
  await page.evaluate(() => {
    window.record.reports = [performance.now()];
  });

  for (const signal of /** @type {NodeJS.Signals[]} */ (['SIGKILL', 'SIGTERM'])) {
    const { address } = service;
    await service.end(signal);
    const shown = await annotatedFrames(page);
    await reportsFlow(page, 3 * RATE);
    assert.ok(await annotatedFrames(page) > shown, 'the annotated video goes on without any front');
    service = await front([one, two], address);
    await reportsFlow(page, 2 * RATE);
  }
  t.diagnostic(`longest gap ${await longestGap(page)} ms`);
  assert.equal(await page.evaluate(() => window.vigie.session), session);

  // That the page is attached again shows when its worker wants to move it.
  const name = await workerOf(page);
  assert.equal(await (name === 'one' ? one : two).end('SIGTERM'), 0);
  await reportsFlow(page);
  assert.notEqual(await workerOf(page), name);
  assert.deepEqual(await states(page), ['live']);
});

test('a page waits for a place and gets the first that is free', async () => {
  const workers = [await worker('one', '--max-sessions', '1'), await worker('two', '--max-sessions', '1')];
  const service = await front(workers);
  const pages = [await join(service), await join(service)];
  assert.deepEqual((await Promise.all(pages.map(workerOf))).sort(), ['one', 'two'], 'a full worker is passed over');
  assert.equal((await fetch(`${service.url}readyz`)).status, 503);

  const { page: late } = await openPage(browser.context, `${service.url}?rate=${RATE}`);
  await late.click('#agree-camera');
  await waitForMessage(late, 'busy');
  await waitForState(late, 'busy');
  const freed = await workerOf(pages[1]);
  await pages[1].click('#hang-up');
  await waitForState(late, 'live', 40_000);
  await late.waitForSelector('[data-message="busy"]', { state: 'detached' });
  assert.equal(await workerOf(late), freed);
});

test('a session that finds no other worker stays until it does', async () => {
  const one = await worker('one');
  const spare = await worker('spare');
  const { address } = spare;
  await spare.end('SIGKILL');
  const service = await front([one, spare]);
  const page = await join(service);
  const ended = one.end('SIGTERM');
  await reportsFlow(page, 5 * RATE);
  assert.equal(await workerOf(page), 'one');
  // Somebody's connection may have the port for a moment.
  const late = ['worker', '--control', address, '--media', '127.0.0.1:0', '--lanes', '1', '--name', 'late', '--admit', 'count'];
  await eventually('the late worker', () => Service.start(late).then(() => true, () => false));
  await eventually('the move', async () => (await workerOf(page)) === 'late', 40_000);
  assert.equal(await ended, 0);
  await reportsFlow(page);
  assert.deepEqual(await states(page), ['live']);
});

/** @param {string} command */
const run = (command) => promisify(execFile)('/bin/sh', ['-ec', command]);

describe('a network that goes away', { skip: process.getuid?.() !== 0 && 'making networks needs root' }, () => {
  // The worker lives in a namespace, joined by one wire for control and one for media: cutting the second takes
  // the media away and leaves signalling alone.
  const id = randomBytes(2).toString('hex');
  const [namespace, control, media] = [`vigie-${id}`, `vgc-${id}`, `vgm-${id}`];
  const net = `10.${200 + (parseInt(id.slice(0, 2), 16) % 50)}.${parseInt(id.slice(2), 16)}`;

  before(() => run(`
    ip netns add ${namespace}
    ip link add ${control} type veth peer name control netns ${namespace}
    ip link add ${media} type veth peer name media netns ${namespace}
    ip addr add ${net}.1/28 dev ${control}
    ip addr add ${net}.17/28 dev ${media}
    ip link set ${control} up
    ip link set ${media} up
    ip -n ${namespace} addr add ${net}.2/28 dev control
    ip -n ${namespace} addr add ${net}.18/28 dev media
    ip -n ${namespace} link set lo up
    ip -n ${namespace} link set control up
    ip -n ${namespace} link set media up
    # Media comes by its own wire only, although the machine has an address on the other as well.
    ip netns exec ${namespace} sh -c 'echo 1 > /proc/sys/net/ipv4/conf/media/rp_filter'
  `));
  after(() => run(`ip netns del ${namespace}; ip link del ${control} 2>/dev/null || true; ip link del ${media} 2>/dev/null || true`));
  afterEach(() => run(`ip link set ${media} up; ip addr flush dev ${media}; ip addr add ${net}.17/28 dev ${media}`));

  const distantWorker = () => Service.start([
    'worker', '--control', `${net}.2:0`, '--media', `${net}.18:0`, '--lanes', '1', '--name', 'distant', '--admit', 'count',
  ], { namespace });

  /** The address that media leaves by. @param {import('playwright-core').Page} page */
  const mediaAddress = (page) => page.evaluate(async () => {
    const stats = [...(await window.vigie.pc.getStats()).values()];
    const transport = stats.find(({ type }) => type === 'transport');
    const pair = stats.find(({ id: pairId }) => pairId === transport?.selectedCandidatePairId);
    return stats.find(({ id: candidateId }) => candidateId === pair?.localCandidateId)?.address;
  });

  test('a machine that changes its address keeps its session', async (t) => {
    const service = await front([await distantWorker()]);
    const page = await join(service);
    const session = await page.evaluate(() => window.vigie.session);
    assert.equal(await mediaAddress(page), `${net}.17`);
    await run(`ip addr del ${net}.17/28 dev ${media}; ip addr add ${net}.20/28 dev ${media}`);
    await eventually('the path from the new address', async () => (await mediaAddress(page)) === `${net}.20`, 40_000);
    await reportsFlow(page);
    t.diagnostic(`longest gap ${await longestGap(page)} ms; states ${await states(page)}`);
    assert.equal(await page.evaluate(() => window.vigie.session), session, 'the same session all along');
  });

  test('media that was cut off comes back by an ICE restart', async (t) => {
    const service = await front([await distantWorker()]);
    const page = await join(service);
    const session = await page.evaluate(() => window.vigie.session);
    const cut = Date.now();
    await run(`ip link set ${media} down`);
    await waitForState(page, 'reconnecting', 40_000);
    await waitForMessage(page, 'network_changed');
    t.diagnostic(`noticed after ${Date.now() - cut} ms`);
    await run(`ip link set ${media} up`);
    const mended = Date.now();
    await waitForState(page, 'live', 40_000);
    t.diagnostic(`live ${Date.now() - mended} ms after the network was back; longest gap ${await longestGap(page)} ms`);
    await reportsFlow(page);
    assert.equal(await page.evaluate(() => window.vigie.session), session, 'the same session all along');
  });

  test('a page that lost media and signalling comes back by its resume token', async (t) => {
    const distant = await distantWorker();
    let service = await front([distant]);
    const page = await join(service);
    const session = await page.evaluate(() => window.vigie.session);
    const { address } = service;
    await run(`ip addr del ${net}.17/28 dev ${media}`);
    await service.end('SIGKILL');
    await waitForState(page, 'reconnecting', 40_000);
    // Another address than before: without signalling there is no way back to the session.
    await run(`ip addr add ${net}.20/28 dev ${media}`);
    service = await front([distant], address);
    const mended = Date.now();
    await waitForState(page, 'live', 40_000);
    t.diagnostic(`live ${Date.now() - mended} ms after both were back; longest gap ${await longestGap(page)} ms`);
    await reportsFlow(page);
    assert.equal(await page.evaluate(() => window.vigie.session), session, 'the same session all along');
    assert.equal(await distant.metric('vigie_sessions_total'), 1);
  });
});
