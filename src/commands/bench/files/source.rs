//! The video that is measured: the built-in clip, three times as large, at 1080p.

use std::path::Path;
use std::time::Duration;

use crate::codec::{Decoder, VideoConfig, VideoWriter};
use crate::commands::bench::bare::decode_next;
use crate::commands::service::cores;
use crate::frame::{Codec, I420Buffer, Picture};
use crate::load::clip::Clip;

pub const WIDTH: usize = 1920;
pub const HEIGHT: usize = 1080;
pub const RATE: f64 = 30.0;
const SCALE: usize = 3;

/// Writes `pictures` pictures to `path`, as a recording of a telephone would have them.
pub fn write(path: &Path, pictures: u64) -> anyhow::Result<()> {
    let clip = Clip::built_in();
    let mut decoder = Decoder::open(Codec::Vp8, 1)?;
    let config =
        VideoConfig { width: WIDTH, height: HEIGHT, rate: RATE, pixel_aspect: (1, 1), threads: cores() };
    let mut writer = VideoWriter::create(path, &config, None)?;
    let mut canvas = I420Buffer::black(WIDTH, HEIGHT);
    for index in 0..pictures {
        let picture = decode_next(&mut decoder, &clip, index as usize)?;
        enlarge(&picture, &mut canvas);
        writer.write(&canvas, Duration::from_secs_f64(index as f64 / RATE))?;
    }
    Ok(writer.finish()?)
}

/// Fills the canvas from the middle of a picture.
fn enlarge(picture: &Picture, canvas: &mut I420Buffer) {
    for index in 0..3 {
        let from = picture.planes.plane(index);
        let (rows, width, height) = canvas.plane_mut(index);
        let top = (from.height - height / SCALE) / 2;
        for (y, row) in rows.chunks_exact_mut(width).enumerate() {
            let line = &from.data[(top + y / SCALE) * from.stride..][..from.width];
            for (to, value) in row.chunks_exact_mut(SCALE).zip(line) {
                to.fill(*value);
            }
        }
    }
}
