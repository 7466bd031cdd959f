//! A worker as the front sees it: an address, a token and the calls of its control API.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use super::protocol::MAX_MESSAGE_BYTES;

/// The path of the control API that opens a session and carries its signalling.
pub const SESSION_PATH: &str = "/control/v1/session";

/// Why a worker did not take a session.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    #[error("the worker at {address} is full")]
    Full { address: SocketAddr, retry_after_s: u32 },
    #[error("the worker does not know this session")]
    UnknownSession,
    #[error("the worker at {address} cannot be reached")]
    Unreachable {
        address: SocketAddr,
        #[source]
        source: Box<WebSocketError>,
    },
    #[error("the worker at {address} answered {status}")]
    Refused { address: SocketAddr, status: u16 },
}

/// A worker's control API.
#[derive(Clone, Debug)]
pub struct Remote {
    pub address: SocketAddr,
    /// Proves to the worker that a front of its own cluster is asking.
    pub token: String,
}

/// The signalling of one session, between front and worker.
pub type SessionSocket = WebSocketStream<MaybeTlsStream<TcpStream>>;

impl Remote {
    /// Opens a session, or with `resume` attaches to one that lives there.
    pub async fn open_session(&self, resume: Option<&str>) -> Result<SessionSocket, RemoteError> {
        let address = self.address;
        let query = resume.map(|token| format!("?resume={token}")).unwrap_or_default();
        let mut request = format!("ws://{address}{SESSION_PATH}{query}")
            .into_client_request()
            .map_err(|source| RemoteError::Unreachable { address, source: Box::new(source) })?;
        let bearer = http::HeaderValue::try_from(format!("Bearer {}", self.token))
            .expect("a cluster token is hexadecimal");
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);

        let limits = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        match tokio_tungstenite::connect_async_with_config(request, Some(limits), true).await {
            Ok((socket, _)) => Ok(socket),
            Err(WebSocketError::Http(response)) => Err(match response.status().as_u16() {
                404 => RemoteError::UnknownSession,
                503 => RemoteError::Full { address, retry_after_s: retry_after(response.headers()) },
                status => RemoteError::Refused { address, status },
            }),
            Err(source) => Err(RemoteError::Unreachable { address, source: Box::new(source) }),
        }
    }
}

fn retry_after(headers: &http::HeaderMap) -> u32 {
    const DEFAULT_S: u32 = 3;
    let value = headers.get(http::header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.parse().ok()).unwrap_or(DEFAULT_S)
}
