//! Cuts the annotated track's frames into packets, inside the connection.
//!
//! The library carries what a track is given to the connection's task one packet at a time, and that task makes a whole
//! round for each: every lock, every timer, every queue. So a frame goes there in one piece, and is cut by the first
//! interceptor that it meets, before those that number, keep and report packets.

use std::collections::VecDeque;
use std::time::Instant;

use rtc::interceptor::{AttributedPacket, Packet, TaggedPacket};
use rtc::rtp;

use super::tap::Tap;
use crate::rtp::Packetiser;

/// Cuts what is sent as one source; everything else passes.
pub(super) struct PacketCutter {
    ssrc: u32,
    packetiser: Packetiser,
    /// Of the packet sent last.
    sequence_number: u16,
}

impl PacketCutter {
    pub(super) fn new(ssrc: u32, packetiser: Packetiser) -> Self {
        Self { ssrc, packetiser, sequence_number: rand::random() }
    }

    fn cut(
        &mut self,
        frame: &rtp::Packet,
        now: Instant,
        transport: rtc::shared::TransportContext,
        outgoing: &mut VecDeque<TaggedPacket>,
    ) {
        for payload in self.packetiser.packetise(&frame.payload) {
            self.sequence_number = self.sequence_number.wrapping_add(1);
            let header = rtp::Header {
                sequence_number: self.sequence_number,
                marker: payload.marker,
                ..frame.header.clone()
            };
            let packet = Packet::Rtp(rtp::Packet { header, payload: payload.data });
            outgoing.push_back(TaggedPacket { now, transport, message: AttributedPacket::new(packet) });
        }
    }
}

impl Tap for PacketCutter {
    fn send(&mut self, tagged: TaggedPacket, outgoing: &mut VecDeque<TaggedPacket>) {
        match &tagged.message.packet {
            Packet::Rtp(frame) if frame.header.ssrc == self.ssrc => {
                self.cut(frame, tagged.now, tagged.transport, outgoing);
            }
            _ => outgoing.push_back(tagged),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rtc::sansio::Protocol;

    use super::*;
    use crate::frame::Codec;
    use crate::live::peer::tap::Tapped;

    fn tagged(ssrc: u32, payload: &'static [u8]) -> TaggedPacket {
        let header = rtp::Header { ssrc, payload_type: 96, timestamp: 3000, ..Default::default() };
        let packet = Packet::Rtp(rtp::Packet { header, payload: Bytes::from_static(payload) });
        let (now, transport) = (Instant::now(), rtc::shared::TransportContext::default());
        TaggedPacket { now, transport, message: AttributedPacket::new(packet) }
    }

    fn sent(cutter: &mut Tapped<PacketCutter>) -> Vec<rtp::Packet> {
        let packets = std::iter::from_fn(|| cutter.poll_write());
        packets
            .map(|tagged| match tagged.message.packet {
                Packet::Rtp(packet) => packet,
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn frames_leave_as_numbered_packets_and_other_sources_as_they_are() {
        let packetiser = Packetiser::new(Codec::Vp8, 100).unwrap();
        let mut cutter = Tapped::new(PacketCutter::new(7, packetiser));
        cutter.handle_write(tagged(7, &[1; 250])).unwrap();
        cutter.handle_write(tagged(8, &[2; 250])).unwrap();
        cutter.handle_write(tagged(7, &[3; 10])).unwrap();
        let packets = sent(&mut cutter);
        let seen: Vec<_> = packets.iter().map(|p| (p.header.ssrc, p.header.marker)).collect();
        assert_eq!(seen, [(7, false), (7, false), (7, true), (8, false), (7, true)]);
        let own: Vec<_> = packets.iter().filter(|p| p.header.ssrc == 7).collect();
        let first = own[0].header.sequence_number;
        for (index, packet) in own.iter().enumerate() {
            assert_eq!(packet.header.sequence_number, first.wrapping_add(index as u16));
            assert_eq!((packet.header.payload_type, packet.header.timestamp), (96, 3000));
            assert!(packet.payload.len() <= 100);
        }
        assert_eq!(packets[3].payload.len(), 250);
    }
}
