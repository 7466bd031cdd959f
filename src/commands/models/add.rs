//! `vigie models add`: a model of a person's own, to a folder here or to a running service.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use serde_json::json;

use super::remote::ServiceArgs;
use super::{print, upload};
use crate::commands::recognition::library_at;
use crate::models::check::MAX_FILE_BYTES;
use crate::models::heads::recognise::fields::{read_labels, read_size, read_three};
use crate::models::heads::recognise::{FitWish, Wishes};
use crate::models::intake::{Admitted, Candidate, Intake, PICTURE, Refusal, name_from};
use crate::models::manifest::{Channels, Head, Provenance, Task};
use crate::models::receipt::PlacedReceipt;
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
    #[arg(long, value_parser = read_size)]
    pub size: Option<(u32, u32)>,
    /// The order of colours in its input.
    #[arg(long, value_enum)]
    pub channels: Option<ChannelOrder>,
    /// What is taken from pixels (0 to 255): one number, or one for each channel.
    #[arg(long, value_parser = read_three)]
    pub mean: Option<[f32; 3]>,
    /// What pixels are then divided by, likewise.
    #[arg(long, value_parser = read_three)]
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
    #[arg(long)]
    pub licence: Option<String>,
    /// What to try it on; without it, a portrait that vigie brings.
    #[arg(long)]
    pub picture: Option<PathBuf>,
    #[command(flatten)]
    pub service: ServiceArgs,
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

/// A model as the command line names it.
pub struct Offer {
    pub name: String,
    pub onnx: Vec<u8>,
    pub wishes: Wishes,
    pub picture: Option<Vec<u8>>,
    /// Where it comes from, as a person or its file says.
    pub source: String,
}

/// Takes a model in and tells what became of it.
pub fn add(store: &Store, args: &AddArgs) -> anyhow::Result<()> {
    let offer = read(args)?;
    match &args.service.to {
        Some(url) => upload::upload(url, args, offer),
        None => add_here(store, args, &offer),
    }
}

fn read(args: &AddArgs) -> anyhow::Result<Offer> {
    let reading = |path: &Path| format!("reading {}", path.display());
    let length = std::fs::metadata(&args.file).with_context(|| reading(&args.file))?.len();
    if length > MAX_FILE_BYTES as u64 {
        bail!("{} has {length} bytes, {MAX_FILE_BYTES} at most are taken (too_large)", args.file.display());
    }
    let onnx = std::fs::read(&args.file).with_context(|| reading(&args.file))?;
    let picture =
        args.picture.as_ref().map(|path| std::fs::read(path).with_context(|| reading(path))).transpose()?;
    let file = args.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Offer {
        name: args.name.clone().unwrap_or_else(|| name_from(&args.file)),
        onnx,
        wishes: wishes(args)?,
        picture,
        source: args.source.clone().unwrap_or(format!("added from the file {file}")),
    })
}

fn add_here(store: &Store, args: &AddArgs, offer: &Offer) -> anyhow::Result<()> {
    let intake = Intake {
        program: std::env::current_exe().context("finding this program")?,
        // The child runs in another folder.
        runtime: std::path::absolute(library_at(args.ort_library.as_deref())?)
            .context("finding ONNX Runtime")?,
        limits: Limits::of(args.trial_memory, args.trial_seconds),
    };
    let candidate = Candidate {
        name: &offer.name,
        onnx: &offer.onnx,
        wishes: offer.wishes.clone(),
        provenance: Provenance::stated(&offer.source, args.licence.as_deref()),
        picture: offer.picture.as_deref().unwrap_or(PICTURE),
    };
    match intake.admit(&candidate, store) {
        Ok(admitted) => tell(&admitted, args.json),
        Err(refusal) => refuse(refusal, &args.file, args.json),
    }
}

fn wishes(args: &AddArgs) -> anyhow::Result<Wishes> {
    let labels = args.labels.as_deref().map(labels).transpose()?;
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
fn labels(text: &str) -> anyhow::Result<Vec<String>> {
    let labels = match Path::new(text).is_file() {
        // A line each, even where there is but one.
        true => std::fs::read_to_string(text).with_context(|| format!("reading {text}"))? + "\n",
        false => text.to_owned(),
    };
    read_labels(&labels).map_err(|error| anyhow::anyhow!("{error} in {text}"))
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
    let Admitted { stored, receipt } = admitted;
    let picture = stored.picture().map(|path| path.display().to_string());
    if is_json {
        let placed = PlacedReceipt { receipt, picture, model: Some(stored.model.display().to_string()) };
        println!("{}", serde_json::to_string(&placed).context("writing the report")?);
        return Ok(());
    }
    print::receipt(receipt, picture, &format!("vigie serve --model {}@{}", receipt.name, receipt.version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_from_a_list_or_a_file() {
        assert_eq!(labels("stop, yield").unwrap(), ["stop", "yield"]);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("labels.txt");
        let read = |content: &str| {
            std::fs::write(&path, content).unwrap();
            labels(path.to_str().unwrap())
        };
        assert_eq!(read("stop\n\nyield \n").unwrap(), ["stop", "yield"]);
        assert_eq!(read("['stop', 'yield']").unwrap(), ["stop", "yield"]);
        assert!(read("\n").is_err());
    }
}
