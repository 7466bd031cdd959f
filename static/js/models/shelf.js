// The list of models and their versions, each with where it serves.

import { formatNumber, t, translateLabel } from '../i18n.js';
import { nameOf } from './api.js';
import { make } from './card.js';
import { usesOf } from './slots.js';

/** @typedef {import('./api.js').Shelf} Shelf */

/**
 * @param {HTMLElement} list
 * @param {Shelf} shelf
 * @param {string | null} chosen `yolo@3`
 * @param {(model: string) => void} onOpen
 */
export function showShelf(list, shelf, chosen, onOpen) {
  const focused = list.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).dataset.model : undefined;
  list.replaceChildren(...shelf.models.map(({ name, versions }) => {
    const item = make('li', 'model-group');
    item.append(make('h3', '', name));
    const inner = make('ul', 'versions');
    inner.append(...versions.toReversed().map((version) => {
      const model = nameOf(version);
      const row = make('li', model === chosen ? 'version chosen' : 'version');
      const open = make('button', 'version-open');
      open.setAttribute('type', 'button');
      open.setAttribute('aria-pressed', String(model === chosen));
      open.dataset.model = model;
      const head = make('span', 'version-name', t('version_n', { n: version.version }));
      for (const { role, slot, text } of usesOf(shelf, model)) {
        const badge = make('span', 'badge', t(`role_${role}`));
        badge.dataset.role = role;
        badge.dataset.slot = slot;
        badge.title = text;
        head.append(badge);
      }
      const classes = version.labels.length === 1
        ? t('classes_1', { label: translateLabel(version.labels[0]) })
        : t('classes_n', { n: formatNumber(version.labels.length) });
      const values = { task: t(`task_${version.task}`), classes, ms: formatNumber(version.trial?.p50_ms, (version.trial?.p50_ms ?? 0) < 10 ? 1 : 0) };
      open.append(head, make('span', 'version-detail', t(version.trial ? 'version_detail' : 'version_detail_untried', values)));
      open.addEventListener('click', () => onOpen(model));
      row.append(open);
      return row;
    }));
    item.append(inner);
    return item;
  }));
  if (focused) /** @type {HTMLElement | null} */ (list.querySelector(`[data-model="${CSS.escape(focused)}"]`))?.focus();
}
