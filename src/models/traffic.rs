//! Traffic: which versions of which models a slot of recognition uses, and for whom.
//!
//! Pure: what is kept as JSON beside the models, the choice for a session, and how one state becomes the next.
//! It neither loads anything nor knows where traffics are kept.

mod guard;
mod slot;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::manifest::Manifest;
use crate::ids::is_word;
pub use guard::{Breach, Guard, Measured};
pub use slot::Slot;

/// Changes that a traffic remembers; older ones are forgotten.
pub const MAX_HISTORY: usize = 50;
/// A/B groups of a slot.
pub const MAX_VARIANTS: usize = 8;

/// Why a traffic is none, or cannot become what is asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrafficError {
    #[error(
        "{0:?} is no slot: faces, gender, objects, text-detect, text-read or classify: with a label of 1 to 64 bytes"
    )]
    Slot(String),
    #[error("{0:?} is not a model's version, as yolo@3")]
    Model(String),
    #[error("{part} takes {percent} percent, not 1 to 100")]
    Percent { part: &'static str, percent: u8 },
    #[error("{model} is both {one} and {other}")]
    Twice { model: ModelVersion, one: &'static str, other: &'static str },
    #[error("there are {0} variants, more than {MAX_VARIANTS}")]
    TooManyVariants(usize),
    #[error("{0:?} is no attribute of a session, nor a value of one: 1 to 64 of A-Z, a-z, 0-9, ., _ and -")]
    Attribute(String),
    #[error("{0} has no model of its own: a stable one must be named")]
    NoStable(Slot),
    #[error("a shadow can only run beside faces or objects, not {0}")]
    NoShadow(Slot),
    #[error("{name} of the guard is {value}, not {expected}")]
    Guard { name: &'static str, value: String, expected: &'static str },
    #[error("there is no {0} to promote")]
    NothingToPromote(&'static str),
    #[error("there is neither a canary nor a shadow, nor a version before this one, to go back from")]
    NothingToRollBack,
}

/// One version of one model, `yolo@3`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ModelVersion {
    pub name: String,
    /// From 1.
    pub version: u32,
}

impl ModelVersion {
    pub fn of(manifest: &Manifest) -> Self {
        Self { name: manifest.name.clone(), version: manifest.version }
    }
}

impl fmt::Display for ModelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.version)
    }
}

impl FromStr for ModelVersion {
    type Err = TrafficError;

    fn from_str(text: &str) -> Result<Self, TrafficError> {
        let wrong = || TrafficError::Model(text.chars().take(80).collect());
        let (name, version) = text.split_once('@').ok_or_else(wrong)?;
        let is_number = version.bytes().all(|byte| byte.is_ascii_digit());
        let version = version.parse().ok().filter(|&version| version > 0 && is_number).ok_or_else(wrong)?;
        Manifest::check_name(name).map_err(|_| wrong())?;
        Ok(Self { name: name.to_owned(), version })
    }
}

impl TryFrom<String> for ModelVersion {
    type Error = TrafficError;

    fn try_from(text: String) -> Result<Self, TrafficError> {
        text.parse()
    }
}

impl From<ModelVersion> for String {
    fn from(model: ModelVersion) -> Self {
        model.to_string()
    }
}

/// A share of sessions (of a canary) or of pictures (of a shadow).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share<M> {
    pub model: M,
    /// 1 to 100.
    pub percent: u8,
}

/// The sessions whose `attribute` has this value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant<M> {
    pub model: M,
    pub attribute: String,
    pub equals: String,
}

/// Who gets which of some models: names of versions in a traffic, loaded ones in a worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split<M> {
    pub stable: M,
    pub canary: Option<Share<M>>,
    pub variants: Vec<Variant<M>>,
    pub shadow: Option<Share<M>>,
}

impl<M> Split<M> {
    /// `stable` for everybody.
    pub fn all(stable: M) -> Self {
        Self { stable, canary: None, variants: Vec::new(), shadow: None }
    }

    /// The model for a session: the first variant that it belongs to, else the canary if it is of its share,
    /// else the stable one. A session without a key is of no share.
    pub fn choose(&self, slot: &Slot, visitor: &Visitor) -> &M {
        let has = |variant: &&Variant<M>| visitor.has(&variant.attribute, &variant.equals);
        if let Some(variant) = self.variants.iter().find(has) {
            return &variant.model;
        }
        match (&self.canary, visitor.key) {
            (Some(canary), Some(key)) if place(slot, key) < canary.percent => &canary.model,
            _ => &self.stable,
        }
    }

    /// Every model, the stable one first.
    pub fn models(&self) -> impl Iterator<Item = &M> {
        let beside = self.variants.iter().map(|variant| &variant.model);
        std::iter::once(&self.stable)
            .chain(self.canary.as_ref().map(|canary| &canary.model))
            .chain(beside)
            .chain(self.shadow.as_ref().map(|shadow| &shadow.model))
    }
}

/// Who a session is, for the choice of its models; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Visitor {
    /// Stays the same for as long as its models should; nobody's for pictures and files.
    pub key: Option<u64>,
    /// Of its token and its query.
    pub attributes: Arc<BTreeMap<String, String>>,
}

impl Visitor {
    /// The visitor whose models are chosen by `name`: a subject, a page's own word or a session's id.
    pub fn named(name: &str, attributes: BTreeMap<String, String>) -> Self {
        Self { key: Some(hash(name.as_bytes())), attributes: Arc::new(attributes) }
    }

    fn has(&self, attribute: &str, value: &str) -> bool {
        self.attributes.get(attribute).is_some_and(|has| has == value)
    }
}

/// 0 to 99: who is below a share's percent belongs to it. Another slot places the same key elsewhere.
fn place(slot: &Slot, key: u64) -> u8 {
    let mixed = scatter(key ^ hash(slot.name().as_bytes()));
    (mixed % 100) as u8
}

/// FNV-1a, 64 bits, the same on every machine and in every build, then scattered.
fn hash(bytes: &[u8]) -> u64 {
    let folded = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    scatter(folded)
}

/// SplitMix64's finaliser (Steele et al., 2014).
fn scatter(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A change of a traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since 1970.
    pub at: u64,
    pub what: String,
    pub why: String,
}

/// What was stable before something else was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Previous {
    /// The model that the slot has by itself.
    Default,
    Version(ModelVersion),
}

const DEFAULT: &str = "default";

impl TryFrom<String> for Previous {
    type Error = TrafficError;

    fn try_from(text: String) -> Result<Self, TrafficError> {
        if text == DEFAULT { Ok(Self::Default) } else { text.parse().map(Self::Version) }
    }
}

impl From<Previous> for String {
    fn from(previous: Previous) -> Self {
        match previous {
            Previous::Default => DEFAULT.to_owned(),
            Previous::Version(version) => version.to_string(),
        }
    }
}

impl From<Option<ModelVersion>> for Previous {
    fn from(stable: Option<ModelVersion>) -> Self {
        stable.map_or(Self::Default, Self::Version)
    }
}

impl From<Previous> for Option<ModelVersion> {
    fn from(previous: Previous) -> Self {
        match previous {
            Previous::Default => None,
            Previous::Version(version) => Some(version),
        }
    }
}

/// Which versions a slot uses, for whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    pub slot: Slot,
    /// Counts up with each change, from 1; 0 before the first.
    pub revision: u64,
    /// Without one, the model that the slot has by itself: the default one, or that of `--model`.
    #[serde(default)]
    pub stable: Option<ModelVersion>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Share<ModelVersion>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant<ModelVersion>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Share<ModelVersion>>,
    #[serde(default)]
    pub guard: Guard,
    /// What was stable before, to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// Oldest first.
    #[serde(default)]
    pub history: Vec<Event>,
}

/// What somebody wants a slot's traffic to be; what a traffic says of its past is read and passed over, so that one
/// can be sent back changed.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    #[serde(default)]
    pub slot: Option<Slot>,
    /// Of the traffic that the wish was made of.
    #[serde(default)]
    pub revision: Option<u64>,
    #[serde(default)]
    pub stable: Option<ModelVersion>,
    #[serde(default)]
    pub canary: Option<Share<ModelVersion>>,
    #[serde(default)]
    pub variants: Vec<Variant<ModelVersion>>,
    #[serde(default)]
    pub shadow: Option<Share<ModelVersion>>,
    #[serde(default)]
    pub guard: Guard,
    #[serde(default, rename = "previous")]
    _previous: serde::de::IgnoredAny,
    #[serde(default, rename = "history")]
    _history: serde::de::IgnoredAny,
}

impl Traffic {
    /// A slot's first traffic: what it has by itself, for everybody.
    pub fn new(slot: Slot) -> Self {
        Self {
            slot,
            revision: 0,
            stable: None,
            canary: None,
            variants: Vec::new(),
            shadow: None,
            guard: Guard::default(),
            previous: None,
            history: Vec::new(),
        }
    }

    /// Who gets which version; none is the model that the slot has by itself.
    pub fn split(&self) -> Split<Option<ModelVersion>> {
        let share = |share: &Option<Share<ModelVersion>>| {
            let share = share.as_ref()?;
            Some(Share { model: Some(share.model.clone()), percent: share.percent })
        };
        let variants = self.variants.iter().map(|variant| Variant {
            model: Some(variant.model.clone()),
            attribute: variant.attribute.clone(),
            equals: variant.equals.clone(),
        });
        Split {
            stable: self.stable.clone(),
            canary: share(&self.canary),
            variants: variants.collect(),
            shadow: share(&self.shadow),
        }
    }

    /// Every version that it uses, and the one that it could go back to.
    pub fn models(&self) -> impl Iterator<Item = &ModelVersion> {
        let shares = [&self.canary, &self.shadow].into_iter().flatten().map(|share| &share.model);
        let beside = self.variants.iter().map(|variant| &variant.model);
        let previous = match &self.previous {
            Some(Previous::Version(version)) => Some(version),
            Some(Previous::Default) | None => None,
        };
        self.stable.iter().chain(shares).chain(beside).chain(previous)
    }

    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), TrafficError> {
        if self.variants.len() > MAX_VARIANTS {
            return Err(TrafficError::TooManyVariants(self.variants.len()));
        }
        for (part, share) in [("the canary", &self.canary), ("the shadow", &self.shadow)] {
            let Some(Share { model, percent }) = share else { continue };
            if !(1..=100).contains(percent) {
                return Err(TrafficError::Percent { part, percent: *percent });
            }
            if Some(model) == self.stable.as_ref() {
                return Err(TrafficError::Twice { model: model.clone(), one: "the stable one", other: part });
            }
        }
        let shadow = self.shadow.as_ref().map(|shadow| &shadow.model);
        if let Some(model) = shadow
            && self.canary.as_ref().is_some_and(|canary| canary.model == *model)
        {
            return Err(TrafficError::Twice { model: model.clone(), one: "the canary", other: "the shadow" });
        }
        let mut words = self.variants.iter().flat_map(|variant| [&variant.attribute, &variant.equals]);
        if let Some(word) = words.find(|word| !is_word(word)) {
            return Err(TrafficError::Attribute(word.chars().take(80).collect()));
        }
        if self.stable.is_none() && !self.slot.has_default() {
            return Err(TrafficError::NoStable(self.slot.clone()));
        }
        if shadow.is_some() && !self.slot.is_detector() {
            return Err(TrafficError::NoShadow(self.slot.clone()));
        }
        self.guard.validate()
    }

    /// The traffic that `wish` makes of `before`, at `at` seconds since 1970.
    ///
    /// # Errors
    /// What is wrong with the wish.
    pub fn wished(
        slot: Slot,
        before: Option<&Self>,
        wish: Wish,
        why: &str,
        at: u64,
    ) -> Result<Self, TrafficError> {
        let Wish { stable, canary, variants, shadow, guard, .. } = wish;
        let mut next = before.cloned().unwrap_or_else(|| Self::new(slot));
        if next.stable != stable {
            let replaced = std::mem::replace(&mut next.stable, stable);
            next.previous = (replaced.is_some() || next.slot.has_default()).then(|| replaced.into());
        }
        (next.canary, next.variants, next.shadow, next.guard) = (canary, variants, shadow, guard);
        next.validate()?;
        let what = next.to_string();
        next.note(what, why, at);
        Ok(next)
    }

    /// Makes the canary, or the shadow, the stable version.
    ///
    /// # Errors
    /// When there is no such thing.
    pub fn promote(&mut self, from: Candidate, why: &str, at: u64) -> Result<(), TrafficError> {
        let place = match from {
            Candidate::Canary => &mut self.canary,
            Candidate::Shadow => &mut self.shadow,
        };
        let share = place.take().ok_or(TrafficError::NothingToPromote(from.name()))?;
        let what = format!("promoted {}", share.model);
        self.previous = Some(self.stable.replace(share.model).into());
        self.note(what, why, at);
        Ok(())
    }

    /// Takes back what was tried last: the canary, else the shadow, else the stable version for the one before it.
    ///
    /// # Errors
    /// When there is nothing to go back to.
    pub fn roll_back(&mut self, why: &str, at: u64) -> Result<(), TrafficError> {
        let tried = self.canary.as_ref().or(self.shadow.as_ref()).map(|share| &share.model);
        let tried = tried.or(self.stable.as_ref()).cloned().ok_or(TrafficError::NothingToRollBack)?;
        if self.withdraw(&tried, why, at) { Ok(()) } else { Err(TrafficError::NothingToRollBack) }
    }

    /// Uses `model` no longer, for anybody; whether that could be done. The stable version gives way only to the one
    /// before it, and only once.
    pub fn withdraw(&mut self, model: &ModelVersion, why: &str, at: u64) -> bool {
        let mut is_changed = false;
        for share in [&mut self.canary, &mut self.shadow] {
            is_changed |= share.take_if(|share| share.model == *model).is_some();
        }
        let variants = self.variants.len();
        self.variants.retain(|variant| variant.model != *model);
        is_changed |= self.variants.len() < variants;
        if self.stable.as_ref() == Some(model)
            && let Some(previous) = self.previous.take()
        {
            self.stable = previous.into();
            // What is stable now has no other role.
            for share in [&mut self.canary, &mut self.shadow] {
                share.take_if(|share| Some(&share.model) == self.stable.as_ref());
            }
            is_changed = true;
        }
        if is_changed {
            self.note(format!("rolled back {model}"), why, at);
        }
        is_changed
    }

    fn note(&mut self, what: String, why: &str, at: u64) {
        self.revision += 1;
        self.history.push(Event { at, what, why: why.to_owned() });
        let forgotten = self.history.len().saturating_sub(MAX_HISTORY);
        self.history.drain(..forgotten);
    }
}

/// `stable yolo@3, canary yolo@4 10 %`
impl fmt::Display for Traffic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stable {
            Some(model) => write!(f, "stable {model}")?,
            None => write!(f, "stable {DEFAULT}")?,
        }
        if let Some(Share { model, percent }) = &self.canary {
            write!(f, ", canary {model} {percent} %")?;
        }
        for Variant { model, attribute, equals } in &self.variants {
            write!(f, ", {model} where {attribute} is {equals}")?;
        }
        if let Some(Share { model, percent }) = &self.shadow {
            write!(f, ", shadow {model} {percent} %")?;
        }
        Ok(())
    }
}

/// What may become the stable version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Candidate {
    Canary,
    Shadow,
}

impl Candidate {
    fn name(self) -> &'static str {
        match self {
            Self::Canary => "canary",
            Self::Shadow => "shadow",
        }
    }
}
