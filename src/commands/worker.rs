//! `vigie worker`: a media worker of its own, which fronts reach over its control API.

use std::sync::Arc;
use std::time::Duration;

use anyhow::bail;

use super::media;
use super::recognition::Recognition;
use super::registry;
use super::service::{self, Stop};
use super::videos::{self, VideoJobs};
use crate::cli::{OipAddress, WorkerProcessArgs};
use crate::cluster::token::ClusterToken;
use crate::files;
use crate::ids::is_worker_name;
use crate::live::session::Resources;
use crate::live::worker::Worker;
use crate::live::{control, whip};
use crate::oip;
use crate::telemetry::metrics::Metrics;
use crate::trials;

/// Serves until it is told to stop (SIGINT or SIGTERM), then has the sessions
/// move to other workers; told again, it ends at once.
pub fn run(args: &WorkerProcessArgs) -> anyhow::Result<()> {
    let token = match &args.cluster_token {
        Some(token) => ClusterToken::new(&token.0)?,
        // It serves models, and no front can know it.
        None => ClusterToken::random(),
    };
    let name = match &args.name {
        Some(name) if !is_worker_name(name) => {
            bail!("--name {name:?} is not 1 to 63 of a-z, 0-9 and -, as in a host name")
        }
        Some(name) => name.clone(),
        None => format!("w-{:08x}", rand::random::<u32>()),
    };
    let metrics = Arc::new(Metrics::new());
    let recognition = Recognition::load(&args.inference, &metrics, true)?;
    service::run(service::threads_beside_media(), serve(args, token, &name, &recognition, metrics))
}

async fn serve(
    args: &WorkerProcessArgs,
    token: ClusterToken,
    name: &str,
    recognition: &Recognition,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let listener = service::bind(args.control, "--control").await?;
    let open = match args.oip {
        Some(OipAddress(address)) => Some(service::bind(address, "--oip").await?),
        None => None,
    };
    let desk = recognition.start_desk(&metrics)?;
    let mut video_jobs = VideoJobs::shared(&args.store, &metrics).await?;
    if let Some(jobs) = &mut video_jobs {
        jobs.start(&args.worker, recognition, &metrics);
    }
    let readers = recognition.start_readers(&metrics)?;
    let registry = registry::open(&args.store);
    let mut loader = recognition.follow(registry.as_ref(), name)?;
    let trial_desk = registry::desk(registry.as_ref(), &args.worker, &args.inference)?;
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
    let worker = Worker::new(name, admission, token.session_key(), resources);
    let inference = media::oip(recognition, &worker, &metrics);
    let stop = Stop::default();
    let models = match &open {
        Some(open) => format!(" serves its models at http://{} and", open.local_addr()?),
        None => String::new(),
    };
    loader.settled(media::LOADING_LIMIT).await;
    // The one line on standard output, for people and for scripts.
    println!("vigie worker {name}{models} is ready: http://{}", listener.local_addr()?);
    let stopping = async {
        tokio::select! {
            signalled = service::wait_for_signal() => signalled?,
            () = worker.watch() => {}
        }
        tracing::info!("draining: having the sessions move to other workers");
        let limit = Duration::from_secs(args.drain_seconds);
        let draining = async {
            tokio::select! {
                _ = worker.drain(limit) => Ok(service::FAREWELL_LIMIT),
                again = service::wait_for_signal() => again.map(|()| service::HASTY_FAREWELL_LIMIT),
            }
        };
        let (farewell, ()) = tokio::join!(draining, videos::leave(video_jobs, service::FAREWELL_LIMIT));
        worker.close(farewell?).await;
        loader.leave(service::FAREWELL_LIMIT).await;
        stop.tell();
        anyhow::Ok(())
    };
    let control = control::router(Arc::clone(&worker), token.clone())
        .merge(whip::router(Arc::clone(&worker), token.clone()))
        .merge(files::control::router(Arc::new(desk), token.clone()))
        .merge(trials::control::router(trial_desk, token.clone()))
        .merge(oip::control::router(Arc::clone(&inference), token));
    let openly = async {
        match open {
            Some(listener) => media::serve_openly(listener, inference, &stop).await,
            None => Ok(()),
        }
    };
    tokio::try_join!(stop.serve(listener, control), openly, stopping).map(drop)
}
