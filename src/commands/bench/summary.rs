//! Percentiles of a measurement.

use std::time::Duration;

use serde::Serialize;

/// Milliseconds, by nearest rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    pub count: usize,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
}

impl Percentiles {
    /// All zero for an empty sample.
    pub fn of_ms(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values.get(rank.max(1) - 1).copied().unwrap_or_default()
        };
        Self { count: values.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
    }

    pub fn of(values: impl IntoIterator<Item = Duration>) -> Self {
        Self::of_ms(values.into_iter().map(|value| value.as_secs_f64() * 1000.0))
    }
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "p50 {:.1}  p95 {:.1}  p99 {:.1}  max {:.1} ms (n = {})",
            self.p50, self.p95, self.p99, self.max, self.count
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        let hundred = Percentiles::of_ms((1..=100).rev().map(f64::from));
        assert_eq!((hundred.p50, hundred.p95, hundred.p99, hundred.max), (50.0, 95.0, 99.0, 100.0));
        assert_eq!(Percentiles::of_ms([7.0]).p50, 7.0);
        assert_eq!(Percentiles::of_ms([]), Percentiles::default());
    }
}
