//! The front's listener: accepts, holds everybody to limits and time-outs, and speaks HTTP/1.1 over TCP or TLS.
//!
//! HTTP/1.1 only: a page's WebSocket needs a connection of its own in any case.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::error::ApiError;
use super::limits::{Limits, Place, Places};
use crate::shutdown::Inside;
use crate::telemetry::metrics::Metrics;

/// How long a client may take for a TLS handshake, and for the head of a request; an idle connection is closed
/// after the latter too.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// How long a client may not take a byte of what it asked for.
const WRITE_LIMIT: Duration = Duration::from_secs(30);
/// Bytes and lines of a request's head.
const MAX_HEAD_BYTES: usize = 32 << 10;
const MAX_HEADERS: usize = 100;
/// After a failed accept, for lack of file descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Refused connections that are told so at a time; beyond, they are closed without a word.
const FAREWELLS: usize = 64;
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);
/// Seconds after which a client that was refused a connection may try again.
const RETRY_AFTER_S: u32 = 5;

/// How many connections there may be.
#[derive(Clone, Debug)]
pub struct ConnectionSettings {
    pub total: usize,
    /// Without it, more for who is on this machine.
    pub per_address: Option<usize>,
}

/// Everything that a listener needs to serve.
pub struct Server {
    pub router: Router,
    pub tls: Option<TlsAcceptor>,
    pub connections: ConnectionSettings,
    pub limits: Arc<Limits>,
    pub metrics: Arc<Metrics>,
}

impl Server {
    /// Serves until `stop` is true, then until the requests that are under way have their answers.
    pub async fn run(self, listener: TcpListener, mut stop: watch::Receiver<bool>) {
        let total = Arc::new(Semaphore::new(self.connections.total.min(Semaphore::MAX_PERMITS)));
        let places = Places::new(self.connections.per_address, 128, 1024);
        let farewells = Arc::new(Semaphore::new(FAREWELLS));
        let inside = Inside::default();
        let server = Arc::new(self);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = told(&mut stop) => break,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let address = peer.ip().to_canonical();
            let room = server.admit(&total, &places, address);
            let Some(room) = room else {
                server.metrics.refused("too_many_connections");
                if let (Ok(turn), None) = (Arc::clone(&farewells).try_acquire_owned(), &server.tls) {
                    tokio::spawn(refuse(stream, turn));
                }
                continue;
            };
            let (server, stop, present) = (Arc::clone(&server), stop.clone(), inside.enter());
            tokio::spawn(async move {
                server.serve(stream, SocketAddr::new(address, peer.port()), room, stop).await;
                drop(present);
            });
        }
        drop(listener);
        // The caller sets the limit.
        inside.emptied(Duration::MAX).await;
    }

    /// A connection's room, until dropped. A trusted proxy's connections are many people's.
    fn admit(&self, total: &Arc<Semaphore>, places: &Places, address: IpAddr) -> Option<Room> {
        let permit = Arc::clone(total).try_acquire_owned().ok()?;
        let place = match self.limits.is_proxy(address) {
            true => None,
            false => Some(places.enter(address)?),
        };
        Some(Room { _total: permit, _place: place })
    }

    async fn serve(&self, stream: TcpStream, peer: SocketAddr, room: Room, stop: watch::Receiver<bool>) {
        // Nagle's algorithm would hold an answer back for 40 ms.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.speak(stream, peer, room, stop).await };
        match tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream, peer, room, stop).await,
            Ok(Err(error)) => {
                self.metrics.refused("tls_handshake");
                tracing::debug!(%error, "a TLS handshake");
            }
            Err(_) => self.metrics.refused("tls_handshake_timed_out"),
        }
    }

    async fn speak<S>(&self, stream: S, peer: SocketAddr, room: Room, mut stop: watch::Receiver<bool>)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut stream = TimeoutStream::new(Roomed { stream, _room: room });
        stream.set_write_timeout(Some(WRITE_LIMIT));
        let router = self.router.clone();
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(peer));
            router.clone().call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_LIMIT)
            .max_buf_size(MAX_HEAD_BYTES)
            .max_headers(MAX_HEADERS)
            .serve_connection(TokioIo::new(Box::pin(stream)), service)
            .with_upgrades();
        let mut connection = std::pin::pin!(connection);
        let served = tokio::select! {
            served = connection.as_mut() => served,
            () = told(&mut stop) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        match served {
            Err(error) if error.is_timeout() => self.metrics.refused("request_timed_out"),
            Err(error) if error.is_parse() => self.metrics.refused("request_unreadable"),
            Err(error) => tracing::debug!(%error, "a connection"),
            Ok(()) => {}
        }
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|told| *told).await);
}

/// Says over a connection that is not taken why, before anything is read from it.
async fn refuse(mut stream: TcpStream, _turn: OwnedSemaphorePermit) {
    let refusing = async {
        let response = ApiError::TooManyConnections { retry_after_s: RETRY_AFTER_S }.into_response();
        let (parts, body) = response.into_parts();
        let mut text = format!("HTTP/1.1 {}\r\nconnection: close\r\n", parts.status).into_bytes();
        for (name, value) in &parts.headers {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        text.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
        text.extend(&body);
        stream.write_all(&text).await?;
        stream.shutdown().await?;
        // What is unread when a socket closes takes the answer back (RFC 9112 §9.6).
        let mut unread = [0; 1024];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(FAREWELL_LIMIT, refusing).await;
}

/// What a connection takes up, until dropped.
struct Room {
    _total: OwnedSemaphorePermit,
    _place: Option<Place>,
}

/// A stream that keeps its room for as long as it lives, as a WebSocket too.
struct Roomed<S> {
    stream: S,
    _room: Room,
}

impl<S: AsyncRead + Unpin> AsyncRead for Roomed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Roomed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
