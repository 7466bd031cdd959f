//! A video file into an annotated one: every picture decoded, recognised, tracked, drawn on and encoded.
//!
//! The same stages as in a live session, overlapped on threads with bounded queues between them:
//!
//! ```text
//! decode ─┬──────────── every picture, in order ────────────▶ track, draw ─▶ encode
//!         └─ those to recognise ─▶ detect, one thread a lane ─────▲
//! ```
//!
//! Everything waits for what comes after it, and no picture is dropped. How many pictures are in memory
//! depends on the lanes and not on the file.

mod follower;
mod summary;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

pub use self::summary::{AudioOutcome, Summary, TrackSummary};

use self::follower::Follower;
use self::summary::Ending;
use crate::codec::{
    AudioPacket, FileError, MAX_PIXELS, Piece, VideoConfig, VideoFile, VideoInfo, VideoWriter,
};
use crate::frame::{I420Buffer, Picture};
use crate::inference::batcher::BACKGROUND;
use crate::inference::engine::EngineError;
use crate::inference::service::{Handle, lowest_priority};
use crate::models::traffic::Slot;
use crate::pipeline::follow::track_config;
use crate::pipeline::recognise::{Found, MinScores, ModelSet, RecogniseError, Recogniser, Tasks};
use crate::pipeline::report::FrameReport;

/// Pictures and packets that wait for the encoder.
const ENCODER_QUEUE: usize = 1;
/// Pictures that are decoded beyond those that the lanes are at, so that a lane finds the next one ready.
const AHEAD: usize = 2;
/// How far apart the pictures are that lanes work on at the same time, at most.
const MAX_GROUP: u64 = 4;
/// Slices that the encoder works on side by side: more make files larger.
const MAX_ENCODER_THREADS: usize = 4;
/// Decoding takes a fraction of encoding's time.
const MAX_DECODER_THREADS: usize = 4;
/// Threads that ask the lanes under one number, as in [`desk`](super::desk).
const THREADS_PER_ASKER: usize = 4;
/// Askers of videos count from here, in the background: sessions count from 1, posted pictures from far above.
const FIRST_ASKER: u64 = BACKGROUND;
/// How long a video waits when the lanes' queue is full.
const OVERLOAD_PAUSE: Duration = Duration::from_millis(20);

/// Why a video was not annotated.
#[derive(Debug, thiserror::Error)]
pub enum VideoError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("a picture was not recognised")]
    Recognise(#[from] RecogniseError),
    #[error("not one picture in it could be decoded")]
    NoPictures,
    #[error("its pictures have {width}x{height} pixels, more than the {max_pixels} that are allowed")]
    TooLarge { width: usize, height: usize, max_pixels: usize },
    #[error("it lasts {:.0} s, longer than the {:.0} s that are allowed", duration.as_secs_f64(), limit.as_secs_f64())]
    TooLong { duration: Duration, limit: Duration },
    #[error("it was cancelled")]
    Cancelled,
}

impl VideoError {
    /// The stable code under which users are told.
    pub fn code(&self) -> &'static str {
        match self {
            Self::File(error) => error.code(),
            Self::NoPictures => "corrupt",
            Self::TooLarge { .. } => "too_large",
            Self::TooLong { .. } => "too_long",
            Self::Cancelled => "cancelled",
            Self::Recognise(RecogniseError::NoModel(_)) => "no_model",
            Self::Recognise(_) => "internal",
        }
    }
}

/// How a video is annotated.
#[derive(Clone, Copy, Debug)]
pub struct VideoOptions {
    pub tasks: Tasks,
    /// Recognise every so many pictures, at least 1; boxes are carried over those between.
    pub every: u64,
    /// 0 to 1; without one, each model's own.
    pub threshold: Option<f32>,
    /// Larger pictures are refused.
    pub max_pixels: usize,
    /// Longer videos are refused, by what they say of themselves and by what they turn out to be.
    pub max_duration: Option<Duration>,
    /// Decode, draw and encode at the lowest priority, so that live sessions go first.
    pub background: bool,
}

impl Default for VideoOptions {
    /// The usual in every picture, of any length.
    fn default() -> Self {
        Self {
            tasks: Tasks::USUAL,
            every: 1,
            threshold: None,
            max_pixels: MAX_PIXELS,
            max_duration: None,
            background: false,
        }
    }
}

/// What recognises pictures.
pub struct Engines {
    pub handle: Handle,
    pub models: ModelSet,
    pub lanes: usize,
}

/// How far a video has come.
#[derive(Debug)]
pub struct Progress<'a> {
    pub info: &'a VideoInfo,
    /// Pictures done, this one included.
    pub frames: u64,
    /// This picture's media time.
    pub at: Duration,
    /// Of a picture that was recognised.
    pub report: Option<&'a FrameReport>,
}

/// Is told of every picture, and may end the work by a [`Break`](ControlFlow::Break).
pub type Each<'a> = dyn FnMut(&Progress<'_>) -> ControlFlow<()> + Send + 'a;

/// What was found in a picture, and how long it waited for its turn.
type Outcome = (Result<Found, RecogniseError>, Duration);

/// A decoded picture; `found` brings what is in it if that was asked.
struct Decoded {
    picture: Picture,
    at: Duration,
    found: Option<Receiver<Outcome>>,
}

/// A picture to recognise, and where the answer goes.
struct Asked {
    picture: Picture,
    answer: SyncSender<Outcome>,
}

enum Output {
    Picture(I420Buffer, Duration),
    Audio(AudioPacket),
}

/// Writes `source` annotated to `target`, an MP4 file, and tells `each` of every picture.
///
/// What is left of a file that was cut off is annotated, and the summary says so.
///
/// # Errors
/// [`VideoError`]; nothing is left at `target` then.
pub fn annotate(
    source: &Path,
    target: &Path,
    engines: &Engines,
    options: &VideoOptions,
    each: &mut Each<'_>,
) -> Result<Summary, VideoError> {
    if !options.background {
        return annotate_here(source, target, engines, options, each);
    }
    // Threads inherit their priority, FFmpeg's and x264's too, and none can raise it again: so the
    // caller's own is left alone.
    thread::scope(|scope| {
        let lowered = scope.spawn(|| {
            lowest_priority();
            annotate_here(source, target, engines, options, each)
        });
        joined(lowered)
    })
}

fn annotate_here(
    source: &Path,
    target: &Path,
    engines: &Engines,
    options: &VideoOptions,
    each: &mut Each<'_>,
) -> Result<Summary, VideoError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let mut file = VideoFile::open(source, decoder_threads(cores))?;
    let info = *file.info();
    check(&info, options)?;
    if options.tasks.text && !engines.models.can_read() {
        return Err(RecogniseError::NoModel(Slot::TextRead).into());
    }
    let audio = file.audio().map_err(FileError::from)?;
    let config = VideoConfig {
        width: info.width,
        height: info.height,
        rate: info.rate,
        pixel_aspect: info.pixel_aspect,
        threads: encoder_threads(cores),
    };
    let mut writer = VideoWriter::create(target, &config, audio.as_ref())?;
    let audio = match (info.has_audio, writer.has_audio()) {
        (false, _) => AudioOutcome::None,
        (true, true) => AudioOutcome::Copied,
        (true, false) => AudioOutcome::LeftOut,
    };
    let lanes = engines.lanes.max(1);
    let askers = Askers::for_video(lanes);
    // One file is recognised by the same models from its beginning to its end.
    let models = engines.models.pinned();
    let recogniser = |asker: u64| Recogniser::new(engines.handle.clone(), models.clone(), asker);
    let config = track_config(&models, &options.tasks, options.threshold);
    let scores = MinScores { faces: Some(config.faces.low_score), objects: Some(config.objects.low_score) };
    let ahead = (lanes - 1) * options.every.clamp(1, MAX_GROUP) as usize + AHEAD;

    thread::scope(|scope| {
        let (to_follow, decoded) = sync_channel(ahead);
        let (to_detect, asked) = sync_channel(lanes);
        let (output, outputs) = sync_channel(ENCODER_QUEUE);
        let (used, spare) = sync_channel(ENCODER_QUEUE + 1);
        let encoding = scope.spawn(move || write_all(&outputs, &used, &mut writer).map(|()| writer));
        let asked = std::sync::Arc::new(Mutex::new(asked));
        for index in 0..lanes {
            let (asked, mut recogniser) = (asked.clone(), recogniser(askers.of_thread(index)));
            let tasks = options.tasks;
            scope.spawn(move || detect_all(&asked, &mut recogniser, &tasks, &scores));
        }
        drop(asked);
        let to_encode = output.clone();
        let decoding = scope.spawn(move || read_all(&mut file, &to_detect, &to_follow, &to_encode, options));
        let mut follower = Follower::new(recogniser(askers.of_follower()), config, &info);
        // The queues end with this call, whatever its outcome, and so do the other threads.
        let followed = follower.run(decoded, output, spare, each);
        let ending = joined(decoding);
        let writer = joined(encoding)?;
        followed?;
        if let Some(error @ VideoError::TooLong { .. }) = ending.stopped {
            return Err(error);
        }
        if follower.frames() == 0 {
            return Err(ending.stopped.unwrap_or(VideoError::NoPictures));
        }
        writer.finish()?;
        Ok(follower.summary(&ending, audio))
    })
}

/// Threads that decode a file on a machine of so many cores.
pub fn decoder_threads(cores: usize) -> usize {
    cores.div_ceil(2).min(MAX_DECODER_THREADS)
}

/// Threads that encode a file on a machine of so many cores.
pub fn encoder_threads(cores: usize) -> usize {
    cores.min(MAX_ENCODER_THREADS)
}

/// What is known to be too much before anything is decoded.
fn check(info: &VideoInfo, options: &VideoOptions) -> Result<(), VideoError> {
    let (width, height, max_pixels) = (info.width, info.height, options.max_pixels);
    if width * height > max_pixels {
        return Err(VideoError::TooLarge { width, height, max_pixels });
    }
    check_time(info.duration.unwrap_or_default(), options)
}

fn check_time(duration: Duration, options: &VideoOptions) -> Result<(), VideoError> {
    match options.max_duration {
        Some(limit) if duration > limit => Err(VideoError::TooLong { duration, limit }),
        _ => Ok(()),
    }
}

fn joined<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// The numbers under which one video asks the lanes.
struct Askers {
    first: u64,
    count: u64,
}

impl Askers {
    fn for_video(lanes: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(FIRST_ASKER);
        let count = lanes.div_ceil(THREADS_PER_ASKER) as u64 + 1;
        Self { first: NEXT.fetch_add(count, Ordering::Relaxed), count }
    }

    fn of_thread(&self, index: usize) -> u64 {
        self.first + (index / THREADS_PER_ASKER) as u64
    }

    /// Its own, because every picture waits for the follower.
    fn of_follower(&self) -> u64 {
        self.first + self.count - 1
    }
}

/// Decodes to the end, and deals the pictures out.
fn read_all(
    file: &mut VideoFile,
    to_detect: &SyncSender<Asked>,
    to_follow: &SyncSender<Decoded>,
    to_encode: &SyncSender<Output>,
    options: &VideoOptions,
) -> Ending {
    let mut index = 0;
    let mut ending = Ending::default();
    loop {
        let is_taken = match file.read() {
            Ok(Some(Piece::Picture(picture, at))) => {
                if let Err(error) = check_time(at, options) {
                    ending.stopped = Some(error);
                    break;
                }
                let is_wanted = u64::is_multiple_of(index, options.every.max(1));
                index += 1;
                let found = is_wanted.then(|| ask(&picture, to_detect));
                to_follow.send(Decoded { picture, at, found }).is_ok()
            }
            Ok(Some(Piece::Audio(packet))) => to_encode.send(Output::Audio(packet)).is_ok(),
            Ok(None) => break,
            Err(error) => {
                ending.stopped = Some(error.into());
                break;
            }
        };
        // Whoever comes after has failed, or was told to end.
        if !is_taken {
            break;
        }
    }
    ending.cut_off = file.is_cut_off();
    ending.damaged = file.damaged();
    ending.rescaled = file.rescaled();
    ending
}

/// Without threads to detect nothing is found, and whoever waits for it sees that.
fn ask(picture: &Picture, to_detect: &SyncSender<Asked>) -> Receiver<Outcome> {
    let (answer, found) = sync_channel(1);
    let _ = to_detect.send(Asked { picture: picture.clone(), answer });
    found
}

fn detect_all(
    asked: &Mutex<Receiver<Asked>>,
    recogniser: &mut Recogniser,
    tasks: &Tasks,
    scores: &MinScores,
) {
    loop {
        let next = asked.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Asked { picture, answer }) = next else { return };
        let queue = picture.decoded.elapsed();
        let found = patiently(|| recogniser.detect(&picture, tasks, scores));
        // Dropped first: the picture's memory is the decoder's.
        drop(picture);
        if answer.send((found, queue)).is_err() {
            return;
        }
    }
}

/// Tries again for as long as the lanes' queue is full: a file waits.
fn patiently<T>(mut attempt: impl FnMut() -> Result<T, RecogniseError>) -> Result<T, RecogniseError> {
    loop {
        match attempt() {
            Err(RecogniseError::Infer { source: EngineError::Overloaded, .. }) => {
                thread::sleep(OVERLOAD_PAUSE);
            }
            outcome => return outcome,
        }
    }
}

fn write_all(
    outputs: &Receiver<Output>,
    used: &SyncSender<I420Buffer>,
    writer: &mut VideoWriter,
) -> Result<(), FileError> {
    for output in outputs {
        match output {
            Output::Picture(picture, at) => {
                writer.write(&picture, at)?;
                // One that is not taken is freed.
                let _ = used.try_send(picture);
            }
            Output::Audio(packet) => writer.write_audio(&packet)?,
        }
    }
    Ok(())
}

/// The time of a stage for a report.
fn ms(duration: Duration) -> f32 {
    duration.as_secs_f32() * 1000.0
}

/// The time that a stage took from `started`.
fn ms_since(started: Instant) -> f32 {
    ms(started.elapsed())
}
