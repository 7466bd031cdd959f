//! A place in the library's chain of interceptors: what all of ours there have in common.

use std::collections::VecDeque;
use std::time::Instant;

use rtc::interceptor::{Interceptor, StreamInfo, TaggedPacket};
use rtc::sansio::Protocol;
use rtc::shared::error::Error as RtcError;

/// What is done with packets on their way; left out, they pass as they are.
pub(super) trait Tap: Send + Sync + 'static {
    /// Looks at a packet that comes in.
    fn see(&mut self, _: &TaggedPacket) {}

    /// Hands on what is sent.
    fn send(&mut self, tagged: TaggedPacket, outgoing: &mut VecDeque<TaggedPacket>) {
        outgoing.push_back(tagged);
    }
}

/// A [`Tap`] in its place.
pub(super) struct Tapped<T> {
    tap: T,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl<T> Tapped<T> {
    pub(super) fn new(tap: T) -> Self {
        Self { tap, incoming: VecDeque::new(), outgoing: VecDeque::new() }
    }
}

impl<T: Tap> Protocol<TaggedPacket, TaggedPacket, ()> for Tapped<T> {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = RtcError;
    type Time = Instant;

    fn handle_read(&mut self, tagged: TaggedPacket) -> Result<(), RtcError> {
        self.tap.see(&tagged);
        self.incoming.push_back(tagged);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, tagged: TaggedPacket) -> Result<(), RtcError> {
        self.tap.send(tagged, &mut self.outgoing);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl<T: Tap> Interceptor for Tapped<T> {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}
    fn unbind_local_stream(&mut self, _: &StreamInfo) {}
    fn bind_remote_stream(&mut self, _: &StreamInfo) {}
    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
