//! What a video showed, when all of it was looked at.

use std::collections::BTreeMap;

use serde::Serialize;

use super::VideoError;
use crate::frame::Kind;
use crate::pipeline::report::{FrameReport, GenderReport, LabelReport};

/// What a video showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub width: usize,
    pub height: usize,
    pub frames: u64,
    pub recognised: u64,
    /// Media time of the last picture.
    pub duration_s: f64,
    /// The file ended before it said it would.
    pub cut_off: bool,
    /// Why the rest was not annotated, if something kept it from being.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped: Option<String>,
    /// Frames that were damaged and gave no picture.
    pub damaged_frames: u64,
    /// Pictures of another size than the first, brought to its size.
    pub rescaled_frames: u64,
    pub audio: AudioOutcome,
    /// In the order of appearance.
    pub tracks: Vec<TrackSummary>,
    /// Tracks by label.
    pub counts: BTreeMap<String, u64>,
    /// Face tracks by the label of their apparent gender.
    pub apparent_genders: BTreeMap<String, u64>,
}

/// What became of the audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AudioOutcome {
    None,
    Copied,
    /// MP4 cannot hold it.
    LeftOut,
}

/// One thing that a video showed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TrackSummary {
    pub id: u64,
    pub kind: Kind,
    pub label: String,
    pub first_s: f64,
    pub last_s: f64,
    /// The surest of its moments, 0 to 1.
    pub score: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparent_gender: Option<GenderReport>,
    /// What was written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<LabelReport>,
    /// Classifiers' answers, by the models' names.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, LabelReport>,
}

/// How the reading of a file ended.
#[derive(Default)]
pub(super) struct Ending {
    pub cut_off: bool,
    pub damaged: u64,
    pub rescaled: u64,
    pub stopped: Option<VideoError>,
}

/// The tracks so far, by id.
#[derive(Default)]
pub(super) struct Sightings(BTreeMap<u64, TrackSummary>);

impl Sightings {
    pub fn note(&mut self, report: &FrameReport, at_s: f64) {
        for track in &report.tracks {
            let summary = self.0.entry(track.id).or_insert_with(|| TrackSummary {
                id: track.id,
                kind: track.kind,
                label: String::new(),
                first_s: at_s,
                last_s: at_s,
                score: track.score,
                apparent_gender: None,
                text: None,
                classes: BTreeMap::new(),
            });
            // A track's label is a vote: the last word counts.
            summary.label.clone_from(&track.label);
            summary.last_s = at_s;
            summary.score = summary.score.max(track.score);
            let said = &track.attributes;
            summary.apparent_gender = said.apparent_gender.or(summary.apparent_gender);
            if said.text.is_some() {
                summary.text.clone_from(&said.text);
            }
            summary.classes.extend(said.classes.clone());
        }
    }

    pub fn tracks(&self) -> Vec<TrackSummary> {
        self.0.values().cloned().collect()
    }

    pub fn counts(&self) -> BTreeMap<String, u64> {
        tally(self.0.values().map(|track| track.label.clone()))
    }

    pub fn apparent_genders(&self) -> BTreeMap<String, u64> {
        let genders = self.0.values().filter_map(|track| track.apparent_gender);
        tally(genders.map(|gender| format!("{:?}", gender.label).to_lowercase()))
    }
}

fn tally(labels: impl Iterator<Item = String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for label in labels {
        *counts.entry(label).or_default() += 1;
    }
    counts
}
