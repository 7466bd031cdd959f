// The card of one slot: who is served by which version, with live figures, and what can be changed.

import { formatNumber, t } from '../i18n.js';
import { Figures, agreementPlot, latencyPlot, ratePlot, roundUp } from './figures.js';
import { findVersion, roleText, routesOf, share, titleOf, trafficOf, withoutRoute } from './slots.js';

/**
 * @typedef {import('./api.js').Shelf} Shelf
 * @typedef {import('./api.js').Traffic} Traffic
 * @typedef {import('./api.js').VersionFigures} VersionFigures
 * @typedef {import('./slots.js').Route} Route
 * @typedef {object} Acts what a card asks for
 * @property {(slot: string) => void} assign
 * @property {(slot: string, edit: (traffic: Traffic) => Traffic) => void} edit what the traffic is to become, of what it is by then
 * @property {(slot: string, from: 'canary' | 'shadow') => void} promote
 * @property {(slot: string) => void} rollBack
 * @property {(slot: string) => void} toDefault
 * @property {(model: string) => void} open
 */

/** After which no further key of a slider is waited for. */
const KEY_PAUSE_MS = 400;
/** As `Guard::default` in src/models/traffic/guard.rs. */
const USUAL_GUARD = { max_error_ratio: 0.05, max_p95_ratio: 2, min_runs: 200 };

export class Card {
  element = document.createElement('article');
  #figures = new Figures();
  /** @type {string} */ #slot;
  /** @type {Acts} */ #acts;
  /** @type {Shelf} */ #shelf = { models: [], traffic: [] };
  /** @type {string} what is drawn, so that nothing is drawn twice */ #drawn = '';
  /** @type {VersionFigures[]} */ #latest = [];

  /** @param {string} slot @param {Acts} acts */
  constructor(slot, acts) {
    this.#slot = slot;
    this.#acts = acts;
    this.element.className = 'slot';
    this.element.dataset.slot = slot;
  }

  /** Whether there is more to show than a default. @param {Shelf} shelf */
  static isManaged(shelf, /** @type {string} */ slot) {
    return shelf.traffic.some((traffic) => traffic.slot === slot);
  }

  /** @param {Shelf} shelf */
  show(shelf) {
    this.#shelf = shelf;
    const traffic = trafficOf(shelf, this.#slot);
    const loaded = routesOf(shelf, this.#slot).map(({ model }) => (model ? (findVersion(shelf, model)?.state?.workers ?? null) : null));
    const drawn = JSON.stringify([traffic, shelf.serving?.[this.#slot], loaded, shelf.not_loaded, document.documentElement.lang]);
    // A slider under somebody's finger stays.
    if (drawn === this.#drawn || this.element.querySelector('input[type="range"]:active')) return;
    this.#drawn = drawn;
    const focused = /** @type {HTMLElement | null} */ (this.element.contains(document.activeElement) ? document.activeElement : null)?.dataset.key;
    const open = [...this.element.querySelectorAll('details[open]')].map((details) => details.className);
    const isShared = routesOf(shelf, this.#slot).some(({ role }) => role === 'canary');
    this.element.replaceChildren(this.#head(), ...(isShared ? [this.#split()] : []), this.#routes(), ...this.#more(traffic));
    for (const name of open) this.element.querySelector(`details.${name}`)?.setAttribute('open', '');
    if (focused) /** @type {HTMLElement | null} */ (this.element.querySelector(`[data-key="${CSS.escape(focused)}"]`))?.focus();
    this.#plot();
  }

  /** Draws everything anew, whatever was drawn. @param {Shelf} shelf */
  redraw(shelf) {
    this.#drawn = '';
    this.show(shelf);
  }

  /** @param {number} at ms @param {VersionFigures[]} versions */
  hear(at, versions) {
    this.#latest = versions;
    this.#figures.add(at, versions);
    this.#plot();
  }

  #head() {
    const head = make('header', 'slot-head');
    const title = make('h3', '', titleOf(this.#slot));
    title.id = `slot-${this.#slot.replace(/[^a-z0-9-]/gi, '-')}`;
    this.element.setAttribute('aria-labelledby', title.id);
    head.append(title, button('assign', t('slot_add'), () => this.#acts.assign(this.#slot)));
    return head;
  }

  /** What is meant, above what is. */
  #split() {
    const routes = routesOf(this.#shelf, this.#slot);
    const canary = routes.find(({ role }) => role === 'canary')?.percent ?? 0;
    const planned = routes.filter(({ role }) => role === 'stable' || role === 'canary');
    const split = make('div', 'split');
    split.setAttribute('role', 'img');
    split.setAttribute('aria-label', `${t('slot_share')}: ${planned.map((route) => `${route.model ?? t('slot_default')} ${share(route.role === 'canary' ? canary : 100 - canary)}`).join(', ')}`);
    for (const route of planned) {
      const percent = route.role === 'canary' ? canary : 100 - canary;
      if (percent <= 0) continue;
      const part = make('span', '', percent >= 12 ? share(percent) : '');
      part.dataset.role = route.role;
      part.style.flexGrow = String(percent);
      split.append(part);
    }
    return split;
  }

  #routes() {
    const list = make('ul', 'routes');
    list.append(...routesOf(this.#shelf, this.#slot).map((route) => this.#route(route)));
    return list;
  }

  /** @param {Route} route */
  #route(route) {
    const item = make('li', 'route');
    item.dataset.role = route.role;
    item.dataset.model = route.model ?? '';
    const head = make('div', 'route-head');
    head.append(make('span', 'badge', t(`role_${route.role}`)));
    const version = route.model ? findVersion(this.#shelf, route.model) : null;
    const name = route.model ?? t('slot_default');
    if (version && route.model) {
      const model = route.model;
      const link = button(`open-${model}`, name, () => this.#acts.open(model));
      link.className = 'route-model link';
      head.append(link);
    } else {
      head.append(make('strong', 'route-model', name));
    }
    head.append(make('span', 'route-whom', this.#whom(route)));
    const workers = version?.state?.workers;
    const fault = route.model ? this.#shelf.not_loaded?.[route.model] : undefined;
    if (fault) {
      const state = make('span', 'route-state', t('not_loaded', { why: fault }));
      state.dataset.state = 'failed';
      head.append(state);
    } else if (workers !== undefined && !route.isDefault) {
      const text = workers === 0 ? t('loading_version') : workers === 1 ? t('loaded_on_1') : t('loaded_on', { n: workers });
      const state = make('span', 'route-state', text);
      state.dataset.state = workers === 0 ? 'loading' : 'loaded';
      head.append(state);
    }
    item.append(head, make('div', 'route-figures'), this.#controls(route));
    return item;
  }

  /** @param {Route} route */
  #whom(route) {
    const { role, percent = 0 } = route;
    if (role === 'shadow') return `${share(percent)} · ${t('role_shadow_described')}`;
    if (role === 'canary') return share(percent);
    if (role === 'variant') return roleText(route);
    const isAlone = !routesOf(this.#shelf, this.#slot).some((other) => other.role === 'canary' || other.role === 'variant');
    const whom = t(isAlone ? 'role_stable_alone' : 'role_stable_described');
    return route.isDefault ? `${whom} · ${t('slot_is_default')}` : whom;
  }

  /** @param {Route} route */
  #controls(route) {
    const controls = make('div', 'route-controls');
    const traffic = trafficOf(this.#shelf, this.#slot);
    const { role } = route;
    if (role === 'canary' || role === 'shadow') {
      const part = traffic[role];
      controls.append(
        percentSlider(`${role}-percent`, t(role === 'canary' ? 'percent_of_sessions' : 'percent_of_pictures'), route.percent ?? 0, role === 'canary' ? 1 : 5, (percent) => {
          this.#acts.edit(this.#slot, (now) => ({ ...now, [role]: { ...part, ...now[role], percent } }));
        }),
        button(`${role}-promote`, t('promote'), () => this.#acts.promote(this.#slot, role)),
        button(`${role}-stop`, t('stop'), () => this.#acts.edit(this.#slot, (now) => withoutRoute(now, route))),
      );
    } else if (role === 'variant') {
      controls.append(button(`variant-stop-${route.variant?.attribute}-${route.variant?.equals}`, t('stop'), () => this.#acts.edit(this.#slot, (now) => withoutRoute(now, route))));
    } else if (Card.isManaged(this.#shelf, this.#slot)) {
      // While something is tried beside it, "Stop" there is the way back.
      if (!traffic.canary && !traffic.shadow && traffic.previous) {
        const back = button('roll-back', traffic.previous === 'default' ? t('roll_back_to_default') : t('roll_back_to', { model: traffic.previous }), () => this.#acts.rollBack(this.#slot));
        back.classList.add('danger');
        controls.append(back);
      }
      controls.append(button('to-default', t('to_default'), () => this.#acts.toDefault(this.#slot)));
    }
    return controls;
  }

  /** @param {Traffic} traffic */
  #more(traffic) {
    if (!Card.isManaged(this.#shelf, this.#slot)) return [];
    const more = make('div', 'slot-more');
    more.append(this.#guard(traffic), history(traffic));
    return [more];
  }

  /** @param {Traffic} traffic */
  #guard(traffic) {
    const { max_error_ratio, max_p95_ratio, min_runs } = traffic.guard ?? USUAL_GUARD;
    const details = make('details', 'guard');
    const text = t('slot_guard_on', { runs: formatNumber(min_runs), errors: share(max_error_ratio * 100), ratio: formatNumber(max_p95_ratio, 1) });
    details.append(make('summary', '', t('slot_guard')), make('p', '', text));
    const form = /** @type {HTMLFormElement} */ (make('form', 'guard-form'));
    form.append(
      numberEntry('errors', t('guard_errors'), max_error_ratio * 100, { min: 0, max: 100, step: 0.1 }),
      numberEntry('ratio', t('guard_ratio'), max_p95_ratio, { min: 1, max: 100, step: 0.1 }),
      numberEntry('runs', t('guard_runs'), min_runs, { min: 10, max: 1_000_000, step: 1 }),
    );
    const set = button('guard-set', t('guard_set'), () => {});
    set.type = 'submit';
    form.append(set);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      const number = (/** @type {string} */ name) => /** @type {HTMLInputElement} */ (form.elements.namedItem(name)).valueAsNumber;
      const wished = { max_error_ratio: number('errors') / 100, max_p95_ratio: number('ratio'), min_runs: number('runs') };
      this.#acts.edit(this.#slot, (now) => ({ ...now, guard: { ...now.guard, ...wished } }));
    });
    details.append(form);
    return details;
  }

  #plot() {
    const span = this.#figures.span(performance.now());
    const scaleMs = roundUp(this.#figures.most(({ p95_ms }) => p95_ms));
    const scaleRate = roundUp(this.#figures.most(({ runsPerS }) => runsPerS));
    for (const item of /** @type {NodeListOf<HTMLElement>} */ (this.element.querySelectorAll('.route'))) {
      const place = item.querySelector('.route-figures');
      const { model = '', role } = item.dataset;
      const samples = this.#figures.of(model);
      const last = this.#latest.find((version) => version.model === model);
      if (!place) continue;
      if (!last || !model) {
        place.replaceChildren();
        continue;
      }
      const newest = samples[samples.length - 1];
      const cells = [
        cell('sessions', formatNumber(last.sessions), t(last.sessions === 1 ? 'figure_sessions_1' : 'figure_sessions')),
        cell('rate', samples.length > 1 ? formatNumber(newest?.runsPerS, 1) : '–', t('figure_rate'), ratePlot(model, samples, scaleRate, span), formatNumber(scaleRate, scaleRate < 1 ? 1 : 0)),
        cell(
          'latency',
          last.p50_ms === null ? '–' : `${formatNumber(last.p50_ms, last.p50_ms < 10 ? 1 : 0)} – ${formatNumber(last.p95_ms, (last.p95_ms ?? 0) < 10 ? 1 : 0)} ms`,
          last.p50_ms === null ? t('figure_none') : t('figure_latency'),
          latencyPlot(model, samples, scaleMs, span),
          `${formatNumber(scaleMs)} ms`,
        ),
        cell('errors', formatNumber(last.errors), t(last.errors === 1 ? 'figure_errors_1' : 'figure_errors')),
      ];
      if (role === 'shadow') {
        const { f1 = null, pictures = 0 } = last.agreement ?? {};
        const text = f1 === null ? '–' : share(f1 * 100);
        const caption = t('figure_agreement');
        cells.push(cell('agreement', text, `${caption} · ${t('figure_agreement_pictures', { n: formatNumber(pictures) })}`, agreementPlot(`${caption}: ${text}`, samples, span), share(100)));
      }
      if (last.errors > 0) cells[3].classList.add('bad');
      place.replaceChildren(...cells);
    }
  }
}

/** @param {Traffic} traffic */
function history({ history: entries = [] }) {
  const details = make('details', 'history');
  details.append(make('summary', '', t('slot_history')));
  if (entries.length === 0) {
    details.append(make('p', 'empty', t('slot_history_none')));
    return details;
  }
  const list = make('ol', '');
  for (const { at, what, why } of [...entries].sort((a, b) => b.at - a.at)) {
    const item = make('li', '');
    const date = new Date(at < 1e11 ? at * 1000 : at);
    const time = /** @type {HTMLTimeElement} */ (make('time', '', date.toLocaleString(document.documentElement.lang, { day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' })));
    time.dateTime = date.toISOString();
    item.append(time, make('span', 'what', what));
    if (why) item.append(make('span', 'why', why));
    list.append(item);
  }
  details.append(list);
  return details;
}

/**
 * @param {string} name
 * @param {string} value
 * @param {string} caption
 * @param {SVGElement} [plot]
 * @param {string} [scale] the plot's upper end
 */
function cell(name, value, caption, plot, scale) {
  const element = make('div', 'figure');
  element.dataset.figure = name;
  element.append(make('strong', '', value), make('small', '', caption));
  if (plot) {
    const place = make('div', 'plot-place');
    place.append(plot);
    if (scale) place.append(make('span', 'plot-scale', scale));
    element.append(place);
  }
  return element;
}

/**
 * @param {string} key
 * @param {string} label
 * @param {number} value
 * @param {number} step
 * @param {(percent: number) => void} onChange
 */
export function percentSlider(key, label, value, step, onChange) {
  const element = make('label', 'slider');
  const input = Object.assign(document.createElement('input'), { type: 'range', min: '0', max: '100', step: String(step), value: String(value) });
  input.dataset.key = key;
  const output = make('output', '', share(value));
  input.addEventListener('input', () => {
    output.textContent = share(input.valueAsNumber);
  });
  // Each key is a change: what they come to is sent once.
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let rest;
  input.addEventListener('change', () => {
    clearTimeout(rest);
    rest = setTimeout(() => onChange(input.valueAsNumber), KEY_PAUSE_MS);
  });
  element.append(make('span', '', label), input, output);
  return element;
}

/** @param {string} name @param {string} label @param {number} value @param {{ min: number, max: number, step: number }} range */
function numberEntry(name, label, value, { min, max, step }) {
  const element = make('label', 'entry');
  const input = Object.assign(document.createElement('input'), { type: 'number', name, min: String(min), max: String(max), step: String(step), required: true });
  input.value = String(Number(value.toFixed(3)));
  input.dataset.key = `guard-${name}`;
  element.append(make('span', '', label), input);
  return element;
}

/** @param {string} key @param {string} text @param {() => void} onClick */
function button(key, text, onClick) {
  const element = document.createElement('button');
  element.type = 'button';
  element.textContent = text;
  element.dataset.key = key;
  element.addEventListener('click', onClick);
  return element;
}

/** @param {string} tag @param {string} className @param {string} [text] */
export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}
