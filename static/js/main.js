// The live page: connects sources, the session, the overlay and the panels, and nothing more.

import { formatScore, knows, onLanguageChange, t } from './i18n.js';
import { Hud } from './hud.js';
import { Messages } from './messages.js';
import { Overlay } from './overlay.js';
import { installPreferences } from './preferences.js';
import { Session } from './session.js';
import { BlackWatch, listCameras, openCamera, openFile, SourceError } from './source.js';
import { Stats } from './stats.js';

/** @typedef {import('./source.js').Source} Source */
/** @typedef {import('./session.js').State} State */
/** @typedef {'overlay' | 'annotated' | 'both'} Output */

const STATS_MS = 1000;
const BLACK_CHECK_MS = 2000;
/** The server's echo of a setting is older than what the reader does meanwhile. */
const ECHO_GUARD_MS = 400;
/** The source picker's value for a file; device ids are never this. */
const FILE_VALUE = 'file';

/**
 * @template {HTMLElement} [T=HTMLElement]
 * @param {string} id
 */
const byId = (id) => /** @type {T} */ (document.getElementById(id));

const live = byId('live');
const stage = byId('stage');
const localVideo = /** @type {HTMLVideoElement} */ (byId('local'));
const annotatedVideo = /** @type {HTMLVideoElement} */ (byId('annotated'));
const sourcePicker = /** @type {HTMLSelectElement} */ (byId('source'));
const sizePicker = /** @type {HTMLSelectElement} */ (byId('resolution'));
const mirrorSwitch = /** @type {HTMLInputElement} */ (byId('mirror'));
const relaySwitch = /** @type {HTMLInputElement} */ (byId('relay'));
const threshold = /** @type {HTMLInputElement} */ (byId('threshold'));
const fileInput = /** @type {HTMLInputElement} */ (byId('file'));
const watchLink = /** @type {HTMLAnchorElement} */ (byId('watch-link'));
const taskSwitches = /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll('[data-task]')]);
const outputs = /** @type {HTMLInputElement[]} */ ([...document.querySelectorAll('[name="output"]')]);

installPreferences();

const messages = new Messages(byId('messages'), byId('announcer'));
const overlay = new Overlay(/** @type {HTMLCanvasElement} */ (byId('overlay')), localVideo);
const stats = new Stats();
const hud = new Hud(stats);
const blackWatch = new BlackWatch();

/** @type {Source | null} */
let source = null;
/** @type {File | null} dropped before consent */
let pendingFile = null;
/** Each opening of a source takes a number; only the newest may finish. */
let openings = 0;
let isMirrorChosen = false;
let isThresholdChosen = false;
let isReadingChosen = false;
let lastChangeAt = -Infinity;

const session = new Session(readSettings());

/* Settings */

/** @returns {import('./link.js').Settings} */
function readSettings() {
  return {
    // Whether text is read is up to the server until somebody says.
    tasks: Object.fromEntries(taskSwitches
      .filter(({ dataset }) => dataset.task !== 'text' || isReadingChosen)
      .map(({ dataset, checked }) => [dataset.task, checked])),
    // Without one, each model uses its own.
    threshold: isThresholdChosen ? threshold.valueAsNumber : undefined,
    output: /** @type {Output} */ (outputs.find(({ checked }) => checked)?.value ?? 'overlay'),
    // `?rate=2`, for machines or networks that are to be spared.
    max_rate: Number(new URLSearchParams(location.search).get('rate')) || 30,
  };
}

/** @param {import('./link.js').Settings} change */
function configure(change) {
  lastChangeAt = performance.now();
  session.configure(change);
}

function showThreshold() {
  byId('threshold-value').textContent = isThresholdChosen ? formatScore(threshold.valueAsNumber) : t('threshold_auto');
}

for (const input of taskSwitches) {
  input.addEventListener('change', () => {
    isReadingChosen ||= input.dataset.task === 'text';
    configure({ tasks: { [input.dataset.task ?? '']: input.checked } });
  });
}
threshold.addEventListener('input', () => {
  isThresholdChosen = true;
  showThreshold();
  configure({ threshold: threshold.valueAsNumber });
});
for (const input of outputs) {
  input.addEventListener('change', () => {
    showOutput(/** @type {Output} */ (input.value));
    configure({ output: /** @type {Output} */ (input.value) });
  });
}

// `?relay=1`, for a link to somebody whose network is in doubt.
relaySwitch.checked = new URLSearchParams(location.search).get('relay') === '1';
session.useRelayOnly(relaySwitch.checked);
relaySwitch.addEventListener('change', () => session.useRelayOnly(relaySwitch.checked));

/** @param {Output} output */
function showOutput(output) {
  stage.dataset.output = output;
  applyMirror();
}

/* The source */

function chosenSize() {
  const [width, height] = sizePicker.value.split('x').map(Number);
  return { width, height };
}

const openChosenCamera = () => openCamera(sourcePicker.value === FILE_VALUE ? '' : sourcePicker.value, chosenSize());

/** Starts a session with what `open` gives. @param {() => Promise<Source>} open */
async function begin(open) {
  if (!('RTCPeerConnection' in window)) {
    messages.show('source', { key: 'no_webrtc', level: 'error' });
    return;
  }
  const opening = ++openings;
  messages.clearAll();
  showState('opening');
  const opened = await attempt(open, opening);
  if (opened) {
    adopt(opened);
    hud.start();
    session.start(opened);
  } else if (opening === openings) {
    showState('idle');
  }
}

/** Changes the source in mid-call; where that fails, the picture goes on as it was. @param {() => Promise<Source>} open */
async function switchSource(open) {
  const opening = ++openings;
  messages.clear('source');
  const opened = (await attempt(() => openBesideCamera(open, opening), opening)) ?? (await reopenCamera(opening));
  if (opened) {
    const previous = source;
    adopt(opened);
    await session.replaceSource(opened);
    previous?.close();
  } else if (opening === openings) {
    refreshSources();
  }
}

/** The source; null after telling why there is none, or where a newer opening began meanwhile. @param {() => Promise<Source>} open @param {number} opening */
async function attempt(open, opening) {
  try {
    const opened = ifNewest(await open(), opening);
    if (opened) messages.clear('source');
    return opened;
  } catch (error) {
    const { key, values } = error instanceof SourceError ? error : { key: 'camera_failed', values: { detail: String(error) } };
    if (opening === openings) messages.show('source', { key, values, level: 'error' });
    return null;
  }
}

/**
 * Many phones open one camera at a time: where another is refused for that, the one that is live is let go first.
 * @param {() => Promise<Source>} open
 * @param {number} opening
 */
async function openBesideCamera(open, opening) {
  try {
    return await open();
  } catch (error) {
    const isTaken = error instanceof SourceError && error.key === 'camera_in_use';
    if (!isTaken || source?.kind !== 'camera' || opening !== openings) throw error;
    source.track.stop();
    overlay.clear();
    hud.forgetView();
    return open();
  }
}

/** The camera that was let go for another which then did not open; why that did not stays on the page. @param {number} opening */
async function reopenCamera(opening) {
  if (opening !== openings || source?.kind !== 'camera' || source.track.readyState === 'live') return null;
  const reopened = await openCamera(source.deviceId, source.chosen).catch(() => null);
  return ifNewest(reopened, opening);
}

/** The source, unless a newer opening began meanwhile: then it is closed. @param {Source | null} opened @param {number} opening */
function ifNewest(opened, opening) {
  if (opening === openings) return opened;
  opened?.close();
  return null;
}

/** @param {Source} next */
function adopt(next) {
  source = next;
  localVideo.srcObject = next.stream;
  // Autoplay of a muted element is allowed; a rejection means that a newer source took over.
  localVideo.play().catch(() => {});
  next.track.addEventListener('ended', () => {
    if (source === next) handleUnplugged();
  });
  applyMirror();
  overlay.clear();
  hud.forgetView();
  refreshSources();
}

function handleUnplugged() {
  overlay.clear();
  hud.forgetView();
  messages.show('source', { key: 'camera_unplugged', level: 'error' });
  refreshSources();
}

async function refreshSources() {
  const cameras = await listCameras();
  const options = cameras.map(({ deviceId, label }, i) => new Option(label || t('source_camera', { n: i + 1 }), deviceId));
  if (options.length === 0) options.push(new Option(t('source_default'), ''));
  if (source?.kind === 'file') options.push(new Option(t('source_file', { name: source.name }), FILE_VALUE));
  const wanted = source ? (source.kind === 'file' ? FILE_VALUE : source.deviceId) : sourcePicker.value;
  sourcePicker.replaceChildren(...options);
  if (options.some(({ value }) => value === wanted)) sourcePicker.value = wanted;
}

/** Until the reader chooses: a mirror, as faces expect, but not beside the server's picture. */
function applyMirror() {
  if (!isMirrorChosen) mirrorSwitch.checked = source?.isFrontal === true && stage.dataset.output !== 'both';
  overlay.isMirrored = mirrorSwitch.checked;
  localVideo.classList.toggle('mirrored', mirrorSwitch.checked);
  overlay.redraw();
}

sourcePicker.addEventListener('change', () => {
  if (source && sourcePicker.value !== FILE_VALUE) switchSource(openChosenCamera);
});
sizePicker.addEventListener('change', () => {
  if (!source) return;
  if (source.kind === 'camera') {
    switchSource(openChosenCamera);
  } else {
    source.chosen = chosenSize();
    session.replaceSource(source);
  }
});
mirrorSwitch.addEventListener('change', () => {
  isMirrorChosen = true;
  applyMirror();
});
navigator.mediaDevices?.addEventListener?.('devicechange', refreshSources);

/* Files */

/** @param {File} file */
function takeFile(file) {
  const open = () => openFile(file, chosenSize());
  if (isInCall()) {
    switchSource(open);
  } else {
    // The drop itself is no consent: the notice's button becomes the one that sends this file.
    pendingFile = file;
    showAgreeFile();
    byId('agree-file').focus();
  }
}

function showAgreeFile() {
  byId('agree-file').textContent = pendingFile ? t('agree_this_file', { name: pendingFile.name }) : t('agree_file');
}

fileInput.addEventListener('change', () => {
  const file = fileInput.files?.[0];
  fileInput.value = '';
  if (!file) return;
  if (isAgreed) begin(() => openFile(file, chosenSize()));
  else takeFile(file);
  isAgreed = false;
});

/** Set while the file dialogue opened by the consent button is up. */
let isAgreed = false;

byId('agree-camera').addEventListener('click', () => begin(openChosenCamera));
byId('agree-file').addEventListener('click', () => {
  if (pendingFile) {
    const file = pendingFile;
    pendingFile = null;
    showAgreeFile();
    begin(() => openFile(file, chosenSize()));
  } else {
    isAgreed = true;
    fileInput.click();
  }
});
byId('choose-file').addEventListener('click', () => {
  isAgreed = false;
  fileInput.click();
});

let dragDepth = 0;
addEventListener('dragenter', (event) => {
  if (!event.dataTransfer?.types.includes('Files')) return;
  dragDepth += 1;
  document.body.classList.add('dropping');
});
addEventListener('dragleave', () => {
  dragDepth = Math.max(0, dragDepth - 1);
  if (dragDepth === 0) document.body.classList.remove('dropping');
});
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  dragDepth = 0;
  document.body.classList.remove('dropping');
  const file = event.dataTransfer?.files[0];
  if (file) takeFile(file);
});

/* The session */

function isInCall() {
  return ['connecting', 'live', 'reconnecting', 'busy'].includes(session.state) && source !== null;
}

function hangUp() {
  session.stop();
  closeSource();
  messages.clearAll();
  showState('idle');
}

function closeSource() {
  openings += 1;
  source?.close();
  source = null;
  localVideo.srcObject = null;
  annotatedVideo.srcObject = null;
  overlay.clear();
  stats.reset();
  hud.stop();
  refreshSources();
}

/** @param {State} state */
function showState(state) {
  live.dataset.state = state;
  byId('state').dataset.state = state;
  byId('state-text').textContent = t(`state_${state}`);
  /** @type {HTMLButtonElement} */ (byId('hang-up')).disabled = !['opening', 'connecting', 'live', 'reconnecting', 'busy'].includes(state);
}

/** @param {string} type @param {(detail: any) => void} listener */
const onSession = (type, listener) => session.addEventListener(type, (event) => listener(/** @type {CustomEvent} */ (event).detail));

onSession('state', (state) => {
  showState(state);
  watchLink.hidden = state !== 'live' || watchLink.hash.length < 2;
  if (state === 'live') {
    messages.clear('session');
  } else {
    // Readings of a connection that is no more would mislead.
    stats.reset();
    overlay.clear();
    hud.forgetView();
  }
  if (state === 'ended') closeSource();
});

onSession('message', ({ key, code, values, canRetry, isFinal }) => {
  // A single refusal stands beside the session's own state; the others replace one another.
  const subject = key === 'server_refused' && !isFinal ? `server ${code}` : 'session';
  messages.show(subject, {
    key,
    code,
    values,
    level: ['network_changed', 'busy', 'not_ready'].includes(key) ? 'notice' : 'error',
    retry: canRetry ? () => session.retryNow() : undefined,
  });
});

onSession('notice', ({ code, detail }) => {
  // What the annotated video or the camera loses, it regains: these replace one another.
  const subject = /^(annotated|camera)_/.exec(code)?.[1] ?? `server ${code}`;
  if (['annotated_full', 'camera_full'].includes(code)) messages.clear(subject);
  else messages.show(subject, { key: knows(code) ? code : 'server_notice', code, values: { detail } });
});

onSession('annotated', (stream) => {
  annotatedVideo.srcObject = stream;
  annotatedVideo.play().catch(() => {});
});

onSession('report', (report) => {
  if (source?.track.readyState === 'ended') return;
  const latencyMs = stats.addReport(report, performance.now(), performance.timeOrigin + performance.now());
  overlay.show(report);
  hud.add(report, latencyMs);
});

onSession('welcome', ({ models = {}, watch = '' }) => {
  watchLink.hidden = session.state !== 'live' || !watch;
  watchLink.href = `${new URL('watch', document.baseURI)}#${watch}`;
  for (const input of taskSwitches) {
    const model = models[input.dataset.slot ?? input.dataset.task ?? ''];
    input.disabled = !model;
    const label = document.querySelector(`[data-model="${input.dataset.task}"]`);
    if (label) label.textContent = model ?? t('no_model');
  }
});

onSession('settings', (effective) => {
  if (performance.now() - lastChangeAt < ECHO_GUARD_MS) return;
  for (const input of taskSwitches) {
    const isOn = effective.tasks?.[input.dataset.task ?? ''];
    if (typeof isOn === 'boolean') input.checked = isOn;
  }
  if (typeof effective.threshold === 'number') {
    isThresholdChosen = true;
    threshold.value = String(effective.threshold);
    showThreshold();
  }
  const output = outputs.find(({ value }) => value === effective.output);
  if (output) {
    output.checked = true;
    showOutput(/** @type {Output} */ (output.value));
  }
});

byId('hang-up').addEventListener('click', hangUp);
byId('controls').addEventListener('submit', (event) => event.preventDefault());
// Leaving the page says goodbye, so that the server need not wait for silence.
addEventListener('pagehide', () => {
  if (isInCall()) hangUp();
});

setInterval(() => {
  if (isInCall()) stats.poll(session.pc, performance.now());
}, STATS_MS);

setInterval(() => {
  if (!isInCall() || document.hidden) return;
  if (source?.track.readyState === 'live' && blackWatch.isBlack(localVideo)) messages.show('black', { key: 'picture_black' });
  else messages.clear('black');
}, BLACK_CHECK_MS);

onLanguageChange(() => {
  showState(/** @type {State} */ (live.dataset.state));
  showThreshold();
  showAgreeFile();
  refreshSources();
  for (const input of taskSwitches) {
    if (input.disabled) {
      const label = document.querySelector(`[data-model="${input.dataset.task}"]`);
      if (label) label.textContent = t('no_model');
    }
  }
});

if (!window.isSecureContext || !navigator.mediaDevices) messages.show('source', { key: 'insecure_context', level: 'error' });
showThreshold();
showState('idle');
refreshSources();

/** For tests and the curious; the page itself does not use it. */
Object.defineProperty(window, 'vigie', {
  value: Object.freeze({
    get state() {
      return live.dataset.state;
    },
    get session() {
      return session.id;
    },
    get pc() {
      return session.pc;
    },
    get lastReport() {
      return session.lastReport;
    },
    get settings() {
      return structuredClone(session.settings);
    },
    stats: () => ({ ...stats.figures, stagesMs: { ...stats.figures.stagesMs } }),
  }),
});
