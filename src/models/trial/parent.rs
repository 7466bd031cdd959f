//! The parent's side of a trial: starts the child, feeds it, waits, ends it, and reads what it says.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::{Answer, Limits, Reason, Report, Request, TrialError};

/// Bytes of an answer: the drawn picture and a few kilobytes.
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Bytes of complaints, of which the last line is shown.
const MAX_COMPLAINT_BYTES: u64 = 64 << 10;
/// How often the child is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
/// Sides of a shape and elements of an output that can be.
const MAX_RANK: usize = 16;
const MAX_OUTPUT_ELEMENTS: usize = 1 << 30;
const MAX_OUTPUTS: usize = 256;

/// A model to be tried.
#[derive(Clone, Copy, Debug)]
pub struct Trial<'a> {
    /// The vigie that is to be the child.
    pub program: &'a Path,
    /// The ONNX Runtime library.
    pub runtime: &'a Path,
    pub request: &'a Request,
    pub picture: &'a [u8],
    pub model: &'a [u8],
    pub limits: Limits,
}

/// Tries a model and waits for the outcome.
///
/// # Errors
/// [`TrialError`], whatever becomes of the child; it is gone when this returns.
pub fn run(trial: &Trial) -> Result<Report, TrialError> {
    let mut child = start(trial).map_err(TrialError::NotStarted)?;
    let (Some(stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(TrialError::NoAnswer);
    };
    thread::scope(|scope| {
        // A child that ends early leaves a broken pipe, which its exit tells better.
        scope.spawn(|| feed(stdin, trial));
        let answer = collect(stdout, MAX_ANSWER_BYTES);
        let complaints = collect(stderr, MAX_COMPLAINT_BYTES);
        let status = wait(&mut child, Duration::from_secs(trial.limits.wall_seconds));
        let answer = answer.join().unwrap_or_default();
        let complaints = complaints.join().unwrap_or_default();
        let status = status.map_err(TrialError::NotStarted)?;
        read(status, &answer, &complaints, &trial.limits)
    })
}

fn start(trial: &Trial) -> std::io::Result<Child> {
    let mut command = Command::new(trial.program);
    command
        .args(["--log", "off", "models", "trial", "--ort-library"])
        .arg(trial.runtime)
        .args(["--address-space", &trial.limits.address_space(trial.model.len()).to_string()])
        .args(["--cpu-seconds", &trial.limits.cpu_seconds.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    // Where this process found its libraries, the child does too.
    for name in ["LD_LIBRARY_PATH", "PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.spawn()
}

fn feed(mut stdin: impl Write, trial: &Trial) {
    let mut line = serde_json::to_vec(trial.request).expect("a request has string keys and finite numbers");
    line.push(b'\n');
    for part in [&line, trial.picture, trial.model] {
        if stdin.write_all(part).is_err() {
            return;
        }
    }
}

/// Reads to the end, or to `limit` and then no further: the child is stopped by the full pipe.
fn collect(from: impl Read + Send + 'static, limit: u64) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.take(limit).read_to_end(&mut bytes);
        bytes
    })
}

/// Waits for the child's end and brings it about when it takes too long; `None` then.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok(Some(status)),
            Ok(None) if Instant::now() < deadline => thread::sleep(LOOK_INTERVAL),
            other => {
                let _ = child.kill();
                child.wait()?;
                return other.map(|_| None);
            }
        }
    }
}

fn read(
    status: Option<ExitStatus>,
    answer: &[u8],
    complaints: &[u8],
    limits: &Limits,
) -> Result<Report, TrialError> {
    let status = status.ok_or(TrialError::WallTime(limits.wall_seconds))?;
    if !status.success() {
        let said = String::from_utf8_lossy(complaints);
        let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
        let said =
            last.map_or(String::new(), |line| format!(": {}", line.chars().take(300).collect::<String>()));
        // Rust's and C++'s last words where there is no memory left.
        if said.contains("memory allocation of") || said.contains("bad_alloc") {
            return Err(Reason::OutOfMemory { message: said.trim_start_matches(": ").to_owned() }.into());
        }
        return Err(match status.signal() {
            Some(libc::SIGXCPU) => TrialError::CpuTime(limits.cpu_seconds),
            Some(signal) => TrialError::Crashed { how: format!("signal {signal}"), said },
            None => TrialError::Crashed { how: format!("exit code {}", status.code().unwrap_or(-1)), said },
        });
    }
    match serde_json::from_slice(answer).map_err(|_| TrialError::NoAnswer)? {
        Answer::Report(report) if can_be(&report) => Ok(report),
        Answer::Report(_) => Err(TrialError::NoAnswer),
        Answer::Refused(reason) => Err(reason.into()),
    }
}

/// Whether the shapes are such that they may be reckoned with.
fn can_be(report: &Report) -> bool {
    let shape = |shape: &[usize]| {
        let elements = shape.iter().try_fold(1_usize, |product, side| product.checked_mul(*side));
        shape.len() <= MAX_RANK && elements.is_some_and(|elements| elements <= MAX_OUTPUT_ELEMENTS)
    };
    report.outputs.len() <= MAX_OUTPUTS && report.outputs.iter().all(|output| shape(&output.shape))
}
