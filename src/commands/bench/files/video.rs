//! Pictures a second through a whole file, and through each of the two things that it consists of.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::Serialize;

use super::{FilesArgs, source};
use crate::codec::{Piece, VideoConfig, VideoFile, VideoWriter};
use crate::commands::bench::bare::{self, BareLoops};
use crate::commands::bench::machine::cpu_seconds;
use crate::commands::recognition::Recognition;
use crate::commands::service::cores;
use crate::files::video::{self, Engines, VideoOptions};
use crate::frame::{BBox, I420Buffer, Picture};
use crate::models::traffic::Slot;
use crate::pipeline::draw::{DrawnTrack, draw, label_of};
use crate::pipeline::report::TrackReport;
use crate::telemetry::metrics::Metrics;

/// Pictures a second, medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    pictures: u64,
    /// Runs of the gender model: settled faces are not asked about.
    genders: u64,
    /// `vigie annotate`: everything in every picture.
    annotated_fps: f64,
    /// Decoding and encoding alone, with the same settings.
    codec_fps: f64,
    /// The same with the same boxes and labels drawn, which make pictures dearer to encode.
    drawn_codec_fps: f64,
    /// FFmpeg's own program with the same settings, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    ffmpeg_fps: Option<f64>,
    /// Bare loops over the same runs of the same models, on inputs made beforehand of the same pictures.
    bare_fps: f64,
    /// Codec, drawing as well, and bare loops at the same time, on the same cores, until both are through.
    beside_fps: f64,
    /// Processor time of annotating a picture, and of codec and bare loops at the same time.
    annotated_cpu_ms: f64,
    beside_cpu_ms: f64,
    /// Annotated over the slower of codec and bare loops, each with the machine to itself.
    ratio_to_slower_alone: f64,
    /// Annotated over both at the same time.
    ratio_to_both: f64,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    annotated: Pace,
    codec: Pace,
    drawn_codec: Pace,
    ffmpeg_fps: Option<f64>,
    bare: Pace,
    beside: Pace,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Pace {
    fps: f64,
    /// Processor time of this process a picture.
    cpu_ms: f64,
}

impl Pace {
    fn of(pictures: u64, run: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let (began, cpu_before) = (Instant::now(), cpu_seconds());
        run()?;
        let pictures = pictures as f64;
        let (seconds, cpu_seconds) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu_before);
        Ok(Self { fps: pictures / seconds, cpu_ms: cpu_seconds * 1000.0 / pictures })
    }
}

pub fn measure(args: &FilesArgs, folder: &Path) -> anyhow::Result<Throughput> {
    let pictures = args.pictures;
    println!("\n{pictures} pictures of 1920x1080, faces + gender + objects in each");
    let path = folder.join("source.mp4");
    source::write(&path, pictures)?;
    let recognition = Recognition::load(&args.inference, &Arc::new(Metrics::new()), false)?;
    let engines =
        Engines { handle: recognition.handle(), models: recognition.models(), lanes: recognition.lanes() };
    let mut loops = BareLoops::load(&args.inference, &some_of(&path, pictures)?)?;
    let gender = engines.models.find(&Slot::Gender).context("there is no gender model")?;
    let asked = || gender.figures.tally().runs;
    let mut genders = 0;
    let mut drawn = Vec::new();
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let asked_before = asked();
        drawn.clear();
        let annotated = Pace::of(pictures, || annotate(&path, folder, &engines, &mut drawn))?;
        genders = asked() - asked_before;
        ensure!(drawn.len() as u64 == pictures, "{} of {pictures} were recognised", drawn.len());
        let codec = Pace::of(pictures, || recode(&path, folder, &[]))?;
        let drawn_codec = Pace::of(pictures, || recode(&path, folder, &drawn))?;
        let ffmpeg_fps = ffmpeg(&path, folder)?.map(|time| pictures as f64 / time.as_secs_f64());
        let bare = Pace::of(pictures, || loops.run(pictures, genders))?;
        let beside = Pace::of(pictures, || {
            std::thread::scope(|scope| {
                let recoding = scope.spawn(|| recode(&path, folder, &drawn));
                loops.run(pictures, genders)?;
                recoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
        })?;
        rounds.push(Round { annotated, codec, drawn_codec, ffmpeg_fps, bare, beside });
    }
    let measured = summarise(pictures, genders, rounds);
    print(&measured);
    Ok(measured)
}

fn summarise(pictures: u64, genders: u64, rounds: Vec<Round>) -> Throughput {
    let median = |of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (annotated_fps, codec_fps) = (median(|round| round.annotated.fps), median(|round| round.codec.fps));
    let (bare_fps, beside_fps) = (median(|round| round.bare.fps), median(|round| round.beside.fps));
    let has_ffmpeg = rounds.iter().all(|round| round.ffmpeg_fps.is_some());
    Throughput {
        pictures,
        genders,
        annotated_fps,
        codec_fps,
        drawn_codec_fps: median(|round| round.drawn_codec.fps),
        ffmpeg_fps: has_ffmpeg.then(|| median(|round| round.ffmpeg_fps.unwrap_or_default())),
        bare_fps,
        beside_fps,
        annotated_cpu_ms: median(|round| round.annotated.cpu_ms),
        beside_cpu_ms: median(|round| round.beside.cpu_ms),
        ratio_to_slower_alone: annotated_fps / codec_fps.min(bare_fps),
        ratio_to_both: annotated_fps / beside_fps,
        rounds,
    }
}

fn print(measured: &Throughput) {
    println!(
        "  annotated                {:>7.1} fps, {:.1} ms of CPU a picture",
        measured.annotated_fps, measured.annotated_cpu_ms
    );
    println!("  decoded and encoded      {:>7.1} fps", measured.codec_fps);
    println!("  the same, drawn on       {:>7.1} fps", measured.drawn_codec_fps);
    if let Some(fps) = measured.ffmpeg_fps {
        println!("  by FFmpeg's own program  {fps:>7.1} fps");
    }
    println!("  bare models              {:>7.1} fps, {} genders asked", measured.bare_fps, measured.genders);
    println!(
        "  both at the same time    {:>7.1} fps, {:.1} ms of CPU a picture",
        measured.beside_fps, measured.beside_cpu_ms
    );
    println!("  annotated / slower alone {:>7.2}", measured.ratio_to_slower_alone);
    println!("  annotated / both         {:>7.2}", measured.ratio_to_both);
}

/// Some pictures of a file, as evenly as those of a [`Clip`](crate::load::clip::Clip).
fn some_of(path: &Path, pictures: u64) -> anyhow::Result<Vec<Picture>> {
    let mut file = VideoFile::open(path, video::decoder_threads(cores()))?;
    let step = pictures as usize / bare::PICTURES;
    let (mut index, mut some) = (0, Vec::new());
    while let Some(piece) = file.read()? {
        if let Piece::Picture(picture, _) = piece {
            if index % step == 0 {
                some.push(picture);
            }
            index += 1;
        }
    }
    Ok(some)
}

/// Annotates a file as `vigie annotate` does, and tells what it drew on each picture.
fn annotate(
    path: &Path,
    folder: &Path,
    engines: &Engines,
    drawn: &mut Vec<Vec<DrawnTrack>>,
) -> anyhow::Result<()> {
    let of = |track: &TrackReport| {
        let [x, y, w, h] = track.bbox;
        // Any colour will do.
        DrawnTrack { bbox: BBox { x, y, w, h }, label: label_of(track), colour: track.id as usize }
    };
    let (target, options) = (folder.join("annotated.mp4"), VideoOptions::default());
    video::annotate(path, &target, engines, &options, &mut |progress| {
        drawn.extend(progress.report.map(|report| report.tracks.iter().map(of).collect()));
        ControlFlow::Continue(())
    })?;
    Ok(())
}

/// Decodes and encodes a file by the same code as a video's path, one beside the other, with `drawn` on its pictures.
fn recode(path: &Path, folder: &Path, drawn: &[Vec<DrawnTrack>]) -> anyhow::Result<()> {
    let mut file = VideoFile::open(path, video::decoder_threads(cores()))?;
    let info = *file.info();
    let config = VideoConfig {
        width: info.width,
        height: info.height,
        rate: info.rate,
        pixel_aspect: info.pixel_aspect,
        threads: video::encoder_threads(cores()),
    };
    let mut writer = VideoWriter::create(&folder.join("recoded.mp4"), &config, None)?;
    std::thread::scope(|scope| {
        let (give, take) = sync_channel(2);
        let decoding = scope.spawn(move || -> anyhow::Result<()> {
            while let Some(piece) = file.read()? {
                if let Piece::Picture(picture, at) = piece {
                    give.send((picture, at)).context("the encoder has failed")?;
                }
            }
            Ok(())
        });
        let mut canvas = I420Buffer::black(info.width, info.height);
        for (index, (picture, at)) in take.into_iter().enumerate() {
            canvas.copy_from(&picture);
            drop(picture);
            draw(&mut canvas, drawn.get(index).map_or(&[], Vec::as_slice));
            writer.write(&canvas, at)?;
        }
        decoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(writer.finish()?)
}

/// The same by FFmpeg's own program; `None` where there is none.
fn ffmpeg(path: &Path, folder: &Path) -> anyhow::Result<Option<Duration>> {
    let began = Instant::now();
    let (decoder, encoder) = (video::decoder_threads(cores()), video::encoder_threads(cores()));
    let child = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-threads", &decoder.to_string(), "-i"])
        .arg(path)
        .args(["-an", "-c:v", "libx264", "-preset", "veryfast", "-crf", "21", "-bf", "1", "-g", "120"])
        .args(["-x264-params", "rc-lookahead=4:sliced-threads=1", "-threads", &encoder.to_string()])
        .arg(folder.join("ffmpeg.mp4"))
        .stdout(Stdio::null())
        .status();
    match child {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context("running ffmpeg"),
        Ok(status) => {
            ensure!(status.success(), "ffmpeg could not recode {}", path.display());
            Ok(Some(began.elapsed()))
        }
    }
}
