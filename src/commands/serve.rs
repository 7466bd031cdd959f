//! `vigie serve`: front and worker in one process, connected as they are in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::serve::{Listener, ListenerExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::recognition::Recognition;
use crate::cli::{AnnotatedCodec, ServeArgs, WorkerArgs};
use crate::cluster::remote::Remote;
use crate::files;
use crate::frame::Codec;
use crate::live::control;
use crate::live::peer::PeerConfig;
use crate::live::session::Resources;
use crate::live::worker::Worker;
use crate::shutdown::Inside;
use crate::signalling::router::{Front, router};
use crate::telemetry::metrics::Metrics;

/// Serves until it is told to stop (SIGINT or SIGTERM), then sends the sessions home.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    if !args.listen.ip().is_loopback() && !args.insecure_open {
        bail!(
            "{} can be reached by other machines, and anybody there could open sessions: \
             listen on 127.0.0.1, or allow it with --insecure-open",
            args.listen
        );
    }
    let metrics = Arc::new(Metrics::new());
    let recognition = Recognition::load(&args.inference, &metrics)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(serve(args, &recognition, metrics));
    // Sessions have ended; what blocking work is left must not hold the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    outcome
}

async fn serve(args: &ServeArgs, recognition: &Recognition, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let public = bind(args.listen).await?;
    let internal = bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let token = format!("{:032x}", rand::random::<u128>());
    let resources = Resources {
        peers: peer_config(&args.worker),
        inference: recognition.handle(),
        models: recognition.models(),
        metrics: Arc::clone(&metrics),
    };
    let worker = Worker::new("w1", args.worker.max_sessions, resources);
    let readiness = {
        let worker = Arc::clone(&worker);
        move || worker.admits().map_err(|refusal| refusal.to_string())
    };
    let desk = recognition.start_desk(&metrics)?;
    let sockets = Inside::default();
    let front = Front {
        sockets: sockets.clone(),
        workers: Arc::new([Remote { address: internal.local_addr()?, token: token.clone() }]),
        uploads: Arc::default(),
        metrics,
        readiness: Arc::new(readiness),
        stun_servers: args.stun.clone().into(),
        allowed_origins: args.allowed_origins.clone().into(),
    };

    // Told by a signal, heard by both servers once the sessions are gone.
    let stopped = watch::Sender::new(false);
    let wait_for_stop = || {
        let mut stopped = stopped.subscribe();
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    };
    let address = public.local_addr()?;
    let front_server = axum::serve(prompt(public), router(front)).with_graceful_shutdown(wait_for_stop());
    let control_router =
        control::router(Arc::clone(&worker), &token).merge(files::control::router(Arc::new(desk), &token));
    let control_server =
        axum::serve(prompt(internal), control_router).with_graceful_shutdown(wait_for_stop());
    // The one line on standard output, for people and for scripts.
    println!("vigie is ready: http://{address}");

    let stop = async {
        wait_for_signal().await?;
        tracing::info!("stopping: sending the sessions home");
        worker.drain(Duration::from_secs(args.worker.drain_seconds)).await;
        sockets.emptied(Duration::from_secs(1)).await;
        stopped.send_replace(true);
        anyhow::Ok(())
    };
    let serving = async {
        tokio::try_join!(front_server.into_future(), control_server.into_future())
            .context("serving HTTP")
            .map(drop)
    };
    tokio::try_join!(serving, stop).map(drop)
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another vigie running? choose another address with --listen")
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

fn peer_config(args: &WorkerArgs) -> PeerConfig {
    let codecs = args.annotated_codecs.iter().map(|codec| match codec {
        AnnotatedCodec::H264 => Codec::H264,
        AnnotatedCodec::Vp8 => Codec::Vp8,
    });
    PeerConfig {
        addresses: args.media.iter().map(ToString::to_string).collect(),
        annotated_codecs: codecs.collect(),
    }
}

async fn wait_for_signal() -> anyhow::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM")?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
