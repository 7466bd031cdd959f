//! What workers have measured of the models of a slot, and what that is together.

use serde::{Deserialize, Serialize};

use super::fleet::Fleet;
use super::remote::{Remote, RemoteError};
use crate::measures::{Agreement, Histogram};

/// The path of the control API that says what was measured of the loaded models.
pub const FIGURES_PATH: &str = "/control/v1/figures";

/// What a model is to a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Stable,
    Canary,
    Variant,
    Shadow,
}

/// One model of one slot, on one worker or on several together.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFigures {
    pub slot: String,
    /// `name@version`.
    pub model: String,
    pub role: Role,
    /// Since it was loaded, those that failed included.
    pub runs: u64,
    pub errors: u64,
    /// Live sessions that it serves now.
    pub sessions: u64,
    /// Of the latest runs.
    pub times: Histogram,
    /// With the stable model, as a shadow.
    pub agreement: Agreement,
}

/// The figures of the models of `slot` that several workers told of, by role.
pub fn sum(slot: &str, told: impl IntoIterator<Item = ModelFigures>) -> Vec<ModelFigures> {
    let mut sums: Vec<ModelFigures> = Vec::new();
    for figures in told.into_iter().filter(|figures| figures.slot == slot) {
        let Some(sum) = sums.iter_mut().find(|sum| sum.model == figures.model) else {
            sums.push(figures);
            continue;
        };
        sum.runs = sum.runs.saturating_add(figures.runs);
        sum.errors = sum.errors.saturating_add(figures.errors);
        sum.sessions = sum.sessions.saturating_add(figures.sessions);
        sum.times.add(&figures.times);
        sum.agreement.add(&figures.agreement);
    }
    sums.sort_by(|a, b| (a.role, &a.model).cmp(&(b.role, &b.model)));
    sums
}

impl Remote {
    /// Asks what was measured of the models there.
    pub async fn figures(&self) -> Result<Vec<ModelFigures>, RemoteError> {
        self.look_up(FIGURES_PATH).await
    }
}

impl Fleet {
    /// What every worker that answers has measured of the models of `slot`.
    pub async fn figures(&self, slot: &str) -> Vec<ModelFigures> {
        let told = self.ask_all(|worker| async move { worker.figures().await }).await;
        sum(slot, told.into_iter().flatten())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn figures(slot: &str, model: &str, role: Role, runs: u64) -> ModelFigures {
        let mut times = Histogram::default();
        (0..runs).for_each(|_| times.count(Duration::from_millis(runs)));
        let agreement = Agreement { pictures: runs, both: 1, stable: 1, other: 2 };
        let (slot, model) = (slot.into(), model.into());
        ModelFigures { slot, model, role, runs, errors: 1, sessions: 2, times, agreement }
    }

    #[test]
    fn what_workers_tell_adds_up_by_version() {
        let told = [
            figures("objects", "b@1", Role::Canary, 10),
            figures("objects", "a@1", Role::Stable, 90),
            figures("faces", "c@1", Role::Stable, 5),
            figures("objects", "a@1", Role::Stable, 10),
        ];
        let sums = sum("objects", told);
        let flat: Vec<_> = sums.iter().map(|f| (&*f.model, f.runs, f.errors, f.sessions)).collect();
        assert_eq!(flat, [("a@1", 100, 2, 4), ("b@1", 10, 1, 2)]);
        assert_eq!(sums[0].times.total(), 100);
        assert_eq!(sums[0].agreement.pictures, 100);
        assert!(sums[0].times.quantile_ms(0.05).unwrap() < 12.0);
        assert!(sums[0].times.quantile_ms(0.5).unwrap() > 80.0);
    }
}
