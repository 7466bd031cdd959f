// A resumable upload by the tus protocol, version 1.0.0 (https://tus.io/protocols/resumable-upload):
// creation, then pieces from wherever the server says it is. A lost network is waited out.

import { authorization } from '../api.js';
import { apiUrl, ApiFailure, failureOf } from './api.js';

/**
 * @typedef {object} Plan
 * @property {File} file
 * @property {Record<string, string>} metadata
 * @property {string | null} url of an upload that was begun before
 * @property {(url: string) => void} onCreated
 * @property {(sentBytes: number) => void} onProgress
 * @property {(isWaiting: boolean) => void} onWaiting whether the network is being waited for
 */

/** Bytes of one request: what is sent anew when one breaks, at most. */
const PIECE_BYTES = 8 << 20;
const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 20_000;
/** A request in which nothing moves for this long is given up and tried again. */
const STALL_MS = 30_000;
const VERSION = { 'Tus-Resumable': '1.0.0' };

export class Upload {
  /** @type {Plan} */ #plan;
  /** @type {XMLHttpRequest | null} */ #request = null;
  #isStopped = false;
  /** @type {(() => void) | null} ends a wait early */ #wake = null;

  /** @param {Plan} plan */
  constructor(plan) {
    this.#plan = plan;
  }

  /**
   * Sends the file, however often the network breaks.
   * @returns {Promise<string | null>} the job's id; null when stopped
   * @throws {ApiFailure} what trying again would not change
   */
  async run() {
    const { file } = this.#plan;
    let url = this.#plan.url;
    /** @type {number | null} null when only the server knows */
    let offset = null;
    let failures = 0;
    while (!this.#isStopped) {
      try {
        if (url === null) {
          url = await this.#create();
          this.#plan.onCreated(url);
          offset = 0;
        }
        const state = offset === null ? await this.#locate(url) : { offset, job: null };
        if (state.job !== null) return state.job;
        this.#plan.onProgress(state.offset);
        const next = await this.#send(url, state.offset);
        this.#plan.onWaiting(false);
        if (next.job !== null) return next.job;
        if (next.offset >= file.size) throw new ApiFailure(0, 'unreachable', 'the job is not there yet');
        offset = next.offset;
        failures = 0;
      } catch (error) {
        if (this.#isStopped) break;
        if (!(error instanceof ApiFailure)) throw error;
        offset = null;
        const isGone = error.status === 404 || error.status === 410;
        // 409: we were wrong about how much is there; 423: another request holds it.
        const isPassing = error.isPassing || error.status === 409 || error.status === 423;
        if (isGone && url !== null && failures < 8) url = null;
        else if (!isPassing) throw error;
        failures += 1;
        this.#plan.onWaiting(true);
        await this.#wait(Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** (failures - 1)));
      }
    }
    return null;
  }

  /** Ends it; what was sent stays at the server until it expires or is deleted. */
  stop() {
    this.#isStopped = true;
    this.#request?.abort();
    this.#wake?.();
  }

  /** @returns {Promise<string>} */
  async #create() {
    const { file, metadata } = this.#plan;
    const pairs = Object.entries(metadata).map(([key, value]) => `${key} ${toBase64(value)}`);
    const answer = await this.#ask('POST', apiUrl('api/uploads').href, {
      'Upload-Length': String(file.size),
      'Upload-Metadata': pairs.join(','),
    });
    const location = answer.getResponseHeader('Location');
    if (answer.status !== 201 || !location) throw failureOf(answer.status, answer.responseText);
    const url = new URL(location, apiUrl('api/uploads'));
    // Behind a proxy a server may not know its own name; its path is what counts.
    return apiUrl(url.pathname.slice(url.pathname.indexOf('/api/'))).href;
  }

  /** How much the server has. @param {string} url */
  async #locate(url) {
    return this.#state(await this.#ask('HEAD', url, {}));
  }

  /** @param {string} url @param {number} offset */
  async #send(url, offset) {
    const piece = this.#plan.file.slice(offset, offset + PIECE_BYTES);
    const headers = { 'Upload-Offset': String(offset), 'Content-Type': 'application/offset+octet-stream' };
    return this.#state(await this.#ask('PATCH', url, headers, piece, (sent) => this.#plan.onProgress(offset + sent)));
  }

  /** @param {XMLHttpRequest} answer */
  #state(answer) {
    const offset = Number(answer.getResponseHeader('Upload-Offset'));
    if (!Number.isInteger(offset)) throw new ApiFailure(0, 'unexpected_answer', 'no Upload-Offset');
    return { offset, job: answer.getResponseHeader('Vigie-Job') };
  }

  /**
   * `fetch` tells nothing of how much is sent; this does.
   * @param {string} method
   * @param {string} url
   * @param {Record<string, string>} headers
   * @param {Blob | null} [body]
   * @param {(sentBytes: number) => void} [onProgress]
   * @returns {Promise<XMLHttpRequest>}
   */
  #ask(method, url, headers, body = null, onProgress = () => {}) {
    return new Promise((resolve, reject) => {
      const request = new XMLHttpRequest();
      this.#request = request;
      const stalled = () => request.abort();
      let watchdog = setTimeout(stalled, STALL_MS);
      const end = () => {
        clearTimeout(watchdog);
        this.#request = null;
      };
      request.open(method, url);
      for (const [name, value] of Object.entries({ ...VERSION, ...authorization(), ...headers })) request.setRequestHeader(name, value);
      if (body) {
        request.upload.addEventListener('progress', ({ loaded }) => {
          clearTimeout(watchdog);
          watchdog = setTimeout(stalled, STALL_MS);
          onProgress(loaded);
        });
      }
      request.addEventListener('load', () => {
        end();
        if (request.status >= 200 && request.status < 300) resolve(request);
        else reject(failureOf(request.status, request.responseText));
      });
      for (const ending of ['error', 'abort']) {
        request.addEventListener(ending, () => {
          end();
          // A file that was changed or taken away meanwhile looks like a broken network.
          const failure = new ApiFailure(0, 'unreachable', `the request ended by ${ending}`);
          if (body === null) reject(failure);
          else body.slice(0, 1).arrayBuffer().then(() => reject(failure), () => reject(new ApiFailure(400, 'file_unreadable', 'the file cannot be read')));
        });
      }
      request.send(body);
    });
  }

  /** @param {number} ms */
  async #wait(ms) {
    await new Promise((resolve) => {
      const wake = () => resolve(undefined);
      const timer = setTimeout(wake, ms);
      this.#wake = () => {
        clearTimeout(timer);
        wake();
      };
      addEventListener('online', this.#wake, { once: true });
    });
    if (this.#wake) removeEventListener('online', this.#wake);
    this.#wake = null;
  }
}

/** UTF-8 in Base64, as Upload-Metadata wants it. @param {string} text */
function toBase64(text) {
  return btoa(String.fromCodePoint(...new TextEncoder().encode(text)));
}
