// Where the server's endpoints are and what they answer. Addresses are relative to the page, so
// that it also works behind a path prefix.

/** @typedef {{ ice_servers: RTCIceServer[], ttl_seconds: number }} IceServers */

/** Long enough for a slow network, short enough not to hold up a session that needs no TURN. */
const ICE_SERVERS_TIMEOUT_MS = 3000;

/**
 * STUN and TURN servers with short-lived credentials; none when the server cannot say, since a
 * direct path may still be there.
 * @returns {Promise<RTCIceServer[]>}
 */
export async function fetchIceServers() {
  try {
    const response = await fetch(new URL('api/ice-servers', document.baseURI), {
      cache: 'no-store',
      signal: AbortSignal.timeout(ICE_SERVERS_TIMEOUT_MS),
    });
    if (!response.ok) return [];
    const body = /** @type {IceServers} */ (await response.json());
    return Array.isArray(body.ice_servers) ? body.ice_servers : [];
  } catch {
    return [];
  }
}

/**
 * Opens the signalling socket.
 * @param {string | null} resume token of the session that this one carries on from
 */
export function openSignalling(resume) {
  const url = new URL('api/session', document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  if (resume) url.searchParams.set('resume', resume);
  return new WebSocket(url);
}

/** Whether the server answers anything at all. */
export async function isReachable() {
  try {
    await fetch(new URL('livez', document.baseURI), { cache: 'no-store', signal: AbortSignal.timeout(ICE_SERVERS_TIMEOUT_MS) });
    return true;
  } catch {
    return false;
  }
}
