//! A client of `/predict`: posts a picture, waits for the answer, and posts it again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::Method;
use hyper::header::RETRY_AFTER;
use serde_json::Value;

use super::target::Target;

/// The first frame of the built-in clip.
pub const BUILT_IN_PICTURE: &[u8] = include_bytes!("../../benches/data/pan.jpg");
/// The longest wait that is taken from a busy service, and the one where it names none.
const MAX_PAUSE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_secs(1);

/// What became of one client's pictures.
#[derive(Debug, Default)]
pub struct Posts {
    /// When each answer had come, and how long it took.
    pub answered: Vec<(Instant, Duration)>,
    /// Refusals by code, and what else went wrong.
    pub refused: BTreeMap<String, u32>,
}

/// Posts `picture` until `end`, as a well-behaved client that waits when it is told to.
pub async fn post(target: Target, picture: Bytes, end: Instant) -> Posts {
    let mut posts = Posts::default();
    while Instant::now() < end {
        let began = Instant::now();
        let posting = target.ask(Method::POST, "/predict", &[], picture.clone());
        let Ok(answer) = tokio::time::timeout_at(end.into(), posting).await else { break };
        let pause = match answer {
            Ok(answer) if answer.status().is_success() => {
                posts.answered.push((Instant::now(), began.elapsed()));
                continue;
            }
            Ok(answer) => {
                let code = serde_json::from_slice::<Value>(answer.body()).ok();
                let code = code.and_then(|body| body["error"]["code"].as_str().map(str::to_owned));
                let code = code.unwrap_or_else(|| answer.status().as_u16().to_string());
                *posts.refused.entry(code).or_default() += 1;
                let wait = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                wait.and_then(|value| value.parse().ok()).map_or(PAUSE, Duration::from_secs)
            }
            Err(_) => {
                *posts.refused.entry("unreachable".into()).or_default() += 1;
                PAUSE
            }
        };
        tokio::time::sleep_until((Instant::now() + pause.min(MAX_PAUSE)).min(end).into()).await;
    }
    posts
}
