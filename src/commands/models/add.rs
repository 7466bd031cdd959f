//! `vigie models add` and `remove`: models of a person's own.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::print_table;
use crate::commands::recognition::library_at;
use crate::models::check::MAX_FILE_BYTES;
use crate::models::heads::names;
use crate::models::heads::recognise::{FitWish, Wishes};
use crate::models::intake::{Admitted, Candidate, Intake, PICTURE, Refusal, name_from};
use crate::models::manifest::{Channels, Head, Provenance, Task};
use crate::models::store::Store;
use crate::models::trial::Limits;

#[derive(Clone, Debug, Args)]
pub struct AddArgs {
    /// The ONNX file.
    pub file: PathBuf,
    /// What the model is to be called; without it, as the file is.
    #[arg(long)]
    pub name: Option<String>,
    /// What it is for: faces, objects or classes; without it, what its outputs say.
    #[arg(long)]
    pub task: Option<Task>,
    /// How its outputs are to be read, where that cannot be told from them.
    #[arg(long)]
    pub head: Option<Head>,
    /// Its classes in their order: a text file with one a line, or a list separated by commas.
    #[arg(long)]
    pub labels: Option<String>,
    /// Pixels of its input where the file leaves them free, such as 640 or 640x384.
    #[arg(long, value_parser = parse_size)]
    pub size: Option<(u32, u32)>,
    /// The order of colours in its input.
    #[arg(long, value_enum)]
    pub channels: Option<ChannelOrder>,
    /// What is taken from pixels (0 to 255): one number, or one for each channel.
    #[arg(long, value_parser = parse_three)]
    pub mean: Option<[f32; 3]>,
    /// What pixels are then divided by, likewise.
    #[arg(long, value_parser = parse_three)]
    pub std: Option<[f32; 3]>,
    /// How pictures of other proportions are brought to its input.
    #[arg(long, value_enum)]
    pub fit: Option<FitOption>,
    /// Least score of what is reported, 0 to 1.
    #[arg(long)]
    pub score: Option<f32>,
    /// Overlap from which only the better of two boxes is kept, 0 to 1.
    #[arg(long)]
    pub iou: Option<f32>,
    /// Where the file comes from, for those who read the manifest later.
    #[arg(long)]
    pub source: Option<String>,
    /// On what terms it may be used.
    #[arg(long, default_value = "not stated")]
    pub licence: String,
    /// What to try it on; without it, a portrait that vigie brings.
    #[arg(long)]
    pub picture: Option<PathBuf>,
    /// The ONNX Runtime library; without it the first libonnxruntime.so* in .vigie/onnxruntime.
    #[arg(long, env = "VIGIE_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Seconds of CPU time that the trial may take; twice as many may pass.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub trial_seconds: u64,
    /// Megabytes that the trial may take besides four times the file.
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(256..=262_144))]
    pub trial_memory: u64,
    /// Write the report as one JSON object.
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ChannelOrder {
    Rgb,
    Bgr,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum FitOption {
    /// In proportion, centred on grey.
    Centre,
    /// In proportion, at the top left, the rest grey.
    TopLeft,
    /// Out of proportion, filling it.
    Stretch,
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let (width, height) = text.split_once('x').unwrap_or((text, text));
    let side = |side: &str| side.parse().ok().filter(|side| (32..=2048).contains(side));
    side(width).zip(side(height)).ok_or_else(|| "expected 32 to 2048 pixels, as 640 or 640x384".to_owned())
}

fn parse_three(text: &str) -> Result<[f32; 3], String> {
    let numbers: Option<Vec<f32>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[all]) => Ok([all; 3]),
        Some(&[a, b, c]) => Ok([a, b, c]),
        _ => Err("expected one number or three, separated by commas".to_owned()),
    }
}

/// Takes a model in and tells what became of it.
pub fn add(store: Store, args: &AddArgs) -> anyhow::Result<()> {
    let reading = |path: &Path| format!("reading {}", path.display());
    let length = std::fs::metadata(&args.file).with_context(|| reading(&args.file))?.len();
    if length > MAX_FILE_BYTES as u64 {
        bail!("{} has {length} bytes, {MAX_FILE_BYTES} at most are taken (too_large)", args.file.display());
    }
    let onnx = std::fs::read(&args.file).with_context(|| reading(&args.file))?;
    let picture = match &args.picture {
        Some(path) => std::fs::read(path).with_context(|| reading(path))?,
        None => PICTURE.to_vec(),
    };
    let name = args.name.clone().unwrap_or_else(|| name_from(&args.file));
    let intake = Intake {
        store,
        program: std::env::current_exe().context("finding this program")?,
        // The child runs in another folder.
        runtime: std::path::absolute(library_at(args.ort_library.as_deref())?)
            .context("finding ONNX Runtime")?,
        limits: Limits {
            memory_bytes: args.trial_memory << 20,
            cpu_seconds: args.trial_seconds,
            wall_seconds: 2 * args.trial_seconds,
        },
    };
    let file = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let provenance = Provenance {
        source: args.source.clone().unwrap_or(format!("added from the file {file}")),
        upstream: String::new(),
        licence: args.licence.clone(),
        licence_note: String::new(),
    };
    let candidate =
        Candidate { name: &name, onnx: &onnx, wishes: wishes(args)?, provenance, picture: &picture };
    match intake.admit(&candidate) {
        Ok(admitted) => tell(&admitted, args.json),
        Err(refusal) => refuse(refusal, &args.file, args.json),
    }
}

fn wishes(args: &AddArgs) -> anyhow::Result<Wishes> {
    let labels = args.labels.as_deref().map(read_labels).transpose()?;
    Ok(Wishes {
        task: args.task,
        head: args.head,
        labels,
        size: args.size,
        channels: args.channels.map(|order| match order {
            ChannelOrder::Rgb => Channels::Rgb,
            ChannelOrder::Bgr => Channels::Bgr,
        }),
        mean: args.mean,
        std: args.std,
        fit: args.fit.map(|fit| match fit {
            FitOption::Centre => FitWish::Centre,
            FitOption::TopLeft => FitWish::TopLeft,
            FitOption::Stretch => FitWish::Stretch,
        }),
        score: args.score,
        iou: args.iou,
    })
}

/// Labels from a file of that name, or from the text itself.
fn read_labels(text: &str) -> anyhow::Result<Vec<String>> {
    let labels: Vec<String> = if Path::new(text).is_file() {
        let lines = std::fs::read_to_string(text).with_context(|| format!("reading {text}"))?;
        match names::labels(&lines) {
            Some(labels) => labels,
            None => {
                lines.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
            }
        }
    } else {
        text.split(',').map(|label| label.trim().to_owned()).collect()
    };
    match labels.is_empty() {
        true => bail!("there are no labels in {text}"),
        false => Ok(labels),
    }
}

fn refuse(refusal: Refusal, file: &Path, is_json: bool) -> anyhow::Result<()> {
    let code = refusal.code();
    let message = format!("{:#}", anyhow::Error::new(refusal));
    if is_json {
        println!("{}", json!({ "error": { "code": code, "message": message } }));
    }
    bail!("{} was not added: {message} ({code})", file.display())
}

fn tell(admitted: &Admitted, is_json: bool) -> anyhow::Result<()> {
    let Admitted { stored, was_known, summary, report, notes, check, trial, store } = admitted;
    let manifest = &stored.manifest;
    let ms = |duration: &Duration| duration.as_secs_f64() * 1000.0;
    let picture = stored.picture();
    if is_json {
        let object = json!({
            "name": manifest.name,
            "version": manifest.version,
            "was_known": was_known,
            "manifest": manifest,
            "model": stored.model,
            "picture": picture,
            "file": {
                "bytes": summary.bytes,
                "producer": summary.producer,
                "opset": summary.opset,
                "nodes": summary.nodes,
                "parameters": summary.parameters,
            },
            "trial": {
                "load_ms": report.load_ms,
                "first_run_ms": report.first_run_ms,
                "p50_ms": report.p50_ms,
                "runs": report.runs,
                "peak_bytes": report.peak_bytes,
                "outputs": report.outputs,
                "findings": report.findings,
            },
            "notes": notes,
            "took_ms": { "check": ms(check), "trial": ms(trial), "store": ms(store) },
        });
        println!("{object}");
        return Ok(());
    }
    let title = format!("{}@{}", manifest.name, manifest.version);
    match was_known {
        true => println!("{title} is this very file already"),
        false => println!("added as {title}"),
    }
    let size = format!("{}x{}", manifest.input.size, manifest.input.height.unwrap_or(manifest.input.size));
    let producer = if summary.producer.is_empty() { "unknown" } else { &summary.producer };
    let mut rows = vec![
        ["task".to_owned(), manifest.task.name().to_owned()],
        ["head".to_owned(), manifest.head.name().to_owned()],
        ["labels".to_owned(), some_of(&manifest.labels)],
        ["input".to_owned(), size],
        [
            "file".to_owned(),
            format!(
                "{:.1} MB, {} nodes, {:.2} million parameters, operator set {}, made by {producer}",
                summary.bytes as f64 / 1e6,
                summary.nodes,
                summary.parameters as f64 / 1e6,
                summary.opset
            ),
        ],
        ["checked in".to_owned(), format!("{:.0} ms", ms(check))],
        [
            "tried in".to_owned(),
            format!(
                "{:.0} ms: loaded in {:.0} ms, first run {:.0} ms",
                ms(trial),
                report.load_ms,
                report.first_run_ms
            ),
        ],
        [
            "a picture takes".to_owned(),
            format!("{:.1} ms (median of {}, one thread)", report.p50_ms, report.runs),
        ],
        ["memory".to_owned(), format!("{:.0} MB at most", report.peak_bytes as f64 / 1e6)],
    ];
    for finding in report.findings.iter().take(10) {
        let place = finding.bbox.map(|[x, y, w, h]| format!(" at {x:.0}, {y:.0}, {w:.0} wide, {h:.0} high"));
        let line = format!("{} {:.0} %{}", finding.label, finding.score * 100.0, place.unwrap_or_default());
        rows.push(["found".to_owned(), line]);
    }
    if report.findings.is_empty() {
        rows.push(["found".to_owned(), "nothing in the trial's picture; --picture tries another".to_owned()]);
    }
    if let Some(picture) = picture {
        rows.push(["drawn".to_owned(), picture.display().to_string()]);
    }
    rows.extend(notes.iter().map(|note| ["note".to_owned(), note.clone()]));
    rows.push(["use it".to_owned(), format!("vigie serve --model {title}")]);
    print_table(&rows)?;
    std::io::stdout().flush()?;
    Ok(())
}

fn some_of(labels: &[String]) -> String {
    let first = labels.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    if labels.len() > 5 { format!("{first} … ({})", labels.len()) } else { first }
}

/// Removes one version, `NAME@VERSION`.
pub fn remove(store: &Store, model: &str) -> anyhow::Result<()> {
    let parts = model.split_once('@').and_then(|(name, version)| Some((name, version.parse().ok()?)));
    let Some((name, version)) = parts else { bail!("{model} is not written as NAME@VERSION") };
    store.remove(name, version)?;
    println!("{name}@{version} is removed; its number is not given again");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_numbers_are_read() {
        assert_eq!(parse_size("640"), Ok((640, 640)));
        assert_eq!(parse_size("640x384"), Ok((640, 384)));
        assert!(parse_size("0").is_err() && parse_size("640x").is_err() && parse_size("9999").is_err());
        assert_eq!(parse_three("255"), Ok([255.0; 3]));
        assert_eq!(parse_three("1, 2,3"), Ok([1.0, 2.0, 3.0]));
        assert!(parse_three("1,2").is_err() && parse_three("").is_err());
    }

    #[test]
    fn labels_come_from_a_list_or_a_file() {
        assert_eq!(read_labels("stop, yield").unwrap(), ["stop", "yield"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            read_labels(path.to_str().unwrap())
        };
        assert_eq!(read("stop\n\nyield \n").unwrap(), ["stop", "yield"]);
        assert_eq!(read("['stop', 'yield']").unwrap(), ["stop", "yield"]);
        assert!(read("\n").is_err());
    }

    #[test]
    fn versions_are_removed_by_name_and_number() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path());
        for wrong in ["a", "a@", "a@x", "a@1", "../a@1"] {
            assert!(remove(&store, wrong).is_err(), "{wrong}");
        }
    }
}
