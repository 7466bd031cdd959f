//! What was measured on: without it no figure means anything.

use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub processor: String,
    pub cores: usize,
    pub kernel: String,
    pub vigie: &'static str,
    pub load_before: f64,
}

pub fn describe() -> Machine {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let name = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    Machine {
        processor: name.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned()),
        cores: crate::commands::service::cores(),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        vigie: env!("CARGO_PKG_VERSION"),
        load_before: read("/proc/loadavg").split(' ').next().and_then(|v| v.parse().ok()).unwrap_or_default(),
    }
}

/// Seconds of processor time that this process has used.
pub fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 (user and system ticks), counted behind the parenthesised name: proc(5).
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    ticks / 100.0
}
