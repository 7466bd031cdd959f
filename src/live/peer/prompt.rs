//! A runtime that wakes a connection at once when DTLS can begin.
//!
//! webrtc 0.21 writes its ClientHello when the pair of candidates is chosen, but hands it out only at the
//! next timer, which is ICE's, up to 200 ms later. Browsers that trickle candidates just then hide that;
//! others (Firefox, WHIP clients) wait. So for a few turns after ICE has connected, timers are short.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, Runtime, TokioRuntime,
};

/// Timers that are cut short: one is enough unless a packet comes in just then.
const SHORT_TIMERS: u8 = 8;
/// What is left of them; the library looks at due timers no more often.
const SHORT: Duration = Duration::from_millis(1);

use super::verified::VerifiedSocket;

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Tells the runtime of one connection that its ICE has connected.
#[derive(Clone, Default)]
pub(super) struct Prompt(Arc<AtomicU8>);

impl Prompt {
    pub(super) fn ice_connected(&self) {
        self.0.store(SHORT_TIMERS, Ordering::Relaxed);
    }

    fn limit(&self, wait: Duration) -> Duration {
        let is_short =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if is_short { wait.min(SHORT) } else { wait }
    }
}

/// Tokio, with timers that a [`Prompt`] cuts short, and sockets that take DTLS from verified peers only.
pub(super) struct PromptRuntime(pub(super) Prompt);

impl fmt::Debug for PromptRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PromptRuntime")
    }
}

impl Runtime for PromptRuntime {
    fn spawn(&self, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn(future)
    }

    fn spawn_reactor(&self, pool_size: usize, future: Boxed<'static, ()>) -> Box<dyn JoinHandle> {
        TokioRuntime.spawn_reactor(pool_size, future)
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(VerifiedSocket::new(TokioRuntime.wrap_udp_socket(socket)?)))
    }

    fn wrap_tcp_listener(&self, listener: TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        TokioRuntime.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(&'a self, address: SocketAddr) -> Boxed<'a, io::Result<Arc<dyn AsyncTcpStream>>> {
        TokioRuntime.connect_tcp(address)
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Boxed<'a, io::Result<Vec<SocketAddr>>> {
        TokioRuntime.resolve_host(host)
    }

    fn now(&self) -> Instant {
        TokioRuntime.now()
    }

    fn sleep(&self, duration: Duration) -> Boxed<'static, ()> {
        TokioRuntime.sleep(self.0.limit(duration))
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        TokioRuntime.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        TokioRuntime.block_on(future);
    }

    fn yield_now(&self) -> Boxed<'static, ()> {
        TokioRuntime.yield_now()
    }

    fn name(&self) -> &'static str {
        TokioRuntime.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_are_short_only_after_ice_has_connected() {
        let (prompt, long) = (Prompt::default(), Duration::from_millis(200));
        assert_eq!(prompt.limit(long), long);
        prompt.ice_connected();
        assert_eq!([(); 8].map(|()| prompt.limit(long)), [SHORT; 8]);
        assert_eq!(prompt.limit(long), long);
        prompt.ice_connected();
        assert_eq!(prompt.limit(Duration::ZERO), Duration::ZERO);
    }
}
