//! What was measured of a model since it was loaded: runs, errors, times, sessions, agreement.
//!
//! Whoever asks a model notes here how that went; the guard and the figures page read it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::measures::{Agreement, Histogram};
use crate::models::traffic::Measured;

/// Runs that are remembered at least, and half of those that are at most.
const REMEMBERED: u64 = 1000;

/// The figures of one loaded model.
#[derive(Debug, Default)]
pub struct Figures {
    tally: Mutex<Tally>,
    sessions: AtomicI64,
}

/// The same at one moment.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Since it was loaded, those that failed included.
    pub runs: u64,
    pub errors: u64,
    /// With the model that it runs beside, as a shadow.
    pub agreement: Agreement,
    /// Lately, as are the two below.
    pub times: Histogram,
    recent_runs: u64,
    recent_errors: u64,
}

impl Tally {
    fn note(&mut self, ran: Option<Duration>) {
        if self.recent_runs >= 2 * REMEMBERED {
            self.recent_runs /= 2;
            self.recent_errors /= 2;
            self.times.halve();
        }
        self.runs += 1;
        self.recent_runs += 1;
        match ran {
            Some(ran) => self.times.count(ran),
            None => {
                self.errors += 1;
                self.recent_errors += 1;
            }
        }
    }

    /// What a guard judges.
    pub fn measured(&self) -> Measured {
        Measured { runs: self.recent_runs, errors: self.recent_errors, p95_ms: self.times.quantile_ms(0.95) }
    }
}

impl Figures {
    fn lock(&self) -> MutexGuard<'_, Tally> {
        // Whole whatever happened elsewhere: every change is a few additions.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a run of the engine, whose outputs could be read.
    pub fn ran(&self, took: Duration) {
        self.lock().note(Some(took));
    }

    /// Notes a run that failed, or whose outputs are none.
    pub fn failed(&self) {
        self.lock().note(None);
    }

    /// Notes how what it found in a picture agrees with what another model found there.
    pub fn agreed(&self, agreement: &Agreement) {
        self.lock().agreement.add(agreement);
    }

    pub fn tally(&self) -> Tally {
        self.lock().clone()
    }

    /// Judges it from now on only, so that it is compared with what runs beside it.
    pub fn begin_anew(&self) {
        let mut tally = self.lock();
        (tally.recent_runs, tally.recent_errors, tally.times) = (0, 0, Histogram::default());
    }

    /// Live sessions that use it.
    pub fn sessions(&self) -> u64 {
        u64::try_from(self.sessions.load(Ordering::Relaxed)).unwrap_or_default()
    }
}

/// One session's use of a model; dropping it ends that.
#[derive(Debug)]
pub struct Seat(Arc<Figures>);

impl Seat {
    pub fn at(figures: &Arc<Figures>) -> Self {
        figures.sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(figures))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_lately_weighs_more_than_what_was() {
        let figures = Figures::default();
        let ms = Duration::from_millis;
        (0..5000).for_each(|_| figures.ran(ms(10)));
        (0..5000).for_each(|_| figures.ran(ms(100)));
        (0..100).for_each(|_| figures.failed());
        let tally = figures.tally();
        assert_eq!((tally.runs, tally.errors), (10_100, 100));
        let measured = tally.measured();
        assert!((REMEMBERED..=2 * REMEMBERED).contains(&measured.runs), "{}", measured.runs);
        assert_eq!(measured.errors, 100);
        assert!(tally.times.quantile_ms(0.5).is_some_and(|ms| ms > 90.0), "the first are forgotten");
        figures.begin_anew();
        let tally = figures.tally();
        assert_eq!((tally.runs, tally.measured()), (10_100, Measured::default()));
    }

    #[test]
    fn sessions_are_counted_while_they_sit() {
        let figures = Arc::new(Figures::default());
        let seats = [Seat::at(&figures), Seat::at(&figures)];
        assert_eq!(figures.sessions(), 2);
        drop(seats);
        assert_eq!(figures.sessions(), 0);
    }
}
