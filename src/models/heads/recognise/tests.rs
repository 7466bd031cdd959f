//! Signatures as exporters write them, and what they are taken for.

use super::complete::coco_by_category;
use super::*;
use crate::models::manifest::Fit;

fn port(name: &str, shape: &[i64]) -> Port {
    let sides = shape.iter().map(|&side| usize::try_from(side).ok()).collect();
    Port { name: name.into(), element: Some(Element::Float), shape: Some(sides) }
}

/// A graph with one float input and outputs of these names; a side below 0 is free.
fn signature(input: &[i64], outputs: &[&str], metadata: &[(&str, &str)]) -> Signature {
    Signature {
        inputs: vec![port("images", input)],
        outputs: outputs.iter().map(|name| port(name, &[-1])).collect(),
        metadata: metadata.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect(),
        operators: BTreeSet::new(),
    }
}

fn recognised(
    signature: &Signature,
    shapes: &[(&str, &[usize])],
    wishes: &Wishes,
) -> Result<Recognised, Unclear> {
    let feed = input(signature, wishes)?;
    let shapes: Vec<Shape> =
        shapes.iter().map(|(name, shape)| Shape { name: (*name).into(), shape: shape.to_vec() }).collect();
    head(signature, &feed, &shapes, wishes)
}

const SQUARE: [i64; 4] = [1, 3, 640, 640];
const FREE: [i64; 4] = [-1, 3, -1, -1];

/// What Ultralytics writes beside a detector of COCO's classes.
fn ultralytics<'a>(task: &'a str, names: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![
        ("description", "Ultralytics YOLO11n model trained on coco.yaml"),
        ("author", "Ultralytics"),
        ("stride", "32"),
        ("task", task),
        ("batch", "1"),
        ("imgsz", "[640, 640]"),
        ("names", names),
    ]
}

#[test]
fn every_known_export_is_told_by_its_outputs() {
    let names = "{0: 'a', 1: 'b', 2: 'c'}";
    let detect = ultralytics("detect", names);
    let rtdetr = [
        ("description", "Ultralytics rtdetr-l model"),
        ("author", "Ultralytics"),
        ("task", "detect"),
        ("names", names),
    ];
    type Outputs<'a> = Vec<(&'a str, &'a [usize])>;
    type Case<'a> = (Head, &'a [i64], Vec<(&'a str, &'a str)>, Outputs<'a>);
    let cases: Vec<Case> = vec![
        (Head::Yolo, &SQUARE, detect.clone(), vec![("output0", &[1, 7, 8400])]),
        (Head::Yolo, &SQUARE, vec![], vec![("output0", &[1, 84, 8400])]),
        (Head::Yolo, &[1, 3, 384, 640], detect.clone(), vec![("output0", &[1, 7, 5040])]),
        (Head::Yolo, &FREE, detect.clone(), vec![("output0", &[1, 7, 8400])]),
        (
            Head::Yolo,
            &SQUARE,
            ultralytics("segment", names),
            vec![("output0", &[1, 39, 8400]), ("output1", &[1, 32, 160, 160])],
        ),
        (Head::YoloV5, &SQUARE, vec![("stride", "32"), ("names", names)], vec![("output0", &[1, 25200, 8])]),
        (Head::YoloEnd2end, &SQUARE, detect.clone(), vec![("output0", &[1, 300, 6])]),
        (Head::DetrRows, &SQUARE, rtdetr.to_vec(), vec![("output0", &[1, 300, 7])]),
        (Head::DetrEnd2end, &SQUARE, rtdetr.to_vec(), vec![("output0", &[1, 300, 6])]),
        (Head::Yolox, &SQUARE, vec![], vec![("output", &[1, 8400, 85])]),
        (Head::Detr, &SQUARE, vec![], vec![("logits", &[1, 300, 80]), ("pred_boxes", &[1, 300, 4])]),
        (Head::Detr, &[1, 3, 560, 560], vec![], vec![("dets", &[1, 300, 4]), ("labels", &[1, 300, 91])]),
        (
            Head::Ssd,
            &[1, 300, 300, 3],
            vec![],
            vec![
                ("detection_boxes", &[1, 100, 4]),
                ("detection_classes", &[1, 100]),
                ("detection_scores", &[1, 100]),
                ("num_detections", &[1]),
            ],
        ),
        (Head::Boxes, &SQUARE, vec![], vec![("boxes", &[12, 4]), ("labels", &[12]), ("scores", &[12])]),
        (
            Head::Yunet,
            &FREE,
            vec![],
            vec![("cls_8", &[1, 1600, 1]), ("obj_8", &[1, 1600, 1]), ("bbox_8", &[1, 1600, 4])],
        ),
        (Head::Fastestdet, &[1, 3, 352, 352], vec![], vec![("758", &[1, 85, 22, 22])]),
        (
            Head::Scrfd,
            &SQUARE,
            vec![],
            vec![
                ("443", &[12800, 1]),
                ("468", &[3200, 1]),
                ("493", &[800, 1]),
                ("446", &[12800, 4]),
                ("471", &[3200, 4]),
                ("496", &[800, 4]),
                ("449", &[12800, 10]),
                ("474", &[3200, 10]),
                ("499", &[800, 10]),
            ],
        ),
        (
            Head::Retinaface,
            &SQUARE,
            vec![],
            vec![("a", &[1, 16800, 4]), ("b", &[1, 16800, 2]), ("c", &[1, 16800, 10])],
        ),
        (Head::Classifier, &[1, 3, 224, 224], ultralytics("classify", names), vec![("output0", &[1, 3])]),
        (Head::Classifier, &[-1, 3, 224, 224], vec![], vec![("logits", &[1, 1000])]),
        (Head::Centernet, &FREE, vec![], vec![("detections", &[1, 100, 6])]),
    ];
    for (expected, input, metadata, outputs) in cases {
        let declared: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
        let signature = signature(input, &declared, &metadata);
        let found = recognised(&signature, &outputs, &Wishes::default());
        let found = found.unwrap_or_else(|unclear| panic!("{expected:?}: {unclear}"));
        assert_eq!(found.head, expected, "{outputs:?}");
        assert!(!found.labels.is_empty());
    }
}

/// As `tests/exports/run` had them written by ultralytics 8.4.190, torchvision 0.28 and transformers 5.
#[test]
fn what_exporters_of_today_write_is_told() {
    let names = "{0: '0', 1: '1', 2: '2'}";
    let ultralytics = |head, task, end2end| {
        let mut metadata = ultralytics(task, names);
        metadata.extend([("head", head), ("channels", "3"), ("end2end", end2end)]);
        metadata
    };
    let free_batch: &[i64] = &[-1, 3, -1, -1];
    let small: &[i64] = &[1, 3, 320, 320];
    type Case<'a> = (Head, &'a [i64], Vec<(&'a str, &'a str)>, Vec<(&'a str, &'a [usize])>);
    let cases: Vec<Case> = vec![
        (Head::Yolo, small, ultralytics("v10Detect", "detect", "False"), vec![("output0", &[1, 7, 2100])]),
        (
            Head::YoloEnd2end,
            small,
            ultralytics("v10Detect", "detect", "True"),
            vec![("output0", &[1, 300, 6])],
        ),
        (Head::YoloEnd2end, small, ultralytics("Detect", "detect", "True"), vec![("output0", &[1, 300, 6])]),
        (Head::Yolo, free_batch, ultralytics("Detect", "detect", "False"), vec![("output0", &[1, 7, 2100])]),
        (
            Head::YoloEnd2end,
            small,
            ultralytics("Segment26", "segment", "True"),
            vec![("output0", &[1, 300, 38]), ("output1", &[1, 32, 80, 80])],
        ),
        (
            Head::DetrEnd2end,
            small,
            ultralytics("RTDETRDecoder", "detect", "False"),
            vec![("output0", &[1, 300, 6])],
        ),
        (Head::Boxes, small, vec![], vec![("boxes", &[300, 4]), ("scores", &[300]), ("labels", &[300])]),
        (Head::Detr, &[1, 3, 384, 384], vec![], vec![("dets", &[1, 300, 4]), ("labels", &[1, 300, 91])]),
        (Head::Detr, small, vec![], vec![("logits", &[1, 300, 80]), ("pred_boxes", &[1, 300, 4])]),
    ];
    for (expected, input, metadata, outputs) in cases {
        let declared: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
        let metadata: Vec<_> =
            metadata.into_iter().filter(|(key, _)| *key != "imgsz" || input == free_batch).collect();
        let mut signature = signature(input, &declared, &metadata);
        if input == free_batch {
            signature.metadata.insert("imgsz".into(), "[320, 320]".into());
        }
        let found = recognised(&signature, &outputs, &Wishes::default());
        let found = found.unwrap_or_else(|unclear| panic!("{expected:?}: {unclear}"));
        assert_eq!(found.head, expected, "{outputs:?}");
    }
}

#[test]
fn rt_detr_of_two_classes_is_told_by_when_it_was_written() {
    let two = "{0: 'a', 1: 'b'}";
    let older = [("description", "Ultralytics rtdetr-l model"), ("task", "detect"), ("names", two)];
    let newer = [("author", "Ultralytics"), ("task", "detect"), ("names", two), ("head", "RTDETRDecoder")];
    let shapes: &[(&str, &[usize])] = &[("output0", &[1, 300, 6])];
    let of = |metadata: &[(&str, &str)], wishes: &Wishes| {
        recognised(&signature(&SQUARE, &["output0"], metadata), shapes, wishes)
    };
    assert_eq!(of(&newer, &Wishes::default()).unwrap().head, Head::DetrEnd2end);
    let unclear = of(&older, &Wishes::default()).unwrap_err().to_string();
    assert!(unclear.contains("--head detr-rows") && unclear.contains("--head detr-end2end"), "{unclear}");
    for head in [Head::DetrRows, Head::DetrEnd2end] {
        let wishes = Wishes { head: Some(head), ..Wishes::default() };
        assert_eq!(of(&older, &wishes).unwrap().labels, ["a", "b"]);
    }
}

#[test]
fn names_and_notes_say_where_labels_come_from() {
    let metadata = ultralytics("detect", "{0: 'stop sign', 1: 'yield'}");
    let named = signature(&SQUARE, &["output0"], &metadata);
    let found = recognised(&named, &[("output0", &[1, 6, 8400])], &Wishes::default()).unwrap();
    assert_eq!(found.labels, ["stop sign", "yield"]);
    let bare = signature(&SQUARE, &["output0"], &[]);
    let labels = |classes: usize| {
        let found = recognised(&bare, &[("output0", &[1, classes + 4, 8400])], &Wishes::default()).unwrap();
        (found.labels.len(), found.labels[0].clone(), found.notes.join(" ").contains("--labels"))
    };
    assert_eq!(labels(80), (80, "person".to_owned(), true));
    assert_eq!(labels(1), (1, "object".to_owned(), true));
    assert_eq!(labels(3), (3, "class 0".to_owned(), true));
    let wishes = Wishes { labels: Some(vec!["a".into(), "b".into()]), ..Wishes::default() };
    let error = recognised(&bare, &[("output0", &[1, 9, 8400])], &wishes).unwrap_err().to_string();
    assert!(error.contains("2 labels for 5 classes") && error.contains("output0 [1, 9, 8400]"), "{error}");
    let by_category = coco_by_category();
    assert_eq!(by_category.len(), 91);
    assert_eq!(
        (&*by_category[1], &*by_category[13], &*by_category[90]),
        ("person", "stop sign", "toothbrush")
    );
}

#[test]
fn a_detector_of_faces_alone_is_for_faces() {
    let metadata = ultralytics("detect", "{0: 'face'}");
    let signature = signature(&SQUARE, &["output0"], &metadata);
    let shapes: &[(&str, &[usize])] = &[("output0", &[1, 5, 8400])];
    assert_eq!(recognised(&signature, shapes, &Wishes::default()).unwrap().task, Task::Faces);
    let wishes = Wishes { task: Some(Task::Gender), ..Wishes::default() };
    assert!(recognised(&signature, shapes, &wishes).unwrap_err().to_string().contains("not for gender"));
}

#[test]
fn what_is_not_clear_is_shown_with_what_to_say() {
    let bare = signature(&SQUARE, &["output0"], &[]);
    type Outputs<'a> = &'a [(&'a str, &'a [usize])];
    let cases: [(Outputs, &str); 5] = [
        (&[("output0", &[1, 300, 6])], "--labels"),
        (&[("boxes", &[1, 100, 4]), ("scores", &[1, 100]), ("labels", &[1, 100])], "--head boxes"),
        (&[("p3", &[1, 80, 80, 3, 85]), ("p4", &[1, 40, 40, 3, 85])], "--head"),
        (&[("output0", &[1, 8401, 85])], "--head"),
        (&[], "--head"),
    ];
    for (shapes, advice) in cases {
        let unclear = recognised(&bare, shapes, &Wishes::default()).unwrap_err();
        assert!(unclear.to_string().contains(advice), "{unclear}");
    }
    let turned = signature(&SQUARE, &["output0"], &ultralytics("obb", "{0: 'a'}"));
    assert!(recognised(&turned, &[("output0", &[1, 6, 8400])], &Wishes::default()).is_err());
    let wished = Wishes { head: Some(Head::YoloV5), ..Wishes::default() };
    let found = recognised(&bare, &[("output0", &[1, 999, 7])], &wished).unwrap();
    assert_eq!((found.head, found.labels.len()), (Head::YoloV5, 2));
    assert!(recognised(&bare, &[("output0", &[1, 999])], &wished).is_err());
}

#[test]
fn inputs_are_fed_as_their_shapes_say() {
    let feed = |shape: &[i64], metadata: &[(&str, &str)], wishes: &Wishes| {
        let feed = input(&signature(shape, &["output0"], metadata), wishes).unwrap();
        (feed.layout, feed.width, feed.height, feed.is_free, feed.batch)
    };
    let plain = Wishes::default();
    assert_eq!(feed(&[1, 3, 384, 640], &[], &plain), (Some(Layout::Nchw), 640, 384, false, Some(1)));
    assert_eq!(feed(&[-1, 300, 300, 3], &[], &plain), (Some(Layout::Nhwc), 300, 300, false, None));
    assert_eq!(feed(&FREE, &[], &plain), (Some(Layout::Nchw), 640, 640, true, None));
    assert_eq!(feed(&FREE, &[("imgsz", "[384, 512]")], &plain).1, 512);
    let sized = Wishes { size: Some((330, 200)), ..Wishes::default() };
    assert_eq!(feed(&FREE, &[("imgsz", "[384, 512]")], &sized), (Some(Layout::Nchw), 352, 224, true, None));
    for metadata in
        [[("stride", "0")], [("stride", "99999999999999999999")], [("imgsz", "[]")], [("imgsz", "x")]]
    {
        assert_eq!(feed(&FREE, &metadata, &plain).1, 640, "{metadata:?}");
    }
    for shape in
        [&[8, 3, 64, 64][..], &[1, 4, 64, 64], &[3, 64, 64], &[1, 3, 16, 16], &[1, 3, 4096, 4096], &[]]
    {
        assert!(input(&signature(shape, &["o"], &[]), &plain).is_err(), "{shape:?}");
    }
}

#[test]
fn pictures_are_fitted_as_the_models_authors_do() {
    let fit = |shape: &[i64], outputs: &[(&str, &[usize])], metadata: &[(&str, &str)]| {
        let declared: Vec<&str> = outputs.iter().map(|(name, _)| *name).collect();
        let found = recognised(&signature(shape, &declared, metadata), outputs, &Wishes::default()).unwrap();
        (found.input.fit, found.input.size, found.input.height)
    };
    let yolo: &[(&str, &[usize])] = &[("output0", &[1, 84, 8400])];
    assert_eq!(fit(&SQUARE, yolo, &[]), (Fit::Centre { fill: 114 }, 640, None));
    assert_eq!(fit(&FREE, yolo, &[]), (Fit::TopLeft { fill: 114, multiple: 32 }, 640, None));
    assert_eq!(
        fit(&[1, 3, 384, 640], &[("output0", &[1, 84, 5040])], &[]),
        (Fit::Centre { fill: 114 }, 640, Some(384))
    );
    assert_eq!(
        fit(&SQUARE, &[("output", &[1, 8400, 85])], &[]),
        (Fit::TopLeft { fill: 114, multiple: 640 }, 640, None)
    );
    assert_eq!(fit(&[1, 3, 352, 352], &[("758", &[1, 85, 22, 22])], &[]), (Fit::Stretch, 352, None));
}
