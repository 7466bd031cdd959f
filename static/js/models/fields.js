// What a person may say of a model beside its file: the flags of `vigie models add` as a form.

import { onLanguageChange, t } from '../i18n.js';

/** As `Head` in src/models/manifest.rs has them; what only vigie's own models have is left out. */
const HEADS = [
  'yolo', 'yolo-v5', 'yolo-end2end', 'yolox', 'yolox-decoded', 'detr', 'detr-rows', 'detr-end2end', 'boxes', 'ssd', 'yunet', 'scrfd', 'retinaface',
  'fastestdet', 'classifier',
];

/**
 * @typedef {object} Field
 * @property {string} name the form's field, and the flag's without its dashes
 * @property {'text' | 'lines' | 'file' | 'choice'} kind
 * @property {string} [hint] key of a text
 * @property {string} [pattern]
 * @property {readonly (readonly [value: string, key: string | null])[]} [choices] with the key of their text, if it is translated
 */

const UNIT = '0(\\.[0-9]+)?|1(\\.0+)?|\\.[0-9]+';
const THREE = '\\s*-?[0-9.]+\\s*(,\\s*-?[0-9.]+\\s*,\\s*-?[0-9.]+\\s*)?';

/** @type {readonly Field[]} */
const FIELDS = [
  { name: 'name', kind: 'text', hint: 'field_name_hint', pattern: '[a-z0-9_\\-]{1,64}' },
  { name: 'labels', kind: 'lines', hint: 'field_labels_hint' },
  { name: 'head', kind: 'choice', choices: HEADS.map((head) => /** @type {const} */ ([head, null])) },
  { name: 'task', kind: 'choice', choices: [['objects', 'task_objects'], ['faces', 'task_faces'], ['classes', 'task_classes']] },
  { name: 'size', kind: 'text', hint: 'field_size_hint', pattern: '[0-9]{2,4}(x[0-9]{2,4})?' },
  { name: 'channels', kind: 'choice', choices: [['rgb', null], ['bgr', null]] },
  { name: 'mean', kind: 'text', hint: 'field_three_hint', pattern: THREE },
  { name: 'std', kind: 'text', hint: 'field_three_hint', pattern: THREE },
  { name: 'fit', kind: 'choice', choices: [['centre', 'fit_centre'], ['top-left', 'fit_top_left'], ['stretch', 'fit_stretch']] },
  { name: 'score', kind: 'text', hint: 'field_share_hint', pattern: UNIT },
  { name: 'iou', kind: 'text', hint: 'field_share_hint', pattern: UNIT },
  { name: 'source', kind: 'text' },
  { name: 'licence', kind: 'text' },
  { name: 'picture', kind: 'file' },
];

export class Fields {
  /** @type {HTMLDetailsElement} */ #details;
  /** @type {HTMLFormElement} */ #form;

  /**
   * @param {HTMLDetailsElement} details that folds the form away
   * @param {HTMLFormElement} form
   */
  constructor(details, form) {
    this.#details = details;
    this.#form = form;
    for (const field of FIELDS) form.append(entryOf(field));
    const clear = Object.assign(document.createElement('button'), { type: 'reset', textContent: t('fields_clear') });
    clear.dataset.i18n = 'fields_clear';
    form.append(clear);
    form.addEventListener('submit', (event) => event.preventDefault());
    form.addEventListener('input', () => this.#point([]));
    this.#translate();
    onLanguageChange(() => this.#translate());
  }

  /** The name that was given, or null. @returns {string | null} */
  get name() {
    return this.#control('name').value.trim() || null;
  }

  /** Whether all that was given can be sent; shows what cannot. */
  check() {
    if (this.#form.checkValidity()) return true;
    this.#details.open = true;
    this.#form.reportValidity();
    return false;
  }

  /** What goes with `file`. @param {File} file */
  dataFor(file) {
    const data = new FormData();
    // The server reads in order: what is said of the file comes before its bytes.
    for (const { name, kind } of FIELDS) {
      if (name === 'name' || kind === 'file') continue;
      const value = this.#control(name).value.trim();
      if (value) data.append(name, kind === 'lines' ? value.split(/[\n,]/).map((label) => label.trim()).filter(Boolean).join(',') : value);
    }
    const picture = /** @type {HTMLInputElement} */ (this.#control('picture')).files?.[0];
    if (picture) data.append('picture', picture);
    data.append('file', file);
    return data;
  }

  /**
   * The fields that a refusal names by their flags.
   * @param {string} message such as "give the labels with --labels"
   * @returns {string[]} names of fields, each once
   */
  namedIn(message) {
    const flags = [...message.matchAll(/--([a-z]+)/g)].map(([, flag]) => flag);
    return [...new Set(flags)].filter((flag) => FIELDS.some(({ name }) => name === flag));
  }

  /** Unfolds the form at these fields. @param {string[]} names */
  ask(names) {
    if (names.length === 0) return;
    this.#details.open = true;
    this.#point(names);
    this.#control(names[0]).focus({ preventScroll: false });
  }

  /** Fills in a value as if it was typed. @param {string} name @param {string} value */
  set(name, value) {
    this.#control(name).value = value;
  }

  clear() {
    this.#form.reset();
    this.#point([]);
    this.#details.open = false;
  }

  /** @param {string[]} names */
  #point(names) {
    for (const { name } of FIELDS) this.#form.querySelector(`[data-field="${name}"]`)?.classList.toggle('asked', names.includes(name));
  }

  /** @param {string} name @returns {HTMLInputElement | HTMLSelectElement | HTMLTextAreaElement} */
  #control(name) {
    return /** @type {HTMLInputElement} */ (this.#form.elements.namedItem(name));
  }

  #translate() {
    for (const element of this.#form.querySelectorAll('[data-hint]')) {
      /** @type {HTMLInputElement} */ (element).placeholder = t(/** @type {HTMLElement} */ (element).dataset.hint ?? '');
    }
  }
}

/** @param {Field} field */
function entryOf({ name, kind, hint, pattern, choices = [] }) {
  const label = document.createElement('label');
  label.className = 'entry';
  label.dataset.field = name;
  const title = Object.assign(document.createElement('span'), { textContent: t(`field_${name}`) });
  title.dataset.i18n = `field_${name}`;
  label.append(title);
  if (kind === 'choice') {
    const select = Object.assign(document.createElement('select'), { name });
    const none = new Option(t('field_auto'), '');
    none.dataset.i18n = 'field_auto';
    select.append(none);
    for (const [value, key] of choices) {
      const option = new Option(key ? t(key) : value, value);
      if (key) option.dataset.i18n = key;
      select.append(option);
    }
    label.append(select);
    return label;
  }
  if (kind === 'lines') {
    const area = Object.assign(document.createElement('textarea'), { name, rows: 2, spellcheck: false });
    if (hint) area.dataset.hint = hint;
    label.append(area);
    return label;
  }
  const input = Object.assign(document.createElement('input'), { name, type: kind === 'file' ? 'file' : 'text', autocomplete: 'off', spellcheck: false });
  if (kind === 'file') input.accept = 'image/*';
  if (pattern) input.pattern = pattern;
  if (hint) input.dataset.hint = hint;
  label.append(input);
  return label;
}
