// A small live plot of latency: one minute, newest at the right, the scale following the highest value.

const SPAN_MS = 60_000;
/** One column of the plot gathers this much time: the highest of it is drawn, so no spike is lost. */
const BIN_MS = 500;
/** Ends of the scale, ms: rounded, so that the scale seldom jumps. */
const SCALES_MS = [50, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 30_000];

export class Plot {
  /** @type {HTMLCanvasElement} */ #canvas;
  /** @type {CanvasRenderingContext2D} */ #context;
  /** @type {{ bin: number, lowest: number, highest: number }[]} */ #bins = [];

  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    new ResizeObserver(() => this.draw(performance.now())).observe(canvas);
  }

  /**
   * @param {number} nowMs
   * @param {number} value
   */
  add(nowMs, value) {
    const bin = Math.floor(nowMs / BIN_MS);
    const last = this.#bins[this.#bins.length - 1];
    if (last?.bin === bin) {
      last.lowest = Math.min(last.lowest, value);
      last.highest = Math.max(last.highest, value);
    } else {
      this.#bins.push({ bin, lowest: value, highest: value });
      if (this.#bins.length > SPAN_MS / BIN_MS) this.#bins.shift();
    }
  }

  clear() {
    this.#bins = [];
    this.draw(performance.now());
  }

  /** @param {number} nowMs */
  draw(nowMs) {
    const canvas = this.#canvas;
    const context = this.#context;
    const density = devicePixelRatio || 1;
    const width = canvas.clientWidth;
    const height = canvas.clientHeight;
    if (width === 0) return;
    canvas.width = Math.round(width * density);
    canvas.height = Math.round(height * density);
    context.setTransform(density, 0, 0, density, 0, 0);
    const style = getComputedStyle(canvas);
    const ink = style.fill;
    const accent = style.stroke;

    const newest = Math.floor(nowMs / BIN_MS);
    const bins = this.#bins.filter(({ bin }) => newest - bin < SPAN_MS / BIN_MS);
    const top = Math.max(0, ...bins.map(({ highest }) => highest));
    const scale = SCALES_MS.find((limit) => top <= limit) ?? SCALES_MS[SCALES_MS.length - 1];
    const gutter = 46;
    const base = height - 1.5;
    const toY = (/** @type {number} */ value) => base - (Math.min(value, scale) / scale) * (height - 10);
    const toX = (/** @type {number} */ bin) => (width - gutter) * (1 - (newest - bin) / (SPAN_MS / BIN_MS));

    context.font = '10.5px system-ui, sans-serif';
    context.textBaseline = 'middle';
    context.fillStyle = ink;
    context.strokeStyle = ink;
    context.lineWidth = 1;
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(toY(scale * share)) + 0.5;
      context.globalAlpha = 0.35;
      context.beginPath();
      context.moveTo(0, y);
      context.lineTo(width - gutter, y);
      context.stroke();
      context.globalAlpha = 1;
      context.fillText(share === 0 ? '0' : `${scale * share} ms`, width - gutter + 6, Math.min(y, base - 4));
    }
    if (bins.length === 0) return;

    context.beginPath();
    for (const { bin, highest } of bins) context.lineTo(toX(bin), toY(highest));
    context.strokeStyle = accent;
    context.lineWidth = 1.5;
    context.lineJoin = 'round';
    context.stroke();
    for (const { bin, lowest } of [...bins].reverse()) context.lineTo(toX(bin), toY(lowest));
    context.closePath();
    context.globalAlpha = 0.25;
    context.fillStyle = accent;
    context.fill();
    context.globalAlpha = 1;
  }
}
