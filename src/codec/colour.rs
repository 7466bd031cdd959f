//! Brings a decoded frame to 8-bit I420 with BT.601 limited-range colours, when it is not that already.
//!
//! Browsers send untagged or BT.601 limited 4:2:0 nearly always, and that passes untouched. Other
//! layouts and depths go through swscale. Other matrices (BT.709, BT.2020) and full range are changed
//! here, plane to plane: swscale would go through RGB and back for the one, and does nothing for the
//! other when the layout is the same. It never scales.

use std::ffi::c_int;
use std::ptr::{self, NonNull};

use ffi::AVPixelFormat::*;
use ffmpeg_sys_next as ffi;

use super::picture::Frame;
use super::pool::Pool;
use super::{CodecError, FfmpegError};
use crate::frame::Planes;

/// What decoders put out: the four of live sessions, and those of common files.
const CONVERTIBLE: [ffi::AVPixelFormat; 40] = [
    AV_PIX_FMT_YUV420P,
    AV_PIX_FMT_YUVJ420P,
    AV_PIX_FMT_YUV422P,
    AV_PIX_FMT_YUVJ422P,
    AV_PIX_FMT_YUV440P,
    AV_PIX_FMT_YUVJ440P,
    AV_PIX_FMT_YUV444P,
    AV_PIX_FMT_YUVJ444P,
    AV_PIX_FMT_YUVA420P,
    AV_PIX_FMT_YUV420P9LE,
    AV_PIX_FMT_YUV422P9LE,
    AV_PIX_FMT_YUV444P9LE,
    AV_PIX_FMT_YUV420P10LE,
    AV_PIX_FMT_YUV422P10LE,
    AV_PIX_FMT_YUV440P10LE,
    AV_PIX_FMT_YUV444P10LE,
    AV_PIX_FMT_YUV420P12LE,
    AV_PIX_FMT_YUV422P12LE,
    AV_PIX_FMT_YUV440P12LE,
    AV_PIX_FMT_YUV444P12LE,
    AV_PIX_FMT_YUV420P14LE,
    AV_PIX_FMT_YUV422P14LE,
    AV_PIX_FMT_YUV444P14LE,
    AV_PIX_FMT_GRAY8,
    AV_PIX_FMT_GRAY10LE,
    AV_PIX_FMT_GRAY12LE,
    AV_PIX_FMT_GBRP,
    AV_PIX_FMT_GBRP10LE,
    AV_PIX_FMT_GBRP12LE,
    AV_PIX_FMT_RGB24,
    AV_PIX_FMT_BGR24,
    AV_PIX_FMT_RGBA,
    AV_PIX_FMT_BGRA,
    AV_PIX_FMT_BGR0,
    AV_PIX_FMT_GBRAP,
    AV_PIX_FMT_NV12,
    AV_PIX_FMT_YUYV422,
    AV_PIX_FMT_UYVY422,
    AV_PIX_FMT_YUV411P,
    AV_PIX_FMT_YUVA444P10LE,
];

/// Those without a matrix of their own, which swscale turns into BT.601 limited.
const RGB: [ffi::AVPixelFormat; 9] = [
    AV_PIX_FMT_GBRP,
    AV_PIX_FMT_GBRP10LE,
    AV_PIX_FMT_GBRP12LE,
    AV_PIX_FMT_RGB24,
    AV_PIX_FMT_BGR24,
    AV_PIX_FMT_RGBA,
    AV_PIX_FMT_BGRA,
    AV_PIX_FMT_BGR0,
    AV_PIX_FMT_GBRAP,
];

/// Formats whose samples always use the whole range, whatever the tag says.
const FULL_RANGE: [ffi::AVPixelFormat; 4] =
    [AV_PIX_FMT_YUVJ420P, AV_PIX_FMT_YUVJ422P, AV_PIX_FMT_YUVJ440P, AV_PIX_FMT_YUVJ444P];

/// swscale's number for BT.601 coefficients (SWS_CS_ITU601).
const SWS_BT601: c_int = 5;

/// Converts frames, keeping swscale's context and its pictures' memory from one frame to the next.
pub(super) struct Converter {
    scaler: Option<NonNull<ffi::SwsContext>>,
    pool: Pool,
}

// SAFETY: a SwsContext has no thread affinity and is used through `&mut` only.
unsafe impl Send for Converter {}

impl Converter {
    pub fn new() -> Self {
        Self { scaler: None, pool: Pool::default() }
    }

    /// Returns `frame` itself when it needs nothing, else a converted copy.
    ///
    /// What the frame says of its matrix and range counts only if `is_tagged`.
    pub fn convert(&mut self, frame: Frame, is_tagged: bool) -> Result<Frame, CodecError> {
        let number = frame.format();
        let format = CONVERTIBLE
            .into_iter()
            .find(|&format| format as c_int == number)
            .ok_or(CodecError::PixelFormat { format: number })?;
        let is_rgb = RGB.contains(&format);
        let transform = match is_tagged {
            // RFC 6386 §9.2 gives VP8 one colour space and no range; FFmpeg derives a range from the
            // clamping bit, which says nothing of the kind.
            false => None,
            _ if is_rgb => None,
            _ => {
                let (matrix, range) = frame.colour();
                let is_full =
                    range == ffi::AVColorRange::AVCOL_RANGE_JPEG as c_int || FULL_RANGE.contains(&format);
                Transform::to_bt601(matrix, is_full)
            }
        };
        let planar = if matches!(format, AV_PIX_FMT_YUV420P | AV_PIX_FMT_YUVJ420P) {
            frame
        } else {
            self.scale(&frame, format, is_rgb)?
        };
        match transform {
            Some(Transform::Range) => limit_range(planar, &mut self.pool),
            Some(Transform::Matrix(matrix)) => matrix.apply(planar, &mut self.pool),
            None => Ok(planar),
        }
    }

    /// Brings the layout to 8-bit 4:2:0 and leaves matrix and range as they are, except for RGB's.
    fn scale(
        &mut self,
        frame: &Frame,
        format: ffi::AVPixelFormat,
        is_rgb: bool,
    ) -> Result<Frame, CodecError> {
        let (width, height) = frame.size();
        let mut output = self.pool.i420(width, height)?;
        let old = self.scaler.take().map_or(ptr::null_mut(), NonNull::as_ptr);
        let flags = ffi::SWS_BILINEAR | ffi::SWS_ACCURATE_RND;
        // SAFETY: `old` is ours or null; swscale frees it when it does not fit and returns a context for
        // this size and format, or null.
        let scaler = unsafe {
            ffi::sws_getCachedContext(
                old,
                width,
                height,
                format,
                width,
                height,
                AV_PIX_FMT_YUV420P,
                flags,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null(),
            )
        };
        self.scaler = NonNull::new(scaler);
        if self.scaler.is_none() {
            return Err(CodecError::PixelFormat { format: format as c_int });
        }
        let raw = output.as_mut_ptr();
        // SAFETY: the context was made for these sizes and formats; the source frame has its planes and
        // the destination its padded buffers, both valid for `height` rows. The coefficient tables are
        // static. The frames' plane arrays are passed by pointer and only read.
        let code = unsafe {
            let table = ffi::sws_getCoefficients(SWS_BT601);
            // Any two equal ranges leave YUV samples alone; RGB is full and becomes limited.
            ffi::sws_setColorspaceDetails(scaler, table, c_int::from(is_rgb), table, 0, 0, 1 << 16, 1 << 16);
            ffi::sws_scale(
                scaler,
                (&raw const (*frame.as_ptr()).data).cast(),
                (&raw const (*frame.as_ptr()).linesize).cast(),
                0,
                height,
                (&raw const (*raw).data).cast(),
                (&raw const (*raw).linesize).cast(),
            )
        };
        FfmpegError::check(code).map_err(|source| CodecError::Convert { source })?;
        Ok(output)
    }
}

impl Drop for Converter {
    fn drop(&mut self) {
        if let Some(scaler) = self.scaler {
            // SAFETY: the context is ours and is not used again.
            unsafe { ffi::sws_freeContext(scaler.as_ptr()) };
        }
    }
}

/// What is changed to come to BT.601 limited.
#[derive(Debug, PartialEq)]
enum Transform {
    /// Full range to limited; the matrix is right.
    Range,
    Matrix(Matrix),
}

/// Kr and Kb of BT.601 (ITU-T H.273 table 4).
const BT601: (f64, f64) = (0.299, 0.114);

impl Transform {
    /// The change from an `AVColorSpace`; `None` when there is none to make. Untagged colours, and what
    /// is not a matrix, are taken for BT.601.
    fn to_bt601(colorspace: c_int, is_full: bool) -> Option<Self> {
        use ffi::AVColorSpace::*;
        // Kr and Kb of ITU-T H.273 table 4.
        let coefficients = [
            (AVCOL_SPC_BT709, 0.2126, 0.0722),
            (AVCOL_SPC_FCC, 0.30, 0.11),
            (AVCOL_SPC_SMPTE240M, 0.212, 0.087),
            (AVCOL_SPC_BT2020_NCL, 0.2627, 0.0593),
            (AVCOL_SPC_BT2020_CL, 0.2627, 0.0593),
        ];
        let matrix = coefficients.into_iter().find(|&(space, _, _)| space as c_int == colorspace);
        match matrix {
            Some((_, kr, kb)) => Some(Self::Matrix(Matrix::new((kr, kb), is_full))),
            None => is_full.then_some(Self::Range),
        }
    }
}

/// Brings full range to limited (ITU-T H.273 §8.3), in arithmetic that takes eight values at a time on any processor.
fn limit_range(frame: Frame, pool: &mut Pool) -> Result<Frame, CodecError> {
    /// In 1/255: what a step becomes, and what is added; the middle of chroma, 128, stays.
    const LUMA: (u16, u16) = (219, 16 * 255);
    const CHROMA: (u16, u16) = (224, 128 * (255 - 224));
    let (width, height) = frame.size();
    let source = frame.into_planes()?;
    let mut output = pool.i420(width, height)?;
    for (index, (step, shift)) in [LUMA, CHROMA, CHROMA].into_iter().enumerate() {
        let plane = source.plane(index);
        for row in 0..plane.height {
            let from = &plane.data[row * plane.stride..][..plane.width];
            for (to, &from) in output.row_mut(index, row).iter_mut().zip(from) {
                // Divided by 255, to the nearest.
                let sum = u16::from(from) * step + shift + 128;
                *to = ((sum + (sum >> 8)) >> 8) as u8;
            }
        }
    }
    Ok(output)
}

/// A change of matrix and range to BT.601 limited, in arithmetic that takes eight values at a time on any processor.
///
/// With `R'G'B'` in common, each new component is a weighted sum of the old ones, all less 128. Weights are in 1/16384,
/// what comes of them in 1/64.
#[derive(Debug, PartialEq)]
struct Matrix {
    /// Of the old luma.
    gain: i16,
    /// What is added to the new luma, a half for rounding included.
    bias: i16,
    /// Of the old Cb and Cr, in each new component.
    luma: [i16; 2],
    blue: [i16; 2],
    red: [i16; 2],
}

const WEIGHT: f64 = 16384.0;
const FRACTION_BITS: i16 = 6;
const HALF: i16 = 1 << (FRACTION_BITS - 1);

/// A sample less 128, as [`times`] takes it.
fn centred(sample: u8) -> i16 {
    (i16::from(sample) - 128) << 8
}

fn times(centred: i16, weight: i16) -> i16 {
    ((i32::from(centred) * i32::from(weight)) >> 16) as i16
}

impl Matrix {
    fn new((kr, kb): (f64, f64), is_full: bool) -> Self {
        let (to_kr, to_kb) = BT601;
        // Old (Cb, Cr) of unit scale, without luma, to new (Y, Cb, Cr).
        let convert = |cb: f64, cr: f64| {
            let (r, b) = (2.0 * (1.0 - kr) * cr, 2.0 * (1.0 - kb) * cb);
            let g = -(kr * r + kb * b) / (1.0 - kr - kb);
            let y = to_kr * r + (1.0 - to_kr - to_kb) * g + to_kb * b;
            (y, (b - y) / (2.0 * (1.0 - to_kb)), (r - y) / (2.0 * (1.0 - to_kr)))
        };
        let (from_blue, from_red) = (convert(1.0, 0.0), convert(0.0, 1.0));
        let fixed = |weight: f64| (weight * WEIGHT).round() as i16;
        // Steps from black to white, and from one end of chroma to the other (H.273 §8.3).
        let (luma_steps, chroma_steps, black) =
            if is_full { (255.0, 255.0, 0.0) } else { (219.0, 224.0, 16.0) };
        let gain = 219.0 / luma_steps;
        let bias = (16.0 + gain * (128.0 - black)) * f64::from(1 << FRACTION_BITS);
        Self {
            gain: fixed(gain),
            bias: bias.round() as i16 + HALF,
            luma: [from_blue.0, from_red.0].map(|weight| fixed(weight * 219.0 / chroma_steps)),
            blue: [from_blue.1, from_red.1].map(|weight| fixed(weight * 224.0 / chroma_steps)),
            red: [from_blue.2, from_red.2].map(|weight| fixed(weight * 224.0 / chroma_steps)),
        }
    }

    fn apply(&self, frame: Frame, pool: &mut Pool) -> Result<Frame, CodecError> {
        let (width, height) = frame.size();
        let source = frame.into_planes()?;
        let mut output = pool.i420(width, height)?;
        let [luma, blue, red] = [0, 1, 2].map(|index| source.plane(index));
        // What chroma adds to each of a row's new luma.
        let mut shifts = vec![0i16; 2 * blue.width];
        for row in 0..blue.height {
            let blues = &blue.data[row * blue.stride..][..blue.width];
            let reds = &red.data[row * red.stride..][..red.width];
            weigh(output.row_mut(1, row), blues, reds, self.blue);
            weigh(output.row_mut(2, row), blues, reds, self.red);
            for ((to, &b), &r) in shifts.chunks_exact_mut(2).zip(blues).zip(reds) {
                to.fill(times(centred(b), self.luma[0]) + times(centred(r), self.luma[1]) + self.bias);
            }
            for y in (2 * row)..(2 * row + 2).min(luma.height) {
                let from = &luma.data[y * luma.stride..][..luma.width];
                for ((to, &from), &shift) in output.row_mut(0, y).iter_mut().zip(from).zip(&shifts) {
                    *to = ((times(centred(from), self.gain) + shift) >> FRACTION_BITS).clamp(0, 255) as u8;
                }
            }
        }
        Ok(output)
    }
}

/// A row of new chroma from rows of the old.
fn weigh(to: &mut [u8], blues: &[u8], reds: &[u8], [blue, red]: [i16; 2]) {
    for ((to, &b), &r) in to.iter_mut().zip(blues).zip(reds) {
        let sum = times(centred(b), blue) + times(centred(r), red) + (128 << FRACTION_BITS) + HALF;
        *to = (sum >> FRACTION_BITS).clamp(0, 255) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Limited-range Y'CbCr of an R'G'B' colour (0 to 1), from the definition in ITU-T H.273 §8.3.
    fn encode([r, g, b]: [f64; 3], kr: f64, kb: f64) -> [u8; 3] {
        let y = kr * r + (1.0 - kr - kb) * g + kb * b;
        let (cb, cr) = ((b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr)));
        [16.0 + 219.0 * y, 128.0 + 224.0 * cb, 128.0 + 224.0 * cr].map(|value| value.round() as u8)
    }

    fn frame_of(width: c_int, height: c_int, colour: [u8; 3]) -> Frame {
        let mut frame = Frame::i420(width, height).expect("memory");
        for (index, value) in colour.into_iter().enumerate() {
            let rows = if index == 0 { height } else { (height + 1) / 2 } as usize;
            (0..rows).for_each(|row| frame.row_mut(index, row).fill(value));
        }
        frame
    }

    fn tag(frame: &mut Frame, matrix: ffi::AVColorSpace, range: ffi::AVColorRange) {
        // SAFETY: plain writes of valid values to a frame that the test owns.
        unsafe {
            (*frame.as_mut_ptr()).colorspace = matrix;
            (*frame.as_mut_ptr()).color_range = range;
        }
    }

    #[test]
    fn bt709_and_bt2020_colours_become_bt601_colours() {
        use ffi::AVColorSpace::*;
        let matrices = [(AVCOL_SPC_BT709, 0.2126, 0.0722), (AVCOL_SPC_BT2020_NCL, 0.2627, 0.0593)];
        let colours = [
            [0.9, 0.1, 0.1],
            [0.1, 0.8, 0.2],
            [0.2, 0.2, 0.9],
            [0.87, 0.67, 0.55],
            [0.5; 3],
            [0.0; 3],
            [1.0; 3],
        ];
        for (matrix, kr, kb) in matrices {
            for colour in colours {
                let mut frame = frame_of(5, 3, encode(colour, kr, kb));
                tag(&mut frame, matrix, ffi::AVColorRange::AVCOL_RANGE_MPEG);
                let planes =
                    Converter::new().convert(frame, true).and_then(Frame::into_planes).expect("convertible");
                for (index, want) in encode(colour, 0.299, 0.114).into_iter().enumerate() {
                    let plane = planes.plane(index);
                    for row in plane.data.chunks(plane.stride) {
                        for &value in &row[..plane.width] {
                            let error = i32::from(value) - i32::from(want);
                            assert!(
                                error.abs() <= 1,
                                "{matrix:?} {colour:?} plane {index}: {value}, not {want}"
                            );
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn full_range_luma_is_brought_to_limited_range() {
        let sizes = [(64, 4), (1, 1), (3, 5), (4095, 1)];
        let values = [(0u8, 16u8), (255, 235), (128, 126)];
        for ((full, limited), (width, height)) in
            values.iter().flat_map(|&value| sizes.map(|size| (value, size)))
        {
            let mut frame = frame_of(width, height, [full, 128, 128]);
            tag(&mut frame, ffi::AVColorSpace::AVCOL_SPC_SMPTE170M, ffi::AVColorRange::AVCOL_RANGE_JPEG);
            let planes =
                Converter::new().convert(frame, true).and_then(Frame::into_planes).expect("convertible");
            let luma = planes.plane(0).data[0];
            assert!(luma.abs_diff(limited) <= 1, "{width}x{height}: {full} became {luma}, not {limited}");
            assert_eq!(planes.plane(1).data[0], 128);
        }
    }

    #[test]
    fn plain_pictures_pass_without_a_copy() {
        use ffi::AVColorSpace::*;
        for matrix in [AVCOL_SPC_UNSPECIFIED, AVCOL_SPC_SMPTE170M, AVCOL_SPC_BT470BG] {
            let mut frame = frame_of(16, 16, [100, 90, 160]);
            tag(&mut frame, matrix, ffi::AVColorRange::AVCOL_RANGE_MPEG);
            let before = frame.as_ptr();
            let after = Converter::new().convert(frame, true).expect("nothing to do");
            assert_eq!(before, after.as_ptr());
        }
    }

    #[test]
    fn unknown_matrices_and_formats_do_no_harm() {
        let mut frame = frame_of(16, 16, [100, 90, 160]);
        // SAFETY: the field is written as an int; it is never read as an enum.
        unsafe { (&raw mut (*frame.as_mut_ptr()).colorspace).cast::<c_int>().write(200) };
        let mut frame = Converter::new().convert(frame, true).expect("an unknown matrix is left alone");
        // SAFETY: as above; the frame is only looked at for its format.
        unsafe { (*frame.as_mut_ptr()).format = 7777 };
        let refused = Converter::new().convert(frame, true);
        assert!(matches!(refused, Err(CodecError::PixelFormat { format: 7777 })));
    }
}
