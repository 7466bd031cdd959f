//! Models of a person's own, from the file to boxes on a picture, through the command line.
//!
//! The graphs are written here with the inputs, outputs, names and metadata of their exporters, and weights
//! such that known boxes come out of bright places in a picture.

use std::path::Path;
use std::process::{Command, Output};

use image::{Rgb, RgbImage};
use serde_json::Value;
use vigie::inference::engine::Engine;
use vigie::inference::ort::OrtEngine;
use vigie::inference::tensor::{Outputs, Tensor};
use vigie::models::catalogue::MODELS;
use vigie::models::check::{Element, Port};
use vigie::models::heads::recognise::{self, Shape, Signature, Wishes};
use vigie::pipeline::detect::detect;
use vigie::pipeline::prepare::prepare;

use crate::onnx::{FLOAT, Graph, INT64, Message, Model, floats, integers, node, value};
use crate::{root, runtime_path};

const SIDE: usize = 64;
const STRIDE: usize = 8;
const CELLS: usize = SIDE / STRIDE;

/// A picture of 128 by 128 that is black but for one square, which is 16 wide and stands at (48, 80): in an
/// input of 64 by 64 the cell of column 3, row 5.
pub fn picture(colour: [u8; 3]) -> RgbImage {
    RgbImage::from_fn(128, 128, |x, y| {
        let is_inside = (48..64).contains(&x) && (80..96).contains(&y);
        Rgb(if is_inside { colour } else { [0; 3] })
    })
}

/// A vigie that keeps its models in `folder`.
pub fn vigie(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vigie"));
    command
        .current_dir(root())
        .env("VIGIE_MODELS", folder.join("models"))
        .env("VIGIE_ORT_LIBRARY", runtime_path());
    command.args(arguments).output().unwrap()
}

pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Adds a model, and what its trial on the picture of a square says.
pub fn add(folder: &Path, name: &str, model: &Model, colour: [u8; 3], more: &[&str]) -> Value {
    let file = folder.join(format!("{name}.onnx"));
    std::fs::write(&file, model.bytes()).unwrap();
    let square = folder.join("square.png");
    picture(colour).save(&square).unwrap();
    let mut arguments =
        vec!["models", "add", file.to_str().unwrap(), "--json", "--picture", square.to_str().unwrap()];
    arguments.extend(more);
    let output = vigie(folder, &arguments);
    assert!(output.status.success(), "{name}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// How bright each cell of channel `channel` is, as `cells [1, 1, 64]`.
fn brightness(channel: usize) -> Graph {
    let mut weights = vec![0.0; 3 * STRIDE * STRIDE];
    weights[channel * STRIDE * STRIDE..][..STRIDE * STRIDE].fill(1.0 / (STRIDE * STRIDE) as f32);
    let stride = STRIDE as i64;
    Graph {
        nodes: vec![
            node("Conv", &["images", "average"], &["grid"]).with_ints("strides", &[stride, stride]),
            node("Reshape", &["grid", "row"], &["cells"]),
        ],
        initialisers: vec![
            floats("average", &[1, 3, stride, stride], &weights),
            integers("row", &[3], &[1, 1, (CELLS * CELLS) as i64]),
        ],
        inputs: vec![value("images", FLOAT, &[1, 3, SIDE as i64, SIDE as i64])],
        ..Graph::default()
    }
}

/// Centre and size of every cell of an 8-pixel grid, a list for each of the four, with nothing for the
/// cells of coarser grids behind.
fn cell_boxes(anchors: usize) -> [Vec<f32>; 4] {
    let middle = |cell: usize| (cell as f32 + 0.5) * STRIDE as f32;
    let list = |value: &dyn Fn(usize) -> f32| {
        let mut list: Vec<f32> = (0..CELLS * CELLS).map(value).collect();
        list.resize(anchors, 0.0);
        list
    };
    let side = |_| STRIDE as f32;
    [list(&|cell| middle(cell % CELLS)), list(&|cell| middle(cell / CELLS)), list(&side), list(&side)]
}

/// Cells of three grids.
const ANCHORS: usize = 64 + 16 + 4;

/// A detector of `[1, 4 + 2, 84]`, whose second class is a bright cell.
pub fn yolo_v8() -> Model {
    let mut graph = brightness(0);
    graph.initialisers.extend([
        floats("boxes", &[1, 4, ANCHORS as i64], &cell_boxes(ANCHORS).concat()),
        floats("none", &[1, 1, ANCHORS as i64], &[0.0; ANCHORS]),
        floats("coarse", &[1, 1, 20], &[0.0; 20]),
    ]);
    graph.nodes.extend([
        node("Concat", &["cells", "coarse"], &["scores"]).with_int("axis", 2),
        node("Concat", &["boxes", "none", "scores"], &["output0"]).with_int("axis", 1),
    ]);
    graph.outputs = vec![value("output0", FLOAT, &[1, 6, ANCHORS as i64])];
    Model::of(graph).with_metadata(&[
        ("description", "Ultralytics YOLO11n model"),
        ("author", "Ultralytics"),
        ("task", "detect"),
        ("stride", "32"),
        ("imgsz", "[64, 64]"),
        ("names", "{0: 'dark thing', 1: 'bright thing'}"),
    ])
}

/// The bright square where the picture has it.
pub fn assert_square(report: &Value, label: &str) {
    let findings = report["trial"]["findings"].as_array().unwrap();
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0]["label"], label);
    assert!(findings[0]["score"].as_f64().unwrap() > 0.95, "{findings:?}");
    let bbox: Vec<f64> =
        findings[0]["box"].as_array().unwrap().iter().map(|side| side.as_f64().unwrap()).collect();
    for (side, expected) in bbox.iter().zip([48.0, 80.0, 16.0, 16.0]) {
        assert!((side - expected).abs() < 0.5, "{bbox:?}");
    }
}

#[test]
fn a_yolo_export_is_taken_as_it_comes() {
    let folder = tempfile::tempdir().unwrap();
    let report = add(folder.path(), "my-yolo", &yolo_v8(), [255; 3], &[]);
    assert_eq!(report["manifest"]["head"], "yolo");
    assert_eq!(report["manifest"]["labels"], serde_json::json!(["dark thing", "bright thing"]));
    assert_eq!(
        report["notes"].as_array().unwrap().len(),
        1,
        "only how pixels are given: {}",
        report["notes"]
    );
    assert_square(&report, "bright thing");
    let drawn = image::open(report["picture"].as_str().unwrap()).unwrap().into_rgb8();
    assert_eq!(drawn.dimensions(), (128, 128));
    // Known again, and told apart when it is to be read otherwise.
    let again = add(folder.path(), "my-yolo", &yolo_v8(), [255; 3], &[]);
    assert_eq!((&again["version"], &again["was_known"]), (&1.into(), &true.into()));
    let other = add(folder.path(), "my-yolo", &yolo_v8(), [255; 3], &["--score", "0.9"]);
    assert_eq!((&other["version"], &other["was_known"]), (&2.into(), &false.into()));
    let listed = vigie(folder.path(), &["models", "list"]);
    assert_eq!(text(&listed).matches("my-yolo").count(), 2);
    assert!(vigie(folder.path(), &["models", "check"]).status.success());
    assert!(vigie(folder.path(), &["models", "remove", "my-yolo@2"]).status.success());
    assert!(!vigie(folder.path(), &["models", "remove", "my-yolo@2"]).status.success());
}

#[test]
fn what_a_person_says_of_pixels_is_kept_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    // The first channel is looked at: a red square is bright in RGB alone.
    assert_square(&add(path, "rgb", &yolo_v8(), [255, 0, 0], &[]), "bright thing");
    let report = add(path, "bgr", &yolo_v8(), [255, 0, 0], &["--channels", "bgr"]);
    assert_eq!(report["trial"]["findings"].as_array().unwrap().len(), 0);
    assert_square(&add(path, "bgr", &yolo_v8(), [0, 0, 255], &["--channels", "bgr"]), "bright thing");
    let report = add(path, "halved", &yolo_v8(), [255; 3], &["--mean", "127.5", "--std", "255"]);
    let score = report["trial"]["findings"][0]["score"].as_f64().unwrap();
    assert!((score - 0.5).abs() < 0.02, "{score}");
}

#[test]
fn rows_of_anchors_are_told_apart_by_their_number() {
    let folder = tempfile::tempdir().unwrap();
    // v5 has three anchors a cell; they stand one behind the other here.
    let mut graph = brightness(0);
    let anchors = 3 * ANCHORS;
    let ones = vec![1.0; anchors];
    graph.initialisers.extend([
        floats("boxes", &[1, 4, anchors as i64], &cell_boxes(anchors).concat()),
        floats("sure", &[1, 1, anchors as i64], &ones),
        floats("coarse", &[1, 1, (anchors - 64) as i64], &ones[64..].iter().map(|_| 0.0).collect::<Vec<_>>()),
    ]);
    graph.nodes.extend([
        node("Concat", &["cells", "coarse"], &["scores"]).with_int("axis", 2),
        node("Concat", &["boxes", "sure", "scores"], &["columns"]).with_int("axis", 1),
        node("Transpose", &["columns"], &["output"]).with_ints("perm", &[0, 2, 1]),
    ]);
    graph.outputs = vec![value("output", FLOAT, &[1, -1, 6])];
    let report =
        add(folder.path(), "five", &Model::of(graph).with_metadata(&[("names", "['lamp']")]), [255; 3], &[]);
    assert_eq!(report["manifest"]["head"], "yolo-v5");
    assert_square(&report, "lamp");

    // YOLOX: one a cell, relative to it, pixels as they are, in BGR.
    let mut graph = brightness(2);
    let mut relative =
        [vec![0.5; ANCHORS], vec![0.5; ANCHORS], vec![0.0; ANCHORS], vec![0.0; ANCHORS]].concat();
    relative.truncate(4 * ANCHORS);
    graph.initialisers.extend([
        floats("boxes", &[1, 4, ANCHORS as i64], &relative),
        floats("sure", &[1, 1, ANCHORS as i64], &[1.0; ANCHORS]),
        floats("coarse", &[1, 1, 20], &[0.0; 20]),
        floats("whole", &[1], &[255.0]),
    ]);
    graph.nodes.extend([
        node("Div", &["cells", "whole"], &["parts"]),
        node("Concat", &["parts", "coarse"], &["scores"]).with_int("axis", 2),
        node("Concat", &["boxes", "sure", "scores"], &["columns"]).with_int("axis", 1),
        node("Transpose", &["columns"], &["output"]).with_ints("perm", &[0, 2, 1]),
    ]);
    graph.outputs = vec![value("output", FLOAT, &[1, ANCHORS as i64, 6])];
    let report = add(folder.path(), "x", &Model::of(graph), [255, 0, 0], &["--labels", "lamp"]);
    assert_eq!(report["manifest"]["head"], "yolox");
    assert_square(&report, "lamp");
}

/// The best cell, as `[1, 1, 1]` tensors: how bright it is, and its number.
fn best_cell() -> Graph {
    let mut graph = brightness(0);
    graph.nodes.extend([
        node("ReduceMax", &["cells"], &["bright"]).with_ints("axes", &[2]),
        node("ArgMax", &["cells"], &["which"]).with_int("axis", 2),
        node("Reshape", &["which", "one"], &["index"]),
    ]);
    graph.initialisers.push(integers("one", &[1], &[1]));
    graph
}

#[test]
fn finished_detections_need_labels() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = best_cell();
    let corners: Vec<f32> = (0..64)
        .flat_map(|cell| {
            let (x, y) = ((cell % CELLS * STRIDE) as f32, (cell / CELLS * STRIDE) as f32);
            [x, y, x + STRIDE as f32, y + STRIDE as f32]
        })
        .collect();
    graph
        .initialisers
        .extend([floats("corners", &[1, 64, 4], &corners), floats("class", &[1, 1, 1], &[1.0])]);
    graph.nodes.extend([
        node("Gather", &["corners", "index"], &["box"]).with_int("axis", 1),
        node("Concat", &["box", "bright", "class"], &["output0"]).with_int("axis", 2),
    ]);
    graph.outputs = vec![value("output0", FLOAT, &[1, -1, 6])];
    let model = Model::of(graph);
    let file = folder.path().join("ten.onnx");
    std::fs::write(&file, model.bytes()).unwrap();
    let refused = vigie(folder.path(), &["models", "add", file.to_str().unwrap()]);
    let said = text(&refused);
    assert!(
        !refused.status.success() && said.contains("--labels") && said.contains("output0 [1, 1, 6]"),
        "{said}"
    );
    assert!(said.contains("(unclear)"), "{said}");
    let report = add(folder.path(), "ten", &model, [255; 3], &["--labels", "dark, bright"]);
    assert_eq!(report["manifest"]["head"], "yolo-end2end");
    assert_square(&report, "bright");
}

#[test]
fn pairs_of_logits_and_boxes_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = best_cell();
    let parts: Vec<f32> = (0..64)
        .flat_map(|cell| {
            let middle = |cell: usize| (cell as f32 + 0.5) / CELLS as f32;
            [middle(cell % CELLS), middle(cell / CELLS), 0.125, 0.125]
        })
        .collect();
    graph.initialisers.extend([
        floats("parts", &[1, 64, 4], &parts),
        floats("ten", &[1], &[10.0]),
        floats("five", &[1], &[5.0]),
        floats("no", &[1, 1, 1], &[-9.0]),
    ]);
    graph.nodes.extend([
        node("Gather", &["parts", "index"], &["pred_boxes"]).with_int("axis", 1),
        node("Mul", &["bright", "ten"], &["tenfold"]),
        node("Sub", &["tenfold", "five"], &["logit"]),
        node("Concat", &["no", "logit"], &["logits"]).with_int("axis", 2),
    ]);
    graph.outputs = vec![value("logits", FLOAT, &[1, -1, 2]), value("pred_boxes", FLOAT, &[1, -1, 4])];
    let report = add(folder.path(), "detr", &Model::of(graph), [255; 3], &["--labels", "dark,bright"]);
    assert_eq!(report["manifest"]["head"], "detr");
    assert_square(&report, "bright");
}

/// As Ultralytics writes RT-DETR since 8.4: finished detections, but by centre and size as parts of the input.
#[test]
fn finished_detections_of_rt_detr_are_told_from_yolos() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = best_cell();
    let parts: Vec<f32> = (0..64)
        .flat_map(|cell| {
            let middle = |cell: usize| (cell as f32 + 0.5) / CELLS as f32;
            [middle(cell % CELLS), middle(cell / CELLS), 0.125, 0.125]
        })
        .collect();
    graph.initialisers.extend([floats("parts", &[1, 64, 4], &parts), floats("class", &[1, 1, 1], &[1.0])]);
    graph.nodes.extend([
        node("Gather", &["parts", "index"], &["box"]).with_int("axis", 1),
        node("Concat", &["box", "bright", "class"], &["output0"]).with_int("axis", 2),
    ]);
    graph.outputs = vec![value("output0", FLOAT, &[-1, -1, 6])];
    let model = Model::of(graph).with_metadata(&[
        ("description", "Ultralytics best model"),
        ("author", "Ultralytics"),
        ("task", "detect"),
        ("head", "RTDETRDecoder"),
        ("end2end", "False"),
        ("names", "{0: 'dark thing', 1: 'bright thing'}"),
    ]);
    let report = add(folder.path(), "rtdetr", &model, [255; 3], &[]);
    assert_eq!(report["manifest"]["head"], "detr-end2end");
    assert_square(&report, "bright thing");
}

/// As torchvision's detectors are exported: no batch in the outputs.
#[test]
fn three_outputs_without_a_batch_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = best_cell();
    let corners: Vec<f32> = (0..64)
        .flat_map(|cell| {
            let (x, y) = ((cell % CELLS * STRIDE) as f32, (cell / CELLS * STRIDE) as f32);
            [x, y, x + STRIDE as f32, y + STRIDE as f32]
        })
        .collect();
    graph.initialisers.extend([floats("corners", &[64, 4], &corners), integers("labels_in", &[1], &[1])]);
    graph.nodes.extend([
        node("Gather", &["corners", "index"], &["boxes"]).with_int("axis", 0),
        node("Reshape", &["bright", "one"], &["scores"]),
        node("Identity", &["labels_in"], &["labels"]),
    ]);
    graph.outputs =
        vec![value("boxes", FLOAT, &[-1, 4]), value("scores", FLOAT, &[-1]), value("labels", INT64, &[-1])];
    let report = add(folder.path(), "vision", &Model::of(graph), [255; 3], &["--labels", "dark,bright"]);
    assert_eq!(report["manifest"]["head"], "boxes");
    assert_square(&report, "bright");
}

#[test]
fn a_second_input_is_told_the_pictures_size() {
    let folder = tempfile::tempdir().unwrap();
    // As RT-DETR's authors export it: boxes as parts, times the size that is asked for.
    let mut graph = best_cell();
    let parts: Vec<f32> = (0..64)
        .flat_map(|cell| {
            let (x, y) = ((cell % CELLS) as f32 / 8.0, (cell / CELLS) as f32 / 8.0);
            [x, y, x + 0.125, y + 0.125]
        })
        .collect();
    graph.initialisers.extend([
        floats("parts", &[1, 64, 4], &parts),
        integers("flat", &[2], &[1, 1]),
        integers("label", &[1, 1], &[1]),
    ]);
    let cast = |from: &str, to: &str, kind| node("Cast", &[from], &[to]).with_int("to", kind);
    graph.nodes.extend([
        node("Gather", &["parts", "index"], &["box"]).with_int("axis", 1),
        cast("orig_target_sizes", "size", FLOAT),
        node("Concat", &["size", "size"], &["sizes"]).with_int("axis", 1),
        node("Mul", &["box", "sizes"], &["boxes"]),
        node("Reshape", &["bright", "flat"], &["scores"]),
        node("Identity", &["label"], &["labels"]),
    ]);
    graph.inputs.push(value("orig_target_sizes", INT64, &[1, 2]));
    graph.outputs = vec![
        value("labels", INT64, &[1, -1]),
        value("boxes", FLOAT, &[1, -1, 4]),
        value("scores", FLOAT, &[1, -1]),
    ];
    let report = add(folder.path(), "rtdetr", &Model::of(graph), [255; 3], &["--labels", "dark,bright"]);
    assert_eq!(report["manifest"]["head"], "boxes");
    assert_square(&report, "bright");
}

#[test]
fn a_classifier_lists_what_it_sees() {
    let folder = tempfile::tempdir().unwrap();
    let mut graph = brightness(0);
    graph.initialisers.extend([floats("many", &[1], &[64.0]), floats("zero", &[1, 2], &[0.0; 2])]);
    graph.nodes.extend([
        node("ReduceMax", &["cells"], &["bright"]).with_ints("axes", &[2]).with_int("keepdims", 0),
        node("Concat", &["zero", "bright"], &["logits"]).with_int("axis", 1),
        node("Mul", &["logits", "many"], &["output0"]),
    ]);
    graph.outputs = vec![value("output0", FLOAT, &[1, 3])];
    let report = add(folder.path(), "kinds", &Model::of(graph), [255; 3], &["--labels", "a,b,lit"]);
    assert_eq!(report["manifest"]["task"], "classes");
    assert_eq!(report["trial"]["findings"][0]["label"], "lit");
}

#[test]
fn a_model_that_is_named_is_the_one_that_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let brought = std::env::var_os("VIGIE_MODELS").map_or_else(|| root().join(".vigie/models"), Into::into);
    for name in ["blazeface", "faceres", "centernet"] {
        std::fs::create_dir_all(path.join("models").join(name)).unwrap();
        std::os::unix::fs::symlink(brought.join(name).join("1"), path.join("models").join(name).join("1"))
            .unwrap();
    }
    add(path, "lamps", &yolo_v8(), [255; 3], &[]);
    add(path, "lamps", &yolo_v8(), [255; 3], &["--labels", "dark, lamp"]);
    let square = path.join("square.png");
    let found = |chosen: &[&str]| {
        let (output, lines) = (path.join("annotated.png"), path.join("found.jsonl"));
        let mut arguments = vec!["annotate", square.to_str().unwrap(), "-o", output.to_str().unwrap()];
        arguments.extend(["--lanes", "1", "--json", lines.to_str().unwrap()]);
        arguments.extend(chosen);
        let output = vigie(path, &arguments);
        assert!(output.status.success(), "{}", text(&output));
        let line: Value = serde_json::from_slice(&std::fs::read(lines).unwrap()).unwrap();
        let labels = line["detections"].as_array().unwrap().iter().map(|found| found["label"].clone());
        (line["models"].clone(), labels.collect::<Vec<_>>())
    };
    // A second version of one's own does not replace the first version of what vigie brings.
    assert_eq!(found(&[]).0, serde_json::json!({ "blazeface": "1", "centernet": "1" }));
    let (models, labels) = found(&["--model", "lamps"]);
    assert_eq!(
        (models, labels),
        (serde_json::json!({ "blazeface": "1", "lamps": "2" }), vec!["lamp".into()])
    );
    assert_eq!(found(&["--model", "lamps@1"]).1, ["bright thing"]);
    for (wrong, said) in
        [("lamps@9", "lamps@9"), ("nothing", "no model nothing"), ("lamps,centernet", "both for objects")]
    {
        let output = vigie(path, &["annotate", square.to_str().unwrap(), "-o", "/nowhere", "--model", wrong]);
        assert!(!output.status.success() && text(&output).contains(said), "{wrong}: {}", text(&output));
    }
}

#[test]
fn refusals_are_json_too() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("page.onnx");
    std::fs::write(&file, b"<html>").unwrap();
    let refused = vigie(folder.path(), &["models", "add", file.to_str().unwrap(), "--json"]);
    let body: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(body["error"]["code"], "not_onnx");
    assert!(!refused.status.success());
}

/// What two trained models gave for two photographs, as 16-bit floats: the heads against the real thing,
/// without the weights. `UPDATE_GOLDEN=1 VIGIE_OWN_MODELS=folder` makes them anew from the files named in
/// tests/data/models/SOURCES.md.
fn real_detections(
    model: &str,
    photograph: &str,
    names: &[(&str, &[usize])],
    side: i64,
) -> Vec<(u16, f32, [f32; 4])> {
    let photograph = std::fs::read(root().join("tests/data/pictures").join(photograph)).unwrap();
    let photograph = vigie::files::image::decode(&photograph).unwrap();
    let sides = |shape: &[i64]| shape.iter().map(|&side| usize::try_from(side).ok()).collect();
    let port = |name: &str, shape: &[i64]| Port {
        name: name.into(),
        element: Some(Element::Float),
        shape: Some(sides(shape)),
    };
    let signature = Signature {
        inputs: vec![port("input", &[1, 3, side, side])],
        outputs: names.iter().map(|(name, _)| port(name, &[-1])).collect(),
        metadata: Default::default(),
        operators: Default::default(),
    };
    let shapes: Vec<Shape> =
        names.iter().map(|(name, shape)| Shape { name: (*name).into(), shape: shape.to_vec() }).collect();
    let wishes = Wishes::default();
    let feed = recognise::input(&signature, &wishes).unwrap();
    let found = recognise::head(&signature, &feed, &shapes, &wishes).unwrap();
    let prepared = prepare(&photograph, &found.input).unwrap();
    let golden = root().join("tests/data/models").join(format!("{model}.f16"));
    if let (Some(_), Some(folder)) = (std::env::var_os("UPDATE_GOLDEN"), std::env::var_os("VIGIE_OWN_MODELS"))
    {
        let onnx = std::fs::read(Path::new(&folder).join(format!("{model}.onnx"))).unwrap();
        let mut engine = OrtEngine::from_memory(&crate::runtime(), &onnx).unwrap();
        let outputs = engine.run(&prepared.tensor).unwrap();
        let values =
            names.iter().flat_map(|(name, _)| outputs.find(name).unwrap().as_f32().unwrap().to_vec());
        let bytes: Vec<u8> = values.flat_map(|value| half::f16::from_f32(value).to_le_bytes()).collect();
        std::fs::write(&golden, bytes).unwrap();
    }
    let bytes = std::fs::read(golden).unwrap();
    let mut values = bytes.chunks_exact(2).map(|pair| half::f16::from_le_bytes([pair[0], pair[1]]).to_f32());
    let outputs = names.iter().map(|(name, shape)| {
        let values = values.by_ref().take(shape.iter().product()).collect();
        ((*name).to_owned(), Tensor::f32(shape, values))
    });
    let outputs = Outputs(outputs.collect());
    let mut manifest = MODELS[0].manifest();
    (manifest.head, manifest.task, manifest.labels) = (found.head, found.task, found.labels);
    (manifest.input, manifest.thresholds) = (found.input, found.thresholds);
    let detections = detect(&outputs, &manifest, &prepared.placement, None).unwrap();
    detections.iter().map(|d| (d.class, d.score, [d.bbox.x, d.bbox.y, d.bbox.w, d.bbox.h])).collect()
}

#[track_caller]
fn assert_near(found: &[(u16, f32, [f32; 4])], class: u16, score: f32, bbox: [f32; 4]) {
    let [(actual, actual_score, actual_box)] = found else { panic!("one thing: {found:?}") };
    assert_eq!(*actual, class);
    assert!((actual_score - score).abs() < 0.01, "{found:?}");
    assert!(actual_box.iter().zip(bbox).all(|(a, b)| (a - b).abs() < 1.5), "{found:?}");
}

#[test]
fn yunets_own_outputs_are_a_face() {
    let grids: [(usize, usize); 3] = [(8, 1600), (16, 400), (32, 100)];
    let names: Vec<(String, [usize; 3])> = [("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)]
        .iter()
        .flat_map(|&(name, values)| {
            grids.map(|(stride, cells)| (format!("{name}_{stride}"), [1, cells, values]))
        })
        .collect();
    let names: Vec<(&str, &[usize])> =
        names.iter().map(|(name, shape)| (name.as_str(), &shape[..])).collect();
    let found = real_detections("yunet_n_dynamic", "astronaut.jpg", &names, 320);
    assert_near(&found, 0, 0.94, [180.0, 60.0, 91.0, 118.0]);
}

#[test]
fn fastestdets_own_outputs_are_a_cat() {
    let found = real_detections("FastestDet", "chelsea.jpg", &[("758", &[1, 85, 22, 22])], 352);
    assert_near(&found, 15, 0.82, [0.0, 0.0, 424.0, 290.0]);
}

#[test]
fn the_writer_writes_what_the_reader_reads() {
    let model: Message = yolo_v8().message();
    let summary = vigie::models::check::check(&model.0).unwrap();
    assert_eq!(summary.metadata["task"], "detect");
    assert_eq!(summary.outputs[0].shape, Some(vec![Some(1), Some(6), Some(84)]));
}
