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
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        vigie: env!("CARGO_PKG_VERSION"),
        load_before: read("/proc/loadavg").split(' ').next().and_then(|v| v.parse().ok()).unwrap_or_default(),
    }
}
