// What the page asks of the server about models and their traffic. Addresses are relative to the page.

import { authorization } from '../api.js';
import { apiUrl, ApiFailure, failureOf } from '../videos/api.js';

/**
 * @typedef {'faces' | 'gender' | 'objects' | 'classes' | 'text-detect' | 'text-read'} Task
 * @typedef {object} FloatFormat
 * @property {'nchw' | 'nhwc'} layout
 * @property {'rgb' | 'bgr'} channels
 * @property {[number, number, number]} mean
 * @property {[number, number, number]} std
 * @typedef {object} Manifest
 * @property {string} name
 * @property {number} version
 * @property {Task} task
 * @property {string} head
 * @property {string[]} labels
 * @property {{ size: number, height?: number, format: 'rgb-u8-nhwc' | { float: FloatFormat }, fit: Record<string, object> | string }} input
 * @property {{ score: number, iou: number }} thresholds
 * @property {{ source: string, licence: string }} provenance
 * @property {string} sha256
 * @property {{ at: number, load_ms: number, p50_ms: number, runs: number, detections: number }} [trial]
 * @typedef {Manifest & { size_bytes?: number, state?: { workers?: number }, picture?: string | null }} Version
 * @typedef {{ name: string, versions: Version[] }} Model
 *
 * @typedef {{ model: string, percent: number }} Share
 * @typedef {{ model: string, attribute: string, equals: string }} Variant
 * @typedef {{ max_error_ratio: number, max_p95_ratio: number, max_p95_ms?: number, min_runs: number }} Guard
 * @typedef {object} Traffic which versions a slot uses, for whom
 * @property {string} slot
 * @property {number} revision
 * @property {string | null} [stable]
 * @property {Share | null} [canary]
 * @property {Variant[]} [variants]
 * @property {Share | null} [shadow]
 * @property {Guard} [guard]
 * @property {string} [previous] what a rollback goes back to: "default" or a version
 * @property {{ at: number, what: string, why?: string }[]} [history]
 *
 * @typedef {{ models: Model[], traffic: Traffic[], serving?: Record<string, string>, not_loaded?: Record<string, string> }} Shelf why versions that a traffic names are not loaded, by their names
 *
 * @typedef {object} VersionFigures
 * @property {string} model
 * @property {number} runs
 * @property {number} errors
 * @property {number | null} p50_ms
 * @property {number | null} p95_ms
 * @property {number} sessions
 * @property {{ f1: number | null, pictures: number } | null} [agreement]
 *
 * @typedef {{ label: string, score: number, box?: [number, number, number, number] }} Finding
 * @typedef {object} Admitted a model that was taken in
 * @property {Manifest} manifest
 * @property {boolean} was_known
 * @property {{ bytes: number, producer: string, opset: number, nodes: number, parameters: number }} file
 * @property {{ load_ms: number, p50_ms: number, runs: number, peak_bytes: number, outputs: { name: string, shape: number[] }[], findings: Finding[] }} trial
 * @property {string[]} notes
 * @property {string} picture
 */

/** Longer than any honest answer takes; the page then asks again. */
const TIMEOUT_MS = 20_000;
/** Where the admin token outlives a reload of this tab. */
const TOKEN_KEY = 'vigie.admin-token';

/** @type {string | null} */
let adminToken = recall();

function recall() {
  try {
    return sessionStorage.getItem(TOKEN_KEY);
  } catch {
    return null;
  }
}

/** Sends `token` with every request from now on. @param {string | null} token */
export function setAdminToken(token) {
  adminToken = token;
  try {
    if (token) sessionStorage.setItem(TOKEN_KEY, token);
    else sessionStorage.removeItem(TOKEN_KEY);
  } catch {
    // Without storage it holds until the reload.
  }
}

/** @returns {Record<string, string>} */
function credentials() {
  return adminToken ? { authorization: `Bearer ${adminToken}` } : authorization();
}

/** Whether a failure asks for another token. @param {unknown} error */
export function wantsToken(error) {
  return error instanceof ApiFailure && (error.status === 401 || error.code === 'admin_only');
}

/**
 * @param {string} path
 * @param {RequestInit} [options]
 */
async function ask(path, options = {}) {
  const headers = { ...Object.fromEntries(new Headers(options.headers)), ...credentials() };
  let response;
  try {
    response = await fetch(apiUrl(path), { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS), ...options, headers });
  } catch (error) {
    throw new ApiFailure(0, 'unreachable', String(error));
  }
  if (!response.ok) throw failureOf(response.status, await response.text().catch(() => ''));
  return response;
}

/** @param {string} method @param {object} [body] @returns {RequestInit} */
function json(method, body) {
  return body === undefined ? { method } : { method, headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) };
}

/** @returns {Promise<Shelf>} */
export async function fetchShelf() {
  const [models, traffic] = await Promise.all(['api/models', 'api/traffic'].map(async (path) => (await ask(path)).json()));
  return { ...models, ...traffic };
}

/** @param {string} name @param {number} version */
const versionPath = (name, version) => `api/models/${encodeURIComponent(name)}/versions/${version}`;

/** @param {string} name @param {number} version */
export async function removeVersion(name, version) {
  await ask(versionPath(name, version), json('DELETE'));
}

/** An address for the file, good in this page: a link could not carry the token. @param {string} name @param {number} version */
export async function fetchFile(name, version) {
  return URL.createObjectURL(await (await ask(`${versionPath(name, version)}/model.onnx`, { signal: AbortSignal.timeout(600_000) })).blob());
}

/** The trial's picture with what was found drawn on it. @param {string} path @returns {Promise<string>} an address good in this page */
export async function fetchPicture(path) {
  return URL.createObjectURL(await (await ask(path)).blob());
}

/** @param {string} slot */
const trafficPath = (slot) => `api/traffic/${encodeURIComponent(slot)}`;

/** @param {string} slot @returns {Promise<VersionFigures[]>} */
export async function fetchFigures(slot) {
  return (await (await ask(`${trafficPath(slot)}/figures`)).json()).versions ?? [];
}

/** Writes a traffic, unless it was changed since it was read. @param {Traffic} traffic */
export async function putTraffic({ history: _, ...traffic }) {
  await ask(trafficPath(traffic.slot), json('PUT', traffic));
}

/** Goes back to the model that vigie brings. @param {string} slot */
export async function deleteTraffic(slot) {
  await ask(trafficPath(slot), json('DELETE'));
}

/** @param {string} slot @param {'canary' | 'shadow'} from */
export async function promote(slot, from) {
  await ask(`${trafficPath(slot)}/promote`, json('POST', { from }));
}

/** @param {string} slot */
export async function rollBack(slot) {
  await ask(`${trafficPath(slot)}/rollback`, json('POST'));
}

/** An upload under way. `fetch` tells nothing of how far it is. */
export class ModelUpload {
  #request = new XMLHttpRequest();

  /**
   * @param {string} name
   * @param {FormData} form
   * @param {(sentBytes: number, allBytes: number) => void} onProgress
   * @returns {Promise<Admitted | null>} null when cancelled
   * @throws {ApiFailure}
   */
  run(name, form, onProgress) {
    const request = this.#request;
    return new Promise((resolve, reject) => {
      request.open('POST', apiUrl(`api/models/${encodeURIComponent(name)}`));
      for (const [header, value] of Object.entries(credentials())) request.setRequestHeader(header, value);
      request.upload.onprogress = ({ loaded, total }) => onProgress(loaded, total);
      request.upload.onload = () => onProgress(1, 1);
      request.onabort = () => resolve(null);
      // A server that refuses early closes before everything is sent, and browsers then keep its answer to themselves.
      request.onerror = () => reject(new ApiFailure(0, 'unreachable', ''));
      request.onload = () => {
        if (request.status < 200 || request.status > 299) {
          reject(failureOf(request.status, request.responseText));
          return;
        }
        try {
          resolve(JSON.parse(request.responseText));
        } catch {
          reject(new ApiFailure(request.status, 'unexpected_answer', `status ${request.status}`));
        }
      };
      request.send(form);
    });
  }

  cancel() {
    this.#request.abort();
  }
}

/** `yolo@3`. @param {{ name: string, version: number }} version */
export function nameOf({ name, version }) {
  return `${name}@${version}`;
}
