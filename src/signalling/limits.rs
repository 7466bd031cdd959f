//! How much one address may ask for: requests a second, signalling sockets, connections, slow bodies.
//!
//! Who is on this machine gets much more, but not everything. An IPv6 address counts with its /64, since
//! a host has all of one (RFC 6177). Behind proxies that are trusted the address is the one that they forward.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Extensions, HeaderMap, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use governor::clock::{Clock, DefaultClock};
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use hyper::body::{Frame, SizeHint};
use ipnet::IpNet;
use tokio::time::{Instant, Sleep, sleep_until};

use super::error::ApiError;
use super::router::Front;

/// What is counted by itself, with what an address may do a second and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    /// Pages and everything that has no rate of its own.
    Request,
    /// New sessions, over WebSocket or WHIP.
    Session,
    /// A picture to recognise.
    Predict,
    /// A video to annotate, a model to add.
    Upload,
    WrongToken,
}

impl Rate {
    const ALL: [Self; 5] = [Self::Request, Self::Session, Self::Predict, Self::Upload, Self::WrongToken];

    /// Requests a second that go on, and those that may come at once.
    const fn quota(self) -> (u32, u32) {
        match self {
            // A page is some twenty files, and an office may have one address.
            Self::Request => (50, 200),
            Self::Session => (5, 30),
            Self::Predict => (20, 60),
            Self::Upload => (1, 20),
            Self::WrongToken => (1, 10),
        }
    }

    /// What a request counts as; probes count as nothing.
    fn of(route: &str, method: &Method) -> Option<Self> {
        match route {
            "/health" | "/livez" | "/readyz" | "/v2/health/live" | "/v2/health/ready" => None,
            "/api/session" => Some(Self::Session),
            "/whip" if method == Method::POST => Some(Self::Session),
            "/predict" => Some(Self::Predict),
            route if route.starts_with("/v2/models/") && method == Method::POST => Some(Self::Predict),
            "/api/videos" | "/api/uploads" | "/api/models/{name}" if method == Method::POST => {
                Some(Self::Upload)
            }
            _ => Some(Self::Request),
        }
    }
}

/// How much more an address of this machine may ask for.
const LOOPBACK_TIMES: u32 = 100;
/// Checks of one rate after which addresses that have been quiet are forgotten.
const SWEEP_AFTER: u32 = 1024;

/// Messages a second that go on, and those at once, on one signalling socket. An offer with its candidates is some
/// thirty.
const MESSAGES: (u32, u32) = (50, 200);

/// What an operator may choose.
#[derive(Clone, Debug)]
pub struct LimitSettings {
    /// By which every rate is multiplied.
    pub rate_factor: u32,
    pub sockets_per_address: Option<usize>,
    /// Proxies whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpNet>,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self { rate_factor: 1, sockets_per_address: None, trusted_proxies: Vec::new() }
    }
}

type AddressRates = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>;

/// The rates of every address.
pub struct Limits {
    near: Vec<AddressRates>,
    far: Vec<AddressRates>,
    checks: AtomicU32,
    /// The signalling sockets.
    pub sockets: Places,
    trusted_proxies: Vec<IpNet>,
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limits({:?})", self.sockets)
    }
}

impl Limits {
    pub fn new(settings: &LimitSettings) -> Self {
        let rates = |times: u32| {
            let limiter = |rate: Rate| {
                let (second, burst) = rate.quota();
                RateLimiter::hashmap(quota(second.saturating_mul(times), burst.saturating_mul(times)))
            };
            Rate::ALL.into_iter().map(limiter).collect()
        };
        let times = settings.rate_factor;
        Self {
            near: rates(times.saturating_mul(LOOPBACK_TIMES)),
            far: rates(times),
            checks: AtomicU32::new(0),
            sockets: Places::new(settings.sockets_per_address, 64, 1024),
            trusted_proxies: settings.trusted_proxies.clone(),
        }
    }

    /// Counts one; or says after how many seconds the next is let through.
    ///
    /// # Errors
    /// When the address has asked for too much.
    pub fn check(&self, rate: Rate, address: IpAddr) -> Result<(), u32> {
        let address = block(address);
        let rates = if address.is_loopback() { &self.near } else { &self.far };
        let limiter = &rates[rate as usize];
        if self.checks.fetch_add(1, Ordering::Relaxed) % SWEEP_AFTER == SWEEP_AFTER - 1 {
            self.near.iter().chain(&self.far).for_each(RateLimiter::retain_recent);
        }
        limiter.check_key(&address).map_err(|early| {
            let wait = early.wait_time_from(limiter.clock().now());
            u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1)
        })
    }

    /// Whether connections from there carry others' requests.
    pub fn is_proxy(&self, address: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|net| net.contains(&address.to_canonical()))
    }

    /// Who asks: the peer, or whom the last trusted proxy took the request from.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let forwarded = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let named: Vec<&str> = forwarded.flat_map(|value| value.split(',')).collect();
        for name in named.into_iter().rev() {
            let Ok(address) = name.trim().parse::<IpAddr>() else { break };
            if !self.is_proxy(client) {
                break;
            }
            client = address.to_canonical();
        }
        client
    }
}

fn quota(second: u32, burst: u32) -> Quota {
    let at_least_one = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
    Quota::per_second(at_least_one(second)).allow_burst(at_least_one(burst))
}

/// What counts as one address.
fn block(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from(u128::from(address) & !u128::from(u64::MAX)))
        }
        address => address,
    }
}

/// The rate of one socket's messages.
pub fn message_rate() -> RateLimiter<NotKeyed, InMemoryState, DefaultClock> {
    RateLimiter::direct(quota(MESSAGES.0, MESSAGES.1))
}

/// How many of something an address has at a time.
#[derive(Clone)]
pub struct Places {
    near: usize,
    far: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Places({} near, {} far)", self.near, self.far)
    }
}

impl Places {
    /// `chosen` holds for everybody; without it, `far` places, and `near` for who is on this machine.
    pub fn new(chosen: Option<usize>, far: usize, near: usize) -> Self {
        Self { near: chosen.unwrap_or(near), far: chosen.unwrap_or(far), taken: Arc::default() }
    }

    /// A place for `address` until dropped, or none when it has all that it may have.
    pub fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = block(address);
        let limit = if address.is_loopback() { self.near } else { self.far };
        let mut taken = self.taken.lock().expect("no code panics while it holds the places");
        let count = taken.entry(address).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { address, taken: Arc::clone(&self.taken) })
    }
}

/// One of an address's places.
#[derive(Debug)]
pub struct Place {
    address: IpAddr,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().expect("no code panics while it holds the places");
        if let Some(count) = taken.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// Who asks, as limits see it.
#[derive(Clone, Copy, Debug)]
pub struct ClientAddress(pub IpAddr);

impl ClientAddress {
    /// Of a request that has passed [`limit`].
    pub fn of(extensions: &Extensions) -> IpAddr {
        let unknown = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        extensions.get::<Self>().map_or(unknown, |address| address.0)
    }
}

/// Finds out who asks, refuses who asks too often, and holds bodies to a pace.
pub async fn limit(State(front): State<Front>, mut request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0.ip());
    let client = front.limits.client(peer.unwrap_or(Ipv6Addr::UNSPECIFIED.into()), request.headers());
    request.extensions_mut().insert(ClientAddress(client));
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    if let Some(rate) = Rate::of(route, request.method())
        && let Err(retry_after_s) = front.limits.check(rate, client)
    {
        return ApiError::TooManyRequests { retry_after_s }.into_response();
    }
    next.run(request.map(|body| Body::new(Paced::new(body)))).await
}

/// How long a body may take whatever its size, and the bytes a second that it needs beyond.
const BODY_GRACE: Duration = Duration::from_secs(20);
const BODY_BYTES_PER_SECOND: u64 = 4 << 10;

/// A body came in slower than any network that a picture or a video is sent over.
#[derive(Debug, thiserror::Error)]
#[error("the body came in too slowly")]
pub struct BodyTooSlow;

/// A body that ends with [`BodyTooSlow`] when it trickles.
struct Paced {
    body: Body,
    began: Instant,
    bytes: u64,
    deadline: Pin<Box<Sleep>>,
}

impl Paced {
    fn new(body: Body) -> Self {
        let began = Instant::now();
        Self { body, began, bytes: 0, deadline: Box::pin(sleep_until(began + BODY_GRACE)) }
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) else {
            ready!(this.deadline.as_mut().poll(context));
            return Poll::Ready(Some(Err(axum::Error::new(BodyTooSlow))));
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.bytes += data.len() as u64;
            let earned = Duration::from_secs(this.bytes / BODY_BYTES_PER_SECOND);
            this.deadline.as_mut().reset(this.began + BODY_GRACE + earned);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Whether a body could not be read because it trickled.
pub fn is_too_slow(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source()).any(|error| error.is::<BodyTooSlow>())
}

/// How long, and to how many bytes, a refused body is read.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
const DRAIN_BYTES: usize = 66 << 20;

/// Reads a refused body to its end, or to where no honest one goes on.
pub async fn drain(body: Body) {
    let reading = async {
        let mut left = DRAIN_BYTES;
        let mut stream = body.into_data_stream();
        while let Some(Ok(piece)) = stream.next().await {
            left = left.saturating_sub(piece.len());
            if left == 0 {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DRAIN_LIMIT, reading).await;
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use http_body_util::BodyExt;

    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_that_asks_too_often_waits_and_no_other_does() {
        let limits = Limits::new(&LimitSettings::default());
        let (_, burst) = Rate::Session.quota();
        let greedy = address("192.0.2.1");
        let refused = (0..2 * burst).filter(|_| limits.check(Rate::Session, greedy).is_err()).count();
        assert!(refused > 0 && refused as u32 <= burst, "{refused} of {}", 2 * burst);
        assert!(limits.check(Rate::Session, greedy).is_err_and(|seconds| seconds >= 1));
        assert_eq!(limits.check(Rate::Predict, greedy), Ok(()), "each rate is counted by itself");
        assert_eq!(limits.check(Rate::Session, address("192.0.2.2")), Ok(()));
        assert!((0..2 * burst).all(|_| limits.check(Rate::Session, address("127.0.0.1")).is_ok()));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let places = Places::new(None, 2, 3);
        let _first = places.enter(address("2001:db8::1")).unwrap();
        let second = places.enter(address("2001:db8::2:3")).unwrap();
        assert!(places.enter(address("2001:db8::4")).is_none());
        assert!(places.enter(address("2001:db8:0:1::1")).is_some());
        drop(second);
        assert!(places.enter(address("2001:db8::4")).is_some());
        let near: Vec<_> = std::iter::from_fn(|| places.enter(address("::ffff:127.0.0.1"))).collect();
        assert_eq!(near.len(), 3, "who is on this machine has more");
        drop(near);
        assert_eq!(places.taken.lock().unwrap().len(), 1, "who has left is forgotten");
    }

    #[test]
    fn only_a_trusted_proxy_says_for_whom_it_asks() {
        let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
        let limits = Limits::new(&LimitSettings { trusted_proxies, ..LimitSettings::default() });
        for (peer, forwarded, client) in [
            ("192.0.2.1", "198.51.100.1", "192.0.2.1"),
            ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "203.0.113.9, 198.51.100.1", "198.51.100.1"),
            ("10.0.0.1", "198.51.100.1, 10.0.0.2", "198.51.100.1"),
            ("::ffff:10.0.0.1", "198.51.100.1", "198.51.100.1"),
            ("::1", "nonsense", "::1"),
            ("10.0.0.1", "198.51.100.1, nonsense", "10.0.0.1"),
        ] {
            let headers = HeaderMap::from_iter([(
                "x-forwarded-for".parse().unwrap(),
                HeaderValue::from_static(forwarded),
            )]);
            assert_eq!(limits.client(address(peer), &headers), address(client), "{peer} {forwarded}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_trickles_ends() {
        let trickle = |pause: Duration, piece: usize| {
            let pieces = futures_util::stream::unfold(0, move |sent| async move {
                tokio::time::sleep(pause).await;
                (sent < 100).then(|| (Ok::<_, std::io::Error>(Bytes::from(vec![0; piece])), sent + 1))
            });
            Body::new(Paced::new(Body::from_stream(pieces)))
        };
        let slow = trickle(Duration::from_secs(1), 1).collect().await.unwrap_err();
        assert!(is_too_slow(&slow), "{slow:?}");
        let steady = trickle(Duration::from_secs(1), 8 << 10).collect().await.unwrap();
        assert_eq!(steady.to_bytes().len(), 100 * (8 << 10));
    }
}
