//! Whether the disk of the log keeps up: a leader whose disk does not is slower than a dead one.
//!
//! Two things tell: syncs the log reports as slow, and how long the log has not answered at all, for a disk that is
//! stuck reports nothing. One slow sync is no reason; a second of them within two is.
//!
//! Invariants:
//! - A disk that was found stalled stays so until it was fine for [`FINE_US`].

use std::collections::VecDeque;

/// A sync that takes longer is slow.
pub const SYNC_SLOW_US: u64 = 200_000;
/// Time in slow syncs, out of the last [`WINDOW_US`], that makes a disk stalled.
const STALLED_US: u64 = 1_000_000;
const WINDOW_US: u64 = 2_000_000;
/// 30 s: so that leaders do not come back between two stalls.
const FINE_US: u64 = 30_000_000;
/// Slow syncs of one window; more cannot be.
const SYNCS_MAX: usize = 16;

#[derive(Default)]
pub struct DiskHealth {
    /// A batch the log has not answered for, and since when.
    awaited: Option<(u64, u64)>,
    /// Slow syncs: when they ended and how long they took.
    slow: VecDeque<(u64, u64)>,
    last_bad_us: Option<u64>,
}

impl DiskHealth {
    /// The worker handed this batch to the log.
    pub fn sent(&mut self, batch: u64, now_us: u64) {
        if self.awaited.is_none() {
            self.awaited = Some((batch, now_us));
        }
    }

    /// The log answered for all up to `batch`; `sent` is the newest the worker handed over.
    pub fn answered(&mut self, batch: u64, sent: u64, now_us: u64) {
        if self.awaited.is_some_and(|(awaited, _)| awaited <= batch) {
            self.awaited = (sent > batch).then_some((sent, now_us));
        }
    }

    /// The log says how long a sync took.
    pub fn synced(&mut self, took_us: u64, now_us: u64) {
        if took_us < SYNC_SLOW_US {
            return;
        }
        if self.slow.len() == SYNCS_MAX {
            self.slow.pop_front();
        }
        self.slow.push_back((now_us, took_us));
    }

    /// Another worker of this node found it stalled.
    pub fn told_stalled(&mut self, now_us: u64) {
        self.last_bad_us = Some(now_us);
    }

    /// Looks again. True if it is found stalled now, and was not before.
    pub fn judge(&mut self, now_us: u64) -> bool {
        let since = now_us.saturating_sub(WINDOW_US);
        while self.slow.front().is_some_and(|(ended_us, _)| *ended_us < since) {
            self.slow.pop_front();
        }
        let in_window = |(ended_us, took_us): &(u64, u64)| (*took_us).min(ended_us.saturating_sub(since));
        let running_us = self
            .awaited
            .map_or(0, |(_, since_us)| now_us.saturating_sub(since_us));
        let slow_us: u64 = self.slow.iter().map(in_window).sum();
        let was_stalled = self.is_stalled(now_us);
        if slow_us >= STALLED_US || running_us >= STALLED_US || (was_stalled && slow_us > 0) {
            self.last_bad_us = Some(now_us);
        }
        !was_stalled && self.is_stalled(now_us)
    }

    pub fn is_stalled(&self, now_us: u64) -> bool {
        self.last_bad_us
            .is_some_and(|last_us| now_us.saturating_sub(last_us) < FINE_US)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_of_slow_syncs_makes_a_disk_stalled_until_it_was_fine_for_long() {
        // Goal: one hiccup moves nothing; a slow disk is found within two seconds and trusted again after thirty.
        let mut health = DiskHealth::default();
        health.synced(900_000, 1_000_000);
        assert!(!health.judge(1_000_000));
        let mut health = DiskHealth::default();
        let mut now_us = 5_000_000;
        while !health.is_stalled(now_us) {
            now_us += 300_000;
            assert!(now_us < 7_000_000, "300 ms a sync is too slow");
            health.synced(300_000, now_us);
            health.judge(now_us);
        }
        assert!(health.is_stalled(now_us + FINE_US - 1));
        health.judge(now_us + FINE_US);
        assert!(!health.is_stalled(now_us + FINE_US));
        health.synced(150_000, now_us + FINE_US);
        assert!(!health.judge(now_us + FINE_US), "that is fast enough");
    }

    #[test]
    fn a_log_that_does_not_answer_is_found_without_a_report() {
        // Goal: a stuck sync says nothing. Method: a batch without an answer, and one with.
        let mut health = DiskHealth::default();
        health.sent(1, 0);
        health.answered(1, 1, 1_000);
        assert!(!health.judge(5_000_000), "nothing is awaited");
        health.sent(2, 5_000_000);
        health.sent(3, 5_500_000);
        health.answered(2, 3, 5_600_000);
        assert!(!health.judge(6_500_000), "batch 3 is awaited since 5.6 s");
        assert!(health.judge(6_600_000));
        assert!(!health.judge(6_700_000), "it is told once");
    }
}
