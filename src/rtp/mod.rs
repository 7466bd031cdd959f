//! RTP payloads, pure: packets in order, packets into frames, frames into packets.
