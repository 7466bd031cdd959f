//! One session from its first message to its last: the task that owns the peer connection and the
//! threads behind it.
//!
//! A publisher by WHIP has no socket: what it says comes as single [`Command`]s, and so does its goodbye.
//! A session outlives its signalling socket: while media flows, the page may come back with a new
//! one ([`Command::Attach`]). It ends when either side says so, when it never connects, or when the
//! connection has failed and nobody comes back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::audience::{Audience, send_frames, send_reports};
use super::ice::{IceSession, refuse_peer};
use super::ingest;
use super::media::{Media, Timed};
use super::peer::{
    Channel, ChannelEvent, OutgoingTrack, Peer, PeerConfig, PeerError, PeerEvent, RemoteTrack,
};
use super::readers::Readers;
use super::recognition::Recognition;
use super::settings::{self, ControlReply, Settings};
use crate::cluster::protocol::{ClientMessage, ServerMessage, TaskList};
use crate::cluster::whip::{Answer, IceChange, IceRestarted, WhipFault, WhipRefusal};
use crate::codec::Unit;
use crate::ids::SessionId;
use crate::inference::batcher::BACKGROUND;
use crate::inference::service::Handle as InferenceHandle;
use crate::mailbox::Latest;
use crate::pipeline::recognise::{ModelSet, Recogniser};
use crate::pipeline::track::Tracks;
use crate::telemetry::metrics::Metrics;

/// A page that does not connect within this time is not coming.
pub(super) const SETUP_LIMIT: Duration = Duration::from_secs(30);
/// How long a session whose connection failed waits for an ICE restart or a new socket.
const RETURN_LIMIT: Duration = Duration::from_secs(15);
/// Messages that may wait for the page's signalling socket.
const SIGNALLING_CAPACITY: usize = 64;
const NOTICE_CAPACITY: usize = 16;

/// The session's end of a signalling socket.
pub struct Attachment {
    pub incoming: mpsc::Receiver<ClientMessage>,
    pub outgoing: mpsc::Sender<ServerMessage>,
}

/// The socket's end of the same.
pub struct Signalling {
    pub incoming: mpsc::Sender<ClientMessage>,
    pub outgoing: mpsc::Receiver<ServerMessage>,
}

/// Both ends of a new signalling connection.
pub fn signalling() -> (Attachment, Signalling) {
    let (to_session, from_page) = mpsc::channel(SIGNALLING_CAPACITY);
    let (to_page, from_session) = mpsc::channel(SIGNALLING_CAPACITY);
    let attachment = Attachment { incoming: from_page, outgoing: to_page };
    (attachment, Signalling { incoming: to_session, outgoing: from_session })
}

/// What the worker tells a session.
pub enum Command {
    /// A page has come back with a new socket; the old one is let go.
    Attach(Attachment),
    /// A publisher's offer, the first thing that a session without a socket is told.
    Publish(String, oneshot::Sender<Result<Answer, WhipFault>>),
    ChangeIce(IceChange, oneshot::Sender<Result<Option<IceRestarted>, WhipFault>>),
    /// Have the page open a session elsewhere, then close this one.
    Migrate,
    /// End now, with this reason for the page.
    Close(&'static str),
}

/// What a session begins with.
pub struct Opening {
    pub id: SessionId,
    /// None for a publisher.
    pub attachment: Option<Attachment>,
    /// The tasks that its token allows.
    pub allowed: TaskList,
    pub max_seconds: Option<u32>,
    pub settings: Settings,
    pub audience: Arc<Audience>,
    pub demand: Demand,
}

/// What a session asks of its worker, as the worker sees it: nothing before its video has come.
#[derive(Clone, Default)]
pub struct Demand(Arc<OnceLock<watch::Receiver<Settings>>>);

impl Demand {
    /// Frames a second that its page wants recognised at the most.
    pub fn rate(&self) -> f32 {
        let Some(settings) = self.0.get() else { return 0.0 };
        let settings = settings.borrow();
        if settings.tasks.faces || settings.tasks.objects { settings.max_rate } else { 0.0 }
    }
}

/// What a session needs of its worker.
#[derive(Clone)]
pub struct Resources {
    pub peers: PeerConfig,
    pub decodes_on: Unit,
    pub inference: InferenceHandle,
    pub models: ModelSet,
    /// What text is read by.
    pub readers: Readers,
    pub metrics: Arc<Metrics>,
    /// Viewers of one session at a time.
    pub max_viewers: usize,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The page said goodbye or closed the connection.
    HungUp,
    /// The connection failed or the page went away without a word.
    Lost,
    /// It never connected.
    NeverConnected,
    /// The worker closed it.
    Closed(&'static str),
    /// A fault of ours.
    Fault,
}

/// Runs a session to its end; everything that it holds is freed when this returns.
pub async fn run(resources: Resources, opening: Opening, commands: &mut mpsc::Receiver<Command>) -> End {
    let id = opening.id.clone();
    let max_seconds = opening.max_seconds;
    let mut session = Session::new(resources, opening);
    let mut time_up = std::pin::pin!(async {
        match max_seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    });
    let mut deadline = Some(Instant::now() + SETUP_LIMIT);
    let end = loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Attach(attachment)) => session.attach(attachment),
                Some(Command::Publish(offer, reply)) => {
                    let answer = session.publish(&offer).await;
                    let is_refused = answer.is_err();
                    if reply.send(answer).is_err() || is_refused { break End::HungUp }
                }
                Some(Command::ChangeIce(change, reply)) => {
                    let _ = reply.send(session.change_ice(&change).await);
                }
                // A publisher cannot be told; it comes back by itself when its connection is closed.
                Some(Command::Migrate) if session.ice.is_some() => {
                    break End::Closed("the server is shutting down");
                }
                Some(Command::Migrate) => {
                    session.is_leaving = true;
                    session.tell(ServerMessage::Migrate);
                }
                Some(Command::Close(reason)) => break End::Closed(reason),
                None => break End::Closed("the worker is stopping"),
            },
            message = next_message(&mut session.attachment) => match message {
                Some(ClientMessage::Bye) => break End::HungUp,
                Some(message) => session.handle_message(message).await,
                // The socket is gone; the session stays only while it has a connection.
                None => {
                    session.attachment = None;
                    match session.state {
                        State::Connected => {}
                        State::Failing => deadline = Some(Instant::now() + RETURN_LIMIT),
                        State::New => break End::NeverConnected,
                    }
                }
            },
            event = next_event(&mut session.events) => match event {
                Some(PeerEvent::Connected) => {
                    session.state = State::Connected;
                    deadline = None;
                }
                Some(PeerEvent::Disconnected) => {
                    if session.was_closed().await { break End::HungUp }
                    session.fail();
                }
                Some(PeerEvent::Failed) => {
                    session.fail();
                    session.resources.metrics.ice_failures_total.inc();
                    match (session.state, &session.attachment) {
                        (State::New, None) => break End::NeverConnected,
                        (State::New, Some(_)) => {}
                        (_, None) => break End::Lost,
                        (_, Some(_)) => deadline = Some(Instant::now() + RETURN_LIMIT),
                    }
                }
                Some(PeerEvent::Closed) | None => break End::HungUp,
                Some(event) => session.handle_peer_event(event).await,
            },
            () = session.fault.notified() => break End::Fault,
            () = &mut time_up => break End::Closed("its time is up"),
            () = wait_until(deadline) => break match session.state {
                State::New => End::NeverConnected,
                _ => End::Lost,
            },
        }
    };
    tracing::info!(session = %id, ?end, "session ended");
    session.close(end).await;
    end
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    New,
    Connected,
    Failing,
}

/// Waits until `deadline`, or for ever.
pub(super) async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

async fn next_message(attachment: &mut Option<Attachment>) -> Option<ClientMessage> {
    match attachment {
        Some(attachment) => attachment.incoming.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_event(events: &mut Option<mpsc::Receiver<PeerEvent>>) -> Option<PeerEvent> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}

struct Session {
    resources: Resources,
    attachment: Option<Attachment>,
    /// Its page has been told to open a session elsewhere.
    is_leaving: bool,
    demand: Demand,
    state: State,
    peer: Option<Peer>,
    /// A publisher's.
    ice: Option<IceSession>,
    events: Option<mpsc::Receiver<PeerEvent>>,
    /// The tasks that its token allows.
    allowed: TaskList,
    settings: watch::Sender<Settings>,
    pictures: Latest<Timed>,
    threads: Vec<JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    audience: Arc<Audience>,
    has_results: bool,
    notices: (mpsc::Sender<ControlReply>, Option<mpsc::Receiver<ControlReply>>),
    /// A thread of this session panicked.
    fault: Arc<Notify>,
}

impl Session {
    fn new(resources: Resources, opening: Opening) -> Self {
        let (notices, notice_receiver) = mpsc::channel(NOTICE_CAPACITY);
        Self {
            resources,
            attachment: opening.attachment,
            is_leaving: false,
            demand: opening.demand,
            state: State::New,
            peer: None,
            ice: None,
            events: None,
            allowed: opening.allowed,
            settings: watch::Sender::new(opening.settings),
            pictures: Latest::default(),
            threads: Vec::new(),
            tasks: Vec::new(),
            audience: opening.audience,
            has_results: false,
            notices: (notices, Some(notice_receiver)),
            fault: Arc::new(Notify::new()),
        }
    }

    /// What never connected cannot come back.
    fn fail(&mut self) {
        if self.state == State::Connected {
            self.state = State::Failing;
        }
    }

    fn attach(&mut self, attachment: Attachment) {
        self.attachment = Some(attachment);
        if self.is_leaving {
            // The page may have been between two sockets when it was told.
            self.tell(ServerMessage::Migrate);
        }
    }

    fn tell(&self, message: ServerMessage) {
        if let Some(attachment) = &self.attachment
            && attachment.outgoing.try_send(message).is_err()
        {
            tracing::debug!("a signalling message was dropped: the page does not read");
        }
    }

    async fn handle_message(&mut self, message: ClientMessage) {
        let handled = match message {
            ClientMessage::Offer { sdp } => self.handle_offer(&sdp).await,
            ClientMessage::Candidate(candidate) if candidate.candidate.is_empty() => Ok(()),
            ClientMessage::Candidate(candidate) => match &self.peer {
                Some(peer) => peer.add_candidate(candidate).await,
                None => {
                    return self.tell(ServerMessage::error("no_offer", "a candidate came before the offer"));
                }
            },
            ClientMessage::Bye => Ok(()),
        };
        if let Err(error) = handled {
            let code = match &error {
                PeerError::NoVideo => "codec_unsupported",
                PeerError::Offer(_) => "offer_refused",
                PeerError::Candidate(_) => "candidate_refused",
                PeerError::Setup(_) => "setup_failed",
            };
            tracing::debug!(%error, "signalling");
            self.tell(ServerMessage::error(code, error.to_string()));
        }
    }

    async fn handle_offer(&mut self, sdp: &str) -> Result<(), PeerError> {
        let answer = match &self.peer {
            Some(peer) => peer.answer(sdp).await?,
            None => {
                let (peer, events) = Peer::open(&self.resources.peers, sdp).await?;
                // Kept only if it could answer: a page may try again with a better offer.
                match peer.answer(sdp).await {
                    Ok(answer) => {
                        self.peer = Some(peer);
                        self.events = Some(events);
                        answer
                    }
                    Err(error) => {
                        peer.close().await;
                        return Err(error);
                    }
                }
            }
        };
        self.tell(ServerMessage::Answer { sdp: answer });
        Ok(())
    }

    async fn was_closed(&self) -> bool {
        match &self.peer {
            Some(peer) => peer.was_closed().await,
            None => false,
        }
    }

    /// Answers a publisher's offer; nothing is sent back to it.
    async fn publish(&mut self, offer: &str) -> Result<Answer, WhipFault> {
        let config = PeerConfig { annotated_codecs: Vec::new(), ..self.resources.peers.clone() };
        let (peer, events) = Peer::open(&config, offer).await.map_err(|error| refuse_peer(&error))?;
        match IceSession::begin(&peer, offer).await {
            Ok((ice, answer)) => {
                (self.peer, self.events, self.ice) = (Some(peer), Some(events), Some(ice));
                Ok(answer)
            }
            Err(fault) => {
                peer.close().await;
                Err(fault)
            }
        }
    }

    async fn change_ice(&mut self, change: &IceChange) -> Result<Option<IceRestarted>, WhipFault> {
        match (&self.peer, &mut self.ice) {
            (Some(peer), Some(ice)) => ice.change(peer, change).await,
            // A page's session, which is spoken to over its socket.
            _ => Err(WhipFault::new(WhipRefusal::UnknownSession, "no such session was published")),
        }
    }

    async fn handle_peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Candidate(candidate) => self.tell(ServerMessage::Candidate(candidate)),
            PeerEvent::Track(track) => self.start_media(track),
            PeerEvent::Channel(channel) => self.adopt_channel(channel),
            PeerEvent::Connected | PeerEvent::Disconnected | PeerEvent::Failed | PeerEvent::Closed => {}
        }
    }

    fn adopt_channel(&mut self, channel: Channel) {
        match channel.label.as_str() {
            "results" => {
                if !std::mem::replace(&mut self.has_results, true) {
                    let (reports, metrics) = (self.audience.reports(), Arc::clone(&self.resources.metrics));
                    self.tasks.push(tokio::spawn(send_reports(channel, reports, metrics)));
                }
            }
            "control" => {
                if let Some(notices) = self.notices.1.take() {
                    let control = serve_control(channel, self.allowed, self.settings.clone(), notices);
                    self.tasks.push(tokio::spawn(control));
                }
            }
            other => tracing::debug!(label = other, "a data channel that means nothing here"),
        }
    }

    /// Starts the threads of the path: called once, when the browser's video arrives.
    fn start_media(&mut self, track: RemoteTrack) {
        let (metrics, models) = (&self.resources.metrics, &self.resources.models);
        let feedback = track.feedback.clone();
        let (frame_sender, frames) = std::sync::mpsc::sync_channel(ingest::FRAME_CAPACITY);
        let key_wanted = Arc::new(Notify::new());
        let (tracks_sender, tracks) = watch::channel(Tracks::default());
        // A session has one track: this is the first and only time.
        let _ = self.demand.0.set(self.settings.subscribe());

        let outgoing = self.peer.as_ref().and_then(Peer::outgoing);
        self.audience.go_live(outgoing.as_ref().map(|outgoing| outgoing.codec));
        if let Some(track) = outgoing {
            let (audience, settings) = (Arc::clone(&self.audience), self.settings.subscribe());
            self.tasks.push(tokio::spawn(show_page(track, audience, settings, Arc::clone(metrics))));
        }
        let media = Media {
            decodes_on: self.resources.decodes_on,
            frames,
            pictures: self.pictures.clone(),
            key_wanted: Arc::clone(&key_wanted),
            tracks,
            audience: Arc::clone(&self.audience),
            notices: self.notices.0.clone(),
            metrics: Arc::clone(metrics),
        };
        let asker = next_asker();
        let inference = &self.resources.inference;
        let recogniser = |asker: u64| Recogniser::new(inference.clone(), models.clone(), asker);
        let recognition = Recognition {
            pictures: self.pictures.clone(),
            recogniser: recogniser(asker),
            readers: Some((self.resources.readers.clone(), recogniser(asker | BACKGROUND))),
            settings: self.settings.subscribe(),
            tracks: tracks_sender,
            audience: Arc::clone(&self.audience),
            notices: self.notices.0.clone(),
            feedback,
            metrics: Arc::clone(metrics),
        };
        let notices = self.notices.0.clone();
        self.tasks.push(tokio::spawn(ingest::run(
            track,
            frame_sender,
            key_wanted,
            notices,
            Arc::clone(metrics),
        )));
        self.start_thread("media", move || media.run());
        self.start_thread("recognition", move || recognition.run());
    }

    /// A panic there ends this session and no other.
    fn start_thread(&mut self, name: &str, body: impl FnOnce() + Send + 'static) {
        let fault = Arc::clone(&self.fault);
        let guarded = move || {
            if catch_unwind(AssertUnwindSafe(body)).is_err() {
                fault.notify_one();
            }
        };
        match std::thread::Builder::new().name(format!("vigie-{name}")).spawn(guarded) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::error!(%error, "starting a thread");
                self.fault.notify_one();
            }
        }
    }

    async fn close(mut self, end: End) {
        match end {
            End::Closed(reason) => self.tell(ServerMessage::Bye { reason: reason.into() }),
            End::Fault => {
                self.resources.metrics.session_panics_total.inc();
                self.tell(ServerMessage::error("internal", "the session met a fault of the server"));
            }
            End::NeverConnected => {
                self.tell(ServerMessage::error("never_connected", "no media connection came about in time"));
            }
            End::HungUp | End::Lost => {}
        }
        if let Some(peer) = self.peer.take() {
            peer.close().await;
        }
        // With the tasks go the senders, and with those the threads' input.
        for task in self.tasks.drain(..) {
            task.abort();
            let _ = task.await;
        }
        self.pictures.close();
        let threads = std::mem::take(&mut self.threads);
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())));
        if joined.await.is_err() {
            tracing::error!("a session's threads could not be joined");
        }
    }
}

/// Tells the batcher's askers apart.
fn next_asker() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

async fn serve_control(
    channel: Channel,
    allowed: TaskList,
    settings: watch::Sender<Settings>,
    mut notices: mpsc::Receiver<ControlReply>,
) {
    loop {
        let reply = tokio::select! {
            event = channel.recv() => match event {
                None => return,
                Some(ChannelEvent::Open) => ControlReply::Settings(settings.borrow().clone()),
                Some(ChannelEvent::Binary) => ControlReply::error("control_unreadable", "expected text"),
                Some(ChannelEvent::Text(text)) => {
                    let mut next = settings.borrow().clone();
                    let reply = settings::apply(&mut next, allowed, &text);
                    settings.send_if_modified(|current| {
                        let changed = *current != next;
                        *current = next;
                        changed
                    });
                    reply
                }
            },
            notice = notices.recv() => match notice {
                Some(notice) => notice,
                None => return,
            },
        };
        channel.try_send(&reply.to_json()).await;
    }
}

/// Shows the page the annotated video while its settings want it.
async fn show_page(
    track: OutgoingTrack,
    audience: Arc<Audience>,
    mut settings: watch::Receiver<Settings>,
    metrics: Arc<Metrics>,
) {
    loop {
        if settings.wait_for(|settings| settings.output.has_video()).await.is_err() {
            return;
        }
        let watcher = audience.join(track.feedback.clone());
        let unwanted = async { settings.wait_for(|settings| !settings.output.has_video()).await.is_err() };
        tokio::select! {
            () = send_frames(&track, watcher, &metrics) => return,
            _ = unwanted => {}
        }
    }
}
