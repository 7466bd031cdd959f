//! COCO's measure, held to what its authors' program says, and `vigie models eval` from end to end.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Value, json};
use vigie::models::eval::coco::Labels;
use vigie::models::eval::score::{Found, score};

use crate::own::{add, picture, text, vigie, yolo_v8};

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/evaluation").join(name)).unwrap()
}

/// The detections, by the places that pictures and categories have in `labels`.
fn detections() -> Vec<Found> {
    let labels: Value = serde_json::from_slice(&read("labels.json")).unwrap();
    let places = |key: &str| -> HashMap<u64, usize> {
        let mut ids: Vec<u64> =
            labels[key].as_array().unwrap().iter().map(|item| item["id"].as_u64().unwrap()).collect();
        ids.sort_unstable();
        ids.into_iter().enumerate().map(|(place, id)| (id, place)).collect()
    };
    let (pictures, classes) = (places("images"), places("categories"));
    let detections: Vec<Value> = serde_json::from_slice(&read("detections.json")).unwrap();
    let found = |detection: &Value| Found {
        picture: pictures[&detection["image_id"].as_u64().unwrap()],
        class: classes[&detection["category_id"].as_u64().unwrap()],
        bbox: [0, 1, 2, 3].map(|side| detection["bbox"][side].as_f64().unwrap()),
        score: detection["score"].as_f64().unwrap(),
    };
    detections.iter().map(found).collect()
}

/// `tests/evaluation/run` holds the expected figures against pycocotools, and makes them.
#[test]
fn the_figures_are_those_of_cocos_own_program() {
    let labels = Labels::read(&read("labels.json")).unwrap();
    let scores = score(labels.pictures.len(), labels.categories.len(), &labels.truths, &detections());
    let expected: Value = serde_json::from_slice(&read("expected.json")).unwrap();
    let compare = |what: &str, expected: &Value, averages: &Value| {
        for (figure, wanted) in expected.as_object().unwrap() {
            let have = &averages[figure];
            let is_same = match (wanted.as_f64(), have.as_f64()) {
                (Some(wanted), Some(have)) => (wanted - have).abs() < 1e-9,
                (wanted, have) => wanted == have,
            };
            assert!(is_same, "{what}: {figure} is {have}, {wanted} is expected");
        }
    };
    compare("all", &expected["all"], &serde_json::to_value(scores.all).unwrap());
    assert_eq!(expected["classes"].as_object().unwrap().len(), labels.categories.len());
    for (name, class) in labels.categories.iter().zip(&scores.classes) {
        compare(name, &expected["classes"][name], &serde_json::to_value(class.averages).unwrap());
    }
}

/// A folder with a detector of bright squares and four pictures: one with a labelled square, one whose label is of
/// nothing, one whose square has no label, and one that is none.
fn prepared() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    add(folder.path(), "squares", &yolo_v8(), [255; 3], &[]);
    let pictures = folder.path().join("pictures");
    std::fs::create_dir(&pictures).unwrap();
    for (name, colour) in [("found", [255; 3]), ("missed", [0; 3]), ("wrong", [255; 3])] {
        picture(colour).save(pictures.join(name).with_extension("png")).unwrap();
    }
    std::fs::write(pictures.join("text.png"), "no picture").unwrap();
    let square = |picture: u32, category: u32| json!({ "image_id": picture, "category_id": category, "bbox": [48, 80, 16, 16], "area": 256, "iscrowd": 0 });
    let labels = json!({
        "images": [
            { "id": 1, "file_name": "found.png" }, { "id": 2, "file_name": "missed.png" },
            { "id": 3, "file_name": "wrong.png" }, { "id": 4, "file_name": "text.png" }, { "id": 5, "file_name": "gone.png" },
        ],
        "categories": [
            { "id": 1, "name": "Bright Thing" }, { "id": 2, "name": "unicorn" }, { "id": 3, "name": "dark thing" },
        ],
        "annotations": [square(1, 1), square(2, 1), square(1, 2), square(4, 1), square(5, 1)],
    });
    std::fs::write(folder.path().join("labels.json"), labels.to_string()).unwrap();
    folder
}

fn eval(folder: &Path, model: &str, labels: &str, more: &[&str]) -> std::process::Output {
    let (pictures, labels) = (folder.join("pictures"), folder.join(labels));
    let mut arguments = vec!["models", "eval", model, "--pictures", pictures.to_str().unwrap()];
    arguments.extend(["--labels", labels.to_str().unwrap(), "--lanes", "2"]);
    arguments.extend(more);
    vigie(folder, &arguments)
}

#[test]
fn a_detector_is_measured_on_pictures() {
    let folder = prepared();
    let page = folder.path().join("report.html");
    let output = eval(folder.path(), "squares@1", "labels.json", &["--json", "-o", page.to_str().unwrap()]);
    assert!(output.status.success(), "{}", text(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["pictures"], &report["truths"], &report["detections"]),
        (&3.into(), &2.into(), &2.into())
    );
    assert_eq!(report["left_out"].as_array().unwrap().len(), 2, "{report}");
    assert_eq!(report["not_in_model"], json!(["unicorn"]));
    let class = &report["classes"][0];
    assert_eq!(class["label"], "Bright Thing");
    assert_eq!((&class["right"], &class["wrong"], &class["missed"]), (&1.into(), &1.into(), &1.into()));
    // The first of two equally sure ones is right, and half of what is there is found.
    let ap = report["ap50"].as_f64().unwrap();
    assert!((ap - 51.0 / 101.0).abs() < 1e-9, "{report}");
    assert_eq!(report["ap_large"], Value::Null);
    let html = std::fs::read_to_string(&page).unwrap();
    for part in [
        "data:image/jpeg;base64,",
        "<g class=\"right\">",
        "<g class=\"wrong\">",
        "<g class=\"missed\">",
        "unicorn",
    ] {
        assert!(html.contains(part), "the page lacks {part}");
    }
    assert!(!html.contains("http") && !html.contains("<script"), "the page needs something else");
    assert_eq!(html.matches("<figure>").count(), 3);
    let told = text(&eval(folder.path(), "squares", "labels.json", &[]));
    assert!(
        told.contains("AP50") && told.contains("Bright Thing") && told.contains("2 pictures were left out"),
        "{told}"
    );
}

#[test]
fn what_cannot_be_measured_is_said() {
    let folder = prepared();
    let path = folder.path();
    let labels = |images: &str, category: &str| {
        format!(r#"{{"images": [{images}], "categories": [{{"id": 1, "name": "{category}"}}]}}"#)
    };
    std::fs::write(path.join("other.json"), labels(r#"{"id": 1, "file_name": "found.png"}"#, "unicorn"))
        .unwrap();
    std::fs::write(path.join("away.json"), labels(r#"{"id": 1, "file_name": "away.png"}"#, "dark thing"))
        .unwrap();
    std::fs::write(path.join("broken.json"), "{").unwrap();
    let cases: [(&str, &str, &[&str], &str); 7] = [
        ("squares", "other.json", &[], "no class in common"),
        ("squares", "away.json", &[], "none of the 1 pictures could be used: away.png"),
        ("squares", "broken.json", &[], "it is no JSON as COCO's object detection has it"),
        ("squares", "nothing.json", &[], "reading the labels"),
        ("squares@7", "labels.json", &[], "squares"),
        ("nobody", "labels.json", &[], "nobody"),
        ("squares", "labels.json", &["--score", "2"], "is not from 0 to 1"),
    ];
    for (model, labels, more, expected) in cases {
        let output = eval(path, model, labels, more);
        let said = text(&output);
        assert!(!output.status.success() && said.contains(expected), "{model} {labels}: {said}");
    }
}
