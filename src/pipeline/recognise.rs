//! Recognises one picture: prepares it, asks the engines, reads their outputs.
//!
//! Live sessions, video files and single images all call this code, so the same picture gives the same
//! detections wherever it came from. It blocks its caller's thread while the engines run; it does not
//! track, draw or report, and it keeps nothing from one picture to the next.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::detect::detect;
use super::prepare::{PrepareError, prepare, prepare_faces};
use crate::frame::{Detection, Kind, Picture};
use crate::inference::batcher::ModelId;
use crate::inference::engine::EngineError;
use crate::inference::service::{Handle, Ticket};
use crate::inference::tensor::Tensor;
use crate::models::heads::{HeadError, Placement, faceres};
use crate::models::manifest::{Manifest, Task};

/// Face crops in one request, so that a crowd does not hold a lane for long.
const MAX_CROPS: usize = 8;

/// Why a picture could not be recognised.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    #[error("no model is loaded for {0:?}")]
    NoModel(Task),
    #[error("model {model} could not be given the picture")]
    Prepare {
        model: String,
        #[source]
        source: PrepareError,
    },
    #[error("model {model} did not run")]
    Infer {
        model: String,
        #[source]
        source: EngineError,
    },
    #[error("model {model} gave unreadable outputs")]
    Read {
        model: String,
        #[source]
        source: HeadError,
    },
}

impl RecogniseError {
    /// Whether a model was swapped out between being chosen and being asked.
    fn is_swap(&self) -> bool {
        matches!(self, Self::Infer { source: EngineError::NotInstalled { .. }, .. })
    }
}

/// A model that is installed in the inference service.
#[derive(Clone, Debug)]
pub struct Model {
    pub id: ModelId,
    pub manifest: Arc<Manifest>,
}

/// The model in use for each task; clones share it, and changes show from the next picture on.
#[derive(Clone, Debug, Default)]
pub struct ModelSet {
    models: Arc<RwLock<BTreeMap<Task, Model>>>,
}

impl ModelSet {
    /// The model in use for `task`.
    pub fn find(&self, task: Task) -> Option<Model> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).get(&task).cloned()
    }

    /// Uses `model` for its manifest's task and returns the one it replaces, which the caller may then
    /// remove from the service.
    pub fn replace(&self, model: Model) -> Option<Model> {
        let task = model.manifest.task;
        self.models.write().unwrap_or_else(PoisonError::into_inner).insert(task, model)
    }

    /// Uses no model for `task` any longer, and returns the one that was used.
    pub fn withdraw(&self, task: Task) -> Option<Model> {
        self.models.write().unwrap_or_else(PoisonError::into_inner).remove(&task)
    }

    /// The word for a class of what finds things of `kind`; empty where the model has none.
    pub fn label(&self, kind: Kind, class: u16) -> String {
        let task = match kind {
            Kind::Face => Task::Faces,
            Kind::Object => Task::Objects,
        };
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let labels = models.get(&task).map(|model| model.manifest.labels.as_slice()).unwrap_or_default();
        labels.get(usize::from(class)).cloned().unwrap_or_default()
    }

    /// Every model in use, by task.
    pub fn list(&self) -> Vec<Model> {
        self.models.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// What is wanted of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks {
    pub faces: bool,
    /// Needs `faces`.
    pub gender: bool,
    pub objects: bool,
}

impl Tasks {
    pub const ALL: Self = Self { faces: true, gender: true, objects: true };
}

/// Scores (0 to 1) from which detections are wanted; without one, each model's own threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MinScores {
    pub faces: Option<f32>,
    pub objects: Option<f32>,
}

/// What was found in one picture.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Faces first, then objects, each best first.
    pub detections: Vec<Detection>,
    /// Resizing and letterboxing.
    pub prepare: Duration,
    /// Waiting for, and running in, the engines, and reading their outputs.
    pub infer: Duration,
    /// Name → version of the models that were asked.
    pub models: BTreeMap<String, String>,
}

/// A model at work on a picture.
struct Asked {
    model: Model,
    ticket: Ticket,
    placement: Placement,
}

/// Recognises pictures on behalf of one asker.
#[derive(Clone)]
pub struct Recogniser {
    handle: Handle,
    models: ModelSet,
    asker: u64,
    has_begun: bool,
    /// The picture at hand is its first: somebody has just joined, and waits for it.
    is_first: bool,
}

impl Recogniser {
    /// `asker` is the session's or job's number, by which the service takes turns.
    pub fn new(handle: Handle, models: ModelSet, asker: u64) -> Self {
        Self { handle, models, asker, has_begun: false, is_first: false }
    }

    /// The models that it asks.
    pub fn models(&self) -> &ModelSet {
        &self.models
    }

    /// Finds the faces and objects in `picture`, both at the same time where there are two lanes.
    ///
    /// # Errors
    /// [`RecogniseError`], of which [`EngineError::Overloaded`] inside `Infer` is the ordinary one: the
    /// picture is to be counted as dropped.
    pub fn detect(
        &mut self,
        picture: &Picture,
        tasks: &Tasks,
        scores: &MinScores,
    ) -> Result<Found, RecogniseError> {
        self.is_first = !std::mem::replace(&mut self.has_begun, true);
        self.past_a_swap(|this| this.try_detect(picture, tasks, scores))
    }

    /// Says for each of `faces` the probability that it looks male; `None` when it is too small to tell.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn genders(
        &mut self,
        picture: &Picture,
        faces: &[Detection],
    ) -> Result<Vec<Option<f32>>, RecogniseError> {
        self.past_a_swap(|this| this.try_genders(picture, faces))
    }

    /// Tries a second time when a model was swapped under the first: the new one is in place by then.
    fn past_a_swap<T>(
        &self,
        attempt: impl Fn(&Self) -> Result<T, RecogniseError>,
    ) -> Result<T, RecogniseError> {
        attempt(self).or_else(|error| if error.is_swap() { attempt(self) } else { Err(error) })
    }

    fn try_detect(
        &self,
        picture: &Picture,
        tasks: &Tasks,
        scores: &MinScores,
    ) -> Result<Found, RecogniseError> {
        let mut found = Found::default();
        let started = Instant::now();
        let mut asked = Vec::with_capacity(2);
        for (task, is_wanted) in [(Task::Faces, tasks.faces), (Task::Objects, tasks.objects)] {
            if is_wanted {
                // The first model runs while the second one's input is prepared.
                asked.push(self.ask(task, picture)?);
            }
        }
        let submitted = Instant::now();
        found.prepare = submitted - started;
        for Asked { model, ticket, placement } in asked {
            let manifest = &model.manifest;
            let min_score = if manifest.task == Task::Faces { scores.faces } else { scores.objects };
            let done =
                ticket.wait().map_err(|source| RecogniseError::Infer { model: title(manifest), source })?;
            let detections = detect(&done.outputs, manifest, &placement, min_score)
                .map_err(|source| RecogniseError::Read { model: title(manifest), source })?;
            found.detections.extend(detections);
            found.models.insert(manifest.name.clone(), manifest.version.to_string());
        }
        found.infer = submitted.elapsed();
        Ok(found)
    }

    fn ask(&self, task: Task, picture: &Picture) -> Result<Asked, RecogniseError> {
        let model = self.models.find(task).ok_or(RecogniseError::NoModel(task))?;
        let prepared = prepare(picture, &model.manifest.input)
            .map_err(|source| RecogniseError::Prepare { model: title(&model.manifest), source })?;
        let ticket = self.submit(&model, prepared.tensor)?;
        Ok(Asked { model, ticket, placement: prepared.placement })
    }

    fn try_genders(
        &self,
        picture: &Picture,
        faces: &[Detection],
    ) -> Result<Vec<Option<f32>>, RecogniseError> {
        let model = self.models.find(Task::Gender).ok_or(RecogniseError::NoModel(Task::Gender))?;
        let manifest = &model.manifest;
        let is_large = |face: &Detection| face.bbox.w >= manifest.thresholds.min_width && face.bbox.w > 0.0;
        let large: Vec<usize> = (0..faces.len()).filter(|&index| is_large(&faces[index])).collect();
        let mut asked = Vec::new();
        for indices in large.chunks(MAX_CROPS) {
            let crops: Vec<&Detection> = indices.iter().map(|&index| &faces[index]).collect();
            let tensor = prepare_faces(picture, &manifest.input, &crops)
                .map_err(|source| RecogniseError::Prepare { model: title(manifest), source })?;
            asked.push((indices, self.submit(&model, tensor)?));
        }
        let mut genders = vec![None; faces.len()];
        for (indices, ticket) in asked {
            let done =
                ticket.wait().map_err(|source| RecogniseError::Infer { model: title(manifest), source })?;
            let answers = faceres::decode(&done.outputs, indices.len())
                .map_err(|source| RecogniseError::Read { model: title(manifest), source })?;
            for (&index, answer) in indices.iter().zip(answers) {
                genders[index] = answer;
            }
        }
        Ok(genders)
    }

    fn submit(&self, model: &Model, tensor: Tensor) -> Result<Ticket, RecogniseError> {
        let refused = |source| RecogniseError::Infer { model: title(&model.manifest), source };
        let submitted = match self.is_first {
            true => self.handle.submit_first(model.id, self.asker, tensor),
            false => self.handle.submit(model.id, self.asker, tensor),
        };
        submitted.map_err(refused)
    }
}

/// How an error names a model.
fn title(manifest: &Manifest) -> String {
    format!("{} {}", manifest.name, manifest.version)
}

#[cfg(test)]
mod tests;
