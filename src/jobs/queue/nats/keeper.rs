//! Keeps a connection with NATS, and the stream and the consumer that the queue needs, for as long as the queue lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State as Connection;
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ContextBuilder};
use async_nats::{Client, ClientError, ConnectOptions, Event, ServerAddr};
use percent_encoding::percent_decode_str;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{ANSWER, CONSUMER, Options, QueueError, STREAM, SUBJECT};

/// While something is missing it is looked for so often,
const RETRY: Duration = Duration::from_secs(1);
/// and so often while all is well, since a stream can be deleted at the server, and fills.
const RECHECK: Duration = Duration::from_secs(10);
/// Takers of all workers together that may wait at the server.
const MAX_TAKERS: i64 = 4096;

/// What the queue can do now.
#[derive(Clone)]
pub(super) enum State {
    Waiting(String),
    Ready(Box<PullConsumer>),
}

/// Owns the task that keeps the connection.
pub(super) struct Keeper {
    client: Client,
    state: watch::Receiver<State>,
    /// Whether the stream took no more when it was looked at last.
    is_full: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Keeper {
    pub async fn start(url: &str, options: &Options) -> Result<(Self, Context), QueueError> {
        let servers = servers(url)?;
        let hosts =
            servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect::<Vec<_>>();
        let (login, servers) = login(servers);
        // Two providers are compiled in (the WebRTC library brings the other), so one has to be chosen.
        let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
        let (trouble, troubles) = watch::channel(None);
        let connect = login
            .name("vigie")
            .connection_timeout(ANSWER)
            .ping_interval(Duration::from_secs(10))
            .retry_on_initial_connect()
            .event_callback(move |event| {
                trouble.send_replace(Some(event));
                std::future::ready(())
            });
        let client = connect.connect(servers).await.map_err(|error| invalid(url, &error))?;
        let jetstream = ContextBuilder::new().timeout(ANSWER).build(client.clone());
        let (report, state) = watch::channel(State::Waiting("not connected yet".to_owned()));
        let (hosts, is_full) = (hosts.join(", "), Arc::<AtomicBool>::default());
        let care = Care {
            jetstream: jetstream.clone(),
            options: options.clone(),
            hosts,
            report,
            is_full: Arc::clone(&is_full),
        };
        let task = tokio::spawn(care.run(client.clone(), troubles));
        Ok((Self { client, state, is_full, task }, jetstream))
    }

    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub fn connection(&self) -> Connection {
        self.client.connection_state()
    }

    pub fn state(&self) -> State {
        let state = self.state.borrow().clone();
        match (state, self.connection()) {
            (State::Ready(_), Connection::Disconnected | Connection::Pending) => {
                State::Waiting("the connection was lost".to_owned())
            }
            (state, _) => state,
        }
    }

    /// Waits until the queue can be read.
    pub async fn consumer(&self) -> PullConsumer {
        let mut state = self.state.clone();
        loop {
            if let State::Ready(consumer) = &*state.borrow_and_update() {
                return PullConsumer::clone(consumer);
            }
            if state.changed().await.is_err() {
                // The task ends with its keeper only.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the queue cannot be read any more.
    pub async fn lost(&self) {
        let mut state = self.state.clone();
        if state.wait_for(|state| matches!(state, State::Waiting(_))).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Care {
    jetstream: Context,
    options: Options,
    /// For messages.
    hosts: String,
    report: watch::Sender<State>,
    is_full: Arc<AtomicBool>,
}

impl Care {
    async fn run(self, client: Client, mut events: watch::Receiver<Option<Event>>) {
        loop {
            let state = match client.connection_state() {
                Connection::Connected => self.prepare().await.unwrap_or_else(State::Waiting),
                Connection::Pending | Connection::Disconnected => {
                    State::Waiting(self.trouble(events.borrow_and_update().as_ref()))
                }
            };
            let is_well = matches!(state, State::Ready(_)) && !self.is_full.load(Ordering::Relaxed);
            let pause = if is_well { RECHECK } else { RETRY };
            self.tell(state);
            let _ = tokio::time::timeout(pause, events.changed()).await;
        }
    }

    /// Logs what changed, once, and passes it on.
    fn tell(&self, state: State) {
        let changed = match (&*self.report.borrow(), &state) {
            (State::Ready(_), State::Ready(_)) => false,
            (State::Waiting(before), State::Waiting(now)) => before != now,
            _ => true,
        };
        if changed {
            match &state {
                State::Ready(_) => tracing::info!(stream = STREAM, "the job queue is ready"),
                State::Waiting(reason) => tracing::warn!(reason, "the job queue is not ready"),
            }
            self.report.send_replace(state);
        }
    }

    fn trouble(&self, event: Option<&Event>) -> String {
        let why = match event {
            Some(Event::ClientError(ClientError::Other(error))) => format!(": {error}"),
            Some(Event::ServerError(error)) => format!(": {error}"),
            _ => String::new(),
        };
        format!("no connection with {}{why}", self.hosts)
    }

    async fn prepare(&self) -> Result<State, String> {
        let stream = self.jetstream.get_or_create_stream(self.stream()).await.map_err(|error| {
            format!("no stream {STREAM}: {error}; was the server started with JetStream (nats-server -js)?")
        })?;
        let info = stream.cached_info();
        let found = &info.config;
        // Without a bound it says -1.
        let most = u64::try_from(found.max_messages).ok().filter(|most| *most > 0);
        self.is_full.store(most.is_some_and(|most| info.state.messages >= most), Ordering::Relaxed);
        if found.retention != RetentionPolicy::WorkQueue || !found.subjects.iter().any(|s| s == SUBJECT) {
            return Err(format!(
                "the stream {STREAM} is no work queue of {SUBJECT}: delete it, or name another server"
            ));
        }
        let wanted = self.consumer();
        let no_consumer = |error: String| format!("no consumer {CONSUMER} of the stream {STREAM}: {error}");
        let consumer = stream.get_or_create_consumer(CONSUMER, wanted.clone()).await;
        let consumer = consumer.map_err(|error| no_consumer(error.to_string()))?;
        let found = &consumer.cached_info().config;
        if (found.ack_wait, found.max_deliver) == (wanted.ack_wait, wanted.max_deliver) {
            return Ok(State::Ready(Box::new(consumer)));
        }
        // An older or newer vigie made it.
        let consumer =
            stream.create_consumer(wanted).await.map_err(|error| no_consumer(error.to_string()))?;
        Ok(State::Ready(Box::new(consumer)))
    }

    fn stream(&self) -> Config {
        Config {
            name: STREAM.to_owned(),
            description: Some("Jobs of vigie".to_owned()),
            subjects: vec![SUBJECT.to_owned()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            // Full, it refuses: what was accepted is never pushed out.
            discard: DiscardPolicy::New,
            max_messages: i64::try_from(self.options.capacity).unwrap_or(i64::MAX),
            ..Config::default()
        }
    }

    fn consumer(&self) -> pull::Config {
        pull::Config {
            durable_name: Some(CONSUMER.to_owned()),
            ack_policy: AckPolicy::Explicit,
            ack_wait: self.options.ack_wait,
            // Tries are counted by the queue: a server that stopped delivering would leave nobody to park the job.
            max_deliver: -1,
            max_ack_pending: i64::try_from(self.options.capacity).unwrap_or(i64::MAX),
            max_waiting: MAX_TAKERS,
            ..pull::Config::default()
        }
    }
}

fn servers(url: &str) -> Result<Vec<ServerAddr>, QueueError> {
    let parsed: Result<Vec<ServerAddr>, _> =
        url.split(',').map(|url| url.trim().parse::<ServerAddr>()).collect();
    let parsed = parsed.map_err(|error| invalid(url, &error))?;
    match parsed.iter().all(|server| matches!(server.scheme(), "nats" | "tls") && !server.host().is_empty()) {
        true => Ok(parsed),
        false => Err(invalid(url, &"it begins with nats:// or tls:// and names a host")),
    }
}

/// Takes the user and the password, or the token, out of the addresses: the library does not read them there, but logs them.
fn login(servers: Vec<ServerAddr>) -> (ConnectOptions, Vec<ServerAddr>) {
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let named = servers.iter().find_map(|server| Some((server.username()?, server.password())));
    let login = match named {
        Some((user, Some(password))) => {
            ConnectOptions::with_user_and_password(decoded(user), decoded(password))
        }
        Some((token, None)) => ConnectOptions::with_token(decoded(token)),
        None => ConnectOptions::new(),
    };
    let bare = servers.into_iter().filter_map(|server| {
        let mut url = server.into_inner();
        url.set_username("").and_then(|()| url.set_password(None)).ok()?;
        ServerAddr::from_url(url).ok()
    });
    (login, bare.collect())
}

/// Without what stands before an `@`: passwords do not belong in logs.
fn invalid(url: &str, reason: &impl ToString) -> QueueError {
    let hosts: Vec<&str> = url.split(',').map(|url| url.rsplit('@').next().unwrap_or_default()).collect();
    QueueError::InvalidUrl { url: hosts.join(","), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_taken_out_of_the_address() {
        let (_, bare) = login(servers("nats://me:a%40secret@a:4223,tls://b").unwrap());
        let bare: Vec<String> = bare.into_iter().map(|server| server.into_inner().to_string()).collect();
        assert_eq!(bare, ["nats://a:4223", "tls://b"]);
    }

    #[test]
    fn addresses_are_read_and_passwords_kept_to_ourselves() {
        for good in [
            "nats://localhost",
            "localhost:4222",
            "tls://user:secret@a.example:4443",
            "nats://a, nats://b:4223",
        ] {
            assert!(servers(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "http://user:secret@a",
            "ws://user:secret@a",
            "nats://user:secret@",
            "nats://a:notaport",
            "nats://",
        ] {
            let error = servers(bad).map(drop).unwrap_err();
            assert!(matches!(error, QueueError::InvalidUrl { .. }), "{bad}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }
}
