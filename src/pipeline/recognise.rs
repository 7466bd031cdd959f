//! Recognises one picture: prepares it, asks the engines, reads their outputs.
//!
//! Live sessions, video files and single images all call this code, so the same picture gives the same
//! detections wherever it came from. A live session begins a picture and finishes it later
//! ([`Recogniser::begin`]), the others wait for it ([`Recogniser::detect`]). It does not track, draw or
//! report, and what it keeps from one picture to the next are buffers.

pub mod figures;
mod models;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::animals;
use super::detect::detect;
use super::prepare::{PrepareError, prepare_crops_in, prepare_in};
use super::track::Answer;
use crate::frame::{Detection, Kind, Picture};
use crate::imgproc::{Halves, ImgError, Source};
use crate::inference::batcher::{BACKGROUND, ModelId};
use crate::inference::engine::EngineError;
use crate::inference::service::{Ask, Handle, Ticket, Turn};
use crate::inference::tensor::{Outputs, Tensor};
use crate::models::heads::{HeadError, Placement, classifier, faceres, numbers};
use crate::models::manifest::{Head, Manifest, Task};
use crate::models::traffic::Slot;
pub use models::{Model, ModelSet, WHOLE_PICTURE};

/// Crops in one request, so that a crowd does not hold a lane for long.
const MAX_CROPS: usize = 8;

/// Why a picture could not be recognised.
#[derive(Debug, thiserror::Error)]
pub enum RecogniseError {
    #[error("no model is loaded for {0}")]
    NoModel(Slot),
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

/// What is wanted of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tasks {
    pub faces: bool,
    /// Needs `faces`.
    pub gender: bool,
    pub objects: bool,
    pub text: bool,
}

impl Tasks {
    /// What is recognised unless somebody says otherwise: all but text, which takes long.
    pub const USUAL: Self = Self { faces: true, gender: true, objects: true, text: false };
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
    /// Who found the detections of each kind: by its labels their classes are called.
    pub found_by: Vec<(Kind, Arc<Manifest>)>,
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
    /// The models that were asked.
    pub fn models(&self) -> impl Iterator<Item = &Model> {
        self.asked.iter().flatten().map(|asked| &asked.model)
    }

    /// Whether [`Recogniser::finish`] would not wait; until then the thread that began it is unparked at each answer.
    pub fn is_answered(&self) -> bool {
        self.asked.iter().flatten().all(|asked| asked.ticket.is_answered())
    }
}

/// A shadow at work on a picture.
pub struct Shadowing(Asked);

impl Shadowing {
    /// Whether [`Recogniser::finish_shadow`] would not wait.
    pub fn is_answered(&self) -> bool {
        self.0.ticket.is_answered()
    }

    pub fn model(&self) -> &Model {
        &self.0.model
    }
}

/// Things that were found and are being classified.
pub struct Classifying {
    /// Those of each request, by their index in `large`, and the request.
    asked: Vec<(std::ops::Range<usize>, Ticket)>,
    /// Indices of the things that are large enough, in order.
    large: Vec<usize>,
    found: usize,
    slot: Slot,
    model: Model,
}

impl Classifying {
    /// What classifies them.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The place that it fills.
    pub fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Whether [`Recogniser::finish_classifying`] would not wait.
    pub fn is_answered(&self) -> bool {
        self.asked.iter().all(|(_, ticket)| ticket.is_answered())
    }
}

/// Buffers that the next pictures use again.
#[derive(Default)]
pub(super) struct Spares {
    /// Of requests that were answered, for the next ones of the same model.
    requests: Mutex<Vec<(ModelId, Tensor, Outputs)>>,
    /// Of pictures that were prepared.
    halves: Mutex<Halves>,
}

/// Pictures under way, times models: more buffers than this are not needed.
const MAX_SPARES: usize = 6;

impl Spares {
    pub(super) fn take(&self, model: ModelId) -> (Tensor, Outputs) {
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
    pub(super) spares: Arc<Spares>,
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

    /// What the model in `slot` says of each of `found`; `None` where that is too small to tell.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn classify(
        &self,
        slot: &Slot,
        picture: &Picture,
        found: &[Detection],
    ) -> Result<Vec<Option<Answer>>, RecogniseError> {
        self.past_a_swap(|this| this.finish_classifying(this.try_begin_classifying(slot, picture, found)?))
    }

    /// Has `found` classified ahead of the asker's newer pictures, to be finished with
    /// [`Recogniser::finish_classifying`].
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn begin_classifying(
        &self,
        slot: &Slot,
        picture: &Picture,
        found: &[Detection],
    ) -> Result<Classifying, RecogniseError> {
        self.past_a_swap(|this| this.try_begin_classifying(slot, picture, found))
    }

    /// Tries a second time when a model was swapped under the first: the new one is in place by then.
    pub(super) fn past_a_swap<T>(
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
        let mut ask =
            |slot: &Slot, is_wanted: bool| is_wanted.then(|| self.ask(slot, &mut source)).transpose();
        // The first model runs while the second one's input is prepared.
        let asked = [ask(&Slot::Faces, tasks.faces)?, ask(&Slot::Objects, tasks.objects)?];
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
        // All are waited for: that each of them fails tells the device's fault from a model's.
        let mut failed = None;
        for asked in asked.into_iter().flatten() {
            let manifest = Arc::clone(&asked.model.manifest);
            let kind = if manifest.task == Task::Faces { Kind::Face } else { Kind::Object };
            let min_score = if kind == Kind::Face { scores.faces } else { scores.objects };
            match self.read(asked, min_score) {
                Ok(detections) => found.detections.extend(detections),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
            found.models.insert(manifest.name.clone(), manifest.version.to_string());
            found.found_by.push((kind, manifest));
        }
        if let Some(error) = failed {
            return Err(error);
        }
        if let Some((_, objects)) = found.found_by.iter().find(|(kind, _)| *kind == Kind::Object) {
            animals::leave_out_faces(&mut found.detections, &objects.labels);
        }
        found.infer = submitted.elapsed();
        Ok(found)
    }

    /// Has `shadow` look at `picture` too, if that keeps nobody waiting: while a lane is idle and no asker queues.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn begin_shadow(
        &self,
        shadow: Model,
        picture: &Picture,
    ) -> Result<Option<Shadowing>, RecogniseError> {
        if !self.handle.has_room() {
            return Ok(None);
        }
        let mut halves = Halves::default();
        let mut source = Source::new(picture, &mut halves)?;
        self.ask_model(shadow, &mut source, self.asker | BACKGROUND).map(|asked| Some(Shadowing(asked)))
    }

    /// Waits for a shadow and reads what it found, of scores from `min_score` on.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn finish_shadow(
        &self,
        shadowing: Shadowing,
        min_score: Option<f32>,
    ) -> Result<Vec<Detection>, RecogniseError> {
        self.read(shadowing.0, min_score)
    }

    fn ask(&self, slot: &Slot, picture: &mut Source<'_>) -> Result<Asked, RecogniseError> {
        let model = self.find(slot)?;
        self.ask_model(model, picture, self.asker)
    }

    fn ask_model(&self, model: Model, picture: &mut Source<'_>, asker: u64) -> Result<Asked, RecogniseError> {
        let (used, outputs) = self.spares.take(model.id);
        let prepared = prepare_in(used, picture, &model.manifest.input)
            .map_err(|source| RecogniseError::Prepare { model: title(&model.manifest), source })?;
        let ticket = self.submit(&model, asker, false, prepared.tensor, outputs)?;
        Ok(Asked { model, ticket, placement: prepared.placement })
    }

    fn try_begin_classifying(
        &self,
        slot: &Slot,
        picture: &Picture,
        found: &[Detection],
    ) -> Result<Classifying, RecogniseError> {
        let model = self.find(slot)?;
        let manifest = &model.manifest;
        let is_large = |found: &Detection| {
            found.bbox.w >= manifest.thresholds.min_width && found.bbox.w > 0.0 && found.bbox.h > 0.0
        };
        let large: Vec<usize> = (0..found.len()).filter(|&index| is_large(&found[index])).collect();
        let at_once = if manifest.input.batch.is_some() { 1 } else { MAX_CROPS };
        let mut asked = Vec::new();
        for start in (0..large.len()).step_by(at_once) {
            let range = start..(start + at_once).min(large.len());
            let crops: Vec<&Detection> = large[range.clone()].iter().map(|&index| &found[index]).collect();
            let (used, outputs) = self.spares.take(model.id);
            let tensor = prepare_crops_in(used, picture, &manifest.input, &crops)
                .map_err(|source| RecogniseError::Prepare { model: title(manifest), source })?;
            asked.push((range, self.submit(&model, self.asker, true, tensor, outputs)?));
        }
        Ok(Classifying { asked, large, found: found.len(), slot: slot.clone(), model })
    }

    /// Waits for the classifier and reads its answers, one for each thing.
    ///
    /// # Errors
    /// As [`Recogniser::detect`].
    pub fn finish_classifying(
        &self,
        classifying: Classifying,
    ) -> Result<Vec<Option<Answer>>, RecogniseError> {
        let Classifying { asked, large, found, model, .. } = classifying;
        let mut all = vec![None; found];
        for (range, ticket) in asked {
            let read = |outputs: &Outputs| read_classes(outputs, range.len(), &model.manifest);
            let answers = self.answer(&model, ticket, read)?;
            for (&index, answer) in large[range].iter().zip(answers) {
                all[index] = answer;
            }
        }
        Ok(all)
    }

    pub(super) fn find(&self, slot: &Slot) -> Result<Model, RecogniseError> {
        self.models.find(slot).ok_or_else(|| RecogniseError::NoModel(slot.clone()))
    }

    /// Asks a model in the recogniser's own name.
    pub(super) fn ask_own(
        &self,
        model: &Model,
        input: Tensor,
        outputs: Outputs,
    ) -> Result<Ticket, RecogniseError> {
        self.submit(model, self.asker, false, input, outputs)
    }

    fn submit(
        &self,
        model: &Model,
        asker: u64,
        is_ahead: bool,
        input: Tensor,
        outputs: Outputs,
    ) -> Result<Ticket, RecogniseError> {
        let refused = |source| RecogniseError::Infer { model: title(&model.manifest), source };
        // Who never queues, such as a video's follower, is no newcomer.
        let is_first = self.turns.load(Ordering::Relaxed) == 1;
        let ask = Ask { is_ahead, is_first, outputs, ..Ask::of(model.id, asker, input) };
        self.handle.queue(ask).map_err(refused)
    }

    /// Waits for a detector and reads what it found.
    fn read(&self, asked: Asked, min_score: Option<f32>) -> Result<Vec<Detection>, RecogniseError> {
        let Asked { model, ticket, placement } = asked;
        self.answer(&model, ticket, |outputs| detect(outputs, &model.manifest, &placement, min_score))
    }

    /// Waits for a model, has its outputs read, and notes how it did.
    pub(super) fn answer<T>(
        &self,
        model: &Model,
        ticket: Ticket,
        read: impl FnOnce(&Outputs) -> Result<T, HeadError>,
    ) -> Result<T, RecogniseError> {
        let done = ticket.wait().map_err(|source| {
            // That the queue is full or has ended is no fault of the model's.
            if matches!(source, EngineError::Run { .. }) {
                model.figures.failed();
            }
            RecogniseError::Infer { model: title(&model.manifest), source }
        })?;
        let answer = numbers(&done.outputs).and_then(|()| read(&done.outputs)).map_err(|source| {
            model.figures.failed();
            RecogniseError::Read { model: title(&model.manifest), source }
        })?;
        model.figures.ran(done.ran);
        self.spares.keep(model.id, done.input, done.outputs);
        Ok(answer)
    }
}

/// What a classifier says of each of `rows` crops.
fn read_classes(
    outputs: &Outputs,
    rows: usize,
    manifest: &Manifest,
) -> Result<Vec<Option<Answer>>, HeadError> {
    if manifest.head == Head::Faceres {
        let answers = faceres::decode(outputs, rows)?;
        return Ok(answers.into_iter().map(|p_male| Some(Answer::Male(p_male?))).collect());
    }
    let rows = classifier::decode(outputs, rows, manifest.labels.len())?;
    let likeliest = |probabilities: Vec<f32>| {
        let (class, score) = probabilities.into_iter().enumerate().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
        // Below its threshold it does not know.
        let is_sure = score >= manifest.thresholds.score && score > 0.0;
        is_sure.then(|| Answer::Label(manifest.labels[class].as_str().into(), score))
    };
    Ok(rows.into_iter().map(likeliest).collect())
}

/// How an error names a model.
pub(super) fn title(manifest: &Manifest) -> String {
    format!("{} {}", manifest.name, manifest.version)
}

#[cfg(test)]
mod tests;
