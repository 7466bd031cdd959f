// Sizes, times and faults in the reader's language.

import { currentLanguage, formatNumber, knows, t } from '../i18n.js';

/** Bytes as people say them. @param {number} bytes */
export function formatBytes(bytes) {
  const units = currentLanguage() === 'fr' ? ['o', 'ko', 'Mo', 'Go'] : ['B', 'kB', 'MB', 'GB'];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${formatNumber(value, unit > 1 && value < 99.95 ? 1 : 0)} ${units[unit]}`;
}

/** A media time: 0:07, 12:30 or 1:02:03; with tenths where seconds are too coarse. @param {number} seconds @param {boolean} [withTenths] */
export function formatTime(seconds, withTenths = false) {
  const tenths = withTenths ? Math.round(seconds * 10) : Math.floor(Math.round(seconds * 1000) / 1000) * 10;
  const whole = Math.floor(tenths / 10);
  const two = (/** @type {number} */ value) => String(value).padStart(2, '0');
  const hours = Math.floor(whole / 3600);
  const minutes = Math.floor(whole / 60) % 60;
  const clock = hours > 0 ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
  return withTenths ? `${clock}${currentLanguage() === 'fr' ? ',' : '.'}${tenths % 10}` : clock;
}

/** How long something still takes. @param {number} seconds */
export function formatLeft(seconds) {
  if (seconds < 90) return t('seconds_left', { n: Math.max(1, Math.round(seconds)) });
  if (seconds < 5400) return t('minutes_left', { n: Math.round(seconds / 60) });
  return t('hours_left', { n: formatNumber(seconds / 3600, 1) });
}

/** @param {string} rfc3339 */
export function formatWhen(rfc3339) {
  const date = new Date(rfc3339);
  return date.toLocaleString(currentLanguage(), { weekday: 'short', day: 'numeric', month: 'short', hour: '2-digit', minute: '2-digit' });
}

/**
 * A fault in plain words; the server's own where we have none.
 * @param {{ code: string, message: string }} fault
 * @param {number | null} maxBytes
 */
export function describeFault({ code, message }, maxBytes) {
  if (code === 'too_large' && maxBytes !== null) return t('fault_too_large_limit', { size: formatBytes(maxBytes) });
  return knows(`fault_${code}`) ? t(`fault_${code}`) : t('fault_other', { detail: message || code });
}
