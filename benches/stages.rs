//! The stages between the decoder and the report, one by one: letterbox, face crop, heads, suppression, batcher, report.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vigie::codec::{Decoder, MAX_PIXELS};
use vigie::frame::{BBox, Codec, Detection, EncodedFrame, FaceLandmarks, Gender, Kind, Picture, Point};
use vigie::imgproc::{Halves, Source};
use vigie::inference::batcher::{Batcher, Limits, ModelId, Payload, Policy, Poll, Request};
use vigie::inference::tensor::{Outputs, Tensor};
use vigie::inference::turns::{Turns, Wish};
use vigie::load::clip::Clip;
use vigie::models::heads::{Placement, blazeface, centernet, nms};
use vigie::models::manifest::{Fit, Input, InputFormat};
use vigie::pipeline::prepare::{prepare_crops_in, prepare_in};
use vigie::pipeline::report::{Attributes, FrameReport, GenderReport, Timings, TrackReport};

/// The first picture of the built-in clip, 640x480.
fn picture() -> Picture {
    let clip = Clip::built_in();
    let frame = EncodedFrame {
        codec: Codec::Vp8,
        data: clip.frames[0].clone(),
        rtp_timestamp: 0,
        is_key: true,
        received: Instant::now(),
    };
    let mut decoder = Decoder::open(Codec::Vp8, 1).expect("a VP8 decoder");
    decoder.decode(&frame, MAX_PIXELS).expect("the clip decodes").expect("its first frame is shown")
}

fn input(size: u32, fit: Fit) -> Input {
    Input {
        name: "input".into(),
        format: InputFormat::RgbU8Nhwc,
        size,
        height: None,
        batch: None,
        size_input: None,
        fit,
    }
}

fn detection(kind: Kind, index: usize) -> Detection {
    let (x, y) = ((index % 20 * 28) as f32, (index / 20 % 15 * 28) as f32);
    let eye = |offset| Point { x: x + offset, y: y + 30.0 };
    let landmarks =
        FaceLandmarks { right_eye: eye(20.0), left_eye: eye(60.0), nose: eye(40.0), mouth: eye(41.0) };
    Detection {
        kind,
        class: 0,
        score: 0.5 + (index * 37 % 100) as f32 / 250.0,
        bbox: BBox { x, y, w: 80.0, h: 100.0 },
        landmarks: (kind == Kind::Face).then_some(landmarks),
    }
}

fn preparing(criterion: &mut Criterion) {
    let picture = picture();
    let mut group = criterion.benchmark_group("prepare");
    for (name, input) in [
        ("faces-256", input(256, Fit::Centre { fill: 0 })),
        ("objects-320", input(320, Fit::TopLeft { fill: 114, multiple: 32 })),
        ("objects-512", input(512, Fit::TopLeft { fill: 114, multiple: 32 })),
    ] {
        let (mut used, mut halves) = (Tensor::default(), Halves::default());
        group.bench_function(BenchmarkId::from_parameter(name), |bencher| {
            bencher.iter(|| {
                let mut source = Source::new(&picture, &mut halves).expect("a picture");
                let prepared = prepare_in(std::mem::take(&mut used), &mut source, &input).expect("it fits");
                used = prepared.tensor;
            });
        });
    }
    let crop = input(224, Fit::FaceCrop { scale_percent: 130 });
    let face = detection(Kind::Face, 42);
    let mut used = Tensor::default();
    group.bench_function("face-crop-224", |bencher| {
        bencher.iter(|| {
            used = prepare_crops_in(std::mem::take(&mut used), &picture, &crop, &[&face]).expect("a crop");
        });
    });
    group.finish();
}

const PLACEMENT: Placement = Placement {
    scale_x: 0.4,
    scale_y: 0.4,
    offset_x: 0.0,
    offset_y: 32.0,
    width: 640.0,
    height: 480.0,
    input_width: 256,
    input_height: 256,
};

/// BlazeFace's outputs with a face at every `every`-th anchor.
fn face_outputs(every: usize) -> Outputs {
    let scores = |anchors: usize| (0..anchors).map(|at| if at % every == 0 { 2.0 } else { -9.0 }).collect();
    let boxes = |anchors: usize| vec![20.0; anchors * 16];
    Outputs(vec![
        ("Identity".into(), Tensor::f32(&[1, 512, 1], scores(512))),
        ("Identity_1".into(), Tensor::f32(&[1, 384, 1], scores(384))),
        ("Identity_2".into(), Tensor::f32(&[1, 512, 16], boxes(512))),
        ("Identity_3".into(), Tensor::f32(&[1, 384, 16], boxes(384))),
    ])
}

fn heads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("heads");
    for (name, every) in [("few", 200), ("every-anchor", 1)] {
        let outputs = face_outputs(every);
        group.bench_function(BenchmarkId::new("blazeface", name), |bencher| {
            bencher.iter(|| blazeface::decode(&outputs, &PLACEMENT, 0.3, 0.3).expect("faces"));
        });
    }
    let peaks = (0..100).flat_map(|at| {
        let (x, y) = ((at % 10 * 30) as f32, (at / 10 * 24) as f32);
        [x, y, x + 60.0, y + 50.0, 1.0 - at as f32 / 100.0, (at % 7) as f32]
    });
    let outputs = Outputs(vec![("detections".into(), Tensor::f32(&[1, 100, 6], peaks.collect()))]);
    group.bench_function("centernet", |bencher| {
        bencher.iter(|| centernet::decode(&outputs, &PLACEMENT, 0.3, 0.5, 80).expect("objects"));
    });
    group.finish();
}

fn suppression(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nms");
    for count in [10, 100, 300] {
        let found: Vec<_> = (0..count).map(|index| detection(Kind::Object, index)).collect();
        group.bench_function(BenchmarkId::new("suppress", count), |bencher| {
            bencher.iter(|| nms::suppress(found.clone(), 0.5));
        });
        group.bench_function(BenchmarkId::new("blend", count), |bencher| {
            bencher.iter(|| nms::blend(found.clone(), 0.3));
        });
    }
    group.finish();
}

struct Ask;

impl Payload for Ask {
    fn shape(&self) -> &[usize] {
        &[1, 256, 256, 3]
    }

    fn is_withdrawn(&self) -> bool {
        false
    }
}

/// One request in and one batch out, while `waiting` sessions have two requests each in the queue.
fn batcher(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("batcher");
    let now = Instant::now();
    for waiting in [1_u64, 16, 256] {
        for (name, max_batch) in [("alone", 1), ("batch-16", 16)] {
            let mut batcher = Batcher::new(Limits { per_asker: 16, total: 4096 });
            let request =
                |asker| Request { model: ModelId(0), asker, is_ahead: false, is_first: false, payload: Ask };
            batcher.admit(ModelId(0), Policy { max_batch, max_wait: Duration::ZERO });
            for asker in (0..waiting).chain(0..waiting) {
                assert!(batcher.push(request(asker), now).is_ok());
            }
            group.bench_function(BenchmarkId::new(name, waiting), |bencher| {
                bencher.iter(|| {
                    let Poll::Run(batch) = batcher.poll(now) else { unreachable!("requests wait") };
                    for queued in batch.requests {
                        assert!(batcher.push(queued.request, now).is_ok());
                    }
                });
            });
        }
    }
    let mut turns = Turns::new(3);
    for asker in 0..256 {
        turns.ask(Wish { asker, is_first: false, since: now, value: asker });
    }
    group.bench_function("turn/256", |bencher| {
        bencher.iter(|| {
            let asker = turns.grant(now).expect("a place is free");
            turns.end();
            turns.ask(Wish { asker, is_first: false, since: now, value: asker });
        });
    });
    group.finish();
}

fn report(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("report");
    for count in [1, 5, 50] {
        let track = |id: usize| {
            let gender = GenderReport { label: Gender::Female, score: 0.931 };
            TrackReport {
                id: id as u64,
                kind: Kind::Face,
                label: "face".into(),
                score: 0.8712,
                bbox: [101.25, 33.7, 80.11, 97.4],
                attributes: Attributes {
                    apparent_gender: id.is_multiple_of(2).then_some(gender),
                    ..Attributes::default()
                },
            }
        };
        let models = ["blazeface", "centernet", "faceres"].map(|name| (name.to_owned(), "1".to_owned()));
        let report = FrameReport {
            seq: 1234,
            rtp_timestamp: 3_000_000_000,
            captured_ms: Some(1_790_000_000_123.5),
            width: 640,
            height: 480,
            tracks: (0..count).map(track).collect(),
            models: BTreeMap::from(models),
            timings_ms: Timings { infer: 13.9512, total: 15.312_4, ..Timings::default() },
            dropped: 17,
        };
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| serde_json::to_string(&report).expect("JSON"));
        });
    }
    group.finish();
}

criterion_group!(benches, preparing, heads, suppression, batcher, report);
criterion_main!(benches);
