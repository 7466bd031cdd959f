//! Whose picture goes to the lanes next: a pure queue in front of the batcher.
//!
//! Where more pictures come than the lanes can take, each asker waits here *before* it chooses a picture, and
//! then takes its newest. What waits in the batcher grows old; what waits here does not.
//!
//! 1. No more pictures are under way than there are places.
//! 2. Askers take turns: each gets the same number of pictures, however many of its own wait.
//! 3. An asker that has a picture under way gets a second place only while nobody waits for a first.
//! 4. An asker's very first picture has the next turn, and one place more is there for it: who joins does not
//!    wait for all who are there.
//! 5. Askers in the background go when nobody else waits, and take turns like others once they have waited long.

use std::collections::VecDeque;
use std::time::Instant;

use super::batcher::goes_first;

/// The places of one worker, and who waits for one. `T` is what is handed back when a turn has come.
pub struct Turns<T> {
    places: usize,
    under_way: usize,
    /// In the order of their turns.
    waiting: VecDeque<Waiter<T>>,
    /// The round in which the last turn was given.
    round: u64,
}

/// A wish for a turn.
#[derive(Debug)]
pub struct Wish<T> {
    pub asker: u64,
    /// It is for the asker's first picture.
    pub is_first: bool,
    pub since: Instant,
    pub value: T,
}

struct Waiter<T> {
    wish: Wish<T>,
    /// An asker has one turn a round.
    round: u64,
}

impl<T> Turns<T> {
    /// For `places` pictures under way at the same time, at least 1.
    pub fn new(places: usize) -> Self {
        Self { places: places.max(1), under_way: 0, waiting: VecDeque::new(), round: 0 }
    }

    /// Whether nobody waits for a turn.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub fn set_places(&mut self, places: usize) {
        self.places = places.max(1);
    }

    /// Waits for a turn.
    pub fn ask(&mut self, wish: Wish<T>) {
        let own_last = self.waiting.iter().rev().find(|waiter| waiter.wish.asker == wish.asker);
        let (round, position) = match (own_last, self.waiting.front()) {
            (None, Some(front)) if wish.is_first => {
                (front.round, self.waiting.iter().take_while(|waiter| waiter.wish.is_first).count())
            }
            (own_last, _) => {
                let round = own_last.map_or(self.round, |waiter| waiter.round + 1);
                (round, self.waiting.partition_point(|waiter| waiter.round <= round))
            }
        };
        self.waiting.insert(position, Waiter { wish, round });
    }

    /// The one whose turn it is, if there is a place; it has the place until [`Turns::end`].
    pub fn grant(&mut self, now: Instant) -> Option<T> {
        let is_next = |waiter: &Waiter<T>| goes_first(waiter.wish.asker, waiter.wish.since, now);
        let position = self.waiting.iter().position(is_next).unwrap_or(0);
        let is_first = self.waiting.get(position)?.wish.is_first;
        if self.under_way >= self.places + usize::from(is_first) {
            return None;
        }
        let granted = self.waiting.remove(position)?;
        self.round = self.round.max(granted.round);
        self.under_way += 1;
        Some(granted.wish.value)
    }

    /// Takes a place at once, without queueing, if nobody waits for it.
    pub fn take_spare(&mut self) -> bool {
        let is_spare = self.under_way < self.places && self.waiting.is_empty();
        self.under_way += usize::from(is_spare);
        is_spare
    }

    /// Gives a place back.
    pub fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// Leaves the queue.
    pub fn withdraw(&mut self, is_the_one: impl Fn(&T) -> bool) {
        self.waiting.retain(|waiter| !is_the_one(&waiter.wish.value));
    }

    /// Everybody who waits, none of whom will have a turn.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiter| waiter.wish.value)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::inference::batcher::BACKGROUND;

    struct Bench {
        turns: Turns<u32>,
        start: Instant,
    }

    impl Bench {
        fn new(places: usize) -> Self {
            Self { turns: Turns::new(places), start: Instant::now() }
        }

        fn ask_as(&mut self, is_first: bool, asker: u64, value: u32) {
            self.turns.ask(Wish { asker, is_first, since: self.start, value });
        }

        fn ask(&mut self, asker: u64, value: u32) {
            self.ask_as(false, asker, value);
        }

        fn grant(&mut self) -> Option<u32> {
            self.turns.grant(self.start)
        }

        fn grant_all(&mut self) -> Vec<u32> {
            std::iter::from_fn(|| self.grant()).collect()
        }
    }

    #[test]
    fn places_are_bounded_and_come_free() {
        let mut bench = Bench::new(2);
        for asker in 0..4 {
            bench.ask(asker, asker as u32);
        }
        assert_eq!(bench.grant_all(), [0, 1]);
        bench.turns.end();
        assert_eq!(bench.grant_all(), [2]);
        bench.turns.set_places(3);
        assert_eq!(bench.grant_all(), [3]);
        bench.ask(9, 9);
        assert_eq!(bench.grant(), None);
    }

    #[test]
    fn askers_take_turns_however_many_of_theirs_wait() {
        let mut bench = Bench::new(100);
        for (asker, value) in [(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)] {
            bench.ask(asker, value);
        }
        assert_eq!(bench.grant_all(), [10, 20, 30, 11, 21, 12]);
        for (asker, value) in [(1, 10), (1, 11), (2, 20)] {
            bench.ask(asker, value);
        }
        assert_eq!(bench.grant_all(), [10, 20, 11], "whatever came before");
    }

    #[test]
    fn a_spare_place_is_nobody_elses() {
        let mut bench = Bench::new(2);
        bench.ask(1, 1);
        assert!(!bench.turns.take_spare(), "somebody waits for it");
        assert_eq!(bench.grant(), Some(1));
        assert!(bench.turns.take_spare());
        assert!(!bench.turns.take_spare(), "all are taken");
        bench.ask(2, 2);
        bench.turns.end();
        assert!(!bench.turns.take_spare());
        assert_eq!(bench.grant(), Some(2));
    }

    #[test]
    fn who_joins_has_the_next_turn_once() {
        let mut bench = Bench::new(100);
        for asker in 1..5 {
            bench.ask(asker, asker as u32);
        }
        bench.ask_as(true, 50, 50);
        bench.ask_as(true, 60, 60);
        bench.ask(60, 61);
        bench.ask_as(true, 60, 62);
        assert_eq!(bench.grant_all(), [50, 60, 1, 2, 3, 4, 61, 62]);
    }

    #[test]
    fn one_place_more_is_there_for_who_joins() {
        let mut bench = Bench::new(2);
        for asker in 1..4 {
            bench.ask(asker, asker as u32);
        }
        assert_eq!(bench.grant_all(), [1, 2]);
        for asker in [50, 60] {
            bench.ask_as(true, asker, asker as u32);
        }
        assert_eq!(bench.grant_all(), [50]);
        bench.turns.end();
        assert_eq!(bench.grant_all(), [60]);
        bench.turns.end();
        assert_eq!(bench.grant(), None, "the place more is not for others");
        bench.turns.end();
        assert_eq!(bench.grant_all(), [3]);
    }

    #[test]
    fn the_background_goes_when_nobody_else_waits_or_after_a_while() {
        let mut bench = Bench::new(100);
        bench.ask(BACKGROUND + 1, 1);
        assert_eq!(bench.grant(), Some(1), "alone it does not wait");
        for (asker, value) in [(BACKGROUND + 1, 2), (5, 5), (6, 6), (7, 7)] {
            bench.ask(asker, value);
        }
        assert_eq!(bench.grant(), Some(5));
        let later = bench.start + Duration::from_secs(1);
        assert_eq!(bench.turns.grant(later), Some(2), "it has waited long enough");
        assert_eq!(bench.grant_all(), [6, 7]);
    }

    #[test]
    fn who_leaves_the_queue_gets_no_turn() {
        let mut bench = Bench::new(1);
        for value in [1, 2, 3] {
            bench.ask(u64::from(value), value);
        }
        bench.turns.withdraw(|value| *value == 1);
        assert_eq!(bench.grant(), Some(2));
        bench.turns.withdraw(|value| *value == 3);
        bench.turns.end();
        assert_eq!(bench.grant(), None);
        assert!(bench.turns.take_spare());
    }
}
