//! Recognises one picture: prepares it, asks the engines, reads their outputs.
//!
//! Live sessions, video files and single images all call this code, so the same picture gives the same
//! detections wherever it came from. A live session begins a picture and finishes it later
//! ([`Recogniser::begin`]), the others wait for it ([`Recogniser::detect`]). It does not track, draw or
//! report, and what it keeps from one picture to the next are buffers.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::detect::detect;
use super::prepare::{PrepareError, prepare_faces_in, prepare_in};
use crate::frame::{Detection, Kind, Picture};
use crate::imgproc::{Halves, ImgError, Source};
use crate::inference::batcher::ModelId;
use crate::inference::engine::EngineError;
use crate::inference::service::{Ask, Completed, Handle, Ticket, Turn};
use crate::inference::tensor::{Outputs, Tensor};
use crate::models::heads::{HeadError, Placement, faceres};
use crate::models::manifest::{Manifest, Task};

/// Face crops in one request, so that a crowd does not hold a lane for long.
const MAX_CROPS: usize = 8;

/// Why a picture could not be recognised.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    #[error("no model is loaded for {0:?}")]
    NoModel(Task),
    #[error("the picture is not usable")]
    Picture(#[from] ImgError),
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
        self.read_label(kind, class, str::to_owned)
    }

    /// As [`ModelSet::label`], lent to `read`.
    pub fn read_label<R>(&self, kind: Kind, class: u16, read: impl FnOnce(&str) -> R) -> R {
        let task = match kind {
            Kind::Face => Task::Faces,
            Kind::Object => Task::Objects,
        };
        let models = self.models.read().unwrap_or_else(PoisonError::into_inner);
        let labels = models.get(&task).map(|model| model.manifest.labels.as_slice()).unwrap_or_default();
        read(labels.get(usize::from(class)).map(String::as_str).unwrap_or_default())
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

/// A picture whose detectors are at work.
pub struct Begun {
    /// Faces, objects.
    asked: [Option<Asked>; 2],
    scores: MinScores,
    prepare: Duration,
    submitted: Instant,
}

impl Begun {
    /// Whether [`Recogniser::finish`] would not wait; until then the thread that began it is unparked at each answer.
    pub fn is_answered(&self) -> bool {
        self.asked.iter().flatten().all(|asked| asked.ticket.is_answered())
    }
}

/// Faces that are being classified.
pub struct Classifying {
    /// The faces of each request, by their index, and the request.
    asked: Vec<(std::ops::Range<usize>, Ticket)>,
    /// Indices of the faces that are large enough, in order.
    large: Vec<usize>,
    faces: usize,
    model: Model,
}

impl Classifying {
    /// Whether [`Recogniser::finish_genders`] would not wait.
    pub fn is_answered(&self) -> bool {
        self.asked.iter().all(|(_, ticket)| ticket.is_answered())
    }
}

/// Buffers that the next pictures use again.
#[derive(Default)]
struct Spares {
    /// Of requests that were answered, for the next ones of the same model.
    requests: Mutex<Vec<(ModelId, Tensor, Outputs)>>,
    /// Of pictures that were prepared.
    halves: Mutex<Halves>,
}

/// Pictures under way, times models: more buffers than this are not needed.
const MAX_SPARES: usize = 6;

impl Spares {
    fn take(&self, model: ModelId) -> (Tensor, Outputs) {
        let mut spares = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let found = spares.iter().position(|(of, ..)| *of == model);
        found
            .map(|index| spares.swap_remove(index))
            .map(|(_, input, outputs)| (input, outputs))
            .unwrap_or_default()
    }

    fn keep(&self, model: ModelId, input: Tensor, outputs: Outputs) {
        let mut spares = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() == MAX_SPARES {
            // The oldest may be of a model that is no longer asked.
            spares.remove(0);
        }
        spares.push((model, input, outputs));
    }
}

/// Recognises pictures on behalf of one asker.
#[derive(Clone)]
pub struct Recogniser {
    handle: Handle,
    models: ModelSet,
    asker: u64,
    /// Turns that it has queued for.
    turns: Arc<AtomicU64>,
    spares: Arc<Spares>,
}

impl Recogniser {
    /// `asker` is the session's or job's number, by which the service takes turns.
    pub fn new(handle: Handle, models: ModelSet, asker: u64) -> Self {
        Self { handle, models, asker, turns: Arc::default(), spares: Arc::default() }
    }

    /// The models that it asks.
    pub fn models(&self) -> &ModelSet {
        &self.models
    }

    /// Queues for the asker's next turn to begin a picture; the calling thread is unparked when it comes.
    pub fn ask_turn(&self) -> Turn {
        let is_first = self.turns.fetch_add(1, Ordering::Relaxed) == 0;
        self.handle.ask_turn(self.asker, is_first)
    }

    /// A turn for a second picture beside the one under way, where that keeps nobody waiting.
    pub fn spare_turn(&self) -> Option<Turn> {
        self.handle.spare_turn()
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
        let turn = self.ask_turn();
        turn.wait();
        self.past_a_swap(|this| this.finish(this.try_begin(picture, tasks, scores)?))
    }

    /// Has the detectors begin with `picture`, to be finished with [`Recogniser::finish`].
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn begin(
        &self,
        picture: &Picture,
        tasks: &Tasks,
        scores: &MinScores,
    ) -> Result<Begun, RecogniseError> {
        self.past_a_swap(|this| this.try_begin(picture, tasks, scores))
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
        self.past_a_swap(|this| this.finish_genders(this.try_begin_genders(picture, faces)?))
    }

    /// Has `faces` classified ahead of the asker's newer pictures, to be finished with
    /// [`Recogniser::finish_genders`].
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn begin_genders(
        &self,
        picture: &Picture,
        faces: &[Detection],
    ) -> Result<Classifying, RecogniseError> {
        self.past_a_swap(|this| this.try_begin_genders(picture, faces))
    }

    /// Tries a second time when a model was swapped under the first: the new one is in place by then.
    fn past_a_swap<T>(
        &self,
        attempt: impl Fn(&Self) -> Result<T, RecogniseError>,
    ) -> Result<T, RecogniseError> {
        attempt(self).or_else(|error| if error.is_swap() { attempt(self) } else { Err(error) })
    }

    fn try_begin(
        &self,
        picture: &Picture,
        tasks: &Tasks,
        scores: &MinScores,
    ) -> Result<Begun, RecogniseError> {
        let started = Instant::now();
        let mut halves = self.spares.halves.lock().unwrap_or_else(PoisonError::into_inner);
        let mut source = Source::new(picture, &mut halves)?;
        let mut ask = |task, is_wanted: bool| is_wanted.then(|| self.ask(task, &mut source)).transpose();
        // The first model runs while the second one's input is prepared.
        let asked = [ask(Task::Faces, tasks.faces)?, ask(Task::Objects, tasks.objects)?];
        let submitted = Instant::now();
        Ok(Begun { asked, scores: *scores, prepare: submitted - started, submitted })
    }

    /// Waits for the detectors and reads what they found.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn finish(&self, begun: Begun) -> Result<Found, RecogniseError> {
        let Begun { asked, scores, prepare, submitted } = begun;
        let mut found = Found { prepare, ..Found::default() };
        for Asked { model, ticket, placement } in asked.into_iter().flatten() {
            let manifest = &model.manifest;
            let min_score = if manifest.task == Task::Faces { scores.faces } else { scores.objects };
            let done = self.answer(&model, ticket)?;
            let detections = detect(&done.outputs, manifest, &placement, min_score)
                .map_err(|source| RecogniseError::Read { model: title(manifest), source })?;
            self.spares.keep(model.id, done.input, done.outputs);
            found.detections.extend(detections);
            found.models.insert(manifest.name.clone(), manifest.version.to_string());
        }
        found.infer = submitted.elapsed();
        Ok(found)
    }

    fn ask(&self, task: Task, picture: &mut Source<'_>) -> Result<Asked, RecogniseError> {
        let model = self.models.find(task).ok_or(RecogniseError::NoModel(task))?;
        let (used, outputs) = self.spares.take(model.id);
        let prepared = prepare_in(used, picture, &model.manifest.input)
            .map_err(|source| RecogniseError::Prepare { model: title(&model.manifest), source })?;
        let ticket = self.submit(&model, false, prepared.tensor, outputs)?;
        Ok(Asked { model, ticket, placement: prepared.placement })
    }

    fn try_begin_genders(
        &self,
        picture: &Picture,
        faces: &[Detection],
    ) -> Result<Classifying, RecogniseError> {
        let model = self.models.find(Task::Gender).ok_or(RecogniseError::NoModel(Task::Gender))?;
        let manifest = &model.manifest;
        let is_large = |face: &Detection| face.bbox.w >= manifest.thresholds.min_width && face.bbox.w > 0.0;
        let large: Vec<usize> = (0..faces.len()).filter(|&index| is_large(&faces[index])).collect();
        let mut asked = Vec::new();
        for start in (0..large.len()).step_by(MAX_CROPS) {
            let range = start..(start + MAX_CROPS).min(large.len());
            let crops: Vec<&Detection> = large[range.clone()].iter().map(|&index| &faces[index]).collect();
            let (used, outputs) = self.spares.take(model.id);
            let tensor = prepare_faces_in(used, picture, &manifest.input, &crops)
                .map_err(|source| RecogniseError::Prepare { model: title(manifest), source })?;
            asked.push((range, self.submit(&model, true, tensor, outputs)?));
        }
        Ok(Classifying { asked, large, faces: faces.len(), model })
    }

    /// Waits for the classifier and reads its answers, one for each face.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn finish_genders(&self, classifying: Classifying) -> Result<Vec<Option<f32>>, RecogniseError> {
        let Classifying { asked, large, faces, model } = classifying;
        let mut genders = vec![None; faces];
        for (range, ticket) in asked {
            let done = self.answer(&model, ticket)?;
            let answers = faceres::decode(&done.outputs, range.len())
                .map_err(|source| RecogniseError::Read { model: title(&model.manifest), source })?;
            self.spares.keep(model.id, done.input, done.outputs);
            for (&index, answer) in large[range].iter().zip(answers) {
                genders[index] = answer;
            }
        }
        Ok(genders)
    }

    fn submit(
        &self,
        model: &Model,
        is_ahead: bool,
        input: Tensor,
        outputs: Outputs,
    ) -> Result<Ticket, RecogniseError> {
        let refused = |source| RecogniseError::Infer { model: title(&model.manifest), source };
        // Who never queues, such as a video's follower, is no newcomer.
        let is_first = self.turns.load(Ordering::Relaxed) == 1;
        let ask = Ask { model: model.id, asker: self.asker, is_ahead, is_first, input, outputs };
        self.handle.queue(ask).map_err(refused)
    }

    fn answer(&self, model: &Model, ticket: Ticket) -> Result<Completed, RecogniseError> {
        ticket.wait().map_err(|source| RecogniseError::Infer { model: title(&model.manifest), source })
    }
}

/// How an error names a model.
fn title(manifest: &Manifest) -> String {
    format!("{} {}", manifest.name, manifest.version)
}

#[cfg(test)]
mod tests;
