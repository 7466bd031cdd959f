// Launches Chromium with a fake camera, and the small waits that the tests share.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';

import { chromium } from 'playwright-core';

export const OUT = path.join(import.meta.dirname, 'out');

/**
 * @param {object} [options]
 * @param {string} [options.camera] a y4m or mjpeg file; the browser's test picture without it
 * @param {'allow' | 'refuse' | 'none'} [options.cameraAnswer]
 * @param {{ width: number, height: number }} [options.viewport]
 * @param {string} [options.locale]
 * @param {'light' | 'dark'} [options.colorScheme]
 * @param {string[]} [options.switches] of Chromium's, besides those that all tests need
 */
export async function launch({
  camera,
  cameraAnswer = 'allow',
  viewport = { width: 1280, height: 800 },
  locale = 'en-GB',
  colorScheme = 'dark',
  switches = [],
} = {}) {
  const profile = await mkdtemp(path.join(tmpdir(), 'vigie-chromium-'));
  const args = [
    '--headless=new', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync',
    '--disable-background-networking', '--disable-component-update',
    // Without it the host candidates are .local names, which nothing resolves on a bare machine.
    '--disable-features=WebRtcHideLocalIpsWithMdns',
    ...switches,
  ];
  if (cameraAnswer !== 'none') args.push('--use-fake-device-for-media-stream');
  if (cameraAnswer === 'allow') args.push('--use-fake-ui-for-media-stream');
  if (cameraAnswer === 'refuse') args.push('--deny-permission-prompts');
  if (camera) args.push(`--use-file-for-fake-video-capture=${camera}`);
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: false,
    args,
    viewport,
    locale,
    colorScheme,
  });
  return {
    context,
    close: async () => {
      await context.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

/**
 * Asks `probe` until it gives something true, and gives that; throws with `what` at the deadline.
 * @template T
 * @param {string} what
 * @param {() => Promise<T> | T} probe
 * @param {number} [limitMs]
 * @returns {Promise<NonNullable<T>>}
 */
export async function eventually(what, probe, limitMs = 20_000) {
  const deadline = Date.now() + limitMs;
  let last;
  for (;;) {
    last = await probe();
    if (last) return last;
    if (Date.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what} (last: ${JSON.stringify(last)})`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Opens the page and collects what goes wrong in it. @param {import('playwright-core').BrowserContext} context @param {string} url */
export async function openPage(context, url) {
  const page = await context.newPage();
  /** @type {string[]} */
  const faults = [];
  page.on('pageerror', (error) => faults.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error') faults.push(message.text());
  });
  await page.goto(url);
  await page.waitForFunction(() => 'vigie' in window);
  return { page, faults };
}

/** Agrees to the notice and waits for the live state. @param {import('playwright-core').Page} page */
export async function goLive(page) {
  await page.click('#agree-camera');
  await waitForState(page, 'live');
}

/**
 * @param {import('playwright-core').Page} page
 * @param {string} state
 * @param {number} [limitMs]
 */
export async function waitForState(page, state, limitMs = 20_000) {
  await page.waitForFunction((wanted) => window.vigie.state === wanted, state, { timeout: limitMs });
}

/** @param {import('playwright-core').Page} page @param {string} key @param {number} [limitMs] */
export async function waitForMessage(page, key, limitMs = 20_000) {
  return page.waitForSelector(`[data-message="${key}"]`, { timeout: limitMs });
}
