//! Puts packets back in order, and says which ones will not come.
//!
//! It stands between the peer and the depacketiser: retransmissions (RFC 4585 NACK, RFC 4588) arrive
//! late, and a short wait for them saves a key frame. It holds packets only, and looks at nothing but
//! their sequence numbers. It does not ask for retransmissions; the WebRTC library does.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A step ahead beyond this many packets is a restart of the sender, not a loss (RFC 3550 A.1 MAX_DROPOUT).
const MAX_DROPOUT: i64 = 3000;

/// A packet this far behind is a straggler; further behind, the sender may have restarted. RFC 3550 A.1
/// says 100 packets, which a retransmission at 20 Mbit/s exceeds.
const MAX_MISORDER: i64 = 1000;

/// What [`Reorder::pop`] hands over, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<P> {
    Packet(P),
    /// This many packets (at least) were given up before the next one.
    Lost {
        count: u32,
    },
}

/// The window in which packets wait for those before them.
///
/// 1. [`push`](Self::push) each packet as it arrives.
/// 2. [`pop`](Self::pop) until it answers `None`.
/// 3. Pop again at [`deadline`](Self::deadline), when a missing packet is given up.
pub struct Reorder<P> {
    max_wait: Duration,
    max_packets: usize,
    /// The next number to hand over, counted on from the first packet's without wrapping.
    next: Option<i64>,
    /// When each arrived, by number; never more than `max_packets`, none below `next`.
    waiting: BTreeMap<i64, (Instant, P)>,
    /// A packet far from the others: with a second one after it, the sender has restarted.
    stray: Option<u16>,
    restarted: bool,
    dropped: u64,
    lost: u64,
}

impl<P> Reorder<P> {
    /// Waits for a missing packet until the one after it has waited `max_wait`, or `max_packets` are held.
    pub fn new(max_wait: Duration, max_packets: usize) -> Self {
        Self {
            max_wait,
            max_packets: max_packets.clamp(1, MAX_DROPOUT as usize),
            next: None,
            waiting: BTreeMap::new(),
            stray: None,
            restarted: false,
            dropped: 0,
            lost: 0,
        }
    }

    /// Takes a packet that arrived at `now`; duplicates and packets already given up are dropped.
    pub fn push(&mut self, sequence_number: u16, packet: P, now: Instant) {
        let next = *self.next.get_or_insert(i64::from(sequence_number));
        let ahead = i64::from(sequence_number.wrapping_sub(next as u16) as i16);
        if (-MAX_MISORDER..=MAX_DROPOUT).contains(&ahead) {
            self.stray = None;
            let number = next + ahead;
            if ahead < 0 || self.waiting.contains_key(&number) {
                self.dropped += 1;
            } else {
                self.waiting.insert(number, (now, packet));
            }
            return;
        }
        // One packet out of nowhere may be forged or ancient; its successor says that it is neither.
        let follows = self.stray.is_some_and(|stray| sequence_number == stray.wrapping_add(1));
        if !follows {
            self.stray = Some(sequence_number);
            self.dropped += 1;
            return;
        }
        self.dropped += self.waiting.len() as u64;
        self.waiting.clear();
        self.stray = None;
        self.restarted = true;
        self.next = Some(i64::from(sequence_number));
        self.waiting.insert(i64::from(sequence_number), (now, packet));
    }

    /// Hands over the next packet, or a loss once it is given up; `None` while it may still come.
    pub fn pop(&mut self, now: Instant) -> Option<Event<P>> {
        if std::mem::take(&mut self.restarted) {
            self.lost += 1;
            return Some(Event::Lost { count: 1 });
        }
        let next = self.next.as_mut()?;
        let (&first, &(_, _)) = self.waiting.first_key_value()?;
        if first == *next {
            *next += 1;
            return self.waiting.remove(&first).map(|(_, packet)| Event::Packet(packet));
        }
        let given_up = self.waiting.len() > self.max_packets || self.deadline().is_some_and(|at| at <= now);
        if !given_up {
            return None;
        }
        let count = (first - self.next.replace(first)?) as u32;
        self.lost += u64::from(count);
        Some(Event::Lost { count })
    }

    /// When the packets that are missing now are given up; `None` while nothing waits.
    pub fn deadline(&self) -> Option<Instant> {
        // The packet that arrived first is the one that has waited longest, whatever its number.
        self.waiting.values().map(|&(arrived, _)| arrived).min().map(|arrived| arrived + self.max_wait)
    }

    /// Duplicates, stragglers and strays that were dropped.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Packets that were given up.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Packets held now.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no packet is held.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::Event::{Lost, Packet};
    use super::*;

    const WAIT: Duration = Duration::from_millis(120);

    /// Pushes `(millisecond, number)`s, popping after each and at `end`, and lists what came out.
    fn play(arrivals: &[(u64, u16)], end: u64, max_packets: usize) -> (Vec<Event<u16>>, Reorder<u16>) {
        let start = Instant::now();
        let mut reorder = Reorder::new(WAIT, max_packets);
        let mut out = Vec::new();
        for &(at, number) in arrivals {
            let now = start + Duration::from_millis(at);
            reorder.push(number, number, now);
            out.extend(std::iter::from_fn(|| reorder.pop(now)));
        }
        let now = start + Duration::from_millis(end);
        out.extend(std::iter::from_fn(|| reorder.pop(now)));
        (out, reorder)
    }

    #[test]
    fn packets_come_out_in_order_and_losses_in_their_place() {
        type Case = (&'static str, &'static [(u64, u16)], u64, Vec<Event<u16>>);
        let cases: [Case; 7] = [
            ("in order", &[(0, 1), (1, 2)], 1, vec![Packet(1), Packet(2)]),
            ("swapped", &[(0, 1), (1, 3), (2, 2)], 2, vec![Packet(1), Packet(2), Packet(3)]),
            ("over the wrap", &[(0, 65535), (1, 1), (2, 0)], 2, vec![Packet(65535), Packet(0), Packet(1)]),
            ("still waiting", &[(0, 1), (1, 3)], 120, vec![Packet(1)]),
            ("given up", &[(0, 1), (1, 4)], 121, vec![Packet(1), Lost { count: 2 }, Packet(4)]),
            (
                "retransmitted in time",
                &[(0, 1), (1, 3), (119, 2)],
                119,
                vec![Packet(1), Packet(2), Packet(3)],
            ),
            ("twice", &[(0, 1), (0, 1), (1, 3), (1, 3), (2, 2)], 2, vec![Packet(1), Packet(2), Packet(3)]),
        ];
        for (name, arrivals, end, want) in cases {
            assert_eq!(play(arrivals, end, 100).0, want, "{name}");
        }
    }

    #[test]
    fn a_full_window_waits_no_longer() {
        let (out, reorder) = play(&[(0, 10), (1, 12), (1, 13), (1, 14)], 1, 2);
        assert_eq!(out, vec![Packet(10), Lost { count: 1 }, Packet(12), Packet(13), Packet(14)]);
        assert_eq!(reorder.lost(), 1);
    }

    #[test]
    fn a_straggler_is_dropped_and_counted() {
        let (out, reorder) = play(&[(0, 1), (1, 3), (130, 4), (131, 2)], 131, 100);
        assert_eq!(out, vec![Packet(1), Lost { count: 1 }, Packet(3), Packet(4)]);
        assert_eq!(reorder.dropped(), 1);
    }

    #[test]
    fn one_stray_packet_changes_nothing_and_two_restart() {
        let (out, reorder) = play(&[(0, 100), (1, 30_000), (2, 101)], 500, 100);
        assert_eq!(out, vec![Packet(100), Packet(101)]);
        assert_eq!(reorder.dropped(), 1);
        for restart in [30_000u16, 60_000] {
            let (out, _) = play(&[(0, 100), (1, restart), (2, restart + 1), (3, restart + 2)], 3, 100);
            assert_eq!(out, vec![Packet(100), Lost { count: 1 }, Packet(restart + 1), Packet(restart + 2)]);
        }
    }

    #[test]
    fn the_deadline_is_the_longest_waiting_packets() {
        let start = Instant::now();
        let mut reorder = Reorder::new(WAIT, 100);
        assert_eq!(reorder.deadline(), None);
        for (at, number) in [(0, 1), (5, 4), (10, 3)] {
            reorder.push(number, (), start + Duration::from_millis(at));
            reorder.pop(start + Duration::from_millis(at));
        }
        assert_eq!(reorder.deadline(), Some(start + Duration::from_millis(125)));
    }

    #[test]
    fn any_numbers_at_all_keep_the_window_bounded() {
        let start = Instant::now();
        let mut reorder = Reorder::new(WAIT, 64);
        let mut state = 0x2545_f491_4f6c_dd1du64;
        for index in 0..200_000u64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let now = start + Duration::from_micros(index * 50);
            let number = if state & 7 == 0 { (state >> 16) as u16 } else { index as u16 };
            reorder.push(number, (), now);
            while reorder.pop(now).is_some() {}
            assert!(reorder.len() <= 64);
        }
    }
}
