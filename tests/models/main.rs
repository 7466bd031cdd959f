//! Models: the conversion's rules on toy networks, and the converted models against the originals.
//!
//! Needs what ./test prepares: ONNX Runtime in .vigie/onnxruntime and the models in .vigie/models.

#![allow(clippy::unwrap_used, reason = "what a test cannot go on without fails it")]

#[path = "../common/mod.rs"]
mod common;
mod conversion;
mod evaluation;
mod hostile;
#[allow(dead_code, reason = "each test binary uses its own part")]
mod onnx;
mod own;
mod parity;
mod registry;
mod upload;

use std::fs;
use std::path::{Path, PathBuf};

use vigie::inference::ort::Runtime;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn runtime() -> Runtime {
    Runtime::load(&runtime_path()).unwrap()
}

/// ONNX Runtime from `VIGIE_ORT_LIBRARY` or from where ./test puts it.
fn runtime_path() -> PathBuf {
    let folder = root().join(".vigie/onnxruntime");
    let fetched = || {
        let paths = fs::read_dir(&folder).ok()?.flatten().map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().contains("libonnxruntime.so")).max()
    };
    let library = std::env::var_os("VIGIE_ORT_LIBRARY").map(PathBuf::from).or_else(fetched);
    let missing = || panic!("no ONNX Runtime in {}: run ./test, which fetches it", folder.display());
    library.unwrap_or_else(missing)
}
