//! Bytes of a picture file into a [`Picture`], and pictures back into bytes.
//!
//! The first stage of a picture that is posted or annotated. What the bytes are is told by their first
//! bytes, never by a name; sizes are read from the header and refused before anything is decoded. It
//! opens no file and finds nothing in a picture.

use std::error::Error;
use std::io::{self, Cursor};
use std::time::Instant;

use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageEncoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::codec::{self, CodecError, FileError, Heif, JpegHeader};
use crate::frame::{I420Buffer, Picture};
use crate::imgproc::{self, Halves, Region, Source};

/// Bytes: no longer file is read. A camera's best JPEG has about 25 MB.
pub const MAX_BYTES: usize = 32 << 20;
/// Pixels: no larger picture is decoded; cameras of telephones have 50 million.
pub const MAX_PIXELS: u64 = 64_000_000;
/// Pixels: what the models' side can take.
const MAX_SIDE: u32 = 32_000;
/// Bytes that a decoder may take, its output included.
const MAX_MEMORY_BYTES: u64 = 384 << 20;
/// 0 to 100: above it a JPEG grows without looking better.
const JPEG_QUALITY: u8 = 90;

/// The formats that are read.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Tiff,
    ImageFormat::Gif,
];

/// Why bytes did not become a picture.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("there are no bytes in it")]
    Empty,
    #[error("it is no JPEG, PNG, WebP, BMP, TIFF, GIF or AVIF picture")]
    UnsupportedType,
    #[error("it is a HEIC picture, which is not read: send it as JPEG or AVIF")]
    Heic,
    #[error("{bytes} bytes are more than {MAX_BYTES}")]
    TooManyBytes { bytes: usize },
    #[error("{width}x{height} pixels are more than {MAX_PIXELS}, or than {MAX_SIDE} a side")]
    TooManyPixels { width: u32, height: u32 },
    #[error("it takes more memory than a picture may")]
    TooMuchMemory,
    #[error("it ends before the picture does")]
    Truncated,
    #[error("it cannot be decoded")]
    Corrupt(#[source] Box<dyn Error + Send + Sync>),
}

impl From<FileError> for ImageError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::Truncated => Self::Truncated,
            FileError::Codec(CodecError::TooLarge { size, .. }) => {
                let (width, height) = size.unwrap_or_default();
                Self::TooManyPixels { width: width as u32, height: height as u32 }
            }
            FileError::Codec(CodecError::OutOfMemory { .. }) => Self::TooMuchMemory,
            error => Self::Corrupt(error.into()),
        }
    }
}

/// Why a picture did not become bytes.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    #[error("the picture could not be brought to RGB")]
    Convert(#[from] imgproc::ImgError),
    #[error("the picture could not be encoded")]
    Encode(#[from] image::ImageError),
}

/// What a picture is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
}

/// Whether the first bytes of a file are those of a picture, even of one that is not read here.
pub fn is_picture(start: &[u8]) -> bool {
    recognised(start).is_some() || codec::heif(start).is_some()
}

fn recognised(start: &[u8]) -> Option<ImageFormat> {
    image::guess_format(start).ok().filter(|format| FORMATS.contains(format))
}

/// Decodes a picture: upright by its EXIF orientation, the first frame of several, what is transparent
/// on white.
///
/// # Errors
/// [`ImageError`]; sizes are refused from the header, before memory is taken for pixels.
pub fn decode(bytes: &[u8]) -> Result<Picture, ImageError> {
    let started = Instant::now();
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    if bytes.len() > MAX_BYTES {
        return Err(ImageError::TooManyBytes { bytes: bytes.len() });
    }
    match codec::heif(bytes) {
        Some(Heif::Avif) => return decode_avif(bytes),
        Some(Heif::Other) => return Err(ImageError::Heic),
        None => {}
    }
    let format = recognised(bytes).ok_or(ImageError::UnsupportedType)?;
    if format == ImageFormat::Jpeg {
        let header = JpegHeader::read(bytes);
        // The decoder makes up what is missing.
        if !header.is_whole {
            return Err(ImageError::Truncated);
        }
        let is_upright =
            header.exif.and_then(Orientation::from_exif_chunk).is_none_or(|o| o == Orientation::NoTransforms);
        if header.is_common
            && is_upright
            && let Ok(picture) = codec::decode_jpeg(bytes, MAX_PIXELS as usize)
            && picture.width.max(picture.height) <= MAX_SIDE as usize
        {
            return Ok(Picture { received: started, decode_started: started, ..picture });
        }
        // What is wrong with it, if anything, is found below.
    }
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_MEMORY_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(fault)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > MAX_PIXELS || width > MAX_SIDE || height > MAX_SIDE {
        return Err(ImageError::TooManyPixels { width, height });
    }
    if decoder.total_bytes() > MAX_MEMORY_BYTES {
        return Err(ImageError::TooMuchMemory);
    }
    // A picture without a readable orientation is taken as it lies.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut decoded = DynamicImage::from_decoder(decoder).map_err(fault)?;
    decoded.apply_orientation(orientation);
    let rgb = on_white(decoded);
    if rgb.width() == 0 || rgb.height() == 0 {
        return Err(ImageError::Empty);
    }
    let picture = to_i420(&rgb).into_picture(0, started);
    Ok(Picture { decoded: Instant::now(), ..picture })
}

fn decode_avif(bytes: &[u8]) -> Result<Picture, ImageError> {
    let picture = codec::decode_avif(bytes, MAX_PIXELS as usize)?;
    let (width, height) = (picture.width as u32, picture.height as u32);
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(ImageError::TooManyPixels { width, height });
    }
    Ok(picture)
}

fn fault(error: image::ImageError) -> ImageError {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    match error {
        image::ImageError::Limits(_) => ImageError::TooMuchMemory,
        image::ImageError::IoError(error) if is_end(&error) => ImageError::Truncated,
        error => {
            let mut cause = error.source();
            while let Some(inner) = cause {
                if inner.downcast_ref().is_some_and(is_end) {
                    return ImageError::Truncated;
                }
                cause = inner.source();
            }
            ImageError::Corrupt(error.into())
        }
    }
}

fn on_white(decoded: DynamicImage) -> RgbImage {
    if !decoded.color().has_alpha() {
        return decoded.into_rgb8();
    }
    let rgba = decoded.into_rgba8();
    let mut rgb = RgbImage::new(rgba.width(), rgba.height());
    for (to, from) in rgb.pixels_mut().zip(rgba.pixels()) {
        let [red, green, blue, alpha] = from.0.map(u32::from);
        to.0 = [red, green, blue].map(|channel| ((channel * alpha + 255 * (255 - alpha) + 127) / 255) as u8);
    }
    rgb
}

/// Weights of red, green and blue, in 1/65536, for 8-bit limited range (ITU-R BT.601-7 §2.5.3).
const LUMA: [i32; 3] = [16_829, 33_039, 6_416];
const BLUE: [i32; 3] = [-9_714, -19_070, 28_784];
const RED: [i32; 3] = [28_784, -24_103, -4_681];
const FRACTION_BITS: u32 = 16;

fn weigh(weights: [i32; 3], rgb: [i32; 3]) -> i32 {
    weights[0] * rgb[0] + weights[1] * rgb[1] + weights[2] * rgb[2]
}

/// Converts to I420, BT.601 limited range; a chroma sample is the mean of its four pixels.
pub fn to_i420(rgb: &RgbImage) -> I420Buffer {
    let (width, height) = (rgb.width() as usize, rgb.height() as usize);
    let mut buffer = I420Buffer::black(width, height);
    if width == 0 || height == 0 {
        return buffer;
    }
    let (luma, chroma) = buffer.data.split_at_mut(width * height);
    for (to, pixel) in luma.iter_mut().zip(rgb.as_raw().chunks_exact(3)) {
        let value = weigh(LUMA, [pixel[0], pixel[1], pixel[2]].map(i32::from));
        *to = (((value + (1 << (FRACTION_BITS - 1))) >> FRACTION_BITS) + 16) as u8;
    }
    let chroma_width = width.div_ceil(2);
    let (blue, red) = chroma.split_at_mut(chroma_width * height.div_ceil(2));
    let lines = blue.chunks_exact_mut(chroma_width).zip(red.chunks_exact_mut(chroma_width));
    for (rows, (blue, red)) in rgb.as_raw().chunks(6 * width).zip(lines) {
        let (upper, lower) = rows.split_at(3 * width);
        // The last row of an odd height, and the last pixel of an odd width, count twice.
        let lower = if lower.is_empty() { upper } else { lower };
        let pairs = upper.chunks_exact(6).zip(lower.chunks_exact(6));
        for ((upper, lower), (blue, red)) in pairs.zip(blue.iter_mut().zip(red.iter_mut())) {
            let pair =
                |pixels: &[u8], channel: usize| i32::from(pixels[channel]) + i32::from(pixels[channel + 3]);
            let sum = [0, 1, 2].map(|channel| pair(upper, channel) + pair(lower, channel));
            (*blue, *red) = (chroma_of(BLUE, sum), chroma_of(RED, sum));
        }
        if let ([.., u0, u1, u2], [.., l0, l1, l2], true) = (upper, lower, width % 2 == 1) {
            let sum = [(u0, l0), (u1, l1), (u2, l2)].map(|(u, l)| 2 * (i32::from(*u) + i32::from(*l)));
            (blue[chroma_width - 1], red[chroma_width - 1]) = (chroma_of(BLUE, sum), chroma_of(RED, sum));
        }
    }
    buffer
}

/// A chroma sample from the sum of four pixels, which has two bits more than one.
fn chroma_of(weights: [i32; 3], sum: [i32; 3]) -> u8 {
    let value = weigh(weights, sum) + (1 << (FRACTION_BITS + 1));
    ((value >> (FRACTION_BITS + 2)) + 128).clamp(0, 255) as u8
}

/// Writes a picture as a file of `format`.
///
/// # Errors
/// [`EncodeError`] when the picture is larger than the format, or the models' side, can take.
pub fn encode(picture: &Picture, format: Format) -> Result<Vec<u8>, EncodeError> {
    let (width, height) = (picture.width, picture.height);
    let mut rgb = vec![0; width * height * 3];
    let whole = Region { x: 0, y: 0, width, height };
    let mut halves = Halves::default();
    imgproc::letterbox(&mut Source::new(picture, &mut halves)?, (width, height), whole, 0, &mut rgb)?;
    let (width, height, colour) = (width as u32, height as u32, image::ExtendedColorType::Rgb8);
    let mut bytes = Vec::new();
    match format {
        Format::Jpeg => {
            let encoder = JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY);
            encoder.write_image(&rgb, width, height, colour)?;
        }
        Format::Png => PngEncoder::new(&mut bytes).write_image(&rgb, width, height, colour)?,
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
