// The page of models: takes a file in, shows what came of its trial, and rolls versions out.

import { addTexts, formatScore, knows, onLanguageChange, t } from '../i18n.js';
import { Messages } from '../messages.js';
import { installPreferences } from '../preferences.js';
import { ApiFailure } from '../videos/api.js';
import { formatBytes } from '../videos/words.js';
import {
  deleteTraffic, fetchFigures, fetchFile, fetchPicture, fetchShelf, ModelUpload, nameOf, promote, putTraffic, removeVersion, rollBack, setAdminToken,
  wantsToken,
} from './api.js';
import { ask } from './assign.js';
import { Card } from './card.js';
import { Fields } from './fields.js';
import { foundInWords, sheets } from './report.js';
import { showShelf } from './shelf.js';
import { findVersion, slotsOf, trafficOf, usesOf } from './slots.js';
import { MODEL_TEXTS } from './texts.js';

/**
 * @typedef {import('./api.js').Shelf} Shelf
 * @typedef {import('./api.js').Admitted} Admitted
 * @typedef {import('./api.js').Traffic} Traffic
 * @typedef {'intro' | 'progress' | 'refusal' | 'report'} View
 */

const SHELF_INTERVAL_MS = 4000;
const FIGURES_INTERVAL_MS = 2000;
/** What `MAX_FILE_BYTES` in src/models/check/limits.rs says. */
const MAX_BYTES = 512 << 20;
/** How long the button that removes waits for its second click. */
const SURE_MS = 5000;

addTexts(MODEL_TEXTS);

const page = element('models');
const messages = new Messages(element('messages'), element('announcer'));
const picker = /** @type {HTMLInputElement} */ (element('file'));
const dialog = /** @type {HTMLDialogElement} */ (element('assign'));
installPreferences();
const fields = new Fields(/** @type {HTMLDetailsElement} */ (element('unsaid')), /** @type {HTMLFormElement} */ (element('fields')));

/** @type {Shelf} */
let shelf = { models: [], traffic: [] };
/** @type {ModelUpload | null} */
let upload = null;
/** The file that was sent last, for another try with more said. @type {File | null} */
let lastFile = null;
/** @type {{ file: string, code: string, message: string } | null} */
let refusal = null;
/** @type {{ model: string, admitted: Admitted | null, picture: string | null } | null} */
let shown = null;
/** What uploads of this page told, by `yolo@3`. @type {Map<string, Admitted>} */
const told = new Map();
/** @type {Map<string, Card>} */
const cards = new Map();
/** @type {{ name: string, sent: number, all: number, tryingSince: number | null } | null} */
let progress = null;
/** The version whose removal waits for its second click. @type {string | null} */
let doomed = null;
/** @type {number | undefined} */
let sureTimer;

/* Taking a file in */

/** @param {File} file */
async function take(file) {
  if (upload || !fields.check()) return;
  lastFile = file;
  const name = fields.name ?? nameFrom(file.name);
  if (file.size === 0) return refuse(file, 'empty', '');
  if (file.size > MAX_BYTES) return refuse(file, 'too_large', '');
  upload = new ModelUpload();
  progress = { name: file.name, sent: 0, all: file.size, tryingSince: null };
  show('progress');
  const ticking = setInterval(showProgress, 500);
  try {
    const admitted = await upload.run(name, fields.dataFor(file), (sent, all) => {
      if (progress) Object.assign(progress, { sent, all, tryingSince: sent >= all ? (progress.tryingSince ?? performance.now()) : null });
      showProgress();
    });
    if (admitted === null) {
      show('intro');
      announce(t('cancelled', { name: file.name }));
      return;
    }
    told.set(nameOf(admitted.manifest), admitted);
    fields.clear();
    await refreshShelf();
    openVersion(nameOf(admitted.manifest));
  } catch (error) {
    if (wantsToken(error)) {
      show('intro');
      askForToken(/** @type {ApiFailure} */ (error).code, false);
      return;
    }
    const { code, message } = error instanceof ApiFailure ? error : { code: 'internal', message: String(error) };
    refuse(file, code, message);
  } finally {
    clearInterval(ticking);
    upload = null;
    progress = null;
  }
}

/** As `name_from` in src/models/intake.rs names it. @param {string} file */
function nameFrom(file) {
  const stem = file.replace(/\.[^.]*$/, '').toLowerCase();
  return stem.replace(/[^a-z0-9_]/g, '-').replace(/^-+|-+$/g, '').slice(0, 64) || 'model';
}

/** @param {File} file @param {string} code @param {string} message */
function refuse(file, code, message) {
  refusal = { file: `${file.name}, ${formatBytes(file.size)}`, code, message };
  show('refusal');
  element('refusal-title').focus();
  fields.ask(fieldsFor(code, message));
}

/* What the stage shows */

/** @param {View} view */
function show(view) {
  page.dataset.view = view;
  if (view !== 'report') shown = null;
  askWhetherSure(null);
  element('report').hidden = view !== 'report';
  showProgress();
  showRefusal();
  showReport();
  showList();
}

function showProgress() {
  if (!progress) return;
  const { name, sent, all, tryingSince } = progress;
  const share = all > 0 ? sent / all : 0;
  const bar = element('progress-bar');
  const isTrying = tryingSince !== null;
  const seconds = isTrying ? Math.floor((performance.now() - tryingSince) / 1000) : 0;
  element('progress-share').textContent = isTrying ? '' : formatScore(share);
  element('progress-name').textContent = name;
  element('progress-state').textContent = t(isTrying ? 'trying' : 'sending');
  element('progress-detail').textContent = isTrying
    ? (seconds >= 4 ? t('trying_long', { seconds }) : '')
    : t('of_bytes', { sent: formatBytes(sent), all: formatBytes(all) });
  bar.classList.toggle('unsure', isTrying);
  bar.classList.toggle('sending', !isTrying);
  if (isTrying) bar.removeAttribute('aria-valuenow');
  else bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  /** @type {HTMLElement} */ (bar.firstElementChild).style.width = isTrying ? '' : `${share * 100}%`;
}

/** What a person can do about a refusal, by its code. @type {Record<string, string>} */
const ADVICE = {
  opset: 'advice_opset', ir_version: 'advice_opset', external_data: 'advice_external_data', custom_domain: 'advice_custom_domain',
  truncated: 'advice_copy', tensor_data: 'advice_copy', not_onnx: 'advice_export', malformed: 'advice_export', training: 'advice_export',
  unbounded_loop: 'advice_export', busy: 'advice_later', no_worker: 'advice_later', unreachable: 'advice_later', too_many_requests: 'advice_later',
  body_unreadable: 'advice_later', upload_timed_out: 'advice_later', store_unavailable: 'advice_later', trial_lost: 'advice_later',
  out_of_memory: 'advice_smaller', cpu_time: 'advice_smaller', wall_time: 'advice_smaller', too_large: 'advice_smaller',
};

/** Fields that settle a refusal which does not name them itself. @type {Record<string, string[]>} */
const FIELDS_OF = { reserved_name: ['name'], invalid_name: ['name'], picture: ['picture'] };

/** @param {string} code @param {string} message */
function fieldsFor(code, message) {
  return FIELDS_OF[code] ?? fields.namedIn(message);
}

function showRefusal() {
  if (page.dataset.view !== 'refusal' || !refusal) return;
  const { file, code, message } = refusal;
  const asked = fieldsFor(code, message);
  element('refusal-file').textContent = file;
  element('refusal-title').textContent = knows(`refused_${code}`) ? t(`refused_${code}`) : t('refused_other');
  element('refusal-message').textContent = inWordsOfThePage(message);
  element('refusal-message').hidden = message === '';
  element('refusal-code').textContent = code;
  const advice = asked.length > 0
    ? t('advice_fields', { names: asked.map((name) => `“${t(`field_${name}`)}”`).join(', ') })
    : ADVICE[code] ? t(ADVICE[code]) : '';
  element('refusal-advice').textContent = advice;
}

/** @param {string} model `yolo@3` */
async function openVersion(model) {
  const version = findVersion(shelf, model);
  const admitted = told.get(model) ?? null;
  if (!version && !admitted) return;
  shown = { model, admitted, picture: null };
  askWhetherSure(null);
  page.dataset.view = 'report';
  element('report').hidden = false;
  showReport();
  showList();
  element('report').focus({ preventScroll: true });
  element('stage').scrollIntoView({ block: 'nearest', behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
  const path = admitted?.picture ?? version?.picture;
  if (!path) return;
  try {
    const picture = await fetchPicture(path);
    if (shown?.model === model) {
      shown.picture = picture;
      showReport();
    } else {
      URL.revokeObjectURL(picture);
    }
  } catch {
    // The report stands without it.
  }
}

function showReport() {
  if (page.dataset.view !== 'report' || !shown) return;
  const { model, admitted, picture } = shown;
  const version = findVersion(shelf, model) ?? (admitted ? { ...admitted.manifest } : null);
  if (!version) return;
  element('report-title').textContent = model;
  const uses = usesOf(shelf, model).map(({ text }) => text);
  const state = element('report-state');
  state.textContent = uses.length > 0 ? t('report_serves', { what: uses.join(' · ') }) : t(admitted ? (admitted.was_known ? 'report_known' : 'report_added') : 'report_idle');
  const notes = element('report-notes');
  notes.replaceChildren(...(admitted?.notes ?? []).map((note) => Object.assign(document.createElement('li'), { textContent: inWordsOfThePage(note) })));
  notes.hidden = notes.childElementCount === 0;
  /** @type {HTMLButtonElement} */ (element('report-remove')).disabled = uses.length > 0;
  element('report-remove').title = uses.length > 0 ? t('in_use') : '';
  element('sheets').replaceChildren(...sheets(version, admitted));
  const image = /** @type {HTMLImageElement} */ (element('trial-picture'));
  image.hidden = picture === null;
  if (picture && image.src !== picture) image.src = picture;
  image.alt = t('trial_alt', { model, found: foundInWords(admitted) });
  element('trial-caption').textContent = t('trial_found');
  element('trial').dataset.has = picture ? 'picture' : 'nothing';
}

/** The server names flags of the command line: here they are fields. @param {string} text */
function inWordsOfThePage(text) {
  return text.replace(/--([a-z]+)/g, (flag, name) => (knows(`field_${name}`) ? `“${t(`field_${name}`)}”` : flag));
}

function showList() {
  showShelf(element('shelf'), shelf, shown?.model ?? null, openVersion);
}

/* What the server has */

async function refreshShelf() {
  try {
    shelf = await fetchShelf();
  } catch (error) {
    if (wantsToken(error)) askForToken(/** @type {ApiFailure} */ (error).code, true);
    else if (error instanceof ApiFailure && error.status === 404) messages.show('server', { key: 'models_unavailable', level: 'error', code: error.code });
    else messages.show('server', { key: 'page_unreachable' });
    return;
  }
  messages.clear('server');
  // Who may look need not be who may change: that is asked again at the next change.
  if (page.classList.contains('locked')) element('token').hidden = true;
  page.classList.remove('locked');
  page.dataset.known = 'yes';
  const hasModels = shelf.models.length > 0;
  element('no-models').hidden = hasModels;
  showList();
  showReport();
  showSlots();
}

function showSlots() {
  const slots = slotsOf(shelf);
  const place = element('slots');
  for (const [slot, card] of cards) {
    if (slots.includes(slot)) continue;
    card.element.remove();
    cards.delete(slot);
  }
  slots.forEach((slot, index) => {
    let card = cards.get(slot);
    if (!card) {
      card = new Card(slot, { assign: (of) => assign({ slot: of }), edit, promote: (of, from) => change(() => promote(of, from)), rollBack: (of) => change(() => rollBack(of)), toDefault: (of) => change(() => deleteTraffic(of)), open: openVersion });
      cards.set(slot, card);
    }
    card.show(shelf);
    if (place.children[index] !== card.element) place.insertBefore(card.element, place.children[index] ?? null);
  });
}

async function refreshFigures() {
  for (const [slot, card] of cards) {
    try {
      card.hear(performance.now(), await fetchFigures(slot));
    } catch {
      // Plots wait; the list says when the server is away.
    }
  }
}

/* Changing what serves */

/** @param {{ model?: string, slot?: string }} start */
async function assign(start) {
  const wish = await ask(dialog, shelf, start);
  if (wish) edit(wish.slot, wish.edit);
}

/** @param {string} slot @param {(traffic: Traffic) => Traffic} become */
function edit(slot, become) {
  change(() => putTraffic(become(trafficOf(shelf, slot))));
}

/** One change after another: each is made to what the one before it left. */
let changes = Promise.resolve();

/** @param {() => Promise<void>} act */
function change(act) {
  changes = changes.then(() => attempt(act)).then(() => {
    // What was moved and not taken goes back to where it was.
    for (const card of cards.values()) card.redraw(shelf);
  });
  return changes;
}

/** @param {() => Promise<void>} act */
async function attempt(act) {
  try {
    await act();
    messages.clear('change');
  } catch (error) {
    if (wantsToken(error)) return askForToken(/** @type {ApiFailure} */ (error).code, false);
    const { code, message } = error instanceof ApiFailure ? error : { code: 'internal', message: String(error) };
    const key = code === 'traffic_changed' ? 'traffic_changed' : code === 'in_use' ? 'in_use' : 'change_failed';
    messages.show('change', { key, level: 'error', code, values: { detail: message || code } });
  }
  await refreshShelf();
}

/** Has the button that removes ask once more, for a while, or forget that it asked. @param {string | null} model */
function askWhetherSure(model) {
  clearTimeout(sureTimer);
  doomed = model;
  element('report-remove').textContent = t(model === null ? 'remove' : 'remove_sure');
  if (model !== null) sureTimer = setTimeout(() => askWhetherSure(null), SURE_MS);
}

/* Who may */

/** @param {string} code @param {boolean} isLocked whether nothing can be seen without it */
function askForToken(code, isLocked) {
  element('token').hidden = false;
  page.classList.toggle('locked', isLocked);
  element('token-text').focus();
  const key = code === 'token_expired' ? 'token_expired' : code === 'token_invalid' || code === 'admin_only' ? 'token_wrong' : 'token_why';
  element('token-why').textContent = t(key);
  element('token').dataset.code = code;
}

/* Wiring */

element('token').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = /** @type {HTMLInputElement} */ (element('token-text'));
  setAdminToken(text.value.trim());
  text.value = '';
  element('token').hidden = true;
  refreshShelf();
});
for (const id of ['choose', 'add', 'refusal-other']) element(id).addEventListener('click', () => picker.click());
picker.addEventListener('change', () => {
  const file = picker.files?.[0];
  picker.value = '';
  if (file) take(file);
});
element('refusal-again').addEventListener('click', () => lastFile && take(lastFile));
element('progress-cancel').addEventListener('click', () => upload?.cancel());
element('report-close').addEventListener('click', () => show('intro'));
element('report-use').addEventListener('click', () => shown && assign({ model: shown.model }));
element('report-download').addEventListener('click', () => {
  const version = shown && (findVersion(shelf, shown.model) ?? shown.admitted?.manifest);
  if (!version) return;
  // It changes nothing, and no change waits for it.
  attempt(async () => {
    const link = Object.assign(document.createElement('a'), { href: await fetchFile(version.name, version.version), download: `${version.name}-${version.version}.onnx` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });
});
element('report-remove').addEventListener('click', () => {
  const version = shown && (findVersion(shelf, shown.model) ?? shown.admitted?.manifest);
  if (!version) return;
  const model = nameOf(version);
  if (doomed !== model) {
    askWhetherSure(model);
    return;
  }
  askWhetherSure(null);
  change(async () => {
    await removeVersion(version.name, version.version);
    announce(t('removed', { model }));
    told.delete(model);
    // Whoever has gone on to another version stays there.
    if (shown?.model === model) show('intro');
  });
});

let depth = 0;
addEventListener('dragenter', (event) => {
  if (!event.dataTransfer?.types.includes('Files')) return;
  depth += 1;
  page.classList.add('dropping');
});
addEventListener('dragleave', () => {
  depth = Math.max(0, depth - 1);
  if (depth === 0) page.classList.remove('dropping');
});
addEventListener('dragover', (event) => event.preventDefault());
addEventListener('drop', (event) => {
  event.preventDefault();
  depth = 0;
  page.classList.remove('dropping');
  const file = event.dataTransfer?.files[0];
  if (file) take(file);
});

onLanguageChange(() => {
  askWhetherSure(null);
  showProgress();
  showRefusal();
  showReport();
  showList();
  showSlots();
});

/** Calls `act` again and again while somebody looks. @param {() => Promise<void>} act @param {number} ms */
async function repeat(act, ms) {
  for (;;) {
    if (document.visibilityState === 'visible' && !page.classList.contains('locked')) await act();
    await new Promise((resolve) => setTimeout(resolve, ms));
  }
}

show('intro');
repeat(refreshShelf, SHELF_INTERVAL_MS);
repeat(refreshFigures, FIGURES_INTERVAL_MS);

/** @param {string} text */
function announce(text) {
  element('announcer').textContent = text;
}

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/** For tests and the curious; the page itself does not use it. */
Object.defineProperty(window, 'vigie', {
  value: Object.freeze({
    get shelf() {
      return shelf;
    },
    get view() {
      return page.dataset.view;
    },
  }),
});
