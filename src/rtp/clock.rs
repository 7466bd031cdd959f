//! Reads RTP timestamps: as media time that only grows, and as the sender's clock.
//!
//! Pure arithmetic at video's 90 kHz. It does not estimate drift or synchronise streams.

use std::time::Duration;

/// Video's RTP clock in ticks a second (RFC 7741 §4.1, RFC 6184 §8.2.1, RFC 9628 §4.1).
const CLOCK_RATE: i64 = 90_000;

/// A larger step, either way, is a reset of the sender's clock.
const MAX_STEP_TICKS: i64 = 10 * CLOCK_RATE;

/// What a reset is taken to last: one picture at 30 a second.
const RESET_STEP_TICKS: i64 = CLOCK_RATE / 30;

/// Turns 32-bit RTP timestamps, which wrap every 13 hours, into media time since the first.
///
/// Time never goes backwards: an earlier timestamp gives the latest time again, and one more than ten
/// seconds away, in either direction, is a reset that counts for one picture.
#[derive(Clone, Debug, Default)]
pub struct Unwrapper {
    /// The latest timestamp and its ticks since the first.
    latest: Option<(u32, i64)>,
}

impl Unwrapper {
    /// Media time of `rtp_timestamp` since the first one that was given.
    pub fn unwrap(&mut self, rtp_timestamp: u32) -> Duration {
        let (stamp, ticks) = match self.latest {
            None => (rtp_timestamp, 0),
            Some((latest, ticks)) => match i64::from(rtp_timestamp.wrapping_sub(latest) as i32) {
                step @ 0..=MAX_STEP_TICKS => (rtp_timestamp, ticks + step),
                step if (-MAX_STEP_TICKS..0).contains(&step) => (latest, ticks),
                _ => (rtp_timestamp, ticks + RESET_STEP_TICKS),
            },
        };
        self.latest = Some((stamp, ticks));
        // Ticks are nanoseconds times 9/100000; u128 keeps centuries of them exact.
        let nanoseconds = u128::from(ticks.unsigned_abs()) * 100_000 / 9;
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }
}

/// Seconds from 1900, NTP's first epoch, to 1970.
const NTP_TO_UNIX_SECONDS: i64 = 2_208_988_800;

/// Maps RTP timestamps to the sender's wall clock, by its latest RTCP sender report (RFC 3550 §6.4.1).
#[derive(Clone, Debug, Default)]
pub struct SenderClock {
    /// Unix time in ms and the RTP timestamp of the same instant.
    anchor: Option<(f64, u32)>,
}

impl SenderClock {
    /// Takes a sender report's two timestamps; `ntp` is 32.32 fixed-point seconds, 0 when the sender has no clock.
    pub fn report(&mut self, ntp: u64, rtp_timestamp: u32) {
        if ntp == 0 {
            return;
        }
        let seconds = (ntp >> 32) as i64;
        // NTP's first era ends in 2036; RFC 4330 §3 reads a clear top bit as the second.
        let era = if seconds < 1 << 31 { 1i64 << 32 } else { 0 };
        let fraction = (ntp & 0xffff_ffff) as f64 / 4_294_967_296.0;
        let unix_ms = ((seconds + era - NTP_TO_UNIX_SECONDS) as f64 + fraction) * 1000.0;
        self.anchor = Some((unix_ms, rtp_timestamp));
    }

    /// The sender's Unix time of `rtp_timestamp` in milliseconds; `None` before the first report.
    pub fn unix_ms(&self, rtp_timestamp: u32) -> Option<f64> {
        let (unix_ms, anchor) = self.anchor?;
        Some(unix_ms + f64::from(rtp_timestamp.wrapping_sub(anchor) as i32) / 90.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_time_grows_through_wraps_and_resets() {
        let cases: [(&str, &[u32], &[u64]); 5] = [
            ("steady", &[1000, 4000, 7000], &[0, 33_333, 66_666]),
            ("over the wrap", &[u32::MAX - 1499, 1500], &[0, 33_333]),
            ("a step back", &[9000, 12_000, 11_000, 15_000], &[0, 33_333, 33_333, 66_666]),
            ("a reset back", &[4_000_000, 4_003_000, 5, 3005], &[0, 33_333, 66_666, 100_000]),
            ("a reset ahead", &[0, 2_000_000_000, 2_000_003_000], &[0, 33_333, 66_666]),
        ];
        for (name, stamps, want) in cases {
            let mut unwrapper = Unwrapper::default();
            let micros: Vec<u64> = stamps.iter().map(|&at| unwrapper.unwrap(at).as_micros() as u64).collect();
            assert_eq!(micros, want, "{name}");
        }
    }

    #[test]
    fn any_timestamps_at_all_never_go_back() {
        let mut unwrapper = Unwrapper::default();
        let mut last = Duration::ZERO;
        let mut state = 0x9e37_79b9u32;
        for _ in 0..100_000 {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            let time = unwrapper.unwrap(state);
            assert!(time >= last);
            last = time;
        }
    }

    #[test]
    fn reports_give_the_senders_clock() {
        let mut clock = SenderClock::default();
        assert_eq!(clock.unix_ms(0), None);
        clock.report(0, 77);
        assert_eq!(clock.unix_ms(77), None, "a sender without a clock says 0");
        // 2024-01-01 00:00:00.5 UTC.
        clock.report(((1_704_067_200 + 2_208_988_800u64) << 32) | 0x8000_0000, u32::MAX - 89);
        let at = |stamp| clock.unix_ms(stamp).expect("a report came").round() as i64;
        assert_eq!(at(u32::MAX - 89), 1_704_067_200_500);
        assert_eq!(at(90_000 - 90), 1_704_067_201_500, "a second later, over the wrap");
        assert_eq!(at(u32::MAX - 89 - 9000), 1_704_067_200_400, "before the report");
    }

    #[test]
    fn the_second_ntp_era_is_understood() {
        let mut clock = SenderClock::default();
        // 2036-02-07 06:28:16 UTC is second 0 of era 1; one second later.
        clock.report(1 << 32, 0);
        assert_eq!(clock.unix_ms(0), Some(2_085_978_497_000.0));
    }
}
