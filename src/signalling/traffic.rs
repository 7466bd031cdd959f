//! Traffic over HTTP: which versions the slots of recognition use, for whom, and what that has come to.
//!
//! Whoever changes a traffic says which revision they saw, in `If-Match` or in the body, and is told by a 409 when there is
//! a newer one; workers, which roll versions back, write the same way.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::Grant;
use super::error::ApiError;
use super::models::{ModelsError, models};
use super::router::Front;
use crate::cluster::figures::{ModelFigures, Role};
use crate::models::catalogue::MODELS;
use crate::models::registry::{Registry, RegistryError};
use crate::models::traffic::{Candidate, ModelVersion, Slot, Traffic, TrafficError, Wish};

/// Bytes of a request; a traffic with all variants has about one.
const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Characters of a reason.
const MAX_WHY: usize = 200;
/// Writes that may be lost to others who name no revision either.
const MAX_TRIES: u32 = 8;

const NO_STORE: [(HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// What anybody may see who may open sessions.
pub(super) fn reading() -> Router<Front> {
    Router::new()
        .route("/api/traffic", get(list))
        .route("/api/traffic/{slot}", get(read))
        .route("/api/traffic/{slot}/figures", get(figures))
}

/// What changes something.
pub(super) fn administering() -> Router<Front> {
    Router::new()
        .route("/api/traffic/{slot}", put(write).delete(remove))
        .route("/api/traffic/{slot}/promote", post(promote))
        .route("/api/traffic/{slot}/rollback", post(roll_back))
        .route("/api/models/{name}/traffic", put(write_by_model))
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
}

#[derive(Serialize)]
struct TrafficList {
    traffic: Vec<Traffic>,
    /// Slot → `name@version` that those in no share are served by now.
    serving: BTreeMap<String, String>,
    /// `name@version` → why a worker could not load it.
    not_loaded: BTreeMap<String, String>,
}

/// `GET /api/traffic`
async fn list(State(front): State<Front>) -> Result<Response, ApiError> {
    let traffics = models(&front)?.registry.traffics().await.map_err(ModelsError::from)?;
    let traffic = traffics.into_iter().map(|(traffic, _)| traffic).collect();
    let (serving, not_loaded) = (front.workers.serving(), front.workers.not_loaded());
    Ok((NO_STORE, Json(TrafficList { traffic, serving, not_loaded })).into_response())
}

/// `GET /api/traffic/{slot}`
async fn read(State(front): State<Front>, Path(slot): Path<String>) -> Result<Response, ApiError> {
    let slot = slot_of(&slot)?;
    let found = models(&front)?.registry.traffic(&slot).await.map_err(ModelsError::from)?;
    let (traffic, _) = found.ok_or(ModelsError::NoTraffic(slot))?;
    Ok(answer(&traffic))
}

#[derive(Serialize)]
struct FiguresView {
    slot: Slot,
    versions: Vec<VersionFigures>,
}

/// A version's figures on all workers together.
#[derive(Serialize)]
struct VersionFigures {
    model: String,
    role: Role,
    /// Since it was loaded.
    runs: u64,
    errors: u64,
    /// Of the latest runs.
    p50_ms: Option<f32>,
    p95_ms: Option<f32>,
    /// Now.
    sessions: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    agreement: Option<AgreementView>,
}

#[derive(Serialize)]
struct AgreementView {
    /// 0 to 1; none where nothing was found by either.
    f1: Option<f32>,
    pictures: u64,
}

impl From<ModelFigures> for VersionFigures {
    fn from(figures: ModelFigures) -> Self {
        let ModelFigures { model, role, runs, errors, sessions, times, agreement, .. } = figures;
        let (p50_ms, p95_ms) = (times.quantile_ms(0.5), times.quantile_ms(0.95));
        let view = AgreementView { f1: agreement.f1(), pictures: agreement.pictures };
        let agreement = (role == Role::Shadow).then_some(view);
        Self { model, role, runs, errors, p50_ms, p95_ms, sessions, agreement }
    }
}

/// `GET /api/traffic/{slot}/figures`
async fn figures(State(front): State<Front>, Path(slot): Path<String>) -> Result<Response, ApiError> {
    let slot = slot_of(&slot)?;
    let figures = front.workers.figures(&slot.name()).await;
    let versions = figures.into_iter().map(VersionFigures::from).collect();
    Ok((NO_STORE, Json(FiguresView { slot, versions })).into_response())
}

/// `PUT /api/traffic/{slot}`
async fn write(
    State(front): State<Front>,
    grant: Grant,
    Path(slot): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let slot = slot_of(&slot)?;
    let wish: Wish = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    put_wish(&front, &grant, slot, &headers, wish).await
}

/// `PUT /api/models/{name}/traffic`: the same, where a bare number is a version of that name.
async fn write_by_model(
    State(front): State<Front>,
    grant: Grant,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let mut json: Value = serde_json::from_slice(&body).map_err(|error| unreadable(&error))?;
    name_versions(&mut json, &name);
    let wish: Wish = serde_json::from_value(json).map_err(|error| unreadable(&error))?;
    let slot = match (&wish.slot, &wish.stable) {
        (Some(slot), _) => slot.clone(),
        (None, Some(stable)) => {
            let registry = &models(&front)?.registry;
            let manifest = registry.read(&stable.name, stable.version).await.map_err(ModelsError::from)?;
            let named = || ApiError::InvalidOption { reason: "name the slot: its task does not".into() };
            Slot::of(manifest.task).ok_or_else(named)?
        }
        (None, None) => return Err(ApiError::InvalidOption { reason: "name a stable version".into() }),
    };
    put_wish(&front, &grant, slot, &headers, wish).await
}

/// Makes `name@3` of 3 wherever a version is named.
fn name_versions(json: &mut Value, name: &str) {
    let name_one = |value: &mut Value| {
        if let Some(version) = value.as_u64() {
            *value = format!("{name}@{version}").into();
        }
    };
    json.get_mut("stable").into_iter().for_each(name_one);
    for share in ["canary", "shadow"] {
        json.get_mut(share).and_then(|share| share.get_mut("model")).into_iter().for_each(name_one);
    }
    let variants = json.get_mut("variants").and_then(Value::as_array_mut).into_iter().flatten();
    variants.filter_map(|variant| variant.get_mut("model")).for_each(name_one);
}

async fn put_wish(
    front: &Front,
    grant: &Grant,
    slot: Slot,
    headers: &HeaderMap,
    wish: Wish,
) -> Result<Response, ApiError> {
    if wish.slot.as_ref().is_some_and(|named| *named != slot) {
        return Err(ApiError::InvalidOption { reason: format!("the body's slot is not {slot}") });
    }
    let revision = revision_of(headers, wish.revision)?;
    let why = reason(grant, None)?;
    change(front, &slot, revision, |before| {
        let wished = Traffic::wished(slot.clone(), before, wish.clone(), &why, now_s());
        Ok(wished.map_err(ModelsError::Traffic)?)
    })
    .await
}

/// `DELETE /api/traffic/{slot}`: the slot uses its own model again.
async fn remove(
    State(front): State<Front>,
    Path(slot): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ApiError> {
    let slot = slot_of(&slot)?;
    let registry = &models(&front)?.registry;
    let found = registry.traffic(&slot).await.map_err(ModelsError::from)?;
    let (traffic, _) = found.ok_or_else(|| ModelsError::NoTraffic(slot.clone()))?;
    if revision_of(&headers, None)?.is_some_and(|revision| revision != traffic.revision) {
        return Err(changed(&slot));
    }
    registry.remove_traffic(&slot).await.map_err(ModelsError::from)?;
    tracing::info!(%slot, "a traffic was removed");
    Ok(StatusCode::NO_CONTENT)
}

/// What a promotion or a rollback may say.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    /// What is promoted; without it the canary, or the shadow where there is none.
    from: Option<Candidate>,
    why: Option<String>,
    revision: Option<u64>,
}

impl Step {
    fn read(body: &Bytes) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(body).map_err(|error| unreadable(&error))
    }
}

/// `POST /api/traffic/{slot}/promote`
async fn promote(
    State(front): State<Front>,
    grant: Grant,
    Path(slot): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (slot, step) = (slot_of(&slot)?, Step::read(&body)?);
    let why = reason(&grant, step.why)?;
    advance(&front, &slot, revision_of(&headers, step.revision)?, |traffic| {
        let only_shadow = traffic.canary.is_none() && traffic.shadow.is_some();
        let first = if only_shadow { Candidate::Shadow } else { Candidate::Canary };
        traffic.promote(step.from.unwrap_or(first), &why, now_s())
    })
    .await
}

/// `POST /api/traffic/{slot}/rollback`
async fn roll_back(
    State(front): State<Front>,
    grant: Grant,
    Path(slot): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let (slot, step) = (slot_of(&slot)?, Step::read(&body)?);
    if step.from.is_some() {
        return Err(ApiError::InvalidOption { reason: "a rollback has no from".into() });
    }
    let why = reason(&grant, step.why)?;
    advance(&front, &slot, revision_of(&headers, step.revision)?, |traffic| traffic.roll_back(&why, now_s()))
        .await
}

/// As [`change`], of a traffic that must be there.
async fn advance(
    front: &Front,
    slot: &Slot,
    revision: Option<u64>,
    step: impl Fn(&mut Traffic) -> Result<(), TrafficError>,
) -> Result<Response, ApiError> {
    change(front, slot, revision, |before| {
        let mut next = before.cloned().ok_or_else(|| ModelsError::NoTraffic(slot.clone()))?;
        step(&mut next).map_err(ModelsError::Traffic)?;
        Ok(next)
    })
    .await
}

/// Changes a slot's traffic from the one of `revision`, or from whatever there is.
async fn change(
    front: &Front,
    slot: &Slot,
    revision: Option<u64>,
    next: impl Fn(Option<&Traffic>) -> Result<Traffic, ApiError>,
) -> Result<Response, ApiError> {
    let registry = &models(front)?.registry;
    for _ in 0..MAX_TRIES {
        let found = registry.traffic(slot).await.map_err(ModelsError::from)?;
        let (before, version) = found.unzip();
        let seen = before.as_ref().map_or(0, |traffic| traffic.revision);
        if revision.is_some_and(|revision| revision != seen) {
            return Err(changed(slot));
        }
        let next = next(before.as_ref())?;
        check_models(front, registry, before.as_ref(), &next).await?;
        match registry.set_traffic(&next, version.as_ref()).await {
            Ok(_) => {
                tracing::info!(%slot, revision = next.revision, traffic = %next, "a traffic was changed");
                return Ok(answer(&next));
            }
            Err(RegistryError::TrafficChanged { .. }) if revision.is_none() => {}
            Err(error) => return Err(ModelsError::from(error).into()),
        }
    }
    Err(changed(slot))
}

/// Whether each version that was not there before is one that workers can have: an upload, or one of their own.
async fn check_models(
    front: &Front,
    registry: &Registry,
    before: Option<&Traffic>,
    next: &Traffic,
) -> Result<(), ApiError> {
    let is_new = |model: &&ModelVersion| !before.is_some_and(|before| before.models().any(|m| m == *model));
    for model in next.models().filter(is_new) {
        let brought = MODELS.iter().find(|entry| entry.name == model.name);
        let task = match registry.read(&model.name, model.version).await {
            Ok(manifest) => Some(manifest.task),
            Err(RegistryError::UnknownVersion { .. }) if brought.is_some() => {
                brought.map(|entry| entry.manifest().task)
            }
            // A worker's own, that it was told to use.
            Err(RegistryError::UnknownVersion { .. })
                if front.workers.loaded().contains_key(&model.to_string()) =>
            {
                None
            }
            Err(RegistryError::UnknownVersion { .. }) => {
                return Err(ModelsError::UnknownVersion(model.clone()).into());
            }
            Err(error) => return Err(ModelsError::from(error).into()),
        };
        if let (Some(is), Some(wanted)) = (task, next.slot.task())
            && is != wanted
        {
            let (model, slot) = (model.clone(), next.slot.clone());
            return Err(ModelsError::OtherTask { model, is: is.name(), slot }.into());
        }
    }
    Ok(())
}

fn answer(traffic: &Traffic) -> Response {
    let revision = [(header::ETAG, format!("\"{}\"", traffic.revision))];
    (NO_STORE, revision, Json(traffic)).into_response()
}

fn slot_of(text: &str) -> Result<Slot, ApiError> {
    Ok(text.parse().map_err(ModelsError::Traffic)?)
}

fn changed(slot: &Slot) -> ApiError {
    ModelsError::from(RegistryError::TrafficChanged { slot: slot.to_string() }).into()
}

fn unreadable(error: &serde_json::Error) -> ApiError {
    ApiError::BodyUnreadable { reason: error.to_string() }
}

/// The revision that the request was made of, by `If-Match`, which is a revision in quotes, or by the body.
fn revision_of(headers: &HeaderMap, body: Option<u64>) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(body) };
    let text = value.to_str().unwrap_or_default().trim();
    if text == "*" {
        return Ok(body);
    }
    let revision = text.trim_start_matches("W/").trim_matches('"').parse();
    let wrong = |_| ApiError::InvalidOption { reason: "If-Match is not a revision, as \"7\"".into() };
    revision.map(Some).map_err(wrong)
}

/// Who asked, and why, for the history.
fn reason(grant: &Grant, why: Option<String>) -> Result<String, ApiError> {
    let who = grant.subject.as_deref().unwrap_or("an admin");
    match why.map(|why| why.trim().to_owned()).filter(|why| !why.is_empty()) {
        Some(why) if why.chars().count() > MAX_WHY => {
            Err(ApiError::InvalidOption { reason: format!("why has more than {MAX_WHY} characters") })
        }
        Some(why) => Ok(format!("{why} ({who})")),
        None => Ok(format!("asked for by {who}")),
    }
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A traffic that was asked to be what it cannot be, for [`ModelsError`].
pub(super) fn status_of(error: &TrafficError) -> StatusCode {
    match error {
        TrafficError::NothingToPromote(_) | TrafficError::NothingToRollBack => StatusCode::CONFLICT,
        TrafficError::Slot(_) => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

pub(super) fn code_of(error: &TrafficError) -> &'static str {
    match error {
        TrafficError::NothingToPromote(_) => "nothing_to_promote",
        TrafficError::NothingToRollBack => "nothing_to_roll_back",
        TrafficError::Slot(_) => "unknown_slot",
        _ => "invalid_traffic",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn bare_numbers_are_versions_of_the_name() {
        let mut json = json!({
            "stable": 3,
            "canary": { "model": 4, "percent": 10 },
            "variants": [{ "model": 5, "attribute": "a", "equals": "b" }, { "model": "other@1" }, 7],
            "shadow": { "model": "other@2", "percent": 20 },
            "revision": 6,
        });
        name_versions(&mut json, "yolo");
        let expected = json!({
            "stable": "yolo@3",
            "canary": { "model": "yolo@4", "percent": 10 },
            "variants": [{ "model": "yolo@5", "attribute": "a", "equals": "b" }, { "model": "other@1" }, 7],
            "shadow": { "model": "other@2", "percent": 20 },
            "revision": 6,
        });
        assert_eq!(json, expected);
        for mut odd in [json!(null), json!([1]), json!({"canary": 3, "variants": {"a": 1}})] {
            name_versions(&mut odd, "yolo");
        }
    }

    #[test]
    fn revisions_are_read_of_the_header_or_the_body() {
        for (header, body, expected) in [
            (None, None, Some(None)),
            (None, Some(3), Some(Some(3))),
            (Some("\"7\""), Some(3), Some(Some(7))),
            (Some("7"), None, Some(Some(7))),
            (Some("W/\"7\""), None, Some(Some(7))),
            (Some("*"), Some(3), Some(Some(3))),
            (Some("\"x\""), None, None),
            (Some("\"-1\""), None, None),
        ] {
            let mut headers = HeaderMap::new();
            header.map(|text| headers.insert(header::IF_MATCH, HeaderValue::from_static(text)));
            assert_eq!(revision_of(&headers, body).ok(), expected, "{header:?}");
        }
    }

    #[test]
    fn reasons_name_who_asked() {
        let grant = |subject: Option<&str>| Grant { subject: subject.map(str::to_owned), ..Grant::default() };
        let of = |subject, why: Option<&str>| reason(&grant(subject), why.map(str::to_owned)).ok();
        assert_eq!(of(None, None).as_deref(), Some("asked for by an admin"));
        assert_eq!(of(Some("alice"), Some(" it is better ")).as_deref(), Some("it is better (alice)"));
        assert_eq!(of(None, Some(" ")).as_deref(), Some("asked for by an admin"));
        assert_eq!(of(None, Some(&"x".repeat(201))), None);
    }
}
