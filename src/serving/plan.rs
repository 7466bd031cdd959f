//! What a slot uses now, given what it should use and what is loaded. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::models::traffic::{ModelVersion, Share, Slot, Split, Variant};

/// How long after its first failure a load is tried again; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// A model that a worker is to have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Wanted {
    /// The one that the slot has by itself.
    Default(Slot),
    Named(ModelVersion),
}

impl Wanted {
    /// Who is to get which model of `slot`, by its traffic's split.
    pub fn by(slot: &Slot, split: Split<Option<ModelVersion>>) -> Split<Self> {
        let wanted = |model: Option<ModelVersion>| match model {
            Some(version) => Self::Named(version),
            None => Self::Default(slot.clone()),
        };
        let share = |share: Share<_>| Share { model: wanted(share.model), percent: share.percent };
        let variant =
            |Variant { model, attribute, equals }| Variant { model: wanted(model), attribute, equals };
        Split {
            stable: wanted(split.stable),
            canary: split.canary.map(share),
            variants: split.variants.into_iter().map(variant).collect(),
            shadow: split.shadow.map(share),
        }
    }
}

/// What a slot uses: what is wanted as far as it is loaded, and where the stable model is not, the one that is `current`.
/// Nothing where there is no stable model at all.
pub(super) fn arrange<W, M: Clone>(
    wanted: &Split<W>,
    current: Option<&Split<M>>,
    loaded: impl Fn(&W) -> Option<M>,
) -> Option<Split<M>> {
    let share = |share: &Option<Share<W>>| {
        let share = share.as_ref()?;
        Some(Share { model: loaded(&share.model)?, percent: share.percent })
    };
    let variants = wanted.variants.iter().filter_map(|variant| {
        Some(Variant {
            model: loaded(&variant.model)?,
            attribute: variant.attribute.clone(),
            equals: variant.equals.clone(),
        })
    });
    Some(Split {
        stable: loaded(&wanted.stable).or_else(|| current.map(|split| split.stable.clone()))?,
        canary: share(&wanted.canary),
        variants: variants.collect(),
        shadow: share(&wanted.shadow),
    })
}

/// The loads that failed, and when they are tried again.
#[derive(Default)]
pub(super) struct Failures(BTreeMap<Wanted, Failure>);

struct Failure {
    reason: String,
    times: u32,
    again: Instant,
}

impl Failures {
    /// Notes that a load failed; whether for the first time, or for another reason than before.
    pub fn note(&mut self, wanted: &Wanted, reason: String, now: Instant) -> bool {
        let times = self.0.get(wanted).map_or(0, |failure| failure.times);
        let pause = FIRST_PAUSE.saturating_mul(1 << times.min(16)).min(LONGEST_PAUSE);
        let failure = Failure { reason: reason.clone(), times: times + 1, again: now + pause };
        self.0.insert(wanted.clone(), failure).is_none_or(|before| before.reason != reason)
    }

    /// Whether it may be tried.
    pub fn may_try(&self, wanted: &Wanted, now: Instant) -> bool {
        self.0.get(wanted).is_none_or(|failure| failure.again <= now)
    }

    /// Forgets those that are not wanted, or have been loaded.
    pub fn keep(&mut self, is_missing: impl Fn(&Wanted) -> bool) {
        self.0.retain(|wanted, _| is_missing(wanted));
    }

    /// Lets all be tried at once: somebody has changed what is wanted.
    pub fn forgive(&mut self) {
        self.0.clear();
    }

    /// `name@version` → why.
    pub fn shown(&self) -> BTreeMap<String, String> {
        let name = |wanted: &Wanted| match wanted {
            Wanted::Named(version) => version.to_string(),
            Wanted::Default(slot) => format!("default of {slot}"),
        };
        self.0.iter().map(|(wanted, failure)| (name(wanted), failure.reason.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(stable: &'static str, canary: Option<&'static str>) -> Split<&'static str> {
        let canary = canary.map(|model| Share { model, percent: 10 });
        let variant = Variant { model: "variant", attribute: "a".into(), equals: "b".into() };
        let shadow = Some(Share { model: "shadow", percent: 50 });
        Split { stable, canary, variants: vec![variant], shadow }
    }

    #[test]
    fn what_is_loaded_is_used_and_what_served_goes_on() {
        for (loaded, current, expected) in [
            (&[][..], None, None),
            (&["canary", "shadow"], None, None),
            (&["new"], None, Some(("new", None, 0, None))),
            (&["new"], Some("old"), Some(("new", None, 0, None))),
            (&[], Some("old"), Some(("old", None, 0, None))),
            (&["canary", "shadow"], Some("old"), Some(("old", Some("canary"), 0, Some("shadow")))),
            (
                &["new", "canary", "variant", "shadow"],
                Some("old"),
                Some(("new", Some("canary"), 1, Some("shadow"))),
            ),
        ] {
            let current = current.map(Split::all);
            let found = arrange(&split("new", Some("canary")), current.as_ref(), |name| {
                loaded.contains(name).then_some(*name)
            });
            let share = |share: Option<Share<&'static str>>| share.map(|share| share.model);
            let found = found
                .map(|split| (split.stable, share(split.canary), split.variants.len(), share(split.shadow)));
            assert_eq!(found, expected, "{loaded:?}");
        }
    }

    #[test]
    fn a_failed_load_is_tried_again_ever_more_seldom() {
        let wanted = Wanted::Named("yolo@1".parse().unwrap());
        let mut failures = Failures::default();
        let start = Instant::now();
        let mut now = start;
        assert!(failures.may_try(&wanted, now));
        let mut pauses = Vec::new();
        for time in 0..9 {
            assert_eq!(failures.note(&wanted, "corrupt".into(), now), time == 0, "told once");
            let again = (1..=600).find(|s| failures.may_try(&wanted, now + Duration::from_secs(*s)));
            pauses.push(again.unwrap());
            now += Duration::from_secs(*pauses.last().unwrap());
        }
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
        assert!(failures.note(&wanted, "missing".into(), now), "another reason is news");
        assert_eq!(failures.shown(), BTreeMap::from([("yolo@1".into(), "missing".into())]));
        failures.keep(|_| false);
        assert!(failures.shown().is_empty() && failures.may_try(&wanted, now));
    }
}
