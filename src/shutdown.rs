//! Waiting for those who are still inside before the lights go out.

use std::time::Duration;

use tokio::sync::watch;

/// Counts who is inside: open sockets, running sessions.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::time::Duration;
/// let inside = vigie::shutdown::Inside::default();
/// let one = inside.enter();
/// assert!(!inside.emptied(Duration::ZERO).await);
/// drop(one);
/// assert!(inside.emptied(Duration::ZERO).await);
/// # });
/// ```
#[derive(Clone, Debug, Default)]
pub struct Inside {
    count: watch::Sender<usize>,
}

/// Somebody inside, until dropped.
#[derive(Debug)]
pub struct Presence {
    count: watch::Sender<usize>,
}

impl Inside {
    pub fn enter(&self) -> Presence {
        self.count.send_modify(|count| *count += 1);
        Presence { count: self.count.clone() }
    }

    /// Waits until nobody is inside; `false` if somebody still is after `limit`.
    pub async fn emptied(&self, limit: Duration) -> bool {
        let mut count = self.count.subscribe();
        tokio::time::timeout(limit, count.wait_for(|count| *count == 0)).await.is_ok()
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.count.send_modify(|count| *count -= 1);
    }
}
