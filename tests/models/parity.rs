//! The converted models against the originals: ONNX Runtime here, TensorFlow.js when the files in
//! tests/data/models were made (models/reference/make_goldens.mjs).

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use vigie::inference::engine::Engine;
use vigie::inference::ort::{Device, Loading, OrtEngine};
use vigie::inference::rows::Part;
use vigie::inference::tensor::{Outputs, Tensor, TensorData};
use vigie::models::catalogue::MODELS;
use vigie::models::store::Store;

use crate::{root, runtime};

/// An engine with one of the models that vigie brings.
fn engine(name: &str) -> OrtEngine {
    OrtEngine::load(&runtime(), &model(name), Device::Cpu, 1).unwrap()
}

/// One of the models that vigie brings, as ./test fetched it.
fn model(name: &str) -> PathBuf {
    let folder = std::env::var_os("VIGIE_MODELS").map_or_else(|| root().join(".vigie/models"), PathBuf::from);
    let entry = MODELS.iter().find(|entry| entry.name == name).unwrap();
    let stored = Store::open(folder).check(name, entry.version);
    let stored = stored.unwrap_or_else(|fault| panic!("{fault} (./test fetches the models)"));
    assert_eq!(stored.manifest.sha256, entry.sha256, "{name} is not what this vigie makes: run ./test");
    stored.model
}

static ASTRONAUT: LazyLock<image::RgbImage> =
    LazyLock::new(|| image::open(root().join("tests/data/models/astronaut.png")).unwrap().into_rgb8());

/// The rectangle at (x, y) of the picture, a pixel every `step` of its pixels, as the originals had it.
fn cut(x: u32, y: u32, width: u32, height: u32, step: f64) -> Vec<u8> {
    let at = |origin: u32, index: u32| origin + (f64::from(index) * step) as u32;
    let rows = (0..height).flat_map(|row| (0..width).map(move |column| (at(x, column), at(y, row))));
    rows.flat_map(|(x, y)| ASTRONAUT.get_pixel(x, y).0).collect()
}

fn run(engine: &mut OrtEngine, pixels: &[u8], [batch, height, width]: [usize; 3]) -> Outputs {
    engine.run(&Tensor::u8(&[batch, height, width, 3], pixels.to_vec())).unwrap()
}

fn values<'a>(outputs: &'a Outputs, name: &str) -> &'a [f32] {
    outputs.find(name).unwrap_or_else(|| panic!("there is no output {name}")).as_f32().unwrap()
}

fn golden(name: &str) -> Vec<f32> {
    let bytes = fs::read(root().join("tests/data/models").join(name)).unwrap();
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

#[track_caller]
fn assert_close(what: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let differences = actual.iter().zip(expected).map(|(a, b)| (a - b).abs());
    let worst =
        differences.fold(
            0.0_f32,
            |worst, difference| if difference > worst || difference.is_nan() { difference } else { worst },
        );
    println!("{what}: largest difference {worst:e}");
    assert!(worst <= tolerance, "{what} differ by {worst}, {tolerance} is allowed");
}

#[test]
fn blazeface_gives_what_the_original_gives() {
    let outputs = run(&mut engine("blazeface"), &cut(0, 0, 256, 256, 2.0), [1, 256, 256]);
    let both = |near, far| [values(&outputs, near), values(&outputs, far)].concat();
    let logits = both("Identity", "Identity_1");
    assert_close("logits", &logits, &golden("blazeface_logits.f32"), 1e-3);
    assert_close("boxes (pixels)", &both("Identity_2", "Identity_3"), &golden("blazeface_boxes.f32"), 1e-3);
    assert!(logits.iter().any(|&logit| logit > 0.0), "there is a face in the picture");
}

#[test]
fn faceres_gives_what_the_original_gives() {
    let outputs = run(&mut engine("faceres"), &cut(157, 58, 224, 224, 0.603), [1, 224, 224]);
    assert_eq!(outputs.0.len(), 1, "nothing else about a face leaves the model");
    let golden = golden("faceres_gender.f32");
    assert_close("probabilities", values(&outputs, "gender_pred_Sigmoid"), &golden, 1e-5);
    assert!(golden[0] < 0.5, "the output is the probability of looking male, and she looks female");
}

#[test]
fn centernet_gives_what_the_original_gives_at_any_size() {
    let mut engine = engine("centernet");
    for (width, height) in [(512, 512), (320, 256)] {
        let outputs = run(&mut engine, &cut(0, 0, width, height, 1.0), [1, height as usize, width as usize]);
        let expected = golden(&format!("centernet_{width}x{height}.f32"));
        compare_detections(values(&outputs, "detections"), &expected, 1e-2, 1e-3);
        assert_eq!(expected[5], 0.0, "a person is what stands out");
    }
}

/// Holds two lists of 100 detections together; neighbours in score may have changed places.
fn compare_detections(actual: &[f32], expected: &[f32], pixels: f32, score: f32) {
    assert_eq!((actual.len(), expected.len()), (600, 600));
    let mut rest: Vec<&[f32; 6]> = actual.as_chunks().0.iter().collect();
    let (mut worst_box, mut worst_score) = (0.0_f32, 0.0_f32);
    for wanted in expected.as_chunks::<6>().0 {
        let distance =
            |found: &[f32; 6]| (0..4).map(|side| (found[side] - wanted[side]).abs()).fold(0.0, f32::max);
        let same = rest.iter().position(|found| found[5] == wanted[5] && distance(found) <= pixels);
        let found = rest.remove(same.unwrap_or_else(|| panic!("{wanted:?} was not found")));
        worst_box = worst_box.max(distance(found));
        worst_score = worst_score.max((found[4] - wanted[4]).abs());
    }
    println!("boxes: largest difference {worst_box:e} pixels, scores: {worst_score:e}");
    assert!(worst_score <= score, "scores differ by {worst_score}, {score} is allowed");
    let falls = actual.as_chunks::<6>().0.windows(2).all(|pair| pair[0][4] >= pair[1][4]);
    assert!(falls, "the best come first");
}

#[test]
fn a_batch_of_four_is_four_single_runs() {
    let cases: [(&str, usize, usize); 3] =
        [("blazeface", 256, 256), ("faceres", 224, 224), ("centernet", 256, 320)];
    for (name, height, width) in cases {
        let mut engine = engine(name);
        let (w, h) = (width as u32, height as u32);
        let pictures = [(0, 0), (152, 48), (96, 200), (190, 120)].map(|(x, y)| cut(x, y, w, h, 1.0));
        let batch = run(&mut engine, &pictures.concat(), [4, height, width]);
        for (index, picture) in pictures.iter().enumerate() {
            let single = run(&mut engine, picture, [1, height, width]);
            for (output, tensor) in &single.0 {
                let TensorData::F32(alone) = &tensor.data else { panic!("{output} is not of floats") };
                let together = &values(&batch, output)[index * alone.len()..][..alone.len()];
                assert_eq!(together, alone, "{name} {output}, picture {index}");
            }
        }
    }
}

#[test]
fn the_inputs_and_outputs_are_those_that_heads_expect() {
    let ports = |name| {
        let description = engine(name).describe();
        let named = |ports: Vec<vigie::inference::engine::Port>| {
            ports.into_iter().map(|port| (port.name, port.shape)).collect::<Vec<_>>()
        };
        (named(description.inputs), named(description.outputs))
    };
    let port = |name: &str, shape: &[i64]| (name.to_owned(), shape.to_vec());
    let (inputs, outputs) = ports("blazeface");
    assert_eq!(inputs, [port("input", &[-1, 256, 256, 3])]);
    assert_eq!(
        outputs,
        [
            port("Identity", &[-1, 512, 1]),
            port("Identity_1", &[-1, 384, 1]),
            port("Identity_2", &[-1, 512, 16]),
            port("Identity_3", &[-1, 384, 16]),
        ]
    );
    let (inputs, outputs) = ports("faceres");
    assert_eq!(
        (inputs, outputs),
        (vec![port("input", &[-1, 224, 224, 3])], vec![port("gender_pred_Sigmoid", &[-1, 1])])
    );
    let (inputs, outputs) = ports("centernet");
    assert_eq!(
        (inputs, outputs),
        (vec![port("input", &[-1, -1, -1, 3])], vec![port("detections", &[-1, 100, 6])])
    );
}

/// Runs requests of so many rows as one batch of a session that may have more, as a GPU's lanes do.
#[track_caller]
fn assert_batch_gives_what_single_runs_give(engine: &mut OrtEngine, rows: &[usize]) {
    let mut alone = self::engine("blazeface");
    let inputs: Vec<Tensor> = (rows.iter().enumerate())
        .map(|(request, &rows)| {
            let cut = |row| cut(40 * request as u32, 30 * row as u32, 256, 256, 1.0);
            Tensor::u8(&[rows, 256, 256, 3], (0..rows).flat_map(cut).collect())
        })
        .collect();
    let mut outputs = vec![Outputs::default(); rows.len()];
    let parts = inputs.iter().zip(&mut outputs).map(|(input, outputs)| Part { input, outputs });
    engine.run_batch(&mut parts.collect::<Vec<_>>()).unwrap();
    for (input, outputs) in inputs.iter().zip(&outputs) {
        let expected = alone.run(input).unwrap();
        assert_eq!(outputs.0.len(), expected.0.len());
        for ((name, tensor), (expected_name, expected)) in outputs.0.iter().zip(&expected.0) {
            assert_eq!((name, &tensor.shape), (expected_name, &expected.shape));
            assert_close(name, tensor.as_f32().unwrap(), expected.as_f32().unwrap(), 1e-3);
        }
    }
}

#[test]
fn a_session_for_every_shape_gives_each_request_its_own_rows() {
    let usual = [1, 8].map(|rows| vec![rows, 256, 256, 3]).to_vec();
    let loading = Loading { usual, ..Loading::default() };
    let mut engine = OrtEngine::load_by_shape(&runtime(), &model("blazeface"), &loading).unwrap();
    assert_eq!(engine.most_rows(), Some(8));
    // Alone, as a part of a batch, as all of it, as more than what is ready, and again.
    for rows in [&[1][..], &[1, 2, 1], &[3, 5], &[6, 7], &[1, 1], &[1]] {
        assert_batch_gives_what_single_runs_give(&mut engine, rows);
    }
}

#[test]
fn lanes_share_the_sessions_of_every_shape() {
    let loading = Loading { usual: vec![vec![8, 256, 256, 3]], ..Loading::default() };
    let engine = OrtEngine::load_by_shape(&runtime(), &model("blazeface"), &loading).unwrap();
    let mut lanes = [engine.beside().unwrap(), engine];
    std::thread::scope(|scope| {
        for lane in &mut lanes {
            scope.spawn(|| {
                for rows in [&[2, 1][..], &[1, 4]] {
                    assert_batch_gives_what_single_runs_give(lane, rows);
                }
            });
        }
    });
}
