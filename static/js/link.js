// One signalling socket and one peer connection: from the offer until either is gone.
// It restarts ICE and reopens the socket under live media by itself; it does not retry beyond
// that: `session.js` does, with a new link.

import { fetchIceServers, openSignalling } from './api.js';

/**
 * Settings of the `control` channel; the client may send any subset.
 * @typedef {object} Settings
 * @property {{ faces?: boolean, gender?: boolean, objects?: boolean }} [tasks]
 * @property {number} [threshold] 0 to 1
 * @property {'overlay' | 'annotated' | 'both'} [output]
 * @property {number} [max_rate] recognised frames a second
 */

/**
 * @typedef {object} Welcome
 * @property {string} session
 * @property {string} [resume]
 * @property {string} [watch] shows the annotated picture to whoever has it
 * @property {Record<string, string>} [models] task to `name@version`
 * @property {Record<string, boolean>} [tasks]
 */

/**
 * Why a link is no more.
 * @typedef {object} Loss
 * @property {'unreachable' | 'lost' | 'no_media_path' | 'waiting' | 'bye' | 'refused'} cause
 * @property {string} [code] the server's error code
 * @property {string} [detail] the server's own words
 * @property {number} [retryAfterSeconds]
 */

/**
 * What a link tells its session. Nothing is called after `lost`, nor after `close`.
 * @typedef {object} LinkEvents
 * @property {(welcome: Welcome) => void} welcome
 * @property {() => void} connected media flows (again)
 * @property {() => void} interrupted media stopped; ICE is being restarted
 * @property {(stream: MediaStream) => void} annotated the server's video
 * @property {(report: any) => void} report
 * @property {() => void} controllable the control channel is open
 * @property {(message: any) => void} control a message of the control channel
 * @property {() => void} migrate the server asks for a new link before this one goes
 * @property {(code: string, detail: string) => void} warning
 * @property {(loss: Loss) => void} lost
 */

/** A connection that recovers by itself does so within this time. */
const DISCONNECTED_GRACE_MS = 2000;
/** An ICE restart that has not helped by then will not. */
const RESTART_LIMIT_MS = 5000;
/** From the offer to connected media, relays over TCP included. */
const CONNECT_LIMIT_MS = 15000;
/** With the socket gone, media that has been silent this long is gone too. */
const SILENCE_LIMIT_MS = 2000;
/** Between attempts to reopen the socket while media flows: nothing is urgent then. */
const REATTACH_PAUSE_MS = 1000;
/** When the server is not ready and does not say for how long. */
const RETRY_AFTER_SECONDS = 3;

/** Error codes that pass by themselves. */
const PASSING_CODES = new Set(['busy', 'draining', 'no_worker']);
/** Error codes after which trying again cannot help. */
const FINAL_CODES = new Set(['codec_unsupported', 'offer_refused', 'unauthorised', 'forbidden']);
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
  /** @type {string | null} token that attaches a new socket to this session */ #resume = null;
  #lastMediaSign = 0;
  #wasOpen = false;
  #wasConnected = false;
  #isClosed = false;

  /**
   * @param {object} parts
   * @param {MediaStream} parts.stream
   * @param {MediaStreamTrack} parts.track
   * @param {RTCIceServer[]} parts.iceServers
   * @param {boolean} parts.isRelayOnly media goes through a TURN server, or not at all
   * @param {LinkEvents} parts.events
   */
  constructor({ stream, track, iceServers, isRelayOnly, events }) {
    this.#events = events;
    this.#configuration = { bundlePolicy: 'max-bundle', iceTransportPolicy: isRelayOnly ? 'relay' : 'all' };
    this.pc = new RTCPeerConnection({ ...this.#configuration, iceServers });
    const transceiver = this.pc.addTransceiver(track, { direction: 'sendrecv', streams: [stream] });
    preferCodec(transceiver, new URLSearchParams(location.search).get('codec'));
    this.sender = transceiver.sender;
    this.#results = this.pc.createDataChannel('results', { ordered: false, maxRetransmits: 0 });
    this.#control = this.pc.createDataChannel('control');
    this.#listenToPeer();

    this.#socket = openSignalling(null);
    this.#listenToSocket(this.#socket);
    this.#deadline = setTimeout(() => this.#lose({ cause: this.#wasOpen ? 'no_media_path' : 'unreachable' }), CONNECT_LIMIT_MS);
    this.#offer();
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
      this.#lastMediaSign = performance.now();
      const report = parse(data);
      if (report && Array.isArray(report.tracks)) this.#events.report(report);
    };
    this.#control.onopen = () => !this.#isClosed && this.#events.controllable();
    this.#control.onmessage = ({ data }) => {
      this.#lastMediaSign = performance.now();
      const message = parse(data);
      if (message) this.#events.control(message);
    };
    // The server closes its channels before it goes; waiting for ICE to notice would take seconds.
    this.#control.onclose = () => this.#lose({ cause: 'lost' });
  }

  /** @param {WebSocket} socket */
  #listenToSocket(socket) {
    socket.onopen = () => {
      this.#wasOpen = true;
      for (const message of this.#outbox.splice(0)) socket.send(JSON.stringify(message));
    };
    socket.onmessage = ({ data }) => {
      const message = parse(data);
      if (message && !this.#isClosed) this.#handleSignal(message);
    };
    socket.onclose = () => {
      if (this.#isClosed) return;
      if (!this.#wasOpen) this.#lose({ cause: 'unreachable' });
      else if (this.pc.connectionState !== 'connected') this.#lose({ cause: 'lost' });
      else this.#carryOnWithoutSocket();
    };
  }

  /**
   * Media does not pass through the signalling server and may outlive it: the results tell, while
   * the socket is reopened.
   */
  #carryOnWithoutSocket() {
    this.#reattachment = setTimeout(() => {
      if (!this.#resume) return;
      this.#socket = openSignalling(this.#resume);
      this.#listenToSocket(this.#socket);
    }, REATTACH_PAUSE_MS);
    if (this.#watchdog !== undefined) return;
    this.#lastMediaSign = performance.now();
    this.#watchdog = setInterval(() => {
      if (performance.now() - this.#lastMediaSign > SILENCE_LIMIT_MS) this.#lose({ cause: 'lost' });
    }, SILENCE_LIMIT_MS / 4);
  }

  /** @param {any} message */
  async #handleSignal(message) {
    switch (message.type) {
      case 'welcome':
        this.#resume = message.resume ?? null;
        clearInterval(this.#watchdog);
        this.#watchdog = undefined;
        this.#events.welcome(message);
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
    if (PASSING_CODES.has(code)) {
      this.#lose({ cause: 'waiting', code, detail: message, retryAfterSeconds: retry_after_s ?? RETRY_AFTER_SECONDS });
    } else if (FINAL_CODES.has(code)) {
      this.#lose({ cause: 'refused', code, detail: message });
    } else if (code === 'unknown_session') {
      this.#lose({ cause: 'lost' });
    } else if (!QUIET_CODES.has(code)) {
      this.#events.warning(code, message);
    }
  }

  /** @param {string} sdp */
  async #handleAnswer(sdp) {
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
        clearTimeout(this.#deadline);
        this.#deadline = undefined;
        this.#wasConnected = true;
        this.#lastMediaSign = performance.now();
        this.#events.connected();
        break;
      case 'disconnected':
        this.#await(DISCONNECTED_GRACE_MS, () => this.#restartIce());
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

  async #restartIce() {
    if (this.#socket.readyState !== WebSocket.OPEN) {
      this.#lose({ cause: 'lost' });
      return;
    }
    this.#events.interrupted();
    this.#await(RESTART_LIMIT_MS, () => this.#lose({ cause: 'lost' }));
    const iceServers = await fetchIceServers();
    if (this.#isClosed) return;
    // An empty answer may be the broken network's: the credentials there are may still serve.
    if (iceServers.length > 0) this.pc.setConfiguration({ ...this.#configuration, iceServers });
    this.pc.restartIce();
    this.#offer();
  }

  /** @param {object} message */
  #send(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
    else if (!this.#wasOpen) this.#outbox.push(message);
  }
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
