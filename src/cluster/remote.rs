//! A worker as the front sees it: an address, a token and the calls of its control API.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::{Method, StatusCode};
use hyper_util::client::legacy;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::connections::{self, Connections};
use super::protocol::{MAX_MESSAGE_BYTES, PictureFault, PredictOptions, SessionTerms, WorkerStatus};
use super::token::ClusterToken;
use crate::ids::ResumeToken;

/// The path of the control API that opens a session and carries its signalling.
pub const SESSION_PATH: &str = "/control/v1/session";
/// The path of the control API that says how loaded the worker is.
pub const STATUS_PATH: &str = "/control/v1/status";

/// The path of the control API that recognises a picture.
pub const PREDICT_PATH: &str = "/control/v1/predict";

/// What is said to workers beside pictures.
pub(super) const JSON: &str = "application/json";

/// Bytes: what a worker says of itself is no longer.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// How long a worker may take to begin its answer to a picture, its turn included. One whose machine stands still accepts
/// connections all the same, and would be waited for without end.
const PICTURE_LIMIT: Duration = Duration::from_secs(60);

/// Bytes: no refusal of a worker is longer.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;

/// A worker that has not answered by then is not there.
const STATUS_LIMIT: Duration = Duration::from_secs(1);
const OPEN_LIMIT: Duration = Duration::from_secs(2);

/// Why a worker did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("every place is taken")]
    Full { retry_after_s: u32 },
    #[error("the worker does not know this session")]
    UnknownSession,
    #[error("no worker can be reached")]
    NoWorker,
    #[error("the worker at {address} cannot be reached: {source}")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the worker at {address} did not answer in time")]
    Silent { address: SocketAddr },
    #[error("the worker at {address} has another cluster token")]
    WrongToken { address: SocketAddr },
    #[error("the worker at {address} answered {status}")]
    Refused { address: SocketAddr, status: u16 },
}

/// Why a worker did not recognise a picture.
#[derive(Debug, thiserror::Error)]
pub enum PredictError {
    #[error("the worker refused the picture: {}", fault.message)]
    Refused { fault: PictureFault, retry_after_s: u32 },
    #[error("the worker at {address} did not answer in time")]
    Silent { address: SocketAddr },
    #[error("the exchange with the worker at {address} failed")]
    Broken { address: SocketAddr, source: legacy::Error },
    #[error("the worker at {address} answered {status}, unreadably")]
    Unreadable { address: SocketAddr, status: u16 },
}

/// A worker's control API.
#[derive(Clone, Debug)]
pub struct Remote {
    pub address: SocketAddr,
    /// Proves to the worker that a front of its own cluster is asking.
    pub token: ClusterToken,
    /// Shared by those of a [`Fleet`](super::fleet::Fleet).
    pub(super) connections: Connections<Full<Bytes>>,
}

/// The signalling of one session, between front and worker.
pub type SessionSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The worker at the other end, while there is one.
pub fn peer_address(socket: &SessionSocket) -> Option<SocketAddr> {
    match socket.get_ref() {
        MaybeTlsStream::Plain(stream) => stream.peer_addr().ok(),
        _ => None,
    }
}

impl Remote {
    /// The worker at `address`, over connections of its own.
    pub fn new(address: SocketAddr, token: ClusterToken) -> Self {
        Self { address, token, connections: connections::none() }
    }

    /// Sends a request of the control API, and gives what the answer begins with.
    ///
    /// Dropping the future, or the answer's body before its end, closes the connection, by which the worker knows that
    /// nobody waits any longer.
    pub(super) async fn send(
        &self,
        method: Method,
        path_and_query: &str,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Result<http::Response<Incoming>, legacy::Error> {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("http://{}{path_and_query}", self.address))
            .header(http::header::AUTHORIZATION, self.token.bearer())
            .header(http::header::CONTENT_TYPE, content_type)
            .body(Full::new(body.into()))
            .expect("an address, a path of ours and a token of visible characters make a request");
        self.connections.request(request).await
    }

    /// Opens a session within these terms.
    pub async fn open_session(&self, terms: &SessionTerms) -> Result<SessionSocket, RemoteError> {
        self.open_socket(&format!("?{}", terms.to_query())).await
    }

    /// Attaches to a session that lives there.
    pub async fn resume_session(&self, token: &ResumeToken) -> Result<SessionSocket, RemoteError> {
        self.open_socket(&format!("?resume={token}")).await
    }

    async fn open_socket(&self, query: &str) -> Result<SessionSocket, RemoteError> {
        let address = self.address;
        let mut request = format!("ws://{address}{SESSION_PATH}{query}")
            .into_client_request()
            .map_err(|source| self.unreachable(source))?;
        let bearer = http::HeaderValue::try_from(self.token.bearer())
            .expect("a cluster token has visible characters only");
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);

        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let connecting = tokio_tungstenite::connect_async_with_config(request, Some(limits), true);
        match timeout(OPEN_LIMIT, connecting).await {
            Err(_) => Err(RemoteError::Silent { address }),
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(WebSocketError::Http(response))) => Err(match response.status() {
                StatusCode::SERVICE_UNAVAILABLE => {
                    RemoteError::Full { retry_after_s: retry_after(response.headers()) }
                }
                status => self.refused(status),
            }),
            Ok(Err(source)) => Err(self.unreachable(source)),
        }
    }

    /// Asks how loaded the worker is.
    pub async fn status(&self) -> Result<WorkerStatus, RemoteError> {
        self.look_up(STATUS_PATH).await
    }

    /// Asks for what lies at `path`, a short answer in JSON.
    pub(super) async fn look_up<T: DeserializeOwned>(&self, path: &str) -> Result<T, RemoteError> {
        let answer = timeout(STATUS_LIMIT, self.get(path)).await;
        let body = answer.unwrap_or(Err(RemoteError::Silent { address: self.address }))?;
        serde_json::from_slice(&body).map_err(|source| self.unreachable(source))
    }

    async fn get(&self, path: &str) -> Result<Bytes, RemoteError> {
        let answer = self.send(Method::GET, path, JSON, Bytes::new()).await;
        let response = answer.map_err(|source| self.unreachable(source))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(|source| self.unreachable(source))?.to_bytes())
    }

    pub(super) fn unreachable(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> RemoteError {
        RemoteError::Unreachable { address: self.address, source: source.into() }
    }

    pub(super) fn refused(&self, status: StatusCode) -> RemoteError {
        let address = self.address;
        match status {
            StatusCode::UNAUTHORIZED => RemoteError::WrongToken { address },
            StatusCode::NOT_FOUND => RemoteError::UnknownSession,
            status => RemoteError::Refused { address, status: status.as_u16() },
        }
    }

    /// Has a picture recognised; the answer's body is a report or the annotated picture.
    ///
    /// Dropping the future tells the worker that nobody waits any longer.
    ///
    /// # Errors
    /// [`PredictError::Refused`] with the worker's reason, or what kept it from answering.
    pub async fn predict(
        &self,
        options: &PredictOptions,
        picture: Bytes,
    ) -> Result<http::Response<Incoming>, PredictError> {
        let address = self.address;
        let path = format!("{PREDICT_PATH}?{}", options.to_query());
        let answer =
            timeout(PICTURE_LIMIT, self.send(Method::POST, &path, "application/octet-stream", picture)).await;
        let answer = answer.map_err(|_| PredictError::Silent { address })?;
        let response = answer.map_err(|source| PredictError::Broken { address, source })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after_s = retry_after(response.headers());
        let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES).collect().await;
        let fault = body.ok().and_then(|body| serde_json::from_slice(&body.to_bytes()).ok());
        let unreadable = PredictError::Unreadable { address, status: status.as_u16() };
        Err(fault.map_or(unreadable, |fault| PredictError::Refused { fault, retry_after_s }))
    }
}

/// Whether a request to the control API carries `token` as its bearer token.
pub fn is_authorised(headers: &http::HeaderMap, token: &ClusterToken) -> bool {
    let given = headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    given.is_some_and(|given| token.is_shown_by(given))
}

pub(super) fn retry_after(headers: &http::HeaderMap) -> u32 {
    const DEFAULT_S: u32 = 3;
    let value = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_S)
}
