//! The models in use: for each slot who gets which, and what is known of each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::figures::Figures;
use crate::inference::batcher::ModelId;
use crate::models::manifest::Manifest;
use crate::models::traffic::{ModelVersion, Share, Slot, Split, Visitor};

/// A model that is installed in the inference service. Whoever holds one keeps its engines from being freed, so hold it
/// only as long as it may be asked.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: ModelId,
    pub manifest: Arc<Manifest>,
    pub figures: Arc<Figures>,
    /// Counts those who may still ask it.
    lease: Arc<()>,
}

impl Model {
    pub fn new(id: ModelId, manifest: impl Into<Arc<Manifest>>) -> Self {
        Self { id, manifest: manifest.into(), figures: Arc::default(), lease: Arc::default() }
    }

    /// Its name and version.
    pub fn version(&self) -> ModelVersion {
        ModelVersion::of(&self.manifest)
    }

    /// Whether anybody but the caller holds it.
    pub fn is_held_elsewhere(&self) -> bool {
        Arc::strong_count(&self.lease) > 1
    }
}

type Table = BTreeMap<Slot, Split<Model>>;

/// The models in use by slot, as one visitor sees them; clones share them, and changes show from the next picture on.
#[derive(Clone, Debug, Default)]
pub struct ModelSet {
    table: Arc<RwLock<Table>>,
    not_loaded: Arc<RwLock<BTreeMap<String, String>>>,
    is_lost: Arc<AtomicBool>,
    visitor: Visitor,
    /// The labels on whose tracks text is read; [`WHOLE_PICTURE`] for everywhere.
    text_on: Arc<[String]>,
}

/// Stands for a label where lines of text are looked for in the whole picture.
pub const WHOLE_PICTURE: &str = "*";

impl ModelSet {
    /// The same models, for reading text on tracks of these labels; on none of them, in the whole picture.
    pub fn reading_text_on(self, labels: Vec<String>) -> Self {
        Self { text_on: labels.into(), ..self }
    }

    /// Where text is read.
    pub fn text_on(&self) -> Vec<&str> {
        match &*self.text_on {
            [] => vec![WHOLE_PICTURE],
            labels => labels.iter().map(String::as_str).collect(),
        }
    }

    /// Whether it was said where text is to be read.
    pub fn is_told_of_text(&self) -> bool {
        !self.text_on.is_empty()
    }

    /// Whether text can be read.
    pub fn can_read(&self) -> bool {
        let table = self.read();
        [Slot::TextDetect, Slot::TextRead].iter().all(|slot| table.contains_key(slot))
    }

    /// The same models as `visitor` sees them: a session, by its bucket and its attributes.
    pub fn seen_by(&self, visitor: Visitor) -> Self {
        Self { visitor, ..self.clone() }
    }

    /// As it is now, whatever changes: for one file from its beginning to its end.
    pub fn pinned(&self) -> Self {
        let table = self.read().clone();
        Self { table: Arc::new(RwLock::new(table)), ..self.clone() }
    }

    /// The visitor's model for `slot`.
    pub fn find(&self, slot: &Slot) -> Option<Model> {
        self.read().get(slot).map(|split| split.choose(slot, &self.visitor).clone())
    }

    /// The model that runs beside the visitor's for `slot`, and of how many pictures.
    pub fn shadow(&self, slot: &Slot) -> Option<Share<Model>> {
        self.read().get(slot)?.shadow.clone()
    }

    /// Who gets which model for `slot`.
    pub fn split(&self, slot: &Slot) -> Option<Split<Model>> {
        self.read().get(slot).cloned()
    }

    /// Uses these models for `slot`, and returns those that were used.
    pub fn serve(&self, slot: Slot, split: Split<Model>) -> Option<Split<Model>> {
        self.write().insert(slot, split)
    }

    /// Uses `model` for everybody in the slot that its task alone names, and returns those that were used.
    pub fn replace(&self, model: Model) -> Option<Split<Model>> {
        let slot = Slot::of(model.manifest.task)?;
        self.serve(slot, Split::all(model))
    }

    /// Uses no model for `slot` any longer, and returns those that were used.
    pub fn withdraw(&self, slot: &Slot) -> Option<Split<Model>> {
        self.write().remove(slot)
    }

    /// The slots that are filled.
    pub fn slots(&self) -> Vec<Slot> {
        self.read().keys().cloned().collect()
    }

    /// The visitor's models by slot.
    pub fn list(&self) -> Vec<(Slot, Model)> {
        let table = self.read();
        let chosen = table.iter().map(|(slot, split)| (slot.clone(), split.choose(slot, &self.visitor)));
        chosen.map(|(slot, model)| (slot, model.clone())).collect()
    }

    /// Every model that is used for anybody, each once, by id.
    pub fn loaded(&self) -> Vec<Model> {
        let table = self.read();
        let all: BTreeMap<u64, &Model> =
            table.values().flat_map(Split::models).map(|model| (u64::from(model.id.0), model)).collect();
        all.into_values().cloned().collect()
    }

    /// Whether every model fails, as on a GPU that has gone.
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }

    /// Notes whether every model fails; returns what was noted before.
    pub fn note_lost(&self, is_lost: bool) -> bool {
        self.is_lost.swap(is_lost, Ordering::Relaxed)
    }

    /// `name@version` of what should be in use and could not be loaded, and why.
    pub fn not_loaded(&self) -> BTreeMap<String, String> {
        self.not_loaded.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says what could not be loaded, in place of what was said before.
    pub fn note_not_loaded(&self, not_loaded: BTreeMap<String, String>) {
        *self.not_loaded.write().unwrap_or_else(PoisonError::into_inner) = not_loaded;
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}
