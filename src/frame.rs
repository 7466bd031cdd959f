//! What travels along the frame's path: one type per stage boundary.
//!
//! network → [`EncodedFrame`] → decode → [`Picture`] → recognise → [`Detection`]s.
//! Nothing here knows which library produced the bytes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A video codec that can arrive from, or be sent to, a browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    Vp8,
    Vp9,
    H264,
    Av1,
}

impl Codec {
    /// Reads the codec from an SDP/RTP MIME type such as `video/VP8`; `None` for anything else.
    pub fn from_mime(mime: &str) -> Option<Self> {
        match mime.to_ascii_lowercase().as_str() {
            "video/vp8" => Some(Self::Vp8),
            "video/vp9" => Some(Self::Vp9),
            "video/h264" => Some(Self::H264),
            "video/av1" => Some(Self::Av1),
            _ => None,
        }
    }

    /// The name in SDP's `a=rtpmap` (RFC 8866 §6.6).
    pub fn name(self) -> &'static str {
        match self {
            Self::Vp8 => "VP8",
            Self::Vp9 => "VP9",
            Self::H264 => "H264",
            Self::Av1 => "AV1",
        }
    }
}

/// One access unit, complete and in order: what a decoder takes.
#[derive(Clone, Debug)]
pub struct EncodedFrame {
    pub codec: Codec,
    /// VP8/VP9 frame, H264 Annex B access unit, or AV1 temporal unit (OBUs with sizes).
    pub data: Bytes,
    /// Media time in 1/90000 s, as sent; wraps for RTP.
    pub rtp_timestamp: u32,
    /// Whether decoding can start here.
    pub is_key: bool,
    /// When its last packet arrived.
    pub received: Instant,
}

/// One 8-bit plane of a picture; row `r` is `data[r * stride ..][.. width]`.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    pub data: &'a [u8],
    /// Bytes from one row to the next, at least `width`.
    pub stride: usize,
    pub width: usize,
    pub height: usize,
}

/// Storage of an I420 picture: plane 0 is Y, 1 is U (Cb), 2 is V (Cr), chroma halved and rounded up.
pub trait Planes: Send + Sync {
    /// Panics only if `index > 2`.
    fn plane(&self, index: usize) -> Plane<'_>;
}

/// A decoded picture: 8-bit I420, BT.601 limited range, immutable and cheap to clone.
///
/// Every source (live, video file, image) is brought to this form before recognition, so that the
/// same picture gives the same detections wherever it came from.
#[derive(Clone)]
pub struct Picture {
    /// Pixels, at least 1.
    pub width: usize,
    /// Pixels, at least 1.
    pub height: usize,
    pub planes: Arc<dyn Planes>,
    /// Media time of the frame it was decoded from, 1/90000 s.
    pub rtp_timestamp: u32,
    /// When the frame's last packet arrived (live) or when it was read (files).
    pub received: Instant,
    /// When its decoding began and ended.
    pub decode_started: Instant,
    pub decoded: Instant,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({}x{} @{})", self.width, self.height, self.rtp_timestamp)
    }
}

/// An I420 picture in one owned buffer: images, tests, and the encoder's canvas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct I420Buffer {
    pub width: usize,
    pub height: usize,
    /// Y then U then V, each tightly packed.
    pub data: Vec<u8>,
}

impl I420Buffer {
    /// A black picture (Y = 16, U = V = 128).
    pub fn black(width: usize, height: usize) -> Self {
        let luma = width * height;
        let chroma = width.div_ceil(2) * height.div_ceil(2);
        let mut data = vec![16; luma + 2 * chroma];
        data[luma..].fill(128);
        Self { width, height, data }
    }

    fn range(&self, index: usize) -> (std::ops::Range<usize>, usize, usize) {
        let (cw, ch) = (self.width.div_ceil(2), self.height.div_ceil(2));
        let luma = self.width * self.height;
        match index {
            0 => (0..luma, self.width, self.height),
            1 => (luma..luma + cw * ch, cw, ch),
            2 => (luma + cw * ch..luma + 2 * cw * ch, cw, ch),
            _ => unreachable!("an I420 picture has three planes"),
        }
    }

    /// Mutable rows of a plane, tightly packed: `(data, width, height)`.
    pub fn plane_mut(&mut self, index: usize) -> (&mut [u8], usize, usize) {
        let (range, width, height) = self.range(index);
        (&mut self.data[range], width, height)
    }

    /// Copies `picture` here, reallocating only when the size changed.
    pub fn copy_from(&mut self, picture: &Picture) {
        if (self.width, self.height) != (picture.width, picture.height) {
            *self = Self::black(picture.width, picture.height);
        }
        for index in 0..3 {
            let source = picture.planes.plane(index);
            let (rows, width, _) = self.plane_mut(index);
            for (to, from) in rows.chunks_exact_mut(width).zip(source.data.chunks(source.stride)) {
                to.copy_from_slice(&from[..width]);
            }
        }
    }

    /// Wraps the buffer as a picture received and decoded at `at`.
    pub fn into_picture(self, rtp_timestamp: u32, at: Instant) -> Picture {
        Picture {
            width: self.width,
            height: self.height,
            planes: Arc::new(self),
            rtp_timestamp,
            received: at,
            decode_started: at,
            decoded: at,
        }
    }
}

impl Planes for I420Buffer {
    fn plane(&self, index: usize) -> Plane<'_> {
        let (range, width, height) = self.range(index);
        Plane { data: &self.data[range], stride: width, width, height }
    }
}

/// A point in pixels of the picture, origin at the top left corner of the top left pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    pub x: f32,
    pub y: f32,
}

/// An axis-aligned box in pixels of the picture: top left corner and size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct BBox {
    pub x: f32,
    pub y: f32,
    pub w: f32,
    pub h: f32,
}

impl BBox {
    pub fn from_corners(x0: f32, y0: f32, x1: f32, y1: f32) -> Self {
        Self { x: x0, y: y0, w: x1 - x0, h: y1 - y0 }
    }

    pub fn area(&self) -> f32 {
        self.w.max(0.0) * self.h.max(0.0)
    }

    /// The area that both cover, in square pixels.
    pub fn intersection(&self, other: &Self) -> f32 {
        let w = (self.x + self.w).min(other.x + other.w) - self.x.max(other.x);
        let h = (self.y + self.h).min(other.y + other.h) - self.y.max(other.y);
        w.max(0.0) * h.max(0.0)
    }

    /// Intersection over union, 0 to 1; 0 when either box is empty.
    pub fn iou(&self, other: &Self) -> f32 {
        let intersection = self.intersection(other);
        let union = self.area() + other.area() - intersection;
        if union > 0.0 { intersection / union } else { 0.0 }
    }

    /// The part of the box inside a `width` × `height` picture; it may be empty.
    pub fn clipped(&self, width: f32, height: f32) -> Self {
        let (x0, y0) = (self.x.clamp(0.0, width), self.y.clamp(0.0, height));
        let (x1, y1) = ((self.x + self.w).clamp(x0, width), (self.y + self.h).clamp(y0, height));
        Self::from_corners(x0, y0, x1, y1)
    }
}

/// What sort of thing was detected; each kind has its own model, labels and tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Face,
    Object,
    /// A line of text, found in the whole picture.
    Text,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Face, Self::Object, Self::Text];

    pub fn name(self) -> &'static str {
        match self {
            Self::Face => "face",
            Self::Object => "object",
            Self::Text => "text",
        }
    }
}

/// Face landmarks in picture pixels; left and right are the person's own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FaceLandmarks {
    pub right_eye: Point,
    pub left_eye: Point,
    pub nose: Point,
    pub mouth: Point,
}

/// One thing found in one picture.
#[derive(Clone, Debug, PartialEq)]
pub struct Detection {
    pub kind: Kind,
    /// Index into the model's labels.
    pub class: u16,
    /// 0 to 1.
    pub score: f32,
    /// In picture pixels, clipped to the picture.
    pub bbox: BBox,
    /// Faces only.
    pub landmarks: Option<FaceLandmarks>,
}

/// What a face looks like to the model: an appearance, never a statement about the person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gender {
    Female,
    Male,
    Unsure,
}
