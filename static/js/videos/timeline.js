// The plot of what was in view and when: one lane a class, one bar a track from its first to its last
// time. A click goes there; so do the keys.

import { formatScore, t, translateLabel } from '../i18n.js';
import { describeAttributes, describeText, trackColour } from '../overlay.js';
import { formatTime } from './words.js';

/** @typedef {import('./api.js').Track} Track */
/** @typedef {{ kind: string, label: string, tracks: Track[], rows: Track[][] }} Lane */

const SVG = 'http://www.w3.org/2000/svg';
/** Rows of a lane; what does not fit beside each other in them shares the last. */
const MOST_ROWS = 6;
const ROW_PX = 11;
const BAR_PX = 8;
/** Bars closer than this share of the whole would look like one. */
const GAP_SHARE = 0.004;
/** Seconds between marks of the ruler. */
const STEPS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400];
const MARK_EVERY_PX = 76;

/**
 * Tracks by class: faces first, then by how many, and in each lane in rows without overlap.
 * @param {readonly Track[]} tracks
 * @param {number} durationS
 * @returns {Lane[]}
 */
export function layOut(tracks, durationS) {
  /** @type {Map<string, Lane>} */
  const lanes = new Map();
  for (const track of [...tracks].sort((a, b) => a.first_s - b.first_s || a.id - b.id)) {
    const key = `${track.kind}/${track.label}`;
    const lane = lanes.get(key) ?? { kind: track.kind, label: track.label, tracks: [], rows: [] };
    lanes.set(key, lane);
    lane.tracks.push(track);
    const gap = durationS * GAP_SHARE;
    const free = lane.rows.find((row) => row[row.length - 1].last_s + gap <= track.first_s);
    if (free) free.push(track);
    else if (lane.rows.length < MOST_ROWS) lane.rows.push([track]);
    else lane.rows[MOST_ROWS - 1].push(track);
  }
  const rank = (/** @type {Lane} */ lane) => (lane.kind === 'face' ? 0 : 1);
  return [...lanes.values()].sort((a, b) => rank(a) - rank(b) || b.tracks.length - a.tracks.length || a.label.localeCompare(b.label));
}

/** A track in words. @param {Track} track */
export function describe(track) {
  const words = [translateLabel(track.label) + (track.score === undefined ? '' : ` ${formatScore(track.score)}`)];
  words.push(...describeAttributes({ ...(track.apparent_gender && { apparent_gender: track.apparent_gender }), ...track.classes }));
  if (track.text) words.push(describeText(track.text));
  words.push(t('from_to', { from: formatTime(track.first_s, true), to: formatTime(track.last_s, true) }));
  return words.join(' · ');
}

export class Timeline {
  /** @type {HTMLElement} */ #root;
  /** @type {HTMLElement} */ #ruler;
  /** @type {HTMLElement} */ #lanesBox;
  /** @type {HTMLElement} */ #playhead;
  /** @type {HTMLElement} */ #plot;
  /** @type {HTMLElement} */ #tooltip;
  /** @type {(seconds: number) => void} */ #onSeek;
  /** @type {Lane[]} */ #lanes = [];
  /** @type {{ track: Track, bar: SVGRectElement, lane: number }[]} */ #bars = [];
  /** @type {HTMLElement[]} */ #heads = [];
  #durationS = 1;
  #atS = 0;

  /**
   * @param {HTMLElement} root
   * @param {(seconds: number) => void} onSeek
   */
  constructor(root, onSeek) {
    this.#root = root;
    this.#onSeek = onSeek;
    const find = (/** @type {string} */ selector) => /** @type {HTMLElement} */ (root.querySelector(selector));
    this.#ruler = find('.ruler');
    this.#lanesBox = find('.lanes');
    this.#playhead = find('.playhead');
    this.#plot = find('.plot-area');
    this.#tooltip = find('.track-tooltip');
    new ResizeObserver(() => this.#drawRuler()).observe(this.#plot);
    this.#listen();
  }

  /**
   * @param {readonly Track[]} tracks
   * @param {number} durationS
   */
  show(tracks, durationS) {
    this.#durationS = Math.max(durationS, 0.001);
    this.#lanes = layOut(tracks, this.#durationS);
    this.#bars = [];
    this.#heads = [];
    this.#lanesBox.replaceChildren(...this.#lanes.map((lane, index) => this.#laneElement(lane, index)));
    if (this.#bars[0]) this.#bars[0].bar.setAttribute('tabindex', '0');
    this.#tooltip.hidden = true;
    this.#ruler.setAttribute('aria-valuemax', this.#durationS.toFixed(1));
    this.#drawRuler();
    this.moveTo(Math.min(this.#atS, this.#durationS));
  }

  /** Puts the playhead there. @param {number} seconds */
  moveTo(seconds) {
    this.#atS = Math.max(0, Math.min(seconds, this.#durationS));
    const share = this.#atS / this.#durationS;
    this.#playhead.style.left = `${share * 100}%`;
    const inView = new Set();
    for (const { track, bar, lane } of this.#bars) {
      const isIn = track.first_s <= this.#atS && this.#atS <= track.last_s + 0.05;
      bar.classList.toggle('in-view', isIn);
      if (isIn) inView.add(lane);
    }
    this.#heads.forEach((head, lane) => head.classList.toggle('in-view', inView.has(lane)));
    const seen = [...inView].map((lane) => translateLabel(this.#lanes[lane].label)).join(', ');
    const values = { at: formatTime(this.#atS, true), all: formatTime(this.#durationS, true), seen };
    this.#ruler.setAttribute('aria-valuenow', this.#atS.toFixed(1));
    this.#ruler.setAttribute('aria-valuetext', t(seen ? 'timeline_at_seen' : 'timeline_at', values));
  }

  /** @param {Lane} lane @param {number} index */
  #laneElement(lane, index) {
    const element = document.createElement('div');
    element.className = 'lane';
    element.dataset.label = lane.label;
    element.style.setProperty('--swatch', trackColour(lane.kind, lane.label));
    const head = document.createElement('div');
    head.className = 'lane-head';
    const name = document.createElement('span');
    name.className = 'lane-name';
    name.textContent = translateLabel(lane.label);
    const count = document.createElement('small');
    count.textContent = `×${lane.tracks.length}`;
    head.append(swatch(), name, count);
    this.#heads.push(head);

    const svg = document.createElementNS(SVG, 'svg');
    const height = lane.rows.length * ROW_PX + 5;
    svg.setAttribute('height', String(height));
    svg.setAttribute('role', 'group');
    svg.setAttribute('aria-label', translateLabel(lane.label));
    lane.rows.forEach((row, rowIndex) => {
      for (const track of row) {
        const bar = document.createElementNS(SVG, 'rect');
        const start = track.first_s / this.#durationS;
        const length = Math.max(0, track.last_s - track.first_s) / this.#durationS;
        bar.setAttribute('x', `${start * 100}%`);
        bar.setAttribute('width', `${Math.max(0.25, length * 100)}%`);
        bar.setAttribute('y', String(4 + rowIndex * ROW_PX));
        bar.setAttribute('height', String(BAR_PX));
        bar.setAttribute('rx', '2.5');
        bar.setAttribute('role', 'button');
        bar.setAttribute('tabindex', '-1');
        bar.setAttribute('aria-label', describe(track));
        bar.dataset.track = String(track.id);
        this.#bars.push({ track, bar, lane: index });
        svg.append(bar);
      }
    });
    const body = document.createElement('div');
    body.className = 'lane-body';
    body.append(svg);
    element.append(head, body);
    return element;
  }

  #drawRuler() {
    const width = this.#plot.clientWidth;
    if (width === 0) return;
    const most = Math.max(2, width / MARK_EVERY_PX);
    const step = STEPS_S.find((seconds) => this.#durationS / seconds <= most) ?? STEPS_S[STEPS_S.length - 1];
    const marks = [];
    for (let n = 0; n * step <= this.#durationS + 1e-6; n += 1) {
      const mark = document.createElement('span');
      mark.className = 'mark-s';
      const share = n * step / this.#durationS;
      mark.style.left = `${share * 100}%`;
      // A last mark at the very end would stand outside.
      mark.classList.toggle('at-end', width * (1 - share) < 34);
      mark.textContent = formatTime(n * step, step < 1);
      marks.push(mark);
    }
    this.#ruler.replaceChildren(...marks);
  }

  #listen() {
    const timeAt = (/** @type {PointerEvent} */ event) => {
      const { left, width } = this.#plot.getBoundingClientRect();
      return Math.max(0, Math.min(1, (event.clientX - left) / width)) * this.#durationS;
    };
    const area = /** @type {HTMLElement} */ (this.#root.querySelector('.timeline-body'));
    let isDragging = false;
    area.addEventListener('pointerdown', (event) => {
      const isHead = /** @type {Element} */ (event.target).closest('.lane-head');
      if (event.button !== 0 || isHead) return;
      isDragging = event.pointerType !== 'touch';
      if (isDragging) area.setPointerCapture(event.pointerId);
      if (isDragging) this.#seek(timeAt(event));
    });
    area.addEventListener('pointermove', (event) => {
      if (isDragging) this.#seek(timeAt(event));
      this.#hover(event);
    });
    for (const end of ['pointerup', 'pointercancel']) area.addEventListener(end, () => { isDragging = false; });
    // A finger may mean to scroll: only a tap goes there.
    area.addEventListener('click', (event) => {
      const pointer = /** @type {PointerEvent} */ (event);
      if (pointer.pointerType !== 'touch' || /** @type {Element} */ (event.target).closest('.lane-head')) return;
      this.#seek(timeAt(pointer));
      this.#hover(pointer);
    });
    area.addEventListener('pointerleave', () => { this.#tooltip.hidden = true; });
    this.#ruler.addEventListener('keydown', (event) => this.#sliderKey(event));
    this.#lanesBox.addEventListener('keydown', (event) => this.#barKey(event));
    this.#lanesBox.addEventListener('focusin', ({ target }) => this.#explain(/** @type {Element} */ (target)));
    this.#lanesBox.addEventListener('focusout', () => { this.#tooltip.hidden = true; });
  }

  /** @param {number} seconds */
  #seek(seconds) {
    this.moveTo(seconds);
    this.#onSeek(seconds);
  }

  /** @param {PointerEvent} event */
  #hover(event) {
    // While the pointer is captured the event's target is not what lies below it.
    const below = document.elementFromPoint(event.clientX, event.clientY);
    this.#explain(below?.matches('rect[data-track]') ? below : null);
  }

  /** Shows the tooltip of a bar, or none. @param {Element | null} bar */
  #explain(bar) {
    const found = this.#bars.find((known) => known.bar === bar);
    this.#tooltip.hidden = !found;
    if (!found) return;
    const { track } = found;
    this.#tooltip.style.setProperty('--swatch', trackColour(track.kind, track.label));
    this.#tooltip.textContent = `${describe(track)} · ${t('track_number', { id: track.id })}`;
    const box = found.bar.getBoundingClientRect();
    const frame = this.#root.getBoundingClientRect();
    const own = this.#tooltip.getBoundingClientRect();
    const middle = (Math.max(box.left, frame.left) + Math.min(box.right, frame.right)) / 2 - frame.left;
    this.#tooltip.style.left = `${Math.max(0, Math.min(middle - own.width / 2, frame.width - own.width))}px`;
    const above = box.top - frame.top - own.height - 6;
    this.#tooltip.style.top = `${above >= 0 ? above : box.bottom - frame.top + 6}px`;
  }

  /** @param {KeyboardEvent} event */
  #sliderKey(event) {
    const frame = event.shiftKey ? 10 : 1;
    const to = {
      ArrowLeft: this.#atS - frame,
      ArrowDown: this.#atS - frame,
      ArrowRight: this.#atS + frame,
      ArrowUp: this.#atS + frame,
      PageDown: this.#atS - 10,
      PageUp: this.#atS + 10,
      Home: 0,
      End: this.#durationS,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.#seek(Math.max(0, Math.min(to, this.#durationS)));
  }

  /** Arrows go from bar to bar, up and down from lane to lane; Enter goes to the bar's start. @param {KeyboardEvent} event */
  #barKey(event) {
    const index = this.#bars.findIndex(({ bar }) => bar === event.target);
    if (index < 0) return;
    if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.#seek(this.#bars[index].track.first_s);
      return;
    }
    const next = this.#neighbour(index, event.key);
    if (next === null) return;
    event.preventDefault();
    this.#bars[index].bar.setAttribute('tabindex', '-1');
    this.#bars[next].bar.setAttribute('tabindex', '0');
    this.#bars[next].bar.focus();
  }

  /** @param {number} index @param {string} key @returns {number | null} */
  #neighbour(index, key) {
    const within = this.#bars.map((bar, n) => ({ ...bar, n })).filter(({ lane }) => lane === this.#bars[index].lane)
      .sort((a, b) => a.track.first_s - b.track.first_s);
    const place = within.findIndex(({ n }) => n === index);
    if (key === 'ArrowRight') return within[place + 1]?.n ?? null;
    if (key === 'ArrowLeft') return within[place - 1]?.n ?? null;
    if (key === 'Home') return within[0].n;
    if (key === 'End') return within[within.length - 1].n;
    if (key !== 'ArrowDown' && key !== 'ArrowUp') return null;
    const lane = this.#bars[index].lane + (key === 'ArrowDown' ? 1 : -1);
    const from = this.#bars[index].track.first_s;
    let nearest = null;
    this.#bars.forEach((bar, n) => {
      const distance = Math.abs(bar.track.first_s - from);
      if (bar.lane === lane && (nearest === null || distance < Math.abs(this.#bars[nearest].track.first_s - from))) nearest = n;
    });
    return nearest;
  }
}

function swatch() {
  const element = document.createElement('span');
  element.className = 'swatch';
  element.setAttribute('aria-hidden', 'true');
  return element;
}
