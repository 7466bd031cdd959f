// What the page asks of the server about video jobs. Addresses are relative to the page, so that it
// also works behind a path prefix.

import { fetchApi } from '../api.js';

/**
 * @typedef {'queued' | 'running' | 'done' | 'failed' | 'cancelled'} JobState
 * @typedef {{ frames: number, of_frames?: number, fps: number, seconds_left?: number, media_s: number, duration_s?: number }} Progress
 * @typedef {{ label: string, score: number }} Gender
 * @typedef {{ id: number, kind: string, label: string, score?: number, first_s: number, last_s: number, apparent_gender?: Gender, text?: Gender, classes?: Record<string, Gender> }} Track
 * @typedef {object} Summary
 * @property {number} width
 * @property {number} height
 * @property {number} frames
 * @property {number} recognised
 * @property {number} duration_s
 * @property {boolean} cut_off
 * @property {string} [stopped]
 * @property {number} damaged_frames
 * @property {'none' | 'copied' | 'left_out'} audio
 * @property {Track[]} tracks
 * @property {Record<string, number>} counts
 * @property {Record<string, number>} apparent_genders
 * @typedef {object} Job
 * @property {string} id
 * @property {string} name
 * @property {JobState} state
 * @property {string} expires_at
 * @property {number} bytes
 * @property {number} tries
 * @property {Progress} progress
 * @property {{ code: string, message: string }} [error]
 * @property {Summary} [summary]
 * @property {{ annotated: string, detections: string, summary: string }} [results]
 */

/** The states after which nothing changes any more. @type {readonly string[]} */
export const FINAL_STATES = Object.freeze(['done', 'failed', 'cancelled']);

/** Longer than any honest answer takes; the page then asks again. */
const TIMEOUT_MS = 20_000;
/** As many as the server looks up in one request. */
const IDS_AT_ONCE = 50;

/** An answer that was no success, or none at all (status 0). */
export class ApiFailure extends Error {
  /**
   * @param {number} status 0 when no answer came
   * @param {string} code the server's stable code, or one of ours
   * @param {string} message
   */
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }

  /** Whether the same request may well succeed later. */
  get isPassing() {
    // 507 is for a person to mend, and so is a service that annotates no videos.
    if (this.status === 507 || this.code === 'videos_unavailable') return false;
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500 || this.code === 'body_unreadable';
  }
}

/**
 * The failure that a body and a status tell of.
 * @param {number} status
 * @param {string} body
 */
export function failureOf(status, body) {
  try {
    const { error } = JSON.parse(body);
    if (typeof error?.code === 'string') return new ApiFailure(status, error.code, String(error.message ?? ''));
  } catch {
    // No body of ours: a proxy's, perhaps.
  }
  return new ApiFailure(status, status === 404 ? 'not_found' : status === 413 ? 'too_large' : 'unexpected_answer', `status ${status}`);
}

/** @param {string} path with or without a leading slash, or a whole address */
export function apiUrl(path) {
  return new URL(path.replace(/^\/+/, ''), document.baseURI);
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetchApi(apiUrl(path).href, { signal: AbortSignal.timeout(TIMEOUT_MS), ...options });
  } catch (error) {
    throw new ApiFailure(0, 'unreachable', String(error));
  }
  if (!response.ok) throw failureOf(response.status, await response.text().catch(() => ''));
  return response;
}

/**
 * Those of the jobs that the server still has.
 * @param {readonly string[]} ids
 * @returns {Promise<Job[]>}
 */
export async function fetchJobs(ids) {
  /** @type {Job[]} */
  const jobs = [];
  for (let start = 0; start < ids.length; start += IDS_AT_ONCE) {
    const some = ids.slice(start, start + IDS_AT_ONCE).map(encodeURIComponent).join(',');
    const answer = await (await ask(`api/videos?ids=${some}`)).json();
    jobs.push(...(Array.isArray(answer) ? answer : answer.jobs));
  }
  return jobs;
}

/** @param {string} id @returns {Promise<Job>} */
export async function cancelJob(id) {
  return (await ask(`api/videos/${encodeURIComponent(id)}/cancel`, { method: 'POST' })).json();
}

/** Deletes a job and all that belongs to it; one that is gone already is no failure. @param {string} id */
export async function deleteJob(id) {
  await orGone(ask(`api/videos/${encodeURIComponent(id)}`, { method: 'DELETE', keepalive: true }));
}

/** Gives an upload up. @param {string} url */
export async function deleteUpload(url) {
  await orGone(ask(url, { method: 'DELETE', headers: { 'Tus-Resumable': '1.0.0' }, keepalive: true }));
}

/** @param {Promise<unknown>} deletion */
async function orGone(deletion) {
  try {
    await deletion;
  } catch (error) {
    if (!(error instanceof ApiFailure) || (error.status !== 404 && error.status !== 410)) throw error;
  }
}

/** The most bytes that an upload may have; null where the server does not say. @returns {Promise<number | null>} */
export async function fetchMaxBytes() {
  const response = await ask('api/uploads', { method: 'OPTIONS' });
  const bytes = Number(response.headers.get('Tus-Max-Size'));
  return bytes > 0 ? bytes : null;
}
