// Videos sent by tus-js-client, the protocol's own client, unchanged: over a server that is killed in the middle,
// and by a client that comes back.

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';

import * as tus from 'tus-js-client';

const ROOT = path.join(import.meta.dirname, '../..');
const BINARY = process.env.VIGIE_BINARY ?? path.join(ROOT, 'target/release/vigie');
const CHUNK_BYTES = 256 * 1024;
const LIMIT_MS = 120_000;

/** A `vigie serve` that keeps its address and its store when it is started again. */
class Service {
  constructor(/** @type {string} */ store) {
    this.store = store;
    this.listen = '127.0.0.1:0';
  }

  async start() {
    const options = ['serve', '--listen', this.listen, '--media', '127.0.0.1:0', '--store', this.store];
    this.child = spawn(BINARY, options, { cwd: ROOT, stdio: ['ignore', 'pipe', 'ignore'] });
    let line = '';
    for await (const piece of this.child.stdout) {
      line += piece;
      if (line.includes('\n')) break;
    }
    this.url = line.trim().replace('vigie is ready: ', '');
    assert.match(this.url, /^http:/, 'the service starts');
    this.listen = new URL(this.url).host;
  }

  async kill() {
    if (this.child === undefined || this.child.exitCode !== null || this.child.signalCode !== null) return;
    const ended = once(this.child, 'exit');
    this.child.kill('SIGKILL');
    await ended;
  }
}

/** @type {string} */ let folder;
/** @type {Service} */ let service;
/** @type {Buffer} */ let video;

before(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'vigie-tus-'));
  const file = path.join(folder, 'noisy.mp4');
  // Noise does not compress: several megabytes in a few seconds.
  const source = ['-f', 'lavfi', '-i', 'testsrc2=size=640x480:rate=10:duration=3', '-vf', 'noise=alls=90:allf=t'];
  const codec = ['-c:v', 'libx264', '-preset', 'ultrafast', '-qp', '20', '-pix_fmt', 'yuv420p', file];
  await promisify(execFile)('ffmpeg', ['-v', 'error', '-y', ...source, ...codec]);
  video = await readFile(file);
  assert.ok(video.length > 8 * CHUNK_BYTES, `${video.length} bytes`);
  service = new Service(path.join(folder, 'store'));
  await service.start();
});

after(async () => {
  await service?.kill();
  await rm(folder, { recursive: true, force: true });
});

/**
 * Sends the video, and gives the offsets at which it went on and the job that was made.
 * @param {object} options
 * @param {(upload: tus.Upload, sent: number) => void} [options.onSent] after each piece
 * @param {tus.UrlStorage} [options.urlStorage]
 * @param {Buffer} [options.bytes]
 */
async function send({ onSent = () => {}, urlStorage, bytes = video }) {
  /** @type {number[]} */
  const offsets = [];
  /** @type {string | undefined} */
  let job;
  /** @type {(reason?: unknown) => void} */ let resolve = () => {};
  /** @type {(reason?: unknown) => void} */ let reject = () => {};
  const sent = new Promise((...ways) => ([resolve, reject] = ways));
  const upload = new tus.Upload(bytes, {
    endpoint: `${service.url}/api/uploads`,
    chunkSize: CHUNK_BYTES,
    retryDelays: Array(40).fill(500),
    metadata: { filename: 'noisy.mp4', filetype: 'video/mp4', tasks: 'objects', every: '10' },
    fingerprint: async () => `noisy-${bytes.length}`,
    ...(urlStorage && { urlStorage }),
    onAfterResponse: (request, response) => {
      if (request.getMethod() === 'HEAD') offsets.push(Number(response.getHeader('Upload-Offset')));
      job = response.getHeader('Vigie-Job') ?? job;
    },
    onChunkComplete: (_, bytesSent) => onSent(upload, bytesSent),
    onError: reject,
    onSuccess: resolve,
  });
  const earlier = urlStorage ? await upload.findPreviousUploads() : [];
  if (earlier.length > 0) upload.resumeFromPreviousUpload(earlier[0]);
  upload.start();
  return { upload, offsets, done: sent.then(() => job) };
}

/** @param {string | undefined} id */
async function finished(id) {
  const deadline = Date.now() + LIMIT_MS;
  while (Date.now() < deadline) {
    const job = await (await fetch(`${service.url}/api/videos/${id}`)).json();
    if (!['queued', 'running'].includes(job.state)) return job;
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  throw new Error('the job did not end');
}

test('an upload goes on where a killed server left off', { timeout: LIMIT_MS }, async () => {
  let isKilled = false;
  const { offsets, done } = await send({
    onSent: (_, sent) => {
      if (sent < 3 * CHUNK_BYTES || isKilled) return;
      isKilled = true;
      service.kill().then(() => service.start());
    },
  });
  const job = await finished(await done);
  assert.ok(isKilled);
  assert.ok(offsets.some((offset) => offset >= 3 * CHUNK_BYTES), `went on at ${offsets}`);
  assert.equal(job.state, 'done', JSON.stringify(job));
  assert.equal(job.name, 'noisy.mp4');
  assert.equal(job.bytes, video.length);
  assert.deepEqual(job.options, { tasks: ['objects'], every: 10 });
});

test('a client that was closed comes back to its upload', { timeout: LIMIT_MS }, async () => {
  const urlStorage = new tus.FileUrlStorage(path.join(folder, 'uploads.json'));
  await new Promise((resolve, reject) => {
    send({
      urlStorage,
      onSent: (upload, sent) => {
        if (sent >= 2 * CHUNK_BYTES) upload.abort().then(resolve, reject);
      },
    }).catch(reject);
  });
  const { offsets, done } = await send({ urlStorage });
  const job = await finished(await done);
  assert.ok(offsets[0] >= 2 * CHUNK_BYTES, `went on at ${offsets}`);
  assert.equal(job.state, 'done', JSON.stringify(job));
});

test('a client that gives up leaves nothing, and what is no video is refused', { timeout: LIMIT_MS }, async () => {
  const { upload } = await new Promise((resolve, reject) => {
    send({ onSent: (upload, sent) => sent >= CHUNK_BYTES && resolve({ upload }) }).catch(reject);
  });
  await upload.abort(true);
  assert.equal((await fetch(upload.url, { method: 'HEAD', headers: { 'Tus-Resumable': '1.0.0' } })).status, 404);

  const { done } = await send({ bytes: Buffer.from('#EXTM3U\n'.repeat(1000)) });
  await assert.rejects(done, (/** @type {tus.DetailedError} */ error) => {
    assert.equal(error.originalResponse?.getStatus(), 415);
    assert.equal(JSON.parse(error.originalResponse?.getBody() ?? '').error.code, 'unsupported_type');
    return true;
  });
});
