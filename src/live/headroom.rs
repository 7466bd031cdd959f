//! How much of a worker its sessions use, as measured, and what that leaves for more. Pure.
//!
//! Media cannot wait: every frame must be decoded before the next, and packets must go out. So what the media
//! threads take of the processors counts, and how long frames wait for them. Recognition can wait: it takes
//! whatever there is and slows down when there is less, so lanes that are always busy are no reason to refuse
//! anybody until the sessions fall below the rate that they are to keep.

use std::time::Duration;

/// What a worker has to share out.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Processors, as far as a container's quota goes.
    pub cores: f64,
    pub lanes: f64,
}

/// What was counted since the process started.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Processor seconds of the threads that carry media and signalling.
    pub media_cpu_s: f64,
    /// Frames that came to a decoder, and the seconds that all of them together waited for it.
    pub frames: u64,
    pub waited_s: f64,
    /// Frames of live sessions that were recognised.
    pub recognised: u64,
    /// Seconds for which lanes ran, whoever asked.
    pub inference_s: f64,
}

/// The share of the processors at which media has no more room: beyond it threads wait for one another, and the
/// lanes, which give way, get nothing.
const MEDIA_SHARE: f64 = 0.75;
/// Frames that wait this long on average are two late at 30 a second: decoding has fallen behind.
const LATE_S: f64 = 0.06;
/// Lanes that stand idle for more than the rest of the time starve nobody.
const SATURATED: f64 = 0.8;
/// How far beyond full a part may go: more would only take longer to be forgotten.
const MOST: f64 = 2.0;
/// Time constant of the average: a key frame or a short stall closes no worker.
const MEMORY: Duration = Duration::from_secs(3);
/// A worker that was full opens again when it has come down to this.
const REOPEN: f64 = 0.85;
/// Processors that a session is taken for until one has been measured: 480p decoded at 30 fps, with its packets.
const FIRST_COST_CORES: f64 = 0.08;
/// Measured costs are believed this far up or down from it: something else may have caused them.
const COST_RANGE: (f64, f64) = (0.125, 4.0);

/// Turns samples into the share of capacity in use: 1 is full.
#[derive(Debug)]
pub struct Headroom {
    capacity: Capacity,
    last: Option<(Duration, Sample)>,
    /// Averages over [`MEMORY`].
    media: f64,
    late: f64,
    busy_lanes: f64,
    rate: f64,
    owed: f64,
    is_closed: bool,
}

impl Headroom {
    pub fn new(capacity: Capacity) -> Self {
        let (media, late, busy_lanes, rate, owed) = (0.0, 0.0, 0.0, 0.0, 0.0);
        Self { capacity, last: None, media, late, busy_lanes, rate, owed, is_closed: false }
    }

    /// Notes what has been counted by `now`; `owed` is the frames a second that the present sessions are to have
    /// recognised at the least.
    pub fn observe(&mut self, now: Duration, sample: Sample, owed: f64) {
        let Some((then, before)) = self.last.replace((now, sample)) else { return };
        let seconds = now.saturating_sub(then).as_secs_f64();
        if seconds <= 0.0 {
            return;
        }
        let fresh = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
        let blend = |average: &mut f64, value: f64| *average += fresh * (value - *average);

        let cpu = (sample.media_cpu_s - before.media_cpu_s) / seconds;
        blend(&mut self.media, (cpu / (self.capacity.cores * MEDIA_SHARE)).clamp(0.0, MOST));
        let frames = sample.frames.saturating_sub(before.frames);
        let wait = if frames == 0 { 0.0 } else { (sample.waited_s - before.waited_s) / frames as f64 };
        blend(&mut self.late, (wait / LATE_S).clamp(0.0, MOST));
        // A run of an engine counts when it ends, so single samples say little of these.
        let busy = (sample.inference_s - before.inference_s) / seconds;
        blend(&mut self.busy_lanes, busy.max(0.0));
        let rate = sample.recognised.saturating_sub(before.recognised) as f64 / seconds;
        blend(&mut self.rate, rate);
        self.owed = owed;

        self.is_closed = self.measured() >= if self.is_closed { REOPEN } else { 1.0 };
    }

    fn measured(&self) -> f64 {
        let recognition = shortage(self.busy_lanes / self.capacity.lanes, self.rate, self.owed);
        self.media.max(self.late).max(recognition)
    }

    /// The share of capacity in use with sessions of these `ages`, those included that are too young to have been
    /// measured: at 1 and above no more are taken.
    pub fn ratio(&self, ages: impl Iterator<Item = Duration>) -> f64 {
        let (mut measured, mut unmeasured) = (0.0, 0.0);
        for age in ages {
            // The averages know this much of a session of that age, and so not the rest.
            let unknown = (-age.as_secs_f64() / MEMORY.as_secs_f64()).exp();
            unmeasured += unknown;
            measured += 1.0 - unknown;
        }
        let ratio = self.measured() + unmeasured * self.cost(measured);
        // With hysteresis, so that a worker at its limit does not open and close with every leave and join.
        if self.is_closed { ratio.max(1.0) } else { ratio }
    }

    /// The share that one more session takes, judged by the `sessions` that have been measured.
    fn cost(&self, sessions: f64) -> f64 {
        let first = FIRST_COST_CORES / (self.capacity.cores * MEDIA_SHARE);
        if sessions < 0.5 {
            return first;
        }
        (self.measured() / sessions).clamp(first * COST_RANGE.0, first * COST_RANGE.1)
    }
}

/// How short recognition is: the share of what the lanes can do that is owed to the sessions.
fn shortage(busy: f64, rate: f64, owed: f64) -> f64 {
    if busy <= 0.0 || owed <= 0.0 {
        return 0.0;
    }
    // At this rate the lanes were busy for this share of the time, so they can do rate / busy.
    let needed = (owed * busy / rate).min(MOST);
    if busy < SATURATED { needed.min(busy) } else { needed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAPACITY: Capacity = Capacity { cores: 2.0, lanes: 2.0 };

    /// What one second of work adds.
    #[derive(Clone, Copy)]
    struct Load {
        media_cores: f64,
        wait_ms: f64,
        recognised: u64,
        busy_lanes: f64,
        owed: f64,
    }

    const IDLE: Load = Load { media_cores: 0.0, wait_ms: 0.0, recognised: 0, busy_lanes: 0.0, owed: 0.0 };

    struct Bench {
        headroom: Headroom,
        now: Duration,
        sample: Sample,
    }

    impl Bench {
        fn new() -> Self {
            let mut headroom = Headroom::new(CAPACITY);
            headroom.observe(Duration::ZERO, Sample::default(), 0.0);
            Self { headroom, now: Duration::ZERO, sample: Sample::default() }
        }

        fn run(&mut self, seconds: u64, load: Load) -> f64 {
            for _ in 0..seconds {
                self.now += Duration::from_secs(1);
                self.sample.media_cpu_s += load.media_cores;
                self.sample.frames += 30;
                self.sample.waited_s += 30.0 * load.wait_ms / 1000.0;
                self.sample.recognised += load.recognised;
                self.sample.inference_s += load.busy_lanes;
                self.headroom.observe(self.now, self.sample, load.owed);
            }
            self.ratio(&[])
        }

        fn ratio(&self, ages_s: &[f64]) -> f64 {
            self.headroom.ratio(ages_s.iter().map(|age| Duration::from_secs_f64(*age)))
        }
    }

    #[test]
    fn media_that_falls_behind_is_what_fills_a_worker() {
        let table = [
            ("nothing", IDLE, 0.0..0.01),
            ("media on half of what it may take", Load { media_cores: 0.75, ..IDLE }, 0.49..0.51),
            ("media on all of it", Load { media_cores: 1.5, ..IDLE }, 0.99..1.01),
            ("frames that wait a little", Load { wait_ms: 3.0, ..IDLE }, 0.04..0.06),
            ("frames that pile up", Load { wait_ms: 200.0, ..IDLE }, 1.9..2.1),
            // A single session takes every lane that it can get, and is no reason to refuse the next.
            (
                "busy lanes, rates high",
                Load { recognised: 60, busy_lanes: 2.0, owed: 0.5, ..IDLE },
                0.0..0.05,
            ),
            (
                "busy lanes, rates low",
                Load { recognised: 10, busy_lanes: 2.0, owed: 9.0, ..IDLE },
                0.85..0.95,
            ),
            ("busy lanes, nobody served", Load { busy_lanes: 2.0, owed: 1.0, ..IDLE }, 1.9..2.1),
            // Cameras that send less than they could: the lanes wait for them, not they for the lanes.
            ("idle lanes, rates low", Load { recognised: 1, busy_lanes: 0.2, owed: 9.0, ..IDLE }, 0.0..0.11),
            ("busy with pictures only", Load { busy_lanes: 2.0, ..IDLE }, 0.0..0.01),
        ];
        for (what, load, expected) in table {
            let ratio = Bench::new().run(30, load);
            assert!(expected.contains(&ratio), "{what}: {ratio}");
        }
    }

    #[test]
    fn a_short_stall_closes_nothing_and_a_long_one_opens_slowly() {
        let mut bench = Bench::new();
        assert!(bench.run(1, Load { wait_ms: 100.0, ..IDLE }) < 1.0);
        assert!(bench.run(10, Load { media_cores: 1.8, ..IDLE }) >= 1.0);
        // Just below full it stays closed, well below it opens.
        let (mut edge, mut low) = (0, 0);
        while bench.run(1, Load { media_cores: 1.35, ..IDLE }) >= 1.0 && edge < 60 {
            edge += 1;
        }
        assert_eq!(edge, 60);
        while bench.run(1, Load { media_cores: 0.9, ..IDLE }) >= 1.0 && low < 60 {
            low += 1;
        }
        assert!(low < 10, "{low}");
        assert!(bench.run(5, Load { media_cores: 1.35, ..IDLE }) < 1.0, "open until it is full again");
    }

    #[test]
    fn a_burst_is_let_in_only_as_far_as_it_is_known_to_fit() {
        let bench = Bench::new();
        let fit = (0..).find(|count| bench.ratio(&vec![0.0; *count]) >= 1.0).unwrap();
        assert!((15..25).contains(&fit), "{fit} unmeasured sessions on two cores");

        // Five sessions turned out to take a quarter of a core each: one more fills the worker.
        let mut bench = Bench::new();
        bench.run(30, Load { media_cores: 1.25, ..IDLE });
        let with = |young: usize| [vec![30.0; 5], vec![0.0; young]].concat();
        assert!(bench.ratio(&with(0)) < 0.85 && bench.ratio(&with(1)) >= 0.99, "{}", bench.ratio(&with(1)));
        // Measured as next to nothing, many more fit.
        let mut bench = Bench::new();
        bench.run(30, Load { media_cores: 0.01, ..IDLE });
        assert!(bench.ratio(&with(100)) < 1.0);
    }

    #[test]
    fn a_session_counts_the_same_while_it_is_being_measured() {
        let mut bench = Bench::new();
        let before = bench.ratio(&[0.0]);
        for age in 1..20 {
            // It takes exactly what a session is taken for.
            bench.run(1, Load { media_cores: FIRST_COST_CORES, ..IDLE });
            let ratio = bench.ratio(&[f64::from(age)]);
            assert!((ratio - before).abs() < 0.02, "{ratio} at {age} s, {before} at first");
        }
    }

    #[test]
    fn clocks_and_counters_that_run_back_do_no_harm() {
        let mut bench = Bench::new();
        bench.run(5, Load { media_cores: 0.5, recognised: 30, ..IDLE });
        bench.headroom.observe(Duration::ZERO, Sample::default(), 1.0);
        bench.headroom.observe(Duration::from_secs(1), Sample::default(), f64::NAN);
        bench.sample = Sample::default();
        let ratio = bench.run(1, IDLE);
        assert!(ratio.is_finite() && ratio >= 0.0, "{ratio}");
    }
}
