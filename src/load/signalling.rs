//! A synthetic browser's signalling socket, which its media outlives.

use std::pin::Pin;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::{Error as SocketError, Message};

use super::target::{Socket, Target, TargetError};

/// Between attempts to reopen the socket, as a page waits.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);

type Opening = Pin<Box<dyn Future<Output = Result<Box<Socket>, TargetError>> + Send>>;

/// The signalling of a session.
pub(super) enum Signalling {
    Open(Box<Socket>),
    /// Tries until a front takes it, or says that it never will.
    Reopening(Opening),
}

/// What came of waiting for a message.
pub(super) enum Received {
    Text(String),
    /// The socket has closed.
    Closed,
    /// No front takes the session back.
    Refused,
}

impl Signalling {
    /// The next message; waits while the socket is being reopened.
    pub(super) async fn next(&mut self) -> Received {
        loop {
            match self {
                Self::Open(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => return Received::Text(text.as_str().to_owned()),
                    Some(Ok(Message::Close(_)) | Err(_)) | None => return Received::Closed,
                    Some(Ok(_)) => {}
                },
                Self::Reopening(opening) => match opening.await {
                    Ok(socket) => *self = Self::Open(socket),
                    Err(_) => return Received::Refused,
                },
            }
        }
    }

    /// Begins to look for a front that knows the session; the first try is made at once, later ones after a pause.
    pub(super) fn reopen(target: Target, resume: String, is_first_try: bool) -> Self {
        Self::Reopening(Box::pin(async move {
            let mut wait = !is_first_try;
            loop {
                if std::mem::replace(&mut wait, true) {
                    tokio::time::sleep(REOPEN_PAUSE).await;
                }
                match target.socket(Some(&resume)).await {
                    Ok(socket) => return Ok(Box::new(socket)),
                    Err(refused @ TargetError::Refused { status: 400..=499, .. }) => return Err(refused),
                    Err(_) => {}
                }
            }
        }))
    }

    pub(super) async fn send(&mut self, text: &str) -> Result<(), SocketError> {
        match self {
            Self::Open(socket) => socket.send(Message::text(text)).await,
            Self::Reopening(_) => Ok(()),
        }
    }

    pub(super) async fn close(&mut self) {
        if let Self::Open(socket) = self {
            let _ = socket.close().await;
        }
    }
}
