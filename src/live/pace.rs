//! How many pictures the sender is asked for, when decoding does not keep up. Pure.
//!
//! The annotated track is given up first ([`governor`](super::governor)), which takes some seconds; what is still too
//! much then is more than can be decoded, and each time that the decoder's queue is full everything up to the next key
//! frame is lost. A sender that sends fewer pictures costs less and loses nothing.

use std::time::{Duration, Instant};

/// The share of its frames that the sender is asked to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    #[default]
    Full,
    Half,
    Quarter,
}

impl Pace {
    fn slower(self) -> Self {
        match self {
            Self::Full => Self::Half,
            Self::Half | Self::Quarter => Self::Quarter,
        }
    }

    fn faster(self) -> Self {
        match self {
            Self::Full | Self::Half => Self::Full,
            Self::Quarter => Self::Half,
        }
    }

    /// Code and words for the page.
    pub fn notice(self) -> (&'static str, &'static str) {
        match self {
            Self::Full => ("camera_full", "the server keeps up again: all frames are welcome"),
            Self::Half => ("camera_half_rate", "the server cannot decode as much: send half the frames"),
            Self::Quarter => {
                ("camera_quarter_rate", "the server cannot decode as much: send a quarter of the frames")
            }
        }
    }
}

/// The decoder's queue must overflow for this long before less is asked for: longer than the annotated track takes to
/// be given up.
const PATIENCE: Duration = Duration::from_secs(4);
/// Overflows further apart have nothing to do with each other.
const FORGET: Duration = Duration::from_secs(10);
/// How long nothing may overflow before more is asked for, at first and at the most: it doubles with each time that
/// more was too much.
const HOLD: Duration = Duration::from_secs(10);
const MAX_HOLD: Duration = Duration::from_secs(320);

/// Chooses the [`Pace`] from when the decoder's queue overflowed.
#[derive(Debug)]
pub struct Pacer {
    pace: Pace,
    /// The first and the last overflow of those under way.
    trouble: Option<(Instant, Instant)>,
    changed: Option<Instant>,
    has_risen: bool,
    hold: Duration,
}

impl Default for Pacer {
    fn default() -> Self {
        Self { pace: Pace::Full, trouble: None, changed: None, has_risen: false, hold: HOLD }
    }
}

impl Pacer {
    /// Notes that a frame found the queue full; returns the pace when it changed.
    pub fn overflow(&mut self, now: Instant) -> Option<Pace> {
        let under_way = self.trouble.filter(|(_, last)| now.duration_since(*last) < FORGET);
        let since = under_way.map_or(now, |(since, _)| since);
        self.trouble = Some((since, now));
        if now.duration_since(since) < PATIENCE || self.pace == Pace::Quarter {
            return None;
        }
        if std::mem::take(&mut self.has_risen) {
            self.hold = (self.hold * 2).min(MAX_HOLD);
        }
        self.trouble = None;
        self.change(self.pace.slower(), now)
    }

    /// Notes that a frame found a place in the queue; returns the pace when it changed.
    pub fn fit(&mut self, now: Instant) -> Option<Pace> {
        let last = self.trouble.map(|(_, last)| last).max(self.changed)?;
        if self.pace == Pace::Full || now.duration_since(last) < self.hold {
            return None;
        }
        self.has_risen = true;
        self.change(self.pace.faster(), now)
    }

    fn change(&mut self, pace: Pace, now: Instant) -> Option<Pace> {
        self.pace = pace;
        self.changed = Some(now);
        Some(pace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Seconds at which the pace changed, when frames come ten times a second and overflow where `is_too_much`.
    fn changes(seconds: u64, is_too_much: impl Fn(u64, Pace) -> bool) -> Vec<(u64, Pace)> {
        let (mut pacer, start) = (Pacer::default(), Instant::now());
        let mut pace = Pace::Full;
        let mut seen = Vec::new();
        for tenth in 0..seconds * 10 {
            let now = start + Duration::from_millis(tenth * 100);
            let overflows = is_too_much(tenth / 10, pace) && tenth % 5 == 0;
            let change = if overflows { pacer.overflow(now) } else { pacer.fit(now) };
            if let Some(next) = change {
                pace = next;
                seen.push((tenth / 10, next));
            }
        }
        seen
    }

    #[test]
    fn less_is_asked_for_only_when_the_queue_keeps_overflowing() {
        assert_eq!(changes(60, |_, _| false), []);
        assert_eq!(changes(60, |second, _| second < 3), []);
        assert_eq!(changes(60, |second, _| second % 12 == 0), []);
        assert_eq!(changes(12, |_, _| true), [(4, Pace::Half), (8, Pace::Quarter)]);
    }

    #[test]
    fn more_is_asked_for_again_in_steps() {
        let expected = [(4, Pace::Half), (8, Pace::Quarter), (19, Pace::Half), (29, Pace::Full)];
        assert_eq!(changes(60, |second, _| second < 10), expected);
    }

    #[test]
    fn what_was_too_much_is_tried_ever_more_seldom() {
        let tries = changes(400, |_, pace| pace == Pace::Full);
        let rises: Vec<u64> =
            tries.iter().filter(|(_, pace)| *pace == Pace::Full).map(|(second, _)| *second).collect();
        assert_eq!(rises, [14, 38, 83, 167, 332]);
    }
}
