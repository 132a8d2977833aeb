//! How much written data the mount holds before programs have to wait for the cluster.
//!
//! Invariant: `used` is the sum over all files of bytes written and neither stored nor given up.

use std::sync::atomic::{AtomicUsize, Ordering};

use bark_schema::limits::MIB;
use tokio::sync::{Notify, Semaphore};

/// Together with requests, replies and what the allocator keeps, the process stays below 200 MiB.
const WRITTEN_MAX: usize = 48 * MIB;
/// Blocks on their way to their replicas at once.
const UPLOADS_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct Memory {
    used: AtomicUsize,
    freed: Notify,
    pub(crate) uploads: Semaphore,
}

impl Memory {
    pub(crate) fn new() -> Memory {
        Memory {
            used: AtomicUsize::new(0),
            freed: Notify::new(),
            uploads: Semaphore::new(UPLOADS_MAX),
        }
    }

    /// A file now holds `after` bytes instead of `before`.
    pub(crate) fn change(&self, before: usize, after: usize) {
        // Relaxed: the counter guards no other memory.
        if after > before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else if before > after {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.used.load(Ordering::Relaxed) > WRITTEN_MAX
    }

    /// Waits until something was freed, or nothing needs to be.
    pub(crate) async fn freed(&self) {
        let freed = self.freed.notified();
        tokio::pin!(freed);
        freed.as_mut().enable();
        if self.is_full() {
            freed.await;
        }
    }
}
