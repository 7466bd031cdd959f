// Where the server's endpoints are and what they answer. Addresses are relative to the page, so
// that it also works behind a path prefix.

/** @typedef {{ ice_servers: RTCIceServer[], ttl_seconds: number }} IceServers */
/** @typedef {{ code: string, message: string, retry_after_s?: number }} Refusal */

/** Long enough for a slow network, short enough not to hold up an ICE restart that needs no TURN. */
const ANSWER_TIMEOUT_MS = 3000;
/** Where the token outlives a reload of this tab. */
const TOKEN_KEY = 'vigie.token';

/** @type {string | null} */
let token = null;

/**
 * Takes the token out of the page's address (`#token=`), where it came without being sent to any
 * server, so that it does not stay in the history.
 */
function adoptToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get('token');
  try {
    if (given) sessionStorage.setItem(TOKEN_KEY, given);
    token = given ?? sessionStorage.getItem(TOKEN_KEY);
  } catch {
    // Without storage it holds until the reload.
    token = given ?? token;
  }
  if (given) history.replaceState(history.state, '', location.pathname + location.search);
}

adoptToken();
addEventListener('hashchange', adoptToken);

/**
 * `fetch` of an endpoint of the server, with the token if there is one.
 * @param {string} path relative to the page
 * @param {RequestInit} [options]
 */
export function fetchApi(path, options = {}) {
  const headers = { ...Object.fromEntries(new Headers(options.headers)), ...authorization() };
  return fetch(new URL(path, document.baseURI), { cache: 'no-store', ...options, headers });
}

/** The header that carries the token, if there is one. @returns {Record<string, string>} */
export function authorization() {
  return token ? { authorization: `Bearer ${token}` } : {};
}

/**
 * STUN and TURN servers with fresh credentials for a session; none when the server cannot say.
 * @param {string | null} session
 * @returns {Promise<RTCIceServer[]>}
 */
export async function fetchIceServers(session) {
  const query = session ? `?session=${encodeURIComponent(session)}` : '';
  try {
    const response = await fetchApi(`api/ice-servers${query}`, { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (!response.ok) return [];
    const body = /** @type {IceServers} */ (await response.json());
    return Array.isArray(body.ice_servers) ? body.ice_servers : [];
  } catch {
    return [];
  }
}

/** By this word the page's sessions keep their side where a new model is tried by a share of them. */
const sticky = Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join('');

/**
 * Opens the signalling socket.
 * @param {string | null} resume token of the session that this one carries on from
 */
export function openSignalling(resume) {
  const url = new URL('api/session', document.baseURI);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  if (resume) {
    url.searchParams.set('resume', resume);
  } else {
    // What a rollout of models tells sessions apart by: `?attributes=cohort:b` on the page's address, and the word.
    const attributes = new URLSearchParams(location.search).get('attributes');
    if (attributes) url.searchParams.set('attributes', attributes);
    url.searchParams.set('sticky', sticky);
  }
  // A socket can carry no header but this one; what is no token would be no subprotocol either.
  const isToken = token !== null && /^[\w.-]+$/.test(token);
  return isToken ? new WebSocket(url, ['vigie', `vigie.token.${token}`]) : new WebSocket(url);
}

/**
 * Why the server does not open a socket, which browsers keep to themselves; null when it does not
 * say, or does not answer at all.
 * @returns {Promise<Refusal | null>}
 */
export async function whyRefused() {
  try {
    const response = await fetchApi('api/ice-servers', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    if (response.ok) return null;
    const { error } = await response.json();
    const seconds = Number(response.headers.get('retry-after'));
    return { ...error, ...(seconds > 0 && { retry_after_s: seconds }) };
  } catch {
    return null;
  }
}

/** Whether the server answers anything at all. */
export async function isReachable() {
  try {
    await fetch(new URL('livez', document.baseURI), { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
    return true;
  } catch {
    return false;
  }
}
