//! What `serve` and `worker` have in common: where media arrives, who is taken in, and who may run models.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;

use super::recognition::Recognition;
use super::service::Stop;
use super::service::cores;
use crate::cli::{Admit, AnnotatedCodec, WorkerArgs};
use crate::frame::Codec;
use crate::live::headroom::Capacity;
use crate::live::peer::PeerConfig;
use crate::live::worker::{Admission, Measured, Worker};
use crate::oip::control::{Oip, open_router};
use crate::oip::runner::Runner;
use crate::signalling::limits::{LimitSettings, Limits};
use crate::signalling::server::{ConnectionSettings, Server};
use crate::telemetry::metrics::Metrics;

/// What the models of the traffics have to be loaded in before the service says that it is ready.
pub const LOADING_LIMIT: Duration = Duration::from_secs(60);

pub fn peer_config(args: &WorkerArgs) -> PeerConfig {
    let codecs = args.annotated_codecs.iter().map(|codec| match codec {
        AnnotatedCodec::H264 => Codec::H264,
        AnnotatedCodec::Vp8 => Codec::Vp8,
    });
    PeerConfig {
        addresses: args.media.iter().map(ToString::to_string).collect(),
        annotated_codecs: codecs.collect(),
    }
}

pub fn admission(args: &WorkerArgs, recognition: &Recognition) -> Admission {
    // Of the processors those that a container's quota leaves.
    let capacity = Capacity { cores: cores() as f64, lanes: recognition.lanes() as f64 };
    let measured = Measured { capacity, min_rate: args.min_rate };
    let measured = (args.admit == Admit::Headroom).then_some(measured);
    Admission { max_sessions: args.max_sessions, measured }
}

/// What answers inference requests on this worker.
pub fn oip(recognition: &Recognition, worker: &Arc<Worker>, metrics: &Arc<Metrics>) -> Arc<Oip> {
    let worker = Arc::clone(worker);
    Arc::new(Oip {
        runner: Runner::new(recognition.handle(), recognition.models(), recognition.lanes()),
        metrics: Arc::clone(metrics),
        is_ready: Box::new(move || !worker.status().draining),
    })
}

/// Connections to a worker's open inference address.
const OPEN_CONNECTIONS: usize = 1024;

/// Serves inference requests to whoever reaches `listener`, until told to stop.
pub async fn serve_openly(listener: TcpListener, oip: Arc<Oip>, stop: &Stop) -> anyhow::Result<()> {
    let server = Server {
        tls: None,
        // A proxy's connections are many people's, and there is nobody to tell it from them.
        connections: ConnectionSettings { total: OPEN_CONNECTIONS, per_address: Some(OPEN_CONNECTIONS) },
        limits: Arc::new(Limits::new(&LimitSettings::default())),
        metrics: Arc::clone(&oip.metrics),
        router: open_router(oip),
    };
    stop.serve_front(listener, server).await
}
