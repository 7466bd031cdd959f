//! Which STUN and TURN servers a page is to use.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::router::Front;

/// One entry as `RTCConfiguration.iceServers` takes it.
#[derive(Clone, Debug, Serialize)]
pub struct IceServer {
    pub urls: Vec<String>,
}

#[derive(Serialize)]
pub struct IceServers {
    ice_servers: Vec<IceServer>,
    ttl_seconds: u32,
}

/// How long a page may keep the answer.
const TTL_SECONDS: u32 = 600;

pub async fn list(State(front): State<Front>) -> Json<IceServers> {
    let stun = front.stun_servers.iter().map(|url| IceServer { urls: vec![url.clone()] });
    Json(IceServers { ice_servers: stun.collect(), ttl_seconds: TTL_SECONDS })
}
