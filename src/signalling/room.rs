//! The memory for what people send while it passes through a front: pictures whole, videos by parts.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory that is shared out among those who send, one place a KiB. Clones share it.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Room {
    pub fn of_mib(mib: u32) -> Self {
        Self(Arc::new(Semaphore::new((mib as usize) << 10)))
    }

    /// Room for so many bytes, until it is dropped; `None` while others have too much of it.
    pub fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let places = bytes.div_ceil(1 << 10).max(1);
        Arc::clone(&self.0).try_acquire_many_owned(u32::try_from(places).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_given_again() {
        let room = Room::of_mib(1);
        let half = room.take(512 << 10).unwrap();
        let rest = room.clone().take((512 << 10) - 1).unwrap();
        assert!(room.take(1).is_none());
        drop(half);
        assert!(room.take((512 << 10) + 1).is_none());
        drop(rest);
        assert!(room.take(1 << 20).is_some() && room.take((1 << 20) + 1).is_none());
    }
}
