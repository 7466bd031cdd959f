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
use crate::commands::recognition::{Recognition, cores};
use crate::files::video::{self, Engines, VideoOptions};
use crate::frame::I420Buffer;
use crate::load::clip::Clip;
use crate::models::manifest::Task;
use crate::telemetry::metrics::Metrics;

/// Pictures a second, medians of the rounds.
#[derive(Clone, Debug, Serialize)]
pub struct Throughput {
    pictures: u64,
    /// `vigie annotate`: everything in every picture.
    annotated_fps: f64,
    /// Decoding and encoding alone, with the same settings.
    codec_fps: f64,
    /// FFmpeg's own program with the same settings, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    ffmpeg_fps: Option<f64>,
    /// Bare loops over the detectors alone, on inputs made beforehand, with no picture decoded.
    bare_fps: f64,
    /// Codec and bare loops at the same time, on the same cores, until both are through.
    beside_fps: f64,
    /// Annotated over the slower of codec and bare loops, each with the machine to itself.
    ratio_to_slower_alone: f64,
    /// Annotated over both at the same time.
    ratio_to_both: f64,
    rounds: Vec<Round>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Round {
    annotated_fps: f64,
    codec_fps: f64,
    ffmpeg_fps: Option<f64>,
    bare_fps: f64,
    beside_fps: f64,
}

pub fn measure(args: &FilesArgs, folder: &Path) -> anyhow::Result<Throughput> {
    let pictures = args.pictures;
    println!("\n{pictures} pictures of 1920x1080, faces + gender + objects in each");
    let path = folder.join("source.mp4");
    source::write(&path, pictures)?;
    let recognition = Recognition::load(&args.inference, &Arc::new(Metrics::new()))?;
    let engines =
        Engines { handle: recognition.handle(), models: recognition.models(), lanes: recognition.lanes() };
    let mut loops = BareLoops::load(&args.inference, &bare::decode(&Clip::built_in())?)?;
    let is_detector = |task: Task| task != Task::Gender;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        let fps = |time: Duration| pictures as f64 / time.as_secs_f64();
        let codec_fps = fps(recode(&path, folder)?);
        let ffmpeg_fps = ffmpeg(&path, folder)?.map(fps);
        let bare_fps = fps(loops.time(pictures, is_detector)?);
        let began = Instant::now();
        std::thread::scope(|scope| {
            let recoding = scope.spawn(|| recode(&path, folder));
            loops.time(pictures, is_detector)?;
            recoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let beside_fps = fps(began.elapsed());
        let began = Instant::now();
        let target = folder.join("annotated.mp4");
        let options = VideoOptions::default();
        let summary =
            video::annotate(&path, &target, &engines, &options, &mut |_| ControlFlow::Continue(()))?;
        ensure!(summary.recognised == pictures, "{} of {pictures} were recognised", summary.recognised);
        rounds.push(Round {
            annotated_fps: fps(began.elapsed()),
            codec_fps,
            ffmpeg_fps,
            bare_fps,
            beside_fps,
        });
    }
    let measured = summarise(pictures, rounds);
    print(&measured);
    Ok(measured)
}

fn summarise(pictures: u64, rounds: Vec<Round>) -> Throughput {
    let median = |of: fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (annotated_fps, codec_fps) = (median(|round| round.annotated_fps), median(|round| round.codec_fps));
    let (bare_fps, beside_fps) = (median(|round| round.bare_fps), median(|round| round.beside_fps));
    let has_ffmpeg = rounds.iter().all(|round| round.ffmpeg_fps.is_some());
    Throughput {
        pictures,
        annotated_fps,
        codec_fps,
        ffmpeg_fps: has_ffmpeg.then(|| median(|round| round.ffmpeg_fps.unwrap_or_default())),
        bare_fps,
        beside_fps,
        ratio_to_slower_alone: annotated_fps / codec_fps.min(bare_fps),
        ratio_to_both: annotated_fps / beside_fps,
        rounds,
    }
}

fn print(measured: &Throughput) {
    println!("  annotated                {:>7.1} fps", measured.annotated_fps);
    println!("  decoded and encoded      {:>7.1} fps", measured.codec_fps);
    if let Some(fps) = measured.ffmpeg_fps {
        println!("  by FFmpeg's own program  {fps:>7.1} fps");
    }
    println!("  bare detectors           {:>7.1} fps", measured.bare_fps);
    println!("  both at the same time    {:>7.1} fps", measured.beside_fps);
    println!("  annotated / slower alone {:>7.2}", measured.ratio_to_slower_alone);
    println!("  annotated / both         {:>7.2}", measured.ratio_to_both);
}

/// Decodes and encodes a file by the same code as a video's path, one beside the other.
fn recode(path: &Path, folder: &Path) -> anyhow::Result<Duration> {
    let began = Instant::now();
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
        for (picture, at) in take {
            canvas.copy_from(&picture);
            drop(picture);
            writer.write(&canvas, at)?;
        }
        decoding.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    writer.finish()?;
    Ok(began.elapsed())
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
