//! What the media path of this process uses of the machine: read from its metrics and from /proc.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use super::headroom::Sample;
use crate::telemetry::metrics::{Metrics, Stage};

/// Beginnings of the names of the threads that carry media and signalling: the sessions' own and the runtime's.
/// The lanes, and whatever else gives way to media, have other names.
const MEDIA_THREADS: [&str; 2] = ["vigie-", "tokio-"];
/// Ticks of the kernel's clock a second, as user space sees it (USER_HZ, proc(5)): 100 on every Linux machine.
const TICKS_PER_S: f64 = 100.0;

/// Reads [`Sample`]s.
pub struct Usage {
    metrics: Arc<Metrics>,
    /// Ticks of each media thread when it was last seen.
    seen: HashMap<u32, u64>,
    media_ticks: u64,
}

impl Usage {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, seen: HashMap::new(), media_ticks: 0 }
    }

    /// Looks at every thread: it blocks for some milliseconds where there are many.
    pub fn read(&mut self) -> Sample {
        self.count_ticks();
        let (frames, waited_s) = self.metrics.stage_totals(Stage::Receive);
        let (recognised, _) = self.metrics.stage_totals(Stage::Total);
        let inference_s = self.metrics.inference_busy_seconds();
        Sample {
            media_cpu_s: self.media_ticks as f64 / TICKS_PER_S,
            frames,
            waited_s,
            recognised,
            inference_s,
        }
    }

    /// Adds what each media thread has used since it was last seen; threads come and go with sessions.
    fn count_ticks(&mut self) {
        let Ok(threads) = fs::read_dir("/proc/self/task") else { return };
        let mut present = HashMap::with_capacity(self.seen.len());
        for thread in threads.flatten() {
            let Some(id) = thread.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { continue };
            let Some(ticks) = media_ticks(&stat) else { continue };
            self.media_ticks += ticks.saturating_sub(self.seen.get(&id).copied().unwrap_or(0));
            present.insert(id, ticks);
        }
        self.seen = present;
    }
}

/// User and system ticks in a thread's `stat` (fields 14 and 15, proc(5)), if it is a thread of the media path.
fn media_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.split_once('(')?;
    // The name itself may hold a parenthesis.
    let (name, fields) = rest.rsplit_once(')')?;
    if !MEDIA_THREADS.iter().any(|beginning| name.starts_with(beginning)) {
        return None;
    }
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn only_threads_of_the_media_path_count() {
        let stat = |name| format!("7 ({name}) S 1 1 1 0 -1 4 0 0 0 0 31 11 0 0 20 0 1 0 5 0 0");
        let table = [
            ("vigie-media", Some(42)),
            ("tokio-rt-worker", Some(42)),
            ("vigie-) (x", Some(42)),
            ("lane-0", None),
            ("vigie", None),
        ];
        for (name, expected) in table {
            assert_eq!(media_ticks(&stat(name)), expected, "{name}");
        }
        for broken in
            ["", "7 (vigie-media", "7 (vigie-media) S 1", "7 (vigie-media) S 1 1 1 0 -1 4 0 0 0 0 x y"]
        {
            assert_eq!(media_ticks(broken), None, "{broken}");
        }
    }

    #[test]
    fn the_work_of_a_media_thread_is_seen() {
        let mut usage = Usage::new(Arc::new(Metrics::new()));
        let before = usage.read().media_cpu_s;
        let work = || {
            let began = Instant::now();
            let mut sum = 0_u64;
            // Processor time, not time: other tests run beside this one.
            while usage.read().media_cpu_s < before + 0.05 && began.elapsed() < Duration::from_secs(60) {
                sum = (0..1_000_000_u64).fold(sum, |sum, n| sum.wrapping_mul(31).wrapping_add(n));
            }
            (usage.read().media_cpu_s, sum)
        };
        let (after, _) = std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("vigie-test".into()).spawn_scoped(scope, work);
            thread.unwrap().join().unwrap()
        });
        assert!(after >= before + 0.05, "{after} after {before}");
    }
}
