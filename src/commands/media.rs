//! What `serve` and `worker` have in common: where media arrives, and who is taken in.

use super::recognition::{Recognition, cores};
use crate::cli::{Admit, AnnotatedCodec, WorkerArgs};
use crate::frame::Codec;
use crate::live::headroom::Capacity;
use crate::live::peer::PeerConfig;
use crate::live::worker::{Admission, Measured};

pub fn peer_config(args: &WorkerArgs) -> PeerConfig {
    let codecs = args.annotated_codecs.iter().map(|codec| match codec {
        AnnotatedCodec::H264 => Codec::H264,
        AnnotatedCodec::Vp8 => Codec::Vp8,
    });
    PeerConfig {
        addresses: args.media.iter().map(ToString::to_string).collect(),
        annotated_codecs: codecs.collect(),
    }
}

pub fn admission(args: &WorkerArgs, recognition: &Recognition) -> Admission {
    // Of the processors those that a container's quota leaves.
    let capacity = Capacity { cores: cores() as f64, lanes: recognition.lanes() as f64 };
    let measured = Measured { capacity, min_rate: args.min_rate };
    let measured = (args.admit == Admit::Headroom).then_some(measured);
    Admission { max_sessions: args.max_sessions, measured }
}
