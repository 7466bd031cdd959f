// The videos that this browser has sent: kept in its localStorage, and nowhere else. All its pages keep one list there.

/**
 * @typedef {{ tasks: string[], threshold: number | null, every: number }} Options
 * @typedef {object} Entry
 * @property {string} key ours, for as long as there is no id
 * @property {number} [addedAt] ms since 1970; older entries have none
 * @property {string | null} id the job's, once everything is sent
 * @property {string | null} upload where a begun upload goes on
 * @property {string} fingerprint tells whether a file is the same one
 * @property {string} name
 * @property {number} bytes
 * @property {number} sentBytes
 * @property {Options} options
 * @property {boolean} isDoomed deleted by a page that has gone since, and perhaps yet to be deleted at the server
 */

const KEY = 'vigie.videos';
/** More would be no list any more; the oldest are forgotten, and expire at the server. */
const MOST = 200;

/** What was stored when this page last looked, as JSON by key: where an entry differs, this page has changed it. @type {Map<string, string>} */
let seen = new Map();

/** @param {File} file */
export function fingerprint(file) {
  return `${file.name}|${file.size}|${file.lastModified}`;
}

/** Newest first. @returns {Entry[]} */
export function loadEntries() {
  return mergeEntries([], () => false);
}

/**
 * Takes over what other pages have added, changed and removed since this one last looked. What this one has changed
 * stays as it is here.
 * @param {readonly Entry[]} entries changed in place
 * @param {(entry: Entry) => boolean} isOurs whether this page works on an entry: then no other page's word counts
 * @returns {Entry[]} the list from here on, newest first
 */
export function mergeEntries(entries, isOurs) {
  const stored = read();
  if (stored === null) return [...entries];
  const theirs = new Map(stored.map((entry) => [entry.key, entry]));
  const kept = entries.filter((entry) => {
    const their = theirs.get(entry.key);
    if (isOurs(entry) || JSON.stringify(entry) !== seen.get(entry.key)) return true;
    Object.assign(entry, their);
    return their !== undefined;
  });
  const known = new Set([...seen.keys(), ...entries.map(({ key }) => key)]);
  const added = stored.filter(({ key }) => !known.has(key));
  remember(stored);
  return [...kept, ...added].sort((a, b) => (b.addedAt ?? 0) - (a.addedAt ?? 0));
}

/**
 * Keeps the entries, with what other pages have made of them meanwhile.
 * @param {readonly Entry[]} entries
 * @param {(entry: Entry) => boolean} isOurs
 * @returns {Entry[]} the list from here on, newest first
 */
export function saveEntries(entries, isOurs) {
  const merged = mergeEntries(entries, isOurs);
  const kept = merged.slice(0, MOST);
  try {
    localStorage.setItem(KEY, JSON.stringify(kept));
    remember(kept);
  } catch {
    // Storage may be switched off or full; the list then lasts as long as the page.
  }
  return merged;
}

/** Calls `listener` whenever another page has changed the list. @param {() => void} listener */
export function onOtherPages(listener) {
  addEventListener('storage', ({ key }) => {
    if (key === KEY || key === null) listener();
  });
}

/** What is stored, or null where that cannot be read. @returns {Entry[] | null} */
function read() {
  try {
    const stored = JSON.parse(localStorage.getItem(KEY) ?? '[]');
    return stored.filter((/** @type {any} */ entry) => typeof entry?.key === 'string' && typeof entry.name === 'string');
  } catch {
    return null;
  }
}

/** @param {readonly Entry[]} stored */
function remember(stored) {
  seen = new Map(stored.map((entry) => [entry.key, JSON.stringify(entry)]));
}

/** @param {File} file @param {Options} options @returns {Entry} */
export function newEntry(file, options) {
  return {
    key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`,
    addedAt: Date.now(),
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
