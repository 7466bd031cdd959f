//! Requests that a front hands on to a worker as they come in, over connections that are kept.
//!
//! A body goes through as it arrives. What a worker answers is handed back whatever it says: only a worker that
//! cannot be reached is passed over for the next, as long as nothing of the body has gone out.

use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::http::{HeaderName, HeaderValue, Method, Request, Response, header};

use super::connections::{self, Connections};
use super::remote::Remote;

/// The tasks that the asker's token allows, comma-separated; all where it is not there. Of fronts only it is believed.
pub const TASKS_HEADER: HeaderName = HeaderName::from_static("vigie-tasks");

/// How long a worker may take from the request's first byte to its answer's.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);

/// Why no worker answered.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    #[error("no worker can be reached")]
    NoWorker,
    #[error("the worker did not answer in time")]
    Silent,
    #[error("the exchange with the worker broke off")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
}

/// The connections to every worker.
pub struct Relay<B> {
    client: Connections<Lent<B>>,
}

/// What is handed on.
pub struct Order<B> {
    pub method: Method,
    pub path_and_query: String,
    /// Beside these, the worker is shown the cluster token only.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub body: B,
}

impl<B> Default for Relay<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    fn default() -> Self {
        Self { client: connections::none() }
    }
}

impl<B> Relay<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    /// Hands `order` to the first of `workers` that can be reached.
    ///
    /// # Errors
    /// [`RelayError`] when none can, or it does not answer.
    pub async fn send(
        &self,
        workers: impl IntoIterator<Item = Remote>,
        order: Order<B>,
    ) -> Result<Response<Incoming>, RelayError> {
        let Order { method, path_and_query, headers, body } = order;
        let mut body = Lent::new(body);
        for worker in workers {
            let uri = format!("http://{}{path_and_query}", worker.address);
            let mut request = Request::new(body.lend());
            *request.method_mut() = method.clone();
            // Paths that came in over HTTP can go out over it.
            *request.uri_mut() = uri.parse().map_err(|error| RelayError::Broken(Box::new(error)))?;
            request.headers_mut().extend(headers.iter().cloned());
            let bearer = HeaderValue::try_from(worker.token.bearer())
                .expect("a cluster token has visible characters only");
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
            let answer = tokio::time::timeout(ANSWER_LIMIT, self.client.request(request)).await;
            match answer {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(error)) if error.is_connect() && body.is_whole() => {
                    tracing::warn!(worker = %worker.address, %error, "a worker cannot be reached");
                }
                Ok(Err(error)) => return Err(RelayError::Broken(Box::new(error))),
                Err(_) => return Err(RelayError::Silent),
            }
        }
        Err(RelayError::NoWorker)
    }
}

/// A body that can be lent again until somebody reads from it.
struct Lent<B> {
    body: Arc<Mutex<Option<B>>>,
    /// Once somebody does, it is here.
    own: Option<B>,
    hint: SizeHint,
}

impl<B: Body> Lent<B> {
    fn new(body: B) -> Self {
        let hint = body.size_hint();
        Self { body: Arc::new(Mutex::new(Some(body))), own: None, hint }
    }

    fn lend(&mut self) -> Self {
        Self { body: Arc::clone(&self.body), own: None, hint: self.hint }
    }

    fn lock(&self) -> MutexGuard<'_, Option<B>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_whole(&self) -> bool {
        self.lock().is_some()
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Lent<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if self.own.is_none() {
            let taken = self.lock().take();
            self.own = taken;
        }
        match &mut self.own {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.own {
            Some(body) => body.is_end_stream(),
            None => self.lock().as_ref().is_none_or(B::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.own.as_ref().map_or_else(|| self.hint, B::size_hint)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[tokio::test]
    async fn a_body_is_lent_until_it_is_read() {
        let mut lent = Lent::new(Full::new(Bytes::from_static(b"abc")));
        drop(lent.lend());
        assert!(lent.is_whole(), "nobody has read it");
        let second = lent.lend();
        assert_eq!(second.size_hint().exact(), Some(3));
        assert!(!second.is_end_stream());
        assert_eq!(second.collect().await.expect("it cannot fail").to_bytes(), "abc");
        assert!(!lent.is_whole());
    }
}
