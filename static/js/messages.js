// What the page has to tell: at most one message a subject, kept until the subject clears it.
// Screen readers hear each once, not at every tick of a countdown.

import { onLanguageChange, t } from './i18n.js';

/**
 * @typedef {object} Message
 * @property {string} key of the text
 * @property {import('./i18n.js').Values} [values]
 * @property {'notice' | 'error'} [level]
 * @property {string} [code] the server's own code, for tests and support
 * @property {() => void} [retry] what "Try again" does
 */

export class Messages {
  /** @type {HTMLElement} */ #list;
  /** @type {HTMLElement} */ #announcer;
  /** @type {Map<string, { message: Message, item: HTMLLIElement }>} */ #shown = new Map();

  /**
   * @param {HTMLElement} list
   * @param {HTMLElement} announcer a live region
   */
  constructor(list, announcer) {
    this.#list = list;
    this.#announcer = announcer;
    onLanguageChange(() => {
      for (const { message, item } of this.#shown.values()) fill(item, message);
    });
  }

  /**
   * Shows `message` for `subject`, instead of what was shown for it.
   * @param {string} subject
   * @param {Message} message
   */
  show(subject, message) {
    const known = this.#shown.get(subject);
    if (known && known.message.key === message.key && known.message.code === message.code) {
      known.message = message;
      fill(known.item, message);
      return;
    }
    this.clear(subject);
    const item = document.createElement('li');
    item.className = 'message';
    item.dataset.message = message.key;
    item.dataset.level = message.level ?? 'notice';
    if (message.code) item.dataset.code = message.code;
    item.append(document.createElement('p'));
    // A countdown comes back at its next tick: it is acted upon, not dismissed.
    item.append(message.retry
      ? button('retry', () => this.#shown.get(subject)?.message.retry?.())
      : button('dismiss', () => this.clear(subject)));
    fill(item, message);
    this.#list.append(item);
    this.#shown.set(subject, { message, item });
    this.#announcer.textContent = item.firstElementChild?.textContent ?? '';
  }

  /** @param {string} subject */
  clear(subject) {
    this.#shown.get(subject)?.item.remove();
    this.#shown.delete(subject);
  }

  clearAll() {
    for (const subject of [...this.#shown.keys()]) this.clear(subject);
  }
}

/**
 * @param {string} className
 * @param {() => void} act
 */
function button(className, act) {
  const element = document.createElement('button');
  element.type = 'button';
  element.className = className;
  element.addEventListener('click', act);
  return element;
}

/**
 * @param {HTMLElement} item
 * @param {Message} message
 */
function fill(item, { key, values }) {
  const [text, retry, dismiss] = ['p', '.retry', '.dismiss'].map((selector) => item.querySelector(selector));
  if (text) text.textContent = t(key, values).trim();
  if (retry) retry.textContent = t('try_again');
  if (dismiss) {
    dismiss.textContent = '×';
    dismiss.setAttribute('aria-label', t('dismiss'));
  }
}
