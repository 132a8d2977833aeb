//! When a leader may end the leases of clients.
//!
//! A client can renew its lease only with a leader that answers. So after an outage, this node's own included, the
//! leases that ran out meanwhile are not ended before their clients had time to come back.
//!
//! Invariant: between the end of an outage and the first lease that is ended lies the grace time.

use crate::time::Now;

/// Clients that wait for an answer ask again within a second.
const GRACE_US: u64 = 5_000_000;
/// Between two ticks of a node that runs.
const TICK_GAP_US_MAX: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(super) struct LeaseGrace {
    /// Of the first and of the last tick of this node as a leader that has not stood still since.
    ticks: Option<(u64, u64)>,
}

impl LeaseGrace {
    /// This node does not lead.
    pub(super) fn begin(&mut self) {
        self.ticks = None;
    }

    /// A tick of the leader. Says whether it may end leases.
    pub(super) fn is_over(&mut self, now: Now) -> bool {
        let now_us = now.monotonic_us;
        let first = match self.ticks {
            Some((first, last)) if now_us.saturating_sub(last) <= TICK_GAP_US_MAX => first,
            _ => now_us,
        };
        self.ticks = Some((first, now_us));
        now_us - first >= GRACE_US
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now {
            monotonic_us: seconds * 1_000_000,
            unix_ns: 0,
        }
    }

    #[test]
    fn leases_end_only_after_clients_had_time_to_come_back() {
        // Goal: neither a new leader nor one that stood still ends a lease at once.
        let mut grace = LeaseGrace::default();
        let over: Vec<u64> = (100..110).filter(|second| grace.is_over(at(*second))).collect();
        assert_eq!(over, [105, 106, 107, 108, 109]);
        let over: Vec<u64> = (400..407).filter(|second| grace.is_over(at(*second))).collect();
        assert_eq!(over, [405, 406], "it was stopped for five minutes");
        grace.begin();
        let over: Vec<u64> = (407..413).filter(|second| grace.is_over(at(*second))).collect();
        assert_eq!(over, [412], "another one led meanwhile");
    }
}
