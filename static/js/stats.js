// What the page measures: rates, latency and its stages. Pure but for `getStats`; time is passed in.

/** Stages of the server in path order, as in a report's `timings_ms`. */
export const SERVER_STAGES = Object.freeze(['receive', 'decode', 'queue', 'prepare', 'infer', 'track']);

/** What the bar shows: the way there and back first, then the server's stages. */
export const STAGES = Object.freeze(['network', ...SERVER_STAGES]);

/** A capture time giving more than this is a clock that does not mean what we think. */
const LATENCY_LIMIT_MS = 30_000;
const RATE_WINDOW_MS = 2000;
/** Weight of the newest value in the shown averages: settles in about a second at 20 reports/s. */
const SMOOTHING = 0.1;

/**
 * @typedef {object} Figures
 * @property {number | null} sentFps
 * @property {number | null} recognisedFps
 * @property {number | null} annotatedFps
 * @property {number | null} latencyMs end to end, smoothed
 * @property {boolean} isLatencyEstimated computed from round trip and stages, for want of a capture time
 * @property {Record<string, number>} stagesMs by name in `STAGES`, smoothed
 * @property {number} dropped
 * @property {number | null} rttMs
 * @property {string | null} codec
 * @property {number | null} width
 * @property {number | null} height
 * @property {number | null} sentKbps
 */

export class Stats {
  /** @type {Figures} */ figures = blank();
  /** @type {number[]} arrival times of recent reports, ms */ #arrivals = [];
  /** @type {RTCPeerConnection | null} */ #pc = null;
  /** @type {Map<string, { at: number, frames: number, bytes: number }>} */ #previous = new Map();

  reset() {
    this.figures = blank();
    this.#arrivals = [];
    this.#previous.clear();
    this.#pc = null;
  }

  /**
   * Takes a report in and gives its latency.
   * @param {any} report
   * @param {number} nowMs monotonic
   * @param {number} wallMs since 1970, by this machine's clock
   */
  addReport(report, nowMs, wallMs) {
    const { figures } = this;
    this.#arrivals.push(nowMs);
    this.#forget(nowMs);
    figures.dropped = report.dropped ?? 0;

    const timings = report.timings_ms ?? {};
    const total = timings.total ?? 0;
    const measured = typeof report.captured_ms === 'number' ? wallMs - report.captured_ms : NaN;
    const isMeasured = measured >= 0 && measured < LATENCY_LIMIT_MS;
    const latency = isMeasured ? measured : (figures.rttMs ?? 0) + total;
    figures.isLatencyEstimated = !isMeasured;
    figures.latencyMs = smooth(figures.latencyMs, latency);
    const stages = figures.stagesMs;
    stages.network = smooth(stages.network, Math.max(0, latency - total));
    for (const stage of SERVER_STAGES) stages[stage] = smooth(stages[stage], timings[stage] ?? 0);
    return latency;
  }

  /**
   * Asks the connection for its counters; to be called about once a second.
   * @param {RTCPeerConnection | null} pc
   * @param {number} nowMs
   */
  async poll(pc, nowMs) {
    const { figures } = this;
    this.#forget(nowMs);
    figures.recognisedFps = pc ? (this.#arrivals.length * 1000) / RATE_WINDOW_MS : null;
    if (!pc || pc.connectionState === 'closed') return;
    if (pc !== this.#pc) {
      this.#pc = pc;
      this.#previous.clear();
    }
    const stats = await pc.getStats();
    /** @type {number | null} */
    let remoteRtt = null;
    /** @type {number | null} */
    let pairRtt = null;
    for (const entry of stats.values()) {
      if (entry.type === 'outbound-rtp' && entry.kind === 'video') {
        const rate = this.#rate(entry.id, nowMs, entry.framesSent ?? entry.framesEncoded ?? 0, entry.bytesSent ?? 0);
        figures.sentFps = rate.fps;
        figures.sentKbps = rate.kbps;
        figures.width = entry.frameWidth ?? null;
        figures.height = entry.frameHeight ?? null;
        const codec = stats.get(entry.codecId);
        figures.codec = codec?.mimeType ? codec.mimeType.replace(/^video\//i, '') : null;
      } else if (entry.type === 'inbound-rtp' && entry.kind === 'video') {
        figures.annotatedFps = this.#rate(entry.id, nowMs, entry.framesDecoded ?? 0, 0).fps;
      } else if (entry.type === 'remote-inbound-rtp' && typeof entry.roundTripTime === 'number') {
        remoteRtt = entry.roundTripTime * 1000;
      } else if (entry.type === 'candidate-pair' && entry.nominated && typeof entry.currentRoundTripTime === 'number') {
        pairRtt = entry.currentRoundTripTime * 1000;
      }
    }
    figures.rttMs = pairRtt ?? remoteRtt;
  }

  /** @param {number} nowMs */
  #forget(nowMs) {
    while (this.#arrivals.length > 0 && this.#arrivals[0] < nowMs - RATE_WINDOW_MS) this.#arrivals.shift();
  }

  /**
   * @param {string} id
   * @param {number} at
   * @param {number} frames
   * @param {number} bytes
   */
  #rate(id, at, frames, bytes) {
    const before = this.#previous.get(id);
    this.#previous.set(id, { at, frames, bytes });
    if (!before || at <= before.at) return { fps: null, kbps: null };
    const seconds = (at - before.at) / 1000;
    return { fps: (frames - before.frames) / seconds, kbps: ((bytes - before.bytes) * 8) / 1000 / seconds };
  }
}

/**
 * @param {number | null | undefined} old
 * @param {number} value
 */
function smooth(old, value) {
  return old === null || old === undefined ? value : old + SMOOTHING * (value - old);
}

/** @returns {Figures} */
function blank() {
  return {
    sentFps: null,
    recognisedFps: null,
    annotatedFps: null,
    latencyMs: null,
    isLatencyEstimated: true,
    stagesMs: {},
    dropped: 0,
    rttMs: null,
    codec: null,
    width: null,
    height: null,
    sentKbps: null,
  };
}
