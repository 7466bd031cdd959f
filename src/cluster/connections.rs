//! HTTP connections to workers, kept for the next request.

use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// How long a worker may take to accept a connection.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// How long its machine may take to acknowledge what is sent on one that was kept: it may have gone without a word.
#[cfg(target_os = "linux")]
const ACKNOWLEDGE_LIMIT: Duration = Duration::from_secs(10);
/// How long a connection is kept that nobody uses: less than a worker keeps it.
const IDLE_LIMIT: Duration = Duration::from_secs(20);
/// Unused connections that are kept to one worker.
const MAX_IDLE: usize = 32;

/// The connections to every worker, for requests with bodies of one kind; clones share them.
pub(super) type Connections<B> = Client<HttpConnector, B>;

/// No connections yet.
pub(super) fn none<B>() -> Connections<B>
where
    B: Body<Data = Bytes> + Send,
{
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT_LIMIT));
    #[cfg(target_os = "linux")]
    connector.set_tcp_user_timeout(Some(ACKNOWLEDGE_LIMIT));
    // Head and body go out at once; without it a small body's end may wait for 40 ms.
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(MAX_IDLE)
        .build(connector)
}
