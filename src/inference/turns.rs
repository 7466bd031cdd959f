//! Whose picture goes to the lanes next: a pure queue in front of the batcher.
//!
//! Where more pictures come than the lanes can take, each asker waits here *before* it chooses a picture, and
//! then takes its newest. What waits in the batcher grows old; what waits here does not.
//!
//! 1. No more pictures are under way than there are places.
//! 2. Askers take turns: each gets the same number of pictures, however many of its own wait.
//! 3. An asker that has a picture under way gets a second place only while nobody waits for a first.

use std::collections::VecDeque;

/// The places of one worker, and who waits for one. `T` is what is handed back when a turn has come.
pub struct Turns<T> {
    places: usize,
    under_way: usize,
    /// In the order of their turns.
    waiting: VecDeque<Waiter<T>>,
    /// The round in which the last turn was given.
    round: u64,
}

struct Waiter<T> {
    asker: u64,
    /// An asker has one turn a round.
    round: u64,
    value: T,
}

impl<T> Turns<T> {
    /// For `places` pictures under way at the same time, at least 1.
    pub fn new(places: usize) -> Self {
        Self { places: places.max(1), under_way: 0, waiting: VecDeque::new(), round: 0 }
    }

    pub fn set_places(&mut self, places: usize) {
        self.places = places.max(1);
    }

    /// Waits for a turn on behalf of `asker`.
    pub fn ask(&mut self, asker: u64, value: T) {
        let own_last = self.waiting.iter().rev().find(|waiter| waiter.asker == asker);
        let round = own_last.map_or(self.round, |waiter| waiter.round + 1);
        let position = self.waiting.partition_point(|waiter| waiter.round <= round);
        self.waiting.insert(position, Waiter { asker, round, value });
    }

    /// The one whose turn it is, if there is a place; it has the place until [`Turns::end`].
    pub fn grant(&mut self) -> Option<T> {
        if self.under_way >= self.places {
            return None;
        }
        let granted = self.waiting.pop_front()?;
        self.round = granted.round;
        self.under_way += 1;
        Some(granted.value)
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
        self.waiting.retain(|waiter| !is_the_one(&waiter.value));
    }

    /// Everybody who waits, none of whom will have a turn.
    pub fn drain(&mut self) -> impl Iterator<Item = T> {
        std::mem::take(&mut self.waiting).into_iter().map(|waiter| waiter.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant_all(turns: &mut Turns<u32>) -> Vec<u32> {
        std::iter::from_fn(|| turns.grant()).collect()
    }

    #[test]
    fn places_are_bounded_and_come_free() {
        let mut turns = Turns::new(2);
        for asker in 0..4 {
            turns.ask(asker, asker as u32);
        }
        assert_eq!(grant_all(&mut turns), [0, 1]);
        turns.end();
        assert_eq!(grant_all(&mut turns), [2]);
        turns.set_places(3);
        assert_eq!(grant_all(&mut turns), [3]);
        turns.ask(9, 9);
        assert_eq!(turns.grant(), None);
    }

    #[test]
    fn askers_take_turns_however_many_of_theirs_wait() {
        let mut turns = Turns::new(100);
        for waiter in [10, 11, 12] {
            turns.ask(1, waiter);
        }
        turns.ask(2, 20);
        turns.ask(3, 30);
        turns.ask(2, 21);
        assert_eq!(grant_all(&mut turns), [10, 20, 30, 11, 21, 12]);
    }

    #[test]
    fn a_spare_place_is_nobody_elses() {
        let mut turns = Turns::new(2);
        turns.ask(1, 1);
        assert!(!turns.take_spare(), "somebody waits for it");
        assert_eq!(turns.grant(), Some(1));
        assert!(turns.take_spare());
        assert!(!turns.take_spare(), "all are taken");
        turns.ask(2, 2);
        turns.end();
        assert!(!turns.take_spare());
        assert_eq!(turns.grant(), Some(2));
    }

    #[test]
    fn who_leaves_the_queue_gets_no_turn() {
        let mut turns = Turns::new(1);
        for waiter in [1_u32, 2, 3] {
            turns.ask(u64::from(waiter), waiter);
        }
        turns.withdraw(|waiter| *waiter == 1);
        assert_eq!(turns.grant(), Some(2));
        turns.withdraw(|waiter| *waiter == 3);
        turns.end();
        assert_eq!(turns.grant(), None);
        assert!(turns.take_spare());
    }
}
