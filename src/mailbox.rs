//! The mailbox between a fast writer and a slow reader: it holds the newest value only.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

/// A one-place mailbox in which the newest value replaces the one before.
///
/// 1. One side calls [`put`](Self::put); it never waits.
/// 2. The other calls [`take`](Self::take); it waits for a value, or for [`close`](Self::close).
/// 3. A value that was replaced before it was taken is dropped and counted, never queued.
///
/// ```
/// use vigie::mailbox::Latest;
/// let mailbox = Latest::default();
/// mailbox.put(1);
/// mailbox.put(2);
/// assert_eq!(mailbox.take(), Some(2));
/// assert_eq!(mailbox.replaced(), 1);
/// mailbox.close();
/// assert_eq!(mailbox.take(), None);
/// ```
pub struct Latest<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    /// Held for a move of `T` only, never while anything else runs.
    slot: Mutex<Slot<T>>,
    filled: Condvar,
}

struct Slot<T> {
    value: Option<T>,
    replaced: u64,
    closed: bool,
}

impl<T> Clone for Latest<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T> Default for Latest<T> {
    fn default() -> Self {
        let slot = Slot { value: None, replaced: 0, closed: false };
        Self { shared: Arc::new(Shared { slot: Mutex::new(slot), filled: Condvar::new() }) }
    }
}

impl<T> Latest<T> {
    fn slot(&self) -> MutexGuard<'_, Slot<T>> {
        self.shared.slot.lock().expect("no code panics while it holds a mailbox")
    }

    /// Leaves `value` for the reader; returns whether it replaced one that was never taken.
    pub fn put(&self, value: T) -> bool {
        let mut slot = self.slot();
        if slot.closed {
            return false;
        }
        let replaced = slot.value.replace(value);
        slot.replaced += u64::from(replaced.is_some());
        drop(slot);
        self.shared.filled.notify_one();
        replaced.is_some()
    }

    /// Waits for a value; `None` once the mailbox is closed.
    pub fn take(&self) -> Option<T> {
        let mut slot = self.slot();
        loop {
            if slot.closed {
                return None;
            }
            if let Some(value) = slot.value.take() {
                return Some(value);
            }
            slot = self.shared.filled.wait(slot).expect("no code panics while it holds a mailbox");
        }
    }

    /// Waits until `deadline`, whatever arrives meanwhile; returns early, and `false`, once the mailbox is closed.
    pub fn pause_until(&self, deadline: Instant) -> bool {
        let mut slot = self.slot();
        while !slot.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            let waited = self.shared.filled.wait_timeout(slot, left);
            slot = waited.expect("no code panics while it holds a mailbox").0;
        }
        false
    }

    /// How many values were replaced before they were taken.
    pub fn replaced(&self) -> u64 {
        self.slot().replaced
    }

    /// Drops what is in it and wakes the reader for the last time.
    pub fn close(&self) {
        let mut slot = self.slot();
        slot.closed = true;
        slot.value = None;
        drop(slot);
        self.shared.filled.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_reader_gets_the_value_and_then_the_end() {
        let mailbox = Latest::default();
        let reader = {
            let mailbox = mailbox.clone();
            std::thread::spawn(move || (mailbox.take(), mailbox.take()))
        };
        mailbox.put(7);
        while mailbox.slot().value.is_some() {
            std::thread::yield_now();
        }
        mailbox.close();
        assert_eq!(reader.join().expect("reader"), (Some(7), None));
    }

    #[test]
    fn nothing_enters_a_closed_mailbox() {
        let mailbox = Latest::default();
        mailbox.close();
        assert!(!mailbox.put(1));
        assert_eq!(mailbox.take(), None);
        assert_eq!(mailbox.replaced(), 0);
    }
}
