//! Waking one thread that sleeps when it finds nothing to do.
//!
//! The thread announces its sleep, looks at its queues once more, and parks, or waits in a loop of events; whoever
//! publishes work for it calls `wake` afterwards. No spinning before the sleep: these machines have more threads than
//! cores, and the few microseconds of it that a channel usually does cost more than the wake they save.
//!
//! Invariant: work published before `wake` is seen by the look after `prepare_sleep`, or the thread is woken.

use std::sync::{Arc, OnceLock};
use std::thread::{self, Thread};
use std::time::Duration;

use bark_queue::SleepFlag;

use crate::reactor::LoopWaker;

/// Shared by one sleeping thread and all who have work for it.
#[derive(Clone, Debug, Default)]
pub struct ThreadWaker {
    flag: SleepFlag,
    sleeper: Arc<OnceLock<Sleeper>>,
}

/// How the thread sleeps.
#[derive(Debug)]
enum Sleeper {
    Parked(Thread),
    InLoop(LoopWaker),
}

impl ThreadWaker {
    /// From any thread, after publishing work. Costs a fence when the thread is awake.
    pub fn wake(&self) {
        if !self.flag.must_wake() {
            return;
        }
        match self.sleeper.get() {
            Some(Sleeper::Parked(thread)) => thread.unpark(),
            Some(Sleeper::InLoop(waker)) => waker.wake(),
            None => {}
        }
    }

    /// The thread will not park but wait for the events of this loop. To be said before it first sleeps.
    pub fn sleep_in(&self, waker: LoopWaker) {
        // Set once, by whoever starts the thread.
        let _ = self.sleeper.set(Sleeper::InLoop(waker));
    }

    /// The sleeper announces its sleep. Next: look at every source of work, then `park` or `cancel_sleep`.
    pub fn prepare_sleep(&self) {
        self.sleeper.get_or_init(|| Sleeper::Parked(thread::current()));
        self.flag.prepare_sleep();
    }

    /// Sleeps until woken or until `wait_max` has passed; may return early.
    pub fn park(&self, wait_max: Option<Duration>) {
        match wait_max {
            Some(wait_max) => thread::park_timeout(wait_max),
            None => thread::park(),
        }
        self.flag.cancel_sleep();
    }

    pub fn cancel_sleep(&self) {
        self.flag.cancel_sleep();
    }
}
