// Runs the original TensorFlow.js models on the test picture and writes what they give to
// tests/data/models/, for tests/models/parity.rs to hold the converted models against.
//
//   npm pack @vladmandic/human@3.3.6 && tar xzf vladmandic-human-3.3.6.tgz
//   npm ci && node make_goldens.mjs package/models
//
// The inputs are cut out of the picture without interpolation, so that both sides have the same pixels.
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import converter from '@tensorflow/tfjs-converter';
import png from 'pngjs';

const models = process.argv[2] ?? 'package/models';
const data = path.join(path.dirname(fileURLToPath(import.meta.url)), '../../tests/data');
const picture = png.PNG.sync.read(fs.readFileSync(path.join(data, 'models/astronaut.png')));

/** RGB floats of the rectangle at (x, y), as a tensor [1, height, width, 3]; step 2 takes every second pixel. */
function cut(x, y, width, height, step = 1) {
  const pixels = new Float32Array(width * height * 3);
  for (let row = 0; row < height; row++)
    for (let column = 0; column < width; column++)
      for (let channel = 0; channel < 3; channel++)
        pixels[(row * width + column) * 3 + channel] =
          picture.data[((y + Math.floor(row * step)) * picture.width + x + Math.floor(column * step)) * 4 + channel];
  return tf.tensor4d(pixels, [1, height, width, 3]);
}

/** Loads a model from its two files; `edit` may change the graph first. */
async function load(name, edit = () => {}) {
  const json = JSON.parse(fs.readFileSync(path.join(models, `${name}.json`), 'utf8'));
  edit(json);
  const bin = fs.readFileSync(path.join(models, `${name}.bin`));
  return converter.loadGraphModel(tf.io.fromMemory({
    modelTopology: json.modelTopology,
    weightSpecs: json.weightsManifest.flatMap((group) => group.weights),
    weightData: bin.buffer.slice(bin.byteOffset, bin.byteOffset + bin.byteLength),
    signature: json.signature,
    userDefinedMetadata: json.userDefinedMetadata,
  }));
}

/** Writes values as little-endian 32-bit floats. */
function write(name, values) {
  const out = Buffer.alloc(values.length * 4);
  values.forEach((value, index) => out.writeFloatLE(value, index * 4));
  fs.writeFileSync(path.join(data, 'models', name), out);
  console.log(`${name}: ${values.length} values`);
}

async function blazeface() {
  const model = await load('blazeface');
  const input = tf.sub(tf.div(cut(0, 0, 256, 256, 2), 127.5), 1);
  const names = ['Identity', 'Identity_1', 'Identity_2', 'Identity_3'];
  const outputs = model.execute(input, names);
  const [near, far, nearBoxes, farBoxes] = await Promise.all(outputs.map((output) => output.data()));
  write('blazeface_logits.f32', [...near, ...far]);
  write('blazeface_boxes.f32', [...nearBoxes, ...farBoxes]);
}

async function faceres() {
  const model = await load('faceres');
  const bgr = tf.reverse(cut(157, 58, 224, 224, 0.603), 3);
  const input = tf.sub(bgr, [103.939, 116.779, 123.68]);
  write('faceres_gender.f32', await model.execute(input, 'gender_pred/Sigmoid').data());
}

/** The heads of the network, and the decoding as the published graph has it, written out for any size. */
async function centernet(name, width, height) {
  const enlargements = [];
  const model = await load('centernet', (json) => {
    const { node } = json.modelTopology;
    enlargements.push(...node.filter(({ op }) => op === 'ResizeBilinear').map(({ input }) => input[1]));
    const sides = [
      node.find(({ op }) => op === 'Placeholder').attr.shape.shape.dim,
      json.signature.inputs['tower_0/images'].tensorShape.dim,
    ];
    for (const [, rows, columns] of sides) [rows.size, columns.size] = [String(height), String(width)];
  });
  // The graph enlarges to fixed sizes, those of a 512 x 512 picture: each step doubles, from a sixteenth.
  enlargements.forEach((name, step) => {
    const size = [height, width].map((side) => (side / 16) * 2 ** step);
    model.executor.weightMap[name] = [tf.tensor1d(size, 'int32')];
  });
  // Hard swish divides by six with a factor that the file rounds to float16 (0.16663); the converter makes it
  // exact again, and so it is here. As it is published, boxes differ by up to 0.4 pixels and scores by 1e-3.
  for (const [name, [constant]] of Object.entries(model.executor.weightMap))
    if (constant.size === 1 && Math.abs(constant.dataSync()[0] - 1 / 6) < 1e-3)
      model.executor.weightMap[name] = [tf.scalar(1 / 6)];
  const input = cut(0, 0, width, height);
  const [heatmap, sizes] = model.execute(input, ['tower_0/keypoints', 'tower_0/wh']);
  const [, rows, columns, classes] = heatmap.shape;
  const peaks = tf.mul(heatmap, tf.cast(tf.equal(heatmap, tf.maxPool(heatmap, 3, 1, 'same')), 'float32'));
  const { values, indices } = tf.topk(tf.reshape(peaks, [-1]), 100);
  const [scores, places, around] = await Promise.all([values.data(), indices.data(), sizes.data()]);
  const detections = [];
  places.forEach((place, index) => {
    const cell = Math.floor(place / classes);
    const [row, column] = [Math.floor(cell / columns), cell % columns];
    const [left, top, right, bottom] = around.slice(cell * 4, cell * 4 + 4);
    detections.push(4 * column - left, 4 * row - top, 4 * column + right, 4 * row + bottom, scores[index], place % classes);
  });
  if (rows === 128 && columns === 128) {
    const published = await model.execute(input, 'tower_0/detections').data();
    const difference = Math.max(...detections.map((value, index) => Math.abs(value - published[index])));
    if (difference > 1e-3) throw new Error(`the decoding differs from the published one by ${difference}`);
  }
  write(name, detections);
}

tf.setBackend('cpu');
fs.mkdirSync(path.join(data, 'models'), { recursive: true });
await blazeface();
await faceres();
await centernet('centernet_512x512.f32', 512, 512);
await centernet('centernet_320x256.f32', 320, 256);
