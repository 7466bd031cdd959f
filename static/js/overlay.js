// Draws what was recognised over the local picture. The boxes are in pixels of the sent frame; the
// picture is fitted into its element, perhaps mirrored, on a screen of any density.

import { formatScore, t, translateLabel } from './i18n.js';
import { classIndex } from './labels.js';

/** @typedef {{ x: number, y: number, width: number, height: number }} Rect */

/** Boxes glide to their new place within this; longer would trail behind the picture. */
const GLIDE_MS = 70;
/** A report this old says nothing about the picture any more. */
export const STALE_MS = 1500;

/**
 * The server's palette for the annotated video, so that a class has one colour in both pictures:
 * Okabe and Ito's (2008), told apart with any colour vision. The first is for faces.
 */
const PALETTE = ['#56b4e9', '#e69f00', '#009e73', '#f0e442', '#cc79a7', '#d55e00', '#0072b2'];

/** Yellow, as a marker pen's. */
const TEXT_COLOUR = PALETTE[3];
/** Characters of a text that are shown beside its box. */
const SHOWN_CHARACTERS = 60;

/** The colour of a track's box and of its count. @param {string} kind @param {string} label */
export function trackColour(kind, label) {
  if (kind === 'face') return PALETTE[0];
  return kind === 'text' ? TEXT_COLOUR : PALETTE[1 + (classIndex(label) % (PALETTE.length - 1))];
}

/** A track in words: label and score, and what second-stage models said of it. @param {any} track */
export function describeTrack(track) {
  const { text, ...others } = track.attributes ?? {};
  // What a line of text is called says less than the text.
  const words = track.kind === 'text' && text ? [] : [`${translateLabel(track.label)} ${formatScore(track.score)}`];
  words.push(...describeAttributes(others));
  if (text) words.push(describeText(text));
  return words.join(' · ');
}

/**
 * What models said, but for text: apparent gender first.
 * @param {Record<string, { label: string, score: number }>} attributes
 * @returns {string[]}
 */
export function describeAttributes({ apparent_gender: gender, ...classes }) {
  const words = Object.values(classes).map(({ label, score }) => `${translateLabel(label)} ${formatScore(score)}`);
  if (gender) words.unshift(gender.label === 'unsure' ? t('unsure_gender') : `${translateLabel(gender.label)} ${formatScore(gender.score)}`);
  return words;
}

/** A text that was read, in quotation marks. @param {{ label: string, score: number }} text */
export function describeText({ label, score }) {
  const characters = [...label];
  const shown = characters.length > SHOWN_CHARACTERS ? `${characters.slice(0, SHOWN_CHARACTERS).join('')}…` : label;
  return `${t('quoted', { text: shown })} ${formatScore(score)}`;
}

/**
 * Where a picture of `width` x `height` lies in a box when fitted whole and centred.
 * @param {number} width
 * @param {number} height
 * @param {number} boxWidth
 * @param {number} boxHeight
 * @returns {Rect}
 */
export function fitRect(width, height, boxWidth, boxHeight) {
  const scale = Math.min(boxWidth / width, boxHeight / height);
  const fitted = { width: width * scale, height: height * scale };
  return { x: (boxWidth - fitted.width) / 2, y: (boxHeight - fitted.height) / 2, ...fitted };
}

export class Overlay {
  isMirrored = false;
  /** @type {HTMLCanvasElement} */ #canvas;
  /** @type {HTMLVideoElement} */ #video;
  /** @type {CanvasRenderingContext2D} */ #context;
  /** @type {any} */ #report = null;
  #reportedAt = 0;
  /** @type {Map<number, number[]>} box of each track when the newest report came */ #from = new Map();
  #isScheduled = false;
  #stillMotion = matchMedia('(prefers-reduced-motion: reduce)');
  /** @type {number | undefined} */ #expiry;

  /**
   * @param {HTMLCanvasElement} canvas over the video, of the same size
   * @param {HTMLVideoElement} video
   */
  constructor(canvas, video) {
    this.#canvas = canvas;
    this.#video = video;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    new ResizeObserver(() => this.redraw()).observe(canvas);
    video.addEventListener('resize', () => this.redraw());
  }

  /** Shows `report` from now on. @param {any} report */
  show(report) {
    const now = performance.now();
    const from = new Map();
    for (const track of report.tracks) {
      const box = this.#boxAt(track.id, now);
      if (box) from.set(track.id, box);
    }
    // Another frame size is another coordinate system: nothing to glide from.
    this.#from = this.#report?.width === report.width && this.#report?.height === report.height ? from : new Map();
    this.#report = report;
    this.#reportedAt = now;
    clearTimeout(this.#expiry);
    this.#expiry = setTimeout(() => this.clear(), STALE_MS);
    this.redraw();
  }

  clear() {
    clearTimeout(this.#expiry);
    this.#report = null;
    this.#from.clear();
    this.redraw();
  }

  redraw() {
    if (this.#isScheduled) return;
    this.#isScheduled = true;
    requestAnimationFrame((now) => {
      this.#isScheduled = false;
      this.#draw(now);
    });
  }

  /**
   * @param {number} id
   * @param {number} now
   * @returns {number[] | null}
   */
  #boxAt(id, now) {
    const track = this.#report?.tracks.find((/** @type {any} */ known) => known.id === id);
    if (!track) return null;
    const from = this.#from.get(id);
    const progress = this.#stillMotion.matches ? 1 : Math.min(1, Math.max(0, (now - this.#reportedAt) / GLIDE_MS));
    if (!from || progress === 1) return track.box;
    return track.box.map((/** @type {number} */ end, /** @type {number} */ i) => from[i] + (end - from[i]) * progress);
  }

  /** @param {number} now */
  #draw(now) {
    const canvas = this.#canvas;
    const context = this.#context;
    const density = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    const pixelWidth = Math.round(width * density);
    const pixelHeight = Math.round(height * density);
    if (canvas.width !== pixelWidth || canvas.height !== pixelHeight) {
      canvas.width = pixelWidth;
      canvas.height = pixelHeight;
    }
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, width, height);
    const report = this.#report;
    if (!report || width === 0 || !report.width || !report.height) return;

    // The local picture's shape; until it has one, the sent frame's.
    const shown = fitRect(this.#video.videoWidth || report.width, this.#video.videoHeight || report.height, width, height);
    const scaleX = shown.width / report.width;
    const scaleY = shown.height / report.height;
    const fontSize = Math.max(11, Math.min(14, shown.width / 44));
    context.font = `600 ${fontSize}px system-ui, sans-serif`;
    context.textBaseline = 'middle';
    // Large boxes first, so that the small ones inside stay readable.
    const tracks = [...report.tracks].sort((a, b) => b.box[2] * b.box[3] - a.box[2] * a.box[3]);
    /** @type {Rect[]} */
    const tags = [];
    for (const track of tracks) {
      const [x, y, w, h] = this.#boxAt(track.id, now) ?? track.box;
      const left = this.isMirrored ? report.width - x - w : x;
      const box = { x: shown.x + left * scaleX, y: shown.y + y * scaleY, width: w * scaleX, height: h * scaleY };
      const colour = trackColour(track.kind, track.label);
      drawBrackets(context, box, colour);
      tags.push(drawTag(context, box, shown, tags, describeTrack(track), colour, fontSize));
    }
    if (!this.#stillMotion.matches && now - this.#reportedAt < GLIDE_MS) this.redraw();
  }
}

/**
 * A fine frame with strong corners, as in a viewfinder.
 * @param {CanvasRenderingContext2D} context
 * @param {Rect} box
 * @param {string} colour
 */
function drawBrackets(context, { x, y, width, height }, colour) {
  const arm = Math.max(6, Math.min(22, width / 4, height / 4));
  const right = x + width;
  const bottom = y + height;
  context.lineJoin = 'round';
  context.lineCap = 'round';
  context.beginPath();
  for (const [cornerX, cornerY, towardsX, towardsY] of [[x, y, 1, 1], [right, y, -1, 1], [right, bottom, -1, -1], [x, bottom, 1, -1]]) {
    context.moveTo(cornerX + towardsX * arm, cornerY);
    context.lineTo(cornerX, cornerY);
    context.lineTo(cornerX, cornerY + towardsY * arm);
  }
  // A dark edge below keeps the colour readable on a bright picture.
  context.strokeStyle = 'rgb(8 14 22 / 0.55)';
  context.lineWidth = 5;
  context.stroke();
  context.strokeStyle = colour;
  context.lineWidth = 2.5;
  context.stroke();
  context.globalAlpha = 0.55;
  context.lineWidth = 1;
  context.strokeRect(x, y, width, height);
  context.globalAlpha = 1;
}

/**
 * Writes a box's label at its top, or lower where another label stands, and gives the place taken.
 * @param {CanvasRenderingContext2D} context
 * @param {Rect} box
 * @param {Rect} bounds
 * @param {readonly Rect[]} taken
 * @param {string} text
 * @param {string} colour
 * @param {number} fontSize
 * @returns {Rect}
 */
function drawTag(context, box, bounds, taken, text, colour, fontSize) {
  const height = Math.round(fontSize * 1.6);
  const width = context.measureText(text).width + fontSize + 4;
  const x = Math.max(bounds.x, Math.min(box.x, bounds.x + bounds.width - width));
  const inside = Math.max(bounds.y, box.y) + 5;
  const places = [box.y - height - 5, inside, inside + height + 2, box.y + box.height + 5]
    .filter((y) => y >= bounds.y && y + height <= bounds.y + bounds.height)
    .map((y) => ({ x, y, width, height }));
  const place = places.find((free) => !taken.some((other) => overlap(free, other))) ?? places[0] ?? { x, y: inside, width, height };
  context.beginPath();
  context.roundRect(x, place.y, width, height, 3);
  context.fillStyle = 'rgb(8 14 22 / 0.82)';
  context.fill();
  context.fillStyle = colour;
  context.fillRect(x, place.y, 4, height);
  context.fillStyle = '#f2f6f8';
  context.fillText(text, x + 4 + fontSize / 2, place.y + height / 2 + 0.5);
  return place;
}

/** @param {Rect} a @param {Rect} b */
function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + b.height && b.y < a.y + a.height;
}
