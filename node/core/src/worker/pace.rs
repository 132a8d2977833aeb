//! How fast snapshots leave: a replica that catches up must not take the network and the disks from clients.
//!
//! Previous in the flow: partitions that want the next part of a snapshot read, to send it. Next: the disk thread.
//!
//! Parts are asked for one at a time by each partition and replica. Here they wait their turn: so many bytes a second
//! and so many parts on their way at once, over all partitions of a worker and all replicas. First come, first served,
//! so that every replica gets on.
//!
//! Invariants:
//! - The bytes sent in any stretch of time are at most its share of the rate and one [`BURST_BYTES`].
//! - A part that waits is asked for again by nobody, so the queue holds at most one for each partition and replica.

use std::collections::VecDeque;

use crate::partition::event::SnapshotRequest;

/// Of one worker. 32 MiB/s: a state of a gigabyte takes half a minute, and a disk of 200 MB/s keeps most of its time.
pub const BYTES_PER_SECOND: u64 = 32 << 20;
/// What may leave at once after a pause.
const BURST_BYTES: u64 = 2 << 20;
/// Parts asked of the disk and not sent yet.
const PARTS_IN_FLIGHT_MAX: usize = 4;
/// A part that never came back (its file is gone, or its replica) is not waited for longer.
const PART_TIMEOUT_US: u64 = 1_000_000;
const MICROSECONDS: u64 = 1_000_000;

#[derive(Default)]
pub struct Pace {
    waiting: VecDeque<SnapshotRequest>,
    /// When parts were asked for that did not come back yet.
    in_flight: VecDeque<u64>,
    /// Bytes sent beyond what the rate allowed until `as_of_us`; negative: what may still leave.
    debt_bytes: i64,
    as_of_us: u64,
}

impl Pace {
    pub fn push(&mut self, request: SnapshotRequest) {
        self.waiting.push_back(request);
    }

    /// A part came from the disk and leaves.
    pub fn sent(&mut self, size_bytes: usize) {
        self.in_flight.pop_front();
        self.debt_bytes = self.debt_bytes.saturating_add_unsigned(size_bytes as u64);
    }

    /// The requests whose turn it is.
    pub fn take_due(&mut self, now_us: u64, due: &mut Vec<SnapshotRequest>) {
        let elapsed_us = now_us.saturating_sub(self.as_of_us).min(MICROSECONDS);
        self.as_of_us = now_us;
        let earned = elapsed_us * BYTES_PER_SECOND / MICROSECONDS;
        self.debt_bytes = self
            .debt_bytes
            .saturating_sub_unsigned(earned)
            .max(-(BURST_BYTES as i64));
        while let Some(since_us) = self.in_flight.front()
            && now_us.saturating_sub(*since_us) > PART_TIMEOUT_US
        {
            self.in_flight.pop_front();
        }
        while self.debt_bytes < 0
            && self.in_flight.len() < PARTS_IN_FLIGHT_MAX
            && let Some(request) = self.waiting.pop_front()
        {
            self.in_flight.push_back(now_us);
            due.push(request);
        }
    }

    /// When [`Pace::take_due`] will have something, if it is the rate that is waited for.
    pub fn next_due_us(&self) -> Option<u64> {
        if self.waiting.is_empty() || self.in_flight.len() >= PARTS_IN_FLIGHT_MAX {
            return None;
        }
        let debt = u64::try_from(self.debt_bytes).unwrap_or(0);
        Some(self.as_of_us + (debt + 1) * MICROSECONDS / BYTES_PER_SECOND + 1)
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::{NodeNumber, PartitionId};

    use super::*;

    const PART: usize = 256 << 10;

    fn read(partition: u16) -> SnapshotRequest {
        SnapshotRequest::Read {
            partition: PartitionId(partition),
            index: 1,
            term: 1,
            offset: 0,
            to: NodeNumber(2),
        }
    }

    #[test]
    fn many_replicas_that_catch_up_share_one_rate() {
        // Goal: bytes a second and parts in flight are bounded whatever is wanted. Method: 64 partitions that always
        // want the next part, and a disk that answers at once.
        let mut pace = Pace::default();
        (0..64).for_each(|partition| pace.push(read(partition)));
        let (mut sent, mut now_us) = (0, 1);
        while now_us < 10_000_000 {
            let mut due = Vec::new();
            pace.take_due(now_us, &mut due);
            assert!(due.len() <= PARTS_IN_FLIGHT_MAX);
            for request in due {
                sent += PART as u64;
                pace.sent(PART);
                pace.push(request);
            }
            let next_us = pace.next_due_us().expect("there is always more");
            now_us = next_us.max(now_us + 1);
        }
        let allowed = 10 * BYTES_PER_SECOND;
        assert!(
            sent <= allowed + BURST_BYTES + (PARTS_IN_FLIGHT_MAX * PART) as u64,
            "{sent}"
        );
        assert!(sent >= allowed * 9 / 10, "{sent}: the rate is used");
    }

    #[test]
    fn parts_that_never_come_do_not_stop_the_others() {
        // Goal: a reader whose file is gone holds nobody up. Method: no answer for the first four.
        let mut pace = Pace::default();
        (0..8).for_each(|partition| pace.push(read(partition)));
        let mut due = Vec::new();
        pace.take_due(1_000_000, &mut due);
        assert_eq!(due.len(), PARTS_IN_FLIGHT_MAX);
        pace.take_due(1_500_000, &mut due);
        assert_eq!(due.len(), PARTS_IN_FLIGHT_MAX);
        pace.take_due(2_500_000, &mut due);
        assert_eq!(due.len(), 8);
    }
}
