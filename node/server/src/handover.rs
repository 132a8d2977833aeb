//! Jobs on their way from a worker to the log thread or to the disk thread.
//!
//! Previous in the flow: `worker_thread`, which may not block. Next: `log_thread`, `storage_thread`.
//!
//! Their channels are bounded: one that is full means the disk is far behind. What does not fit stays here, in
//! order, and as long as something does the worker takes nothing more from its sockets, so that what stays is
//! bounded by what had been taken.
//!
//! Invariants:
//! - Jobs arrive in the order they were given.
//! - `send` and `flush` never wait.

use std::collections::VecDeque;

use crossbeam_channel::{Sender, TrySendError};

pub struct Handover<T> {
    channel: Sender<T>,
    rest: VecDeque<T>,
}

impl<T> Handover<T> {
    pub fn new(channel: Sender<T>) -> Handover<T> {
        Handover {
            channel,
            rest: VecDeque::new(),
        }
    }

    pub fn send(&mut self, job: T) {
        self.rest.push_back(job);
        self.flush();
    }

    /// Sends what found no room before.
    pub fn flush(&mut self) {
        while let Some(job) = self.rest.pop_front() {
            match self.channel.try_send(job) {
                Ok(()) => {}
                Err(TrySendError::Full(job)) => {
                    self.rest.push_front(job);
                    return;
                }
                Err(TrySendError::Disconnected(_)) => {
                    tracing::debug!("the node is stopping");
                    self.rest.clear();
                }
            }
        }
    }

    pub fn is_backlogged(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Sends the rest, waiting for room: for the end of the worker, when it has nothing else to do.
    pub fn finish(&mut self) {
        for job in self.rest.drain(..) {
            if self.channel.send(job).is_err() {
                tracing::debug!("the node is stopping");
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_channel_keeps_the_order_and_blocks_nobody() {
        // Goal: the worker goes on while the disk is behind. Method: more jobs than the channel holds, no receiver at work.
        let (sender, receiver) = crossbeam_channel::bounded(2);
        let mut handover = Handover::new(sender);
        for job in 0..10 {
            handover.send(job);
        }
        assert!(handover.is_backlogged());
        let mut received = Vec::new();
        while received.len() < 10 {
            received.extend(receiver.try_iter());
            handover.flush();
        }
        assert!(!handover.is_backlogged());
        assert_eq!(received, (0..10).collect::<Vec<_>>());
        handover.send(10);
        drop(receiver);
        handover.send(11);
        handover.finish();
    }
}
