//! How fast a session repeats itself: the seeded jitter and the budget all its repetitions share.
//!
//! Invariant: whatever the nodes answer, a session repeats at most `CAPACITY` requests at once and
//! `PER_SECOND` sustained, so that a crowd of clients cannot keep a recovered cluster down.

use bark_schema::mix::{GOLDEN, mix};

/// Repetitions that may happen at once: a leader change with this many calls in flight costs no waiting.
const CAPACITY: u64 = 512;
/// Sustained repetitions a second once the capacity is used up.
const PER_SECOND: u64 = 256;

/// A small seeded generator (SplitMix64): good enough for jitter, the same everywhere.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A token bucket in time: each repetition books the next free slot.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// When the bucket will be full again, in microseconds.
    full_at_us: u64,
}

impl RetryBudget {
    pub(super) fn new() -> RetryBudget {
        RetryBudget { full_at_us: 0 }
    }

    /// Takes one repetition and says when it may happen at the earliest, in milliseconds.
    pub(super) fn take(&mut self, now: u64) -> u64 {
        let interval_us = 1_000_000 / PER_SECOND;
        let now_us = now.saturating_mul(1000);
        self.full_at_us = self.full_at_us.max(now_us) + interval_us;
        let debt_us = self.full_at_us - now_us;
        let over_us = debt_us.saturating_sub(CAPACITY * interval_us);
        now + over_us.div_ceil(1000)
    }
}
