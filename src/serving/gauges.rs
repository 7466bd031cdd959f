//! What is measured of the loaded models, on its way to the metrics.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus::Histogram;

use crate::inference::batcher::ModelId;
use crate::inference::service::{BatchRun, Observer};
use crate::models::manifest::Manifest;
use crate::models::traffic::{Slot, Split};
use crate::pipeline::recognise::figures::Tally;
use crate::pipeline::recognise::{Model, ModelSet};
use crate::telemetry::metrics::Metrics;

/// Carries what the lanes do into the metrics, under the names of the models.
pub struct Names {
    metrics: Arc<Metrics>,
    seconds: RwLock<HashMap<ModelId, Histogram>>,
}

impl Names {
    pub fn new(metrics: &Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics: Arc::clone(metrics), seconds: RwLock::default() })
    }

    pub(super) fn enter(&self, id: ModelId, manifest: &Manifest) {
        let labels = [manifest.name.as_str(), &manifest.version.to_string()];
        let seconds = self.metrics.inference_seconds.with_label_values(&labels);
        self.seconds.write().unwrap_or_else(PoisonError::into_inner).insert(id, seconds);
    }

    pub(super) fn leave(&self, id: ModelId) {
        self.seconds.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Observer for Names {
    fn ran(&self, run: &BatchRun<'_>) {
        self.metrics.inference_batch_size.observe(run.batch_size as f64);
        for queued in run.queued {
            self.metrics.inference_queue_seconds.observe(queued.as_secs_f64());
        }
        // Written only while a model comes or goes, for an instant.
        if let Some(seconds) = self.seconds.read().unwrap_or_else(PoisonError::into_inner).get(&run.model) {
            seconds.observe(run.ran.as_secs_f64());
        }
    }

    fn skipped(&self, count: u64) {
        self.metrics.inference_skipped_total.inc_by(count);
    }
}

/// What the metrics have been told of each model.
/// Its errors, and pictures that it saw as a shadow.
#[derive(Default)]
pub(super) struct Told(HashMap<ModelId, (u64, u64)>);

impl Told {
    /// Brings the metrics up to date; `held` are the models on the lanes.
    pub fn tell<'a>(&mut self, metrics: &Metrics, held: impl Iterator<Item = &'a Model>, models: &ModelSet) {
        metrics.model_sessions.reset();
        for model in held {
            self.count(metrics, model);
            let sessions = i64::try_from(model.figures.sessions()).unwrap_or(i64::MAX);
            let labels = [model.manifest.name.as_str(), &model.manifest.version.to_string()];
            metrics.model_sessions.with_label_values(&labels).add(sessions);
        }
        metrics.shadow_agreement_ratio.reset();
        for slot in models.slots() {
            let shadow = models.split(&slot).and_then(|split| split.shadow);
            if let Some(shadow) = shadow
                && let Some(f1) = shadow.model.figures.tally().agreement.f1()
            {
                tell_agreement(metrics, &slot, &shadow.model, f1);
            }
        }
    }

    /// Counts what a model has done since it was last counted.
    fn count(&mut self, metrics: &Metrics, model: &Model) {
        let labels = [model.manifest.name.as_str(), &model.manifest.version.to_string()];
        let Tally { errors, agreement, .. } = model.figures.tally();
        let (told_errors, told_pictures) = self.0.entry(model.id).or_default();
        let more = errors.saturating_sub(*told_errors);
        metrics.inference_errors_total.with_label_values(&labels).inc_by(more);
        let more = agreement.pictures.saturating_sub(*told_pictures);
        metrics.shadow_pictures_total.with_label_values(&labels).inc_by(more);
        (*told_errors, *told_pictures) = (errors, agreement.pictures);
    }

    /// Counts a model for the last time.
    pub fn finish(&mut self, metrics: &Metrics, model: &Model) {
        self.count(metrics, model);
        self.0.remove(&model.id);
    }
}

fn tell_agreement(metrics: &Metrics, slot: &Slot, shadow: &Model, f1: f32) {
    let version = shadow.manifest.version.to_string();
    let labels = [slot.name().into_owned(), shadow.manifest.name.clone(), version];
    metrics.shadow_agreement_ratio.with_label_values(&labels).set(f64::from(f1));
}

/// `yolo@3`, and what stands beside it.
pub(super) fn shown(split: &Split<Model>) -> String {
    let mut text = format!("stable {}", split.stable.version());
    if let Some(canary) = &split.canary {
        text += &format!(", canary {} {} %", canary.model.version(), canary.percent);
    }
    for variant in &split.variants {
        text += &format!(", {} where {} is {}", variant.model.version(), variant.attribute, variant.equals);
    }
    if let Some(shadow) = &split.shadow {
        text += &format!(", shadow {} {} %", shadow.model.version(), shadow.percent);
    }
    text
}
