//! Viewers: peers that only receive what a session's audience is shown.
//!
//! A viewer ends when it says so, when its connection does, or with the session.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use tokio::sync::{OwnedSemaphorePermit, broadcast, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::audience::{Audience, WatchError, send_frames, send_reports};
use super::ice::{IceSession, refuse_offer, refuse_peer};
use super::peer::{Channel, Peer, PeerConfig, PeerEvent, offered_codecs};
use super::sdp::{self, Flow};
use super::session::{Resources, SETUP_LIMIT, wait_until};
use crate::cluster::whip::{Answer, IceChange, IceRestarted, WhipFault, WhipRefusal};
use crate::ids::SessionId;
use crate::shutdown::Inside;
use crate::telemetry::metrics::Metrics;

/// What a viewer is asked.
pub enum Request {
    ChangeIce(IceChange, oneshot::Sender<Result<Option<IceRestarted>, WhipFault>>),
    HangUp,
}

/// Every viewer of a worker.
#[derive(Default)]
pub struct Viewers {
    /// Held for look-ups only, never across a wait.
    table: Mutex<HashMap<ViewerId, mpsc::Sender<Request>>>,
    pub inside: Inside,
}

/// A viewer's name is random, and found only together with its session's.
type ViewerId = (SessionId, String);

impl Viewers {
    fn table(&self) -> MutexGuard<'_, HashMap<ViewerId, mpsc::Sender<Request>>> {
        self.table.lock().expect("no code panics while it holds the viewers")
    }

    pub fn find(&self, session: &SessionId, viewer: &str) -> Result<mpsc::Sender<Request>, WhipFault> {
        let found = self.table().get(&(session.clone(), viewer.to_owned())).cloned();
        found.ok_or_else(|| WhipFault::new(WhipRefusal::UnknownViewer, "that viewer has gone"))
    }

    /// Lets a viewer in; returns its name and the answer to its offer.
    pub async fn admit(
        self: &Arc<Self>,
        resources: &Resources,
        session: SessionId,
        audience: Arc<Audience>,
        offer: &str,
    ) -> Result<(String, Answer), WhipFault> {
        sdp::check_offer(offer, Flow::Receive).map_err(|error| refuse_offer(&error))?;
        let admitted = audience.admit(&offered_codecs(offer), &resources.peers.annotated_codecs);
        let (seat, codec) = admitted.map_err(|error| refuse_watch(&error))?;
        let config = PeerConfig { annotated_codecs: vec![codec], ..resources.peers.clone() };
        let (peer, events) = Peer::open(&config, offer).await.map_err(|error| refuse_peer(&error))?;
        let (ice, answer) = match IceSession::begin(&peer, offer).await {
            Ok(begun) => begun,
            Err(fault) => {
                peer.close().await;
                return Err(fault);
            }
        };
        let (requests, mut receiver) = mpsc::channel(4);
        let id = (session, format!("{:032x}", rand::random::<u128>()));
        self.table().insert(id.clone(), requests);
        resources.metrics.viewers_active.inc();
        tracing::info!(session = %id.0, "viewer joined");
        let name = id.1.clone();
        let viewer = Viewer {
            resources: resources.clone(),
            reports: Some(audience.reports()),
            ended: audience.ending(),
            audience: Arc::downgrade(&audience),
            peer,
            ice,
            tasks: JoinSet::new(),
            _seat: seat,
        };
        let (viewers, presence) = (Arc::clone(self), self.inside.enter());
        tokio::spawn(async move {
            let _presence = presence;
            let metrics = Arc::clone(&viewer.resources.metrics);
            // However the viewer ends, a fault of ours included, its place becomes free.
            let place = Place { viewers: &viewers, id: &id, metrics: &metrics };
            viewer.run(events, &mut receiver).await;
            // By the closing of its requests others know that the place is free.
            drop(place);
        });
        Ok((name, answer))
    }
}

struct Place<'a> {
    viewers: &'a Viewers,
    id: &'a ViewerId,
    metrics: &'a Metrics,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.viewers.table().remove(self.id);
        self.metrics.viewers_active.dec();
        tracing::info!(session = %self.id.0, "viewer left");
    }
}

struct Viewer {
    resources: Resources,
    /// Until it watches.
    audience: Weak<Audience>,
    ended: watch::Receiver<()>,
    /// Until it has a channel for them.
    reports: Option<broadcast::Receiver<Arc<str>>>,
    peer: Peer,
    ice: IceSession,
    tasks: JoinSet<()>,
    _seat: OwnedSemaphorePermit,
}

impl Viewer {
    async fn run(mut self, mut events: mpsc::Receiver<PeerEvent>, requests: &mut mpsc::Receiver<Request>) {
        let mut deadline = Some(Instant::now() + SETUP_LIMIT);
        loop {
            tokio::select! {
                request = requests.recv() => match request {
                    Some(Request::ChangeIce(change, reply)) => {
                        let _ = reply.send(self.ice.change(&self.peer, &change).await);
                    }
                    Some(Request::HangUp) | None => break,
                },
                event = events.recv() => match event {
                    Some(PeerEvent::Connected) => {
                        deadline = None;
                        self.watch();
                    }
                    Some(PeerEvent::Disconnected) => if self.peer.was_closed().await { break },
                    Some(PeerEvent::Failed) => {
                        self.resources.metrics.ice_failures_total.inc();
                        break;
                    }
                    Some(PeerEvent::Channel(channel)) => self.adopt(channel),
                    Some(PeerEvent::Track(track)) => drop(self.tasks.spawn(track.discard())),
                    Some(PeerEvent::Candidate(_)) => {}
                    Some(PeerEvent::Closed) | None => break,
                },
                // Never told, only dropped, with the session.
                _ = self.ended.changed() => break,
                () = wait_until(deadline) => break,
            }
        }
        self.tasks.shutdown().await;
        self.peer.close().await;
    }

    /// Nothing is encoded for a viewer before it is connected, and once is enough.
    fn watch(&mut self) {
        let track = self.peer.outgoing();
        let Some((audience, track)) = std::mem::take(&mut self.audience).upgrade().zip(track) else {
            return;
        };
        let watcher = audience.join(track.feedback.clone());
        let metrics = Arc::clone(&self.resources.metrics);
        self.tasks.spawn(async move { send_frames(&track, watcher, &metrics).await });
    }

    fn adopt(&mut self, channel: Channel) {
        if channel.label == "results"
            && let Some(reports) = self.reports.take()
        {
            self.tasks.spawn(send_reports(channel, reports, Arc::clone(&self.resources.metrics)));
        }
    }
}

fn refuse_watch(error: &WatchError) -> WhipFault {
    let code = match error {
        WatchError::NotLive => WhipRefusal::NotLive,
        WatchError::OtherCodec(_) | WatchError::NoCodec => WhipRefusal::CodecUnsupported,
        WatchError::Full { .. } => WhipRefusal::TooManyViewers,
    };
    WhipFault::new(code, error)
}
