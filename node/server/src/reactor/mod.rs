//! The event loop: waits for file descriptors, timers and tasks, and runs their callbacks on one thread.
//!
//! Next: `network`, the thread that moves bytes between sockets and workers, is built on it.
//!
//! Design. One Mio `Poll`, one `Waker`. A watch is registered with the kernel by the thread that asks for it, so it
//! takes effect, and reports its error, at once, even while the loop sleeps. Callbacks get the state of the loop as
//! `&mut State`: state needs no lock, only the table of watches has one, and no callback ever runs under it. The price
//! is an uncontended lock for each event, some 20 ns beside a system call of a microsecond.
//!
//! **Contract of a callback: drain.** Mio is edge-triggered. A callback reads (or writes, or accepts) until
//! `WouldBlock`, or a short read of a stream socket, or remembers that it did not and goes on later without waiting for
//! an event. `unwatch` followed by `watch` re-arms: what is ready at that moment is reported again. Calls may be
//! spurious, so `WouldBlock` at the first attempt is normal.
//!
//! | case | what happens |
//! | --- | --- |
//! | watch of a watched (descriptor, interest) | `Error::AlreadyWatched`; the first watch stays |
//! | unwatch of what is not watched | `Error::NotWatched` |
//! | unwatch of one interest | the other one stays |
//! | unwatch inside the own callback | the callback finishes, then is dropped |
//! | unwatch from another thread | no new call begins; one that has begun may still be running |
//! | unwatch with events already collected | they are dropped, even if the descriptor number is in use again |
//! | a callback, task or timer panics | logged; the watch is removed; the loop goes on |
//! | a signal interrupts the wait | counted; the loop goes on |
//!
//! Invariants
//! - Whoever closes a descriptor unwatches it first: the kernel gives its number to the next one.
//! - Callbacks, tasks and timers run on the loop's thread only, one at a time.
//! - No user code, not even a destructor, runs while the table is locked.
//! - An idle loop sleeps: no tick, no poll without a reason.

mod handle;
mod schedule;
mod watch_table;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::{Events, Poll, Token};

use handle::Shared;
pub use handle::{LoopWaker, WatcherHandle};
pub use watch_table::{Interest, Readiness};

/// Cannot be a watch: the lower half of a watch's token is a descriptor, which is never negative.
const WAKER_TOKEN: Token = Token(usize::MAX);

// 1024: one epoll_wait returns at most this many events; the rest comes with the next one.
const EVENTS_PER_POLL_MAX: usize = 1024;

/// Why a watch could not be changed, or the loop could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("descriptor {descriptor}: {interest:?} is watched already")]
    AlreadyWatched { descriptor: i32, interest: Interest },
    #[error("descriptor {descriptor}: {interest:?} is not watched")]
    NotWatched { descriptor: i32, interest: Interest },
    #[error("descriptor {descriptor}: cannot be watched")]
    Register { descriptor: i32, source: io::Error },
    #[error("waiting for events")]
    Poll(#[source] io::Error),
    #[error("creating the event loop")]
    Create(#[source] io::Error),
}

/// What the loop has done so far.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    polls: AtomicU64,
    interrupted_polls: AtomicU64,
    panics: AtomicU64,
}

/// The loop itself; lives on the thread that runs it. Everything else talks to it through [`WatcherHandle`].
pub struct EventWatcher<State> {
    poll: Poll,
    events: Events,
    shared: Arc<Shared<State>>,
}

impl<State: 'static> EventWatcher<State> {
    pub fn open() -> Result<Self, Error> {
        let poll = Poll::new().map_err(Error::Create)?;
        let waker = mio::Waker::new(poll.registry(), WAKER_TOKEN).map_err(Error::Create)?;
        let registry = poll.registry().try_clone().map_err(Error::Create)?;
        let shared = Arc::new(Shared {
            table: watch_table::WatchTable::new(registry).into(),
            schedule: schedule::Schedule::new().into(),
            waker: LoopWaker::new(waker),
            is_stopping: AtomicBool::new(false),
            counters: Counters::default(),
        });
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_PER_POLL_MAX),
            shared,
        })
    }

    /// A handle for other threads and for callbacks; clones are cheap.
    pub fn handle(&self) -> WatcherHandle<State> {
        WatcherHandle::new(Arc::clone(&self.shared))
    }

    /// Turns until [`WatcherHandle::stop`].
    pub fn run(&mut self, state: &mut State) -> Result<(), Error> {
        while !self.is_stopping() {
            self.turn(state, None)?;
        }
        Ok(())
    }

    /// Whether [`WatcherHandle::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.shared.is_stopping.load(Ordering::Acquire) // pairs with the Release in stop()
    }

    /// Waits once, at most `wait_max`, then runs what became ready: callbacks, timers, tasks, in this order.
    pub fn turn(&mut self, state: &mut State, wait_max: Option<Duration>) -> Result<(), Error> {
        let until_timer = self.shared.schedule().wait_max(Instant::now());
        let timeout = match (wait_max, until_timer) {
            (Some(first), Some(second)) => Some(first.min(second)),
            (first, second) => first.or(second),
        };
        self.shared.counters.polls.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = self.poll.poll(&mut self.events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(Error::Poll(error));
            }
            self.shared
                .counters
                .interrupted_polls
                .fetch_add(1, Ordering::Relaxed);
            self.events.clear();
        }
        self.run_callbacks(state);
        self.run_scheduled(state);
        Ok(())
    }

    fn run_callbacks(&mut self, state: &mut State) {
        for event in &self.events {
            if event.token() == WAKER_TOKEN {
                continue;
            }
            let readiness = |descriptor| Readiness {
                descriptor,
                is_closed: event.is_read_closed() || event.is_write_closed() || event.is_error(),
            };
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                run_callback(&self.shared, state, event.token(), Interest::Read, readiness);
            }
            if event.is_writable() || event.is_write_closed() || event.is_error() {
                run_callback(&self.shared, state, event.token(), Interest::Write, readiness);
            }
        }
    }

    fn run_scheduled(&mut self, state: &mut State) {
        let due = self.shared.schedule().take_due(Instant::now());
        for task in due {
            if catch_unwind(AssertUnwindSafe(|| task(state))).is_err() {
                self.shared.counters.panics.fetch_add(1, Ordering::Relaxed);
                tracing::error!("a task of the event loop panicked");
            }
        }
    }
}

fn run_callback<State>(
    shared: &Shared<State>,
    state: &mut State,
    token: Token,
    interest: Interest,
    readiness: impl Fn(i32) -> Readiness,
) {
    // The callback is out of the table while it runs, so that it may change the table itself.
    let Some((descriptor, mut callback)) = shared.table().begin(token, interest) else {
        return;
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| callback(state, readiness(descriptor))));
    let leftover = if outcome.is_ok() {
        shared.table().put_back(token, interest, callback)
    } else {
        shared.counters.panics.fetch_add(1, Ordering::Relaxed);
        tracing::error!(
            descriptor,
            ?interest,
            "a callback of the event loop panicked; its watch is removed"
        );
        shared.table().end_after_panic(token, interest);
        Some(callback)
    };
    // Dropped here, not under the lock: a destructor is user code, and may panic as well.
    if catch_unwind(AssertUnwindSafe(|| drop(leftover))).is_err() {
        tracing::error!(descriptor, "dropping a callback of the event loop panicked");
    }
}
