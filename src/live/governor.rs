//! How much annotated video the machine keeps up with. Pure.

use std::time::Duration;

/// What is given up, in this order, when decoding, drawing and encoding take longer than the frames do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    #[default]
    Full,
    /// Every second frame.
    HalfRate,
    /// Every second frame at half the width and height.
    HalfSize,
    /// Reports only.
    Off,
}

impl Level {
    fn worse(self) -> Self {
        match self {
            Self::Full => Self::HalfRate,
            Self::HalfRate => Self::HalfSize,
            Self::HalfSize | Self::Off => Self::Off,
        }
    }

    fn better(self) -> Self {
        match self {
            Self::Full | Self::HalfRate => Self::Full,
            Self::HalfSize => Self::HalfRate,
            Self::Off => Self::HalfSize,
        }
    }

    /// Code and words for the page.
    pub fn notice(self) -> (&'static str, &'static str) {
        match self {
            Self::Full => ("annotated_full", "the annotated video is back at full rate and size"),
            Self::HalfRate => ("annotated_half_rate", "the server is busy: annotated video at half the rate"),
            Self::HalfSize => ("annotated_half_size", "the server is busy: annotated video at half the size"),
            Self::Off => ("annotated_off", "the server is too busy for annotated video: results only"),
        }
    }
}

/// Chooses the [`Level`] from the share of time that each frame keeps the media thread busy.
#[derive(Debug, Default)]
pub struct Governor {
    level: Level,
    window_start: Option<Duration>,
    busy: Duration,
    calm_windows: u32,
}

/// Media time over which the share is measured.
const WINDOW: Duration = Duration::from_secs(1);
/// Above this share of the time the thread cannot keep up for long.
const TOO_BUSY: f64 = 0.9;
/// Below this share one level more would still fit: each level about doubles the work.
const CALM: f64 = 0.4;
/// Windows in a row that must be calm before more is tried.
const CALM_WINDOWS: u32 = 5;

impl Governor {
    pub fn level(&self) -> Level {
        self.level
    }

    /// Notes that the frame of media time `at` took `busy`; returns the level when it changed.
    pub fn observe(&mut self, at: Duration, busy: Duration) -> Option<Level> {
        self.busy += busy;
        let start = *self.window_start.get_or_insert(at);
        let window = at.checked_sub(start).filter(|window| *window >= WINDOW)?;
        let share = self.busy.as_secs_f64() / window.as_secs_f64();
        self.window_start = Some(at);
        self.busy = Duration::ZERO;
        self.calm_windows = if share < CALM { self.calm_windows + 1 } else { 0 };

        let next = if share > TOO_BUSY {
            self.level.worse()
        } else if self.calm_windows >= CALM_WINDOWS {
            self.calm_windows = 0;
            self.level.better()
        } else {
            self.level
        };
        (next != std::mem::replace(&mut self.level, next)).then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays `seconds` at 30 fps in which each frame takes `busy_ms`; returns the changes.
    fn play(governor: &mut Governor, from_s: u64, seconds: u64, busy_ms: u64) -> Vec<Level> {
        let frames = from_s * 30..(from_s + seconds) * 30;
        let at = |frame| Duration::from_secs_f64(frame as f64 / 30.0);
        frames.filter_map(|n| governor.observe(at(n), Duration::from_millis(busy_ms))).collect()
    }

    #[test]
    fn it_gives_up_step_by_step_and_comes_back_slowly() {
        let mut governor = Governor::default();
        assert_eq!(play(&mut governor, 0, 5, 10), []);
        assert_eq!(play(&mut governor, 5, 6, 40), [Level::HalfRate, Level::HalfSize, Level::Off]);
        assert_eq!(play(&mut governor, 11, 20, 5), [Level::HalfSize, Level::HalfRate, Level::Full]);
    }

    #[test]
    fn time_that_stands_still_or_runs_back_changes_nothing() {
        let mut governor = Governor::default();
        for at in [5, 5, 1, 0, 5] {
            assert_eq!(governor.observe(Duration::from_secs(at), Duration::from_secs(9)), None);
        }
    }
}
