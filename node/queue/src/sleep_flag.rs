//! One flag per sleeping thread: whoever publishes work for it learns whether it must be woken, at most once.
//!
//! Design. A wake-up costs 1-2 µs to the waker and 4 µs to the sleeper, some 25 hand-offs through a queue, so it
//! must happen only when the reader really sleeps, and once per batch. This is the classic Dekker handshake:
//!
//! ```text
//! writer                          sleeper
//!   publish to the queue            prepare_sleep()      flag = true, fence
//!   if flag.must_wake() { wake }    recheck ALL queues   found something: cancel_sleep(), go on
//!          fence, read flag         block                park, poll, ...
//!                                   cancel_sleep()       after any return, woken or not
//! ```
//! Of the two fences one is first. If the writer's is, the recheck sees the published work. If the sleeper's is,
//! the writer sees the flag. So never both miss, which is the only thing this module promises.
//!
//! It does not block and does not wake: `thread::park`, a poll and a test are all welcome. They must remember a wake
//! that comes before the block begins (a park token, an eventfd: both do).
//!
//! Invariants
//! - A batch published before `must_wake` is seen by the recheck, or `must_wake` is true for some writer.
//! - For each `prepare_sleep` at most one `must_wake` is true.
//! - A wake may be spurious: the sleeper looks at its queues again and does not trust the reason.

use crate::cache_padded::CachePadded;
use crate::sync::{Arc, AtomicBool, Ordering, fence};

/// Shared by one sleeper and all who publish for it. Cloning gives another handle to the same flag.
#[derive(Clone, Debug)]
pub struct SleepFlag {
    is_sleeping: Arc<CachePadded<AtomicBool>>,
}

impl Default for SleepFlag {
    fn default() -> Self {
        Self::new()
    }
}

impl SleepFlag {
    /// A flag whose owner is awake.
    pub fn new() -> Self {
        Self {
            is_sleeping: Arc::new(CachePadded(AtomicBool::new(false))),
        }
    }

    /// Sleeper: announces that it is about to block. Look at every queue once more after this and before blocking.
    pub fn prepare_sleep(&self) {
        // A swap, not a store, here and in cancel_sleep(): every write of the flag is then a read-modify-write, one
        // after the other. Loom reports a deadlock with stores mixed in; by the standard's rules they would do, but
        // 5 ns before a sleep of microseconds buy a model without exceptions.
        self.is_sleeping.swap(true, Ordering::Relaxed);
        // SeqCst: pairs with the fence in must_wake(). Orders the flag before the sleeper's recheck.
        fence(Ordering::SeqCst);
    }

    /// Sleeper: is awake again, because the recheck found work or because blocking returned.
    pub fn cancel_sleep(&self) {
        // Relaxed: a writer that still reads true only causes one spurious wake.
        self.is_sleeping.swap(false, Ordering::Relaxed);
    }

    /// Writer, after publishing: whether this caller, and no other, must wake the sleeper.
    #[inline]
    #[must_use = "a sleeper that nobody wakes sleeps for ever"]
    pub fn must_wake(&self) -> bool {
        // SeqCst: pairs with the fence in prepare_sleep(). Orders the published work before the read of the flag.
        fence(Ordering::SeqCst);
        // The plain read keeps the line shared while the reader is awake, which under load is always.
        // The swap elects one writer; Relaxed, since the queues, not the flag, carry the data.
        self.is_sleeping.load(Ordering::Relaxed) && self.is_sleeping.swap(false, Ordering::Relaxed)
    }
}
