//! Where the windows of convolutions and poolings go, and how ONNX is told.

use super::onnx::Attribute;
use super::tfjs::Padding;

/// Where a sliding window goes along one axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Cells added before and after.
    pub pads: [usize; 2],
    pub outputs: usize,
}

/// Places a window along an axis of `side` cells; `None` if it does not fit.
///
/// SAME gives `ceil(side / stride)` outputs and, where the cells to be added are odd in number, puts the
/// extra one at the end (TensorFlow, "Notes on padding").
pub fn place(side: usize, kernel: usize, stride: usize, dilation: usize, padding: Padding) -> Option<Window> {
    let reach = (kernel - 1) * dilation + 1;
    match padding {
        Padding::Valid => {
            let outputs = side.checked_sub(reach)? / stride + 1;
            Some(Window { pads: [0, 0], outputs })
        }
        Padding::Same => {
            let outputs = side.div_ceil(stride);
            let added = ((outputs.checked_sub(1)?) * stride + reach).saturating_sub(side);
            Some(Window { pads: [added / 2, added - added / 2], outputs })
        }
    }
}

/// What MaxPool and Conv have in common.
pub struct WindowAttributes {
    kernel: [i64; 2],
    strides: [i64; 2],
    pads: [i64; 4],
}

impl WindowAttributes {
    pub fn each(&self) -> [(&'static str, Attribute<'_>); 3] {
        [
            ("kernel_shape", Attribute::Ints(&self.kernel)),
            ("strides", Attribute::Ints(&self.strides)),
            ("pads", Attribute::Ints(&self.pads)),
        ]
    }
}

pub fn window_attributes(
    kernel: [usize; 2],
    strides: [usize; 2],
    rows: &Window,
    columns: &Window,
) -> WindowAttributes {
    WindowAttributes {
        kernel: kernel.map(|side| side as i64),
        strides: strides.map(|stride| stride as i64),
        // ONNX has all the beginnings first.
        pads: [rows.pads[0], columns.pads[0], rows.pads[1], columns.pads[1]].map(|pad| pad as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_placed_as_tensorflow_places_them() {
        use Padding::{Same, Valid};
        // (side, kernel, stride, dilation, padding) -> (before, after, outputs)
        let cases = [
            ((512, 3, 2, 1, Same), Some((0, 1, 256))),
            ((256, 5, 2, 1, Same), Some((1, 2, 128))),
            ((7, 3, 2, 1, Same), Some((1, 1, 4))),
            ((7, 3, 1, 1, Same), Some((1, 1, 7))),
            ((7, 4, 1, 1, Same), Some((1, 2, 7))),
            ((8, 3, 1, 2, Same), Some((2, 2, 8))),
            ((4, 1, 2, 1, Same), Some((0, 0, 2))),
            ((8, 3, 2, 1, Valid), Some((0, 0, 3))),
            ((8, 3, 1, 3, Valid), Some((0, 0, 2))),
            ((2, 3, 1, 1, Valid), None),
            ((0, 3, 1, 1, Same), None),
        ];
        for ((side, kernel, stride, dilation, padding), expected) in cases {
            let placed = place(side, kernel, stride, dilation, padding);
            let placed = placed.map(|window| (window.pads[0], window.pads[1], window.outputs));
            assert_eq!(placed, expected, "{side} {kernel} {stride} {dilation} {padding:?}");
        }
    }
}
