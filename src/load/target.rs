//! The service that synthetic clients visit: its address, its TLS, the token that opens it.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Body, Frame};
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Error as WebSocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// No answer by then is none.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of an answer that are read at most.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// A signalling socket.
pub type Socket = WebSocketStream<Connection>;

/// Why the service could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("{0:?} is not the address of a service, such as http://127.0.0.1:8080")]
    Address(String),
    #[error("{0} cannot be resolved")]
    Unresolved(String, #[source] std::io::Error),
    #[error("{0} cannot be connected to")]
    Unreachable(SocketAddr, #[source] std::io::Error),
    #[error("{0} did not answer in time")]
    Silent(SocketAddr),
    #[error("TLS with {host} failed")]
    Tls {
        host: String,
        #[source]
        source: std::io::Error,
    },
    #[error("the exchange broke off")]
    Broken(#[from] hyper::Error),
    #[error("the answer broke off or is larger than {MAX_ANSWER_BYTES} bytes")]
    Answer(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the session was refused with status {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("the session's socket could not be opened")]
    Socket(#[source] Box<WebSocketError>),
}

/// A service and what is needed to be let in.
#[derive(Clone, Debug)]
pub struct Target {
    pub address: SocketAddr,
    host: String,
    authority: String,
    tls: Option<Arc<ClientConfig>>,
    bearer: Option<HeaderValue>,
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        let (host, authority) = (address.ip().to_string(), address.to_string());
        Self { address, host, authority, tls: None, bearer: None }
    }
}

impl Target {
    /// The service at `url`: http, https, ws or wss; its path does not count.
    pub async fn find(
        url: &str,
        token: Option<&str>,
        tls: impl FnOnce() -> Result<Arc<ClientConfig>, super::tls::TlsError>,
    ) -> anyhow::Result<Self> {
        let wrong = || TargetError::Address(url.to_owned());
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("http" | "ws") => false,
            Some("https" | "wss") => true,
            _ => return Err(wrong().into()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let address = resolve(&host, port).await?;
        let bearer = token.map(|token| HeaderValue::try_from(format!("Bearer {token}"))).transpose()?;
        let tls = if is_tls { Some(tls()?) } else { None };
        Ok(Self { address, host, authority: authority.as_str().to_owned(), tls, bearer })
    }

    /// How people would write it.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls.is_some() { "https" } else { "http" }, self.authority)
    }

    async fn connect(&self) -> Result<Connection, TargetError> {
        let address = self.address;
        let stream = timeout(CONNECT_LIMIT, TcpStream::connect(address)).await;
        let stream = stream
            .map_err(|_| TargetError::Silent(address))?
            .map_err(|source| TargetError::Unreachable(address, source))?;
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return Ok(Connection::Plain(stream)) };
        let failed = |source| TargetError::Tls { host: self.host.clone(), source };
        let name =
            ServerName::try_from(self.host.clone()).map_err(|error| failed(std::io::Error::other(error)))?;
        let handshake = TlsConnector::from(Arc::clone(tls)).connect(name, stream);
        let stream = timeout(CONNECT_LIMIT, handshake).await.map_err(|_| TargetError::Silent(address))?;
        Ok(Connection::Tls(Box::new(stream.map_err(failed)?)))
    }

    /// Opens a signalling socket, for a new session or with the token of one that is to go on.
    pub async fn socket(&self, resume: Option<&str>) -> Result<Socket, TargetError> {
        let query = resume.map(|token| format!("?resume={token}")).unwrap_or_default();
        let broken = |source| TargetError::Socket(Box::new(source));
        let url = format!("ws://{}/api/session{query}", self.authority);
        let mut request = url.into_client_request().map_err(broken)?;
        if let Some(bearer) = &self.bearer {
            request.headers_mut().insert(AUTHORIZATION, bearer.clone());
        }
        let stream = self.connect().await?;
        let opening = tokio_tungstenite::client_async(request, stream);
        match timeout(CONNECT_LIMIT, opening).await {
            Err(_) => Err(TargetError::Silent(self.address)),
            Ok(Ok((socket, _))) => Ok(socket),
            Ok(Err(WebSocketError::Http(response))) => {
                let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
                let body = body.chars().take(200).collect();
                Err(TargetError::Refused { status: response.status().as_u16(), body })
            }
            Ok(Err(source)) => Err(broken(source)),
        }
    }

    /// One HTTP exchange on a connection of its own.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Bytes,
    ) -> Result<Response<Bytes>, TargetError> {
        self.exchange(method, path, headers, Full::new(body)).await
    }

    /// The same with a body of several pieces, which need not lie together in memory.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        pieces: Vec<Bytes>,
    ) -> Result<Response<Bytes>, TargetError> {
        let length = pieces.iter().map(Bytes::len).sum::<usize>().to_string();
        let headers = [headers, &[("content-length", length.as_str())]].concat();
        let frames = pieces.into_iter().map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
        let body = StreamBody::new(futures_util::stream::iter(frames));
        self.exchange(method, path, &headers, body).await
    }

    async fn exchange<B>(
        &self,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: B,
    ) -> Result<Response<Bytes>, TargetError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: std::error::Error + Send + Sync + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(self.connect().await?)).await?;
        // Ends by itself with the exchange.
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if let Some(bearer) = &self.bearer {
            request = request.header(AUTHORIZATION, bearer);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).map_err(|error| TargetError::Answer(Box::new(error)))?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(TargetError::Answer)?;
        Ok(Response::from_parts(head, body.to_bytes()))
    }

    /// The local address that packets to the service leave from.
    pub async fn local_ip(&self) -> std::io::Result<IpAddr> {
        local_ip_towards(self.address).await
    }
}

/// The local address that the kernel would send from; nothing is sent to find out.
async fn local_ip_towards(address: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket.local_addr()?.ip())
}

/// The first address of a host, IPv4 before IPv6: `localhost` is both, and services listen on the former.
pub async fn resolve(host: &str, port: u16) -> Result<SocketAddr, TargetError> {
    let unresolved = |source| TargetError::Unresolved(host.to_owned(), source);
    let mut found: Vec<SocketAddr> = lookup_host((host, port)).await.map_err(unresolved)?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| unresolved(std::io::ErrorKind::NotFound.into()))
}

/// A TCP connection, with TLS or without.
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::tls::{self, Trust};

    #[tokio::test]
    async fn addresses_are_read_as_people_write_them() {
        let find = async |url: &str| {
            let found = Target::find(url, None, || tls::client(Trust::Anybody)).await;
            found.map(|target| (target.url(), target.address.to_string())).map_err(|error| error.to_string())
        };
        for (url, expected, address) in [
            ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("ws://127.0.0.1", "http://127.0.0.1", "127.0.0.1:80"),
            ("wss://[::1]:9/api/session", "https://[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(find(url).await, Ok((expected.into(), address.into())), "{url}");
        }
        for url in ["", "127.0.0.1:8080", "ftp://127.0.0.1", "http://", "http:///x"] {
            assert!(find(url).await.is_err_and(|error| error.contains("not the address")), "{url}");
        }
    }
}
