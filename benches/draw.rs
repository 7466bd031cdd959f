//! Five labelled boxes on pictures of the usual sizes.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use vigie::frame::{BBox, I420Buffer};
use vigie::pipeline::draw::{DrawnTrack, draw};

fn five_boxes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("draw/five_boxes");
    for (width, height) in [(320, 240), (640, 480), (1280, 720), (1920, 1080)] {
        let unit = width as f32 / 16.0;
        let tracks: Vec<_> = (0..5)
            .map(|index| DrawnTrack {
                bbox: BBox { x: index as f32 * 2.5 * unit, y: 2.0 * unit, w: 4.0 * unit, h: 5.0 * unit },
                label: format!("#{index} face female 93%"),
                colour: index,
            })
            .collect();
        let mut picture = I420Buffer::black(width, height);
        group.bench_function(BenchmarkId::from_parameter(format!("{width}x{height}")), |bencher| {
            bencher.iter(|| draw(&mut picture, &tracks));
        });
    }
    group.finish();
}

criterion_group!(benches, five_boxes);
criterion_main!(benches);
