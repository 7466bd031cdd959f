//! The worker's table of sessions: who may come in, who is here, and how all are sent away.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::audience::Audience;
use super::headroom::{Capacity, Headroom, Sample};
use super::session::{self, Attachment, Command, Demand, Opening, Resources};
use super::settings::Settings;
use super::usage::Usage;
use super::viewer::Viewers;
use crate::cluster::figures::{ModelFigures, Role};
use crate::cluster::protocol::{ServerMessage, SessionTerms, Sticky, TaskList, WorkerStatus};
use crate::ids::{ResumeToken, SessionId, SessionKey};
use crate::models::traffic::Visitor;
use crate::pipeline::recognise::figures::Tally;
use crate::pipeline::recognise::{Model, ModelSet};
use crate::shutdown::{Inside, Presence};
use crate::telemetry::metrics::Metrics;

/// Why a session was not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("the worker has its {limit} sessions")]
    Full { limit: usize },
    #[error("the worker has no headroom for another session")]
    NoHeadroom,
    #[error("no model runs any longer on the worker: its device has failed")]
    Lost,
    #[error("the worker is shutting down")]
    Draining,
    #[error("the worker does not know this session")]
    UnknownSession,
}

/// How much a worker takes on.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    pub max_sessions: usize,
    /// With it, sessions are also refused for what is measured.
    pub measured: Option<Measured>,
}

/// Admission by headroom.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub capacity: Capacity,
    /// Recognised frames a second that each session is to keep; fewer where its page asks for fewer.
    pub min_rate: f32,
}

/// How long a socket may take to send its last message.
const FAREWELL: Duration = Duration::from_secs(1);

/// How often the worker looks at what its sessions use.
const MEASURE_INTERVAL: Duration = Duration::from_secs(1);

/// The tasks, as pages call them.
const TASKS: [&str; 4] = TaskList::NAMES;

/// One media worker.
pub struct Worker {
    name: String,
    admission: Admission,
    started: Instant,
    key: SessionKey,
    resources: Resources,
    /// Held for table look-ups only, never across a wait.
    table: Mutex<Table>,
    sessions: Inside,
    /// The signalling sockets that are open.
    pub sockets: Inside,
    pub(super) viewers: Arc<Viewers>,
}

struct Table {
    sessions: HashMap<SessionId, Entry>,
    draining: bool,
    headroom: Option<Headroom>,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub commands: mpsc::Sender<Command>,
    pub audience: Arc<Audience>,
    /// The tasks that its token allows.
    allowed: TaskList,
    /// As the session sees them.
    models: ModelSet,
    admitted: Instant,
    demand: Demand,
}

impl Worker {
    /// A worker without sessions; `key` signs their ids, which also carry its `name`.
    pub fn new(name: &str, admission: Admission, key: SessionKey, resources: Resources) -> Arc<Self> {
        let headroom = admission.measured.map(|measured| Headroom::new(measured.capacity));
        let table = Mutex::new(Table { sessions: HashMap::new(), draining: false, headroom });
        let (sessions, sockets) = (Inside::default(), Inside::default());
        let (name, started, viewers) = (name.into(), Instant::now(), Arc::default());
        Arc::new(Self { name, admission, started, key, resources, table, sessions, sockets, viewers })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds the table")
    }

    /// Measures what the sessions use, for as long as it is polled.
    pub async fn watch(&self) {
        let Some(measured) = self.admission.measured else { return std::future::pending().await };
        let mut usage = Usage::new(Arc::clone(&self.resources.metrics));
        loop {
            let reading = tokio::task::spawn_blocking(move || {
                let sample = usage.read();
                (usage, sample)
            });
            let Ok((read, sample)) = reading.await else { return std::future::pending().await };
            usage = read;
            self.note_sample(sample, measured.min_rate);
            tokio::time::sleep(MEASURE_INTERVAL).await;
        }
    }

    fn note_sample(&self, sample: Sample, min_rate: f32) {
        let mut table = self.table();
        let owed = table.sessions.values().map(|entry| f64::from(entry.demand.rate().min(min_rate))).sum();
        if let Some(headroom) = &mut table.headroom {
            headroom.observe(self.started.elapsed(), sample, owed);
        }
        self.note_load(&table);
    }

    /// Whether no model runs any longer.
    pub fn is_lost(&self) -> bool {
        self.resources.models.is_lost()
    }

    /// Whether a new session would be taken.
    pub fn admits(&self) -> Result<(), AdmissionError> {
        self.check(&self.table())
    }

    fn check(&self, table: &Table) -> Result<(), AdmissionError> {
        let limit = self.admission.max_sessions;
        if table.draining {
            Err(AdmissionError::Draining)
        } else if self.resources.models.is_lost() {
            Err(AdmissionError::Lost)
        } else if table.sessions.len() >= limit {
            Err(AdmissionError::Full { limit })
        } else if self.load_ratio(table) >= 1.0 {
            Err(AdmissionError::NoHeadroom)
        } else {
            Ok(())
        }
    }

    /// Keeps a place for a session within these terms; it becomes free again when what is returned is dropped.
    pub fn admit(self: &Arc<Self>, terms: SessionTerms) -> Result<Place, AdmissionError> {
        let id = self.key.new_session(&self.name);
        let (commands, receiver) = mpsc::channel(4);
        let audience = Audience::new(self.resources.max_viewers);
        let mut table = self.table();
        self.check(&table)?;
        let allowed = terms.tasks.unwrap_or(TaskList::ALL);
        let (admitted, demand) = (Instant::now(), Demand::default());
        let sticky = terms.sticky.as_ref().map_or(id.as_str(), Sticky::as_str);
        let visitor = Visitor::named(sticky, terms.attributes.clone().into());
        let models = self.resources.models.seen_by(visitor);
        let entry = Entry { commands, audience, allowed, models, admitted, demand };
        table.sessions.insert(id.clone(), entry.clone());
        self.note_load(&table);
        let running = self.sessions.enter();
        Ok(Place { worker: Arc::clone(self), id, terms, commands: Some(receiver), entry, _running: running })
    }

    /// Starts a session whose page is at the other end of `attachment`.
    pub fn open(
        self: &Arc<Self>,
        terms: SessionTerms,
        attachment: Attachment,
    ) -> Result<SessionId, AdmissionError> {
        Ok(self.admit(terms)?.open(attachment))
    }

    /// The live session of this id.
    pub(super) fn find(&self, id: &SessionId) -> Result<Entry, AdmissionError> {
        self.table().sessions.get(id).cloned().ok_or(AdmissionError::UnknownSession)
    }

    pub(super) fn resources(&self) -> &Resources {
        &self.resources
    }

    /// Gives a live session a new signalling socket; that the token is genuine was found when it was read.
    pub async fn resume(&self, token: &ResumeToken, attachment: Attachment) -> Result<(), AdmissionError> {
        let Entry { commands, allowed, models, .. } = self.find(&token.session)?;
        self.welcome(&attachment, token, allowed, &models);
        let sent = commands.send(Command::Attach(attachment)).await;
        sent.map_err(|_| AdmissionError::UnknownSession)
    }

    /// Takes no more sessions and has the pages of those there are move to other workers; whether all have
    /// gone within `limit`.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.tell_all(|| Command::Migrate).await;
        self.sessions.emptied(limit).await
    }

    /// Takes no more sessions, says goodbye to those there are, and waits for them until `limit`.
    pub async fn close(&self, limit: Duration) {
        self.tell_all(|| Command::Close("the server is shutting down")).await;
        if !self.sessions.emptied(limit).await {
            tracing::warn!("sessions are left at the end");
        }
        // Viewers end with what they watch.
        self.viewers.inside.emptied(FAREWELL).await;
        // What the sessions said last is still on its way.
        self.sockets.emptied(FAREWELL).await;
    }

    async fn tell_all(&self, command: impl Fn() -> Command) {
        let sessions: Vec<_> = {
            let mut table = self.table();
            table.draining = true;
            table.sessions.values().map(|entry| entry.commands.clone()).collect()
        };
        for session in sessions {
            // One that reads no commands cannot hold the others up for long.
            let _ = session.send_timeout(command(), FAREWELL).await;
        }
    }

    /// What fronts are told.
    pub fn status(&self) -> WorkerStatus {
        let (sessions, draining, load_ratio) = {
            let table = self.table();
            (table.sessions.len(), table.draining, self.load_ratio(&table))
        };
        WorkerStatus {
            name: self.name.clone(),
            sessions,
            max_sessions: self.admission.max_sessions,
            load_ratio,
            draining,
            models: titles(&self.resources.models),
            loaded: self.resources.models.loaded().iter().map(|model| model.version().to_string()).collect(),
            not_loaded: self.resources.models.not_loaded(),
        }
    }

    /// What was measured of the models of every slot.
    pub fn figures(&self) -> Vec<ModelFigures> {
        let models = &self.resources.models;
        let mut all = Vec::new();
        for slot in models.slots() {
            let Some(split) = models.split(&slot) else { continue };
            let figures = |model: &Model, role: Role| {
                let Tally { runs, errors, agreement, times, .. } = model.figures.tally();
                let sessions = model.figures.sessions();
                let (slot, model) = (slot.to_string(), model.version().to_string());
                ModelFigures { slot, model, role, runs, errors, sessions, times, agreement }
            };
            all.push(figures(&split.stable, Role::Stable));
            all.extend(split.canary.iter().map(|canary| figures(&canary.model, Role::Canary)));
            all.extend(split.variants.iter().map(|variant| figures(&variant.model, Role::Variant)));
            all.extend(split.shadow.iter().map(|shadow| figures(&shadow.model, Role::Shadow)));
        }
        all
    }

    pub fn session_key(&self) -> &SessionKey {
        &self.key
    }

    pub fn metrics(&self) -> &Metrics {
        &self.resources.metrics
    }

    /// The larger of what is counted and what is measured, to three places.
    fn load_ratio(&self, table: &Table) -> f64 {
        let counted = table.sessions.len() as f64 / self.admission.max_sessions.max(1) as f64;
        let now = Instant::now();
        let ages = table.sessions.values().map(|entry| now.saturating_duration_since(entry.admitted));
        let measured = table.headroom.as_ref().map_or(0.0, |headroom| headroom.ratio(ages));
        (counted.max(measured) * 1000.0).round() / 1000.0
    }

    fn welcome(&self, attachment: &Attachment, token: &ResumeToken, allowed: TaskList, models: &ModelSet) {
        let models = titles(models);
        let may = Vec::from(allowed);
        let has = |name: &str| match name {
            "text" => self.resources.models.can_read(),
            slot => models.contains_key(slot),
        };
        let can = |name: &str| has(name) && may.iter().any(|allowed| allowed == name);
        let welcome = ServerMessage::Welcome {
            session: token.session.to_string(),
            resume: token.to_string(),
            watch: self.key.watch_token(token.session.clone()).to_string(),
            tasks: TASKS.iter().map(|name| (name.to_string(), can(name))).collect(),
            models,
        };
        let _ = attachment.outgoing.try_send(welcome);
    }

    fn note_load(&self, table: &Table) {
        self.resources.metrics.sessions_active.set(table.sessions.len() as i64);
        self.resources.metrics.worker_load_ratio.set(self.load_ratio(table));
    }
}

/// Slot → `name@version` of the slots that have a model.
fn titles(models: &ModelSet) -> BTreeMap<String, String> {
    let models = models.list().into_iter();
    models.map(|(slot, model)| (slot.to_string(), model.version().to_string())).collect()
}

/// A session's place in the table, which becomes free when this is dropped.
pub struct Place {
    worker: Arc<Worker>,
    id: SessionId,
    terms: SessionTerms,
    /// What the worker tells it, from the moment on that it has the place.
    commands: Option<mpsc::Receiver<Command>>,
    entry: Entry,
    _running: Presence,
}

impl Place {
    /// Starts the session whose page is at the other end of `attachment`.
    pub fn open(self, attachment: Attachment) -> SessionId {
        let token = self.worker.key.resume_token(self.id.clone());
        self.worker.welcome(&attachment, &token, self.entry.allowed, &self.entry.models);
        let settings = Settings::of(self.worker.resources.models.is_told_of_text());
        self.start(Some(attachment), settings).0
    }

    /// Starts the session of a publisher, which is told what to do by commands.
    pub(super) fn publish(self, settings: Settings) -> (SessionId, mpsc::Sender<Command>) {
        self.start(None, settings)
    }

    fn start(
        mut self,
        attachment: Option<Attachment>,
        settings: Settings,
    ) -> (SessionId, mpsc::Sender<Command>) {
        let (id, sender) = (self.id.clone(), self.entry.commands.clone());
        let Some(mut commands) = self.commands.take() else { return (id, sender) };
        self.worker.resources.metrics.sessions_total.inc();
        tracing::info!(session = %id, "session opened");
        let Entry { audience, allowed, demand, models, .. } = self.entry.clone();
        let settings = settings.within(allowed);
        let opening = Opening {
            id: id.clone(),
            attachment,
            allowed,
            max_seconds: self.terms.max_seconds,
            settings,
            audience,
            demand,
        };
        tokio::spawn(async move {
            // However the session ends, a fault of ours included, its place becomes free.
            let place = self;
            let resources = Resources { models, ..place.worker.resources.clone() };
            session::run(resources, opening, &mut commands).await;
            // By the closing of its commands others know that the place is free.
            drop(place);
        });
        (id, sender)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.worker.table();
        table.sessions.remove(&self.id);
        self.worker.note_load(&table);
    }
}
