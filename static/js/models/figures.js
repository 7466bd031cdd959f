// The figures of a slot's versions over the last minutes, and the small plots of them.

import { formatNumber, t } from '../i18n.js';

/** @typedef {import('./api.js').VersionFigures} VersionFigures */
/** @typedef {VersionFigures & { at: number, runsPerS: number, errorsPerS: number }} Sample */

/** How far the plots reach back, and the least that they show: they fill their place as they grow. */
const SPAN_MS = 180_000;
const LEAST_SPAN_MS = 20_000;
/** Sizes of the drawing, stretched to its place. */
const WIDTH = 180;
const HEIGHT = 40;

/** The time that a plot shows. @typedef {{ from: number, to: number }} Span */

/** What was heard of one slot, by version. */
export class Figures {
  /** @type {Map<string, Sample[]>} */ #samples = new Map();

  /**
   * @param {number} at ms
   * @param {readonly VersionFigures[]} versions
   */
  add(at, versions) {
    for (const version of versions) {
      const samples = this.#samples.get(version.model) ?? [];
      const last = samples[samples.length - 1];
      const seconds = last ? (at - last.at) / 1000 : 0;
      // A count that fell is that of a worker that came anew.
      const rate = (/** @type {number} */ now, /** @type {number} */ before) => (seconds > 0 ? Math.max(0, now - before) / seconds : 0);
      samples.push({ ...version, at, runsPerS: rate(version.runs, last?.runs ?? 0), errorsPerS: rate(version.errors, last?.errors ?? 0) });
      this.#samples.set(version.model, samples.filter((sample) => at - sample.at <= SPAN_MS));
    }
    for (const [model, samples] of this.#samples) {
      if (at - samples[samples.length - 1].at > SPAN_MS) this.#samples.delete(model);
    }
  }

  /** @param {string} model @returns {Sample[]} */
  of(model) {
    return this.#samples.get(model) ?? [];
  }

  /** What the plots of this slot show now. @param {number} now @returns {Span} */
  span(now) {
    const oldest = Math.min(now - LEAST_SPAN_MS, ...[...this.#samples.values()].map(([first]) => first.at));
    return { from: Math.max(oldest, now - SPAN_MS), to: now };
  }

  /** The highest of all versions, so that their plots can be compared. @param {(sample: Sample) => number | null} value */
  most(value) {
    return Math.max(0, ...[...this.#samples.values()].flat().map((sample) => value(sample) ?? 0));
  }
}

/** A round number that is no less. @param {number} value */
export function roundUp(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * ([1, 1.5, 2, 3, 4, 5, 6, 8, 10].find((step) => value <= step * unit) ?? 10);
}

/**
 * Latency: the line is p50, the area above it reaches to p95.
 * @param {string} model
 * @param {Sample[]} samples
 * @param {number} scaleMs
 * @param {Span} span
 */
export function latencyPlot(model, samples, scaleMs, span) {
  const known = samples.filter(({ p50_ms, p95_ms }) => p50_ms !== null && p95_ms !== null);
  const last = known[known.length - 1];
  const svg = frame(t('plot_latency_described', { model, p50: formatNumber(last?.p50_ms, 1), p95: formatNumber(last?.p95_ms, 1) }));
  const x = (/** @type {Sample} */ sample) => toX(sample.at, span);
  const y = (/** @type {number | null} */ value) => HEIGHT - 1 - (Math.min(value ?? 0, scaleMs) / scaleMs) * (HEIGHT - 3);
  const line = known.map((sample) => `${x(sample)},${y(sample.p50_ms)}`);
  const top = known.map((sample) => `${x(sample)},${y(sample.p95_ms)}`).reverse();
  if (known.length > 1) svg.append(shape('polygon', 'band', { points: [...line, ...top].join(' ') }), shape('polyline', 'line', { points: line.join(' ') }));
  else if (last) svg.append(shape('line', 'line', { x1: x(last) - 3, x2: x(last), y1: y(last.p50_ms), y2: y(last.p50_ms) }));
  return svg;
}

/**
 * Runs a second, errors in red at the bottom.
 * @param {string} model
 * @param {Sample[]} samples
 * @param {number} scale
 * @param {Span} span
 */
export function ratePlot(model, samples, scale, span) {
  const last = samples[samples.length - 1];
  const svg = frame(t('plot_rate_described', { model, rate: formatNumber(last?.runsPerS, 1), errors: formatNumber(last?.errors ?? 0) }));
  const high = (/** @type {number} */ rate) => (Math.min(rate, scale) / scale) * (HEIGHT - 3);
  samples.forEach((sample, index) => {
    const previous = samples[index - 1];
    if (!previous) return;
    const from = toX(previous.at, span);
    const width = Math.max(0.6, toX(sample.at, span) - from - 0.4);
    const runs = high(sample.runsPerS);
    const errors = sample.errorsPerS > 0 ? Math.max(2, high(sample.errorsPerS)) : 0;
    svg.append(shape('rect', 'runs', { x: from, y: HEIGHT - 1 - runs, width, height: runs }));
    if (errors > 0) svg.append(shape('rect', 'errors', { x: from, y: HEIGHT - 1 - errors, width, height: errors }));
  });
  return svg;
}

/**
 * How far a shadow agrees with what is shown, 0 to 1.
 * @param {string} text
 * @param {Sample[]} samples
 * @param {Span} span
 */
export function agreementPlot(text, samples, span) {
  const svg = frame(text);
  const known = samples.flatMap((sample) => (typeof sample.agreement?.f1 === 'number' ? [{ at: sample.at, f1: sample.agreement.f1 }] : []));
  const points = known.map(({ at, f1 }) => `${toX(at, span)},${HEIGHT - 1 - f1 * (HEIGHT - 3)}`);
  if (points.length === 1) points.unshift(`${toX(known[0].at, span) - 3},${HEIGHT - 1 - known[0].f1 * (HEIGHT - 3)}`);
  if (points.length > 1) {
    const left = points[0].split(',')[0];
    svg.append(shape('polygon', 'band', { points: `${left},${HEIGHT - 1} ${points.join(' ')} ${WIDTH},${HEIGHT - 1}` }), shape('polyline', 'line', { points: points.join(' ') }));
  }
  return svg;
}

/** @param {number} at @param {Span} span */
function toX(at, { from, to }) {
  return (WIDTH * (at - from)) / (to - from);
}

/** @param {string} label */
function frame(label) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  svg.setAttribute('aria-label', label);
  svg.classList.add('plot');
  for (const y of [1.5, HEIGHT / 2, HEIGHT - 1]) svg.append(shape('line', 'grid', { x1: 0, x2: WIDTH, y1: y, y2: y }));
  return svg;
}

/** @param {string} name @param {string} kind @param {Record<string, string | number>} attributes */
function shape(name, kind, attributes) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', name);
  element.setAttribute('class', kind);
  for (const [attribute, value] of Object.entries(attributes)) {
    element.setAttribute(attribute, typeof value === 'number' ? value.toFixed(2) : value);
  }
  return element;
}
