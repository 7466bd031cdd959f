//! A client's bytes on a connection to the front: every route, header, query and body that strangers may write.
//!
//! There are no workers behind it, so that what would go to one is refused as `no_worker` after all of it was read.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

use super::texts::{ADMIN_SECRET, CLUSTER_TOKEN, SESSION_SECRET};
use crate::blobs::Blobs;
use crate::cluster::fleet::Fleet;
use crate::cluster::token::ClusterToken;
use crate::jobs::queue::{self, Queue};
use crate::jobs::service::Jobs;
use crate::models::registry::Registry;
use crate::shutdown::Inside;
use crate::signalling::auth::{Door, TokenKey};
use crate::signalling::limits::{LimitSettings, Limits};
use crate::signalling::models::Models;
use crate::signalling::room::Room;
use crate::signalling::router::{Front, router};
use crate::signalling::uploads::Videos;
use crate::telemetry::metrics::Metrics;

/// Bytes of one connection.
const MAX_BYTES: usize = 256 << 10;
/// Connections after which the store is emptied.
const STORE_TURNS: u32 = 2_000;

/// A front, and the folder of its store.
struct Stage {
    runtime: Runtime,
    router: axum::Router,
    _store: TempDir,
    turns: u32,
}

thread_local! {
    static STAGE: RefCell<Option<Stage>> = const { RefCell::new(None) };
}

impl Stage {
    fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let store = tempfile::tempdir().expect("a folder");
        let entered = runtime.enter();
        let token = ClusterToken::new(CLUSTER_TOKEN).expect("it is long enough");
        let metrics = Arc::new(Metrics::new());
        let blobs = Blobs::open(&store.path().display().to_string()).expect("a store");
        let models = Models::new(Registry::new(blobs.clone()));
        let queue = Queue::local(queue::Options::default());
        let jobs = Arc::new(Jobs::new(blobs, queue, Duration::from_secs(3600), Arc::clone(&metrics)));
        let key = |secret| TokenKey::new(secret).expect("it is long enough");
        let room = Room::of_mib(64);
        let front = Front {
            workers: Fleet::new(Vec::new(), token.clone()),
            session_key: token.session_key(),
            metrics,
            sockets: Inside::default(),
            room: room.clone(),
            relay: Arc::default(),
            models: Some(Arc::new(models)),
            videos: Some(Arc::new(Videos::new(
                jobs,
                MAX_BYTES as u64,
                room,
                tokio::sync::watch::channel(false).1,
            ))),
            readiness: Arc::new(|| Ok(())),
            ice: Arc::default(),
            door: Door::Keyed { session: key(SESSION_SECRET), admin: key(ADMIN_SECRET) },
            limits: Arc::new(Limits::new(&LimitSettings { rate_factor: 1_000, ..LimitSettings::default() })),
            has_open_metrics: false,
            is_strictly_https: false,
            allowed_origins: Arc::default(),
        };
        let router = router(front);
        drop(entered);
        Self { runtime, router, _store: store, turns: 0 }
    }

    fn serve(&self, data: &[u8]) -> Vec<u8> {
        let (mut client, server) = tokio::io::duplex(MAX_BYTES * 2);
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(SocketAddr::from((Ipv4Addr::LOCALHOST, 40_000))));
            let mut router = router.clone();
            async move { Ok::<_, Infallible>(router.call(request).await.unwrap_or_else(|never| match never {})) }
        });
        let connection = http1::Builder::new()
            .max_headers(100)
            .max_buf_size(32 << 10)
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades();
        let talk = async {
            let _ = client.write_all(data).await;
            let _ = client.shutdown().await;
            let mut answer = Vec::new();
            let _ = client.read_to_end(&mut answer).await;
            answer
        };
        self.runtime.block_on(async { tokio::join!(connection, talk).1 })
    }
}

pub fn http(data: &[u8]) {
    if data.len() > MAX_BYTES {
        return;
    }
    STAGE.with_borrow_mut(|stage| {
        let stage = match stage {
            Some(stage) if stage.turns < STORE_TURNS => stage,
            stage => stage.insert(Stage::new()),
        };
        stage.turns += 1;
        let answer = stage.serve(data);
        let status = answer.get(9..12).unwrap_or_default();
        assert_ne!(status, b"500", "{}", String::from_utf8_lossy(&answer));
    });
}
