//! Who gets which of some models: the choice for a session.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Slot;

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
pub(super) fn place(slot: &Slot, key: u64) -> u8 {
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
