// A recognition session as the reader sees it: it outlives links, reconnects with growing pauses,
// waits when the server is full, and moves to another worker without a gap when asked to.

import { Link } from './link.js';

/** @typedef {import('./link.js').Settings} Settings */
/** @typedef {import('./link.js').Loss} Loss */
/** @typedef {import('./source.js').Source} Source */
/** @typedef {'idle' | 'opening' | 'connecting' | 'live' | 'reconnecting' | 'busy' | 'ended'} State */

/** Pauses between attempts; the last repeats. */
const BACKOFF_MS = [500, 1000, 2000, 4000, 8000, 15000];
/** Between attempts to move to another worker while this one still serves, if the server names no pause. */
const MOVE_PAUSE_SECONDS = 2;
/** A successor whose media flows takes over by then, results or not: with every task off there are none. */
const RESULTS_LIMIT_MS = 3000;
/** Spreads the return of many pages after a server restart. */
const JITTER = 0.2;

/**
 * Bits a second that each height is worth: enough for recognition, little enough for a phone's
 * uplink. The server's side has no congestion control of its own, so the cap matters.
 * @type {readonly (readonly [height: number, bitrate: number])[]}
 */
const BITRATES = [[240, 500_000], [480, 1_500_000], [720, 2_500_000], [1080, 4_000_000]];

/**
 * Frames a second that are sent, by what the server says that it can decode.
 * @type {Readonly<Record<string, number>>}
 */
const FRAME_RATES = { camera_full: 30, camera_half_rate: 15, camera_quarter_rate: 7.5 };

/**
 * Dispatches `state`, `report`, `welcome`, `settings`, `annotated`, `notice` and `message` events.
 */
export class Session extends EventTarget {
  /** @type {State} */ state = 'idle';
  /** @type {string | null} */ id = null;
  /** @type {any} */ lastReport = null;
  /** @type {Settings} what the reader asked for, sent whole to each new link */ settings;
  /** @type {Link | null} */ #link = null;
  /** @type {Link | null} the link that takes over from `#link` once it has results */ #successor = null;
  /** @type {(() => void) | null} has the successor, whose media flows, take over */ #takeOver = null;
  /** @type {Source | null} */ #source = null;
  #isRelayOnly = false;
  /** The worker of `#link` is leaving: only another one will do. */
  #mustMove = false;
  /** @type {number | undefined} */ #moveTimer;
  #attempts = 0;
  /** @type {number | undefined} */ #timer;
  /** @type {(() => void) | null} */ #retry = null;

  /** @param {Settings} settings */
  constructor(settings) {
    super();
    this.settings = settings;
    addEventListener('online', () => this.retryNow());
  }

  get pc() {
    return this.#link?.pc ?? null;
  }

  /** Opens the session with the source's picture. @param {Source} source */
  start(source) {
    this.stop();
    this.#source = source;
    this.#attempts = 0;
    this.#become('connecting');
    this.#open();
  }

  /** Ends the session; the source stays open. */
  stop() {
    this.#unschedule();
    this.#mustMove = false;
    this.#dismissSuccessor();
    this.#link?.close();
    this.#link = null;
    this.#source = null;
    this.id = null;
    this.lastReport = null;
    this.#become('idle');
  }

  /** Sends another picture over the same connection. @param {Source} source */
  async replaceSource(source) {
    this.#source = source;
    for (const link of [this.#link, this.#successor]) {
      if (!link) continue;
      await link.sender.replaceTrack(source.track);
      await limitSender(link, source);
    }
  }

  /** Changes settings, now and for links to come. @param {Settings} change */
  configure(change) {
    this.settings = { ...this.settings, ...change, tasks: { ...this.settings.tasks, ...change.tasks } };
    this.#link?.sendSettings(change);
    this.#successor?.sendSettings(change);
  }

  /** Whether media may go through a TURN server only; in mid-call it moves there without a gap. @param {boolean} isRelayOnly */
  useRelayOnly(isRelayOnly) {
    if (isRelayOnly === this.#isRelayOnly) return;
    this.#isRelayOnly = isRelayOnly;
    // A successor was made for what was wished before. A link that does not serve yet is looked at when it does.
    const wasMoving = this.#successor !== null;
    this.#dismissSuccessor();
    if ((wasMoving || this.state === 'live') && (this.#mustMove || this.#link?.isRelayOnly !== isRelayOnly)) this.#migrate();
  }

  /** Cuts the pause before the next attempt short. */
  retryNow() {
    const retry = this.#retry;
    this.#unschedule();
    retry?.();
  }

  #open() {
    if (!this.#source) return;
    this.#mustMove = false;
    this.#link = this.#makeLink(this.#source);
  }

  /** @param {Source} source */
  #makeLink(source) {
    /** @type {MediaStream | null} */
    let annotated = null;
    /** @type {import('./link.js').Welcome | null} */
    let welcome = null;
    // The results channel is unordered: a late report must not undo a newer one.
    let newestSeq = -1;
    const present = () => {
      if (welcome) {
        this.id = welcome.session;
        this.#tell('welcome', welcome);
      }
      if (annotated) this.#tell('annotated', annotated);
    };
    const isCurrent = () => /** @type {boolean} */ (link === this.#link);
    /** @type {Link} */
    const link = new Link({
      stream: source.stream,
      track: source.track,
      isRelayOnly: this.#isRelayOnly,
      events: {
        welcome: (message) => {
          welcome = message;
          if (isCurrent()) present();
        },
        annotated: (stream) => {
          annotated = stream;
          if (isCurrent()) present();
        },
        connected: () => {
          const serve = () => {
            if (link === this.#successor) this.#promote();
            if (!isCurrent()) return;
            present();
            this.#attempts = 0;
            this.#become('live');
            // The wish may have changed while the link was made.
            if (link.isRelayOnly !== this.#isRelayOnly) this.#migrate();
          };
          if (isCurrent()) {
            serve();
          } else {
            // Until its first result the old link still has newer ones.
            this.#takeOver = serve;
            setTimeout(() => link === this.#successor && serve(), RESULTS_LIMIT_MS);
          }
        },
        interrupted: () => {
          this.#become('reconnecting');
          this.#tell('message', { key: 'network_changed' });
        },
        report: (report) => {
          if (link === this.#successor) this.#takeOver?.();
          if (!isCurrent() || report.seq < newestSeq) return;
          newestSeq = report.seq;
          this.lastReport = report;
          this.#tell('report', report);
        },
        controllable: () => link.sendSettings(this.settings),
        control: (message) => isCurrent() && this.#handleControl(link, message),
        migrate: () => {
          if (!isCurrent()) return;
          this.#mustMove = true;
          this.#migrate();
        },
        warning: (code, detail) => this.#tell('message', { key: 'server_refused', code, values: { detail: detail || code } }),
        lost: (loss) => this.#handleLoss(link, loss),
      },
    });
    limitSender(link, source);
    return link;
  }

  /** Opens the successor; the old link serves until the new one has media. */
  #migrate() {
    clearTimeout(this.#moveTimer);
    if (this.#successor || !this.#link || !this.#source) return;
    this.#successor = this.#makeLink(this.#source);
  }

  #dismissSuccessor() {
    this.#successor?.close();
    this.#successor = null;
    this.#takeOver = null;
  }

  #promote() {
    const old = this.#link;
    this.#link = this.#successor;
    this.#successor = null;
    this.#takeOver = null;
    this.#mustMove = false;
    old?.close();
  }

  /**
   * @param {Link} link
   * @param {any} message
   */
  #handleControl(link, message) {
    const detail = message.message || message.code;
    if (message.type === 'settings') this.#tell('settings', message);
    else if (message.type === 'notice') {
      const rate = FRAME_RATES[message.code];
      if (rate && this.#source) {
        link.frameRate = rate;
        limitSender(link, this.#source);
      }
      this.#tell('notice', { code: String(message.code), detail });
    }
    else if (message.type === 'error') this.#tell('message', { key: 'server_refused', code: message.code, values: { detail } });
  }

  /**
   * @param {Link} link
   * @param {Loss} loss
   */
  #handleLoss(link, loss) {
    if (link === this.#successor) {
      // The old link may still serve; if it does not, its own loss brings the session back.
      this.#successor = null;
      if (loss.cause === 'no_relay') this.#tell('message', { key: 'no_relay' });
      this.#takeOver = null;
      if (this.#mustMove) {
        this.#moveTimer = setTimeout(() => this.#mustMove && this.#migrate(), (loss.retryAfterSeconds ?? MOVE_PAUSE_SECONDS) * 1000);
      }
      return;
    }
    if (link !== this.#link) return;
    if (this.#takeOver) {
      this.#takeOver();
      return;
    }
    this.#link = null;
    if (this.#successor) {
      this.#link = this.#successor;
      this.#successor = null;
      this.#mustMove = false;
      this.#become('reconnecting');
      return;
    }
    switch (loss.cause) {
      case 'bye':
        // A worker that was leaving could not wait for the move: that is its end, not the session's.
        if (this.#mustMove) this.#reconnect({ cause: 'lost' });
        else this.#end(loss.detail ? 'session_ended' : 'session_ended_plain', loss);
        break;
      case 'no_relay':
        this.#end('no_relay', loss);
        break;
      case 'refused':
        this.#end(loss.code === 'codec_unsupported' ? 'codec_unsupported' : 'server_refused', loss);
        break;
      case 'waiting':
        this.#schedule('busy', loss.code === 'busy' ? 'busy' : 'not_ready', (loss.retryAfterSeconds ?? 1) * 1000);
        break;
      default:
        this.#reconnect(loss);
    }
  }

  /** @param {Loss} loss */
  #reconnect(loss) {
    const pause = BACKOFF_MS[Math.min(this.#attempts, BACKOFF_MS.length - 1)];
    this.#attempts += 1;
    const key = loss.cause === 'no_media_path' ? 'no_media_path' : loss.cause === 'unreachable' ? 'server_unreachable' : 'connection_lost';
    this.#schedule('reconnecting', key, pause * (1 + JITTER * (2 * Math.random() - 1)));
  }

  /**
   * @param {State} state
   * @param {string} key of the message that counts the pause down
   * @param {number} pauseMs
   */
  #schedule(state, key, pauseMs) {
    this.#unschedule();
    this.#become(state);
    this.#retry = () => this.#open();
    const due = performance.now() + pauseMs;
    const tick = () => {
      const left = due - performance.now();
      if (left <= 0) {
        this.retryNow();
        return;
      }
      this.#tell('message', { key, values: { seconds: Math.ceil(left / 1000) }, canRetry: true });
      this.#timer = setTimeout(tick, Math.min(1000, left));
    };
    tick();
  }

  #unschedule() {
    clearTimeout(this.#timer);
    this.#retry = null;
  }

  /**
   * @param {string} key
   * @param {Loss} loss
   */
  #end(key, loss) {
    this.#unschedule();
    this.#become('ended');
    this.#tell('message', { key, code: loss.code, values: { detail: loss.detail ?? loss.code ?? '' }, isFinal: true });
  }

  /** @param {State} state */
  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.#tell('state', state);
  }

  /**
   * @param {string} type
   * @param {unknown} detail
   */
  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/**
 * Keeps what is sent within the chosen size and its bitrate, whatever the source delivers.
 * @param {Link} link
 * @param {Source} source
 */
async function limitSender({ sender, frameRate }, source) {
  const height = source.sentHeight();
  const scale = Math.max(1, height / source.chosen.height);
  const bitrate = BITRATES.find(([limit]) => Math.min(height, source.chosen.height) <= limit)?.[1] ?? BITRATES[BITRATES.length - 1][1];
  const parameters = sender.getParameters();
  if (!parameters.encodings?.length) return;
  // Recognition needs detail more than it needs every frame.
  parameters.degradationPreference = 'maintain-resolution';
  Object.assign(parameters.encodings[0], { scaleResolutionDownBy: scale, maxBitrate: bitrate, maxFramerate: frameRate });
  try {
    await sender.setParameters(parameters);
  } catch {
    // Some browsers refuse before negotiation; the picture is then sent as it is.
  }
}
