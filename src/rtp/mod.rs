//! RTP payloads, pure: packets in order, packets into frames, frames into packets.
//!
//! Incoming: [`Reorder`] puts packets in order and says what is lost, [`Depacketiser`] joins them into
//! [`EncodedFrame`](crate::frame::EncodedFrame)s. Outgoing: [`Packetiser`] cuts frames into payloads.
//! [`Unwrapper`] and [`SenderClock`] read timestamps. Time and bytes are passed in; nothing here opens
//! a socket, starts a task, or knows which WebRTC library carries the packets.

mod av1;
mod clock;
mod depacketise;
mod h264;
mod packetise;
mod reorder;
mod vp8;
mod vp9;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod clips;
#[cfg(test)]
mod mutated;
#[cfg(test)]
mod round_trip;

pub use clock::{SenderClock, Unwrapper};
pub use depacketise::{Depacketiser, MAX_FRAME_BYTES, MAX_FRAME_PACKETS, Packet};
pub use packetise::{DEFAULT_MTU, Packetiser, Payload};
pub use reorder::{Event, Reorder};
