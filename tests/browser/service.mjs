// The running vigie under test, at VIGIE_URL, and what it says of itself.

import { execFile } from 'node:child_process';
import { access } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

import { eventually, OUT } from './chromium.mjs';

/** Where the service is, with a slash at the end. */
export const URL_BASE = process.env.VIGIE_URL ? `${process.env.VIGIE_URL.replace(/\/+$/, '')}/` : '';

/** A reason to skip, for tests that need the service. */
export const withoutService = URL_BASE === '' && 'VIGIE_URL is not set';

/** @param {string} name @returns {Promise<string>} a clip's path, made when it is not there */
export async function clip(name) {
  const file = path.join(OUT, name);
  try {
    await access(file);
  } catch {
    await promisify(execFile)(path.join(import.meta.dirname, 'make-clip.sh'));
  }
  return file;
}

/** The value of a metric without labels, or the sum over its labels. @param {string} name */
export async function metric(name) {
  const text = await (await fetch(`${URL_BASE}metrics`)).text();
  const values = text.split('\n')
    .filter((line) => line.startsWith(`${name} `) || line.startsWith(`${name}{`))
    .map((line) => Number(line.slice(line.lastIndexOf(' ') + 1)));
  if (values.length === 0) throw new Error(`no metric ${name}`);
  return values.reduce((sum, value) => sum + value, 0);
}

/** Waits until the service serves nobody. @param {number} [limitMs] */
export async function waitForNoSessions(limitMs = 20_000) {
  await eventually('vigie_sessions_active is 0', async () => (await metric('vigie_sessions_active')) === 0, limitMs);
}

export async function isHealthy() {
  const response = await fetch(`${URL_BASE}health`);
  return response.ok;
}
