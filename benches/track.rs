//! One tracker update at 30 recognitions a second, with the numbers of things that sessions see.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vigie::frame::{BBox, Detection, Kind};
use vigie::pipeline::track::{TrackConfig, Tracker};

/// `count` things on a grid, swaying by up to 20 pixels.
fn detections(count: usize, step: u64) -> Vec<Detection> {
    let sway = (step as f32 / 10.0).sin() * 20.0;
    let place = |index: usize| (index % 10 * 120, index / 10 * 120);
    (0..count)
        .map(place)
        .map(|(x, y)| Detection {
            kind: Kind::Object,
            class: (x / 120) as u16 % 5,
            score: 0.8,
            bbox: BBox { x: x as f32 + sway, y: y as f32, w: 80.0, h: 100.0 },
            landmarks: None,
        })
        .collect()
}

fn update(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("track/update");
    for count in [5, 50, 250] {
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            let frames: Vec<_> = (0..64).map(|step| detections(count, step)).collect();
            let mut tracker = Tracker::new(TrackConfig::default());
            let mut step = 0;
            bencher.iter(|| {
                tracker.update(&frames[step as usize % frames.len()], Duration::from_millis(step * 33));
                step += 1;
                tracker.tracks().len()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, update);
criterion_main!(benches);
