//! Peak memory of `vigie annotate` by the length of its file.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use tokio::process::{Child, Command};

use super::{FilesArgs, source};

/// Pictures of the piece that long files repeat.
const PIECE_SECONDS: u64 = 10;

#[derive(Clone, Debug, Serialize)]
pub struct Memory {
    every: u64,
    /// Seconds of 1080p, and the peak of resident memory in KiB.
    peaks: Vec<(u64, u64)>,
}

pub async fn measure(args: &FilesArgs, folder: &Path) -> anyhow::Result<Memory> {
    println!("\npeak memory of `vigie annotate --every {}` on 1080p files", args.memory_every);
    let piece = folder.join("piece.mp4");
    source::write(&piece, PIECE_SECONDS * source::RATE as u64)?;
    let mut peaks = Vec::new();
    for &seconds in &args.lengths {
        let path = folder.join("long.mp4");
        repeat(&piece, &path, seconds).await?;
        let child = annotate(args, &path, &folder.join("annotated.mp4"))?;
        let kib = peak_kib(child).await?;
        println!("  {seconds:>5} s                  {:>7.1} MiB", kib as f64 / 1024.0);
        peaks.push((seconds, kib));
    }
    Ok(Memory { every: args.memory_every, peaks })
}

/// Writes `seconds` of the piece, over and over, without encoding it anew.
async fn repeat(piece: &Path, path: &Path, seconds: u64) -> anyhow::Result<()> {
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-stream_loop", "-1", "-i"])
        .arg(piece)
        .args(["-t", &seconds.to_string(), "-c", "copy"])
        .arg(path)
        .status()
        .await
        .context("the ffmpeg program makes the long files")?;
    ensure!(status.success(), "ffmpeg could not make {}", path.display());
    Ok(())
}

fn annotate(args: &FilesArgs, path: &Path, target: &Path) -> anyhow::Result<Child> {
    let inference = &args.inference;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["annotate", "--log", "error", "--every", &args.memory_every.to_string()]);
    command.arg("--models").arg(&inference.models).args(["--device", &inference.device]);
    command.args(["--object-size", &inference.object_size.to_string()]);
    if let Some(lanes) = inference.lanes {
        command.args(["--lanes", &lanes.to_string()]);
    }
    if let Some(library) = &inference.ort_library {
        command.arg("--ort-library").arg(library);
    }
    command.arg("-o").arg(target).arg(path).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().context("starting vigie")
}

/// The most that a child ever had resident, looked at until it ends.
async fn peak_kib(mut child: Child) -> anyhow::Result<u64> {
    let status = format!("/proc/{}/status", child.id().context("the child has ended")?);
    let mut peak = 0;
    loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let value = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak = peak.max(value.unwrap_or_default());
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "vigie annotate failed: {status}");
            return Ok(peak);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
