//! Whether a traffic's versions keep to its bounds, and whether it is the models that fail. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::inference::batcher::ModelId;
use crate::models::traffic::{Breach, Measured, ModelVersion, Previous, Traffic};

/// The first version of a traffic that breaks a bound, and how: whatever stands beside the stable version is held against
/// that one, and the stable version, where there is one to go back to, against the one before it. `measured` knows what a
/// version does, of the slot's own model by none.
pub(super) fn find_breach(
    traffic: &Traffic,
    measured: impl Fn(Option<&ModelVersion>) -> Option<Measured>,
) -> Option<(ModelVersion, Breach)> {
    let stable = measured(traffic.stable.as_ref());
    let shares = [&traffic.canary, &traffic.shadow].into_iter().flatten().map(|share| &share.model);
    let variants = traffic.variants.iter().map(|variant| &variant.model);
    let mut beside = shares.chain(variants).filter(|model| Some(*model) != traffic.stable.as_ref());
    let broken = beside.find_map(|model| {
        let breach = traffic.guard.judge(&measured(Some(model))?, stable.as_ref())?;
        Some((model.clone(), breach))
    });
    broken.or_else(|| {
        let (model, previous) = (traffic.stable.as_ref()?, traffic.previous.as_ref()?);
        let before = match previous {
            Previous::Default => measured(None),
            Previous::Version(version) => measured(Some(version)),
        };
        Some((model.clone(), traffic.guard.judge(&stable?, before.as_ref())?))
    })
}

/// Runs that must fail, of two models at least, and none of any model succeed, before the device counts as failed.
const FAILURES: u64 = 10;
/// How long nothing may run before a device that failed is tried again.
const ANOTHER_TRY: Duration = Duration::from_secs(60);

/// Tells a device that has failed, on which no model runs any longer, from a model that does.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    /// Runs and errors of each model when last looked at.
    known: BTreeMap<ModelId, (u64, u64)>,
    /// By model, what failed since anything last succeeded.
    failed: BTreeMap<ModelId, u64>,
    last_ran: Option<Instant>,
}

impl Pulse {
    /// Looks at the runs and errors of every model since it was loaded; whether everything fails.
    pub fn is_lost(&mut self, tallies: impl Iterator<Item = (ModelId, u64, u64)>, now: Instant) -> bool {
        let mut known = BTreeMap::new();
        let (mut has_run, mut has_succeeded) = (false, false);
        for (model, runs, errors) in tallies {
            let (runs_before, errors_before) = self.known.get(&model).copied().unwrap_or_default();
            let (ran, failed) = (runs - runs_before, errors - errors_before);
            has_run |= ran > 0;
            has_succeeded |= ran > failed;
            if failed > 0 {
                *self.failed.entry(model).or_default() += failed;
            }
            known.insert(model, (runs, errors));
        }
        self.known = known;
        if has_run {
            self.last_ran = Some(now);
        }
        let is_stale = self.last_ran.is_some_and(|at| now.duration_since(at) >= ANOTHER_TRY);
        if has_succeeded || is_stale {
            self.failed.clear();
        }
        self.failed.len() > 1 && self.failed.values().sum::<u64>() >= FAILURES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::traffic::{Candidate, Guard, Share, Slot};

    fn measured(errors: u64, p95_ms: f32) -> Measured {
        Measured { runs: 1000, errors, p95_ms: Some(p95_ms) }
    }

    /// A traffic whose canary and shadow stand beside the slot's own model.
    fn traffic() -> Traffic {
        let share = |name: &str| Some(Share { model: name.parse().unwrap(), percent: 10 });
        let guard = Guard { max_p95_ratio: 1.5, ..Guard::default() };
        Traffic { canary: share("yolo@1"), shadow: share("yolo@2"), guard, ..Traffic::new(Slot::Objects) }
    }

    fn broken(traffic: &Traffic, known: &[(Option<&str>, Measured)]) -> Option<String> {
        let of = |model: Option<&ModelVersion>| {
            let name = model.map(ToString::to_string);
            known.iter().find(|(known, _)| *known == name.as_deref()).map(|(_, measured)| *measured)
        };
        find_breach(traffic, of).map(|(model, breach)| format!("{model}: {breach}"))
    }

    #[test]
    fn whatever_breaks_a_bound_is_found() {
        let (good, slow) = (measured(0, 20.0), measured(0, 40.0));
        for (known, expected) in [
            (&[][..], None),
            (&[(None, good), (Some("yolo@1"), good), (Some("yolo@2"), good)], None),
            (
                &[(None, good), (Some("yolo@1"), slow)],
                Some("yolo@1: p95 of 40.0 ms, more than 1.5 times the 20.0 ms of the other"),
            ),
            (
                &[(None, good), (Some("yolo@2"), slow)],
                Some("yolo@2: p95 of 40.0 ms, more than 1.5 times the 20.0 ms of the other"),
            ),
            // There is nothing to hold it against.
            (&[(Some("yolo@1"), slow)], None),
            (
                &[(None, good), (Some("yolo@1"), measured(500, 1.0))],
                Some("yolo@1: 500 of 1000 runs failed, more than 5.0 %"),
            ),
            // The slot's own model has nothing before it.
            (&[(None, measured(500, 40.0))], None),
        ] {
            assert_eq!(broken(&traffic(), known).as_deref(), expected);
        }
    }

    #[test]
    fn what_was_promoted_is_held_against_what_was_before() {
        let mut traffic = Traffic { shadow: None, ..traffic() };
        traffic.promote(Candidate::Canary, "", 0).unwrap();
        let known = [(None, measured(0, 20.0)), (Some("yolo@1"), measured(0, 40.0))];
        let breach = broken(&traffic, &known).unwrap();
        assert_eq!(breach, "yolo@1: p95 of 40.0 ms, more than 1.5 times the 20.0 ms of the other");
        assert_eq!(broken(&traffic, &known[1..]), None, "what is not known any more is not held against it");
        traffic.previous = None;
        assert_eq!(broken(&traffic, &known), None, "there is nothing to go back to");
    }

    #[test]
    fn a_device_has_failed_when_no_model_runs_and_is_tried_again_later() {
        let (mut pulse, start) = (Pulse::default(), Instant::now());
        let mut look = |second, tallies: &[(u64, u64)]| {
            let ids = (0..).map(ModelId);
            let tallies = ids.zip(tallies).map(|(id, &(runs, errors))| (id, runs, errors));
            pulse.is_lost(tallies, start + Duration::from_secs(second))
        };
        assert!(!look(0, &[(100, 0), (100, 50)]));
        assert!(!look(2, &[(100, 0), (150, 100)]), "a model that fails alone is at fault itself");
        assert!(!look(4, &[(130, 5), (180, 130)]), "some runs succeed");
        assert!(!look(6, &[(134, 9), (184, 134)]), "too few to say");
        assert!(look(8, &[(164, 39), (184, 134)]));
        assert!(look(30, &[(164, 39), (184, 134)]), "nothing has run since");
        assert!(!look(70, &[(164, 39), (184, 134)]));
        assert!(look(72, &[(170, 45), (190, 140)]));
        assert!(!look(74, &[(175, 45), (190, 140)]));
    }
}
