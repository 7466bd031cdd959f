// A scripted far end for tests of the page alone: static files over HTTP, the signalling socket
// played by the test, and a second page of the same browser as the media peer.
// It recognises nothing: it reports what the test tells it to.

import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import path from 'node:path';

const STATIC = path.join(import.meta.dirname, '../../static');
const TYPES = { '.html': 'text/html; charset=utf-8', '.css': 'text/css', '.js': 'text/javascript', '.svg': 'image/svg+xml' };
const POLICY = "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' blob: data:; media-src 'self' blob: data:";

/** Serves `static/` under the policy that the real server sets. */
export async function serveStatic() {
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? '/', 'http://localhost');
    if (pathname === '/api/ice-servers') {
      response.setHeader('content-type', 'application/json');
      response.end('{"ice_servers":[],"ttl_seconds":600}');
      return;
    }
    const name = pathname === '/' ? 'index.html' : path.extname(pathname) === '' ? `${pathname}.html` : pathname;
    const file = path.join(STATIC, path.normalize(name));
    try {
      const body = await readFile(file);
      response.setHeader('content-type', TYPES[path.extname(file)] ?? 'application/octet-stream');
      response.setHeader('content-security-policy', POLICY);
      response.end(body);
    } catch {
      response.statusCode = 404;
      response.end();
    }
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}/`,
    close: () => new Promise((resolve) => {
      server.closeAllConnections();
      server.close(resolve);
    }),
  };
}

export class FarEnd {
  /** @type {import('playwright-core').WebSocketRoute[]} sockets in order of opening */ sockets = [];
  /** @type {any[]} what the page said on its sockets and control channels */ received = [];
  /** @type {(socket: import('playwright-core').WebSocketRoute, n: number) => boolean} whether to serve the n-th socket */
  accept = () => true;
  /** @type {import('playwright-core').Page} */ #peer;

  /**
   * @param {import('playwright-core').BrowserContext} context
   * @param {string} url of the static files
   */
  static async install(context, url) {
    const end = new FarEnd();
    end.#peer = await context.newPage();
    await end.#peer.goto(url);
    await end.#peer.exposeFunction('tellPage', (/** @type {number} */ n, /** @type {object} */ message) => end.send(message, n));
    await end.#peer.exposeFunction('noteControl', (/** @type {any} */ message) => end.received.push(message));
    await end.#peer.evaluate(installPeer);
    await context.routeWebSocket(/\/api\/session/, (socket) => {
      const n = end.sockets.push(socket) - 1;
      if (!end.accept(socket, n)) return;
      end.send({
        type: 'welcome', session: `w1.test${n}`, resume: `resume${n}`,
        models: { faces: 'blazeface@1', gender: 'faceres@1', objects: 'centernet@1', 'text-detect': 'ppocr-detect@1', 'text-read': 'ppocr-read@1' },
        tasks: { faces: true, gender: true, objects: true },
      }, n);
      socket.onMessage((data) => {
        const message = JSON.parse(String(data));
        end.received.push(message);
        // What is said while the browser closes is heard by nobody.
        end.#peer.evaluate(([index, said]) => window.hear(index, said), [n, message]).catch(() => {});
      });
    });
    return end;
  }

  /** @param {object} message @param {number} [n] which socket; the newest by default */
  send(message, n = this.sockets.length - 1) {
    this.sockets[n].send(JSON.stringify(message));
  }

  /** Sends reports like `report`, 20 a second, or none. @param {object | null} report */
  async report(report) {
    await this.#peer.evaluate((wanted) => window.reportEach(wanted), report);
  }

  /** @param {object} message */
  async control(message) {
    await this.#peer.evaluate((wanted) => window.sendControl(wanted), message);
  }

  /** Drops every media connection without a word. */
  async vanish() {
    await this.#peer.evaluate(() => window.vanish());
  }
}

/** Runs in the peer's page: answers offers, echoes the video back, reports what it is told to. */
function installPeer() {
  /** @type {Map<number, { pc: RTCPeerConnection, results?: RTCDataChannel, control?: RTCDataChannel }>} */
  const peers = new Map();
  let report = null;
  let seq = 0;

  Object.assign(window, {
    async hear(n, message) {
      if (message.type === 'offer') {
        const peer = peers.get(n) ?? open(n);
        await peer.pc.setRemoteDescription({ type: 'offer', sdp: message.sdp });
        await peer.pc.setLocalDescription();
        window.tellPage(n, { type: 'answer', sdp: peer.pc.localDescription.sdp });
      } else if (message.type === 'candidate' && message.candidate) {
        const { type, ...init } = message;
        await peers.get(n)?.pc.addIceCandidate(init).catch(() => {});
      } else if (message.type === 'bye') {
        peers.get(n)?.pc.close();
        peers.delete(n);
      }
    },
    reportEach(wanted) {
      report = wanted;
    },
    sendControl(message) {
      for (const { control } of peers.values()) if (control?.readyState === 'open') control.send(JSON.stringify(message));
    },
    vanish() {
      for (const { pc } of peers.values()) pc.close();
      peers.clear();
    },
  });

  function open(n) {
    const peer = { pc: new RTCPeerConnection({ bundlePolicy: 'max-bundle' }) };
    peers.set(n, peer);
    peer.pc.onicecandidate = ({ candidate }) => window.tellPage(n, { type: 'candidate', ...(candidate?.toJSON() ?? { candidate: '', sdpMid: '0', sdpMLineIndex: 0 }) });
    peer.pc.ontrack = ({ track, transceiver }) => {
      transceiver.direction = 'sendrecv';
      transceiver.sender.replaceTrack(track);
    };
    peer.pc.ondatachannel = ({ channel }) => {
      peer[channel.label] = channel;
      if (channel.label === 'control') channel.onmessage = ({ data }) => window.noteControl(JSON.parse(data));
    };
    return peer;
  }

  setInterval(() => {
    if (!report) return;
    seq += 1;
    for (const { results } of peers.values()) {
      if (results?.readyState === 'open') results.send(JSON.stringify({ ...report, seq, captured_ms: Date.now() - report.latency_ms - 4 * Math.sin(seq / 9) }));
    }
  }, 50);
}
