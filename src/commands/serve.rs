//! `vigie serve`: front and worker in one process, connected as they are in a cluster.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::guard;
use super::media;
use super::recognition::Recognition;
use super::registry;
use super::service::{self, FrontDoor, Stop};
use super::videos::{self, VideoJobs};
use crate::cli::ServeArgs;
use crate::cluster::fleet::Fleet;
use crate::cluster::token::ClusterToken;
use crate::files;
use crate::live::session::Resources;
use crate::live::worker::Worker;
use crate::live::{control, whip};
use crate::oip;
use crate::shutdown::Inside;
use crate::signalling::room::Room;
use crate::signalling::router::Front;
use crate::telemetry::metrics::Metrics;
use crate::trials;

/// Serves until it is told to stop (SIGINT or SIGTERM), then sends the sessions home.
pub fn run(args: &ServeArgs) -> anyhow::Result<()> {
    guard::check_open(&args.front)?;
    let metrics = Arc::new(Metrics::new());
    let recognition = Recognition::load(&args.inference, &metrics, true)?;
    service::run(service::threads_beside_media(), serve(args, &recognition, metrics))
}

async fn serve(args: &ServeArgs, recognition: &Recognition, metrics: Arc<Metrics>) -> anyhow::Result<()> {
    let public = FrontDoor::bind(&args.front).await?;
    let internal = service::bind(SocketAddr::from(([127, 0, 0, 1], 0)), "--listen").await?;
    let token = ClusterToken::random();
    let readers = recognition.start_readers(&metrics)?;
    let resources = Resources {
        decodes_on: args.inference.decode.parse()?,
        peers: media::peer_config(&args.worker),
        inference: recognition.handle(),
        models: recognition.models(),
        metrics: Arc::clone(&metrics),
        readers,
        max_viewers: args.worker.max_viewers,
    };
    let admission = media::admission(&args.worker, recognition);
    let worker = Worker::new("w1", admission, token.session_key(), resources);
    let fleet = Fleet::new(vec![internal.local_addr()?.to_string()], token.clone());
    let readiness = {
        let worker = Arc::clone(&worker);
        move || worker.admits().map_err(|refusal| refusal.to_string())
    };
    let desk = recognition.start_desk(&metrics)?;
    let mut video_jobs = VideoJobs::alone(&args.store, &args.worker, &metrics).await?;
    let room = Room::of_mib(args.front.upload_memory);
    let videos = video_jobs.as_mut().map(|jobs| {
        jobs.start(&args.worker, recognition, &metrics);
        jobs.front(&args.front, room.clone())
    });
    let registry = registry::open(&args.store);
    let mut loader = recognition.follow(registry.as_ref(), "w1")?;
    let trial_desk = registry::desk(registry.as_ref(), &args.worker, &args.inference)?;
    let sockets = Inside::default();
    let front = Front {
        sockets: sockets.clone(),
        workers: Arc::clone(&fleet),
        relay: Arc::default(),
        session_key: token.session_key(),
        room,
        videos,
        models: registry::front(registry.as_ref()),
        metrics: Arc::clone(&metrics),
        readiness: Arc::new(readiness),
        ice: service::ice_config(&args.front),
        door: guard::door(&args.front)?,
        limits: guard::limits(&args.front.guard),
        has_open_metrics: args.front.guard.open_metrics,
        is_strictly_https: args.front.guard.tls_cert.is_some(),
        allowed_origins: args.front.allowed_origins.clone().into(),
    };

    // Told by a signal, heard by both servers once the sessions are gone.
    let stop = Stop::default();
    let url = public.url()?;
    let control = control::router(Arc::clone(&worker), token.clone())
        .merge(whip::router(Arc::clone(&worker), token.clone()))
        .merge(files::control::router(Arc::new(desk), token.clone()))
        .merge(trials::control::router(trial_desk, token.clone()))
        .merge(oip::control::router(media::oip(recognition, &worker, &metrics), token));
    let serving =
        async { tokio::try_join!(public.serve(&args.front, front, &stop), stop.serve(internal, control),) };
    let stopping = async {
        loader.settled(media::LOADING_LIMIT).await;
        fleet.refresh().await;
        // The one line on standard output, for people and for scripts.
        println!("vigie is ready: {url}");
        tokio::select! {
            signalled = service::wait_for_signal() => signalled?,
            () = fleet.watch() => {}
            () = worker.watch() => {}
        }
        // There is no other worker to move to.
        tracing::info!("stopping: sending the sessions home");
        let closing = async {
            tokio::select! {
                () = worker.close(service::FAREWELL_LIMIT) => Ok(()),
                again = service::wait_for_signal() => again,
            }
        };
        let (closed, ()) = tokio::join!(closing, videos::leave(video_jobs, service::FAREWELL_LIMIT));
        closed?;
        loader.leave(service::FAREWELL_LIMIT).await;
        sockets.emptied(Duration::from_secs(1)).await;
        stop.tell();
        anyhow::Ok(())
    };
    tokio::try_join!(serving, stopping).map(drop)
}
