//! Streams replayed from memory through the threads of live sessions, more and more of them.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, mpsc, watch};

use super::GpuArgs;
use crate::codec::{Decoder, Encoder, EncoderConfig, Speed, Unit};
use crate::commands::bench::bare::decode_next;
use crate::commands::bench::machine::cpu_seconds;
use crate::commands::bench::summary::Percentiles;
use crate::commands::recognition::{Recognition as Models, load_runtime};
use crate::frame::{Codec, EncodedFrame, I420Buffer, Picture};
use crate::live::audience::Audience;
use crate::live::ingest::FRAME_CAPACITY;
use crate::live::media::{Media, Timed};
use crate::live::peer::Feedback;
use crate::live::recognition::Recognition;
use crate::live::settings::{Settings, TaskSwitches};
use crate::load::clip::Clip;
use crate::mailbox::Latest;
use crate::pipeline::recognise::Recogniser;
use crate::pipeline::report::{FrameReport, Timings};
use crate::pipeline::track::Tracks;
use crate::telemetry::metrics::{Metrics, Stage};

const RATE: f64 = 30.0;
/// From when every stream has been recognised once.
const WARM_UP: Duration = Duration::from_secs(1);
/// Until then, at most: decoders take their time to open on a GPU.
const LONGEST_START: Duration = Duration::from_secs(20);
/// A stream is held when its pictures are recognised at this rate.
const HELD_FPS: f64 = 29.0;
/// Milliseconds from a frame's arrival to its report within which 95 of 100 are.
const HELD_P95_MS: f64 = 75.0;
/// Bits a pixel and second of the streams: 4 Mbit/s at 1080p.
const BITS_PER_PIXEL: f64 = 2.0;

/// Width and height in pixels, as `640x480`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(usize, usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sides = text.split_once('x').and_then(|(w, h)| Some((w.parse().ok()?, h.parse().ok()?)));
        match sides {
            Some((width, height)) if (16..=4096).contains(&width) && (16..=2160).contains(&height) => {
                Ok(Self(width, height))
            }
            _ => Err(format!("{text:?} is no size from 16x16 to 4096x2160")),
        }
    }
}

/// What became of some streams at the same time.
#[derive(Clone, Debug, Serialize)]
pub struct Held {
    /// What was recognised.
    tasks: String,
    /// What decoded.
    decoded_by: String,
    width: usize,
    height: usize,
    streams: usize,
    /// Until every stream had been recognised once.
    start_seconds: f64,
    /// Every stream was recognised at 29 pictures a second or more, 95 of 100 within 75 ms.
    held: bool,
    /// Of all streams together.
    recognised_fps: f64,
    /// Of the stream that came off worst.
    least_fps: f64,
    /// From a frame's arrival to its report.
    server_ms: Percentiles,
    decode_ms: Percentiles,
    queue_ms: Percentiles,
    prepare_ms: Percentiles,
    infer_ms: Percentiles,
    track_ms: Percentiles,
    /// Rows of a run of a model, on average.
    mean_batch: f64,
    /// Pictures that were replaced before their turn came, and frames that were not decoded.
    dropped: u64,
    cpu_cores: f64,
}

pub fn measure(args: &GpuArgs, tasks: &[TaskSwitches]) -> anyhow::Result<Vec<Held>> {
    let metrics = Arc::new(Metrics::new());
    let began = Instant::now();
    let models = Models::load(&args.inference, &metrics, false)?;
    let runtime = load_runtime(&args.inference)?;
    let loaded = began.elapsed();
    while runtime.is_making_shapes() {
        std::thread::sleep(Duration::from_millis(100));
    }
    println!(
        "\nmodels loaded in {:.1} s, every shape ready after {:.1} s",
        loaded.as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    let decode = args.inference.decode.as_str();
    let units: &[&str] = if decode == "cpu" { &["cpu"] } else { &["cpu", decode] };
    let mut measured = Vec::new();
    for &size in &args.sizes {
        let clip = Arc::new(encode(size)?);
        let tasks = || args.tasks.iter().zip(tasks);
        for (&unit, (named, &tasks)) in units.iter().flat_map(|unit| std::iter::repeat(unit).zip(tasks())) {
            println!("\n{}x{} H264 at {RATE:.0} fps, decoded by {unit}: {named}", size.0, size.1);
            let (clip, decodes_on) = (Arc::clone(&clip), unit.parse()?);
            let replay =
                Replay { models: &models, metrics: &metrics, clip, size, named, tasks, unit, decodes_on };
            for &count in &args.streams {
                let held = replay.run(count, Duration::from_secs(args.seconds))?;
                println!(
                    "  {:>3} streams {} recognised {:>7.1} fps, least {:>5.1}, server p50 {:>5.1} p95 {:>6.1} ms (decode \
                     {:.1}, queue {:.1}, prepare {:.1}, infer {:.1}), batch {:>5.2}, dropped {}, {:.1} cores",
                    held.streams,
                    if held.held { "held    " } else { "not held" },
                    held.recognised_fps,
                    held.least_fps,
                    held.server_ms.p50,
                    held.server_ms.p95,
                    held.decode_ms.p50,
                    held.queue_ms.p50,
                    held.prepare_ms.p50,
                    held.infer_ms.p50,
                    held.mean_batch,
                    held.dropped,
                    held.cpu_cores
                );
                measured.push(held);
            }
        }
    }
    Ok(measured)
}

/// What is replayed, and by what.
struct Replay<'a> {
    models: &'a Models,
    metrics: &'a Arc<Metrics>,
    clip: Arc<Vec<Bytes>>,
    size: Size,
    named: &'a str,
    tasks: TaskSwitches,
    unit: &'a str,
    decodes_on: Unit,
}

impl Replay<'_> {
    fn run(&self, count: usize, duration: Duration) -> anyhow::Result<Held> {
        let goes_on = Arc::new(AtomicBool::new(true));
        let start = Instant::now() + Duration::from_millis(100);
        let streams: Vec<Stream> = (0..count)
            .map(|index| {
                // Cameras are not in step with each other.
                let offset = Duration::from_secs_f64(index as f64 / count as f64 / RATE);
                Stream::start(self, index, start + offset, &goes_on)
            })
            .collect::<anyhow::Result<_>>()?;
        let have_begun = || streams.iter().all(|stream| stream.has_begun.load(Ordering::Relaxed));
        while !have_begun() && start.elapsed() < LONGEST_START {
            std::thread::sleep(Duration::from_millis(10));
        }
        let start_seconds = start.elapsed().as_secs_f64();
        std::thread::sleep(WARM_UP);
        let (began, cpu, before) = (Instant::now(), cpu_seconds(), self.counts());
        std::thread::sleep(duration);
        let (ended, cpu, after) = (Instant::now(), cpu_seconds() - cpu, self.counts());
        goes_on.store(false, Ordering::Relaxed);
        let seconds = (ended - began).as_secs_f64();
        let (mut each, mut timings) = (Vec::new(), Vec::new());
        for stream in streams {
            let before = timings.len();
            let counted = stream.end().into_iter().filter(|(at, _)| (began..ended).contains(at));
            timings.extend(counted.map(|(_, report)| report.timings_ms));
            each.push((timings.len() - before) as f64 / seconds);
        }
        let stage = |of: fn(&Timings) -> f32| {
            Percentiles::of_ms(timings.iter().map(|timings| f64::from(of(timings))))
        };
        let server_ms = stage(|timings| timings.total);
        let least_fps = each.iter().copied().fold(f64::INFINITY, f64::min);
        Ok(Held {
            tasks: self.named.to_owned(),
            decoded_by: self.unit.to_owned(),
            width: self.size.0,
            height: self.size.1,
            streams: count,
            start_seconds,
            held: least_fps >= HELD_FPS && server_ms.p95 <= HELD_P95_MS,
            recognised_fps: each.iter().sum(),
            least_fps,
            server_ms,
            decode_ms: stage(|timings| timings.decode),
            queue_ms: stage(|timings| timings.queue),
            prepare_ms: stage(|timings| timings.prepare),
            infer_ms: stage(|timings| timings.infer),
            track_ms: stage(|timings| timings.track),
            mean_batch: (after.rows - before.rows) / (after.runs - before.runs).max(1) as f64,
            dropped: after.dropped - before.dropped,
            cpu_cores: cpu / seconds,
        })
    }

    fn counts(&self) -> Counts {
        let dropped =
            |stage: Stage| self.metrics.frames_dropped_total.with_label_values(&[stage.name()]).get();
        Counts {
            rows: self.metrics.inference_batch_size.get_sample_sum(),
            runs: self.metrics.inference_batch_size.get_sample_count(),
            dropped: dropped(Stage::Decode) + dropped(Stage::Queue),
        }
    }
}

/// What the metrics have counted.
struct Counts {
    /// Of the models' runs.
    rows: f64,
    runs: u64,
    dropped: u64,
}

/// A session's threads, one that sends what a camera would, and one that reads the reports.
struct Stream {
    pictures: Latest<Timed>,
    audience: Option<Arc<Audience>>,
    has_begun: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    reader: JoinHandle<Vec<(Instant, FrameReport)>>,
}

impl Stream {
    fn start(
        replay: &Replay<'_>,
        index: usize,
        start: Instant,
        goes_on: &Arc<AtomicBool>,
    ) -> anyhow::Result<Self> {
        let &Replay { models, metrics, ref clip, tasks, decodes_on, .. } = replay;
        let (frame_sender, frames) = std::sync::mpsc::sync_channel(FRAME_CAPACITY);
        let (tracks_sender, tracks) = watch::channel(Tracks::default());
        let (notices, _) = mpsc::channel(1);
        let (_, settings) = watch::channel(Settings { tasks, ..Settings::default() });
        let (pictures, audience) = (Latest::default(), Audience::new(0));
        let media = Media {
            decodes_on,
            frames,
            pictures: pictures.clone(),
            key_wanted: Arc::new(Notify::new()),
            tracks,
            audience: Arc::clone(&audience),
            notices: notices.clone(),
            metrics: Arc::clone(metrics),
        };
        let recognition = Recognition {
            pictures: pictures.clone(),
            recogniser: Recogniser::new(models.handle(), models.models(), index as u64 + 1),
            settings,
            readers: None,
            tracks: tracks_sender,
            audience: Arc::clone(&audience),
            notices,
            feedback: Feedback::default(),
            metrics: Arc::clone(metrics),
        };
        let mut reports = audience.reports();
        let has_begun = Arc::new(AtomicBool::new(false));
        let begun = Arc::clone(&has_begun);
        let read = move || {
            let mut read = Vec::new();
            loop {
                match reports.blocking_recv() {
                    Ok(json) => {
                        let report = serde_json::from_str(&json).expect("a report is a report");
                        read.push((Instant::now(), report));
                        begun.store(true, Ordering::Relaxed);
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return read,
                }
            }
        };
        let (clip, goes_on) = (Arc::clone(clip), Arc::clone(goes_on));
        let send = move || send(&frame_sender, &clip, index * 7, start, &goes_on);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        Ok(Self {
            pictures,
            audience: Some(audience),
            has_begun,
            threads: vec![
                thread("vigie-media").spawn(move || media.run())?,
                thread("vigie-recogniti").spawn(move || recognition.run())?,
                thread("camera").spawn(send)?,
            ],
            reader: thread("reader").spawn(read)?,
        })
    }

    /// Ends the threads, whose camera has been told to, and gives the reports with when they were read.
    fn end(mut self) -> Vec<(Instant, FrameReport)> {
        self.pictures.close();
        for thread in self.threads {
            thread.join().expect("a session's thread does not panic");
        }
        self.audience = None;
        self.reader.join().expect("reports are read without a panic")
    }
}

/// Sends the clip at its rate, over and over, from frame `first` on.
fn send(
    frames: &SyncSender<EncodedFrame>,
    clip: &[Bytes],
    first: usize,
    start: Instant,
    goes_on: &AtomicBool,
) {
    let first = (first % clip.len()) as u32;
    for number in 0_u32.. {
        let index = number as usize % clip.len();
        // A decoder begins at a key frame: what comes before the first is sent at once, and belongs to the warm-up.
        let due = start + Duration::from_secs_f64(f64::from(number.saturating_sub(first)) / RATE);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        if !goes_on.load(Ordering::Relaxed) {
            return;
        }
        let frame = EncodedFrame {
            codec: Codec::H264,
            data: clip[index].clone(),
            rtp_timestamp: number.wrapping_mul(3000),
            is_key: index == 0,
            received: Instant::now(),
        };
        if frames.send(frame).is_err() {
            return;
        }
    }
}

/// The built-in clip at another size, as H264.
fn encode(Size(width, height): Size) -> anyhow::Result<Vec<Bytes>> {
    let clip = Clip::built_in();
    let mut decoder = Decoder::open(Codec::Vp8, 1)?;
    let mut encoder = Encoder::open(EncoderConfig {
        codec: Codec::H264,
        width,
        height,
        bitrate_kbps: ((width * height) as f64 * BITS_PER_PIXEL / 1000.0) as u32,
        fps_hint: RATE as u32,
        threads: 1,
        speed: Speed::default(),
    })?;
    let mut canvas = I420Buffer::black(width, height);
    let mut frames = Vec::with_capacity(clip.frames.len());
    for index in 0..clip.frames.len() {
        let picture = decode_next(&mut decoder, &clip, index)?;
        stretch(&picture, &mut canvas);
        let encoded = encoder.encode(&canvas, index as u32 * 3000, index == 0)?;
        frames.push(encoded.context("the encoder drops no frame")?.data);
    }
    Ok(frames)
}

/// Fills the canvas with the picture, each of its pixels being the nearest one.
fn stretch(picture: &Picture, canvas: &mut I420Buffer) {
    for index in 0..3 {
        let from = picture.planes.plane(index);
        let (rows, width, height) = canvas.plane_mut(index);
        for (y, row) in rows.chunks_exact_mut(width).enumerate() {
            let line = &from.data[y * from.height / height * from.stride..][..from.width];
            for (x, to) in row.iter_mut().enumerate() {
                *to = line[x * from.width / width];
            }
        }
    }
}
