//! Offers, candidates and datagrams, into a peer connection of the WebRTC library.
//!
//! Parts are separated by a zero byte: the first is an offer, an empty one a good one. The others begin with what
//! they are: `o` a later offer, `c` a candidate, `u` a datagram to the peer's port, whoever it may come from.

use std::cell::RefCell;
use std::net::{SocketAddr, UdpSocket};

use tokio::runtime::{Builder, Runtime};

use super::seeds::OFFER;
use crate::cluster::protocol::{Candidate, MAX_MESSAGE_BYTES};
use crate::frame::Codec;
use crate::live::peer::{Peer, PeerConfig};

/// Parts that are looked at.
const MAX_PARTS: usize = 16;
/// Turns that the library's tasks get after each part.
const TURNS: usize = 8;

thread_local! {
    static STAGE: RefCell<(Runtime, UdpSocket)> = RefCell::new((
        Builder::new_current_thread().enable_all().build().expect("a runtime"),
        UdpSocket::bind("127.0.0.1:0").expect("a socket"),
    ));
}

pub fn peer(data: &[u8]) {
    if data.len() > MAX_MESSAGE_BYTES {
        return;
    }
    STAGE.with_borrow(|(runtime, socket)| runtime.block_on(play(data, socket)));
}

async fn play(data: &[u8], socket: &UdpSocket) {
    let mut parts = data.split(|byte| *byte == 0).take(MAX_PARTS);
    let first = String::from_utf8_lossy(parts.next().unwrap_or_default());
    let offer = if first.is_empty() { OFFER } else { &first };
    let config =
        PeerConfig { addresses: vec!["127.0.0.1:0".into()], annotated_codecs: vec![Codec::H264, Codec::Vp8] };
    let Ok((peer, mut events)) = Peer::open(&config, offer).await else { return };
    let port = match peer.answer(offer).await {
        Ok(_) => host(&peer.gathered_answer().await),
        // Nothing is gathered for an offer that was refused: waiting would only cost time.
        Err(_) => None,
    };
    for part in parts {
        match part.split_first() {
            Some((b'o', rest)) => drop(peer.answer(&String::from_utf8_lossy(rest)).await),
            Some((b'c', rest)) => {
                let candidate = String::from_utf8_lossy(rest).into_owned();
                let at = (Some("0".to_owned()), Some(0));
                let (sdp_mid, sdp_m_line_index) = at;
                let candidate = Candidate { candidate, sdp_mid, sdp_m_line_index, username_fragment: None };
                let _ = peer.add_candidate(candidate).await;
            }
            Some((b'u', rest)) => {
                if let Some(port) = port {
                    let _ = socket.send_to(rest, port);
                }
            }
            _ => {}
        }
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
            while events.try_recv().is_ok() {}
        }
    }
    peer.close().await;
}

/// Where the answer's first host candidate is.
fn host(answer: &str) -> Option<SocketAddr> {
    let line = answer.lines().find(|line| line.starts_with("a=candidate:") && line.contains(" host"))?;
    let mut words = line.split(' ').skip(4);
    format!("{}:{}", words.next()?, words.next()?).parse().ok()
}
