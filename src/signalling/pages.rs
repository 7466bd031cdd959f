//! The pages, carried inside the binary.

use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use rust_embed::RustEmbed;

use super::error::ApiError;

#[derive(RustEmbed)]
#[folder = "static/"]
struct Static;

/// A file of `static/`; `/` is `index.html`, and pages go by their names without `.html`.
pub async fn serve(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = match uri.path().trim_start_matches('/') {
        "" => "index.html",
        "videos" => "videos.html",
        "models" => "models.html",
        "watch" => "watch.html",
        "docs" => "docs.html",
        path => path,
    };
    let Some(file) = Static::get(path) else { return ApiError::NotFound.into_response() };
    if method != Method::GET && method != Method::HEAD {
        return ([(header::ALLOW, "GET, HEAD")], ApiError::MethodNotAllowed).into_response();
    }
    let etag = format!(
        "\"{}\"",
        file.metadata.sha256_hash()[..8].iter().map(|b| format!("{b:02x}")).collect::<String>()
    );
    if headers.get(header::IF_NONE_MATCH).is_some_and(|value| value.as_bytes() == etag.as_bytes()) {
        return StatusCode::NOT_MODIFIED.into_response();
    }
    let content_type = file.metadata.mimetype().to_owned();
    // Pages and scripts belong together: always asked for, rarely sent again.
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::ETAG, etag),
        (header::CACHE_CONTROL, "no-cache".into()),
    ];
    (headers, file.data).into_response()
}
