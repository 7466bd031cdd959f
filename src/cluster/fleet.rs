//! The workers that a front knows: found by name, asked for their load, chosen for sessions.
//!
//! Names are resolved again and again, and every address of a name is a worker of its own, so that a
//! name with many addresses (a headless Service) is a fleet that grows and shrinks. What a worker last
//! said is at most a second old; what was placed since is counted here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream;
use http_body_util::Full;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::connections::{self, Connections};
use super::placement::{self, Load};
use super::protocol::{SessionTerms, WorkerStatus};
use super::remote::{Remote, RemoteError, SessionSocket};
use super::token::ClusterToken;
use super::whip::{Publish, Published, WhipError};
use crate::ids::{ResumeToken, SessionId};

/// How old a worker's figures may get.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
const LOOKUP_LIMIT: Duration = Duration::from_secs(2);
/// Workers that are asked at the same time.
const POLLS_AT_ONCE: usize = 32;
/// Addresses beyond these are left out: a name server must not be able to exhaust a front.
const MAX_WORKERS: usize = 1024;
/// Workers that one session is offered to before its page is told to come back.
const MAX_TRIES: usize = 5;
/// Seconds after which a page that found every worker full may come back.
const RETRY_AFTER_S: u32 = 3;

/// How many workers there are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub admitting: usize,
    pub full: usize,
    pub draining: usize,
    pub unreachable: usize,
}

/// Every worker of a cluster, as one front sees them.
pub struct Fleet {
    /// `host:port` each.
    names: Vec<String>,
    token: ClusterToken,
    connections: Connections<Full<Bytes>>,
    /// Held for look-ups only, never across a wait.
    members: Mutex<BTreeMap<SocketAddr, Member>>,
    /// Held while a round of questions runs.
    round: tokio::sync::Mutex<Round>,
}

/// What one round of questions leaves for the next.
#[derive(Default)]
struct Round {
    began: Option<Instant>,
    /// Name → the addresses that it had when it was last resolved.
    addresses: HashMap<String, Vec<SocketAddr>>,
    /// Names whose silence has been logged.
    unresolved: HashSet<String>,
}

struct Member {
    /// What it said last; none while it does not answer.
    status: Option<WorkerStatus>,
    /// Sessions placed there that its status does not count yet.
    placed: usize,
    /// It refused a session since its last status.
    refused: bool,
    /// That it does not answer has been logged.
    is_missed: bool,
}

impl Member {
    /// One that has not been asked yet.
    const NEW: Self = Self { status: None, placed: 0, refused: false, is_missed: false };

    fn load(&self) -> Load {
        let Some(status) = &self.status else { return Load { ratio: 1.0, admits: false } };
        let capacity = status.max_sessions.max(1);
        Load {
            ratio: status.load_ratio + self.placed as f64 / capacity as f64,
            admits: !status.draining
                && !self.refused
                && status.load_ratio < 1.0
                && status.sessions + self.placed < status.max_sessions,
        }
    }
}

impl Fleet {
    /// A fleet that nobody has looked for yet: see [`Fleet::refresh`] and [`Fleet::watch`].
    pub fn new(names: Vec<String>, token: ClusterToken) -> Arc<Self> {
        Arc::new(Self {
            names,
            token,
            connections: connections::none(),
            members: Mutex::default(),
            round: tokio::sync::Mutex::default(),
        })
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Member>> {
        self.members.lock().expect("no code panics while it holds the members")
    }

    /// Keeps the figures fresh for as long as it is polled.
    pub async fn watch(&self) {
        loop {
            self.refresh().await;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Finds the workers and asks each for its load; returns when all have answered or failed to.
    ///
    /// However many ask at once, one round runs at a time and serves all who wait for it.
    pub async fn refresh(&self) {
        let asked = Instant::now();
        let mut round = self.round.lock().await;
        if round.began.is_some_and(|began| began >= asked) {
            return;
        }
        round.began = Some(Instant::now());
        self.find(&mut round).await;
        let placed: Vec<(SocketAddr, usize)> =
            self.members().iter().map(|(address, member)| (*address, member.placed)).collect();
        let ask = |(address, placed)| async move { (address, placed, self.remote(address).status().await) };
        let mut answers = stream::iter(placed).map(ask).buffer_unordered(POLLS_AT_ONCE);
        while let Some((address, placed, answer)) = answers.next().await {
            self.note_answer(address, placed, answer);
        }
    }

    /// Resolves every name; one that cannot be resolved now keeps the addresses that it had.
    async fn find(&self, round: &mut Round) {
        for name in &self.names {
            let answer = match timeout(LOOKUP_LIMIT, lookup_host(name.as_str())).await {
                Ok(Ok(addresses)) => Ok(addresses.take(MAX_WORKERS).collect()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer in time".to_owned()),
            };
            match answer {
                Ok(addresses) => {
                    round.unresolved.remove(name);
                    round.addresses.insert(name.clone(), addresses);
                }
                Err(error) if round.unresolved.insert(name.clone()) => {
                    tracing::warn!(name, error, "a worker's name cannot be resolved");
                }
                Err(_) => {}
            }
        }
        let found: HashSet<SocketAddr> = round.addresses.values().flatten().copied().collect();
        let mut members = self.members();
        members.retain(|address, _| {
            let stays = found.contains(address);
            if !stays {
                tracing::info!(worker = %address, "a worker has left");
            }
            stays
        });
        for address in found {
            if members.len() < MAX_WORKERS {
                members.entry(address).or_insert(Member::NEW);
            }
        }
    }

    fn note_answer(&self, address: SocketAddr, placed: usize, answer: Result<WorkerStatus, RemoteError>) {
        let mut members = self.members();
        let Some(member) = members.get_mut(&address) else { return };
        match answer {
            Ok(status) => {
                if member.status.is_none() {
                    tracing::info!(worker = %address, name = status.name, "a worker answers");
                }
                // What was placed while the answer was on its way may or may not be in it.
                *member = Member {
                    status: Some(status),
                    placed: member.placed.saturating_sub(placed),
                    ..Member::NEW
                };
            }
            Err(error) => lose(address, member, &error),
        }
    }

    /// Why no worker would take a session now, if so.
    pub fn admits(&self) -> Result<(), &'static str> {
        let census = self.census();
        match census {
            Census { admitting: 1.., .. } => Ok(()),
            Census { full: 0, draining: 0, .. } => Err("no worker can be reached"),
            Census { full: 0, .. } => Err("every worker is shutting down"),
            _ => Err("every place is taken"),
        }
    }

    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for member in self.members().values() {
            match &member.status {
                None => census.unreachable += 1,
                Some(status) if status.draining => census.draining += 1,
                Some(_) if member.load().admits => census.admitting += 1,
                Some(_) => census.full += 1,
            }
        }
        census
    }

    /// Opens a session within `terms` on the worker that placement chooses, or on the next when that one refuses.
    ///
    /// # Errors
    /// When no worker takes it, even after a fresh look at all of them.
    pub async fn open_session(&self, terms: &SessionTerms) -> Result<SessionSocket, RemoteError> {
        self.place_session(|worker| async move { worker.open_session(terms).await }).await
    }

    /// Opens a session for a publisher, likewise; a worker's refusal of the offer itself is final.
    ///
    /// # Errors
    /// When no worker takes it, or the one that would refuses the offer.
    pub async fn publish(&self, publish: &Publish) -> Result<Published, WhipError> {
        let open = |worker: Remote| async move {
            match worker.publish(publish).await {
                Ok(published) => Ok(Ok(published)),
                Err(WhipError::Refused(fault)) if fault.code.passes() => {
                    Err(RemoteError::Full { retry_after_s: RETRY_AFTER_S })
                }
                Err(WhipError::Refused(fault)) => Ok(Err(fault)),
                Err(WhipError::Remote(error)) => Err(error),
            }
        };
        Ok(self.place_session(open).await??)
    }

    async fn place_session<T, F>(&self, open: impl Fn(Remote) -> F) -> Result<T, RemoteError>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        if let Some(opened) = self.try_all(&open).await {
            return Ok(opened);
        }
        // The figures may be a second old: places may have become free, and workers may have come.
        self.refresh().await;
        if let Some(opened) = self.try_all(&open).await {
            return Ok(opened);
        }
        let Census { admitting, full, draining, unreachable: _ } = self.census();
        Err(if admitting + full + draining > 0 {
            RemoteError::Full { retry_after_s: RETRY_AFTER_S }
        } else {
            RemoteError::NoWorker
        })
    }

    async fn try_all<T, F>(&self, open: &impl Fn(Remote) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        for _ in 0..MAX_TRIES {
            let address = self.place()?;
            match open(self.remote(address)).await {
                Ok(opened) => return Some(opened),
                Err(error) => self.note_refusal(address, &error),
            }
        }
        None
    }

    /// Chooses a worker and counts a session there.
    fn place(&self) -> Option<SocketAddr> {
        let mut members = self.members();
        let loads: Vec<Load> = members.values().map(Member::load).collect();
        let at = placement::choose(&loads, &mut rand::rng())?;
        let (address, member) = members.iter_mut().nth(at)?;
        member.placed += 1;
        Some(*address)
    }

    fn note_refusal(&self, address: SocketAddr, error: &RemoteError) {
        if let Some(member) = self.members().get_mut(&address) {
            member.placed = member.placed.saturating_sub(1);
            member.refused = true;
            if !matches!(error, RemoteError::Full { .. }) {
                lose(address, member, error);
            }
        }
    }

    /// Places nothing on a worker until it has answered again: it is leaving, or has gone.
    pub fn avoid(&self, address: SocketAddr) {
        if let Some(member) = self.members().get_mut(&address) {
            member.refused = true;
        }
    }

    /// The workers to ask for something that is no session, such as a picture: those that answer and stay, each
    /// drawn by placement from the rest. Whether they have room for it, they say themselves.
    pub fn in_turn(&self) -> Vec<Remote> {
        let members = self.members();
        let stays = |member: &Member| member.status.as_ref().is_some_and(|status| !status.draining);
        let addresses: Vec<SocketAddr> = members.keys().copied().collect();
        let mut loads: Vec<Load> =
            members.values().map(|member| Load { admits: stays(member), ..member.load() }).collect();
        let mut turns = Vec::new();
        while turns.len() < MAX_TRIES
            && let Some(at) = placement::choose(&loads, &mut rand::rng())
        {
            loads[at].admits = false;
            turns.push(self.remote(addresses[at]));
        }
        turns
    }

    /// What every worker answers that does.
    pub(super) async fn ask_all<T, F>(&self, question: impl Fn(Remote) -> F) -> Vec<T>
    where
        F: Future<Output = Result<T, RemoteError>>,
    {
        let answering =
            |(address, member): (&SocketAddr, &Member)| member.status.is_some().then_some(*address);
        let addresses: Vec<SocketAddr> = self.members().iter().filter_map(answering).collect();
        let answers = stream::iter(addresses.into_iter().map(|address| question(self.remote(address))));
        answers.buffer_unordered(POLLS_AT_ONCE).filter_map(async |answer| answer.ok()).collect().await
    }

    /// How many workers have each model loaded, by `name@version`, as they last said.
    pub fn loaded(&self) -> BTreeMap<String, usize> {
        let mut loaded = BTreeMap::new();
        for status in self.members().values().filter_map(|member| member.status.as_ref()) {
            // One model may be for several slots.
            for title in status.models.values().chain(&status.loaded).collect::<HashSet<_>>() {
                *loaded.entry(title.clone()).or_default() += 1;
            }
        }
        loaded
    }

    /// `name@version` → why some worker could not load it, as they last said.
    pub fn not_loaded(&self) -> BTreeMap<String, String> {
        let members = self.members();
        let statuses = members.values().filter_map(|member| member.status.as_ref());
        statuses.flat_map(|status| status.not_loaded.clone()).collect()
    }

    /// The model that each slot uses for those in no share, `name@version`; where workers differ, any one's.
    pub fn serving(&self) -> BTreeMap<String, String> {
        let members = self.members();
        members.values().filter_map(|member| member.status.as_ref()).flat_map(|s| s.models.clone()).collect()
    }

    /// Attaches to a session on the worker that its id names.
    ///
    /// # Errors
    /// [`RemoteError::UnknownSession`] when that worker is not there, or does not know the session.
    pub async fn resume(&self, token: &ResumeToken) -> Result<SessionSocket, RemoteError> {
        self.home_of(&token.session).await?.resume_session(token).await
    }

    /// The worker that a session's id names.
    ///
    /// # Errors
    /// [`RemoteError::UnknownSession`] when that worker is not there.
    pub async fn home_of(&self, session: &SessionId) -> Result<Remote, RemoteError> {
        let mut address = self.address_of(session.worker());
        if address.is_none() {
            self.refresh().await;
            address = self.address_of(session.worker());
        }
        address.map(|address| self.remote(address)).ok_or(RemoteError::UnknownSession)
    }

    fn address_of(&self, name: &str) -> Option<SocketAddr> {
        let members = self.members();
        let named = |member: &Member| member.status.as_ref().is_some_and(|status| status.name == name);
        members.iter().find(|(_, member)| named(member)).map(|(address, _)| *address)
    }

    fn remote(&self, address: SocketAddr) -> Remote {
        Remote { address, token: self.token.clone(), connections: self.connections.clone() }
    }
}

/// Notes that a worker does not answer, and says so once.
fn lose(address: SocketAddr, member: &mut Member, error: &RemoteError) {
    if !member.is_missed {
        tracing::warn!(worker = %address, %error, "a worker cannot be used");
    }
    *member = Member { is_missed: true, ..Member::NEW };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(sessions: usize, draining: bool) -> WorkerStatus {
        WorkerStatus {
            name: "w1".into(),
            sessions,
            max_sessions: 4,
            load_ratio: sessions as f64 / 4.0,
            draining,
            models: BTreeMap::new(),
            loaded: Vec::new(),
            not_loaded: BTreeMap::new(),
        }
    }

    fn fleet_of(statuses: &[Option<WorkerStatus>]) -> Arc<Fleet> {
        let fleet = Fleet::new(Vec::new(), ClusterToken::random());
        for (port, status) in (1..).zip(statuses) {
            let member = Member { status: status.clone(), ..Member::NEW };
            fleet.members().insert(SocketAddr::from(([127, 0, 0, 1], port)), member);
        }
        fleet
    }

    #[test]
    fn a_front_is_ready_when_some_worker_admits() {
        type Row<'a> = (&'a [Option<WorkerStatus>], Result<(), &'a str>);
        let table: &[Row<'_>] = &[
            (&[], Err("no worker can be reached")),
            (&[None], Err("no worker can be reached")),
            (&[Some(status(4, false)), None], Err("every place is taken")),
            (&[Some(status(0, true)), None], Err("every worker is shutting down")),
            (&[Some(status(4, false)), Some(status(3, false))], Ok(())),
        ];
        for (statuses, expected) in table {
            assert_eq!(fleet_of(statuses).admits(), *expected, "{statuses:?}");
        }
    }

    #[test]
    fn what_is_placed_counts_before_the_worker_says_so() {
        let fleet = fleet_of(&[Some(status(2, false))]);
        let address = fleet.place().unwrap();
        assert_eq!(fleet.place(), Some(address));
        assert_eq!(fleet.place(), None, "four of four");
        // The answer to a question from before the second was placed.
        fleet.note_answer(address, 1, Ok(status(3, false)));
        assert_eq!(fleet.place(), None, "three and one more on its way");
        fleet.note_answer(address, 1, Ok(status(3, false)));
        assert_eq!(fleet.place(), Some(address));
    }

    #[test]
    fn a_refusal_stands_until_the_next_status() {
        let fleet = fleet_of(&[Some(status(0, false))]);
        let address = fleet.place().unwrap();
        fleet.note_refusal(address, &RemoteError::Full { retry_after_s: 3 });
        assert_eq!(fleet.place(), None);
        assert_eq!(fleet.admits(), Err("every place is taken"));
        fleet.note_answer(address, 0, Ok(status(0, false)));
        assert_eq!(fleet.place(), Some(address));
    }

    #[test]
    fn a_worker_without_headroom_or_about_to_leave_is_passed_over() {
        let fleet = fleet_of(&[Some(status(1, false)), Some(status(1, false))]);
        let [first, second] = [1, 2].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        fleet.note_answer(first, 0, Ok(WorkerStatus { load_ratio: 1.0, ..status(1, false) }));
        assert_eq!([fleet.place(), fleet.place()], [Some(second); 2]);
        fleet.avoid(second);
        assert_eq!(fleet.place(), None);
        fleet.note_answer(second, 2, Ok(status(3, false)));
        assert_eq!(fleet.place(), Some(second));
    }

    #[tokio::test]
    async fn nobody_answering_is_no_worker() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let fleet = Fleet::new(vec![closed.to_string()], ClusterToken::random());
        fleet.refresh().await;
        assert_eq!(fleet.census(), Census { unreachable: 1, ..Census::default() });
        assert!(matches!(fleet.open_session(&SessionTerms::default()).await, Err(RemoteError::NoWorker)));
    }
}
