// The whole loop in Firefox, over WebDriver BiDi, against the service at VIGIE_URL. Firefox's fake
// camera shows no face, so a file stands in for it.

import assert from 'node:assert/strict';
import { access, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, describe, test } from 'node:test';

import puppeteer from 'puppeteer-core';

import { eventually, OUT } from './chromium.mjs';
import { clip, URL_BASE, waitForNoSessions, withoutService } from './service.mjs';

const FIREFOX = process.env.FIREFOX ?? '/usr/bin/firefox-esr';
const isInstalled = await access(FIREFOX).then(() => true, () => false);

/** Starts Firefox without a window. */
export async function launchFirefox() {
  const profile = await mkdtemp(path.join(tmpdir(), 'vigie-firefox-'));
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    userDataDir: profile,
    defaultViewport: { width: 1280, height: 800 },
    extraPrefsFirefox: {
      // Host candidates as addresses: a bare machine resolves no .local names.
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.peerconnection.ice.loopback': true,
      'media.autoplay.default': 0,
    },
  });
  return {
    browser,
    close: async () => {
      await browser.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 200 });
    },
  };
}

describe('the live page in Firefox', { skip: withoutService || (!isInstalled && `no ${FIREFOX}`) }, () => {
  /** @type {Awaited<ReturnType<typeof launchFirefox>>} */ let firefox;
  before(async () => {
    firefox = await launchFirefox();
  });
  after(async () => {
    await firefox?.close();
    await waitForNoSessions(40_000);
  });

  test('recognises a face and a person in a file, and plays the annotated video', async () => {
    const page = await firefox.browser.newPage();
    await page.goto(URL_BASE);
    const input = await page.waitForSelector('#file');
    await input?.uploadFile(await clip('people.webm'));
    await page.waitForFunction(() => document.getElementById('agree-file')?.textContent?.includes('people.webm'));
    await page.click('#agree-file');
    await page.waitForFunction(() => window.vigie.state === 'live', { timeout: 20_000 });

    await eventually('a face', () => page.evaluate(() => window.vigie.lastReport?.tracks.some(({ kind }) => kind === 'face')));
    await eventually('a person', () => page.evaluate(() => window.vigie.lastReport?.tracks.some(({ label }) => label === 'person')));
    const stats = await eventually('figures', () => page.evaluate(() => {
      const figures = window.vigie.stats();
      return figures.sentFps > 3 && figures.latencyMs > 0 ? figures : null;
    }));
    assert.ok(stats.latencyMs < 5000, `latency ${stats.latencyMs} ms`);

    await page.click('label:has([name="output"][value="annotated"])');
    await eventually('annotated frames', () => page.evaluate(() => window.vigie.stats().annotatedFps > 2));
    const first = await page.evaluate(() => document.querySelector('#annotated').currentTime);
    await eventually('the annotated video plays', () => page.evaluate((before) => {
      const video = document.querySelector('#annotated');
      return video.videoWidth > 0 && video.currentTime > before;
    }, first));
    await page.screenshot({ path: path.join(OUT, 'screenshot-firefox.png') });

    // The file is four seconds long: reports still come once it has been repeated.
    const seq = await page.evaluate(() => window.vigie.lastReport.seq);
    await eventually('reports after the repeat', () => page.evaluate((before) => window.vigie.lastReport.seq > before + 25, seq), 30_000);

    await page.click('#hang-up');
    await page.waitForFunction(() => window.vigie.state === 'idle');
    await waitForNoSessions();
  });
});
