// vigie in a page of one's own: sends a camera's track, calls back with every report, and comes back by itself.
// The page's origin must be among the service's --allowed-origins. What it leaves out, static/js/link.js has: returning to
// a session whose socket broke off, ICE restarts, moving without a gap.

/**
 * Recognises `track` until the returned function is called.
 * @param {string} service such as https://vigie.example.org
 * @param {MediaStreamTrack} track
 * @param {(report: any) => void} onReport see "Reports" in docs/api.md
 * @param {{ token?: string, settings?: object, onState?: (state: string) => void }} [options]
 * @returns {() => void} ends it
 */
export function recognise(service, track, onReport, { token, settings = {}, onState = () => {} } = {}) {
  let end = () => {};
  let isWanted = true;
  const again = async () => {
    for (let pauseS = 0.5; isWanted; pauseS = Math.min(15, pauseS * 2)) {
      onState('connecting');
      const report = (message) => {
        pauseS = 0.5;
        onReport(message);
      };
      const waitS = await new Promise((lost) => {
        end = open(service, track, { report, lost, token, settings, onState });
      });
      if (isWanted) await new Promise((go) => setTimeout(go, (waitS ?? pauseS) * 1000));
    }
    onState('ended');
  };
  again();
  return () => {
    isWanted = false;
    end();
  };
}

/** One session. `lost` is called once, with the seconds to wait where the service names them. */
function open(service, track, { report, lost, token, settings, onState }) {
  const protocols = token ? ['vigie', `vigie.token.${token}`] : ['vigie'];
  const socket = new WebSocket(new URL('/api/session', service.replace(/^http/, 'ws')), protocols);
  /** @type {RTCPeerConnection | undefined} */
  let peer;
  let newest = -1;
  const send = (message) => socket.readyState === WebSocket.OPEN && socket.send(JSON.stringify(message));
  const close = (waitS) => {
    send({ type: 'bye' });
    socket.close();
    peer?.close();
    lost(waitS);
  };

  const offer = async (iceServers) => {
    peer = new RTCPeerConnection({ iceServers });
    peer.addTrack(track);
    const results = peer.createDataChannel('results', { ordered: false, maxRetransmits: 0 });
    const control = peer.createDataChannel('control');
    control.onopen = () => control.send(JSON.stringify({ type: 'settings', ...settings }));
    results.onmessage = ({ data }) => {
      const message = JSON.parse(data);
      // They may come out of order: an older one says nothing new.
      if (message.seq <= newest) return;
      newest = message.seq;
      report(message);
    };
    peer.onicecandidate = ({ candidate }) => send({ type: 'candidate', ...(candidate?.toJSON() ?? { candidate: '' }) });
    peer.onconnectionstatechange = () => {
      if (peer?.connectionState === 'connected') onState('live');
      if (peer?.connectionState === 'failed') close();
    };
    await peer.setLocalDescription();
    send({ type: 'offer', sdp: peer.localDescription?.sdp });
  };

  socket.onmessage = async ({ data }) => {
    const message = JSON.parse(data);
    if (message.type === 'welcome') await offer(message.ice_servers ?? []);
    else if (message.type === 'answer') await peer?.setRemoteDescription(message);
    else if (message.type === 'candidate') await peer?.addIceCandidate(message);
    else if (message.type === 'migrate') close(0);
    else if (message.type === 'bye') close();
    else if (message.type === 'error') close(message.retry_after_s);
  };
  // Media may outlive its socket; this client begins anew instead of returning to it.
  socket.onclose = () => close();
  return close;
}
