// Writes small ONNX models, as tests/models/onnx.rs does: a detector of bright places, in the form that Ultralytics exports.

/** A protobuf message under construction. */
class Message {
  /** @type {number[]} */ bytes = [];

  /** @param {number} value */
  #varint(value) {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest >= 0x80n; rest >>= 7n) this.bytes.push(Number(rest & 0x7fn) | 0x80);
    this.bytes.push(Number(rest));
    return this;
  }

  /** @param {number} field @param {number} value */
  int(field, value) {
    return this.#varint(field * 8).#varint(value);
  }

  /** @param {number} field @param {string | Uint8Array | Message} content */
  put(field, content) {
    const bytes = content instanceof Message ? content.bytes : typeof content === 'string' ? new TextEncoder().encode(content) : content;
    this.#varint(field * 8 + 2).#varint(bytes.length);
    for (const byte of bytes) this.bytes.push(byte);
    return this;
  }

  /** @param {number} field @param {readonly Message[]} messages */
  all(field, messages) {
    for (const message of messages) this.put(field, message);
    return this;
  }
}

const FLOAT = 1;
const INT64 = 7;

/** @param {string} name @param {number} element @param {readonly number[]} dims @param {Uint8Array} data */
function tensor(name, element, dims, data) {
  const message = new Message();
  for (const side of dims) message.int(1, side);
  return message.int(2, element).put(8, name).put(9, data);
}

/** @param {string} name @param {readonly number[]} dims @param {readonly number[]} values */
const floats = (name, dims, values) => tensor(name, FLOAT, dims, new Uint8Array(Float32Array.from(values).buffer));
/** @param {string} name @param {readonly number[]} dims @param {readonly number[]} values */
const integers = (name, dims, values) => tensor(name, INT64, dims, new Uint8Array(BigInt64Array.from(values.map(BigInt)).buffer));

/** @param {string} operator @param {readonly string[]} inputs @param {readonly string[]} outputs @param {Record<string, number | readonly number[]>} [attributes] */
function node(operator, inputs, outputs, attributes = {}) {
  const message = new Message();
  for (const input of inputs) message.put(1, input);
  for (const output of outputs) message.put(2, output);
  message.put(4, operator);
  for (const [name, value] of Object.entries(attributes)) {
    const attribute = new Message().put(1, name);
    if (typeof value === 'number') attribute.int(3, value).int(20, 2);
    else for (const part of value) attribute.int(8, part);
    message.put(5, typeof value === 'number' ? attribute : attribute.int(20, 7));
  }
  return message;
}

/** @param {string} name @param {readonly number[]} dims */
function port(name, dims) {
  const shape = new Message().all(1, dims.map((side) => new Message().int(1, side)));
  return new Message().put(1, name).put(2, new Message().put(1, new Message().int(1, FLOAT).put(2, shape)));
}

const SIDE = 64;
const STRIDE = 8;
const CELLS = (SIDE / STRIDE) ** 2;
/** Cells of the grids at strides of 8, 16 and 32. */
const ANCHORS = 64 + 16 + 4;

/**
 * A detector of `[1, 4 + 2, 84]` whose second class is a bright cell of an 8 by 8 grid.
 * @param {{ labels: [string, string], isNamed?: boolean, weight?: number }} options whether the file says what it is and what its classes are called;
 *   how much of a cell's brightness counts
 */
export function brightDetector({ labels, isNamed = true, weight = 1 }) {
  const cells = [...Array(CELLS).keys()];
  const padded = (/** @type {number[]} */ values) => [...values, ...Array(ANCHORS - CELLS).fill(0)];
  const middle = (/** @type {number} */ place) => (place + 0.5) * STRIDE;
  const boxes = [
    padded(cells.map((cell) => middle(cell % 8))), padded(cells.map((cell) => middle(Math.floor(cell / 8)))),
    padded(cells.map(() => STRIDE)), padded(cells.map(() => STRIDE)),
  ].flat();
  const average = Array(3 * STRIDE * STRIDE).fill(weight / (3 * STRIDE * STRIDE));
  const graph = new Message()
    .all(1, [
      node('Conv', ['images', 'average'], ['grid'], { strides: [STRIDE, STRIDE] }),
      node('Reshape', ['grid', 'row'], ['cells']),
      node('Concat', ['cells', 'coarse'], ['scores'], { axis: 2 }),
      node('Concat', ['boxes', 'none', 'scores'], ['output0'], { axis: 1 }),
    ])
    .put(2, 'bright')
    .all(5, [
      floats('average', [1, 3, STRIDE, STRIDE], average), integers('row', [3], [1, 1, CELLS]), floats('boxes', [1, 4, ANCHORS], boxes),
      floats('none', [1, 1, ANCHORS], Array(ANCHORS).fill(0)), floats('coarse', [1, 1, ANCHORS - CELLS], Array(ANCHORS - CELLS).fill(0)),
    ])
    .put(11, port('images', [1, 3, SIDE, SIDE]))
    .put(12, port('output0', [1, 6, ANCHORS]));
  const model = new Message().int(1, 8).put(2, 'vigie tests').put(7, graph).put(8, new Message().put(1, '').int(2, 17));
  const metadata = isNamed
    ? { description: 'Ultralytics YOLO11n model', author: 'Ultralytics', task: 'detect', stride: '32', names: `{0: '${labels[0]}', 1: '${labels[1]}'}` }
    : {};
  model.all(14, Object.entries(metadata).map(([key, value]) => new Message().put(1, key).put(2, value)));
  return Buffer.from(model.bytes);
}

/** What looks like finished detections, whose classes nobody can count. */
export function unclearDetector() {
  const graph = new Message()
    .all(1, [
      node('ReduceMax', ['images'], ['most'], { axes: [1, 2, 3], keepdims: 1 }),
      node('Reshape', ['most', 'one'], ['score']),
      node('Concat', ['box', 'score', 'class'], ['output0'], { axis: 2 }),
    ])
    .put(2, 'unclear')
    .all(5, [integers('one', [3], [1, 1, 1]), floats('box', [1, 1, 4], [8, 8, 40, 40]), floats('class', [1, 1, 1], [1])])
    .put(11, port('images', [1, 3, SIDE, SIDE]))
    .put(12, port('output0', [1, 1, 6]));
  return Buffer.from(new Message().int(1, 8).put(2, 'vigie tests').put(7, graph).put(8, new Message().put(1, '').int(2, 17)).bytes);
}
