//! `vigie annotate`: pictures and video files in, annotated ones out; no server is needed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::recognition::Recognition;
use crate::cli::InferenceArgs;
use crate::codec;
use crate::files::image::{self, Format};
use crate::files::still::{self, StillReport, Wanted};
use crate::files::video::{self, AudioOutcome, Engines, Summary, VideoOptions};
use crate::pipeline::recognise::{Recogniser, Tasks};
use crate::pipeline::report::{Attributes, FrameReport};
use crate::telemetry::metrics::Metrics;

#[derive(Clone, Debug, Args)]
pub struct AnnotateArgs {
    /// Pictures (JPEG, PNG, WebP, BMP, TIFF, GIF), videos (MP4, MOV, WebM, Matroska, AVI, MPEG-TS), or
    /// folders of them.
    #[arg(required = true)]
    pub inputs: Vec<PathBuf>,
    /// Folder for the annotated files, or with one input the file itself.
    #[arg(short, long)]
    pub output: PathBuf,
    /// Write what was found: one JSON object a recognised picture, and one with a summary a video.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write what was found: one line a detection.
    #[arg(long, value_name = "FILE")]
    pub csv: Option<PathBuf>,
    /// In videos, recognise every so many pictures; boxes are carried over those between.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub every: u64,
    /// Least score of what is reported, 0 to 1; without it, each model's own.
    #[arg(long)]
    pub threshold: Option<f32>,
    #[command(flatten)]
    pub inference: InferenceArgs,
}

/// Annotates every input; one that cannot be read keeps none of the others from it.
pub fn run(args: &AnnotateArgs) -> anyhow::Result<()> {
    if args.threshold.is_some_and(|threshold| !(0.0..=1.0).contains(&threshold)) {
        bail!("--threshold is not between 0 and 1");
    }
    let inputs = expand(&args.inputs)?;
    let is_folder = args.output.is_dir() || inputs.len() > 1 || args.inputs[0].is_dir();
    if is_folder {
        std::fs::create_dir_all(&args.output).with_context(|| format!("making {}", args.output.display()))?;
    }
    let metrics = Arc::new(Metrics::new());
    let recognition = Recognition::load(&args.inference, &metrics)?;
    let mut annotator = Annotator {
        engines: Engines {
            handle: recognition.handle(),
            models: recognition.models(),
            lanes: recognition.lanes(),
            first_asker: 0,
        },
        threshold: args.threshold,
        every: args.every,
        findings: Findings::create(args.json.as_deref(), args.csv.as_deref())?,
    };
    let mut taken = BTreeSet::new();
    let mut failed = 0;
    for input in &inputs {
        let done = annotator.annotate(input, &args.output, is_folder, &mut taken);
        if let Err(error) = done {
            failed += 1;
            eprintln!("vigie: {}: {error:#}", input.display());
        }
    }
    annotator.findings.finish()?;
    match failed {
        0 => Ok(()),
        _ => bail!("{failed} of {} files could not be annotated", inputs.len()),
    }
}

/// The inputs, with folders replaced by the files in them.
fn expand(inputs: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            files.push(input.clone());
            continue;
        }
        let reading = || format!("reading {}", input.display());
        let entries = std::fs::read_dir(input).with_context(reading)?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path())).collect::<Result<Vec<_>, _>>();
        let mut found = paths.with_context(reading)?;
        found.retain(|path| path.is_file());
        found.sort();
        files.extend(found);
    }
    if files.is_empty() {
        bail!("there are no files to annotate");
    }
    Ok(files)
}

struct Annotator {
    engines: Engines,
    threshold: Option<f32>,
    every: u64,
    findings: Findings,
}

impl Annotator {
    fn annotate(
        &mut self,
        input: &Path,
        output: &Path,
        is_folder: bool,
        taken: &mut BTreeSet<PathBuf>,
    ) -> anyhow::Result<()> {
        let start = codec::first_bytes(input)?;
        let is_picture = image::is_picture(&start);
        let target = if is_folder {
            let stem = input.file_stem().unwrap_or_default().to_string_lossy();
            let is_jpeg = start.starts_with(&[0xff, 0xd8]);
            let extension = if !is_picture {
                "mp4"
            } else if is_jpeg {
                "jpg"
            } else {
                "png"
            };
            output.join(format!("{stem}-annotated.{extension}"))
        } else {
            output.to_owned()
        };
        if target.canonicalize().is_ok_and(|target| input.canonicalize().is_ok_and(|input| input == target)) {
            bail!("it would be overwritten by its own annotated copy");
        }
        if !taken.insert(target.clone()) {
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
        let wanted = Wanted { tasks: Tasks::ALL, threshold: self.threshold };
        let mut recogniser = Recogniser::new(self.engines.handle.clone(), self.engines.models.clone(), 0);
        let found = still::recognise(&mut recogniser, &picture, &wanted)?;
        let is_png = target.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png"));
        let format = if is_png { Format::Png } else { Format::Jpeg };
        let bytes = image::encode(&found.annotated(&picture), format)?;
        std::fs::write(target, bytes).with_context(|| format!("writing {}", target.display()))?;
        eprintln!("{}: {} found", target.display(), found.report.detections.len());
        self.findings.picture(input, &found.report)
    }

    fn video(&mut self, input: &Path, target: &Path) -> anyhow::Result<()> {
        let options = VideoOptions { tasks: Tasks::ALL, every: self.every, threshold: self.threshold };
        let bar = ProgressBar::new(0);
        let style = "{msg} {wide_bar} {pos}/{len} pictures, {per_sec}, {eta} left";
        bar.set_style(ProgressStyle::with_template(style).expect("the template is well-formed"));
        bar.set_message(input.file_name().unwrap_or_default().to_string_lossy().into_owned());
        let findings = &mut self.findings;
        let mut outcome = Ok(());
        let annotated = video::annotate(input, target, &self.engines, &options, &mut |progress| {
            if bar.length() == Some(0) {
                let seconds = progress.info.duration.unwrap_or_default().as_secs_f64();
                bar.set_length((seconds * progress.info.rate).round().max(1.0) as u64);
            }
            bar.set_position(progress.frames);
            if let (Some(report), Ok(())) = (progress.report, &outcome) {
                outcome = findings.frame(input, progress.at.as_secs_f64(), report);
            }
            if outcome.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        bar.finish_and_clear();
        outcome?;
        let summary = annotated?;
        self.findings.summary(input, &summary)?;
        tell(target, &summary);
        Ok(())
    }
}

/// The summary of a video for people.
fn tell(target: &Path, summary: &Summary) {
    let counts: Vec<_> = summary.counts.iter().map(|(label, count)| format!("{count} {label}")).collect();
    let found = if counts.is_empty() { "nothing".to_owned() } else { counts.join(", ") };
    eprintln!(
        "{}: {} pictures, {:.1} s, {} recognised: {found}",
        target.display(),
        summary.frames,
        summary.duration_s,
        summary.recognised
    );
    if summary.cut_off {
        eprintln!("  the file is cut off: what is there was annotated");
    }
    if let Some(reason) = &summary.stopped {
        eprintln!("  the rest was not annotated: {reason}");
    }
    if summary.damaged_frames > 0 {
        eprintln!("  {} damaged frames gave no picture", summary.damaged_frames);
    }
    if summary.audio == AudioOutcome::LeftOut {
        eprintln!("  MP4 cannot hold its audio: it was left out");
    }
}

/// Where what was found is written.
#[derive(Default)]
struct Findings {
    json: Option<BufWriter<File>>,
    csv: Option<BufWriter<File>>,
}

/// A line of the JSON file.
#[derive(Serialize)]
struct Line<'a, T> {
    file: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time_s: Option<f64>,
    #[serde(flatten)]
    found: &'a T,
}

/// The line that ends a video.
#[derive(Serialize)]
struct Closing<'a> {
    summary: &'a Summary,
}

impl Findings {
    fn create(json: Option<&Path>, csv: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: Option<&Path>| -> anyhow::Result<Option<BufWriter<File>>> {
            let Some(path) = path else { return Ok(None) };
            let file = File::create(path).with_context(|| format!("writing {}", path.display()))?;
            Ok(Some(BufWriter::new(file)))
        };
        let mut findings = Self { json: open(json)?, csv: open(csv)? };
        if let Some(csv) = &mut findings.csv {
            writeln!(csv, "file,time_s,id,kind,label,score,x,y,w,h,apparent_gender,gender_score")?;
        }
        Ok(findings)
    }

    fn line<T: Serialize>(&mut self, file: &Path, time_s: Option<f64>, found: &T) -> anyhow::Result<()> {
        if let Some(json) = &mut self.json {
            serde_json::to_writer(&mut *json, &Line { file: &file.to_string_lossy(), time_s, found })?;
            json.write_all(b"\n")?;
        }
        Ok(())
    }

    fn picture(&mut self, file: &Path, report: &StillReport) -> anyhow::Result<()> {
        self.line(file, None, report)?;
        let Some(csv) = &mut self.csv else { return Ok(()) };
        for found in &report.detections {
            let row = row(
                file,
                "",
                "",
                found.kind.name(),
                &found.label,
                found.score,
                &found.bbox,
                &found.attributes,
            );
            writeln!(csv, "{row}")?;
        }
        Ok(())
    }

    fn frame(&mut self, file: &Path, time_s: f64, report: &FrameReport) -> anyhow::Result<()> {
        self.line(file, Some(time_s), report)?;
        let Some(csv) = &mut self.csv else { return Ok(()) };
        for track in &report.tracks {
            let (time, id) = (format!("{time_s:.3}"), track.id.to_string());
            let row = row(
                file,
                &time,
                &id,
                track.kind.name(),
                &track.label,
                track.score,
                &track.bbox,
                &track.attributes,
            );
            writeln!(csv, "{row}")?;
        }
        Ok(())
    }

    fn summary(&mut self, file: &Path, summary: &Summary) -> anyhow::Result<()> {
        self.line(file, None, &Closing { summary })
    }

    fn finish(self) -> anyhow::Result<()> {
        for mut writer in [self.json, self.csv].into_iter().flatten() {
            writer.flush().context("writing what was found")?;
        }
        Ok(())
    }
}

/// One line of the CSV file (RFC 4180).
#[allow(clippy::too_many_arguments, reason = "the columns of the file, in their order")]
fn row(
    file: &Path,
    time: &str,
    id: &str,
    kind: &str,
    label: &str,
    score: f32,
    bbox: &[f32; 4],
    attributes: &Attributes,
) -> String {
    let gender = attributes
        .apparent_gender
        .map(|gender| (format!("{:?}", gender.label).to_lowercase(), format!("{:.3}", gender.score)));
    let (gender, gender_score) = gender.unwrap_or_default();
    let mut cells = vec![quoted(&file.to_string_lossy()), time.into(), id.into(), kind.into(), quoted(label)];
    cells.push(format!("{score:.3}"));
    cells.extend(bbox.iter().map(|side| format!("{side:.1}")));
    cells.extend([gender, gender_score]);
    cells.join(",")
}

fn quoted(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_where_they_must_be() {
        let bbox = [1.0, 2.04, 3.0, 4.0];
        let row =
            row(Path::new("a,\"b\".jpg"), "", "7", "object", "cup", 0.71234, &bbox, &Attributes::default());
        assert_eq!(row, "\"a,\"\"b\"\".jpg\",,7,object,cup,0.712,1.0,2.0,3.0,4.0,,");
    }
}
