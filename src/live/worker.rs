//! The worker's table of sessions: who may come in, who is here, and how all are sent home.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::mpsc;

use super::audience::Audience;
use super::session::{self, Attachment, Command, Opening, Resources};
use super::settings::Settings;
use super::viewer::Viewers;
use crate::cluster::protocol::{ServerMessage, WorkerStatus};
use crate::ids::{ResumeToken, SessionId, SessionKey};
use crate::models::manifest::Task;
use crate::shutdown::Inside;
use crate::telemetry::metrics::Metrics;

/// Why a session was not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("the worker has its {limit} sessions")]
    Full { limit: usize },
    #[error("the worker is shutting down")]
    Draining,
    #[error("the worker does not know this session")]
    UnknownSession,
}

/// How long a socket may take to send its last message.
const FAREWELL: Duration = Duration::from_secs(1);

/// The tasks, as pages call them.
const TASKS: [(&str, Task); 3] =
    [("faces", Task::Faces), ("gender", Task::Gender), ("objects", Task::Objects)];

/// One media worker.
pub struct Worker {
    name: String,
    max_sessions: usize,
    key: SessionKey,
    resources: Resources,
    /// Held for table look-ups only, never across a wait.
    table: Mutex<Table>,
    sessions: Inside,
    /// The signalling sockets that are open.
    pub sockets: Inside,
    pub(super) viewers: Arc<Viewers>,
}

#[derive(Default)]
struct Table {
    sessions: HashMap<SessionId, Entry>,
    draining: bool,
}

#[derive(Clone)]
pub(super) struct Entry {
    pub commands: mpsc::Sender<Command>,
    pub audience: Arc<Audience>,
}

impl Worker {
    /// A worker without sessions; `key` signs their ids, which also carry its `name`.
    pub fn new(name: &str, max_sessions: usize, key: SessionKey, resources: Resources) -> Arc<Self> {
        let table = Mutex::new(Table::default());
        let (sessions, sockets) = (Inside::default(), Inside::default());
        let viewers = Arc::default();
        Arc::new(Self { name: name.into(), max_sessions, key, resources, table, sessions, sockets, viewers })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while it holds the table")
    }

    /// Whether a new session would be taken.
    pub fn admits(&self) -> Result<(), AdmissionError> {
        self.check(&self.table())
    }

    fn check(&self, table: &Table) -> Result<(), AdmissionError> {
        if table.draining {
            return Err(AdmissionError::Draining);
        }
        if table.sessions.len() >= self.max_sessions {
            return Err(AdmissionError::Full { limit: self.max_sessions });
        }
        Ok(())
    }

    /// Starts a session whose page is at the other end of `attachment`.
    pub fn open(self: &Arc<Self>, attachment: Attachment) -> Result<SessionId, AdmissionError> {
        self.start(Some(attachment), Settings::default()).map(|(id, _)| id)
    }

    /// Starts a session, for a page or, without an attachment, for a publisher.
    pub(super) fn start(
        self: &Arc<Self>,
        attachment: Option<Attachment>,
        settings: Settings,
    ) -> Result<(SessionId, Entry), AdmissionError> {
        let id = self.key.new_session(&self.name);
        let (commands, receiver) = mpsc::channel(4);
        let entry = Entry { commands, audience: Audience::new(self.resources.max_viewers) };
        {
            let mut table = self.table();
            self.check(&table)?;
            table.sessions.insert(id.clone(), entry.clone());
            self.note_active(&table);
        }
        self.resources.metrics.sessions_total.inc();
        tracing::info!(session = %id, "session opened");
        if let Some(attachment) = &attachment {
            self.welcome(attachment, &self.key.resume_token(id.clone()));
        }

        let (worker, session) = (Arc::clone(self), id.clone());
        let opening = Opening { id: id.clone(), attachment, settings, audience: Arc::clone(&entry.audience) };
        let running = self.sessions.enter();
        tokio::spawn(async move {
            let _running = running;
            // However the session ends, a fault of ours included, its place becomes free.
            let place = Place { worker: &worker, id: &session };
            session::run(worker.resources.clone(), opening, receiver).await;
            drop(place);
        });
        Ok((id, entry))
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
        let commands = self.find(&token.session)?.commands;
        self.welcome(&attachment, token);
        let sent = commands.send(Command::Attach(attachment)).await;
        sent.map_err(|_| AdmissionError::UnknownSession)
    }

    /// Takes no more sessions, closes those there are, and waits for them until `limit`.
    pub async fn drain(&self, limit: Duration) {
        let commands: Vec<_> = {
            let mut table = self.table();
            table.draining = true;
            table.sessions.values().map(|entry| entry.commands.clone()).collect()
        };
        for command in commands {
            let _ = command.send(Command::Close("the server is shutting down")).await;
        }
        if !self.sessions.emptied(limit).await {
            tracing::warn!("sessions are left at the end of the drain");
        }
        // Viewers end with what they watch.
        self.viewers.inside.emptied(FAREWELL).await;
        // What the sessions said last is still on its way.
        self.sockets.emptied(FAREWELL).await;
    }

    /// What fronts are told.
    pub fn status(&self) -> WorkerStatus {
        let (sessions, draining) = {
            let table = self.table();
            (table.sessions.len(), table.draining)
        };
        WorkerStatus {
            name: self.name.clone(),
            sessions,
            max_sessions: self.max_sessions,
            load_ratio: self.load_ratio(sessions),
            draining,
            models: self.models(),
        }
    }

    pub fn session_key(&self) -> &SessionKey {
        &self.key
    }

    pub fn metrics(&self) -> &Metrics {
        &self.resources.metrics
    }

    /// Task → `name@version` of the tasks that have a model.
    fn models(&self) -> BTreeMap<String, String> {
        let models = self.resources.models.list();
        let titled = TASKS.iter().filter_map(|(name, task)| {
            let manifest = &models.iter().find(|model| model.manifest.task == *task)?.manifest;
            Some((name.to_string(), format!("{}@{}", manifest.name, manifest.version)))
        });
        titled.collect()
    }

    fn load_ratio(&self, sessions: usize) -> f64 {
        sessions as f64 / self.max_sessions.max(1) as f64
    }

    fn welcome(&self, attachment: &Attachment, token: &ResumeToken) {
        let models = self.models();
        let welcome = ServerMessage::Welcome {
            session: token.session.to_string(),
            resume: token.to_string(),
            watch: self.key.watch_token(token.session.clone()).to_string(),
            tasks: TASKS.iter().map(|(name, _)| (name.to_string(), models.contains_key(*name))).collect(),
            models,
        };
        let _ = attachment.outgoing.try_send(welcome);
    }

    fn note_active(&self, table: &Table) {
        let count = table.sessions.len();
        self.resources.metrics.sessions_active.set(count as i64);
        self.resources.metrics.worker_load_ratio.set(self.load_ratio(count));
    }
}

/// A session's entry in the table, removed when dropped.
struct Place<'a> {
    worker: &'a Worker,
    id: &'a SessionId,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut table = self.worker.table();
        table.sessions.remove(self.id);
        self.worker.note_active(&table);
    }
}
