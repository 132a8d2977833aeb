//! The worker's end of the rings: `poll` → step → `send` → `flush` → `prepare_sleep` → `park`.
//!
//! A worker that serves its sockets on its own thread sleeps in their loop instead of parking, see `sleep_in`.
//!
//! Invariants
//! - A network thread is woken at most once per `flush`, and only if it sleeps.
//! - `send` never blocks and never loses: what does not fit waits here, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bark_queue::{notify, spsc};

use super::{FromWorker, Link, ToWorker};
use crate::reactor::LoopWaker;
use crate::thread_waker::ThreadWaker;

/// Bytes on their way to one network thread. It writes a gigabyte a second or so.
const WRITES_BYTES_MAX: u64 = 16 << 20;

#[derive(Debug)]
pub struct WorkerPort {
    links: Vec<ToNetworkLink>,
    waker: ThreadWaker,
}

#[derive(Debug)]
struct ToNetworkLink {
    inbox: spsc::Consumer<ToWorker>,
    outbox: notify::Producer<FromWorker>,
    overflow: VecDeque<FromWorker>,
    bytes_taken: u64,
    writes_given: u64,
    shared: Arc<Link>,
    network_waker: LoopWaker,
}

impl WorkerPort {
    pub(super) fn new() -> Self {
        let waker = ThreadWaker::default();
        Self {
            links: Vec::new(),
            waker,
        }
    }

    pub(super) fn add_link(
        &mut self,
        inbox: spsc::Consumer<ToWorker>,
        outbox: notify::Producer<FromWorker>,
        shared: Arc<Link>,
        network_waker: LoopWaker,
    ) {
        let overflow = VecDeque::new();
        self.links.push(ToNetworkLink {
            inbox,
            outbox,
            overflow,
            bytes_taken: 0,
            writes_given: 0,
            shared,
            network_waker,
        });
    }

    pub fn network_threads_count(&self) -> usize {
        self.links.len()
    }

    /// The worker will not park but wait for the events of this loop. To be said before it first sleeps.
    pub fn sleep_in(&mut self, waker: LoopWaker) {
        self.waker.sleep_in(waker);
    }

    /// For other threads that have work for this worker.
    pub fn waker(&self) -> ThreadWaker {
        self.waker.clone()
    }

    /// Takes everything that is published, at most one ring's capacity from each network thread.
    pub fn poll(&mut self, messages: &mut Vec<ToWorker>) {
        for link in &mut self.links {
            let first = messages.len();
            let count_max = link.inbox.capacity();
            messages.extend(link.inbox.drain(count_max));
            if messages.len() == first {
                continue;
            }
            for message in &messages[first..] {
                if let ToWorker::Chunk { bytes, .. } = message {
                    link.bytes_taken += bytes.capacity() as u64;
                }
            }
            // Relaxed: a budget; must_wake()'s fence orders it before the look at the flag.
            link.shared.bytes_taken.store(link.bytes_taken, Ordering::Relaxed);
            if link.shared.network_waits.must_wake() {
                link.network_waker.wake();
            }
        }
    }

    /// Hands a command to the network thread it names; visible after [`flush`](Self::flush).
    ///
    /// Panics: if there is no such network thread, which no connection id from here names.
    pub fn send(&mut self, command: FromWorker) {
        let link = &mut self.links[usize::from(command.network_thread())];
        if let FromWorker::Write { bytes, .. } = &command {
            link.writes_given += bytes.len() as u64;
        }
        if !link.overflow.is_empty() {
            link.overflow.push_back(command);
        } else if let Err(full) = link.outbox.push(command) {
            link.overflow.push_back(full.0);
        }
    }

    /// Whether more may be given to a network thread to write; otherwise it has enough for some milliseconds.
    pub fn has_room_for_writes(&self, network_thread: u16) -> bool {
        let link = &self.links[usize::from(network_thread)];
        // Relaxed: a budget, it orders nothing; a late value only delays.
        link.writes_given - link.shared.writes_taken.load(Ordering::Relaxed) < WRITES_BYTES_MAX
    }

    /// Publishes what was sent, with at most one wake per network thread.
    pub fn flush(&mut self) {
        self.links.iter_mut().for_each(ToNetworkLink::flush);
    }

    /// Whether commands wait for room: the worker should take no new work that produces more of them.
    pub fn is_backlogged(&self) -> bool {
        self.links.iter().any(|link| !link.overflow.is_empty())
    }

    /// Announces the sleep. False: something came meanwhile, so go on instead. True: look at all other sources of work
    /// once more, then [`park`](Self::park), or [`cancel_sleep`](Self::cancel_sleep).
    pub fn prepare_sleep(&mut self) -> bool {
        self.prepare_rest();
        let mut may_sleep = true;
        for link in &mut self.links {
            if !link.overflow.is_empty() {
                link.shared.worker_waits.prepare_sleep();
                may_sleep &= link.outbox.free() == 0;
            }
            may_sleep &= link.inbox.is_empty();
        }
        if !may_sleep {
            self.waker.cancel_sleep();
        }
        may_sleep
    }

    /// Sleeps until woken or until `wait_max` has passed; may return early.
    pub fn park(&mut self, wait_max: Duration) {
        self.waker.park(Some(wait_max));
    }

    /// Announces a sleep although there may be work from the network, which is not to be taken now. Other threads
    /// still end it.
    pub fn prepare_rest(&mut self) {
        self.waker.prepare_sleep();
    }

    pub fn cancel_sleep(&mut self) {
        self.waker.cancel_sleep();
    }
}

impl ToNetworkLink {
    fn flush(&mut self) {
        while let Some(command) = self.overflow.pop_front() {
            if let Err(full) = self.outbox.push(command) {
                self.overflow.push_front(full.0);
                break;
            }
        }
        if self.outbox.publish() {
            self.network_waker.wake();
        }
    }
}
