//! A vigie of its own for a measurement: a child process that ends with it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::cli::InferenceArgs;

/// Beginnings of the threads' names, as the kernel has them.
const THREADS: [(&str, &str); 4] =
    [("vigie-media", "media"), ("vigie-recogniti", "recognition"), ("lane-", "lanes"), ("tokio-", "tokio")];

/// A running `vigie serve` on a free port.
pub struct Service {
    pub address: SocketAddr,
    child: Child,
    /// Held open: a closed pipe would end the service at its next line.
    _stdout: BufReader<ChildStdout>,
}

impl Service {
    /// Starts this very program with `slowdown`; ready when this returns.
    pub async fn start(inference: &InferenceArgs, slowdown: f32) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["serve", "--listen", "127.0.0.1:0", "--media", "127.0.0.1:0", "--log", "error"]);
        command.args(["--video-jobs", "0"]);
        // Overload is what is measured.
        command.args(["--admit", "count", "--slowdown", &slowdown.to_string()]);
        add_inference(&mut command, inference);
        Self::run(command).await
    }

    /// Starts any service of vigie; ready when this returns.
    pub async fn run(mut command: Command) -> anyhow::Result<Self> {
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("the service has no output")?);
        let mut line = String::new();
        tokio::time::timeout(Duration::from_secs(60), stdout.read_line(&mut line)).await??;
        let Some((_, address)) = line.trim().rsplit_once('/') else {
            bail!("the service did not start: {line:?}");
        };
        Ok(Self { address: address.parse()?, child, _stdout: stdout })
    }

    /// Seconds of processor time that the service has used.
    pub fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid()?))?;
        // Fields 14 and 15 (user and system ticks), counted behind the parenthesised name: proc(5).
        let fields = stat.rsplit_once(')').context("reading the process's times")?.1;
        let ticks: f64 =
            fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
        Ok(ticks / 100.0)
    }

    /// Seconds of processor time by what the threads do, from those that are there.
    pub fn cpu_by_thread(&self) -> anyhow::Result<BTreeMap<&'static str, f64>> {
        let mut seconds = BTreeMap::new();
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()?))?.flatten() {
            // It may have ended meanwhile.
            let Ok(stat) = std::fs::read_to_string(thread.path().join("stat")) else { continue };
            let Some((name, fields)) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(')'))
            else {
                continue;
            };
            let known = THREADS.iter().find(|(beginning, _)| name.starts_with(beginning));
            let ticks = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok());
            *seconds.entry(known.map_or("others", |(_, what)| what)).or_default() +=
                ticks.sum::<f64>() / 100.0;
        }
        Ok(seconds)
    }

    /// Resident memory in KiB.
    pub fn memory_kib(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()?))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let value = line.and_then(|line| line.split_whitespace().next()).and_then(|value| value.parse().ok());
        value.context("reading the process's memory")
    }

    fn pid(&self) -> anyhow::Result<u32> {
        self.child.id().context("the service has ended")
    }

    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("stopping the service")
    }
}

/// Hands the settings of inference on.
pub fn add_inference(command: &mut Command, inference: &InferenceArgs) {
    command.arg("--models").arg(&inference.models);
    if !inference.chosen.is_empty() {
        command.args(["--model", &inference.chosen.join(",")]);
    }
    command.args(["--device", &inference.device]);
    command.args(["--object-size", &inference.object_size.to_string()]);
    command.args(["--lane-threads", &inference.lane_threads.to_string()]);
    if let Some(lanes) = inference.lanes {
        command.args(["--lanes", &lanes.to_string()]);
    }
    if let Some(library) = &inference.ort_library {
        command.arg("--ort-library").arg(library);
    }
}
