//! What is measured of models, so that it can be sent and what several workers say be added up.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each place ends this many times later than the one before: the error of a quantile.
const GROWTH: f64 = 1.08;
/// Seconds: where the first place ends.
const FIRST: f64 = 0.0001;
/// The last place takes whatever is longer, from 20 s on.
const PLACES: u16 = 160;

/// Counts of durations by their order of magnitude, from 0.1 ms to 20 s.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Histogram {
    /// Place → how many, where there are any.
    counts: BTreeMap<u16, u64>,
}

impl Histogram {
    pub fn count(&mut self, took: Duration) {
        *self.counts.entry(place_of(took.as_secs_f64())).or_default() += 1;
    }

    /// Adds what another one has counted.
    pub fn add(&mut self, other: &Self) {
        for (place, count) in &other.counts {
            let sum = self.counts.entry((*place).min(PLACES - 1)).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    /// Forgets half of all, so that what comes weighs more than what was.
    pub fn halve(&mut self) {
        self.counts.retain(|_, count| {
            *count /= 2;
            *count > 0
        });
    }

    pub fn total(&self) -> u64 {
        self.counts.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// Milliseconds within which the share `quantile` (0 to 1) of all lay, to 8 %; `None` without any.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f32> {
        let wanted = (self.total() as f64 * quantile).ceil().max(1.0) as u64;
        let mut seen = 0_u64;
        let found = self.counts.iter().find(|(_, count)| {
            seen = seen.saturating_add(**count);
            seen >= wanted
        });
        // The middle of the place, as its ends are multiplied.
        found.map(|(place, _)| (FIRST * GROWTH.powf(f64::from(*place) - 0.5) * 1000.0) as f32)
    }
}

fn place_of(seconds: f64) -> u16 {
    let place = (seconds / FIRST).max(1.0).ln() / GROWTH.ln();
    (place.ceil() as u16).min(PLACES - 1)
}

/// What two models found in some pictures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    pub pictures: u64,
    /// Things that both found.
    pub both: u64,
    /// Things that the stable model found, and that the other did.
    pub stable: u64,
    pub other: u64,
}

impl Agreement {
    pub fn add(&mut self, other: &Self) {
        let sum = |own: &mut u64, more: u64| *own = own.saturating_add(more);
        sum(&mut self.pictures, other.pictures);
        sum(&mut self.both, other.both);
        sum(&mut self.stable, other.stable);
        sum(&mut self.other, other.other);
    }

    /// F1 of either against the other, 0 to 1; `None` where neither found anything.
    pub fn f1(&self) -> Option<f32> {
        let found = self.stable as f64 + self.other as f64;
        (found > 0.0).then(|| (2.0 * self.both as f64 / found) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_eight_percent() {
        let mut times = Histogram::default();
        assert_eq!(times.quantile_ms(0.5), None);
        for ms in 1..=1000 {
            times.count(Duration::from_millis(ms));
        }
        for (quantile, expected) in [(0.0, 1.0), (0.5, 500.0), (0.95, 950.0), (1.0, 1000.0)] {
            let found = times.quantile_ms(quantile).unwrap();
            assert!((found / expected - 1.0).abs() < 0.08, "{quantile}: {found}");
        }
    }

    #[test]
    fn whatever_lies_outside_is_counted_at_the_ends() {
        let mut times = Histogram::default();
        for took in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(1000), Duration::MAX] {
            times.count(took);
        }
        assert_eq!(times.total(), 4);
        assert!(times.quantile_ms(0.5).unwrap() <= 0.1);
        assert!(times.quantile_ms(1.0).unwrap() > 19_000.0);
    }

    #[test]
    fn histograms_are_sent_added_and_halved() {
        let mut times = Histogram::default();
        for ms in [10, 10, 10, 200] {
            times.count(Duration::from_millis(ms));
        }
        let sent = serde_json::to_string(&times).unwrap();
        let mut sum: Histogram = serde_json::from_str(&sent).unwrap();
        sum.add(&times);
        assert_eq!((sum.total(), sum.quantile_ms(0.5)), (8, times.quantile_ms(0.5)));
        sum.halve();
        assert_eq!(sum, times);
        times.halve();
        assert_eq!(times.total(), 1, "what came once is forgotten");
        // A stranger's places are not trusted.
        let wide: Histogram = serde_json::from_str(r#"{"60000":18446744073709551615,"3":7}"#).unwrap();
        sum.add(&wide);
        assert!(sum.quantile_ms(0.99).unwrap() > 19_000.0);
    }

    #[test]
    fn agreements_add_up() {
        let mut sum = Agreement::default();
        assert_eq!(sum.f1(), None);
        for _ in 0..2 {
            sum.add(&Agreement { pictures: 1, both: 1, stable: 2, other: 2 });
        }
        assert_eq!((sum.pictures, sum.f1()), (2, Some(0.5)));
    }
}
