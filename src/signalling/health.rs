//! Probes and metrics.

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::router::Front;

/// The process answers.
pub async fn live() -> &'static str {
    "ok\n"
}

/// New sessions would be taken.
pub async fn ready(State(front): State<Front>) -> Response {
    match (front.readiness)() {
        Ok(()) => "ready\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response(),
    }
}

pub async fn metrics(State(front): State<Front>) -> Response {
    let census = front.workers.census();
    let states = [
        ("admitting", census.admitting),
        ("full", census.full),
        ("draining", census.draining),
        ("unreachable", census.unreachable),
    ];
    for (state, count) in states {
        front.metrics.workers.with_label_values(&[state]).set(count as i64);
    }
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, front.metrics.render()).into_response()
}
