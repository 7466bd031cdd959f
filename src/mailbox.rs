//! The mailbox between a fast writer and a slow reader: it holds the newest value only.

use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::Thread;

/// A one-place mailbox in which the newest value replaces the one before.
///
/// 1. One side calls [`put`](Self::put); it never waits.
/// 2. The other, one thread, calls [`take`](Self::take), which waits for a value or for [`close`](Self::close).
///    One that waits for other things as well calls [`listen`](Self::listen), is unparked when a value comes into
///    the empty mailbox and when it is closed, and looks with [`try_take`](Self::try_take).
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
}

struct Slot<T> {
    value: Option<T>,
    reader: Option<Thread>,
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
        let slot = Slot { value: None, reader: None, replaced: 0, closed: false };
        Self { shared: Arc::new(Shared { slot: Mutex::new(slot) }) }
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
        // A reader who left the one before where it was waits for something else.
        let reader = if replaced.is_none() { slot.reader.clone() } else { None };
        drop(slot);
        if let Some(reader) = reader {
            reader.unpark();
        }
        replaced.is_some()
    }

    /// Has the calling thread, the reader, unparked from now on; it looks first whether a value waits already.
    pub fn listen(&self) {
        self.slot().reader = Some(std::thread::current());
    }

    /// Takes the value if there is one.
    pub fn try_take(&self) -> Option<T> {
        self.slot().value.take()
    }

    /// Whether a value waits.
    pub fn is_filled(&self) -> bool {
        self.slot().value.is_some()
    }

    pub fn is_closed(&self) -> bool {
        self.slot().closed
    }

    /// Waits for a value; `None` once the mailbox is closed.
    pub fn take(&self) -> Option<T> {
        self.listen();
        loop {
            let mut slot = self.slot();
            if slot.closed || slot.value.is_some() {
                return slot.value.take();
            }
            drop(slot);
            std::thread::park();
        }
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
        let reader = slot.reader.clone();
        drop(slot);
        if let Some(reader) = reader {
            reader.unpark();
        }
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
