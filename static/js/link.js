// One session on one worker: a peer connection, and the signalling socket that it is arranged over.
// When the socket breaks off it is opened again, when media does ICE is restarted, and when both do
// one comes after the other. What does not come back in time is lost: `session.js` then makes a new
// link.

import { fetchIceServers, isReachable, openSignalling, whyRefused } from './api.js';

/**
 * Settings of the `control` channel; the client may send any subset.
 * @typedef {object} Settings
 * @property {{ faces?: boolean, gender?: boolean, objects?: boolean, text?: boolean }} [tasks]
 * @property {number} [threshold] 0 to 1
 * @property {'overlay' | 'annotated' | 'both'} [output]
 * @property {number} [max_rate] recognised frames a second
 */

/**
 * @typedef {object} Welcome
 * @property {string} session
 * @property {RTCIceServer[]} [ice_servers] with credentials of this session
 * @property {string} [resume]
 * @property {string} [watch] shows the annotated picture to whoever has it
 * @property {Record<string, string>} [models] task to `name@version`
 * @property {Record<string, boolean>} [tasks]
 */

/**
 * Why a link is no more.
 * @typedef {object} Loss
 * @property {'unreachable' | 'lost' | 'no_media_path' | 'no_relay' | 'waiting' | 'bye' | 'refused'} cause
 * @property {string} [code] the server's error code
 * @property {string} [detail] the server's own words
 * @property {number} [retryAfterSeconds]
 */

/**
 * What a link tells its session. Nothing is called after `lost`, nor after `close`.
 * @typedef {object} LinkEvents
 * @property {(welcome: Welcome) => void} welcome
 * @property {() => void} connected media flows (again)
 * @property {() => void} interrupted media stopped; a new path is being looked for
 * @property {(stream: MediaStream) => void} annotated the server's video
 * @property {(report: any) => void} report
 * @property {() => void} controllable the control channel is open
 * @property {(message: any) => void} control a message of the control channel
 * @property {() => void} migrate this link's worker is leaving, or has gone: a new link is needed
 * @property {(code: string, detail: string) => void} warning
 * @property {(loss: Loss) => void} lost
 */

/** A connection that recovers by itself does so within this time. */
const DISCONNECTED_GRACE_MS = 2000;
/** From the offer to connected media, relays over TCP included. */
const CONNECT_LIMIT_MS = 15000;
/** A connection from which nothing has come for this long is gone; the browser's own verdict takes twice as long. */
const SILENCE_LIMIT_MS = 3000;
const WATCH_INTERVAL_MS = 500;
/** A session whose media stopped is kept by the server for somewhat longer than this. */
const RETURN_LIMIT_MS = 12000;
/** A socket that brings no answer by then hangs: its network has gone without a word. */
const ANSWER_LIMIT_MS = 2000;
/** Between ICE restarts: one that began without a network does not see it come back. */
const RESTART_PAUSE_MS = 4000;
/** Between attempts to reopen the socket. */
const REATTACH_PAUSE_MS = 1000;
/** Refusals in a row, by a server that can be reached, after which the session is not there any more. */
const REFUSALS = 2;
/** When the server is not ready and does not say for how long. */
const RETRY_AFTER_SECONDS = 3;

/** Error codes that pass by themselves. */
const PASSING_CODES = new Set([
  'busy', 'draining', 'no_worker', 'too_many_requests', 'too_many_sockets', 'too_many_connections',
]);
/** Error codes after which trying again cannot help. */
const FINAL_CODES = new Set([
  'codec_unsupported', 'offer_refused', 'token_required', 'token_expired', 'token_invalid', 'host_refused',
]);
/** Error codes that mean nothing to the reader: other candidates remain. */
const QUIET_CODES = new Set(['candidate_refused']);

/**
 * Puts one codec first, where the browser has it: `?codec=h264` on the page's address.
 * @param {RTCRtpTransceiver} transceiver
 * @param {string | null} name
 */
function preferCodec(transceiver, name) {
  const codecs = RTCRtpReceiver.getCapabilities('video')?.codecs ?? [];
  const isWanted = ({ mimeType }) => mimeType.toLowerCase() === `video/${name?.toLowerCase()}`;
  if (!codecs.some(isWanted)) return;
  transceiver.setCodecPreferences([...codecs.filter(isWanted), ...codecs.filter((codec) => !isWanted(codec))]);
}

export class Link {
  /** @type {RTCPeerConnection} */ pc;
  /** @type {RTCRtpSender} */ sender;
  /** Media goes through a TURN server, or not at all. @readonly @type {boolean} */ isRelayOnly;
  /** Frames a second that are sent at the most. */
  frameRate = 30;
  /** @type {WebSocket} */ #socket;
  /** @type {RTCDataChannel} */ #results;
  /** @type {RTCDataChannel} */ #control;
  /** @type {LinkEvents} */ #events;
  /** @type {RTCConfiguration} without the servers, whose credentials expire */ #configuration;
  /** @type {object[]} messages waiting for the socket to open */ #outbox = [];
  /** @type {RTCIceCandidateInit[]} candidates that came before the answer */ #early = [];
  /** @type {number | undefined} */ #deadline;
  /** @type {number | undefined} */ #watchdog;
  /** @type {number | undefined} */ #reattachment;
  /** @type {string | null} */ #session = null;
  /** @type {string | null} token that attaches a new socket to this session */ #resume = null;
  /** @type {number | undefined} what an ICE restart waits for: its answer, then the time for the next */ #restart;
  #lastMediaSign = 0;
  #received = 0;
  #refusals = 0;
  #wasOpen = false;
  #wasConnected = false;
  /** Media stopped, and a new path is being looked for. */
  #isInterrupted = false;
  #isClosed = false;

  /**
   * @param {object} parts
   * @param {MediaStream} parts.stream
   * @param {MediaStreamTrack} parts.track
   * @param {boolean} parts.isRelayOnly
   * @param {LinkEvents} parts.events
   */
  constructor({ stream, track, isRelayOnly, events }) {
    this.#events = events;
    this.isRelayOnly = isRelayOnly;
    this.#configuration = { bundlePolicy: 'max-bundle', iceTransportPolicy: isRelayOnly ? 'relay' : 'all' };
    this.pc = new RTCPeerConnection(this.#configuration);
    const transceiver = this.pc.addTransceiver(track, { direction: 'sendrecv', streams: [stream] });
    preferCodec(transceiver, new URLSearchParams(location.search).get('codec'));
    this.sender = transceiver.sender;
    this.#results = this.pc.createDataChannel('results', { ordered: false, maxRetransmits: 0 });
    this.#control = this.pc.createDataChannel('control');
    this.#listenToPeer();

    this.#socket = openSignalling(null);
    this.#listenToSocket(this.#socket);
    this.#deadline = setTimeout(() => this.#lose({ cause: this.#wasOpen ? 'no_media_path' : 'unreachable' }), CONNECT_LIMIT_MS);
  }

  get #hasMedia() {
    return this.#wasConnected && !this.#isInterrupted && performance.now() - this.#lastMediaSign < SILENCE_LIMIT_MS / 2;
  }

  get canControl() {
    return this.#control.readyState === 'open';
  }

  /** @param {Settings} settings */
  sendSettings(settings) {
    if (this.canControl) this.#control.send(JSON.stringify({ type: 'settings', ...settings }));
  }

  /** Says goodbye and frees everything. */
  close() {
    if (this.#isClosed) return;
    this.#send({ type: 'bye' });
    this.#free();
  }

  #free() {
    this.#isClosed = true;
    clearTimeout(this.#deadline);
    clearInterval(this.#watchdog);
    clearTimeout(this.#reattachment);
    clearTimeout(this.#restart);
    this.#results.close();
    this.#control.close();
    this.pc.close();
    this.#socket.close();
  }

  /** @param {Loss} loss */
  #lose(loss) {
    if (this.#isClosed) return;
    this.#free();
    this.#events.lost(loss);
  }

  #listenToPeer() {
    const { pc } = this;
    pc.onicecandidate = ({ candidate }) => this.#send({
      type: 'candidate',
      candidate: candidate?.candidate ?? '',
      sdpMid: candidate?.sdpMid ?? '0',
      sdpMLineIndex: candidate?.sdpMLineIndex ?? 0,
      usernameFragment: candidate?.usernameFragment ?? null,
    });
    pc.onconnectionstatechange = () => this.#handleConnectionState();
    pc.ontrack = ({ receiver, streams, track }) => {
      // The annotated picture is for now, not for later: smoothness gives way to delay.
      if ('jitterBufferTarget' in receiver) receiver.jitterBufferTarget = 0;
      this.#events.annotated(streams[0] ?? new MediaStream([track]));
    };

    this.#results.onmessage = ({ data }) => {
      this.#noteMediaSign();
      const report = parse(data);
      if (report && Array.isArray(report.tracks)) this.#events.report(report);
    };
    this.#control.onopen = () => !this.#isClosed && this.#events.controllable();
    this.#control.onmessage = ({ data }) => {
      this.#noteMediaSign();
      const message = parse(data);
      if (message) this.#events.control(message);
    };
    // The server closes its channels before it goes; waiting for ICE to notice would take seconds.
    this.#control.onclose = () => this.#lose({ cause: 'lost' });
  }

  /** @param {WebSocket} socket */
  #listenToSocket(socket) {
    let wasOpen = false;
    socket.onopen = () => {
      wasOpen = true;
      this.#wasOpen = true;
      for (const message of this.#outbox.splice(0)) socket.send(JSON.stringify(message));
    };
    socket.onmessage = ({ data }) => {
      const message = parse(data);
      if (message && !this.#isClosed && socket === this.#socket) this.#handleSignal(message);
    };
    socket.onclose = () => {
      if (this.#isClosed || socket !== this.#socket) return;
      if (!this.#wasOpen) this.#explainRefusal();
      else if (!this.#wasConnected || !this.#resume) this.#lose({ cause: 'lost' });
      else this.#carryOnWithoutSocket(wasOpen);
    };
  }

  async #explainRefusal() {
    const refusal = await whyRefused();
    if (this.#isClosed) return;
    if (refusal) this.#handleError(refusal);
    // What is neither final nor passing by itself is tried again.
    this.#lose({ cause: 'unreachable' });
  }

  /**
   * Media does not pass through the signalling server and may outlive it: the socket is reopened meanwhile.
   * @param {boolean} wasOpen whether the socket that is gone had been open
   */
  async #carryOnWithoutSocket(wasOpen) {
    if (wasOpen) this.#refusals = 0;
    else if (await isReachable()) this.#refusals += 1;
    if (this.#isClosed) return;
    if (this.#refusals >= REFUSALS) this.#lose({ cause: 'lost' });
    else this.#reattachment = setTimeout(() => this.#reattach(), REATTACH_PAUSE_MS);
  }

  #reattach() {
    this.#socket = openSignalling(this.#resume);
    this.#listenToSocket(this.#socket);
  }

  #watchMedia() {
    this.#watchdog ??= setInterval(async () => {
      // Results may be few, and the annotated video off: any packet is a sign.
      const received = await countReceived(this.pc);
      if (received > this.#received) this.#noteMediaSign();
      this.#received = received;
      if (!this.#isClosed && !this.#isInterrupted && performance.now() - this.#lastMediaSign > SILENCE_LIMIT_MS) this.#restartIce();
    }, WATCH_INTERVAL_MS);
  }

  #noteMediaSign() {
    this.#lastMediaSign = performance.now();
    // Where the browser had not noticed that the path was gone it does not say that there is one either.
    if (this.#isInterrupted && this.pc.connectionState === 'connected') this.#noteConnected();
  }

  #noteConnected() {
    clearTimeout(this.#deadline);
    clearTimeout(this.#restart);
    this.#deadline = undefined;
    this.#wasConnected = true;
    this.#isInterrupted = false;
    this.#lastMediaSign = performance.now();
    this.#watchMedia();
    this.#events.connected();
  }

  /** @param {any} message */
  async #handleSignal(message) {
    switch (message.type) {
      case 'welcome':
        this.#resume = message.resume ?? null;
        this.#refusals = 0;
        if (this.#isInterrupted) this.#restartIce();
        this.#events.welcome(message);
        if (!this.#session) this.#begin(message);
        break;
      case 'answer':
        await this.#handleAnswer(String(message.sdp));
        break;
      case 'candidate':
        await this.#handleCandidate(message);
        break;
      case 'migrate':
        this.#events.migrate();
        break;
      case 'bye':
        this.#lose({ cause: 'bye', detail: message.reason });
        break;
      case 'error':
        this.#handleError(message);
        break;
    }
  }

  /** @param {{ code?: string, message?: string, retry_after_s?: number }} error */
  #handleError({ code = 'unknown', message = '', retry_after_s }) {
    if (this.#hasMedia && (PASSING_CODES.has(code) || code === 'unknown_session')) {
      // This front cannot reach the worker just now, but the worker is there: the next socket may do better.
    } else if (PASSING_CODES.has(code)) {
      this.#lose({ cause: 'waiting', code, detail: message, retryAfterSeconds: retry_after_s ?? RETRY_AFTER_SECONDS });
    } else if (FINAL_CODES.has(code)) {
      this.#lose({ cause: 'refused', code, detail: message });
    } else if (code === 'unknown_session') {
      this.#lose({ cause: 'lost' });
    } else if (code === 'worker_lost') {
      // The front has seen its worker go. Media would show it only by its silence.
      this.#events.migrate();
    } else if (!QUIET_CODES.has(code)) {
      this.#events.warning(code, message);
    }
  }

  /** @param {string} sdp */
  async #handleAnswer(sdp) {
    clearTimeout(this.#restart);
    if (this.#isInterrupted) this.#restart = setTimeout(() => this.#restartIce(), RESTART_PAUSE_MS);
    try {
      await this.pc.setRemoteDescription({ type: 'answer', sdp });
    } catch (error) {
      this.#lose({ cause: 'refused', code: 'bad_answer', detail: String(error) });
      return;
    }
    const direction = this.pc.getTransceivers()[0]?.currentDirection;
    if (direction !== 'sendrecv' && direction !== 'sendonly') {
      this.#lose({ cause: 'refused', code: 'codec_unsupported', detail: '' });
      return;
    }
    for (const candidate of this.#early.splice(0)) await this.#addCandidate(candidate);
  }

  /** @param {RTCIceCandidateInit} init */
  async #handleCandidate({ candidate, sdpMid, sdpMLineIndex }) {
    const init = { candidate, sdpMid, sdpMLineIndex };
    if (this.pc.remoteDescription) await this.#addCandidate(init);
    else this.#early.push(init);
  }

  /** @param {RTCIceCandidateInit} init */
  async #addCandidate(init) {
    try {
      await this.pc.addIceCandidate(init);
    } catch {
      // A candidate this browser cannot use (an address family, a late one) leaves the others.
    }
  }

  /** Offers media once the servers for it are known. @param {Welcome} welcome */
  #begin({ session, ice_servers: iceServers = [] }) {
    this.#session = session;
    const isRelay = (/** @type {string} */ url) => /^turns?:/.test(url);
    if (this.isRelayOnly && !iceServers.some(({ urls }) => [urls].flat().some(isRelay))) {
      this.#lose({ cause: 'no_relay' });
      return;
    }
    this.pc.setConfiguration({ ...this.#configuration, iceServers });
    this.#offer();
  }

  async #offer() {
    try {
      await this.pc.setLocalDescription(await this.pc.createOffer());
    } catch (error) {
      if (!this.#isClosed) this.#lose({ cause: 'refused', code: 'bad_offer', detail: String(error) });
      return;
    }
    if (!this.#isClosed) this.#send({ type: 'offer', sdp: this.pc.localDescription?.sdp });
  }

  #handleConnectionState() {
    switch (this.pc.connectionState) {
      case 'connected':
        this.#noteConnected();
        break;
      case 'disconnected':
        if (!this.#isInterrupted) this.#await(DISCONNECTED_GRACE_MS, () => this.#restartIce());
        break;
      case 'failed':
        if (this.#wasConnected) this.#restartIce();
        else this.#lose({ cause: 'no_media_path' });
        break;
    }
  }

  /** Replaces the running deadline. @param {number} ms @param {() => void} then */
  #await(ms, then) {
    clearTimeout(this.#deadline);
    this.#deadline = setTimeout(then, ms);
  }

  /** From here on, media comes back within a limit or the link is lost. */
  #interrupt() {
    if (this.#isInterrupted) return;
    this.#isInterrupted = true;
    this.#await(RETURN_LIMIT_MS, () => this.#lose({ cause: 'lost' }));
    this.#events.interrupted();
  }

  async #restartIce() {
    this.#interrupt();
    // Without a socket it waits for the welcome on the next.
    if (this.#socket.readyState !== WebSocket.OPEN) return;
    const iceServers = await fetchIceServers(this.#session);
    if (this.#isClosed || !this.#isInterrupted) return;
    // An empty answer may be the broken network's: the credentials there are may still serve.
    if (iceServers.length > 0) this.pc.setConfiguration({ ...this.#configuration, iceServers });
    clearTimeout(this.#restart);
    this.#restart = setTimeout(() => {
      const hanging = this.#socket;
      this.#reattach();
      hanging.close();
    }, ANSWER_LIMIT_MS);
    this.pc.restartIce();
    this.#offer();
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
    else if (!this.#wasOpen) this.#outbox.push(message);
  }
}

/**
 * Counts what has come from the worker: bytes, and the answers to the browser's own checks of the path.
 * @param {RTCPeerConnection} pc
 */
async function countReceived(pc) {
  let sum = 0;
  for (const report of (await pc.getStats()).values()) {
    if (report.type === 'candidate-pair') sum += (report.bytesReceived ?? 0) + (report.responsesReceived ?? 0);
  }
  return sum;
}

/** A JSON object, or null for anything else. @param {unknown} data @returns {any} */
function parse(data) {
  if (typeof data !== 'string') return null;
  try {
    const value = JSON.parse(data);
    return value !== null && typeof value === 'object' ? value : null;
  } catch {
    return null;
  }
}
