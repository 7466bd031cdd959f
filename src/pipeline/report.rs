//! What a recognised frame says, as JSON on the data channel, in files and from `/predict`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::frame::{Gender, Kind};

/// The result of one recognised frame.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameReport {
    /// Counts recognised frames of the session, from 0, without gaps.
    pub seq: u64,
    /// RTP timestamp of the recognised frame as the sender sent it, 1/90000 s, wrapping.
    pub rtp_timestamp: u32,
    /// When the sender captured the frame, in milliseconds since 1970 by the sender's own clock,
    /// known once its first RTCP sender report has come (RFC 3550 §6.4.1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_ms: Option<f64>,
    /// Pixels of the sent frame, in which the boxes are given.
    pub width: u32,
    pub height: u32,
    pub tracks: Vec<TrackReport>,
    /// Model name → version that produced this report.
    pub models: BTreeMap<String, String>,
    pub timings_ms: Timings,
    /// Pictures of this session, so far, that a newer one replaced before recognition.
    pub dropped: u64,
}

/// One tracked thing in a report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrackReport {
    /// Unique within the session; never reused.
    pub id: u64,
    pub kind: Kind,
    pub label: String,
    /// 0 to 1.
    pub score: f32,
    /// `[x, y, w, h]` in pixels of the sent frame.
    #[serde(rename = "box")]
    pub bbox: [f32; 4],
    #[serde(default, skip_serializing_if = "Attributes::is_empty")]
    pub attributes: Attributes,
}

/// What second-stage models said of a track; each is a label with a score.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Attributes {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparent_gender: Option<GenderReport>,
    /// What is written there, its lines joined by spaces.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<LabelReport>,
    /// Classifiers' answers, by the models' names.
    #[serde(flatten)]
    pub classes: BTreeMap<String, LabelReport>,
}

impl Attributes {
    pub fn is_empty(&self) -> bool {
        self.apparent_gender.is_none() && self.text.is_none() && self.classes.is_empty()
    }
}

/// A label with the confidence in it, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LabelReport {
    pub label: String,
    pub score: f32,
}

/// Apparent gender with the confidence in the given label, 0.5 to 1 (for "unsure": of the likelier one).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenderReport {
    pub label: Gender,
    pub score: f32,
}

/// Milliseconds spent on this frame, by stage, in path order. They do not overlap and, with
/// waiting included, add up to `total`: from the frame's last packet to the report's hand-over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timings {
    /// Last packet to the start of decoding.
    pub receive: f32,
    pub decode: f32,
    /// In the mailbox, waiting for the recogniser.
    pub queue: f32,
    /// Resize and letterbox.
    pub prepare: f32,
    /// Waiting for, and running in, the engines.
    pub infer: f32,
    pub track: f32,
    pub total: f32,
}
