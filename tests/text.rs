//! Text that is read, and classifiers as a second stage: by the wheel's own pipeline's measure, in pictures, in
//! files, live and over HTTP, with the real models.
#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;
#[path = "models/onnx.rs"]
#[allow(dead_code, reason = "one graph is written here")]
mod onnx;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use common::process::Service;
use common::{Lab, OBJECTS_SIZE, data, media, read_picture};
use onnx::{FLOAT, Graph, Model, floats, node, value};
use serde::Deserialize;
use serde_json::{Value, json};
use vigie::files::still::{self, Wanted};
use vigie::files::video::{Engines, Summary, VideoOptions, annotate};
use vigie::frame::{BBox, Kind};
use vigie::inference::batcher::ModelId;
use vigie::inference::service::{BatchRun, Observer};
use vigie::load::clip::Clip;
use vigie::load::publisher::{PublisherConfig, publish};
use vigie::models::heads::Placement;
use vigie::models::heads::db::TextMap;
use vigie::pipeline::recognise::Tasks;
use vigie::pipeline::text::{Effort, Line, Place, lines_of};

const MODELS: [&str; 5] = ["blazeface", "faceres", "centernet", "ppocr-detect", "ppocr-read"];
const DETECT: ModelId = ModelId(4);
const READ: ModelId = ModelId(5);
const TEXT: Tasks = Tasks { faces: false, gender: false, objects: false, text: true };

/// Counts what runs.
#[derive(Default)]
struct Runs([AtomicU64; 6]);

impl Observer for Runs {
    fn ran(&self, run: &BatchRun<'_>) {
        self.0[run.model.0 as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Runs {
    fn of(&self, model: ModelId) -> u64 {
        self.0[model.0 as usize].load(Ordering::Relaxed)
    }
}

fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::start_with(2, OBJECTS_SIZE, &MODELS, Arc::new(())))
}

/// A line as the wheel's pipeline gives it; `models/reference/make_text_goldens.py` makes them.
#[derive(Deserialize)]
struct Golden {
    /// Corners, from the top left on.
    #[serde(rename = "box")]
    corners: [[f32; 2]; 4],
    #[serde(default)]
    text: String,
    score: f32,
}

impl Golden {
    fn bbox(&self) -> BBox {
        let all = |axis: usize| self.corners.iter().map(move |corner| corner[axis]);
        let (left, top) = (all(0).fold(f32::MAX, f32::min), all(1).fold(f32::MAX, f32::min));
        let (right, bottom) = (all(0).fold(f32::MIN, f32::max), all(1).fold(f32::MIN, f32::max));
        BBox::from_corners(left, top, right, bottom)
    }
}

fn goldens(picture: &str) -> Vec<Golden> {
    let text = std::fs::read(data("text/goldens.json")).unwrap();
    let mut all: std::collections::BTreeMap<String, Vec<Golden>> = serde_json::from_slice(&text).unwrap();
    all.remove(picture).unwrap()
}

/// The nearest of some lines, and how much it overlaps.
fn nearest<'l>(lines: &'l [Line], golden: &Golden) -> (&'l Line, f32) {
    let overlap = |line: &Line| line.place.bbox().iou(&golden.bbox());
    let best = lines.iter().max_by(|a, b| overlap(a).total_cmp(&overlap(b))).unwrap();
    (best, overlap(best))
}

/// Overlap from which two lines are the same: those of the page are 19 pixels high, and the wheel's corners whole.
const NEAR: f32 = 0.6;

/// Spaces are where the readers differ first: this one hardly learnt them.
fn letters(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

/// The length of the longest sequence of letters that two texts have in common.
fn in_common(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row = vec![0; b.len() + 1];
    for letter in a.chars() {
        let mut diagonal = 0;
        for (at, other) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if letter == *other { diagonal + 1 } else { above.max(row[at]) };
            diagonal = above;
        }
    }
    row[b.len()]
}

#[test]
fn a_map_gives_the_lines_that_the_wheels_own_steps_give() {
    let map = image::open(data("text/map.png")).unwrap().into_luma8();
    let (width, height) = (map.width() as usize, map.height() as usize);
    let values: Vec<f32> = map.into_raw().into_iter().map(|byte| f32::from(byte) / 255.0).collect();
    let picture = image::open(data("text/page.png")).unwrap();
    let (across, down) = (picture.width() as f32, picture.height() as f32);
    let placement = Placement {
        scale_x: width as f32 / across,
        scale_y: height as f32 / down,
        offset_x: 0.0,
        offset_y: 0.0,
        width: across,
        height: down,
        input_width: width,
        input_height: height,
    };
    let lines = lines_of(&TextMap { values: &values, width, height }, &placement, 0.5).unwrap();
    let goldens = goldens("map.png");
    assert_eq!(lines.len(), goldens.len(), "{lines:?}");
    for golden in &goldens {
        let (line, overlap) = nearest(&lines, golden);
        // The wheel rounds corners to whole pixels of the picture.
        assert!(overlap > 0.85, "{overlap}: {line:?} {:?}", golden.corners);
        assert!((line.score - golden.score).abs() < 0.02, "{} {}", line.score, golden.score);
    }
}

#[test]
fn pictures_are_read_as_the_wheel_reads_them() {
    for name in ["signs.jpg", "page.png"] {
        let picture = read_picture(&format!("text/{name}"));
        let recogniser = lab().recogniser(1);
        let lines = recogniser.find_lines(&picture, Effort::FILE).unwrap();
        let places: Vec<Place> = lines.iter().map(|line| Place::Line(line.place)).collect();
        let texts = recogniser.read_places(&picture, &places, Effort::FILE).unwrap();
        let goldens = goldens(name);
        let found = goldens.iter().filter(|golden| nearest(&lines, golden).1 > NEAR).count();
        // Pixels come by way of I420 here: one line of the page is at the very threshold.
        assert!(found + 1 >= goldens.len() && lines.len() <= goldens.len(), "{name}: {texts:?}");
        for golden in &goldens {
            let (line, overlap) = nearest(&lines, golden);
            if overlap <= NEAR {
                continue;
            }
            let read = &texts[lines.iter().position(|other| other == line).unwrap()];
            let (ours, theirs) = (letters(&read.text), letters(&golden.text));
            // A letter in doubt may fall to the other side, and one more or less may stand at a line's end.
            let (same, most) = (in_common(&ours, &theirs), ours.chars().count().max(theirs.chars().count()));
            assert!(same * 10 >= most * 8, "{name}: {ours} is not {theirs}");
            assert!((read.score - golden.score).abs() < 0.1, "{name}, {theirs}: {}", read.score);
        }
    }
}

#[test]
fn what_is_written_on_a_thing_is_read_in_its_box() {
    let picture = read_picture("text/signs.jpg");
    let recogniser = lab().recogniser(2);
    let boxes = [
        (BBox { x: 55.0, y: 55.0, w: 190.0, h: 190.0 }, "STOP"),
        (BBox { x: 300.0, y: 60.0, w: 320.0, h: 60.0 }, "RuedelaPaix12"),
        (BBox { x: 560.0, y: 300.0, w: 70.0, h: 70.0 }, ""),
        (BBox { x: -50.0, y: -50.0, w: 10.0, h: 10.0 }, ""),
    ];
    let places: Vec<Place> = boxes.iter().map(|(bbox, _)| Place::Box(*bbox)).collect();
    let texts = recogniser.read_places(&picture, &places, Effort::LIVE).unwrap();
    let read: Vec<String> = texts.iter().map(|line| letters(&line.text)).collect();
    assert_eq!(read, boxes.map(|(_, text)| text));
}

#[test]
fn a_still_report_has_the_lines_and_what_they_say() {
    let picture = read_picture("text/signs.jpg");
    let mut recogniser = lab().recogniser(3);
    let wanted = Wanted { tasks: TEXT, threshold: None };
    let report = still::recognise(&mut recogniser, &picture, &wanted).unwrap().report;
    let texts: Vec<String> = (report.detections.iter())
        .map(|found| {
            assert_eq!((found.kind, found.label.as_str()), (Kind::Text, "text"));
            letters(&found.attributes.text.as_ref().unwrap().label)
        })
        .collect();
    assert!(texts.contains(&"STOP".into()) && texts.contains(&"VIGIE2026".into()), "{texts:?}");
    assert_eq!(report.models.keys().collect::<Vec<_>>(), ["ppocr-detect", "ppocr-read"]);
    let usual = Wanted { tasks: Tasks::USUAL, threshold: None };
    let report = still::recognise(&mut recogniser, &picture, &usual).unwrap().report;
    assert!(report.detections.iter().all(|found| found.attributes.text.is_none()));
}

/// Four seconds of the signs at ten pictures a second.
fn clip_of_signs(folder: &Path, name: &str, arguments: &[&str]) -> std::path::PathBuf {
    let path = folder.join(name);
    let picture = data("text/signs.jpg");
    let source = ["-loop", "1", "-r", "10", "-i", picture.to_str().unwrap(), "-t", "4"];
    media::ffmpeg(&[&source[..], arguments, &[path.to_str().unwrap()]].concat(), &[]);
    path
}

#[test]
fn a_video_is_read_a_bounded_number_of_times() {
    let folder = tempfile::tempdir().unwrap();
    let source = clip_of_signs(folder.path(), "signs.mp4", &["-c:v", "libx264", "-preset", "ultrafast"]);
    let runs = Arc::new(Runs::default());
    let lab = Lab::start_with(2, OBJECTS_SIZE, &MODELS, Arc::clone(&runs) as Arc<dyn Observer>);
    let engines = Engines { handle: lab.service.handle(), models: lab.models.clone(), lanes: 2 };
    let options = VideoOptions { tasks: TEXT, ..VideoOptions::default() };
    let target = folder.path().join("annotated.mp4");
    let summary: Summary =
        annotate(&source, &target, &engines, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(summary.frames, 40);
    let texts: Vec<String> =
        summary.tracks.iter().filter_map(|track| Some(letters(&track.text.as_ref()?.label))).collect();
    for text in ["STOP", "RuedelaPaix12", "VIGIE2026", "NORD"] {
        assert!(texts.contains(&text.to_owned()), "{texts:?}");
    }
    // Forty pictures, five lines: looked at once a second, and each line read until two readings agree.
    assert!(runs.of(DETECT) <= 5, "{} searches", runs.of(DETECT));
    assert!((10..=25).contains(&runs.of(READ)), "{} readings", runs.of(READ));
}

fn vp8(folder: &Path) -> Clip {
    let path = clip_of_signs(folder, "signs.ivf", &["-c:v", "libvpx", "-b:v", "2M", "-g", "10"]);
    Clip::from_ivf(&std::fs::read(path).unwrap()).unwrap()
}

#[tokio::test]
async fn text_comes_in_live_reports_and_others_do_not_wait_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let service = Service::start(&[]);
    let settings = json!({ "tasks": { "faces": false, "gender": false, "objects": true, "text": true }, "max_rate": 10 });
    let clip = Arc::new(vp8(folder.path()));
    let wanted = ["STOP", "VIGIE2026"];
    // A busy machine reads late, but it reads.
    let mut longer = [10, 30, 90].into_iter();
    let mut pictures = 0;
    loop {
        let duration = Duration::from_secs(longer.next().expect("the signs are read in a minute and a half"));
        let publisher = service.publisher(duration, settings.clone());
        let config = PublisherConfig { clip: Arc::clone(&clip), rate: 10.0, ..publisher };
        let outcome = publish(config).await.unwrap();
        pictures += outcome.reports.len();
        let first = outcome.reports.first().unwrap();
        assert!(first.texts.is_empty(), "the first report does not wait to be read");
        let texts: Vec<String> =
            outcome.reports.iter().flat_map(|report| &report.texts).map(|text| letters(text)).collect();
        if wanted.iter().all(|wanted| texts.iter().any(|text| text == wanted)) {
            break;
        }
    }
    let count = |outcome: &str| service.metric(&format!("vigie_text_reads_total{{outcome=\"{outcome}\"}}"));
    assert!(count("searched") >= 1.0 && count("read") >= 2.0);
    assert!(count("searched") <= pictures as f64, "{} searches of {pictures} pictures", count("searched"));
    assert_eq!(service.metric("vigie_session_panics_total"), 0.0);
}

#[test]
fn a_posted_picture_is_read_when_that_is_asked_for() {
    let service = Service::start(&[]);
    let picture = std::fs::read(data("text/page.png")).unwrap();
    let report = service.post("/predict?tasks=text", &[], &picture).json();
    let texts: Vec<String> = report["detections"].as_array().unwrap().iter().map(text_of).collect();
    assert!(texts.contains(&"Region-basedsegmentation".into()), "{texts:?}");
    let refused = service.post("/predict?tasks=texts", &[], &picture);
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (400, Some("invalid_option")));
}

fn text_of(found: &Value) -> String {
    letters(found["attributes"]["text"]["label"].as_str().unwrap_or_default())
}

/// A classifier that says how red what it is shown is.
fn redness() -> Model {
    let graph = Graph {
        nodes: vec![
            node("GlobalAveragePool", &["images"], &["average"]),
            node("Flatten", &["average"], &["means"]).with_int("axis", 1),
            node("MatMul", &["means", "colours"], &["logits"]),
        ],
        initialisers: vec![floats("colours", &[3, 2], &[40.0, 0.0, 0.0, 20.0, 0.0, 20.0])],
        inputs: vec![value("images", FLOAT, &[1, 3, 64, 64])],
        outputs: vec![value("logits", FLOAT, &[1, 2])],
        ..Graph::default()
    };
    Model::of(graph)
}

#[test]
fn a_classifier_of_ones_own_looks_at_what_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let models = folder.path().join("models");
    std::fs::create_dir(&models).unwrap();
    for name in MODELS {
        std::os::unix::fs::symlink(common::models_folder().join(name), models.join(name)).unwrap();
    }
    let file = folder.path().join("redness.onnx");
    std::fs::write(&file, redness().bytes()).unwrap();
    let vigie = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vigie"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env("VIGIE_MODELS", &models).args(arguments);
        command.output().unwrap()
    };
    let added = vigie(&["models", "add", file.to_str().unwrap(), "--labels", "red,other"]);
    assert!(added.status.success(), "{}", String::from_utf8_lossy(&added.stderr));

    let models = models.to_str().unwrap();
    let service = Service::start(&[
        "--models",
        models,
        "--cascade",
        "person=redness,face=redness",
        "--cascade",
        "zebra=text",
    ]);
    let astronaut = std::fs::read(data("pictures/astronaut.jpg")).unwrap();
    let report = service.post("/predict", &[], &astronaut).json();
    let mut seen = Vec::new();
    for found in report["detections"].as_array().unwrap() {
        let label = found["label"].as_str().unwrap();
        let said = &found["attributes"]["redness"];
        match label {
            "person" | "face" => {
                assert!(["red", "other"].contains(&said["label"].as_str().unwrap()), "{found}");
                assert!((0.0..=1.0).contains(&said["score"].as_f64().unwrap()), "{found}");
                seen.push(label.to_owned());
            }
            _ => assert!(said.is_null(), "{found}"),
        }
    }
    assert!(seen.contains(&"person".into()) && seen.contains(&"face".into()), "{report}");
    assert_eq!(report["models"]["redness"], "1");

    for (cascade, said) in
        [("person", "not LABEL=MODEL"), ("person=nobody", "nobody"), ("person=centernet", "not a classifier")]
    {
        let refused = vigie(&["serve", "--listen", "127.0.0.1:0", "--cascade", cascade]);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(said), "{cascade}: {told}");
    }
}
