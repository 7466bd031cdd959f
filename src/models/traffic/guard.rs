//! The bounds that a version must keep to, and whether it does.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::TrafficError;

/// Bounds; a version that breaks one is rolled back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// Of its runs, 0 to 1, those that may fail.
    pub max_error_ratio: f32,
    /// How many times the p95 of the version that it stands beside, or came after, its own may be; at least 1.
    pub max_p95_ratio: f32,
    /// Milliseconds that its p95 may be, whatever the other's is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_p95_ms: Option<f32>,
    /// Runs on one worker before its p95 is judged there, and those of which at least the errors are a share; 10 or more.
    pub min_runs: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self { max_error_ratio: 0.05, max_p95_ratio: 2.0, max_p95_ms: None, min_runs: 200 }
    }
}

/// What one worker has measured of a version lately.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    pub runs: u64,
    /// Of `runs`.
    pub errors: u64,
    /// Milliseconds; `None` before the first run that did not fail.
    pub p95_ms: Option<f32>,
}

/// A bound that was broken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Breach {
    Errors { errors: u64, runs: u64, max_ratio: f32 },
    SlowerThan { p95_ms: f32, other_ms: f32, max_ratio: f32 },
    Slow { p95_ms: f32, max_ms: f32 },
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errors { errors, runs, max_ratio } => {
                write!(f, "{errors} of {runs} runs failed, more than {:.1} %", max_ratio * 100.0)
            }
            Self::SlowerThan { p95_ms, other_ms, max_ratio } => {
                write!(
                    f,
                    "p95 of {p95_ms:.1} ms, more than {max_ratio} times the {other_ms:.1} ms of the other"
                )
            }
            Self::Slow { p95_ms, max_ms } => write!(f, "p95 of {p95_ms:.1} ms, more than {max_ms} ms"),
        }
    }
}

impl Guard {
    pub(super) fn validate(&self) -> Result<(), TrafficError> {
        let wrong = |name, value: String, expected| Err(TrafficError::Guard { name, value, expected });
        if !(0.0..=1.0).contains(&self.max_error_ratio) {
            return wrong("max_error_ratio", self.max_error_ratio.to_string(), "0 to 1");
        }
        if !(1.0..=1000.0).contains(&self.max_p95_ratio) {
            return wrong("max_p95_ratio", self.max_p95_ratio.to_string(), "1 to 1000");
        }
        if let Some(ms) = self.max_p95_ms
            && !(0.1..=60_000.0).contains(&ms)
        {
            return wrong("max_p95_ms", ms.to_string(), "0.1 to 60000");
        }
        if !(10..=1_000_000).contains(&self.min_runs) {
            return wrong("min_runs", self.min_runs.to_string(), "10 to 1000000");
        }
        Ok(())
    }

    /// The bound that `version` breaks, if it has run often enough to say; its p95 is held against that of `other` if
    /// that one has too. Errors are too many once nothing that follows within `min_runs` can make up for them.
    pub fn judge(&self, version: &Measured, other: Option<&Measured>) -> Option<Breach> {
        let min_runs = u64::from(self.min_runs);
        let Measured { runs, errors, p95_ms } = *version;
        if errors as f64 > runs.max(min_runs) as f64 * f64::from(self.max_error_ratio) {
            return Some(Breach::Errors { errors, runs, max_ratio: self.max_error_ratio });
        }
        let p95_ms = p95_ms.filter(|_| runs >= min_runs)?;
        if let Some(max_ms) = self.max_p95_ms
            && p95_ms > max_ms
        {
            return Some(Breach::Slow { p95_ms, max_ms });
        }
        let other_ms = other.filter(|other| other.runs >= min_runs)?.p95_ms?;
        let max_ratio = self.max_p95_ratio;
        (p95_ms > other_ms * max_ratio).then_some(Breach::SlowerThan { p95_ms, other_ms, max_ratio })
    }
}
