//! What `serve`, `signal` and `worker` have in common: listening, the front's parts, and the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::serve::{Listener, ListenerExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::guard;
use crate::cli::{ClusterArgs, FrontArgs};
use crate::cluster::token::ClusterToken;
use crate::signalling::ice::{IceConfig, TurnConfig};
use crate::signalling::router::{Front, router};
use crate::signalling::server::Server;
use crate::signalling::tls::Certificate;

/// What sessions have to end in once they have been told goodbye.
pub const FAREWELL_LIMIT: Duration = Duration::from_secs(5);
/// The same when the end was asked for twice.
pub const HASTY_FAREWELL_LIMIT: Duration = Duration::from_millis(500);
/// What open connections have to finish in once the end has come.
const CLOSING_LIMIT: Duration = Duration::from_secs(2);

pub fn cluster_token(args: &ClusterArgs) -> anyhow::Result<ClusterToken> {
    Ok(ClusterToken::new(&args.token.0)?)
}

pub fn ice_config(args: &FrontArgs) -> Arc<IceConfig> {
    let turn = args.turn_secret.as_ref().filter(|_| !args.turn_urls.is_empty()).map(|secret| TurnConfig {
        urls: args.turn_urls.clone(),
        secret: secret.0.clone(),
        ttl: Duration::from_secs(args.turn_ttl_seconds),
    });
    Arc::new(IceConfig { stun_urls: args.stun.clone(), turn })
}

/// The front's listener and its certificate, before anything is said of it.
pub struct FrontDoor {
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

impl FrontDoor {
    pub async fn bind(args: &FrontArgs) -> anyhow::Result<Self> {
        let certificate = guard::certificate(&args.guard)?;
        Ok(Self { listener: bind(args.listen, "--listen").await?, certificate })
    }

    /// Where pages find it.
    pub fn url(&self) -> anyhow::Result<String> {
        let scheme = if self.certificate.is_some() { "https" } else { "http" };
        Ok(format!("{scheme}://{}", self.listener.local_addr()?))
    }

    /// Serves until told to stop.
    pub async fn serve(self, args: &FrontArgs, front: Front, stop: &Stop) -> anyhow::Result<()> {
        let server = Server {
            tls: self.certificate.as_ref().map(Certificate::acceptor).transpose()?,
            connections: guard::connections(&args.guard),
            limits: Arc::clone(&front.limits),
            metrics: Arc::clone(&front.metrics),
            router: router(front),
        };
        let Some(certificate) = self.certificate else {
            return stop.serve_front(self.listener, server).await;
        };
        if args.guard.tls_self_signed {
            guard::introduce(&certificate, self.listener.local_addr()?);
        }
        tokio::select! {
            served = stop.serve_front(self.listener, server) => served,
            watched = certificate.watch() => watched.context("listening for SIGHUP"),
        }
    }
}

/// Listens on `address`; `flag` is what chooses another.
pub async fn bind(address: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another vigie running? choose another address with {flag}")
    })
}

/// Sends small messages at once: Nagle's algorithm would hold an answer back for 40 ms.
fn prompt(listener: TcpListener) -> impl Listener<Io = TcpStream, Addr = SocketAddr> {
    listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY");
        }
    })
}

/// Told once that it is time to end, and heard by every server.
#[derive(Clone, Default)]
pub struct Stop(watch::Sender<bool>);

impl Stop {
    pub fn tell(&self) {
        self.0.send_replace(true);
    }

    pub fn is_told(&self) -> bool {
        *self.0.borrow()
    }

    /// Serves the front until told to stop, then for as long as open connections need, within a limit.
    pub async fn serve_front(&self, listener: TcpListener, server: Server) -> anyhow::Result<()> {
        let overdue = async {
            self.clone().told().await;
            tokio::time::sleep(CLOSING_LIMIT).await;
        };
        tokio::select! {
            () = server.run(listener, self.0.subscribe()) => Ok(()),
            () = overdue => Ok(()),
        }
    }

    async fn told(self) {
        drop(self.0.subscribe().wait_for(|told| *told).await);
    }

    /// Serves until told to stop, then for as long as open connections need, within a limit.
    pub async fn serve(&self, listener: TcpListener, router: Router) -> anyhow::Result<()> {
        let server = axum::serve(prompt(listener), router).with_graceful_shutdown(self.clone().told());
        let overdue = async {
            self.clone().told().await;
            tokio::time::sleep(CLOSING_LIMIT).await;
        };
        tokio::select! {
            served = server.into_future() => served.context("serving HTTP"),
            () = overdue => Ok(()),
        }
    }
}

/// Runs a service on a runtime of its own with `threads`; blocking work that is left at the end does not hold the
/// process.
pub fn run(threads: usize, service: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
    let outcome = runtime.block_on(service);
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

/// The processors that there are.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Threads for the packets where media is decoded and encoded beside them: these cost a tenth of that, and each thread
/// more is woken for nothing, up to five times a frame.
#[cfg(feature = "media")]
pub fn threads_beside_media() -> usize {
    cores().div_ceil(2)
}

/// Returns at SIGINT or SIGTERM.
pub async fn wait_for_signal() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
