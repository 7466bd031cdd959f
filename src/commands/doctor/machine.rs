//! What this machine has: libraries, models, processors, limits.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use super::explain;
use super::finding::Findings;
use crate::cli::InferenceArgs;
use crate::codec::{Decoder, Encoder, EncoderConfig, Speed};
use crate::commands::recognition::{find_library, load_runtime};
use crate::frame::Codec;
use crate::inference::ort::{Device, OrtEngine, Runtime};
use crate::models::manifest::Task;
use crate::models::store::{Store, verify};

/// Sockets, threads' files and signalling of one session, generously.
const FILES_A_SESSION: u64 = 16;
/// Files that the service has open without sessions.
const FILES_AT_REST: u64 = 100;
/// Sessions that a machine should have files for.
const SESSIONS_EXPECTED: u64 = 200;

pub fn check(args: &InferenceArgs, findings: &mut Findings) {
    let models = models(args, findings);
    match load_runtime(args) {
        Ok(runtime) => {
            let library = find_library(args).and_then(|path| Ok(path.canonicalize()?));
            let library = library.map(|path| path.display().to_string()).unwrap_or_default();
            findings.ok("onnxruntime", format!("{library} ({})", runtime.build_info()));
            gpu(&runtime, models.as_deref(), findings);
        }
        Err(error) => findings.fail(
            "onnxruntime",
            format!("{error:#}"),
            "./run installs it, or give its path with --ort-library",
        ),
    }
    codecs(findings);
    processors(findings);
    open_files(findings);
    udp(findings);
}

/// Verifies every model; a file of one that is sound.
fn models(args: &InferenceArgs, findings: &mut Findings) -> Option<std::path::PathBuf> {
    let store = Store::open(&args.models);
    let found = match store.list() {
        Ok(found) => found,
        Err(error) => {
            findings.fail(
                "models",
                explain(&error),
                "check --models, or fetch them with `vigie models pull`",
            );
            return None;
        }
    };
    let (mut sound, mut names) = (None, Vec::new());
    let mut tasks = Vec::new();
    for version in found {
        let name = format!("{} version {}", version.name, version.version);
        match version.stored.and_then(|stored| verify(&stored).map(|()| stored)) {
            Ok(stored) => {
                names.push(format!(
                    "{name} ({})",
                    &stored.manifest.sha256[..8.min(stored.manifest.sha256.len())]
                ));
                tasks.push(stored.manifest.task);
                sound = Some(stored.model);
            }
            Err(fault) => findings.fail(
                "models",
                format!("{name}: {}", explain(&fault)),
                "`vigie models pull` makes the default models anew; remove what is not one of them",
            ),
        }
    }
    if !names.is_empty() {
        findings.ok("models", format!("hashes are right: {}", names.join(", ")));
    }
    for task in [Task::Faces, Task::Gender, Task::Objects] {
        if !tasks.contains(&task) {
            findings.fail(
                "models",
                format!("there is no sound model for {} in {}", task.name(), args.models.display()),
                "fetch the default models: vigie models pull",
            );
        }
    }
    sound
}

/// Whether recognition could run on a GPU, by loading a model there.
fn gpu(runtime: &Runtime, model: Option<&Path>, findings: &mut Findings) {
    let has_card = Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists();
    if !has_card {
        findings.ok("gpu", "no NVIDIA GPU is visible here: recognition runs on the processor");
        return;
    }
    let Some(model) = model else {
        findings.warn("gpu", "not checked: no model to load on it", "first see to the models");
        return;
    };
    for (name, device) in [("CUDA", Device::Cuda(0)), ("TensorRT", Device::Tensorrt(0))] {
        let reason = match OrtEngine::load(runtime, model, device, 1) {
            Ok(engine) => engine.device_used().fallback.clone(),
            Err(error) => Some(explain(&error)),
        };
        match reason {
            None => findings.ok("gpu", format!("{name} loads a model")),
            Some(reason) => {
                findings.warn(
                    "gpu",
                    format!("{name} does not work: {}", cause(&reason)),
                    gpu_advice(&reason),
                );
                return;
            }
        }
    }
}

/// The line of a loader's long error that names what is missing.
fn cause(reason: &str) -> String {
    let library = reason
        .split_whitespace()
        .find(|word| word.contains(".so") && !word.contains("onnxruntime_providers"));
    match library {
        Some(library) => {
            let library = library.trim_matches(|c: char| !c.is_alphanumeric() && c != '/');
            format!("the library {library} is missing or unusable")
        }
        None => reason.lines().next().unwrap_or_default().chars().take(200).collect(),
    }
}

fn gpu_advice(reason: &str) -> &'static str {
    if reason.contains("built without") {
        "use the GPU build of ONNX Runtime (onnxruntime-linux-x64-gpu) with --ort-library"
    } else {
        "install CUDA 12 or 13 as the ONNX Runtime build wants it, with cuDNN 9 (and TensorRT 10), where the loader \
         finds them: LD_LIBRARY_PATH or /etc/ld.so.conf.d"
    }
}

fn codecs(findings: &mut Findings) {
    let mut works = Vec::new();
    for codec in [Codec::Vp8, Codec::Vp9, Codec::H264, Codec::Av1] {
        match Decoder::open(codec, 1) {
            Ok(_) => works.push(codec.name()),
            Err(error) => findings.warn(
                "codecs",
                format!("{} cannot be decoded: {}", codec.name(), explain(&error)),
                "browsers that send another codec still work; Debian's libavcodec has all four",
            ),
        }
    }
    findings.ok("codecs", format!("decodes {}", works.join(", ")));
    let mut encodes = Vec::new();
    for codec in [Codec::H264, Codec::Vp8] {
        let config = EncoderConfig {
            codec,
            width: 320,
            height: 240,
            bitrate_kbps: 300,
            fps_hint: 30,
            threads: 1,
            speed: Speed::default(),
        };
        match Encoder::open(config) {
            Ok(_) => encodes.push(codec.name()),
            Err(error) => findings.warn(
                "codecs",
                format!("{} cannot be encoded: {}", codec.name(), explain(&error)),
                "the annotated track uses the other; install an FFmpeg with libx264 and libvpx",
            ),
        }
    }
    if encodes.is_empty() {
        findings.fail(
            "codecs",
            "no annotated track can be encoded",
            "install an FFmpeg with libx264 or libvpx",
        );
    } else {
        findings.ok("codecs", format!("encodes {}", encodes.join(", ")));
    }
}

fn processors(findings: &mut Findings) {
    let cores = crate::commands::service::cores();
    let quota = std::fs::read_to_string("/sys/fs/cgroup/cpu.max").unwrap_or_default();
    let quota = match quota.split_whitespace().collect::<Vec<_>>()[..] {
        [quota, period] => quota.parse::<f64>().ok().zip(period.parse::<f64>().ok()).map(|(q, p)| q / p),
        _ => None,
    };
    let limit =
        quota.map(|cores| format!(", limited to {cores:.2} by the control group")).unwrap_or_default();
    if quota.is_some_and(|quota| quota < 1.0) {
        findings.warn(
            "processors",
            format!("{cores} cores{limit}"),
            "give the container at least one core: below it video stutters however little there is to recognise",
        );
    } else {
        findings.ok("processors", format!("{cores} cores{limit}"));
    }
}

fn open_files(findings: &mut Findings) {
    // The soft limit stands first: proc_pid_limits(5).
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let limit = line.and_then(|line| line.split_whitespace().next());
    let limit = match limit.map(|limit| (limit, limit.parse::<u64>())) {
        Some((_, Ok(limit))) => limit,
        Some(("unlimited", _)) => u64::MAX,
        _ => return findings.warn("open files", "the limit cannot be read", "look at `ulimit -n`"),
    };
    let sessions = limit.saturating_sub(FILES_AT_REST) / FILES_A_SESSION;
    let what = format!("{} at a time, enough for some {sessions} sessions", limit);
    if sessions < SESSIONS_EXPECTED {
        findings.warn(
            "open files",
            what,
            "raise it: ulimit -n 65536, or LimitNOFILE=65536 in a systemd unit",
        );
    } else {
        findings.ok("open files", what);
    }
}

/// A packet from this machine's address to itself: a local firewall may drop even that.
fn udp(findings: &mut Findings) {
    match send_to_self() {
        Ok(address) => findings.ok("udp", format!("packets reach {}", address.ip())),
        Err(error) => findings.fail(
            "udp",
            format!("a packet from this machine to itself does not arrive: {error}"),
            "a firewall drops UDP: open the ports of --media",
        ),
    }
}

fn send_to_self() -> std::io::Result<SocketAddr> {
    let outside = UdpSocket::bind("0.0.0.0:0")?;
    // Nothing is sent to this address (RFC 5737): the kernel only says which of its own it would use.
    let own = match outside.connect("192.0.2.1:9").and_then(|()| outside.local_addr()) {
        Ok(address) => address.ip(),
        Err(_) => [127, 0, 0, 1].into(),
    };
    let receiver = UdpSocket::bind((own, 0))?;
    receiver.set_read_timeout(Some(Duration::from_secs(2)))?;
    let address = receiver.local_addr()?;
    UdpSocket::bind((own, 0))?.send_to(b"vigie", address)?;
    receiver.recv(&mut [0; 16])?;
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loaders_error_becomes_one_line() {
        let reason = "Failed to load library libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open \
                      shared object file: No such file or directory\nmore";
        assert_eq!(cause(reason), "the library libcudnn.so.9 is missing or unusable");
        assert_eq!(
            cause("this ONNX Runtime is built without CUDA"),
            "this ONNX Runtime is built without CUDA"
        );
    }
}
