//! Jobs on their way from the workers to the log thread or to the disk thread.
//!
//! Previous in the flow: `worker_thread`, which may not block. Next: `log_thread`, `storage_thread`.
//!
//! The channel is bounded: one that is full means the disk is far behind. What does not fit stays with the worker, in
//! order, and as long as something does the worker takes nothing more from its sockets, so that what stays is
//! bounded by what had been taken.
//!
//! Invariants:
//! - Jobs of one worker arrive in the order they were given.
//! - `send` and `flush` never wait.
//! - The receiving thread sleeps only while the channel is empty and somebody may still send.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError};

use crate::thread_waker::ThreadWaker;

/// One worker's end.
pub struct Handover<T> {
    // Before the bell: when the last sender goes, the receiver is woken and finds that it was the last.
    channel: Sender<T>,
    bell: Bell,
    rest: VecDeque<T>,
}

/// The end of the thread that does the jobs.
pub struct Jobs<T> {
    channel: Receiver<T>,
    waker: ThreadWaker,
}

/// Rings when it is dropped, too.
struct Bell(ThreadWaker);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.wake();
    }
}

/// Every sender is gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Finished;

/// A channel for `jobs_max` jobs.
pub fn handover<T>(jobs_max: usize) -> (Handover<T>, Jobs<T>) {
    let (sender, receiver) = crossbeam_channel::bounded(jobs_max);
    let waker = ThreadWaker::default();
    let handover = Handover {
        channel: sender,
        bell: Bell(waker.clone()),
        rest: VecDeque::new(),
    };
    let jobs = Jobs {
        channel: receiver,
        waker,
    };
    (handover, jobs)
}

impl<T> Clone for Handover<T> {
    /// Another sending end; what this one could not send yet stays with it.
    fn clone(&self) -> Handover<T> {
        Handover {
            channel: self.channel.clone(),
            bell: Bell(self.bell.0.clone()),
            rest: VecDeque::new(),
        }
    }
}

impl<T> Handover<T> {
    pub fn send(&mut self, job: T) {
        self.rest.push_back(job);
        self.flush();
    }

    /// Sends what found no room before.
    pub fn flush(&mut self) {
        let count = self.rest.len();
        while let Some(job) = self.rest.pop_front() {
            match self.channel.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.rest.push_front(job);
                    break;
                }
                Err(TrySendError::Disconnected(_)) => {
                    tracing::debug!("the node is stopping");
                    self.rest.clear();
                }
            }
        }
        if self.rest.len() < count {
            self.bell.0.wake();
        }
    }

    pub fn is_backlogged(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Sends the rest, waiting for room: for the end of the worker, when it has nothing else to do.
    pub fn finish(&mut self) {
        for job in std::mem::take(&mut self.rest) {
            if self.channel.send(job).is_err() {
                tracing::debug!("the node is stopping");
                return;
            }
            self.bell.0.wake();
        }
    }
}

impl<T> Jobs<T> {
    /// The next job; none if there is none for `wait_max`, or, without that, never none.
    pub fn next(&self, wait_max: Option<Duration>) -> Result<Option<T>, Finished> {
        let deadline = wait_max.map(|wait_max| Instant::now() + wait_max);
        loop {
            if let Some(job) = self.try_next()? {
                return Ok(Some(job));
            }
            self.waker.prepare_sleep();
            match self.try_next() {
                Ok(None) => {}
                found => {
                    self.waker.cancel_sleep();
                    return found;
                }
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                self.waker.cancel_sleep();
                return Ok(None);
            }
            self.waker.park(left);
        }
    }

    /// The next job, if there is one.
    pub fn try_next(&self) -> Result<Option<T>, Finished> {
        match self.channel.try_recv() {
            Ok(job) => Ok(Some(job)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(Finished),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.channel.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_keeps_the_order_and_blocks_nobody() {
        // Goal: the worker goes on while the disk is behind. Method: more jobs than the channel holds, no receiver at work.
        let (mut handover, jobs) = handover(2);
        for job in 0..10 {
            handover.send(job);
        }
        assert!(handover.is_backlogged());
        let mut received = Vec::new();
        while received.len() < 10 {
            while let Ok(Some(job)) = jobs.try_next() {
                received.push(job);
            }
            handover.flush();
        }
        assert!(!handover.is_backlogged());
        assert_eq!(received, (0..10).collect::<Vec<_>>());
        handover.send(10);
        drop(jobs);
        handover.send(11);
        handover.finish();
    }

    #[test]
    fn a_sleeping_receiver_gets_every_job_and_learns_of_the_end() {
        // Goal: no wake is lost. Method: two senders, one job at a time, a receiver that sleeps without a limit.
        const JOBS: usize = 20_000;
        let (first, jobs) = handover(4);
        let receiver = std::thread::spawn(move || {
            let mut received = 0;
            while let Ok(job) = jobs.next(None) {
                received += job.unwrap_or(0);
            }
            received
        });
        let senders = [first.clone(), first].map(|mut handover| {
            std::thread::spawn(move || {
                for _ in 0..JOBS {
                    handover.send(1);
                    while handover.is_backlogged() {
                        std::thread::yield_now();
                        handover.flush();
                    }
                }
            })
        });
        for sender in senders {
            sender.join().unwrap();
        }
        assert_eq!(receiver.join().unwrap(), 2 * JOBS);
    }

    #[test]
    fn waiting_ends_without_a_job() {
        // Goal: whoever has something else to do is not kept. Method: an empty channel and a short wait.
        let (handover, jobs) = handover::<u8>(1);
        assert_eq!(jobs.next(Some(Duration::from_millis(1))), Ok(None));
        drop(handover);
        assert_eq!(jobs.next(None), Err(Finished));
    }
}
