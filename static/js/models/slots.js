// What a slot is, which versions fit it, and how its traffic changes: pure, so that cards and dialogs agree.

import { knows, t, translateLabel } from '../i18n.js';
import { nameOf } from './api.js';

/**
 * @typedef {import('./api.js').Traffic} Traffic
 * @typedef {import('./api.js').Version} Version
 * @typedef {import('./api.js').Shelf} Shelf
 * @typedef {'stable' | 'canary' | 'variant' | 'shadow'} Role
 * @typedef {object} Route a version and whom it serves
 * @property {Role} role
 * @property {string | null} model null for the default where its name is not known
 * @property {boolean} isDefault
 * @property {number} [percent]
 * @property {import('./api.js').Variant} [variant]
 */

/** Those that every service has. */
const USUAL = ['faces', 'gender', 'objects'];
export const CLASSIFY = 'classify:';

/** @param {string} slot */
export function titleOf(slot) {
  if (slot.startsWith(CLASSIFY)) return t('slot_classify', { label: translateLabel(slot.slice(CLASSIFY.length)) });
  const key = `slot_${slot.replaceAll('-', '_')}`;
  return knows(key) ? t(key) : slot;
}

/** All slots to show, the usual ones first. @param {Shelf} shelf */
export function slotsOf({ traffic, serving = {} }) {
  return [...new Set([...USUAL, ...Object.keys(serving), ...traffic.map(({ slot }) => slot)])];
}

/** The slot that a model is for; `classify:` without its label for classifiers. @param {{ task: string }} manifest */
export function slotFor({ task }) {
  return task === 'classes' ? CLASSIFY : task;
}

/** @param {string} slot @param {{ task: string }} manifest */
export function fits(slot, manifest) {
  const natural = slotFor(manifest);
  return natural === CLASSIFY ? slot.startsWith(CLASSIFY) : slot === natural;
}

/** Those that could serve a slot, by name and newest first. @param {Shelf} shelf @param {string} slot @returns {Version[]} */
export function candidates(shelf, slot) {
  return shelf.models.flatMap(({ versions }) => versions.filter((version) => fits(slot, version)).toReversed());
}

/** Whether a version can run beside another there, to be compared. @param {string} slot */
export function takesShadows(slot) {
  return slot === 'faces' || slot === 'objects';
}

/** @param {Shelf} shelf @param {string} slot @returns {Traffic} */
export function trafficOf({ traffic }, slot) {
  return traffic.find((known) => known.slot === slot) ?? { slot, revision: 0, stable: null };
}

/** Who is served by what. @param {Shelf} shelf @param {string} slot @returns {Route[]} */
export function routesOf(shelf, slot) {
  const { stable, canary, variants, shadow } = trafficOf(shelf, slot);
  return [
    { role: /** @type {const} */ ('stable'), model: stable ?? shelf.serving?.[slot] ?? null, isDefault: !stable },
    ...(canary ? [{ role: /** @type {const} */ ('canary'), model: canary.model, isDefault: false, percent: canary.percent }] : []),
    ...(variants ?? []).map((variant) => ({ role: /** @type {const} */ ('variant'), model: variant.model, isDefault: false, variant })),
    ...(shadow ? [{ role: /** @type {const} */ ('shadow'), model: shadow.model, isDefault: false, percent: shadow.percent }] : []),
  ];
}

/** Where a version stands, in words: "Objects: canary, 10 %". @param {Shelf} shelf @param {string} model */
export function usesOf(shelf, model) {
  return slotsOf(shelf).flatMap((slot) =>
    routesOf(shelf, slot).filter((route) => route.model === model).map((route) => ({ slot, role: route.role, text: `${titleOf(slot)} (${roleText(route)})` })));
}

/** @param {Route} route */
export function roleText({ role, percent, variant }) {
  if (role === 'canary') return t('role_canary_of', { percent: share(percent ?? 0) });
  if (role === 'shadow') return t('role_shadow_of', { percent: share(percent ?? 0) });
  if (variant) return t('role_variant_of', { attribute: variant.attribute, value: variant.equals });
  return t('role_stable');
}

/** @param {number} percent */
export function share(percent) {
  return (percent / 100).toLocaleString(document.documentElement.lang, { style: 'percent', maximumFractionDigits: 1 });
}

/**
 * A traffic in which `model` has a role; it has one only.
 * @param {Traffic} traffic
 * @param {{ model: string, role: Role, percent: number, attribute: string, equals: string }} wish
 * @returns {Traffic}
 */
export function withRole(traffic, { model, role, percent, attribute, equals }) {
  const rest = withoutModel(traffic, model);
  if (role === 'canary') return { ...rest, canary: { model, percent } };
  if (role === 'shadow') return { ...rest, shadow: { model, percent } };
  if (role === 'variant') {
    const others = (rest.variants ?? []).filter((variant) => variant.attribute !== attribute || variant.equals !== equals);
    return { ...rest, variants: [...others, { model, attribute, equals }] };
  }
  return { ...rest, stable: model };
}

/** @param {Traffic} traffic @param {string} model @returns {Traffic} */
function withoutModel(traffic, model) {
  return {
    ...traffic,
    canary: traffic.canary?.model === model ? null : traffic.canary,
    shadow: traffic.shadow?.model === model ? null : traffic.shadow,
  };
}

/** The same traffic without one of its routes. @param {Traffic} traffic @param {Route} route @returns {Traffic} */
export function withoutRoute(traffic, { role, variant }) {
  if (role === 'canary') return { ...traffic, canary: null };
  if (role === 'shadow') return { ...traffic, shadow: null };
  return { ...traffic, variants: (traffic.variants ?? []).filter((other) => other.attribute !== variant?.attribute || other.equals !== variant.equals) };
}

/** Labels that a classifier may look at. @param {Shelf} shelf */
export function labelsToClassify(shelf) {
  const objects = shelf.models.flatMap(({ versions }) => versions.filter(({ task }) => task === 'objects').flatMap(({ labels }) => labels));
  return ['face', ...new Set(objects)];
}

/** The version of that name. @param {Shelf} shelf @param {string} model `yolo@3` @returns {Version | null} */
export function findVersion(shelf, model) {
  return shelf.models.flatMap(({ versions }) => versions).find((version) => nameOf(version) === model) ?? null;
}
