// A finished video: the player, its timeline, what was counted and what can be downloaded.

import { formatNumber, onLanguageChange, t, translateLabel } from '../i18n.js';
import { trackColour } from '../overlay.js';
import { apiUrl } from './api.js';
import { Timeline } from './timeline.js';
import { formatWhen } from './words.js';

/** @typedef {import('./api.js').Job} Job */

export class Result {
  /** @type {HTMLVideoElement} */ #video;
  /** @type {Timeline} */ #timeline;
  /** @type {Job | null} */ #job = null;
  /** A place to go to as soon as the video is known. @type {number | null} */ #pendingS = null;
  #isFollowing = false;
  #stillMotion = matchMedia('(prefers-reduced-motion: reduce)');

  constructor() {
    this.#video = /** @type {HTMLVideoElement} */ (element('player'));
    this.#timeline = new Timeline(element('timeline'), (seconds) => this.#seek(seconds));
    const follow = () => this.#timeline.moveTo(this.#pendingS ?? this.#video.currentTime);
    for (const event of ['timeupdate', 'seeking', 'seeked', 'loadedmetadata']) this.#video.addEventListener(event, follow);
    this.#video.addEventListener('loadedmetadata', () => {
      element('cannot-play').hidden = true;
      if (this.#pendingS !== null) this.#video.currentTime = this.#pendingS;
      this.#pendingS = null;
      if (this.#job?.summary) this.#timeline.show(this.#job.summary.tracks, this.#durationS());
    });
    this.#video.addEventListener('play', () => this.#glide());
    this.#video.addEventListener('error', () => {
      element('cannot-play').hidden = this.#video.getAttribute('src') === null;
    });
    onLanguageChange(() => this.#describe());
  }

  /** The job that is shown. */
  get id() {
    return this.#job?.id ?? null;
  }

  /** @param {Job} job one that is done */
  show(job) {
    if (this.#job?.id === job.id) return;
    this.hide();
    this.#job = job;
    element('result').hidden = false;
    this.#video.src = apiUrl(job.results?.annotated ?? `api/videos/${job.id}/annotated.mp4`).href;
    for (const [id, file] of [['download-mp4', 'annotated.mp4'], ['download-jsonl', 'detections.jsonl'], ['download-summary', 'summary.json']]) {
      /** @type {HTMLAnchorElement} */ (element(id)).href = apiUrl(`api/videos/${job.id}/${file}?download=1`).href;
    }
    this.#describe();
  }

  hide() {
    this.#job = null;
    this.#pendingS = null;
    element('result').hidden = true;
    element('cannot-play').hidden = true;
    this.#video.pause();
    this.#video.removeAttribute('src');
    this.#video.load();
  }

  #durationS() {
    const known = this.#video.duration;
    return Math.max(this.#job?.summary?.duration_s ?? 0, Number.isFinite(known) ? known : 0);
  }

  /** @param {number} seconds */
  #seek(seconds) {
    if (this.#video.readyState >= HTMLMediaElement.HAVE_METADATA) this.#video.currentTime = seconds;
    else this.#pendingS = seconds;
  }

  /** Lets the playhead follow each picture, not only the four events a second. */
  #glide() {
    if (this.#isFollowing || this.#stillMotion.matches) return;
    this.#isFollowing = true;
    const step = () => {
      this.#timeline.moveTo(this.#video.currentTime);
      this.#isFollowing = !this.#video.paused && !this.#video.ended;
      if (this.#isFollowing) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  #describe() {
    const job = this.#job;
    const summary = job?.summary;
    if (!job || !summary) return;
    element('result-name').textContent = job.name;
    element('result-expiry').textContent = t('expires', { when: formatWhen(job.expires_at) });
    this.#timeline.show(summary.tracks, this.#durationS());
    element('timeline').hidden = summary.tracks.length === 0;
    element('nothing-found').hidden = summary.tracks.length > 0;
    element('counts-panel').hidden = summary.tracks.length === 0;
    showNotes(summary);
    showCounts(summary);
  }
}

/** @param {import('./api.js').Summary} summary */
function showNotes(summary) {
  const notes = [];
  if (summary.cut_off) notes.push(t('note_cut_off'));
  if (summary.stopped) notes.push(t('note_stopped', { detail: summary.stopped }));
  if (summary.damaged_frames > 0) notes.push(t('note_damaged', { n: formatNumber(summary.damaged_frames) }));
  if (summary.audio === 'left_out') notes.push(t('note_audio_left_out'));
  element('notes').hidden = notes.length === 0;
  element('notes').replaceChildren(...notes.map((note) => {
    const item = document.createElement('li');
    item.textContent = note;
    return item;
  }));
}

/** Small bars: as long as there are tracks of the class. @param {import('./api.js').Summary} summary */
function showCounts(summary) {
  const kinds = new Map(summary.tracks.map(({ kind, label }) => [label, kind]));
  const counts = Object.entries(summary.counts).sort(([a, n], [b, m]) => m - n || a.localeCompare(b));
  const most = Math.max(1, ...counts.map(([, count]) => count));
  const genders = Object.entries(summary.apparent_genders).sort(([, n], [, m]) => m - n)
    .map(([label, count]) => `${translateLabel(label)} ${formatNumber(count)}`).join(' · ');
  element('video-counts').replaceChildren(...counts.map(([label, count]) => {
    const item = document.createElement('li');
    const kind = kinds.get(label) ?? 'object';
    item.dataset.label = label;
    item.style.setProperty('--swatch', trackColour(kind, label));
    item.style.setProperty('--share', String(count / most));
    const name = document.createElement('span');
    name.className = 'count-name';
    name.textContent = translateLabel(label);
    const bar = document.createElement('span');
    bar.className = 'count-bar';
    bar.setAttribute('aria-hidden', 'true');
    const number = document.createElement('span');
    number.className = 'count-number';
    number.textContent = formatNumber(count);
    item.append(name, bar, number);
    if (kind === 'face' && genders) {
      const detail = document.createElement('small');
      detail.className = 'count-detail';
      detail.textContent = t('gender_counts', { counts: genders });
      item.append(detail);
    }
    return item;
  }));
}

/** @param {string} id @returns {HTMLElement} */
function element(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}
