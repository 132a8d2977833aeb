//! The network thread's end of the rings.
//!
//! Invariants
//! - A worker is unparked at most once per `publish`, after everything for it is visible.
//! - Chunks are pushed only where there is room; only control messages, few per connection, may overflow.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bark_queue::{SleepFlag, notify, spsc};

use super::{FromWorker, Link, ToWorker};
use crate::thread_waker::ThreadWaker;

#[derive(Debug)]
pub struct NetworkPort {
    index: u16,
    inbox: notify::Consumer<FromWorker>,
    flag: SleepFlag,
    links: Vec<ToWorkerLink>,
    ring_bytes_max: u64,
}

#[derive(Debug)]
struct ToWorkerLink {
    ring: spsc::Producer<ToWorker>,
    overflow: VecDeque<ToWorker>,
    bytes_given: u64,
    writes_taken: u64,
    shared: Arc<Link>,
    waker: ThreadWaker,
    is_waiting: bool,
}

impl NetworkPort {
    pub(super) fn new(
        index: u16,
        inbox: notify::Consumer<FromWorker>,
        flag: SleepFlag,
        ring_bytes_max: u64,
    ) -> Self {
        Self {
            index,
            inbox,
            flag,
            links: Vec::new(),
            ring_bytes_max,
        }
    }

    pub(super) fn add_link(&mut self, ring: spsc::Producer<ToWorker>, shared: Arc<Link>, waker: ThreadWaker) {
        let overflow = VecDeque::new();
        self.links.push(ToWorkerLink {
            ring,
            overflow,
            bytes_given: 0,
            writes_taken: 0,
            shared,
            waker,
            is_waiting: false,
        });
    }

    pub fn index(&self) -> u16 {
        self.index
    }

    pub fn workers_count(&self) -> usize {
        self.links.len()
    }

    /// Takes up to `count_max` commands, with the worker each came from.
    pub fn take(&mut self, count_max: usize, commands: &mut Vec<(usize, FromWorker)>) {
        let links = &mut self.links;
        let taken = self.inbox.drain(count_max, |worker, command| {
            if let FromWorker::Write { bytes, .. } = &command {
                links[worker].writes_taken += bytes.len() as u64;
            }
            commands.push((worker, command));
        });
        if taken == 0 {
            return;
        }
        for link in &self.links {
            // Relaxed: a budget, it orders nothing.
            link.shared
                .writes_taken
                .store(link.writes_taken, Ordering::Relaxed);
            if link.shared.worker_waits.must_wake() {
                link.waker.wake();
            }
        }
    }

    /// Whether one more chunk may go to `worker`; otherwise its sockets must wait.
    pub fn has_room(&mut self, worker: usize) -> bool {
        let ring_bytes_max = self.ring_bytes_max;
        self.links[worker].has_room(ring_bytes_max)
    }

    /// Visible to the worker after [`publish`](Self::publish).
    pub fn push(&mut self, worker: usize, message: ToWorker) {
        let link = &mut self.links[worker];
        if let ToWorker::Chunk { bytes, .. } = &message {
            link.bytes_given += bytes.capacity() as u64;
        }
        if !link.overflow.is_empty() {
            link.overflow.push_back(message);
        } else if let Err(full) = link.ring.push_unpublished(message) {
            link.overflow.push_back(full.0);
        }
    }

    pub fn publish(&mut self) {
        for link in &mut self.links {
            link.retry_overflow();
            if link.ring.unpublished_len() > 0 {
                link.ring.publish();
                link.waker.wake();
            }
        }
    }

    /// Announces the sleep. False: something came, or a full ring has room again, so go on instead.
    pub fn prepare_sleep(&mut self) -> bool {
        self.flag.prepare_sleep();
        let mut may_sleep = self.inbox.is_empty();
        for link in self
            .links
            .iter_mut()
            .filter(|link| link.is_waiting || !link.overflow.is_empty())
        {
            link.shared.network_waits.prepare_sleep();
            if link.has_room(self.ring_bytes_max) || (!link.overflow.is_empty() && link.ring.free() > 0) {
                may_sleep = false;
            }
        }
        if !may_sleep {
            self.flag.cancel_sleep();
        }
        may_sleep
    }

    pub fn cancel_sleep(&mut self) {
        self.flag.cancel_sleep();
    }
}

impl ToWorkerLink {
    fn has_room(&mut self, ring_bytes_max: u64) -> bool {
        // Relaxed: a budget, it orders nothing; a late value only delays.
        let bytes_in_ring = self.bytes_given - self.shared.bytes_taken.load(Ordering::Relaxed);
        let has_room = self.overflow.is_empty() && self.ring.free() > 0 && bytes_in_ring < ring_bytes_max;
        self.is_waiting = !has_room;
        has_room
    }

    fn retry_overflow(&mut self) {
        while let Some(message) = self.overflow.pop_front() {
            if let Err(full) = self.ring.push_unpublished(message) {
                self.overflow.push_front(full.0);
                return;
            }
        }
    }
}
