//! The places in recognition that models fill.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TrafficError;
use crate::models::manifest::Task;

/// Bytes of a label.
const MAX_LABEL_BYTES: usize = 64;
const CLASSIFY: &str = "classify:";

/// A place in recognition that a model fills.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Slot {
    Faces,
    /// Apparent gender.
    Gender,
    Objects,
    /// Looks at the tracks of this label: `face`, or one of the object detector's.
    Classify(String),
    TextDetect,
    TextRead,
}

impl Slot {
    /// As it stands in JSON and in addresses: `classify:dog`.
    pub fn name(&self) -> std::borrow::Cow<'_, str> {
        match self {
            Self::Faces => "faces".into(),
            Self::Gender => "gender".into(),
            Self::Objects => "objects".into(),
            Self::Classify(label) => format!("{CLASSIFY}{label}").into(),
            Self::TextDetect => "text-detect".into(),
            Self::TextRead => "text-read".into(),
        }
    }

    /// Its name as a file's, of `a-z`, `0-9`, `-` and `_`: bytes that are none of `a-z`, `0-9` and `-` become `_` and two
    /// hexadecimal digits.
    pub fn file_stem(&self) -> String {
        let mut stem = String::new();
        for byte in self.name().bytes() {
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' => stem.push(char::from(byte)),
                other => stem.push_str(&format!("_{other:02x}")),
            }
        }
        stem
    }

    /// What a model must be for to fill it; `None` where no task of today does.
    pub fn task(&self) -> Option<Task> {
        match self {
            Self::Faces => Some(Task::Faces),
            Self::Gender => Some(Task::Gender),
            Self::Objects => Some(Task::Objects),
            Self::Classify(_) => Some(Task::Classes),
            Self::TextDetect => Some(Task::TextDetect),
            Self::TextRead => Some(Task::TextRead),
        }
    }

    /// The slot that is filled by any model for `task`; `None` where it takes more to say which.
    pub fn of(task: Task) -> Option<Self> {
        match task {
            Task::Faces => Some(Self::Faces),
            Task::Gender => Some(Self::Gender),
            Task::Objects => Some(Self::Objects),
            Task::Classes => None,
            Task::TextDetect => Some(Self::TextDetect),
            Task::TextRead => Some(Self::TextRead),
        }
    }

    /// Whether it can have a model by itself, without a traffic.
    pub fn has_default(&self) -> bool {
        !matches!(self, Self::Classify(_))
    }

    /// Whether it finds things in pictures, so that two models can be compared by what they find.
    pub fn is_detector(&self) -> bool {
        matches!(self, Self::Faces | Self::Objects)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

impl FromStr for Slot {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        Ok(match text {
            "faces" => Self::Faces,
            "gender" => Self::Gender,
            "objects" => Self::Objects,
            "text-detect" => Self::TextDetect,
            "text-read" => Self::TextRead,
            other => match other.strip_prefix(CLASSIFY) {
                Some(label)
                    if (1..=MAX_LABEL_BYTES).contains(&label.len())
                        && !label.chars().any(char::is_control) =>
                {
                    Self::Classify(label.to_owned())
                }
                _ => return Err(TrafficError::Slot(other.chars().take(80).collect())),
            },
        })
    }
}

impl TryFrom<String> for Slot {
    type Error = TrafficError;

    fn try_from(text: String) -> Result<Self, TrafficError> {
        text.parse()
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.name().into_owned()
    }
}
