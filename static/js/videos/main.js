// The page of videos: takes files in, follows their jobs and shows what came out.

import { addTexts, formatNumber, onLanguageChange, t } from '../i18n.js';
import { Messages } from '../messages.js';
import { installPreferences } from '../preferences.js';
import { ApiFailure, cancelJob, deleteJob, deleteUpload, fetchMaxBytes, FINAL_STATES } from './api.js';
import { Follower } from './follow.js';
import { detailOf, fillBar, List } from './list.js';
import { Result } from './result.js';
import { fingerprint, loadEntries, mergeEntries, newEntry, onOtherPages, saveEntries } from './store.js';
import { VIDEO_TEXTS } from './texts.js';
import { Upload } from './upload.js';
import { describeFault, formatBytes } from './words.js';

/**
 * @typedef {import('./api.js').Job} Job
 * @typedef {import('./store.js').Entry} Entry
 * @typedef {import('./list.js').Row} Row
 * @typedef {object} Work what this page does for an entry, beside what is kept
 * @property {File | null} file
 * @property {Upload | null} upload
 * @property {boolean} isOffline
 * @property {{ at: number, bytes: number }[]} sent lately, for the rate
 * @property {Job | null} job
 * @property {boolean} isGone
 * @property {{ code: string, message: string } | null} fault
 * @property {number | undefined} doom timer of a deletion, set until it is made or undone
 */

/** Uploads at a time: more would only share the same line. */
const UPLOADS = 2;
/** How long a deletion can be undone. */
const UNDO_MS = 7000;
/** Over how long the rate of an upload is measured. */
const RATE_SPAN_MS = 4000;

addTexts(VIDEO_TEXTS);

const page = element('videos');
const messages = new Messages(element('messages'), element('announcer'));
const picker = /** @type {HTMLInputElement} */ (element('files'));
const thresholdInput = /** @type {HTMLInputElement} */ (element('threshold'));
const everySelect = /** @type {HTMLSelectElement} */ (element('every'));
const taskSwitches = /** @type {NodeListOf<HTMLInputElement>} */ (document.querySelectorAll('[data-task]'));

/** Newest first. @type {Entry[]} */
let entries = loadEntries();
/** @type {Map<string, Work>} */
const works = new Map();
/** The key of the entry that the stage shows. @type {string | null} */
let chosen = null;
let isThresholdSet = false;
let isScheduled = false;
/** @type {number | null} */
let maxBytes = null;

installPreferences();
const result = new Result();
const list = new List(element('jobs'), act);
const follower = new Follower({
  wanted: () => {
    const open = entries.filter((entry) => isOpen(entry));
    // The one that is looked at comes first.
    open.sort((a, b) => Number(b.key === chosen) - Number(a.key === chosen) || rank(a) - rank(b));
    return open.flatMap(({ id }) => id ?? []);
  },
  onJob: hear,
  onGone: (id) => {
    const entry = entries.find((known) => known.id === id);
    if (entry) workOf(entry.key).isGone = true;
    show();
  },
  onReached: (isReached) => {
    if (isReached) messages.clear('server');
    else messages.show('server', { key: 'page_unreachable' });
  },
});

/** @param {Entry} entry whether its job may still change, or was not heard of yet */
function isOpen(entry) {
  const { job, isGone, doom } = workOf(entry.key);
  return entry.id !== null && doom === undefined && !isGone && (job === null || !FINAL_STATES.includes(job.state));
}

/** @param {Entry} entry running before unknown before queued */
function rank(entry) {
  const state = workOf(entry.key).job?.state;
  return state === 'running' ? 0 : state === undefined ? 1 : 2;
}

/** @param {string} key @returns {Work} */
function workOf(key) {
  let work = works.get(key);
  if (!work) {
    work = { file: null, upload: null, isOffline: false, sent: [], job: null, isGone: false, fault: null, doom: undefined };
    works.set(key, work);
  }
  return work;
}

/** @param {Job} job */
function hear(job) {
  const entry = entries.find(({ id }) => id === job.id);
  if (!entry) return;
  const work = workOf(entry.key);
  const before = work.job?.state;
  work.job = job;
  work.fault = job.error ?? null;
  if (job.state === 'done' && before !== undefined && before !== 'done') {
    announce(t('done_named', { name: entry.name }));
    // Whoever waits for it wants to see it; whoever looks at another is left alone.
    if (chosen === null || chosen === entry.key) choose(entry.key);
  }
  if (job.state === 'failed' && before !== undefined && before !== 'failed' && work.fault) announce(`${entry.name}: ${describeFault(work.fault, maxBytes)}`);
  show();
}

/* Taking files in */

/** @param {Iterable<File>} files */
function take(files) {
  /** @type {Entry | null} */
  let first = null;
  for (const file of files) {
    const known = entries.find((entry) => entry.id === null && workOf(entry.key).doom === undefined && entry.fingerprint === fingerprint(file));
    if (known) {
      const work = workOf(known.key);
      if (work.file === null || work.fault) Object.assign(work, { file, fault: null, isOffline: false });
      first ??= known;
      continue;
    }
    const entry = newEntry(file, readOptions());
    const work = workOf(entry.key);
    work.file = file;
    if (file.size === 0) work.fault = { code: 'empty', message: '' };
    else if (maxBytes !== null && file.size > maxBytes) work.fault = { code: 'too_large', message: '' };
    entries = [entry, ...entries];
    if (!work.fault) first ??= entry;
  }
  if (first && (chosen === null || rowOf(chosen)?.state !== 'done')) choose(first.key);
  startUploads();
  keepAndShow();
}

function readOptions() {
  const tasks = [...taskSwitches].filter(({ checked }) => checked).map(({ dataset }) => dataset.task ?? '');
  return { tasks, threshold: isThresholdSet ? Number(thresholdInput.value) : null, every: Number(everySelect.value) };
}

function startUploads() {
  const sending = entries.filter(({ key }) => workOf(key).upload !== null).length;
  // The oldest first: the list has the newest first.
  const waiting = entries.filter((entry) => isWaiting(entry)).reverse();
  for (const entry of waiting.slice(0, Math.max(0, UPLOADS - sending))) send(entry);
}

/** @param {Entry} entry */
function isWaiting(entry) {
  const work = workOf(entry.key);
  return entry.id === null && work.file !== null && work.upload === null && work.fault === null && work.doom === undefined;
}

/** @param {Entry} entry */
async function send(entry) {
  const work = workOf(entry.key);
  const { tasks, threshold, every } = entry.options;
  /** @type {Record<string, string>} */
  const metadata = { filename: entry.name, tasks: tasks.join(','), every: String(every) };
  if (threshold !== null) metadata.threshold = String(threshold);
  const upload = new Upload({
    file: /** @type {File} */ (work.file),
    metadata,
    url: entry.upload,
    onCreated: (url) => {
      entry.upload = url;
      keepAndShow();
    },
    onProgress: (bytes) => {
      entry.sentBytes = bytes;
      work.isOffline = false;
      const at = performance.now();
      work.sent = [...work.sent.filter((known) => at - known.at < RATE_SPAN_MS && known.bytes <= bytes), { at, bytes }];
      show();
    },
    onWaiting: (isWaiting) => {
      work.isOffline = isWaiting;
      work.sent = [];
      keepAndShow();
    },
  });
  work.upload = upload;
  try {
    const id = await upload.run();
    if (id !== null) {
      Object.assign(entry, { id, upload: null, sentBytes: entry.bytes });
      work.file = null;
    }
  } catch (error) {
    const { code, message } = error instanceof ApiFailure ? error : { code: 'internal', message: String(error) };
    work.fault = { code, message };
    entry.upload = null;
    announce(`${entry.name}: ${describeFault(work.fault, maxBytes)}`);
  } finally {
    work.upload = null;
    startUploads();
    keepAndShow();
    follower.tick();
  }
}

/* What the buttons do */

/** @param {import('./list.js').Action} action @param {string} key */
function act(action, key) {
  const entry = entries.find((known) => known.key === key);
  if (!entry) return;
  if (action === 'open') choose(key, true);
  if (action === 'cancel') cancel(entry);
  if (action === 'delete') doom(entry);
  if (action === 'undo') spare(entry);
  if (action === 'choose') picker.click();
}

/** @param {Entry} entry */
async function cancel(entry) {
  const work = workOf(entry.key);
  if (entry.id === null) {
    doom(entry);
    return;
  }
  try {
    hear(await cancelJob(entry.id));
  } catch (error) {
    tell('not_cancelled', entry, error);
  }
  work.isOffline = false;
  show();
}

/** Deletes an entry once it cannot be undone any more. @param {Entry} entry */
function doom(entry) {
  const work = workOf(entry.key);
  work.upload?.stop();
  if (chosen === entry.key) choose(null);
  announce(t('deleted_named', { name: entry.name }));
  work.doom = setTimeout(() => destroy(entry), UNDO_MS);
  show();
}

/** @param {Entry} entry */
function spare(entry) {
  clearTimeout(workOf(entry.key).doom);
  forgive(entry);
  // An upload that was stopped may not have ended yet; it starts the next one when it does.
  startUploads();
  keepAndShow();
  follower.tick();
}

/** @param {Entry} entry */
function forgive(entry) {
  workOf(entry.key).doom = undefined;
  entry.isDoomed = false;
}

/** @param {Entry} entry */
async function destroy(entry) {
  try {
    if (entry.id !== null) await deleteJob(entry.id);
    else if (entry.upload !== null) await deleteUpload(entry.upload);
  } catch (error) {
    forgive(entry);
    tell('not_deleted', entry, error);
    keepAndShow();
    return;
  }
  entries = entries.filter(({ key }) => key !== entry.key);
  works.delete(entry.key);
  keepAndShow();
}

/** @param {string} key @param {Entry} entry @param {unknown} error */
function tell(key, entry, error) {
  const fault = error instanceof ApiFailure ? error : { code: 'internal', message: String(error) };
  messages.show(entry.key, { key, values: { name: entry.name, detail: describeFault(fault, maxBytes) }, level: 'error', code: fault.code });
}

/* Showing */

/** @param {string | null} key @param {boolean} [byReader] */
function choose(key, byReader = false) {
  chosen = key;
  showStage();
  show();
  if (byReader && matchMedia('(max-width: 900px)').matches) {
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    element('stage').scrollIntoView({ behavior: calm ? 'auto' : 'smooth', block: 'start' });
  }
}

/** @param {string} key @returns {Row | null} */
function rowOf(key) {
  const entry = entries.find((known) => known.key === key);
  if (!entry) return null;
  const work = workOf(key);
  return { entry, job: work.job, fault: work.fault, bytesPerSecond: rateOf(work), isChosen: key === chosen, state: stateOf(entry, work) };
}

/** @param {Entry} entry @param {Work} work @returns {import('./list.js').RowState} */
function stateOf(entry, work) {
  if (work.doom !== undefined) return 'deleted';
  if (work.isGone) return 'gone';
  if (entry.id !== null) return work.job?.state ?? 'unknown';
  if (work.fault) return 'failed';
  if (work.file === null) return 'interrupted';
  if (work.upload === null) return 'waiting_upload';
  return work.isOffline ? 'offline' : 'uploading';
}

/** @param {Work} work */
function rateOf({ sent }) {
  const [first, last] = [sent[0], sent[sent.length - 1]];
  return first && last.at - first.at > 500 ? ((last.bytes - first.bytes) / (last.at - first.at)) * 1000 : 0;
}

/** At the next frame: progress comes more often than it can be seen. */
function show() {
  if (isScheduled) return;
  isScheduled = true;
  const draw = () => {
    isScheduled = false;
    list.maxBytes = maxBytes;
    list.show(entries.flatMap(({ key }) => rowOf(key) ?? []));
    element('no-videos').hidden = entries.length > 0;
    showStage();
  };
  // A page in the background has no frames, and its title should still be right when it comes back.
  if (document.visibilityState === 'visible') requestAnimationFrame(draw);
  else setTimeout(draw, 250);
}

function keepAndShow() {
  takeOver(saveEntries(entries, isSending));
}

/** @param {Entry} entry */
function isSending(entry) {
  return workOf(entry.key).upload !== null;
}

/** Shows the list as this page and the others have left it. @param {Entry[]} merged */
function takeOver(merged) {
  const left = new Set(merged.map(({ key }) => key));
  for (const { key } of entries) if (!left.has(key)) forget(key);
  entries = merged;
  for (const entry of entries) {
    // A page that could not see its deletion through leaves it to the others, and to the next.
    if (entry.isDoomed) workOf(entry.key).doom ??= setTimeout(() => destroy(entry));
  }
  show();
}

/** @param {string} key of an entry that another page has deleted */
function forget(key) {
  clearTimeout(works.get(key)?.doom);
  works.delete(key);
  if (chosen === key) chosen = null;
}

function showStage() {
  const row = chosen === null ? null : rowOf(chosen);
  const view = row === null ? 'intro' : row.state === 'done' ? 'result' : 'progress';
  page.dataset.view = view;
  if (row?.state === 'done' && row.job) result.show(row.job);
  else if (result.id !== null) result.hide();
  if (view !== 'progress' || row === null) return;
  element('progress').dataset.state = row.state;
  element('progress-name').textContent = row.entry.name;
  element('progress-state').textContent = t(`state_${row.state}`, { share: '' });
  element('progress-detail').textContent = detailOf(row, maxBytes);
  const share = row.state === 'uploading' || row.state === 'offline' ? row.entry.sentBytes / row.entry.bytes
    : row.job?.progress?.of_frames ? Math.min(1, row.job.progress.frames / row.job.progress.of_frames) : null;
  element('progress-share').textContent = share === null || !['uploading', 'offline', 'running'].includes(row.state) ? '' : `${formatNumber(Math.floor(share * 100))} %`;
  fillBar(element('progress-bar'), row);
}

/** @param {string} text */
function announce(text) {
  element('announcer').textContent = text;
}

function showOptions() {
  element('threshold-value').textContent = isThresholdSet ? formatNumber(Number(thresholdInput.value), 2) : t('threshold_auto');
  for (const option of everySelect.options) {
    const n = Number(option.value);
    option.textContent = n === 1 ? t('every_1') : t('every_n', { n });
  }
  element('intro-take').textContent = maxBytes === null ? t('intro_take') : t('intro_take_limit', { size: formatBytes(maxBytes) });
}

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/* Wiring */

for (const id of ['choose', 'add']) element(id).addEventListener('click', () => picker.click());
picker.addEventListener('change', () => {
  take([...(picker.files ?? [])]);
  picker.value = '';
});
thresholdInput.addEventListener('input', () => {
  isThresholdSet = true;
  showOptions();
});
for (const input of taskSwitches) {
  input.addEventListener('change', () => {
    // A gender is a face's; and with nothing to recognise there would be nothing to do.
    const [faces, gender] = ['faces', 'gender'].map((task) => /** @type {HTMLInputElement} */ (document.querySelector(`[data-task="${task}"]`)));
    if (input === faces && !faces.checked) gender.checked = false;
    if (input === gender && gender.checked) faces.checked = true;
    if (![...taskSwitches].some(({ checked }) => checked)) input.checked = true;
  });
}

let dragDepth = 0;
/** @param {DragEvent} event */
const hasFiles = (event) => event.dataTransfer?.types.includes('Files') ?? false;
/** @param {boolean} isOver */
const showDrop = (isOver) => {
  dragDepth = isOver ? dragDepth : 0;
  document.body.classList.toggle('dropping', isOver);
};
addEventListener('dragenter', (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  dragDepth += 1;
  showDrop(true);
});
addEventListener('dragover', (event) => {
  if (hasFiles(event)) event.preventDefault();
});
addEventListener('dragleave', () => {
  dragDepth = Math.max(0, dragDepth - 1);
  if (dragDepth === 0) showDrop(false);
});
addEventListener('drop', (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  showDrop(false);
  const items = [...(event.dataTransfer?.items ?? [])];
  const folders = new Set(items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory).map((item) => item.getAsFile()?.name));
  for (const name of folders) messages.show('folder', { key: 'is_directory', values: { name: name ?? '' } });
  take([...(event.dataTransfer?.files ?? [])].filter(({ name }) => !folders.has(name)));
});

// Deletions that can no longer be undone, because the page goes, are made.
addEventListener('pagehide', () => {
  for (const entry of entries) {
    if (workOf(entry.key).doom === undefined) continue;
    entry.isDoomed = true;
    if (entry.id !== null) deleteJob(entry.id).catch(() => {});
  }
  keepAndShow();
});
onOtherPages(() => takeOver(mergeEntries(entries, isSending)));
addEventListener('beforeunload', (event) => {
  if (entries.some(({ key }) => workOf(key).upload !== null)) event.preventDefault();
});
onLanguageChange(() => {
  showOptions();
  show();
});

takeOver(entries);
fetchMaxBytes().then((bytes) => {
  maxBytes = bytes;
  showOptions();
  show();
}).catch((error) => {
  if (error instanceof ApiFailure && error.code === 'videos_unavailable') {
    messages.show('unavailable', { key: 'fault_videos_unavailable', level: 'error', code: error.code });
  }
});
showOptions();
follower.tick();

/** For tests and the curious; the page itself does not use it. */
Object.defineProperty(window, 'vigie', {
  value: Object.freeze({
    get rows() {
      return entries.map(({ key }) => rowOf(key));
    },
    get view() {
      return page.dataset.view;
    },
  }),
});
