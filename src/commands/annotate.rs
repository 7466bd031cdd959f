//! `vigie annotate`: pictures and video files in, annotated ones out; no server is needed.

mod findings;
mod inputs;
mod sink;

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};

use self::findings::Findings;
use self::sink::Sink;
use super::recognition::Recognition;
use crate::cli::InferenceArgs;
use crate::codec::{self, FileError};
use crate::files::image::{self, Format};
use crate::files::still::{self, Wanted};
use crate::files::video::{self, AudioOutcome, Engines, Summary, VideoError, VideoOptions};
use crate::pipeline::recognise::{Recogniser, Tasks};
use crate::telemetry::metrics::Metrics;

#[derive(Clone, Debug, Args)]
pub struct AnnotateArgs {
    /// Pictures (JPEG, PNG, WebP, BMP, TIFF, GIF, AVIF), videos (MP4, MOV, WebM, Matroska, AVI, MPEG-TS),
    /// folders of them, or patterns such as 'clips/**/*.mp4'.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for the annotated files, or with one input the file itself.
    #[arg(short, long)]
    pub output: PathBuf,
    /// Write what was found: one JSON object a recognised picture, and one with a summary a video; - prints it.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write what was found: one line a detection; - prints it.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// In videos, recognise every so many pictures; boxes are carried over those between.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// What to look for, comma-separated; gender takes faces with it. Text is read where it is asked for, here or with
    /// --cascade.
    #[arg(long, value_enum, value_delimiter = ',', default_values = ["faces", "gender", "objects"])]
    pub tasks: Vec<TaskName>,
    /// Least score of what is reported, 0 to 1; without it, each model's own.
    #[arg(long)]
    pub threshold: Option<f32>,
    #[command(flatten)]
    pub inference: InferenceArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TaskName {
    Faces,
    Gender,
    Objects,
    Text,
}

/// Naming what text is to be read on asks for it, too.
fn tasks_of(names: &[TaskName], reads_text: bool) -> Tasks {
    let wanted = |name| names.contains(&name);
    let gender = wanted(TaskName::Gender);
    Tasks {
        faces: gender || wanted(TaskName::Faces),
        gender,
        objects: wanted(TaskName::Objects),
        text: reads_text || wanted(TaskName::Text),
    }
}

/// The user has asked to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: what was not whole was removed")]
pub struct Interrupted;

/// Annotates every input; one that cannot be read keeps none of the others from it.
pub fn run(args: &AnnotateArgs) -> anyhow::Result<()> {
    if args.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
        bail!("--threshold is not between 0 and 1");
    }
    let interrupted = listen_for_interrupts()?;
    let inputs = inputs::expand(&args.inputs)?;
    let is_folder = args.output.is_dir() || inputs.len() > 1 || args.inputs[0].is_dir();
    if is_folder {
        std::fs::create_dir_all(&args.output).with_context(|| format!("making {}", args.output.display()))?;
    }
    let metrics = Arc::new(Metrics::new());
    let recognition = Recognition::load(&args.inference, &metrics, args.tasks.contains(&TaskName::Text))?;
    let tasks = tasks_of(&args.tasks, recognition.models().is_told_of_text());
    if tasks.text && !recognition.models().can_read() {
        bail!(
            "no models that read text are in {}: `vigie models pull ocr` fetches them",
            args.inference.models.display()
        );
    }
    let annotator = Annotator {
        engines: Engines {
            handle: recognition.handle(),
            models: recognition.models(),
            lanes: recognition.lanes(),
        },
        options: VideoOptions {
            tasks,
            every: args.every,
            threshold: args.threshold,
            ..VideoOptions::default()
        },
        output: args.output.clone(),
        is_folder,
        taken: BTreeSet::new(),
        findings: Findings::create(args.json.as_deref(), args.csv.as_deref())?,
        interrupted,
        screen: Screen::new(inputs.len()),
        totals: Totals::default(),
    };
    annotator.annotate_all(&inputs)
}

/// The flag that Ctrl-C and SIGTERM set; a second one ends the process at once.
fn listen_for_interrupts() -> anyhow::Result<Arc<AtomicBool>> {
    let interrupted = Arc::new(AtomicBool::new(false));
    for (signal, status) in [(SIGINT, 130), (SIGTERM, 143)] {
        // In this order: the first sets what the second would look at.
        signal_hook::flag::register_conditional_shutdown(signal, status, Arc::clone(&interrupted))?;
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    Ok(interrupted)
}

/// What the whole run came to.
#[derive(Default)]
struct Totals {
    pictures: usize,
    videos: usize,
    frames: u64,
    failed: usize,
}

struct Annotator {
    engines: Engines,
    options: VideoOptions,
    output: PathBuf,
    is_folder: bool,
    /// Targets of inputs before this one.
    taken: BTreeSet<PathBuf>,
    findings: Findings,
    interrupted: Arc<AtomicBool>,
    screen: Screen,
    totals: Totals,
}

impl Annotator {
    fn annotate_all(mut self, inputs: &[PathBuf]) -> anyhow::Result<()> {
        let started = Instant::now();
        for input in inputs {
            if let Err(error) = self.annotate(input) {
                // No other file will find room either, or be wanted.
                if error.is::<Interrupted>() || is_full(&error) {
                    self.screen.clear();
                    return Err(error.context(input.display().to_string()));
                }
                self.totals.failed += 1;
                self.screen.say(&format!("vigie: {}: {error:#}", input.display()));
            }
            self.screen.file_done();
        }
        self.screen.clear();
        self.findings.finish()?;
        let Totals { pictures, videos, frames, failed } = self.totals;
        if inputs.len() > 1 {
            let seconds = started.elapsed().as_secs_f64();
            eprintln!(
                "{pictures} pictures, {videos} videos with {frames} frames, {failed} failed, in {seconds:.1} s"
            );
        }
        match failed {
            0 => Ok(()),
            _ => bail!("{failed} of {} files could not be annotated", inputs.len()),
        }
    }

    fn annotate(&mut self, input: &Path) -> anyhow::Result<()> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(Interrupted.into());
        }
        let start = codec::first_bytes(input)?;
        let is_picture = image::is_picture(&start);
        let target = if self.is_folder {
            let stem = input.file_stem().unwrap_or_default().to_string_lossy();
            let is_jpeg = start.starts_with(&[0xff, 0xd8]);
            let extension = match (is_picture, is_jpeg) {
                (false, _) => "mp4",
                (true, true) => "jpg",
                (true, false) => "png",
            };
            self.output.join(format!("{stem}-annotated.{extension}"))
        } else {
            self.output.clone()
        };
        if target.canonicalize().is_ok_and(|target| input.canonicalize().is_ok_and(|input| input == target)) {
            bail!("it would be overwritten by its own annotated copy");
        }
        if !self.taken.insert(target.clone()) {
            bail!("{} was written for another input already", target.display());
        }
        if is_picture { self.picture(input, &target) } else { self.video(input, &target) }
    }

    fn picture(&mut self, input: &Path, target: &Path) -> anyhow::Result<()> {
        let length = std::fs::metadata(input)?.len();
        if length > image::MAX_BYTES as u64 {
            bail!("{length} bytes are more than a picture may have, {}", image::MAX_BYTES);
        }
        let picture = image::decode(&std::fs::read(input)?)?;
        let wanted = Wanted { tasks: self.options.tasks, threshold: self.options.threshold };
        let mut recogniser = Recogniser::new(self.engines.handle.clone(), self.engines.models.clone(), 0);
        let found = still::recognise(&mut recogniser, &picture, &wanted)?;
        let is_png = target.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let format = if is_png { Format::Png } else { Format::Jpeg };
        let bytes = image::encode(&found.annotated(&picture), format)?;
        let written = Sink::open(target).and_then(|mut sink| {
            sink.write_all(&bytes)?;
            sink.keep()
        });
        written.with_context(|| format!("writing {}", target.display()))?;
        self.findings.picture(input, &found.report)?;
        self.totals.pictures += 1;
        self.screen.say(&format!("{}: {} found", target.display(), found.report.detections.len()));
        Ok(())
    }

    fn video(&mut self, input: &Path, target: &Path) -> anyhow::Result<()> {
        let bar = self.screen.video(&input.file_name().unwrap_or_default().to_string_lossy());
        let (findings, interrupted) = (&mut self.findings, &self.interrupted);
        let mut outcome = Ok(());
        let annotated = video::annotate(input, target, &self.engines, &self.options, &mut |progress| {
            if bar.length() == Some(0) {
                let seconds = progress.info.duration.unwrap_or_default().as_secs_f64();
                bar.set_length((seconds * progress.info.rate).round().max(1.0) as u64);
            }
            bar.set_position(progress.frames);
            if let Some(report) = progress.report {
                outcome = findings.frame(input, progress.at.as_secs_f64(), report);
            }
            if outcome.is_ok() && !interrupted.load(Ordering::Relaxed) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        bar.finish_and_clear();
        outcome.context("writing what was found")?;
        let summary = annotated.map_err(|error| match error {
            VideoError::Cancelled => anyhow::Error::new(Interrupted),
            error => error.into(),
        })?;
        self.findings.summary(input, &summary)?;
        self.totals.videos += 1;
        self.totals.frames += summary.frames;
        self.screen.say(&told(target, &summary));
        Ok(())
    }
}

/// Whether it was a full disk that ended the work.
fn is_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let file = match cause.downcast_ref::<VideoError>() {
            Some(VideoError::File(file)) => Some(file),
            _ => cause.downcast_ref::<FileError>(),
        };
        let kind = cause.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
        file.is_some_and(FileError::is_full)
            || kind.is_some_and(|kind| {
                use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
                matches!(kind, StorageFull | QuotaExceeded | FileTooLarge)
            })
    })
}

/// The summary of a video for people.
fn told(target: &Path, summary: &Summary) -> String {
    let counts: Vec<_> = summary.counts.iter().map(|(label, count)| format!("{count} {label}")).collect();
    let found = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    let mut lines = vec![format!(
        "{}: {} pictures, {:.1} s, {} recognised: {found}",
        target.display(),
        summary.frames,
        summary.duration_s,
        summary.recognised
    )];
    if summary.cut_off {
        lines.push("the file is cut off: what is there was annotated".into());
    }
    if let Some(reason) = &summary.stopped {
        lines.push(format!("the rest was not annotated: {reason}"));
    }
    if summary.damaged_frames > 0 {
        lines.push(format!("{} damaged frames gave no picture", summary.damaged_frames));
    }
    if summary.rescaled_frames > 0 {
        lines.push(format!(
            "{} pictures of another size were brought to the first's",
            summary.rescaled_frames
        ));
    }
    if summary.audio == AudioOutcome::LeftOut {
        lines.push("MP4 cannot hold its audio: it was left out".into());
    }
    lines.join("\n  ")
}

/// Progress bars, and lines that do not tear them; bars show on a terminal only.
struct Screen {
    bars: MultiProgress,
    /// Of the files, where there are several.
    files: Option<ProgressBar>,
}

impl Screen {
    fn new(files: usize) -> Self {
        let bars = MultiProgress::new();
        let style = "{wide_bar} {pos}/{len} files, {elapsed}";
        let files = (files > 1).then(|| bars.add(styled(ProgressBar::new(files as u64), style)));
        Self { bars, files }
    }

    fn video(&self, name: &str) -> ProgressBar {
        let style = "{msg} {wide_bar} {pos}/{len} pictures, {per_sec}, {eta} left";
        let bar = self.bars.insert(0, ProgressBar::new(0));
        styled(bar, style).with_message(name.to_owned())
    }

    fn file_done(&self) {
        if let Some(files) = &self.files {
            files.inc(1);
        }
    }

    fn say(&self, line: &str) {
        self.bars.suspend(|| eprintln!("{line}"));
    }

    fn clear(&self) {
        if let Some(files) = &self.files {
            files.finish_and_clear();
        }
    }
}

fn styled(bar: ProgressBar, style: &str) -> ProgressBar {
    bar.with_style(ProgressStyle::with_template(style).expect("the template is well-formed"))
}
