//! Real models on real pictures: what is found, where, and that it stays so.
#![allow(clippy::unwrap_used, reason = "what is not as expected fails the test")]

mod common;

use std::sync::OnceLock;
use std::time::Instant;

use common::{Lab, OBJECTS_SIZE, read_picture, read_rgb, rotate, to_i420};
use serde::{Deserialize, Serialize};
use vigie::frame::{BBox, Detection, I420Buffer, Kind, Picture};
use vigie::inference::engine::Engine;
use vigie::inference::ort::{Device, OrtEngine};
use vigie::inference::tensor::Tensor;
use vigie::models::manifest::Task;
use vigie::models::traffic::Slot;
use vigie::pipeline::recognise::{MinScores, Tasks};
use vigie::pipeline::track::Answer;

/// One lab for all tests: the models are loaded once.
fn lab() -> &'static Lab {
    static LAB: OnceLock<Lab> = OnceLock::new();
    LAB.get_or_init(|| Lab::start(2, OBJECTS_SIZE))
}

fn recognise(picture: &Picture) -> (Vec<Detection>, Vec<Option<f32>>) {
    let mut recogniser = lab().recogniser(1);
    let found = recogniser.detect(picture, &Tasks::USUAL, &MinScores::default()).unwrap();
    let faces = faces(&found.detections);
    let answers = recogniser.classify(&Slot::Gender, picture, &faces).unwrap();
    let male = |answer| match answer {
        Some(Answer::Male(p_male)) => Some(p_male),
        _ => None,
    };
    let genders = answers.into_iter().map(male).collect();
    (found.detections, genders)
}

fn faces(detections: &[Detection]) -> Vec<Detection> {
    detections.iter().filter(|detection| detection.kind == Kind::Face).cloned().collect()
}

fn labels(detections: &[Detection]) -> Vec<String> {
    let objects = detections.iter().filter(|detection| detection.kind == Kind::Object);
    objects.map(|object| lab().label(Task::Objects, object.class)).collect()
}

#[test]
fn finds_the_astronaut() {
    let (detections, genders) = recognise(&read_picture("pictures/astronaut.jpg"));
    let faces = faces(&detections);
    assert_eq!(faces.len(), 1, "{faces:?}");
    // Measured by eye: from brow to chin and from temple to temple.
    let expected = BBox { x: 178.0, y: 76.0, w: 92.0, h: 92.0 };
    assert!(faces[0].bbox.iou(&expected) > 0.75, "{:?}", faces[0].bbox);
    let landmarks = faces[0].landmarks.unwrap();
    for (point, x, y) in [
        (landmarks.right_eye, 203.0, 100.0),
        (landmarks.left_eye, 247.0, 103.0),
        (landmarks.nose, 224.0, 123.0),
        (landmarks.mouth, 224.0, 145.0),
    ] {
        assert!((point.x - x).hypot(point.y - y) < 8.0, "{point:?} is not at ({x}, {y})");
    }
    assert!(genders[0].unwrap() < 0.35, "{genders:?}");
    assert!(labels(&detections).contains(&"person".into()), "{:?}", labels(&detections));
}

#[test]
fn finds_everyday_things() {
    for (picture, label) in [("pictures/chelsea.jpg", "cat"), ("pictures/coffee.jpg", "cup")] {
        let (detections, _) = recognise(&read_picture(picture));
        assert!(labels(&detections).contains(&label.into()), "{picture}: {:?}", labels(&detections));
    }
}

#[test]
fn a_tilted_head_is_levelled() {
    let upright = read_rgb("pictures/astronaut.jpg");
    for degrees in [-30.0, -15.0, 15.0, 30.0] {
        let (detections, genders) =
            recognise(&to_i420(&rotate(&upright, degrees)).into_picture(0, Instant::now()));
        let faces = faces(&detections);
        assert_eq!(faces.len(), 1, "{degrees} degrees");
        // One crop of this face is doubtful to the model; a track's vote over many is what decides.
        assert!(genders[0].unwrap() < 0.5, "{degrees} degrees: {genders:?}");
        let landmarks = faces[0].landmarks.unwrap();
        let eyes = (landmarks.left_eye.y - landmarks.right_eye.y)
            .atan2(landmarks.left_eye.x - landmarks.right_eye.x);
        assert!(
            (eyes.to_degrees() - degrees).abs() < 10.0,
            "{degrees} degrees seen as {}",
            eyes.to_degrees()
        );
    }
}

#[test]
fn every_picture_can_be_recognised() {
    for (width, height) in [(640, 480), (1, 1), (2, 1), (1, 3), (4096, 2160), (33, 1001)] {
        let (detections, _) = recognise(&I420Buffer::black(width, height).into_picture(0, Instant::now()));
        assert!(faces(&detections).is_empty(), "{width}x{height}: {detections:?}");
    }
}

#[test]
fn a_picture_gives_the_same_detections_every_time() {
    let picture = read_picture("pictures/astronaut.jpg");
    let first = recognise(&picture);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn({
                let picture = picture.clone();
                move || recognise(&picture)
            })
        })
        .collect();
    for thread in threads {
        assert_eq!(thread.join().unwrap(), first);
    }
}

#[test]
fn a_batch_gives_what_single_runs_give() {
    let (path, _) = common::model("faceres");
    let mut engine = OrtEngine::load(&common::runtime(), &path, Device::Cpu, 1).unwrap();
    let crop = |seed: usize| {
        (0..224 * 224 * 3).map(|at| ((at * 31 + at / 700 * seed) % 251) as u8).collect::<Vec<u8>>()
    };
    let gender = |engine: &mut OrtEngine, rows: usize, data: Vec<u8>| {
        let outputs = engine.run(&Tensor::u8(&[rows, 224, 224, 3], data)).unwrap();
        vigie::models::heads::faceres::decode(&outputs, rows).unwrap()
    };
    let together = gender(&mut engine, 3, [crop(1), crop(2), crop(3)].concat());
    for (row, seed) in [1, 2, 3].into_iter().enumerate() {
        let alone = gender(&mut engine, 1, crop(seed))[0].unwrap();
        assert!((together[row].unwrap() - alone).abs() < 1e-5, "row {row}");
    }
}

#[test]
fn the_runtime_answers_clearly() {
    let runtime = common::runtime();
    let (path, _) = common::model("blazeface");
    let mut engine = OrtEngine::load(&runtime, &path, Device::Cuda(0), 1).unwrap();
    if engine.device_used().device == Device::Cpu {
        let reason = engine.device_used().fallback.clone().unwrap();
        assert!(reason.to_lowercase().contains("cuda"), "{reason}");
    }
    let description = engine.describe();
    assert_eq!(
        (description.inputs.len(), description.inputs[0].shape.as_slice()),
        (1, &[-1, 256, 256, 3][..])
    );
    assert_eq!(description.outputs.len(), 4);
    let error = engine.run(&Tensor::u8(&[1, 10, 10, 3], vec![0; 300])).unwrap_err().to_string();
    assert!(error.contains("blazeface"), "{error}");
    let error =
        engine.run(&Tensor::f32(&[1, 256, 256, 3], vec![0.0; 256 * 256 * 3])).unwrap_err().to_string();
    assert!(error.contains("failed to run"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("model.onnx");
    std::fs::write(&broken, b"not a graph").unwrap();
    let error = OrtEngine::load(&runtime, &broken, Device::Auto, 1).err().unwrap().to_string();
    assert!(error.contains("model.onnx"), "{error}");
    assert!(OrtEngine::load(&runtime, &folder.path().join("gone.onnx"), Device::Cpu, 1).is_err());
}

#[test]
fn streams_are_replayed_and_models_run_alone_on_any_device() {
    let folder = tempfile::tempdir().unwrap();
    let json = folder.path().join("gpu.json");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_vigie"));
    command.args([
        "bench",
        "gpu",
        "--device",
        "cpu",
        "--lanes",
        "1",
        "--decode",
        "nvdec:9",
        "--seconds",
        "1",
    ]);
    command.args(["--batches", "1,2", "--streams", "2", "--sizes", "192x144", "--json"]).arg(&json);
    let output = command.output().unwrap();
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let alone = report["alone"].as_array().unwrap();
    assert_eq!(alone.len(), 6, "{said}");
    assert!(alone.iter().all(|row| row["device"] == "cpu" && row["per_second"].as_f64().unwrap() > 0.0));
    let streams = &report["streams"][0];
    assert_eq!(streams["streams"], 2);
    assert!(streams["recognised_fps"].as_f64().unwrap() > 0.0, "{said}");
    assert!(streams["server_ms"]["p95"].as_f64().unwrap() > 0.0, "{said}");
}

/// One detection as the golden files keep it.
#[derive(Debug, Serialize, Deserialize)]
struct Golden {
    kind: Kind,
    label: String,
    score: f32,
    #[serde(rename = "box")]
    bbox: [f32; 4],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    male: Option<f32>,
}

fn golden_of(picture: &Picture) -> Vec<Golden> {
    let (detections, genders) = recognise(picture);
    let mut genders = genders.into_iter();
    let round = |value: f32, by: f32| (value * by).round() / by;
    let golden = |detection: &Detection| {
        let BBox { x, y, w, h } = detection.bbox;
        let (label, male) = match detection.kind {
            Kind::Face => ("face".into(), genders.next().flatten()),
            Kind::Object => (lab().label(Task::Objects, detection.class), None),
            Kind::Text => unreachable!("text was not asked for"),
        };
        Golden {
            kind: detection.kind,
            label,
            score: round(detection.score, 1e3),
            bbox: [x, y, w, h].map(|value| round(value, 10.0)),
            male: male.map(|value| round(value, 1e3)),
        }
    };
    detections.iter().map(golden).collect()
}

/// Run with `UPDATE_GOLDEN=1` to write the files anew; review the change as code.
#[test]
fn detections_stay_as_they_were() {
    for name in ["astronaut", "chelsea", "coffee"] {
        let found = golden_of(&read_picture(&format!("pictures/{name}.jpg")));
        let path = common::data(&format!("golden/{name}.json"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            let text = serde_json::to_string_pretty(&found).unwrap();
            std::fs::write(&path, text + "\n").unwrap();
            continue;
        }
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let expected: Vec<Golden> = serde_json::from_slice(&text).unwrap();
        assert_eq!(found.len(), expected.len(), "{name}: {found:#?}");
        for (ours, theirs) in found.iter().zip(&expected) {
            let is_near = |a: f32, b: f32, tolerance: f32| (a - b).abs() <= tolerance;
            let boxes = ours.bbox.iter().zip(theirs.bbox).all(|(&a, b)| is_near(a, b, 1.5));
            let scores = is_near(ours.score, theirs.score, 0.02);
            let males = is_near(ours.male.unwrap_or(-1.0), theirs.male.unwrap_or(-1.0), 0.02);
            let same = (ours.kind, &ours.label) == (theirs.kind, &theirs.label);
            assert!(same && boxes && scores && males, "{name}: {ours:?} was {theirs:?}");
        }
    }
}
