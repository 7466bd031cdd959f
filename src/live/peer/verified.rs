//! A socket that takes DTLS only from addresses that ICE has verified.
//!
//! The library takes a datagram for its one peer wherever it comes from, once ICE has chosen a pair. Whoever guesses the
//! port could then send a ClientHello or an alert into a handshake that is under way, which nothing authenticates yet
//! (OWASP ASVS 5.0, 17.2.6; RFC 8827 §6.5). A peer is verified when our ICE agent has answered its check with success,
//! which it does only for who knows the session's password (RFC 8445 §7.3). Media is let through: each packet of it
//! is authenticated by itself, and a page whose NAT has moved it goes on without waiting for the next check.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use webrtc::runtime::{AsyncUdpSocket, RecvMeta, Transmit};

/// Addresses that are remembered: each network of a page has one, and it seldom has more than three.
const MAX_VERIFIED: usize = 16;

/// First bytes of DTLS records (RFC 7983 §7).
const DTLS: std::ops::RangeInclusive<u8> = 20..=63;
/// A binding success response, and the cookie of STUN (RFC 8489 §5).
const SUCCESS: [u8; 2] = [0x01, 0x01];
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// The addresses that a peer has proved to be at, newest last.
#[derive(Debug, Default)]
struct Verified(VecDeque<SocketAddr>);

impl Verified {
    /// Notes what our side sends: an answer of success to a check is the proof.
    fn note_sent(&mut self, datagram: &[u8], to: SocketAddr) {
        let is_success = datagram.starts_with(&SUCCESS) && datagram.get(4..8) == Some(&COOKIE);
        if is_success && !self.0.contains(&to) {
            if self.0.len() == MAX_VERIFIED {
                self.0.pop_front();
            }
            self.0.push_back(to);
        }
    }

    /// Whether `message`, of datagrams that are `stride` long each, may come from there.
    fn admits(&self, message: &[u8], stride: usize, from: SocketAddr) -> bool {
        let is_dtls = |datagram: &[u8]| datagram.first().is_some_and(|first| DTLS.contains(first));
        self.0.contains(&from) || !message.chunks(stride.max(1)).any(is_dtls)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct VerifiedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    /// Held for a look or a note, never across a wait.
    verified: Mutex<Verified>,
}

impl VerifiedSocket {
    pub fn new(socket: Arc<dyn AsyncUdpSocket>) -> Self {
        Self { socket, verified: Mutex::default() }
    }

    /// Moves what may be read to the front; gives how much that is.
    fn sift(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta], count: usize) -> usize {
        let verified = self.verified.lock().expect("no code panics with the addresses");
        let mut kept = 0;
        for index in 0..count {
            let (length, stride, from) = (meta[index].len, meta[index].stride, meta[index].addr);
            if !verified.admits(&bufs[index][..length], stride, from) {
                tracing::debug!("DTLS came from where no ICE check did");
                continue;
            }
            if kept < index {
                let (front, back) = bufs.split_at_mut(index);
                front[kept][..length].copy_from_slice(&back[0][..length]);
                meta[kept] = meta[index];
            }
            kept += 1;
        }
        kept
    }
}

impl AsyncUdpSocket for VerifiedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        // Before it is sent: the peer's first record may come right after.
        let mut verified = self.verified.lock().expect("no code panics with the addresses");
        verified.note_sent(transmit.contents, transmit.destination);
        drop(verified);
        self.socket.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            match self.socket.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => match self.sift(bufs, meta, count) {
                    // Nothing for us: there may be more, or the waker is set.
                    0 => {}
                    kept => return Poll::Ready(Ok(kept)),
                },
                other => return other,
            }
        }
    }

    fn max_gso_segments(&self) -> usize {
        self.socket.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.socket.max_gro_segments()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT_HELLO: &[u8] = &[22, 254, 253, 0];
    const ALERT: &[u8] = &[21, 254, 253, 0];
    const MEDIA: &[u8] = &[128, 96, 0, 1];
    const REQUEST: &[u8] = &[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    const ANSWER: &[u8] = &[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42];

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn dtls_is_taken_only_from_who_was_told_that_its_check_succeeded() {
        let mut verified = Verified::default();
        let takes = |verified: &Verified, datagram: &[u8], port| {
            verified.admits(datagram, datagram.len(), address(port))
        };
        for port in [1, 2] {
            assert!(takes(&verified, REQUEST, port) && takes(&verified, MEDIA, port));
            assert!(!takes(&verified, CLIENT_HELLO, port) && !takes(&verified, ALERT, port));
        }
        // Our own checks, and other answers, prove nothing.
        verified.note_sent(REQUEST, address(1));
        verified.note_sent(&ANSWER[..7], address(1));
        verified.note_sent(b"\x01\x01 no cookie", address(1));
        assert!(!takes(&verified, CLIENT_HELLO, 1));
        verified.note_sent(ANSWER, address(1));
        assert!(takes(&verified, CLIENT_HELLO, 1) && takes(&verified, ALERT, 1));
        assert!(!takes(&verified, CLIENT_HELLO, 2));
        // Nor does a record hide behind a datagram that was coalesced with it.
        let both = [&MEDIA[..4], ALERT].concat();
        assert!(!verified.admits(&both, 4, address(2)) && verified.admits(&both, 4, address(1)));
    }

    #[test]
    fn the_newest_addresses_are_remembered() {
        let mut verified = Verified::default();
        for port in 0..40 {
            verified.note_sent(ANSWER, address(port));
            verified.note_sent(ANSWER, address(port));
        }
        assert_eq!(verified.0.len(), MAX_VERIFIED);
        assert!(
            verified.admits(ALERT, ALERT.len(), address(39))
                && !verified.admits(ALERT, ALERT.len(), address(3))
        );
    }
}
