//! When a block is asked for a second time, of another node: later than nearly all blocks come.
//!
//! A node whose disk stalls, or that a crowd of others waits for, holds up only the first of those who read from it: once
//! another node was faster though it was asked later, the slow one is asked last for a moment.
//!
//! Invariant: of so many reads one at most is asked for twice, but for those that wait for a node found slow. So a
//! cluster that is slow as a whole is not made slower.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bark_schema::ids::NodeNumber;
use bark_schema::limits::KIB;
use tokio::time::Instant;

/// Reads up to this size take about the same time; larger ones longer.
const SMALL_SIZE_MAX: u32 = 64 * KIB as u32;
/// Reads for each that may be asked for twice. So many may be saved up.
const READS_PER_HEDGE: u32 = 20;
const SAVED_MAX: u32 = 8 * READS_PER_HEDGE;
/// For how long a node that was found slow is asked last.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// What this client has seen of reads.
#[derive(Debug)]
pub(crate) struct Hedges {
    small: Percentile95,
    large: Percentile95,
    saved: AtomicU32,
    /// Some node may be in `slow`.
    has_slow: AtomicBool,
    slow: Mutex<BTreeMap<NodeNumber, Instant>>,
}

impl Hedges {
    pub(crate) fn new() -> Hedges {
        Hedges {
            small: Percentile95::new(),
            large: Percentile95::new(),
            saved: AtomicU32::new(READS_PER_HEDGE),
            has_slow: AtomicBool::new(false),
            slow: Mutex::default(),
        }
    }

    /// For how long a node that is asked for so many bytes is waited for alone.
    pub(super) fn patience(&self, length: u32) -> Duration {
        self.times(length).get()
    }

    /// A read was answered so long after it began.
    pub(super) fn note(&self, length: u32, took: Duration) {
        self.times(length).note(took);
        let save = |saved: u32| (saved < SAVED_MAX).then_some(saved + 1);
        // Full is full.
        let _ = self
            .saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, save);
    }

    /// Another node answered first, though it was asked later.
    pub(super) fn was_slow(&self, node: NodeNumber) {
        self.lock().insert(node, Instant::now());
        self.has_slow.store(true, Ordering::Relaxed);
    }

    /// Whether a node was slow a moment ago.
    pub(super) fn is_slow(&self, node: NodeNumber) -> bool {
        if !self.has_slow.load(Ordering::Relaxed) {
            return false;
        }
        let mut slow = self.lock();
        slow.retain(|_, since| since.elapsed() < SLOW_FOR);
        self.has_slow.store(!slow.is_empty(), Ordering::Relaxed);
        slow.contains_key(&node)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeNumber, Instant>> {
        // Nothing panics while it is held.
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one more that waits for `node` may be asked for twice; it is, then.
    pub(super) fn take(&self, node: NodeNumber) -> bool {
        if self.is_slow(node) {
            return true;
        }
        let spend = |saved: u32| saved.checked_sub(READS_PER_HEDGE);
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend)
            .is_ok()
    }

    fn times(&self, length: u32) -> &Percentile95 {
        match length <= SMALL_SIZE_MAX {
            true => &self.small,
            false => &self.large,
        }
    }
}

/// What 95 of 100 values are below, about: it goes up 19 times as far for one above it as down for one below.
#[derive(Debug)]
struct Percentile95 {
    micros: AtomicU64,
}

impl Percentile95 {
    /// Less is noise, and nobody waits for longer.
    const MIN: u64 = 5_000;
    const MAX: u64 = 500_000;
    const FIRST: u64 = 50_000;
    const STEPS: u64 = 256;

    fn new() -> Percentile95 {
        Percentile95 {
            micros: AtomicU64::new(Percentile95::FIRST),
        }
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    /// Of two threads that do this at once one counts: it is an estimate.
    fn note(&self, took: Duration) {
        let known = self.micros.load(Ordering::Relaxed);
        let step = known / Percentile95::STEPS;
        let next = match took > Duration::from_micros(known) {
            true => known + 19 * step,
            false => known - step,
        };
        let next = next.clamp(Percentile95::MIN, Percentile95::MAX);
        self.micros.store(next, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_comes_to_what_few_reads_exceed() {
        // Goal: the estimate finds the 95th percentile from above and from below. Method: times of 1 to 100 ms in turn, and small reads apart.
        let hedges = Hedges::new();
        for scale in [1, 4] {
            for round in 0..20_000_u64 {
                let took = Duration::from_millis(round * 37 % 100 * scale);
                hedges.note(u32::MAX, took);
            }
            let found = hedges.patience(u32::MAX).as_millis() as u64 / scale;
            assert!((85..=99).contains(&found), "{found} ms at scale {scale}");
        }
        assert_eq!(hedges.patience(1), Duration::from_micros(Percentile95::FIRST));
        for _ in 0..10_000 {
            hedges.note(1, Duration::ZERO);
        }
        assert_eq!(hedges.patience(1), Duration::from_micros(Percentile95::MIN));
    }

    #[test]
    fn one_read_of_twenty_is_asked_for_twice_at_most() {
        // Goal: a slow cluster gets no storm of second questions. Method: ask for every read.
        let hedges = Hedges::new();
        let node = NodeNumber(1);
        let mut taken = 0;
        for _ in 0..1000 {
            taken += u32::from(hedges.take(node));
            hedges.note(1, Duration::from_secs(9));
        }
        assert_eq!(taken, 1 + 999 / READS_PER_HEDGE);
        for _ in 0..10_000 {
            hedges.note(1, Duration::ZERO);
        }
        let saved = (0..100).filter(|_| hedges.take(node)).count();
        assert_eq!(saved, 8);
        hedges.was_slow(NodeNumber(2));
        assert!(hedges.take(NodeNumber(2)) && !hedges.take(node));
    }
}
