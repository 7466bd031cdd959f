// What is known of one version: how it was recognised, what was checked, how fast it is, what it found.

import { formatNumber, formatScore, t, translateLabel } from '../i18n.js';
import { formatBytes } from '../videos/words.js';
import { make } from './card.js';

/**
 * @typedef {import('./api.js').Version} Version
 * @typedef {import('./api.js').Admitted} Admitted
 */

/** A camera's 30 pictures a second. */
const BUDGET_MS = 1000 / 30;
/** Pictures a second below which live recognition feels slow. */
const SLOW_FPS = 5;
const SHOWN_LABELS = 12;
const SHOWN_FINDINGS = 8;

/**
 * The sheets of a version.
 * @param {Version} version
 * @param {Admitted | null} admitted what its upload told; null later, when only the manifest is there
 */
export function sheets(version, admitted) {
  const speed = admitted?.trial ?? version.trial;
  return [
    recognised(version),
    ...(speed ? [onThisMachine(speed, admitted)] : []),
    ...(admitted ? [found(admitted)] : []),
    ...(admitted ? [checks(admitted)] : []),
  ];
}

/** @param {string} key @param {string} name */
function sheet(key, name) {
  const section = make('section', 'panel sheet');
  section.dataset.sheet = name;
  section.append(make('h2', '', t(key)));
  return section;
}

/** @param {Version} version */
function recognised({ head, task, labels, input, thresholds, provenance, sha256 }) {
  const section = sheet('sheet_recognised', 'recognised');
  const list = make('dl', 'facts');
  const row = (/** @type {string} */ key, /** @type {(Node | string)[]} */ ...content) => {
    const pair = make('div', '');
    const value = make('dd', '');
    value.append(...content);
    pair.append(make('dt', '', t(key)), value);
    list.append(pair);
  };
  row('row_head', make('code', '', head));
  row('row_task', t(`task_${task}`));
  row('row_labels', ...labelChips(labels));
  row('row_input', `${input.size} × ${input.height ?? input.size}`);
  if (typeof input.format === 'object') {
    const { channels, mean, std } = input.format.float;
    row('row_pixels', `${channels.toUpperCase()}, (p − ${three(mean)}) ÷ ${three(std)}`);
  } else {
    row('row_pixels', t('pixels_bytes'));
  }
  const fit = typeof input.fit === 'string' ? input.fit : (Object.keys(input.fit)[0] ?? '');
  const fitKey = `fit_${fit.replace('-', '_')}`;
  if (['centre', 'top-left', 'stretch'].includes(fit)) row('row_fit', t(fitKey));
  row('row_thresholds', t('thresholds_of', { score: formatNumber(thresholds.score, 2), iou: formatNumber(thresholds.iou, 2) }));
  if (provenance?.source) row('row_source', provenance.source);
  if (provenance?.licence) row('row_licence', provenance.licence);
  const digest = make('code', 'digest', `${sha256.slice(0, 16)}…`);
  digest.title = sha256;
  row('row_digest', digest);
  section.append(list);
  return section;
}

/** @param {[number, number, number]} numbers one, where all are the same */
function three(numbers) {
  const texts = numbers.map((number) => formatNumber(number, Number.isInteger(number) ? 0 : 1));
  return texts.every((text) => text === texts[0]) ? texts[0] : `[${texts.join(' ')}]`;
}

/** @param {string[]} labels */
function labelChips(labels) {
  const chips = make('span', 'chips');
  const chip = (/** @type {string} */ label) => make('span', 'chip', translateLabel(label));
  chips.append(...labels.slice(0, SHOWN_LABELS).map(chip));
  if (labels.length <= SHOWN_LABELS) return [chips];
  const more = make('button', 'chip more', t('all_labels', { n: formatNumber(labels.length) }));
  more.setAttribute('type', 'button');
  more.addEventListener('click', () => {
    more.replaceWith(...labels.slice(SHOWN_LABELS).map(chip));
  });
  chips.append(more);
  return [chips];
}

/** @param {{ p50_ms: number, load_ms: number, runs: number }} trial @param {Admitted | null} admitted */
function onThisMachine({ p50_ms, load_ms, runs }, admitted) {
  const section = sheet('sheet_speed', 'speed');
  const fps = 1000 / Math.max(p50_ms, 0.001);
  const number = make('p', 'speed');
  number.append(make('strong', '', formatNumber(p50_ms, p50_ms < 10 ? 1 : 0)), ` ${t('speed_unit')}`);
  const bar = make('div', 'budget');
  bar.setAttribute('role', 'img');
  const text = t('speed_of_budget', { share: formatScore(p50_ms / BUDGET_MS) });
  bar.setAttribute('aria-label', text);
  const fill = make('span', '');
  fill.style.width = `${Math.min(100, (p50_ms / BUDGET_MS) * 100)}%`;
  if (p50_ms > BUDGET_MS) bar.classList.add('over');
  bar.append(fill);
  const list = make('ul', 'lines');
  const line = (/** @type {string} */ content) => list.append(make('li', '', content));
  line(t('speed_median', { runs }));
  line(t('speed_rate', { fps: formatNumber(fps, fps < 10 ? 1 : 0) }));
  line(t('speed_load', { ms: formatNumber(load_ms) }));
  if (admitted) line(t('speed_memory', { size: formatBytes(admitted.trial.peak_bytes) }));
  section.append(number, bar, make('p', 'budget-text', text), list);
  if (fps < SLOW_FPS) section.append(make('p', 'warning', t('speed_slow', { fps: formatNumber(fps, 1) })));
  return section;
}

/** @param {Admitted} admitted */
function found({ trial: { findings } }) {
  const section = sheet('sheet_found', 'found');
  if (findings.length === 0) {
    section.append(make('p', 'empty', t('trial_none_found')));
    return section;
  }
  const list = make('ul', 'scores');
  for (const { label, score } of findings.slice(0, SHOWN_FINDINGS)) {
    const item = make('li', '');
    const bar = make('span', 'score-bar');
    bar.style.setProperty('--share', String(score));
    item.append(make('span', 'score-label', translateLabel(label)), make('span', 'score-number', formatScore(score)), bar);
    list.append(item);
  }
  section.append(list);
  if (findings.length > SHOWN_FINDINGS) section.append(make('p', 'empty', `+ ${formatNumber(findings.length - SHOWN_FINDINGS)}`));
  return section;
}

/** @param {Admitted} admitted */
function checks({ file, trial }) {
  const section = sheet('sheet_checks', 'checks');
  const list = make('ul', 'checks');
  const outputs = trial.outputs.slice(0, 3).map(({ name, shape }) => `${name} [${shape.join(', ')}]`).join('; ');
  const lines = [
    t('check_file', { size: formatBytes(file.bytes) }),
    t('check_operators', { opset: file.opset, nodes: formatNumber(file.nodes) }),
    t('check_weights', { parameters: formatNumber(file.parameters / 1e6, 2) }),
    t('check_confined'),
    t('check_numbers'),
    t('check_read', { outputs: trial.outputs.length > 3 ? `${outputs} …` : outputs }),
  ];
  if (file.producer) lines.splice(3, 0, t('check_producer', { producer: file.producer }));
  list.append(...lines.map((line) => make('li', '', line)));
  section.append(list);
  return section;
}

/** What was found, in a few words for who does not see the picture. @param {Admitted | null} admitted */
export function foundInWords(admitted) {
  const findings = admitted?.trial.findings ?? [];
  if (findings.length === 0) return t('trial_nothing');
  return findings.slice(0, 5).map(({ label, score }) => `${translateLabel(label)} ${formatScore(score)}`).join(', ');
}
