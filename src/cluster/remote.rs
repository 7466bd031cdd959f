//! A worker as the front sees it: an address, a token and the calls of its control API.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::StatusCode;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::protocol::{MAX_MESSAGE_BYTES, WorkerStatus};
use super::token::ClusterToken;
use crate::ids::ResumeToken;

/// The path of the control API that opens a session and carries its signalling.
pub const SESSION_PATH: &str = "/control/v1/session";
/// The path of the control API that says how loaded the worker is.
pub const STATUS_PATH: &str = "/control/v1/status";

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

/// A worker's control API.
#[derive(Clone, Debug)]
pub struct Remote {
    pub address: SocketAddr,
    /// Proves to the worker that a front of its own cluster is asking.
    pub token: ClusterToken,
}

/// The signalling of one session, between front and worker.
pub type SessionSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Remote {
    /// Opens a session, or with `resume` attaches to one that lives there.
    pub async fn open_session(&self, resume: Option<&ResumeToken>) -> Result<SessionSocket, RemoteError> {
        let address = self.address;
        let query = resume.map(|token| format!("?resume={token}")).unwrap_or_default();
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
        let answer = timeout(STATUS_LIMIT, self.get(STATUS_PATH)).await;
        let body = answer.unwrap_or(Err(RemoteError::Silent { address: self.address }))?;
        serde_json::from_slice(&body).map_err(|source| self.unreachable(source))
    }

    async fn get(&self, path: &str) -> Result<Bytes, RemoteError> {
        let stream = TcpStream::connect(self.address).await.map_err(|source| self.unreachable(source))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|source| self.unreachable(source))?;
        // Ends by itself when the sender is dropped.
        tokio::spawn(connection);
        let request = http::Request::get(path)
            .header(http::header::HOST, self.address.to_string())
            .header(http::header::AUTHORIZATION, self.token.bearer())
            .body(Empty::<Bytes>::new())
            .map_err(|source| self.unreachable(source))?;
        let response = sender.send_request(request).await.map_err(|source| self.unreachable(source))?;
        if response.status() != StatusCode::OK {
            return Err(self.refused(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_MESSAGE_BYTES).collect().await;
        Ok(body.map_err(|source| self.unreachable(source))?.to_bytes())
    }

    fn unreachable(&self, source: impl Into<Box<dyn Error + Send + Sync>>) -> RemoteError {
        RemoteError::Unreachable { address: self.address, source: source.into() }
    }

    fn refused(&self, status: StatusCode) -> RemoteError {
        let address = self.address;
        match status {
            StatusCode::UNAUTHORIZED => RemoteError::WrongToken { address },
            StatusCode::NOT_FOUND => RemoteError::UnknownSession,
            status => RemoteError::Refused { address, status: status.as_u16() },
        }
    }
}

fn retry_after(headers: &http::HeaderMap) -> u32 {
    const DEFAULT_S: u32 = 3;
    let value = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_S)
}
