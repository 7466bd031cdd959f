// The instrument panels: latency with its stages and plot, rates, and what is in view.

import { formatNumber, onLanguageChange, t, translate, translateLabel } from './i18n.js';
import { STALE_MS, trackColour } from './overlay.js';
import { Plot } from './plot.js';
import { STAGES } from './stats.js';

/** Four readings a second: any faster and digits cannot be read. */
const REFRESH_MS = 250;

/** @param {string} id */
const byId = (id) => /** @type {HTMLElement} */ (document.getElementById(id));

export class Hud {
  #plot = new Plot(/** @type {HTMLCanvasElement} */ (byId('plot')));
  /** @type {import('./stats.js').Stats} */ #stats;
  /** @type {any} */ #report = null;
  #reportedAt = 0;
  /** @type {number | undefined} */ #timer;

  /** @param {import('./stats.js').Stats} stats */
  constructor(stats) {
    this.#stats = stats;
    for (const stage of STAGES) {
      const part = document.createElement('span');
      part.dataset.stage = stage;
      byId('stages').append(part);
      const item = document.createElement('li');
      const dot = document.createElement('span');
      dot.className = 'dot';
      dot.dataset.stage = stage;
      const name = document.createElement('span');
      name.dataset.i18n = `stage_${stage}`;
      if (stage === 'network') name.dataset.i18nAttr = 'title:stage_network_described';
      const value = document.createElement('span');
      value.className = 'value';
      item.append(dot, name, value);
      byId('stage-key').append(item);
    }
    translate(byId('stage-key'));
    onLanguageChange(() => this.#refresh());
  }

  start() {
    this.#timer ??= setInterval(() => this.#refresh(), REFRESH_MS);
  }

  /** Blanks every reading. */
  stop() {
    clearInterval(this.#timer);
    this.#timer = undefined;
    this.#report = null;
    this.#plot.clear();
    this.#refresh();
  }

  /**
   * @param {any} report
   * @param {number} latencyMs
   */
  add(report, latencyMs) {
    this.#report = report;
    this.#reportedAt = performance.now();
    this.#plot.add(this.#reportedAt, latencyMs);
  }

  /** What was in view is no longer known. */
  forgetView() {
    this.#report = null;
  }

  #refresh() {
    const { figures } = this.#stats;
    if (performance.now() - this.#reportedAt > STALE_MS) this.#report = null;
    byId('latency-title').textContent = t(figures.isLatencyEstimated && figures.latencyMs !== null ? 'latency_estimated' : 'latency');
    byId('latency').textContent = formatNumber(figures.latencyMs);
    this.#refreshStages();
    byId('sent-fps').textContent = formatNumber(figures.sentFps);
    byId('recognised-fps').textContent = formatNumber(figures.recognisedFps);
    byId('annotated-fps').textContent = formatNumber(figures.annotatedFps);
    byId('dropped').textContent = figures.latencyMs === null ? '–' : formatNumber(figures.dropped);
    byId('rtt').textContent = formatNumber(figures.rttMs, figures.rttMs !== null && figures.rttMs < 10 ? 1 : 0);
    byId('codec').textContent = figures.codec ?? '–';
    byId('sent-size').textContent = figures.width && figures.height ? `${figures.width}×${figures.height}` : '';
    this.#refreshCounts();
    this.#plot.draw(performance.now());
  }

  #refreshStages() {
    const { stagesMs } = this.#stats.figures;
    const total = STAGES.reduce((sum, stage) => sum + (stagesMs[stage] ?? 0), 0);
    STAGES.forEach((stage, i) => {
      const share = total > 0 ? (stagesMs[stage] ?? 0) / total : 0;
      /** @type {HTMLElement} */ (byId('stages').children[i]).style.flexBasis = `${share * 100}%`;
      const value = byId('stage-key').children[i].querySelector('.value');
      if (value) value.textContent = formatNumber(stagesMs[stage], 1);
    });
  }

  #refreshCounts() {
    const rows = countByClass(this.#report?.tracks ?? []);
    byId('counts-empty').hidden = rows.length > 0;
    byId('counts').replaceChildren(...rows.map(({ kind, label, count, genders, texts }) => {
      const item = document.createElement('li');
      item.dataset.kind = kind;
      item.dataset.label = label;
      const swatch = document.createElement('span');
      swatch.className = 'swatch';
      swatch.style.setProperty('--swatch', trackColour(kind, label));
      const name = document.createElement('span');
      name.textContent = translateLabel(label);
      const detail = document.createElement('span');
      detail.className = 'detail';
      detail.textContent = [...[...genders].map(([gender, n]) => `${translateLabel(gender)} ${n}`), ...texts].join(' · ');
      const number = document.createElement('span');
      number.className = 'count';
      number.textContent = formatNumber(count);
      item.append(swatch, name, detail, number);
      return item;
    }));
  }
}

/**
 * Counts tracks by kind and label, faces first, then the most numerous; faces also by apparent gender, and what was read.
 * @param {any[]} tracks
 */
export function countByClass(tracks) {
  /** @type {Map<string, { kind: string, label: string, count: number, genders: Map<string, number>, texts: string[] }>} */
  const rows = new Map();
  for (const { kind, label, attributes } of tracks) {
    const key = `${kind}/${label}`;
    const row = rows.get(key) ?? { kind, label, count: 0, genders: new Map(), texts: [] };
    row.count += 1;
    const gender = attributes?.apparent_gender?.label;
    if (gender) row.genders.set(gender, (row.genders.get(gender) ?? 0) + 1);
    if (attributes?.text) row.texts.push(t('quoted', { text: attributes.text.label }));
    rows.set(key, row);
  }
  return [...rows.values()].sort((a, b) =>
    Number(b.kind === 'face') - Number(a.kind === 'face') || b.count - a.count || a.label.localeCompare(b.label));
}
