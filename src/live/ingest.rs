//! From packets to frames: reads a browser's track, keeps it in order, joins frames, feeds the decoder.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::pace::{Pace, Pacer};
use super::peer::RemoteTrack;
use super::settings::ControlReply;
use crate::frame::{Codec, EncodedFrame};
use crate::rtp::{Depacketiser, Event, Packet, Reorder};
use crate::telemetry::metrics::{Metrics, Stage};

/// Frames that may wait for the decoder: a quarter of a second at 30 fps. Then it has fallen behind.
pub const FRAME_CAPACITY: usize = 8;

/// How long a missing packet is waited for: two tries of a retransmission over a 50 ms round trip.
const REORDER_WAIT: Duration = Duration::from_millis(120);
/// Packets that may wait behind a missing one: more than a large key frame has.
const REORDER_PACKETS: usize = 512;

/// A key frame is asked for at most this often: it takes a round trip to come.
const KEY_FRAME_INTERVAL: Duration = Duration::from_millis(300);

/// Reads `track` to its end.
///
/// `key_wanted` is notified by the decoder when it lost its way; by `notices` the page learns to send less.
pub async fn run(
    track: RemoteTrack,
    frames: SyncSender<EncodedFrame>,
    key_wanted: Arc<Notify>,
    notices: mpsc::Sender<ControlReply>,
    metrics: Arc<Metrics>,
) {
    let mut ingest = Ingest {
        reorder: Reorder::new(REORDER_WAIT, REORDER_PACKETS),
        depacketiser: None,
        frames,
        pacer: Pacer::default(),
        notices,
        asked: None,
        needs_key: true,
        metrics,
    };
    loop {
        let deadline = ingest.reorder.deadline();
        let given_up = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            received = track.recv() => {
                let Some((Some(codec), packet)) = received else {
                    if received.is_none() { return }
                    continue; // a payload type that was not negotiated
                };
                ingest.accept(codec, packet, Instant::now());
            }
            // Lost packets are given up after a time even when nothing more arrives.
            () = given_up => ingest.drain(Instant::now()),
            () = key_wanted.notified() => ingest.lose_way(),
        }
        if ingest.should_ask(Instant::now()) {
            ingest.metrics.key_frames_requested_total.inc();
            track.request_key_frame().await;
        }
    }
}

struct Ingest {
    reorder: Reorder<(Codec, Packet)>,
    depacketiser: Option<(Codec, Depacketiser)>,
    frames: SyncSender<EncodedFrame>,
    pacer: Pacer,
    notices: mpsc::Sender<ControlReply>,
    asked: Option<Instant>,
    needs_key: bool,
    metrics: Arc<Metrics>,
}

impl Ingest {
    fn accept(&mut self, codec: Codec, packet: Packet, now: Instant) {
        self.reorder.push(packet.sequence_number, (codec, packet), now);
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.reorder.pop(now) {
            match event {
                Event::Packet((codec, packet)) => self.join(codec, packet, now),
                Event::Lost { .. } => {
                    if let Some((_, depacketiser)) = &mut self.depacketiser {
                        depacketiser.lose();
                        self.needs_key |= depacketiser.needs_key_frame();
                    }
                }
            }
        }
    }

    fn join(&mut self, codec: Codec, packet: Packet, now: Instant) {
        // The sender may change codec in mid-stream (RFC 3264 §8.3.2).
        if self.depacketiser.as_ref().is_none_or(|(current, _)| *current != codec) {
            self.depacketiser = Some((codec, Depacketiser::new(codec)));
        }
        let Some((_, depacketiser)) = &mut self.depacketiser else { return };
        depacketiser.push(packet, now);
        self.needs_key = depacketiser.needs_key_frame();
        while let Some(frame) = self.depacketiser.as_mut().and_then(|(_, depacketiser)| depacketiser.pop()) {
            let change = match self.frames.try_send(frame) {
                Err(TrySendError::Full(_)) => {
                    self.metrics.frame_dropped(Stage::Decode);
                    self.lose_way();
                    self.pacer.overflow(now)
                }
                _ => self.pacer.fit(now),
            };
            if let Some((code, message)) = change.map(Pace::notice) {
                let _ = self.notices.try_send(ControlReply::notice(code, message));
            }
        }
    }

    /// Drops everything up to the next key frame.
    fn lose_way(&mut self) {
        if let Some((_, depacketiser)) = &mut self.depacketiser {
            depacketiser.require_key_frame();
        }
        self.needs_key = true;
    }

    fn should_ask(&mut self, now: Instant) -> bool {
        let due = self.asked.is_none_or(|asked| now.duration_since(asked) >= KEY_FRAME_INTERVAL);
        let ask = self.needs_key && due;
        if ask {
            self.asked = Some(now);
        }
        ask
    }
}
