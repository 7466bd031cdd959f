// Keeps the page's jobs up to date: by server-sent events for a few, by asking for whatever has not
// been heard of for a while. A browser opens only six connections to a server, and uploads need some.

import { apiUrl, FINAL_STATES, fetchJobs } from './api.js';

/** @typedef {import('./api.js').Job} Job */

const STREAMS = 2;
/** Silence after which a job is asked for. */
const SILENCE_MS = 3000;
const TICK_MS = 1000;

export class Follower {
  /** @type {() => string[]} */ #wanted;
  /** @type {(job: Job) => void} */ #onJob;
  /** @type {(id: string) => void} */ #onGone;
  /** @type {(isReached: boolean) => void} */ #onReached;
  /** @type {Map<string, EventSource>} */ #streams = new Map();
  /** @type {Map<string, number>} when each was heard of, ms */ #heardAt = new Map();
  #isAsking = false;

  /**
   * @param {object} ears
   * @param {() => string[]} ears.wanted ids of the jobs that may still change, the most wanted first
   * @param {(job: Job) => void} ears.onJob
   * @param {(id: string) => void} ears.onGone the server does not have it any more
   * @param {(isReached: boolean) => void} ears.onReached whether the server answers
   */
  constructor({ wanted, onJob, onGone, onReached }) {
    this.#wanted = wanted;
    this.#onJob = onJob;
    this.#onGone = onGone;
    this.#onReached = onReached;
    setInterval(() => this.tick(), TICK_MS);
    addEventListener('online', () => this.tick());
  }

  /** Looks after everything now rather than a second later. */
  tick() {
    const wanted = this.#wanted();
    this.#listenTo(wanted.slice(0, STREAMS));
    const now = performance.now();
    const silent = wanted.filter((id) => now - (this.#heardAt.get(id) ?? -Infinity) > SILENCE_MS);
    if (silent.length > 0 && !this.#isAsking && document.visibilityState === 'visible') this.#askFor(silent);
  }

  /** @param {string[]} ids */
  #listenTo(ids) {
    for (const [id, stream] of this.#streams) {
      if (ids.includes(id)) continue;
      stream.close();
      this.#streams.delete(id);
    }
    for (const id of ids) {
      if (this.#streams.has(id)) continue;
      const stream = new EventSource(apiUrl(`api/videos/${encodeURIComponent(id)}/events`));
      this.#streams.set(id, stream);
      stream.addEventListener('job', ({ data }) => {
        const job = /** @type {Job} */ (JSON.parse(data));
        // The server ends the stream after a final state, and the browser would open it again.
        if (FINAL_STATES.includes(job.state)) stream.close();
        this.#hear(job);
      });
    }
  }

  /** @param {Job} job */
  #hear(job) {
    this.#heardAt.set(job.id, performance.now());
    this.#onReached(true);
    this.#onJob(job);
  }

  /** @param {string[]} ids */
  async #askFor(ids) {
    this.#isAsking = true;
    try {
      const jobs = await fetchJobs(ids);
      this.#onReached(true);
      for (const job of jobs) this.#hear(job);
      const found = new Set(jobs.map(({ id }) => id));
      for (const id of ids) if (!found.has(id)) this.#onGone(id);
    } catch {
      this.#onReached(false);
      for (const id of ids) this.#heardAt.set(id, performance.now());
    } finally {
      this.#isAsking = false;
    }
  }
}
