// The dialog that gives a version its part of a slot: for whom it runs, and as what.

import { t } from '../i18n.js';
import { nameOf } from './api.js';
import { make, percentSlider } from './card.js';
import { CLASSIFY, candidates, findVersion, labelsToClassify, routesOf, slotFor, takesShadows, titleOf, trafficOf, withRole } from './slots.js';

/**
 * @typedef {import('./api.js').Shelf} Shelf
 * @typedef {import('./api.js').Traffic} Traffic
 * @typedef {import('./slots.js').Role} Role
 */

/** What a new canary or shadow is given unless somebody moves the slider. */
const USUAL_PERCENT = { canary: 10, shadow: 100 };
const ROLES = /** @type {const} */ (['stable', 'canary', 'variant', 'shadow']);

/**
 * Asks for what a version is to do.
 * @param {HTMLDialogElement} dialog
 * @param {Shelf} shelf
 * @param {{ model?: string, slot?: string }} start the version or the slot that is settled
 * @returns {Promise<{ slot: string, edit: (traffic: Traffic) => Traffic } | null>} what the slot's traffic is to become; null when nothing is wanted
 */
export function ask(dialog, shelf, { model, slot }) {
  const form = /** @type {HTMLFormElement} */ (make('form', 'assign-form'));
  form.method = 'dialog';
  const title = make('h1', '', model ? t('assign_title', { model }) : t('assign_title_slot', { slot: titleOf(slot ?? '') }));
  title.id = 'assign-title';
  form.append(title);

  const version = model ? findVersion(shelf, model) : null;
  const choices = model ? [] : candidates(shelf, slot ?? '');
  const models = /** @type {HTMLSelectElement} */ (make('select', ''));
  models.name = 'model';
  models.append(...choices.map((choice) => new Option(nameOf(choice))));
  if (!model) {
    if (choices.length === 0) return refuse(dialog, form);
    form.append(entry(t('assign_version'), models));
  }

  const label = /** @type {HTMLInputElement} */ (make('input', ''));
  const natural = version ? slotFor(version) : (slot ?? '');
  if (natural === CLASSIFY) {
    Object.assign(label, { name: 'label', required: true, value: 'face', maxLength: 64 });
    label.setAttribute('list', 'assign-labels');
    const known = make('datalist', '');
    known.id = 'assign-labels';
    known.append(...labelsToClassify(shelf).map((value) => new Option(value, value)));
    form.append(entry(t('assign_label'), label, t('assign_label_hint')), known);
  } else if (version) {
    form.append(make('p', 'assign-slot', `${t('assign_slot')} ${titleOf(natural)}`));
  }
  const slotNow = () => (natural === CLASSIFY ? `${CLASSIFY}${label.value.trim()}` : natural);

  const roles = make('fieldset', 'roles');
  roles.append(make('legend', '', t('assign_role')));
  for (const role of ROLES.filter((role) => role !== 'shadow' || takesShadows(natural))) {
    const choice = make('label', 'choice');
    const input = Object.assign(document.createElement('input'), { type: 'radio', name: 'role', value: role });
    choice.append(input, make('span', '', t(`assign_${role}`)));
    roles.append(choice);
  }
  const roleNow = () => /** @type {Role} */ (/** @type {RadioNodeList} */ (form.elements.namedItem('role')).value);
  form.append(roles);

  const percents = { canary: USUAL_PERCENT.canary, shadow: USUAL_PERCENT.shadow };
  const detail = make('div', 'assign-detail');
  const note = make('p', 'empty');
  const attribute = textEntry('attribute', t('assign_attribute'), 'cohort');
  const equals = textEntry('equals', t('assign_equals'), 'b');
  const showDetail = () => {
    const role = roleNow();
    detail.replaceChildren();
    if (role === 'canary' || role === 'shadow') {
      const slider = percentSlider(`assign-${role}`, t(role === 'canary' ? 'percent_of_sessions' : 'percent_of_pictures'), percents[role], role === 'canary' ? 1 : 5, () => {});
      slider.addEventListener('input', ({ target }) => {
        percents[role] = /** @type {HTMLInputElement} */ (target).valueAsNumber;
      });
      detail.append(slider);
    }
    if (role === 'variant') detail.append(attribute.element, equals.element);
    attribute.input.required = equals.input.required = role === 'variant';
    const replaced = routesOf(shelf, slotNow()).find((route) => route.role === role && role !== 'variant')?.model;
    note.textContent = replaced && replaced !== (model ?? models.value) ? t('assign_replaces', { model: replaced }) : '';
    note.hidden = note.textContent === '';
  };
  const hasStable = () => Boolean(trafficOf(shelf, slotNow()).stable) || natural !== CLASSIFY;
  const first = hasStable() ? 'canary' : 'stable';
  /** @type {HTMLInputElement} */ (form.querySelector(`input[value="${first}"]`)).checked = true;
  form.addEventListener('change', showDetail);
  showDetail();

  const actions = make('div', 'assign-actions');
  const cancel = make('button', '', t('cancel'));
  cancel.setAttribute('type', 'button');
  cancel.addEventListener('click', () => dialog.close(''));
  const go = make('button', 'primary', t('assign_go'));
  go.setAttribute('value', 'go');
  actions.append(cancel, go);
  form.append(detail, note, actions);

  return open(dialog, form).then((answer) => {
    if (answer !== 'go') return null;
    const role = roleNow();
    const percent = role === 'canary' || role === 'shadow' ? percents[role] : 100;
    const wish = { model: model ?? models.value, role, percent, attribute: attribute.input.value.trim(), equals: equals.input.value.trim() };
    return { slot: slotNow(), edit: (traffic) => withRole(traffic, wish) };
  });
}

/** @param {HTMLDialogElement} dialog @param {HTMLFormElement} form @returns {Promise<null>} */
async function refuse(dialog, form) {
  const close = make('button', 'primary', t('dismiss'));
  form.append(make('p', '', t('assign_none')), close);
  await open(dialog, form);
  return null;
}

/** @param {HTMLDialogElement} dialog @param {HTMLFormElement} form @returns {Promise<string>} how it was closed */
function open(dialog, form) {
  dialog.replaceChildren(form);
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener('close', () => resolve(dialog.returnValue), { once: true }));
}

/** @param {string} title @param {HTMLElement} control @param {string} [hint] */
function entry(title, control, hint) {
  const element = make('label', 'entry');
  element.append(make('span', '', title), control);
  if (hint) element.append(make('small', '', hint));
  return element;
}

/** @param {string} name @param {string} title @param {string} placeholder */
function textEntry(name, title, placeholder) {
  const input = Object.assign(document.createElement('input'), { name, placeholder, maxLength: 64, autocomplete: 'off', spellcheck: false });
  return { element: entry(title, input), input };
}
