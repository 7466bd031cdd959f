//! The media thread of a session: decodes every frame, leaves the newest picture for recognition, and
//! draws and encodes the annotated track at the sender's rate.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};

use super::audience::{AnnotatedFrame, Audience};
use super::governor::{Governor, Level};
use super::settings::ControlReply;
use crate::codec::{CodecError, Decoder, Encoder, EncoderConfig, MAX_PIXELS, Speed, Unit};
use crate::frame::{BBox, Codec, EncodedFrame, I420Buffer, Picture, Plane, Planes};
use crate::imgproc;
use crate::mailbox::Latest;
use crate::pipeline::draw::{DrawnTrack, Plates, colour_of, draw_with, write_label};
use crate::pipeline::report::Attributes;
use crate::pipeline::track::Tracks;
use crate::rtp::Unwrapper;
use crate::telemetry::metrics::{Metrics, Stage};

/// A picture, and its media time since the session's first: tracks are known by it, so that all threads have one clock.
pub type Timed = (Picture, Duration);

/// Everything the media thread is connected to.
pub struct Media {
    pub decodes_on: Unit,
    pub frames: Receiver<EncodedFrame>,
    pub pictures: Latest<Timed>,
    pub key_wanted: Arc<Notify>,
    pub tracks: watch::Receiver<Tracks>,
    pub audience: Arc<Audience>,
    pub notices: mpsc::Sender<ControlReply>,
    pub metrics: Arc<Metrics>,
}

impl Media {
    /// Runs until the sender of frames is dropped.
    pub fn run(self) {
        let mut decoder: Option<(Codec, Decoder)> = None;
        let mut clock = Unwrapper::default();
        let mut annotator = Annotator::new(&self);
        while let Ok(frame) = self.frames.recv() {
            let started = Instant::now();
            self.metrics.observe(Stage::Receive, started.duration_since(frame.received));
            let Some(picture) = self.decode(&mut decoder, &frame) else {
                self.metrics.frame_dropped(Stage::Decode);
                continue;
            };
            self.metrics.observe(Stage::Decode, picture.decoded.duration_since(started));
            let at = clock.unwrap(picture.rtp_timestamp);
            if self.pictures.put((picture.clone(), at)) {
                self.metrics.frame_dropped(Stage::Queue);
            }
            if self.audience.is_watched() {
                annotator.show(&picture, at, started);
            }
        }
    }

    /// Decodes, opening a decoder first where the codec is new; `None` when no picture came of it.
    fn decode(&self, slot: &mut Option<(Codec, Decoder)>, frame: &EncodedFrame) -> Option<Picture> {
        if slot.as_ref().is_none_or(|(codec, _)| *codec != frame.codec) {
            match Decoder::open_on(self.decodes_on, frame.codec, 1) {
                Ok(decoder) => *slot = Some((frame.codec, decoder)),
                Err(error) => {
                    tracing::warn!(%error, "opening a decoder");
                    self.notice(
                        "codec_unsupported",
                        &format!("{} cannot be decoded here", frame.codec.name()),
                    );
                    return None;
                }
            }
        }
        let (_, decoder) = slot.as_mut().expect("a decoder was opened above");
        match decoder.decode(frame, MAX_PIXELS) {
            Ok(picture) => picture,
            Err(error) => {
                tracing::debug!(%error, "decoding");
                if matches!(error, CodecError::TooLarge { .. }) {
                    self.notice("picture_too_large", &error.to_string());
                }
                self.key_wanted.notify_one();
                None
            }
        }
    }

    fn notice(&self, code: &str, message: &str) {
        // A full channel means that the page has been told enough for now.
        let _ = self.notices.try_send(ControlReply::notice(code, message));
    }
}

/// What of a picture is encoded.
#[derive(Clone, Copy)]
enum Shown {
    /// A copy that was drawn on.
    Canvas,
    /// The picture itself: there was nothing to draw.
    AsDecoded,
}

/// Draws and encodes, at the level that the machine keeps up with.
struct Annotator {
    audience: Arc<Audience>,
    tracks: watch::Receiver<Tracks>,
    notices: mpsc::Sender<ControlReply>,
    metrics: Arc<Metrics>,
    encoder: Option<(usize, usize, Encoder)>,
    canvas: I420Buffer,
    /// Of the last picture; their buffers are used again.
    drawn: Vec<DrawnTrack>,
    plates: Plates,
    governor: Governor,
    bitrate: Bitrate,
    shown: u64,
    force_key: bool,
}

impl Annotator {
    fn new(media: &Media) -> Self {
        Self {
            audience: Arc::clone(&media.audience),
            tracks: media.tracks.clone(),
            notices: media.notices.clone(),
            metrics: Arc::clone(&media.metrics),
            encoder: None,
            canvas: I420Buffer::black(2, 2),
            drawn: Vec::new(),
            plates: Plates::default(),
            governor: Governor::default(),
            bitrate: Bitrate::default(),
            shown: 0,
            force_key: true,
        }
    }

    /// Sends `picture` with what is known of `at` drawn on it; `started` is when its decoding began.
    fn show(&mut self, picture: &Picture, at: Duration, started: Instant) {
        self.shown += 1;
        let level = self.governor.level();
        let skipped = match level {
            Level::Full => false,
            Level::HalfRate | Level::HalfSize => self.shown % 2 == 1,
            Level::Off => true,
        };
        if !skipped && let Some(shown) = self.draw(picture, at, level) {
            self.encode(picture, shown);
        }
        if let Some(level) = self.governor.observe(at, started.elapsed()) {
            let (code, message) = level.notice();
            let _ = self.notices.try_send(ControlReply::notice(code, message));
        }
    }

    /// Draws what is known of `at`; `None` when that fails.
    fn draw(&mut self, picture: &Picture, at: Duration, level: Level) -> Option<Shown> {
        let began = Instant::now();
        let scale = if level == Level::HalfSize { 2 } else { 1 };
        let tracks = self.tracks.borrow().clone();
        let factor = 1.0 / scale as f32;
        let nothing = Attributes::default();
        let mut count = 0;
        for (track, bbox) in tracks.at(at) {
            if count == self.drawn.len() {
                self.drawn.push(DrawnTrack::default());
            }
            let drawn = &mut self.drawn[count];
            drawn.bbox =
                BBox { x: bbox.x * factor, y: bbox.y * factor, w: bbox.w * factor, h: bbox.h * factor };
            drawn.colour = colour_of(track.kind, track.class);
            drawn.label.clear();
            let said = track.attributes.as_deref().unwrap_or(&nothing);
            write_label(&mut drawn.label, track.id, tracks.label(track), track.score, said);
            count += 1;
        }
        if scale == 1 && count == 0 {
            return Some(Shown::AsDecoded);
        }
        if scale == 1 {
            self.canvas.copy_from(picture);
        } else if let Err(error) = imgproc::shrink(picture, scale, &mut self.canvas) {
            tracing::debug!(%error, "shrinking the annotated picture");
            return None;
        }
        draw_with(&mut self.plates, &mut self.canvas, &self.drawn[..count]);
        self.metrics.observe(Stage::Draw, began.elapsed());
        Some(Shown::Canvas)
    }

    fn encode(&mut self, picture: &Picture, shown: Shown) {
        let began = Instant::now();
        let Some(codec) = self.audience.codec() else { return };
        let planes: &dyn Planes = match shown {
            Shown::Canvas => &self.canvas,
            Shown::AsDecoded => &*picture.planes,
        };
        let Plane { width, height, .. } = planes.plane(0);
        self.force_key |= self.audience.takes_key(began);
        let target_kbps = self.bitrate.target_kbps(width, height, self.audience.loss_ratio(), began);

        if self.encoder.as_ref().is_none_or(|(w, h, _)| (*w, *h) != (width, height)) {
            let config = EncoderConfig {
                codec,
                width,
                height,
                bitrate_kbps: target_kbps,
                fps_hint: 30,
                threads: 1,
                speed: Speed::default(),
            };
            match Encoder::open(config) {
                Ok(encoder) => self.encoder = Some((width, height, encoder)),
                Err(error) => {
                    tracing::warn!(%error, width, height, "opening an encoder");
                    self.metrics.frame_dropped(Stage::Encode);
                    return;
                }
            }
        }
        let (_, _, encoder) = self.encoder.as_mut().expect("an encoder was opened above");
        encoder.set_bitrate(target_kbps);
        match encoder.encode(planes, picture.rtp_timestamp, self.force_key) {
            Ok(Some(encoded)) => {
                self.metrics.observe(Stage::Encode, began.elapsed());
                self.force_key = false;
                self.audience.show(AnnotatedFrame {
                    data: encoded.data,
                    is_key: encoded.is_key,
                    rtp_timestamp: picture.rtp_timestamp,
                    received: picture.received,
                });
            }
            Ok(None) => {}
            Err(error) => {
                tracing::debug!(%error, "encoding");
                self.metrics.frame_dropped(Stage::Encode);
                self.encoder = None;
                self.force_key = true;
            }
        }
    }
}

/// The annotated track's bit rate: by picture size, less when the viewer loses packets.
#[derive(Default)]
struct Bitrate {
    share: Option<f32>,
    changed: Option<Instant>,
}

impl Bitrate {
    /// Bits a pixel and second that look clean with the fast presets: 1.2 Mbit/s at 640x480.
    const BITS_PER_PIXEL: f32 = 3.9;
    /// How often the rate follows the loss; browsers report about once a second.
    const INTERVAL: Duration = Duration::from_secs(1);

    /// The rules of loss-based control in draft-ietf-rmcat-gcc-02 §6: over 10 % loss less, under 2 % more.
    fn target_kbps(&mut self, width: usize, height: usize, loss: f32, now: Instant) -> u32 {
        let share = self.share.get_or_insert(1.0);
        if self.changed.is_none_or(|at| now.duration_since(at) >= Self::INTERVAL) {
            self.changed = Some(now);
            if loss > 0.1 {
                *share *= 1.0 - 0.5 * loss;
            } else if loss < 0.02 {
                *share *= 1.05;
            }
            *share = share.clamp(0.15, 1.0);
        }
        let full = width as f32 * height as f32 * Self::BITS_PER_PIXEL / 1000.0;
        (full * *share).clamp(100.0, 8000.0) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bit_rate_falls_with_loss_and_recovers() {
        let mut bitrate = Bitrate::default();
        let start = Instant::now();
        let clean = bitrate.target_kbps(640, 480, 0.0, start);
        assert_eq!(clean, 1198);
        let mut lossy = clean;
        for second in 1..=5 {
            let next = bitrate.target_kbps(640, 480, 0.3, start + Duration::from_secs(second));
            assert!(next < lossy);
            lossy = next;
        }
        for second in 6..60 {
            lossy = bitrate.target_kbps(640, 480, 0.0, start + Duration::from_secs(second));
        }
        assert_eq!(lossy, clean);
    }
}
