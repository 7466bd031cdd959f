// The reader's language and colours: kept in this browser, and following its settings until chosen.

import { currentLanguage, LANGUAGES, preferredLanguage, setLanguage } from './i18n.js';

/** @typedef {import('./i18n.js').Language} Language */

/** Wires the masthead's switches and applies what was chosen before. */
export function installPreferences() {
  const kept = recall('language');
  const language = LANGUAGES.find((known) => known === kept) ?? preferredLanguage(navigator.languages ?? [navigator.language]);
  const buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (document.querySelectorAll('[data-language]'));
  const showLanguage = () => {
    for (const button of buttons) button.setAttribute('aria-pressed', String(button.dataset.language === currentLanguage()));
  };
  for (const button of buttons) {
    button.addEventListener('click', () => {
      const chosen = /** @type {Language} */ (button.dataset.language);
      keep('language', chosen);
      setLanguage(chosen);
      showLanguage();
    });
  }
  setLanguage(language);
  showLanguage();

  const theme = /** @type {HTMLSelectElement} */ (document.getElementById('theme'));
  const applyTheme = () => {
    if (theme.value === 'auto') delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme.value;
  };
  const keptTheme = recall('theme');
  if (keptTheme === 'light' || keptTheme === 'dark') theme.value = keptTheme;
  theme.addEventListener('change', () => {
    keep('theme', theme.value);
    applyTheme();
  });
  applyTheme();
}

/** @param {string} name */
function recall(name) {
  try {
    return localStorage.getItem(`vigie.${name}`);
  } catch {
    return null;
  }
}

/**
 * @param {string} name
 * @param {string} value
 */
function keep(name, value) {
  try {
    localStorage.setItem(`vigie.${name}`, value);
  } catch {
    // Storage may be switched off; the choice then lasts as long as the page.
  }
}
