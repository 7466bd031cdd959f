// A WHEP player (draft-ietf-wish-whep): one POST brings the answer, candidates follow in a PATCH, and
// DELETE says goodbye.

/** Why a POST was refused, and when it is worth another try. */
export class WhepRefusal extends Error {
  /**
   * @param {number} status
   * @param {number | null} retryAfterS
   */
  constructor(status, retryAfterS) {
    super(`refused with ${status}`);
    this.status = status;
    this.retryAfterS = retryAfterS;
  }
}

/**
 * The servers that an endpoint names for those who may watch there, before there is an offer; none
 * when it cannot say, since a direct path may still be there.
 * @param {URL} endpoint
 * @returns {Promise<RTCIceServer[]>}
 */
export async function iceServersOf(endpoint) {
  try {
    const response = await fetch(endpoint, { method: 'OPTIONS', cache: 'no-store' });
    const links = (response.headers.get('link') ?? '').matchAll(/<([^>]+)>((?:; *[\w-]+="[^"]*")*)/g);
    return [...links].flatMap(([, urls, text]) => {
      const of = (/** @type {string} */ name) => new RegExp(`; *${name}="([^"]*)"`).exec(text)?.[1];
      if (of('rel') !== 'ice-server') return [];
      const username = of('username');
      return [username ? { urls, username, credential: of('credential') } : { urls }];
    });
  } catch {
    return [];
  }
}

/** Receives one session's annotated video, until closed. */
export class WhepPlayer {
  /** @type {RTCPeerConnection} */ pc;
  /** @type {string | null} */ #resource = null;
  /** @type {string | null} */ #etag = null;
  /** @type {RTCIceCandidate[]} */ #candidates = [];
  #isClosed = false;

  /**
   * @param {object} events
   * @param {RTCIceServer[]} events.iceServers
   * @param {(stream: MediaStream) => void} events.stream
   * @param {(report: any) => void} events.report
   * @param {(state: RTCPeerConnectionState) => void} events.state
   */
  constructor({ iceServers, stream, report, state }) {
    this.pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle', iceServers });
    this.pc.addTransceiver('video', { direction: 'recvonly' });
    const results = this.pc.createDataChannel('results', { ordered: false, maxRetransmits: 0 });
    results.addEventListener('message', ({ data }) => report(JSON.parse(data)));
    // The channel closes at once when the server ends the session; ICE would take seconds to notice.
    results.addEventListener('close', () => { if (!this.#isClosed) state('closed'); });
    this.pc.addEventListener('track', ({ track, streams }) => stream(streams[0] ?? new MediaStream([track])));
    this.pc.addEventListener('connectionstatechange', () => state(this.pc.connectionState));
    this.pc.addEventListener('icecandidate', ({ candidate }) => {
      if (candidate?.candidate) this.#candidates.push(candidate);
      this.#trickle();
    });
  }

  /** @param {URL} endpoint */
  async play(endpoint) {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    const response = await fetch(endpoint, {
      method: 'POST',
      headers: { 'content-type': 'application/sdp' },
      body: this.pc.localDescription?.sdp,
    });
    if (response.status !== 201) {
      const retryAfter = response.headers.get('retry-after');
      throw new WhepRefusal(response.status, retryAfter === null ? null : Number(retryAfter));
    }
    this.#resource = new URL(response.headers.get('location') ?? '', response.url).href;
    this.#etag = response.headers.get('etag');
    const sdp = await response.text();
    if (this.#isClosed) return this.#sayGoodbye();
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    await this.#trickle();
  }

  close() {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.pc.close();
    this.#sayGoodbye();
  }

  /** Sends what candidates there are; before the answer they wait for its address. */
  async #trickle() {
    if (!this.#resource || !this.#etag || this.#candidates.length === 0 || this.#isClosed) return;
    const candidates = this.#candidates.splice(0);
    const [, ufrag] = /a=ice-ufrag:(\S+)/.exec(this.pc.localDescription?.sdp ?? '') ?? [];
    const [, pwd] = /a=ice-pwd:(\S+)/.exec(this.pc.localDescription?.sdp ?? '') ?? [];
    const lines = [
      `a=ice-ufrag:${ufrag}`, `a=ice-pwd:${pwd}`, 'm=video 9 UDP/TLS/RTP/SAVPF 0', 'a=mid:0',
      ...candidates.map(({ candidate }) => `a=${candidate}`),
    ];
    try {
      await fetch(this.#resource, {
        method: 'PATCH',
        headers: { 'content-type': 'application/trickle-ice-sdpfrag', 'if-match': this.#etag },
        body: `${lines.join('\r\n')}\r\n`,
      });
    } catch {
      // The server finds most candidates by itself, when the first packet comes from them.
    }
  }

  #sayGoodbye() {
    if (!this.#resource) return;
    // It must also arrive when the page is being left.
    fetch(this.#resource, { method: 'DELETE', keepalive: true }).catch(() => {});
    this.#resource = null;
  }
}
