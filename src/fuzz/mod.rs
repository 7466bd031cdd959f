//! What strangers can send, as functions of bytes.
//!
//! Each target takes any bytes and returns; a panic, a hang, or memory without bound is our bug. `run` feeds them
//! seeds and seeded mutations in `cargo test`, and `fuzz/` has libFuzzer look for new paths. A target holds what its
//! part promises, besides not falling over: that a refusal has a code, that a size is bounded, that what was
//! accepted can be written and read again.

mod files;
mod front;
mod media;
/// The tests' own.
#[path = "../../tests/models/onnx.rs"]
#[allow(dead_code, reason = "seeds are made with a part of it")]
mod onnx_writer;
mod peer;
#[cfg(test)]
mod run;
mod seeds;
mod texts;

use std::path::Path;

pub use files::{container, image, onnx};
pub use front::http;
pub use media::{av1, h264, vp8, vp9};
pub use peer::peer;
pub use texts::{config, control, ids, manifest, sdp, signal};

/// A way into the program.
pub struct Target {
    /// Names its file in `fuzz/` and its folder in `tests/data/fuzz`.
    pub name: &'static str,
    pub run: fn(&[u8]),
    /// Good inputs that are made rather than kept.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Mutations of a short run: what a debug build does in a second or two.
    pub short_run: u32,
}

/// Every way in.
pub const TARGETS: [Target; 15] = [
    Target { name: "sdp", run: sdp, seeds: seeds::sdp, short_run: 20_000 },
    Target { name: "peer", run: peer, seeds: seeds::peer, short_run: 500 },
    Target { name: "signal", run: signal, seeds: seeds::signal, short_run: 20_000 },
    Target { name: "http", run: http, seeds: seeds::http, short_run: 1_000 },
    Target { name: "control", run: control, seeds: seeds::control, short_run: 20_000 },
    Target { name: "ids", run: ids, seeds: seeds::ids, short_run: 5_000 },
    Target { name: "config", run: config, seeds: seeds::config, short_run: 100 },
    Target { name: "manifest", run: manifest, seeds: seeds::manifest, short_run: 5_000 },
    Target { name: "onnx", run: onnx, seeds: seeds::onnx, short_run: 20_000 },
    Target { name: "image", run: image, seeds: Vec::new, short_run: 500 },
    Target { name: "container", run: container, seeds: Vec::new, short_run: 150 },
    Target { name: "vp8", run: vp8, seeds: seeds::vp8, short_run: 300 },
    Target { name: "vp9", run: vp9, seeds: seeds::vp9, short_run: 300 },
    Target { name: "h264", run: h264, seeds: seeds::h264, short_run: 300 },
    Target { name: "av1", run: av1, seeds: seeds::av1, short_run: 300 },
];

/// What libFuzzer calls before it reads its corpus: writes what a target begins with into the folder that
/// `VIGIE_FUZZ_SEEDS` names, if it does.
pub fn prepare(name: &str) {
    let Some(folder) = std::env::var_os("VIGIE_FUZZ_SEEDS") else { return };
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of that name");
    for (index, seed) in (target.seeds)().iter().enumerate() {
        let path = Path::new(&folder).join(format!("seed-{index}"));
        std::fs::write(path, seed).expect("the folder is there");
    }
}
