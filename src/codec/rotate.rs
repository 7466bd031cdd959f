//! Turns pictures upright as a file's display matrix says.
//!
//! Telephones store what the sensor saw and how it was held. Only quarter turns are known; anything else
//! is shown as it lies.

use ffmpeg_sys_next as ffi;

use crate::frame::{I420Buffer, Picture};

/// A clockwise turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    None,
    Quarter,
    Half,
    ThreeQuarters,
}

impl Turn {
    /// The turn that a stream asks for.
    pub fn of_stream(stream: *const ffi::AVStream) -> Self {
        let mut bytes = 0;
        let kind = ffi::AVPacketSideDataType::AV_PKT_DATA_DISPLAYMATRIX;
        // SAFETY: the stream is an open input's; the side data has the length that is said, and lives as
        // long as the stream.
        let matrix = unsafe {
            let data = ffi::av_stream_get_side_data(stream, kind, &mut bytes);
            if data.is_null() || bytes < 9 * size_of::<i32>() {
                return Self::None;
            }
            [0, 1].map(|index| data.cast::<i32>().add(index).read_unaligned())
        };
        Self::of_matrix(matrix)
    }

    /// From the first row of a display matrix (ISO/IEC 14496-12 §8.3.2).
    fn of_matrix([a, b]: [i32; 2]) -> Self {
        let degrees = f64::from(b).atan2(f64::from(a)).to_degrees().round() as i32;
        match degrees.rem_euclid(360) {
            90 => Self::Quarter,
            180 => Self::Half,
            270 => Self::ThreeQuarters,
            _ => Self::None,
        }
    }

    /// Width and height after the turn.
    pub fn size(self, (width, height): (usize, usize)) -> (usize, usize) {
        match self {
            Self::None | Self::Half => (width, height),
            Self::Quarter | Self::ThreeQuarters => (height, width),
        }
    }

    /// A turned copy.
    pub fn apply(self, picture: &Picture) -> I420Buffer {
        let (width, height) = self.size((picture.width, picture.height));
        let mut turned = I420Buffer::black(width, height);
        for index in 0..3 {
            let from = picture.planes.plane(index);
            let (to, width, _) = turned.plane_mut(index);
            for (y, row) in to.chunks_exact_mut(width).enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    let (from_x, from_y) = match self {
                        Self::None => (x, y),
                        Self::Quarter => (y, from.height - 1 - x),
                        Self::Half => (from.width - 1 - x, from.height - 1 - y),
                        Self::ThreeQuarters => (from.width - 1 - y, x),
                    };
                    *value = from.data[from_y * from.stride + from_x];
                }
            }
        }
        turned
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn pictures_are_turned_clockwise() {
        let mut buffer = I420Buffer::black(3, 2);
        buffer.plane_mut(0).0.copy_from_slice(&[1, 2, 3, 4, 5, 6]);
        let picture = buffer.into_picture(0, Instant::now());
        for (matrix, size, luma) in [
            ([65536, 0], (3, 2), [1, 2, 3, 4, 5, 6]),
            ([0, 65536], (2, 3), [4, 1, 5, 2, 6, 3]),
            ([-65536, 0], (3, 2), [6, 5, 4, 3, 2, 1]),
            ([0, -65536], (2, 3), [3, 6, 2, 5, 1, 4]),
            ([46341, 46341], (3, 2), [1, 2, 3, 4, 5, 6]),
        ] {
            let mut turned = Turn::of_matrix(matrix).apply(&picture);
            assert_eq!((turned.width, turned.height), size, "{matrix:?}");
            assert_eq!(turned.plane_mut(0).0, luma, "{matrix:?}");
        }
    }
}
