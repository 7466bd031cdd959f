// Where the picture comes from: a camera, or a file that stands in for one.
// Everything here ends in a `Source`, so that the rest of the page cannot tell them apart.

/** @typedef {{ width: number, height: number }} Size */

/**
 * @typedef {object} Source
 * @property {'camera' | 'file'} kind
 * @property {string} name the file's name or the camera's label
 * @property {string} deviceId empty for a file
 * @property {boolean} isFrontal faces the reader, as a mirror would
 * @property {Size} chosen the size asked for; what is sent is no larger
 * @property {MediaStream} stream
 * @property {MediaStreamTrack} track
 * @property {() => number} sentHeight pixels of the picture's shorter side
 * @property {() => void} close
 */

/** Why there is no picture; `key` names its text. */
export class SourceError extends Error {
  /**
   * @param {string} key
   * @param {Record<string, string>} [values]
   */
  constructor(key, values = {}) {
    super(key);
    this.key = key;
    this.values = values;
  }
}

const FRAMES_PER_SECOND = 30;

/** @type {Readonly<Record<string, string>>} what `getUserMedia` rejects with, by W3C name and by older ones */
const CAMERA_ERRORS = Object.freeze({
  NotFoundError: 'no_camera',
  DevicesNotFoundError: 'no_camera',
  OverconstrainedError: 'no_camera',
  NotAllowedError: 'camera_refused',
  PermissionDeniedError: 'camera_refused',
  SecurityError: 'camera_refused',
  NotReadableError: 'camera_in_use',
  TrackStartError: 'camera_in_use',
  AbortError: 'camera_in_use',
});

/** Cameras as the browser lists them; without labels until one was allowed. */
export async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter(({ kind }) => kind === 'videoinput');
}

/**
 * Opens a camera. Rejects with a `SourceError` that says why there is none.
 * @param {string} deviceId empty for the browser's choice
 * @param {Size} chosen
 * @returns {Promise<Source>}
 */
export async function openCamera(deviceId, chosen) {
  if (!navigator.mediaDevices?.getUserMedia) throw new SourceError('insecure_context');
  /** @type {MediaStream} */
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({
      audio: false,
      video: {
        ...(deviceId ? { deviceId: { exact: deviceId } } : { facingMode: 'user' }),
        width: { ideal: chosen.width },
        height: { ideal: chosen.height },
        frameRate: { ideal: FRAMES_PER_SECOND },
      },
    });
  } catch (error) {
    const name = error instanceof Error ? error.name : '';
    throw new SourceError(CAMERA_ERRORS[name] ?? 'camera_failed', { detail: String(error) });
  }
  const [track] = stream.getVideoTracks();
  const { deviceId: opened = '', facingMode } = track.getSettings();
  return {
    kind: 'camera',
    name: track.label,
    deviceId: opened,
    // A desk camera does not say where it looks; it looks at who sits before it.
    isFrontal: facingMode !== 'environment',
    chosen,
    stream,
    track,
    sentHeight: () => {
      const { width = chosen.width, height = chosen.height } = track.getSettings();
      return Math.min(width, height);
    },
    close: () => track.stop(),
  };
}

/**
 * Plays a video or picture file, over and over, as if it were a camera.
 * @param {File} file
 * @param {Size} chosen
 * @returns {Promise<Source>}
 */
export async function openFile(file, chosen) {
  const url = URL.createObjectURL(file);
  try {
    return file.type.startsWith('image/')
      ? await openPicture(file.name, url, chosen)
      : await openVideo(file.name, url, chosen);
  } catch {
    URL.revokeObjectURL(url);
    throw new SourceError('file_unreadable', { name: file.name });
  }
}

/**
 * @param {string} name
 * @param {string} url
 * @param {Size} chosen
 */
async function openVideo(name, url, chosen) {
  const video = document.createElement('video');
  video.muted = true;
  video.loop = true;
  video.playsInline = true;
  video.src = url;
  await video.play();
  const closeVideo = () => {
    video.pause();
    video.removeAttribute('src');
    video.load();
    URL.revokeObjectURL(url);
  };
  const sentHeight = () => Math.min(video.videoWidth, video.videoHeight);
  const player = /** @type {HTMLVideoElement & { captureStream?: () => MediaStream, mozCaptureStream?: () => MediaStream }} */ (video);
  // The element's own stream keeps flowing in a hidden tab, where a canvas stands still.
  const stream = player.captureStream?.() ?? player.mozCaptureStream?.();
  if (stream) {
    const track = stream.getVideoTracks()[0] ?? (await firstTrack(stream));
    return fileSource({ name, chosen, track, sentHeight, close: closeVideo });
  }
  const drawn = drawRepeatedly(() => video, sentHeight() === 0 ? chosen : { width: video.videoWidth, height: video.videoHeight }, chosen);
  return fileSource({ name, chosen, track: drawn.track, sentHeight: drawn.sentHeight, close: () => { drawn.stop(); closeVideo(); } });
}

/**
 * @param {string} name
 * @param {string} url
 * @param {Size} chosen
 */
async function openPicture(name, url, chosen) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const size = { width: image.naturalWidth || chosen.width, height: image.naturalHeight || chosen.height };
  const drawn = drawRepeatedly(() => image, size, chosen);
  return fileSource({ name, chosen, track: drawn.track, sentHeight: drawn.sentHeight, close: () => { drawn.stop(); URL.revokeObjectURL(url); } });
}

/** Firefox adds the captured track a little after the stream. @param {MediaStream} stream @returns {Promise<MediaStreamTrack>} */
function firstTrack(stream) {
  return new Promise((resolve, reject) => {
    const limit = setTimeout(() => reject(new Error('the file has no picture')), 5000);
    stream.addEventListener('addtrack', ({ track }) => {
      if (track.kind !== 'video') return;
      clearTimeout(limit);
      resolve(track);
    });
  });
}

/**
 * A canvas track that repeats what `pick` shows, scaled down to fit `chosen`, sides even since
 * chroma is halved.
 * @param {() => CanvasImageSource} pick
 * @param {Size} size
 * @param {Size} chosen
 */
function drawRepeatedly(pick, size, chosen) {
  const scale = Math.min(1, Math.max(chosen.width, chosen.height) / Math.max(size.width, size.height));
  const canvas = document.createElement('canvas');
  canvas.width = Math.max(2, Math.round((size.width * scale) / 2) * 2);
  canvas.height = Math.max(2, Math.round((size.height * scale) / 2) * 2);
  const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d', { alpha: false }));
  const draw = () => context.drawImage(pick(), 0, 0, canvas.width, canvas.height);
  draw();
  const timer = setInterval(draw, 1000 / FRAMES_PER_SECOND);
  const [track] = canvas.captureStream(FRAMES_PER_SECOND).getVideoTracks();
  return { track, sentHeight: () => Math.min(canvas.width, canvas.height), stop: () => clearInterval(timer) };
}

/**
 * @param {{ name: string, chosen: Size, track: MediaStreamTrack, sentHeight: () => number, close: () => void }} parts
 * @returns {Source}
 */
function fileSource({ name, chosen, track, sentHeight, close }) {
  return {
    kind: 'file',
    name,
    deviceId: '',
    isFrontal: false,
    chosen,
    stream: new MediaStream([track]),
    track,
    sentHeight,
    close: () => {
      track.stop();
      close();
    },
  };
}

/** Luma below this, of 255, is what a covered lens gives; a dark room is well above. */
const BLACK_LUMA = 14;

/** Tells whether a video shows nothing but black, by a thumbnail of it. */
export class BlackWatch {
  #context = new OffscreenCanvas(16, 12).getContext('2d', { willReadFrequently: true });

  /** @param {HTMLVideoElement} video */
  isBlack(video) {
    if (!this.#context || video.readyState < HTMLMediaElement.HAVE_CURRENT_DATA || video.videoWidth === 0) return false;
    this.#context.drawImage(video, 0, 0, 16, 12);
    const { data } = this.#context.getImageData(0, 0, 16, 12);
    for (let i = 0; i < data.length; i += 4) {
      if (0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2] > BLACK_LUMA) return false;
    }
    return true;
  }
}
