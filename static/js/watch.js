// The page that watches somebody else's session: /watch#<watch token>. The token stays in the
// fragment, which browsers send nowhere.

import { onLanguageChange, t } from './i18n.js';
import { installPreferences } from './preferences.js';
import { iceServersOf, WhepPlayer, WhepRefusal } from './whep.js';

/** @typedef {'connecting' | 'live' | 'reconnecting' | 'busy' | 'ended'} WatchState */

const FIRST_PAUSE_S = 1;
const LONGEST_PAUSE_S = 15;
/** A connection that recovers by itself does so within this time. */
const GRACE_MS = 6000;

const video = /** @type {HTMLVideoElement} */ (document.getElementById('annotated'));
const stateLine = /** @type {HTMLElement} */ (document.getElementById('state'));
const stateText = /** @type {HTMLElement} */ (document.getElementById('state-text'));

/** What tests and the curious may look at. */
const page = {
  /** @type {WatchState} */ state: 'connecting',
  /** @type {any} */ lastReport: null,
  reports: 0,
};
Object.assign(window, { vigie: page });

/** @type {WhepPlayer | null} */
let player = null;
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
let pauseS = FIRST_PAUSE_S;
let attempts = 0;

/** @param {WatchState} state */
function show(state) {
  page.state = state;
  stateLine.dataset.state = state;
  stateText.textContent = t(`watch_${state}`);
}

/** @param {number} ms @param {() => void} then */
function after(ms, then) {
  clearTimeout(timer);
  timer = setTimeout(then, ms);
}

function leave() {
  clearTimeout(timer);
  player?.close();
  player = null;
}

/** @param {number} seconds */
function comeBack(seconds) {
  leave();
  after(seconds * 1000, connect);
  pauseS = Math.min(pauseS * 2, LONGEST_PAUSE_S);
}

async function connect() {
  leave();
  const attempt = ++attempts;
  const token = location.hash.slice(1);
  if (!token) return show('ended');
  const endpoint = new URL(`whep/${encodeURIComponent(token)}`, document.baseURI);
  const iceServers = await iceServersOf(endpoint);
  if (attempt !== attempts) return;
  const current = new WhepPlayer({
    iceServers,
    stream: (stream) => { video.srcObject = stream; },
    report: (report) => {
      page.lastReport = report;
      page.reports += 1;
    },
    state: (state) => { if (current === player) follow(state); },
  });
  player = current;
  try {
    await current.play(endpoint);
  } catch (error) {
    if (current === player) refuse(error);
  }
}

/** @param {RTCPeerConnectionState} state */
function follow(state) {
  if (state === 'connected') {
    clearTimeout(timer);
    pauseS = FIRST_PAUSE_S;
    show('live');
  } else if (state === 'disconnected') {
    after(GRACE_MS, again);
  } else if (state === 'failed' || state === 'closed') {
    again();
  }
}

function again() {
  show('reconnecting');
  comeBack(pauseS);
}

/** @param {unknown} error */
function refuse(error) {
  const status = error instanceof WhepRefusal ? error.status : 0;
  if (status === 404 || status === 406) {
    leave();
    return show('ended');
  }
  show(status === 503 || status === 409 ? 'busy' : 'reconnecting');
  comeBack((error instanceof WhepRefusal && error.retryAfterS) || pauseS);
}

installPreferences();
onLanguageChange(() => show(page.state));
show('connecting');
addEventListener('hashchange', connect);
addEventListener('pagehide', leave);
addEventListener('pageshow', (event) => { if (event.persisted) connect(); });
connect();
