use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::frame::{BBox, I420Buffer, Kind};
use crate::inference::engine::Engine;
use crate::inference::service::{Options, Service};
use crate::inference::tensor::{Outputs, TensorData};
use crate::models::manifest::{Fit, Head, Input, InputFormat, Provenance, Thresholds};
use crate::models::traffic::{Share, Split, Variant, Visitor};

/// Reads coloured squares as a detector would: a red one is an object of class 0, a blue one of class 1.
struct FakeDetector;

impl Engine for FakeDetector {
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
        let TensorData::U8(rgb) = &input.data else { panic!("the manifest says u8") };
        let width = input.shape[2];
        let mut peaks = Vec::new();
        for class in [0, 1] {
            let is_ours = |pixel: &[u8]| {
                if class == 0 { pixel[0] > 180 && pixel[2] < 90 } else { pixel[2] > 180 && pixel[0] < 90 }
            };
            let inside = rgb
                .chunks(3)
                .enumerate()
                .filter(|(_, pixel)| is_ours(pixel))
                .map(|(at, _)| (at % width, at / width));
            let (mut from, mut to) = ((usize::MAX, usize::MAX), (0, 0));
            for (x, y) in inside {
                from = (from.0.min(x), from.1.min(y));
                to = (to.0.max(x + 1), to.1.max(y + 1));
            }
            if to > (0, 0) {
                peaks.extend([
                    from.0 as f32,
                    from.1 as f32,
                    to.0 as f32,
                    to.1 as f32,
                    0.9 - 0.3 * class as f32,
                    class as f32,
                ]);
            }
        }
        let shape = [1, peaks.len() / 6, 6];
        Ok(Outputs(vec![("detections".into(), Tensor::f32(&shape, peaks))]))
    }
}

/// Says of each crop how bright its middle is.
struct FakeClassifier;

impl Engine for FakeClassifier {
    fn run(&mut self, input: &Tensor) -> Result<Outputs, EngineError> {
        let TensorData::U8(rgb) = &input.data else { panic!("the manifest says u8") };
        let crops = input.shape[0];
        let bytes = rgb.len() / crops;
        let middle = |crop: &[u8]| {
            f32::from(crop[(input.shape[1] / 2 * input.shape[2] + input.shape[2] / 2) * 3]) / 255.0
        };
        let values = rgb.chunks(bytes).map(middle).collect();
        Ok(Outputs(vec![("gender".into(), Tensor::f32(&[crops, 1], values))]))
    }
}

fn manifest(task: Task, head: Head, size: u32, fit: Fit) -> Manifest {
    Manifest {
        name: format!("{task:?}").to_lowercase(),
        version: 3,
        task,
        labels: vec!["red".into(), "blue".into()],
        input: Input {
            name: "input".into(),
            format: InputFormat::RgbU8Nhwc,
            size,
            height: None,
            batch: None,
            size_input: None,
            fit,
        },
        head,
        thresholds: Thresholds { score: 0.5, iou: 0.5, unsure: None, min_width: 10.0 },
        provenance: Provenance {
            source: "test".into(),
            upstream: "test".into(),
            licence: "test".into(),
            licence_note: String::new(),
        },
        sha256: String::new(),
        trial: None,
    }
}

fn objects_manifest() -> Manifest {
    manifest(Task::Objects, Head::Centernet, 64, Fit::TopLeft { fill: 114, multiple: 32 })
}

fn fixture() -> (Service, ModelSet) {
    let service = Service::start(Options::default(), Arc::new(())).unwrap();
    let models = ModelSet::default();
    service.install(ModelId(1), vec![Box::new(FakeDetector)], 1).unwrap();
    service.install(ModelId(2), vec![Box::new(FakeClassifier)], 4).unwrap();
    models.replace(Model::new(ModelId(1), objects_manifest()));
    let gender = manifest(Task::Gender, Head::Faceres, 16, Fit::FaceCrop { scale_percent: 100 });
    models.replace(Model::new(ModelId(2), gender));
    (service, models)
}

/// Y, U and V of the squares.
const RED: [u8; 3] = [81, 90, 240];
const BLUE: [u8; 3] = [41, 240, 110];
const WHITE: [u8; 3] = [235, 128, 128];

/// Paints a box whose edges lie on even pixels.
fn fill_rect(canvas: &mut I420Buffer, bbox: &BBox, colour: [u8; 3]) {
    for (index, value) in colour.into_iter().enumerate() {
        let part = if index == 0 { 1.0 } else { 0.5 };
        let edge = |at: f32| (at * part) as usize;
        let (rows, columns) = (edge(bbox.y)..edge(bbox.y + bbox.h), edge(bbox.x)..edge(bbox.x + bbox.w));
        let (data, width, _) = canvas.plane_mut(index);
        for row in data.chunks_exact_mut(width).take(rows.end).skip(rows.start) {
            row[columns.clone()].fill(value);
        }
    }
}

fn squares() -> Picture {
    let mut canvas = I420Buffer::black(128, 96);
    fill_rect(&mut canvas, &BBox { x: 16.0, y: 32.0, w: 32.0, h: 16.0 }, RED);
    fill_rect(&mut canvas, &BBox { x: 64.0, y: 8.0, w: 16.0, h: 64.0 }, BLUE);
    canvas.into_picture(0, Instant::now())
}

const OBJECTS: Tasks = Tasks { faces: false, gender: false, objects: true, text: false };

#[test]
fn finds_squares_where_they_are() {
    let (service, models) = fixture();
    let mut recogniser = Recogniser::new(service.handle(), models, 1);
    for (min_score, expected) in [
        (None, vec![(0, [16.0, 32.0, 32.0, 16.0]), (1, [64.0, 8.0, 16.0, 64.0])]),
        (Some(0.7), vec![(0, [16.0, 32.0, 32.0, 16.0])]),
        (Some(0.95), vec![]),
        (Some(f32::NAN), vec![(0, [16.0, 32.0, 32.0, 16.0]), (1, [64.0, 8.0, 16.0, 64.0])]),
    ] {
        let scores = MinScores { objects: min_score, ..MinScores::default() };
        let found = recogniser.detect(&squares(), &OBJECTS, &scores).unwrap();
        let flat = |d: &Detection| (d.class, [d.bbox.x, d.bbox.y, d.bbox.w, d.bbox.h]);
        assert_eq!(found.detections.iter().map(flat).collect::<Vec<_>>(), expected);
        assert_eq!(found.models, BTreeMap::from([("objects".into(), "3".into())]));
    }
    let nothing = Tasks { objects: false, ..OBJECTS };
    assert!(recogniser.detect(&squares(), &nothing, &MinScores::default()).unwrap().models.is_empty());
}

#[test]
fn classifies_every_face_that_is_large_enough() {
    let (service, models) = fixture();
    let mut canvas = I420Buffer::black(400, 40);
    let faces: Vec<Detection> = (0..19)
        .map(|index| {
            let width = if index % 3 == 0 { 9.0 } else { 20.0 };
            let bbox = BBox { x: 21.0 * index as f32, y: 10.0, w: width, h: 20.0 };
            if index % 2 == 0 {
                fill_rect(&mut canvas, &bbox, WHITE);
            }
            Detection { kind: Kind::Face, class: 0, score: 1.0, bbox, landmarks: None }
        })
        .collect();
    let picture = canvas.into_picture(0, Instant::now());
    let recogniser = Recogniser::new(service.handle(), models, 1);
    let genders = recogniser.classify(&Slot::Gender, &picture, &faces).unwrap();
    for (index, gender) in genders.into_iter().enumerate() {
        let expected = (index % 3 != 0).then_some(Answer::Male(if index % 2 == 0 { 1.0 } else { 0.0 }));
        assert_eq!(gender, expected, "face {index}");
    }
    assert_eq!(recogniser.classify(&Slot::Gender, &picture, &[]).unwrap(), []);
}

#[test]
fn says_which_model_failed_and_why() {
    let (service, models) = fixture();
    let mut recogniser = Recogniser::new(service.handle(), models.clone(), 1);
    let error = recogniser.detect(&squares(), &Tasks::USUAL, &MinScores::default()).unwrap_err();
    assert!(matches!(error, RecogniseError::NoModel(Slot::Faces)), "{error}");
    // The classifier's outputs are not a detector's.
    models.replace(Model::new(ModelId(2), objects_manifest()));
    let error = recogniser.detect(&squares(), &OBJECTS, &MinScores::default()).unwrap_err();
    assert_eq!(error.to_string(), "model objects 3 gave unreadable outputs");
    drop(service);
    let error = recogniser.detect(&squares(), &OBJECTS, &MinScores::default()).unwrap_err();
    assert!(matches!(error, RecogniseError::Infer { source: EngineError::Stopped, .. }), "{error}");
}

#[test]
fn models_are_swapped_under_a_recogniser() {
    let (service, models) = fixture();
    let handle = service.handle();
    let stop = AtomicBool::new(false);
    let recognised = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut recogniser = Recogniser::new(handle.clone(), models.clone(), 1);
            while !stop.load(Ordering::Acquire) {
                let found = recogniser.detect(&squares(), &OBJECTS, &MinScores::default());
                // Counted even on failure, so that the swapping below always ends.
                recognised.fetch_add(1, Ordering::Release);
                assert_eq!(found.unwrap().detections.len(), 2);
            }
        });
        for id in 10..40 {
            let before = recognised.load(Ordering::Acquire);
            service.install(ModelId(id), vec![Box::new(FakeDetector)], 1).unwrap();
            let old = models.replace(Model::new(ModelId(id), objects_manifest())).unwrap();
            // A picture may be on its way to the old engine right now; it must not be lost.
            service.remove(old.stable.id);
            while recognised.load(Ordering::Acquire) < before + 2 {
                std::thread::yield_now();
            }
        }
        stop.store(true, Ordering::Release);
    });
}

#[test]
fn visitors_see_their_own_models_and_files_what_was_there() {
    let model =
        |id, name: &str| Model::new(ModelId(id), Manifest { name: name.into(), ..objects_manifest() });
    let models = ModelSet::default();
    let variant = Variant { model: model(2, "variant"), attribute: "a".into(), equals: "b".into() };
    let shadow = Some(Share { model: model(3, "shadow"), percent: 10 });
    let split = Split { variants: vec![variant], shadow, ..Split::all(model(1, "stable")) };
    assert!(models.serve(Slot::Objects, split).is_none());
    let name = |models: &ModelSet| models.find(&Slot::Objects).unwrap().manifest.name.clone();
    let of_b = models.seen_by(Visitor::named("x", BTreeMap::from([("a".into(), "b".into())])));
    assert_eq!((name(&models), name(&of_b)), ("stable".into(), "variant".into()));
    assert_eq!(of_b.shadow(&Slot::Objects).unwrap().model.manifest.name, "shadow");
    let loaded: Vec<u32> = models.loaded().iter().map(|model| model.id.0).collect();
    assert_eq!(loaded, [1, 2, 3]);
    assert!(of_b.find(&Slot::Faces).is_none());

    let pinned = of_b.pinned();
    let old = models.replace(model(4, "next")).unwrap();
    assert_eq!((name(&models), name(&of_b), name(&pinned)), ("next".into(), "next".into(), "variant".into()));
    assert!(old.stable.is_held_elsewhere(), "by the file");
    drop(pinned);
    assert!(!old.stable.is_held_elsewhere(), "nobody can ask it any longer");
}

#[test]
fn how_a_model_does_is_noted() {
    let (service, models) = fixture();
    let mut recogniser = Recogniser::new(service.handle(), models.clone(), 1);
    let stable = models.find(&Slot::Objects).unwrap();
    recogniser.detect(&squares(), &OBJECTS, &MinScores::default()).unwrap();
    let tally = stable.figures.tally();
    assert_eq!((tally.runs, tally.errors, tally.times.total()), (1, 0, 1));
    // The classifier's outputs are not a detector's.
    let wrong = Model::new(ModelId(2), objects_manifest());
    models.replace(wrong.clone());
    recogniser.detect(&squares(), &OBJECTS, &MinScores::default()).unwrap_err();
    assert_eq!((wrong.figures.tally().runs, wrong.figures.tally().errors), (1, 1));
    // That there is no such engine is nobody's run.
    let gone = Model::new(ModelId(9), objects_manifest());
    models.replace(gone.clone());
    recogniser.detect(&squares(), &OBJECTS, &MinScores::default()).unwrap_err();
    assert_eq!(gone.figures.tally().runs, 0);
}

#[test]
fn a_shadow_looks_while_there_is_room() {
    let (service, models) = fixture();
    let recogniser = Recogniser::new(service.handle(), models, 1);
    let shadow = Model::new(ModelId(1), objects_manifest());
    let shadowing = recogniser.begin_shadow(shadow.clone(), &squares()).unwrap().expect("the lane is idle");
    assert_eq!(recogniser.finish_shadow(shadowing, None).unwrap().len(), 2);
    // With every place taken, somebody who waits for a turn is not made to wait longer.
    let turns: Vec<_> = (0..3).map(|asker| service.handle().ask_turn(asker, false)).collect();
    assert!(recogniser.begin_shadow(shadow, &squares()).unwrap().is_none());
    drop(turns);
}
