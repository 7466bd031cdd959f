//! `vigie models eval`: how good a detector is on labelled pictures, through the stages of a live frame.

mod page;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::print_table;
use crate::commands::recognition::library_at;
use crate::commands::service::cores;
use crate::files::image::{self, MAX_BYTES};
use crate::frame::{Detection, Picture};
use crate::inference::engine::Engine;
use crate::inference::ort::{Device, OrtEngine, Runtime};
use crate::models::eval::coco::Labels;
use crate::models::eval::score::{Averages, Found, Scores, Truth, judge, score};
use crate::models::manifest::{Head, Manifest};
use crate::models::store::{Store, Stored};
use crate::pipeline::detect::detect;
use crate::pipeline::prepare::prepare;

/// Bytes of a file of labels: COCO's own for its 118,000 training pictures has 470 million.
const MAX_LABELS_BYTES: u64 = 1 << 30;
/// Names of a list that are told, before it is cut short.
const TOLD: usize = 5;

#[derive(Clone, Debug, Args)]
pub struct EvalArgs {
    /// The detector, NAME for its newest version or NAME@VERSION.
    pub model: String,
    /// Folder of the pictures.
    #[arg(long, value_name = "DIR")]
    pub pictures: PathBuf,
    /// What they show, in the format of COCO's instances_val2017.json.
    #[arg(long, value_name = "FILE")]
    pub labels: PathBuf,
    /// Write the report as one HTML file, with pictures and their boxes.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Pictures that the report shows, those with most mistakes first.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(0..=1000))]
    pub show: u16,
    /// Least score of what is counted, 0 to 1. Precision is averaged over all scores, so that little is left out here.
    #[arg(long, default_value_t = 0.001)]
    pub score: f32,
    /// Engines that run side by side; without it, one a core.
    #[arg(long)]
    pub lanes: Option<usize>,
    /// Where inference runs: auto, cpu, cuda:N or tensorrt:N.
    #[arg(long, env = "VIGIE_DEVICE", default_value = "auto")]
    pub device: String,
    /// The ONNX Runtime library; without it the first libonnxruntime.so* in .vigie/onnxruntime.
    #[arg(long, env = "VIGIE_ORT_LIBRARY")]
    pub ort_library: Option<PathBuf>,
    /// Write the figures as one JSON object.
    #[arg(long)]
    pub json: bool,
}

/// The figures of an evaluation.
#[derive(Clone, Debug, Serialize)]
struct Report {
    model: String,
    head: &'static str,
    pictures: usize,
    /// Pictures of the labels that are not there or cannot be read, each with why.
    left_out: Vec<String>,
    truths: usize,
    detections: usize,
    /// Milliseconds of preparing, running and reading one picture on one thread.
    p50_ms: f64,
    p95_ms: f64,
    #[serde(flatten)]
    averages: Averages,
    /// The least score that live recognition would show.
    threshold: f32,
    classes: Vec<ClassReport>,
    /// Labels of the model that the pictures are not labelled with, and the other way about: neither is measured.
    not_in_labels: Vec<String>,
    not_in_model: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct ClassReport {
    label: String,
    truths: usize,
    #[serde(flatten)]
    averages: Averages,
    /// At the model's threshold and an overlap of 0.5.
    right: usize,
    wrong: usize,
    missed: usize,
    #[serde(skip)]
    precision50: Vec<f64>,
}

/// What was seen in one picture.
struct Seen {
    detections: Vec<Detection>,
    took: Duration,
}

/// Measures a model and tells the figures.
pub fn run(store: &Store, args: &EvalArgs) -> anyhow::Result<()> {
    if !(0.0..=1.0).contains(&args.score) {
        bail!("--score {} is not from 0 to 1", args.score);
    }
    let Stored { manifest, model } = find(store, &args.model)?;
    if matches!(manifest.head, Head::Classifier | Head::Faceres | Head::Db | Head::Ctc) {
        bail!(
            "{} is a {}, which finds no things in a picture: only detectors are measured",
            args.model,
            manifest.head.name()
        );
    }
    let mut labels = read_labels(&args.labels)?;
    let not_in_model = match_classes(&mut labels, &manifest)?;
    let engines = engines(args, &model)?;
    let seen = look(&labels, args, &manifest, engines)?;

    let mut left_out = Vec::new();
    let mut good = HashMap::new();
    for (name, seen) in labels.pictures.iter().zip(seen) {
        match seen {
            Ok(seen) => _ = good.insert(name.clone(), seen),
            Err(reason) => left_out.push(format!("{name}: {reason}")),
        }
    }
    if good.is_empty() {
        let first = left_out.first().map(String::as_str).unwrap_or_default();
        bail!("none of the {} pictures could be used: {first}", left_out.len());
    }
    labels.retain(|name| good.contains_key(name), |_| true);
    let found = found(&labels, &manifest, &good);
    let scores = score(labels.pictures.len(), labels.categories.len(), &labels.truths, &found);
    let shown = at_threshold(&labels, &found, manifest.thresholds.score);
    let report = report(&manifest, &labels, &found, &scores, &shown, &good, left_out, not_in_model);
    if let Some(path) = &args.output {
        let html = page::render(&report, &labels, &shown, &args.pictures, args.show.into());
        std::fs::write(path, html).with_context(|| format!("writing {}", path.display()))?;
    }
    match args.json {
        true => println!("{}", serde_json::to_string(&report)?),
        false => tell(&report, args.output.as_deref())?,
    }
    Ok(())
}

fn find(store: &Store, model: &str) -> anyhow::Result<Stored> {
    Ok(match model.split_once('@') {
        Some((name, version)) => {
            let version = version.parse().ok().with_context(|| format!("{version:?} is no version"))?;
            store.find(name, version)?
        }
        None => store.newest_of(model)?,
    })
}

fn read_labels(path: &Path) -> anyhow::Result<Labels> {
    let reading = || format!("reading the labels {}", path.display());
    let bytes = std::fs::metadata(path).with_context(reading)?.len();
    if bytes > MAX_LABELS_BYTES {
        bail!("{} has {bytes} bytes, {MAX_LABELS_BYTES} at most are read", path.display());
    }
    Labels::read(&std::fs::read(path).with_context(reading)?).with_context(reading)
}

/// Keeps the categories that the model has a label for; gives the names of the others.
fn match_classes(labels: &mut Labels, manifest: &Manifest) -> anyhow::Result<Vec<String>> {
    let known: HashSet<String> = manifest.labels.iter().map(|label| label.to_lowercase()).collect();
    let is_known = |name: &str| known.contains(&name.to_lowercase());
    let others: Vec<String> = labels.categories.iter().filter(|name| !is_known(name)).cloned().collect();
    if others.len() == labels.categories.len() {
        bail!(
            "the model and the labels have no class in common: it has {}, they have {}",
            some_of(&manifest.labels),
            some_of(&others)
        );
    }
    labels.retain(|_| true, is_known);
    Ok(others)
}

fn some_of(names: &[String]) -> String {
    let first = names.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > TOLD { format!("{first} and {} more", names.len() - TOLD) } else { first }
}

fn engines(args: &EvalArgs, model: &Path) -> anyhow::Result<Vec<OrtEngine>> {
    let device: Device = args.device.parse()?;
    let runtime = Runtime::load(&library_at(args.ort_library.as_deref())?)?;
    let count = args.lanes.unwrap_or_else(cores).clamp(1, 64);
    (0..count).map(|_| Ok(OrtEngine::load(&runtime, model, device, 1)?)).collect()
}

/// Runs the model on every picture; in place of what it saw, why a picture was not read. A picture that the model
/// itself fails on ends it all.
fn look(
    labels: &Labels,
    args: &EvalArgs,
    manifest: &Manifest,
    engines: Vec<OrtEngine>,
) -> anyhow::Result<Vec<Result<Seen, String>>> {
    let names = &labels.pictures;
    let next = AtomicUsize::new(0);
    let is_over = AtomicBool::new(false);
    let bar = progress(names.len() as u64);
    let (sender, results) = mpsc::sync_channel(engines.len());
    let mut seen: Vec<Option<Result<Seen, String>>> = names.iter().map(|_| None).collect();
    thread::scope(|scope| {
        for mut engine in engines {
            let (sender, next, is_over) = (sender.clone(), &next, &is_over);
            scope.spawn(move || {
                while !is_over.load(Ordering::Relaxed) {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(name) = names.get(place) else { break };
                    let outcome = match read_picture(&args.pictures.join(name)) {
                        Err(reason) => Ok(Err(reason)),
                        Ok(picture) => see(&mut engine, manifest, &picture, args.score)
                            .with_context(|| format!("running the model on {name}"))
                            .map(Ok),
                    };
                    if sender.send((place, outcome)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        for (place, outcome) in results {
            match outcome {
                Ok(outcome) => seen[place] = Some(outcome),
                Err(error) => {
                    is_over.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            bar.inc(1);
        }
        Ok(())
    })?;
    bar.finish_and_clear();
    Ok(seen.into_iter().map(|seen| seen.unwrap_or_else(|| Err("it was not looked at".to_owned()))).collect())
}

fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos} of {len} pictures, {eta} left");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn read_picture(path: &Path) -> Result<Picture, String> {
    let bytes = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > MAX_BYTES as u64 {
        return Err(format!("{bytes} bytes are more than {MAX_BYTES}"));
    }
    let bytes = std::fs::read(path).map_err(|error| error.to_string())?;
    image::decode(&bytes).map_err(|error| error.to_string())
}

/// One picture, as a live frame goes.
fn see(
    engine: &mut OrtEngine,
    manifest: &Manifest,
    picture: &Picture,
    min_score: f32,
) -> anyhow::Result<Seen> {
    let started = Instant::now();
    let prepared = prepare(picture, &manifest.input)?;
    let outputs = engine.run(&prepared.tensor)?;
    let detections = detect(&outputs, manifest, &prepared.placement, Some(min_score))?;
    Ok(Seen { detections, took: started.elapsed() })
}

/// What was found, in the labels' terms; what they have no category for is left out.
fn found(labels: &Labels, manifest: &Manifest, good: &HashMap<String, Seen>) -> Vec<Found> {
    let place = |name: &String| {
        labels.categories.iter().position(|category| category.to_lowercase() == name.to_lowercase())
    };
    let classes: Vec<Option<usize>> = manifest.labels.iter().map(place).collect();
    let of_picture = |(picture, name): (usize, &String)| {
        let detections = good.get(name).map(|seen| seen.detections.as_slice()).unwrap_or_default();
        let found = |detection: &Detection| {
            let bbox = detection.bbox;
            Some(Found {
                picture,
                class: classes.get(usize::from(detection.class)).copied().flatten()?,
                bbox: [bbox.x, bbox.y, bbox.w, bbox.h].map(f64::from),
                score: detection.score.into(),
            })
        };
        detections.iter().filter_map(found).collect::<Vec<_>>()
    };
    labels.pictures.iter().enumerate().flat_map(of_picture).collect()
}

/// One picture with what live recognition would show, and how right that is.
struct Shown {
    truths: Vec<Truth>,
    found: Vec<Found>,
    verdict: crate::models::eval::score::Verdict,
}

fn at_threshold(labels: &Labels, found: &[Found], threshold: f32) -> Vec<Shown> {
    let mut pictures: Vec<(Vec<Truth>, Vec<Found>)> = vec![Default::default(); labels.pictures.len()];
    for truth in &labels.truths {
        pictures[truth.picture].0.push(truth.clone());
    }
    for found in found.iter().filter(|found| found.score >= f64::from(threshold)) {
        pictures[found.picture].1.push(found.clone());
    }
    let shown =
        |(truths, found): (Vec<Truth>, Vec<Found>)| Shown { verdict: judge(&truths, &found), truths, found };
    pictures.into_iter().map(shown).collect()
}

#[expect(clippy::too_many_arguments, reason = "each is a part of the report, put together in one place")]
fn report(
    manifest: &Manifest,
    labels: &Labels,
    found: &[Found],
    scores: &Scores,
    shown: &[Shown],
    good: &HashMap<String, Seen>,
    left_out: Vec<String>,
    not_in_model: Vec<String>,
) -> Report {
    let mut times: Vec<Duration> = good.values().map(|seen| seen.took).collect();
    times.sort();
    let part = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    let wanted = |class: usize| labels.truths.iter().filter(|t| t.class == class && !t.is_crowd).count();
    let class = |(class, label): (usize, &String)| {
        let count = |places: &dyn Fn(&Shown) -> usize| shown.iter().map(places).sum();
        let of_found = |shown: &Shown, places: &[usize]| {
            places.iter().filter(|place| shown.found[**place].class == class).count()
        };
        ClassReport {
            label: label.clone(),
            truths: wanted(class),
            averages: scores.classes[class].averages,
            right: count(&|shown| of_found(shown, &shown.verdict.right)),
            wrong: count(&|shown| of_found(shown, &shown.verdict.wrong)),
            missed: count(&|shown| {
                shown.verdict.missed.iter().filter(|place| shown.truths[**place].class == class).count()
            }),
            precision50: scores.classes[class].precision50.clone(),
        }
    };
    let categories: HashSet<String> = labels.categories.iter().map(|name| name.to_lowercase()).collect();
    let not_in_labels = manifest.labels.iter().filter(|label| !categories.contains(&label.to_lowercase()));
    Report {
        model: format!("{}@{}", manifest.name, manifest.version),
        head: manifest.head.name(),
        pictures: labels.pictures.len(),
        left_out,
        truths: labels.truths.iter().filter(|truth| !truth.is_crowd).count(),
        detections: found.len(),
        p50_ms: part(0.5),
        p95_ms: part(0.95),
        averages: scores.all,
        threshold: manifest.thresholds.score,
        classes: labels.categories.iter().enumerate().map(class).collect(),
        not_in_labels: not_in_labels.cloned().collect(),
        not_in_model,
    }
}

/// Three digits after the point, as COCO's program prints them; nothing to find is a dash.
fn told(value: Option<f64>) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.3}"))
}

fn tell(report: &Report, page: Option<&Path>) -> anyhow::Result<()> {
    let Averages { ap, ap50, ap75, ap_small, ap_medium, ap_large, ar_1, ar_10, ar_100, .. } = report.averages;
    println!(
        "{} on {} pictures with {} things: {:.1} ms a picture (p95 {:.1})",
        report.model, report.pictures, report.truths, report.p50_ms, report.p95_ms
    );
    let rows = [
        ["AP", "0.50 to 0.95", &told(ap)],
        ["AP50", "0.50", &told(ap50)],
        ["AP75", "0.75", &told(ap75)],
        ["AP small", "below 32x32", &told(ap_small)],
        ["AP medium", "up to 96x96", &told(ap_medium)],
        ["AP large", "above", &told(ap_large)],
        ["AR 1", "1 a picture", &told(ar_1)],
        ["AR 10", "10 a picture", &told(ar_10)],
        ["AR 100", "100 a picture", &told(ar_100)],
    ];
    print_table(&rows.map(|row| row.map(str::to_owned)))?;
    println!("\nby class; right, wrong and missed at a score of {}", report.threshold);
    let header = ["CLASS", "THINGS", "AP", "AP50", "AP75", "RIGHT", "WRONG", "MISSED"].map(str::to_owned);
    let row = |class: &ClassReport| {
        [
            class.label.clone(),
            class.truths.to_string(),
            told(class.averages.ap),
            told(class.averages.ap50),
            told(class.averages.ap75),
            class.right.to_string(),
            class.wrong.to_string(),
            class.missed.to_string(),
        ]
    };
    let rows = report.classes.iter().filter(|class| class.truths + class.wrong > 0).map(row);
    print_table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())?;
    if !report.not_in_model.is_empty() {
        println!("\nnot measured, since the model does not know them: {}", some_of(&report.not_in_model));
    }
    if !report.left_out.is_empty() {
        println!("\n{} pictures were left out: {}", report.left_out.len(), some_of(&report.left_out));
    }
    if let Some(page) = page {
        println!("\nwith pictures: {}", page.display());
    }
    Ok(())
}
