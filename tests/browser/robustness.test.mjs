// What strangers do to the signalling socket, against the service at VIGIE_URL. After each ordeal
// the service must be healthy and hold no session.

import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';

import WebSocket from 'ws';

import { eventually, launch, openPage } from './chromium.mjs';
import { isHealthy, URL_BASE, waitForNoSessions, withoutService } from './service.mjs';

const CYCLES = 50;

function connect() {
  const url = new URL('api/session', URL_BASE);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const socket = new WebSocket(url, { origin: new URL(URL_BASE).origin });
  /** @type {any[]} */
  const heard = [];
  socket.on('message', (data) => heard.push(JSON.parse(String(data))));
  // A refused or reset connection is an outcome here, not a fault.
  socket.on('error', () => {});
  return { socket, heard };
}

/** Opens a socket, or gives null where the service refuses. */
async function open() {
  const connection = connect();
  const isOpen = await new Promise((resolve) => {
    connection.socket.once('open', () => resolve(true));
    connection.socket.once('close', () => resolve(false));
  });
  return isOpen ? connection : null;
}

/** @param {string | Buffer} data */
async function provoke(data) {
  const connection = await open();
  assert.ok(connection, 'the socket opens');
  connection.socket.send(data);
  await eventually('an error message or the end of the socket', () =>
    connection.socket.readyState === WebSocket.CLOSED || connection.heard.some(({ type }) => type === 'error' || type === 'bye'));
  const error = connection.heard.find(({ type }) => type === 'error');
  connection.socket.terminate();
  return error;
}

/** An offer of one video track, complete in form. */
const OFFER = [
  'v=0', 'o=- 4611731400430051336 2 IN IP4 127.0.0.1', 's=-', 't=0 0', 'a=group:BUNDLE 0', 'a=msid-semantic: WMS',
  'm=video 9 UDP/TLS/RTP/SAVPF 96', 'c=IN IP4 0.0.0.0', 'a=ice-ufrag:abcd', 'a=ice-pwd:abcdefghijklmnopqrstuvwx',
  `a=fingerprint:sha-256 ${Array(32).fill('AB').join(':')}`, 'a=setup:actpass', 'a=mid:0', 'a=sendrecv', 'a=rtcp-mux',
  'a=rtpmap:96 VP8/90000', '',
].join('\r\n');

describe('the signalling socket', { skip: withoutService }, () => {
  afterEach(async () => {
    assert.ok(await isHealthy());
    await waitForNoSessions(40_000);
  });

  const nonsense = {
    'no JSON': 'hello',
    'an unfinished object': '{"type":"offer"',
    'another type': '{"type":"launch"}',
    'no type': '{}',
    'an array': '[1,2,3]',
    'null': 'null',
    'binary noise': Buffer.from([0xff, 0x00, 0xc3, 0x28, 0x80]),
    'deep nesting': '['.repeat(20_000),
    'a number for an SDP': '{"type":"offer","sdp":7}',
    'an empty SDP': JSON.stringify({ type: 'offer', sdp: '' }),
    'an SDP of words': JSON.stringify({ type: 'offer', sdp: 'v=0\r\nthe rest is silence\r\n' }),
    'an SDP without a fingerprint': JSON.stringify({ type: 'offer', sdp: OFFER.replace(/a=fingerprint.*\r\n/, '') }),
    'an SDP without a common codec': JSON.stringify({ type: 'offer', sdp: OFFER.replace('VP8', 'H261') }),
    'an SDP with a long line': JSON.stringify({ type: 'offer', sdp: `${OFFER}a=${'x'.repeat(30_000)}\r\n` }),
    '5 MB': JSON.stringify({ type: 'offer', sdp: 'x'.repeat(5_000_000) }),
  };
  for (const [name, data] of Object.entries(nonsense)) {
    // A long attribute is legal: no error needs to come of it, only no harm.
    if (name === 'an SDP with a long line') {
      test(`survives ${name}`, async () => {
        const connection = await open();
        connection?.socket.send(data);
        await eventually('any answer', () => connection?.heard.some(({ type }) => type !== 'welcome') || connection?.socket.readyState === WebSocket.CLOSED);
        connection?.socket.terminate();
      });
    } else {
      test(`refuses ${name}`, async () => {
        const error = await provoke(data);
        if (error) assert.match(error.code, /^[a-z0-9_]+$/, 'a stable code');
      });
    }
  }

  test('survives candidates that make no sense', async () => {
    const connection = await open();
    assert.ok(connection);
    connection.socket.send(JSON.stringify({ type: 'offer', sdp: OFFER }));
    for (const candidate of ['', 'candidate:', 'candidate:1 1 udp 1 999.999.999.999 99999 typ host', 'x'.repeat(10_000), 'candidate:1 1 udp 2122 169.254.169.254 80 typ host']) {
      connection.socket.send(JSON.stringify({ type: 'candidate', candidate, sdpMid: '7', sdpMLineIndex: 65_000 }));
    }
    connection.socket.send(JSON.stringify({ type: 'bye' }));
    await eventually('the end', () => connection.socket.readyState === WebSocket.CLOSED || connection.heard.length > 0);
    connection.socket.terminate();
  });

  test('frees a session whose socket breaks off after the offer', async () => {
    for (let i = 0; i < 5; i += 1) {
      const connection = await open();
      connection?.socket.send(JSON.stringify({ type: 'offer', sdp: OFFER }));
      connection?.socket.terminate();
    }
  });

  test('frees sockets that never say anything when they go', async () => {
    const connections = await Promise.all(Array.from({ length: 10 }, open));
    for (const connection of connections) connection?.socket.terminate();
  });
});

test(`${CYCLES} quick joins and leaves leave nothing behind`, { skip: withoutService }, async () => {
  const browser = await launch();
  try {
    const { page } = await openPage(browser.context, URL_BASE);
    const joined = await page.evaluate(async ({ cycles, parallel }) => {
      const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 320, height: 240 } });
      const [track] = stream.getVideoTracks();
      const url = new URL('api/session', location.href);
      url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';

      /** Joins, waits for media or refusal, and leaves: politely, or by breaking off. */
      const visit = (isPolite) => new Promise((resolve) => {
        const socket = new WebSocket(url);
        const pc = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
        const leave = (outcome) => {
          clearTimeout(limit);
          if (isPolite && socket.readyState === WebSocket.OPEN) socket.send('{"type":"bye"}');
          pc.close();
          socket.close();
          resolve(outcome);
        };
        const limit = setTimeout(() => leave('late'), 15_000);
        const say = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
        /** @type {RTCIceCandidate[]} */
        const early = [];
        pc.addTransceiver(track, { direction: 'sendrecv', streams: [stream] });
        pc.createDataChannel('results', { ordered: false, maxRetransmits: 0 });
        pc.createDataChannel('control');
        pc.onconnectionstatechange = () => pc.connectionState === 'connected' && leave('joined');
        pc.onicecandidate = ({ candidate }) => say({ type: 'candidate', candidate: candidate?.candidate ?? '', sdpMid: '0', sdpMLineIndex: 0 });
        socket.onopen = async () => {
          await pc.setLocalDescription();
          say({ type: 'offer', sdp: pc.localDescription?.sdp });
        };
        socket.onmessage = async ({ data }) => {
          const message = JSON.parse(data);
          if (message.type === 'error') leave(message.code);
          if (pc.signalingState === 'closed') return;
          if (message.type === 'answer') {
            await pc.setRemoteDescription({ type: 'answer', sdp: message.sdp });
            for (const candidate of early) pc.addIceCandidate(candidate).catch(() => {});
          } else if (message.type === 'candidate') {
            const { type, ...candidate } = message;
            if (pc.remoteDescription) pc.addIceCandidate(candidate).catch(() => {});
            else early.push(candidate);
          }
        };
        socket.onclose = () => leave('closed');
      });

      const outcomes = [];
      for (let i = 0; i < cycles; i += parallel) {
        outcomes.push(...(await Promise.all(Array.from({ length: parallel }, (_, k) => visit(k % 2 === 0)))));
      }
      track.stop();
      return outcomes;
    }, { cycles: CYCLES, parallel: 2 });
    const unexpected = joined.filter((outcome) => !['joined', 'busy'].includes(outcome));
    assert.deepEqual(unexpected, [], `of ${joined.length} visits`);
    assert.ok(joined.filter((outcome) => outcome === 'joined').length >= CYCLES / 2, `${joined}`);
    assert.ok(await isHealthy());
    await waitForNoSessions(60_000);
  } finally {
    await browser.close();
  }
});
