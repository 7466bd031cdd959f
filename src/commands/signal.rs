//! `vigie signal`: a front of its own. It holds no session: any front can serve any page, and one that is
//! killed leaves the media of its pages alone.

use std::sync::Arc;
use std::time::Duration;

use super::service::{self, FrontDoor, Stop};
use super::videos::{self, VideoJobs};
use super::{guard, registry};
use crate::cli::SignalArgs;
use crate::cluster::fleet::Fleet;
use crate::shutdown::Inside;
use crate::signalling::room::Room;
use crate::signalling::router::Front;
use crate::telemetry::metrics::Metrics;

/// Serves until it is told to stop (SIGINT or SIGTERM).
pub fn run(args: &SignalArgs) -> anyhow::Result<()> {
    guard::check_open(&args.front)?;
    service::run(service::cores(), serve(args))
}

async fn serve(args: &SignalArgs) -> anyhow::Result<()> {
    let token = service::cluster_token(&args.cluster)?;
    let public = FrontDoor::bind(&args.front).await?;
    let fleet = Fleet::new(args.workers.clone(), token.clone());
    let stop = Stop::default();
    let readiness = {
        let (fleet, stop) = (Arc::clone(&fleet), stop.clone());
        move || {
            if stop.is_told() {
                return Err("the front is shutting down".to_owned());
            }
            fleet.admits().map_err(str::to_owned)
        }
    };
    let metrics = Arc::new(Metrics::new());
    let video_jobs = VideoJobs::shared(&args.store, &metrics).await?;
    let room = Room::of_mib(args.front.upload_memory);
    let front = Front {
        sockets: Inside::default(),
        workers: Arc::clone(&fleet),
        relay: Arc::default(),
        session_key: token.session_key(),
        videos: video_jobs.as_ref().map(|jobs| jobs.front(&args.front, room.clone())),
        room,
        models: registry::front(registry::open(&args.store).as_ref()),
        metrics,
        readiness: Arc::new(readiness),
        ice: service::ice_config(&args.front),
        door: guard::door(&args.front)?,
        limits: guard::limits(&args.front.guard),
        has_open_metrics: args.front.guard.open_metrics,
        is_strictly_https: args.front.guard.tls_cert.is_some(),
        allowed_origins: args.front.allowed_origins.clone().into(),
    };
    // A page that comes back to its session must not find a front that does not know its worker yet.
    fleet.refresh().await;
    // The one line on standard output, for people and for scripts.
    println!("vigie is ready: {}", public.url()?);
    let stopping = async {
        tokio::select! {
            signalled = service::wait_for_signal() => signalled?,
            () = fleet.watch() => {}
        }
        tracing::info!("stopping");
        videos::leave(video_jobs, Duration::ZERO).await;
        stop.tell();
        anyhow::Ok(())
    };
    tokio::try_join!(public.serve(&args.front, front, &stop), stopping).map(drop)
}
