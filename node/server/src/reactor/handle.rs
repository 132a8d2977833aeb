//! The cloneable face of the event loop for other threads and for callbacks.
//!
//! Invariant: every method may be called from any thread, at any time, in a callback too.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::schedule::Schedule;
use super::watch_table::WatchTable;
use super::{Counters, Error, Interest, Readiness};

/// Mutexes, because watches and tasks come from any thread; the loop itself holds them for nanoseconds.
pub(super) struct Shared<State> {
    pub(super) table: Mutex<WatchTable<State>>,
    pub(super) schedule: Mutex<Schedule<State>>,
    pub(super) waker: LoopWaker,
    pub(super) is_stopping: AtomicBool,
    pub(super) counters: Counters,
}

impl<State> Shared<State> {
    // A poisoned lock is entered all the same: no user code runs under it, so its content is whole.
    pub(super) fn table(&self) -> MutexGuard<'_, WatchTable<State>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule<State>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends the sleep of one loop, or makes its next sleep end at once. Costs a system call: ask a `SleepFlag` first.
#[derive(Clone, Debug)]
pub struct LoopWaker {
    waker: Arc<mio::Waker>,
}

impl LoopWaker {
    pub(super) fn new(waker: mio::Waker) -> Self {
        Self {
            waker: Arc::new(waker),
        }
    }

    pub fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake the event loop");
        }
    }
}

/// See the module; made by [`EventWatcher::handle`](super::EventWatcher::handle).
pub struct WatcherHandle<State> {
    shared: Arc<Shared<State>>,
}

impl<State> Clone for WatcherHandle<State> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<State: 'static> WatcherHandle<State> {
    pub(super) fn new(shared: Arc<Shared<State>>) -> Self {
        Self { shared }
    }

    /// Calls `callback` on the loop whenever `descriptor` becomes ready for `interest`, beginning now.
    /// A closure without captures costs no memory. The callback must drain: see the module's contract.
    pub fn watch(
        &self,
        descriptor: RawFd,
        interest: Interest,
        callback: impl FnMut(&mut State, Readiness) + Send + 'static,
    ) -> Result<(), Error> {
        let refused = self
            .shared
            .table()
            .watch(descriptor, interest, Box::new(callback));
        refused.map_err(|(error, _callback)| error)
    }

    /// Ends one watch; the other interest of the descriptor stays.
    pub fn unwatch(&self, descriptor: RawFd, interest: Interest) -> Result<(), Error> {
        let removed = self.shared.table().unwatch(descriptor, interest)?;
        drop(removed);
        Ok(())
    }

    /// Ends both watches of a descriptor, if there are any. To be called before it is closed.
    pub fn unwatch_all(&self, descriptor: RawFd) {
        let removed = self.shared.table().unwatch_all(descriptor);
        drop(removed);
    }

    /// Runs `task` on the loop, in the order of the calls of one thread, after the callbacks of that turn.
    pub fn run_in_loop(&self, task: impl FnOnce(&mut State) + Send + 'static) {
        let is_first = self.shared.schedule().push_task(Box::new(task));
        if is_first {
            self.shared.waker.wake();
        }
    }

    /// Runs `task` on the loop, not before `delay` has passed.
    pub fn run_after(&self, delay: Duration, task: impl FnOnce(&mut State) + Send + 'static) {
        let is_next = self
            .shared
            .schedule()
            .push_timer(Instant::now() + delay, Box::new(task));
        if is_next {
            self.shared.waker.wake();
        }
    }

    /// Makes [`EventWatcher::run`](super::EventWatcher::run) return after its present turn.
    pub fn stop(&self) {
        // Release: pairs with the Acquire in EventWatcher::is_stopping().
        self.shared.is_stopping.store(true, Ordering::Release);
        self.shared.waker.wake();
    }

    pub fn waker(&self) -> LoopWaker {
        self.shared.waker.clone()
    }

    /// How often the loop asked the kernel for events.
    pub fn polls_count(&self) -> u64 {
        self.shared.counters.polls.load(Ordering::Relaxed)
    }

    /// How many of the polls a signal interrupted.
    pub fn interrupted_polls_count(&self) -> u64 {
        self.shared.counters.interrupted_polls.load(Ordering::Relaxed)
    }

    /// How many callbacks, tasks and timers panicked.
    pub fn panics_count(&self) -> u64 {
        self.shared.counters.panics.load(Ordering::Relaxed)
    }

    /// Descriptors that are watched now.
    pub fn watched_count(&self) -> usize {
        self.shared.table().watched_count()
    }
}
