// The page of docs/examples, served from an origin of its own as a site would.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import { eventually, launch } from './chromium.mjs';
import { Service } from './processes.mjs';
import { clip } from './service.mjs';

const EXAMPLES = path.join(import.meta.dirname, '../../docs/examples');
const TYPES = { '.html': 'text/html', '.mjs': 'text/javascript' };

describe('the example of a page of one\'s own', () => {
  const site = createServer(async (request, response) => {
    const name = path.basename(new URL(request.url ?? '/', 'http://site').pathname) || 'index.html';
    const body = await readFile(path.join(EXAMPLES, name)).catch(() => null);
    response.writeHead(body ? 200 : 404, { 'Content-Type': TYPES[path.extname(name)] ?? 'text/plain' }).end(body);
  });
  /** @type {Awaited<ReturnType<typeof launch>>} */
  let browser;
  /** @type {string} */
  let origin;

  before(async () => {
    await new Promise((ready) => site.listen(0, '127.0.0.1', () => ready(null)));
    origin = `http://127.0.0.1:${/** @type {import('node:net').AddressInfo} */ (site.address()).port}`;
    browser = await launch({ camera: await clip('people.y4m') });
  });
  after(async () => {
    await browser?.close();
    site.close();
    await Service.endAll();
  });

  test('it recognises, comes back when the service is started again, and hangs up', async () => {
    const start = (listen) => Service.start(['serve', '--listen', listen, '--lanes', '1', '--video-jobs', '0', '--allowed-origins', origin]);
    const service = await start('127.0.0.1:0');
    const page = await browser.context.newPage();
    await page.goto(`${origin}/?service=${encodeURIComponent(`http://${service.address}`)}`);
    const seesPeople = () => page.evaluate(() => /person|face/.test(document.querySelector('pre')?.textContent ?? ''));
    await eventually('somebody is seen', seesPeople, 60_000);
    assert.equal(await page.title(), 'live');

    await service.end('SIGKILL');
    await page.evaluate(() => { /** @type {Element} */ (document.querySelector('pre')).textContent = ''; });
    const next = await start(service.address);
    await eventually('somebody is seen again', seesPeople, 60_000);

    await page.close();
    await eventually('the session has ended', async () => (await next.metric('vigie_sessions_active')) === 0);
  });

  test('a page of another origin is not served', async () => {
    const service = await Service.start(['serve', '--listen', '127.0.0.1:0', '--lanes', '1', '--video-jobs', '0']);
    const page = await browser.context.newPage();
    await page.goto(`${origin}/?service=${encodeURIComponent(`http://${service.address}`)}`);
    await eventually('it is refused', async () => (await service.metric('vigie_refusals_total{reason="origin_refused"}')) > 0);
    assert.equal(await service.metric('vigie_sessions_total'), 0);
    await page.close();
  });
});
