// The videos that this browser has sent: kept in its localStorage, and nowhere else.

/**
 * @typedef {{ tasks: string[], threshold: number | null, every: number }} Options
 * @typedef {object} Entry
 * @property {string} key ours, for as long as there is no id
 * @property {string | null} id the job's, once everything is sent
 * @property {string | null} upload where a begun upload goes on
 * @property {string} fingerprint tells whether a file is the same one
 * @property {string} name
 * @property {number} bytes
 * @property {number} sentBytes
 * @property {Options} options
 * @property {boolean} isDoomed deleted here, and yet to be deleted at the server
 */

const KEY = 'vigie.videos';
/** More would be no list any more; the oldest are forgotten, and expire at the server. */
const MOST = 200;

/** @param {File} file */
export function fingerprint(file) {
  return `${file.name}|${file.size}|${file.lastModified}`;
}

/** Newest first. @returns {Entry[]} */
export function loadEntries() {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return Array.isArray(kept) ? kept.filter((entry) => typeof entry?.key === 'string' && typeof entry.name === 'string') : [];
  } catch {
    return [];
  }
}

/** @param {readonly Entry[]} entries */
export function saveEntries(entries) {
  try {
    localStorage.setItem(KEY, JSON.stringify(entries.slice(0, MOST)));
  } catch {
    // Storage may be switched off or full; the list then lasts as long as the page.
  }
}

/** @param {File} file @param {Options} options @returns {Entry} */
export function newEntry(file, options) {
  return {
    key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
    id: null,
    upload: null,
    fingerprint: fingerprint(file),
    name: file.name,
    bytes: file.size,
    sentBytes: 0,
    options,
    isDoomed: false,
  };
}
