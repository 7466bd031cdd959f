// The list of this browser's videos: one row each, with how far it is and what can be done with it.

import { formatNumber, formatScore, onLanguageChange, t } from '../i18n.js';
import { describeFault, formatBytes, formatLeft } from './words.js';

/**
 * @typedef {import('./store.js').Entry} Entry
 * @typedef {import('./api.js').Job} Job
 * @typedef {'waiting_upload' | 'uploading' | 'offline' | 'interrupted' | 'queued' | 'running' | 'done' | 'failed' | 'cancelled' | 'gone' | 'unknown' | 'deleted'} RowState
 * @typedef {object} Row
 * @property {Entry} entry
 * @property {RowState} state
 * @property {Job | null} job
 * @property {{ code: string, message: string } | null} fault
 * @property {number} bytesPerSecond
 * @property {boolean} isChosen
 * @typedef {'open' | 'cancel' | 'delete' | 'undo' | 'choose'} Action
 */

/** What each state offers. @type {Record<RowState, Action[]>} */
const ACTIONS = {
  waiting_upload: ['cancel'],
  uploading: ['cancel'],
  offline: ['cancel'],
  interrupted: ['choose', 'delete'],
  queued: ['cancel'],
  running: ['cancel'],
  done: ['delete'],
  failed: ['delete'],
  cancelled: ['delete'],
  gone: ['delete'],
  unknown: ['delete'],
  deleted: ['undo'],
};

export class List {
  /** @type {HTMLElement} */ #list;
  /** @type {(action: Action, key: string) => void} */ #onAction;
  /** @type {Map<string, HTMLLIElement>} */ #items = new Map();
  /** @type {Row[]} */ #rows = [];
  /** @type {number | null} */ maxBytes = null;

  /**
   * @param {HTMLElement} list
   * @param {(action: Action, key: string) => void} onAction
   */
  constructor(list, onAction) {
    this.#list = list;
    this.#onAction = onAction;
    list.addEventListener('click', ({ target }) => {
      const button = /** @type {Element} */ (target).closest('button');
      const item = /** @type {HTMLElement | null} */ (button?.closest('li') ?? null);
      if (button && item) this.#onAction(/** @type {Action} */ (button.dataset.action), item.dataset.key ?? '');
    });
    onLanguageChange(() => this.show(this.#rows));
  }

  /** @param {Row[]} rows */
  show(rows) {
    this.#rows = rows;
    const keys = new Set(rows.map(({ entry }) => entry.key));
    for (const [key, item] of this.#items) {
      if (keys.has(key)) continue;
      item.remove();
      this.#items.delete(key);
    }
    rows.forEach((row, index) => {
      const item = this.#items.get(row.entry.key) ?? this.#newItem(row.entry.key);
      this.#fill(item, row);
      // Moving an element that is in its place already would take the focus from it.
      if (this.#list.children[index] !== item) this.#list.insertBefore(item, this.#list.children[index] ?? null);
    });
  }

  /** @param {string} key */
  #newItem(key) {
    const item = document.createElement('li');
    item.className = 'job';
    item.dataset.key = key;
    const open = document.createElement('button');
    open.type = 'button';
    open.className = 'job-open';
    open.dataset.action = 'open';
    for (const name of ['job-name', 'job-state', 'job-detail']) {
      const span = document.createElement('span');
      span.className = name;
      open.append(span);
    }
    const bar = document.createElement('div');
    bar.className = 'bar';
    bar.setAttribute('role', 'progressbar');
    bar.append(document.createElement('span'));
    const actions = document.createElement('div');
    actions.className = 'job-actions';
    item.append(open, actions, bar);
    this.#items.set(key, item);
    return item;
  }

  /** @param {HTMLLIElement} item @param {Row} row */
  #fill(item, row) {
    const { entry, state } = row;
    item.dataset.state = state;
    item.dataset.job = entry.id ?? '';
    item.dataset.code = row.fault?.code ?? '';
    item.classList.toggle('chosen', row.isChosen);
    const open = /** @type {HTMLButtonElement} */ (item.querySelector('.job-open'));
    open.setAttribute('aria-pressed', String(row.isChosen));
    open.disabled = state === 'deleted' || state === 'gone';
    setText(item, '.job-name', entry.name);
    setText(item, '.job-state', t(`state_${state}`, { share: formatScore(shareSent(entry)) }));
    setText(item, '.job-detail', detailOf(row, this.maxBytes));
    fillBar(/** @type {HTMLElement} */ (item.querySelector('.bar')), row);
    fillActions(/** @type {HTMLElement} */ (item.querySelector('.job-actions')), row);
  }
}

/** @param {Entry} entry */
function shareSent({ sentBytes, bytes }) {
  return bytes > 0 ? Math.min(1, sentBytes / bytes) : 0;
}

/** How much is done, 0 to 1; null where nobody knows. @param {Row} row */
export function shareOf({ state, entry, job }) {
  if (state === 'uploading' || state === 'offline' || state === 'interrupted') return shareSent(entry);
  if (state !== 'running' || !job?.progress) return null;
  const { frames, of_frames: all } = job.progress;
  return all ? Math.min(1, frames / all) : null;
}

/** The figures of a row. @param {Row} row @param {number | null} maxBytes */
export function detailOf({ state, entry, job, fault, bytesPerSecond }, maxBytes) {
  const words = [];
  if (state === 'uploading' || state === 'offline') {
    words.push(t('of_bytes', { sent: formatBytes(entry.sentBytes), all: formatBytes(entry.bytes) }));
    if (state === 'uploading' && bytesPerSecond > 0) {
      words.push(t('bytes_rate', { rate: formatBytes(bytesPerSecond) }));
      words.push(formatLeft((entry.bytes - entry.sentBytes) / bytesPerSecond));
    }
  } else if (state === 'running' && job) {
    const { frames, of_frames: all, fps, seconds_left: left } = job.progress;
    words.push(t(all ? 'of_frames' : 'some_frames', { frames: formatNumber(frames), all: formatNumber(all) }));
    if (fps > 0) words.push(t('at_fps', { fps: formatNumber(fps, fps < 10 ? 1 : 0) }));
    if (left !== undefined) words.push(formatLeft(left));
    if (job.tries > 1) words.push(t('tried_again', { n: job.tries }));
  } else if (state === 'done' && job?.summary) {
    const seen = job.summary.tracks.length;
    words.push(seen > 0 ? t('seen', { n: formatNumber(seen) }) : t('nothing_seen'), formatBytes(entry.bytes));
  } else if (state === 'failed' && fault) {
    words.push(describeFault(fault, maxBytes));
  } else {
    words.push(formatBytes(entry.bytes));
  }
  return words.join(' · ');
}

/** @param {HTMLElement} bar @param {Row} row */
export function fillBar(bar, row) {
  const isBusy = ['uploading', 'offline', 'interrupted', 'running', 'queued'].includes(row.state);
  const share = shareOf(row);
  bar.hidden = !isBusy;
  bar.classList.toggle('unsure', isBusy && share === null);
  bar.classList.toggle('sending', row.state !== 'running');
  bar.setAttribute('aria-label', t(`state_${row.state}`, { share: '' }));
  if (share === null) bar.removeAttribute('aria-valuenow');
  else bar.setAttribute('aria-valuenow', String(Math.round(share * 100)));
  /** @type {HTMLElement} */ (bar.firstElementChild).style.width = share === null ? '' : `${share * 100}%`;
}

/** @param {HTMLElement} box @param {Row} row */
function fillActions(box, { state, entry }) {
  const wanted = ACTIONS[state];
  const present = [...box.children].map((button) => /** @type {HTMLElement} */ (button).dataset.action);
  if (wanted.join() !== present.join()) {
    const hadFocus = box.contains(document.activeElement);
    box.replaceChildren(...wanted.map((action) => {
      const button = document.createElement('button');
      button.type = 'button';
      button.dataset.action = action;
      return button;
    }));
    // What had the focus is gone: whoever works by keys goes on where they were.
    if (hadFocus) /** @type {HTMLElement | null} */ (box.firstElementChild)?.focus();
  }
  for (const button of /** @type {NodeListOf<HTMLButtonElement>} */ (box.querySelectorAll('button'))) {
    const isLost = state === 'gone' || state === 'failed' && entry.id === null;
    const word = button.dataset.action === 'choose' ? 'choose_again'
      : button.dataset.action === 'delete' && isLost ? 'remove' : button.dataset.action ?? '';
    button.textContent = t(word);
    if (word !== 'choose_again') button.setAttribute('aria-label', t(`${word}_named`, { name: entry.name }));
  }
}

/** @param {Element} root @param {string} selector @param {string} text */
function setText(root, selector, text) {
  const found = root.querySelector(selector);
  if (found && found.textContent !== text) found.textContent = text;
}
