//! `vigie bench limits`: what this machine can do at the most, stage by stage, in plain loops with nothing around them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::bare::{self, decode_next};
use super::machine::{self, Machine, cpu_seconds};
use crate::codec::{Decoder, Encoder, EncoderConfig, Speed};
use crate::frame::{BBox, Codec, I420Buffer, Picture};
use crate::load::clip::Clip;
use crate::models::manifest::Task;
use crate::pipeline::draw::{DrawnTrack, Plates, draw_with};

#[derive(Clone, Debug, Args)]
pub struct LimitsArgs {
    /// Seconds of each loop.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Leave the models out.
    #[arg(long)]
    video_only: bool,
    /// Write the figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(flatten)]
    inference: crate::cli::InferenceArgs,
}

#[derive(Serialize)]
struct Report {
    machine: Machine,
    loops: usize,
    limits: Vec<Limit>,
}

/// One kind of loop, on every core at the same time.
#[derive(Serialize)]
struct Limit {
    name: &'static str,
    /// All loops together.
    per_second: f64,
    cpu_ms_each: f64,
}

/// The bit rate of an annotated track of 640x480.
const KBPS: u32 = 1198;
/// As many as a core carries in a service: each has a decoder and an encoder of its own, which the others' turns drive
/// from the caches.
const STREAMS_A_LOOP: usize = 10;

pub fn run(args: &LimitsArgs) -> anyhow::Result<()> {
    let duration = Duration::from_secs(args.seconds.max(1));
    let machine = machine::describe();
    let clip = Arc::new(Clip::built_in());
    let pictures = Arc::new(decode_all(&clip)?);
    let loops = crate::commands::service::cores();
    println!("{loops} loops beside each other, 640x480, load before {:.2}", machine.load_before);
    let mut limits = Vec::new();
    let mut note = |limit: Limit| {
        println!(
            "  {:<32} {:>8.1} a second, {:>7.3} ms of CPU each",
            limit.name, limit.per_second, limit.cpu_ms_each
        );
        limits.push(limit);
    };
    note(measure("decode VP8", loops, duration, || {
        let (clip, mut decoder) = (Arc::clone(&clip), Decoder::open(Codec::Vp8, 1)?);
        Ok(move |index: usize| decode_next(&mut decoder, &clip, index).map(drop))
    })?);
    for (name, codec) in [("draw and encode H264", Codec::H264), ("draw and encode VP8", Codec::Vp8)] {
        note(measure(name, loops, duration, || {
            let (pictures, mut annotator) = (Arc::clone(&pictures), Annotator::open(codec)?);
            Ok(move |index: usize| annotator.show(&pictures[index % pictures.len()], index))
        })?);
    }
    for (name, streams) in
        [("decode, draw and encode H264", 1), ("the same, many streams in turns", STREAMS_A_LOOP)]
    {
        note(measure(name, loops, duration, || {
            let clip = Arc::clone(&clip);
            let open = |number| Stream::open(&clip, number * clip.frames.len() / streams);
            let mut streams = (0..streams).map(open).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(move |index: usize| {
                let turn = index % streams.len();
                streams[turn].step(&clip)
            })
        })?);
    }
    if !args.video_only {
        measure_models(args, &clip, duration, &mut note)?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&Report { machine, loops, limits })?;
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

/// Bare loops of the models.
fn measure_models(
    args: &LimitsArgs,
    clip: &Clip,
    duration: Duration,
    note: &mut impl FnMut(Limit),
) -> anyhow::Result<()> {
    let mut lanes = bare::BareLoops::load(&args.inference, &bare::decode(clip)?)?;
    let is_detector = |task| task != Task::Gender;
    let (all, detectors) = ("faces, objects and gender", "faces and objects");
    for (name, runs) in [(all, None), (detectors, Some(is_detector as fn(Task) -> bool))] {
        let before = cpu_seconds();
        let began = Instant::now();
        let per_second = lanes.rate(duration, |task| runs.is_none_or(|runs| runs(task)))?;
        let done = per_second * began.elapsed().as_secs_f64();
        note(Limit { name, per_second, cpu_ms_each: (cpu_seconds() - before) * 1000.0 / done.max(1.0) });
    }
    Ok(())
}

/// Runs what `open` gives on `loops` threads at once.
fn measure<L: FnMut(usize) -> anyhow::Result<()> + Send>(
    name: &'static str,
    loops: usize,
    duration: Duration,
    open: impl Fn() -> anyhow::Result<L>,
) -> anyhow::Result<Limit> {
    let done = AtomicU64::new(0);
    let steps = (0..loops).map(|_| open()).collect::<anyhow::Result<Vec<_>>>()?;
    let (began, before) = (Instant::now(), cpu_seconds());
    let run = |mut step: L| -> anyhow::Result<()> {
        for index in 0.. {
            if began.elapsed() >= duration {
                break;
            }
            step(index)?;
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = steps.into_iter().map(|step| scope.spawn(move || run(step))).collect();
        let ended = threads.into_iter().map(|thread| thread.join().expect("a loop does not panic"));
        ended.collect::<anyhow::Result<Vec<()>>>()
    })?;
    let done = done.load(Ordering::Relaxed) as f64;
    let per_second = done / began.elapsed().as_secs_f64();
    Ok(Limit { name, per_second, cpu_ms_each: (cpu_seconds() - before) * 1000.0 / done.max(1.0) })
}

/// What a session's media thread has.
struct Stream {
    decoder: Decoder,
    annotator: Annotator,
    next: usize,
}

impl Stream {
    /// Stands at the frame `first` of the clip.
    fn open(clip: &Clip, first: usize) -> anyhow::Result<Self> {
        let mut decoder = Decoder::open(Codec::Vp8, 1)?;
        (0..first).try_for_each(|index| decode_next(&mut decoder, clip, index).map(drop))?;
        Ok(Self { decoder, annotator: Annotator::open(Codec::H264)?, next: first })
    }

    fn step(&mut self, clip: &Clip) -> anyhow::Result<()> {
        let picture = decode_next(&mut self.decoder, clip, self.next)?;
        self.annotator.show(&picture, self.next)?;
        self.next += 1;
        Ok(())
    }
}

fn decode_all(clip: &Clip) -> anyhow::Result<Vec<Picture>> {
    let mut decoder = Decoder::open(Codec::Vp8, 1)?;
    (0..clip.frames.len()).map(|index| decode_next(&mut decoder, clip, index)).collect()
}

/// What the media thread does with a picture, for three tracks.
struct Annotator {
    encoder: Encoder,
    canvas: I420Buffer,
    drawn: Vec<DrawnTrack>,
    plates: Plates,
}

impl Annotator {
    fn open(codec: Codec) -> anyhow::Result<Self> {
        let (width, height) = (640, 480);
        let config = EncoderConfig {
            codec,
            width,
            height,
            bitrate_kbps: KBPS,
            fps_hint: 30,
            threads: 1,
            speed: Speed::default(),
        };
        let track = |index: usize| DrawnTrack {
            bbox: BBox { x: 60.0 + 150.0 * index as f32, y: 90.0, w: 160.0, h: 220.0 },
            label: format!("#{index} face female 93%"),
            colour: index,
        };
        let (canvas, drawn) = (I420Buffer::black(width, height), (0..3).map(track).collect());
        Ok(Self { encoder: Encoder::open(config)?, canvas, drawn, plates: Plates::default() })
    }

    fn show(&mut self, picture: &Picture, index: usize) -> anyhow::Result<()> {
        self.canvas.copy_from(picture);
        draw_with(&mut self.plates, &mut self.canvas, &self.drawn);
        self.encoder.encode(&self.canvas, index as u32 * 3000, index == 0)?;
        Ok(())
    }
}
