//! Which segments still hold entries that somebody needs.
//!
//! Per partition: its hard state, its snapshot mark, and for every segment the range of its entries
//! there that no later record replaced. A segment is needed while one of those ranges reaches beyond
//! the snapshot. Recovery feeds the same structure, so that a reopened log collects as before.
//!
//! Invariants:
//! - The ranges of a partition are ascending, contiguous and without overlap.
//! - The last index is never below the snapshot's.

use std::collections::{BTreeMap, VecDeque};

use bark_schema::ids::PartitionId;

use super::{HardState, Record};

#[derive(Clone, Debug, Default)]
pub(super) struct Live {
    partitions: BTreeMap<PartitionId, LivePartition>,
}

#[derive(Clone, Debug, Default)]
struct LivePartition {
    hard_state: HardState,
    snapshot: (u64, u64),
    ranges: VecDeque<Range>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    segment: u64,
    first: u64,
    last: u64,
}

impl LivePartition {
    fn last_index(&self) -> u64 {
        self.ranges.back().map_or(self.snapshot.0, |range| range.last)
    }
}

impl Live {
    /// Takes note of a record written to `segment`.
    pub fn note(&mut self, record: &Record, segment: u64) {
        match *record {
            Record::Entry { partition, index, .. } => {
                let partition = self.partitions.entry(partition).or_default();
                while partition.ranges.back().is_some_and(|range| range.first >= index) {
                    partition.ranges.pop_back();
                }
                match partition.ranges.back_mut() {
                    Some(range) if range.segment == segment => range.last = index,
                    Some(range) => {
                        range.last = range.last.min(index.saturating_sub(1));
                        partition.ranges.push_back(Range {
                            segment,
                            first: index,
                            last: index,
                        });
                    }
                    None => partition.ranges.push_back(Range {
                        segment,
                        first: index,
                        last: index,
                    }),
                }
            }
            Record::HardState {
                partition,
                term,
                vote,
                commit,
            } => {
                self.partitions.entry(partition).or_default().hard_state = HardState { term, vote, commit };
            }
            Record::Snapshot {
                partition,
                index,
                term,
            } => {
                let partition = self.partitions.entry(partition).or_default();
                if index > partition.snapshot.0 {
                    partition.snapshot = (index, term);
                }
                while partition
                    .ranges
                    .front()
                    .is_some_and(|range| range.last <= partition.snapshot.0)
                {
                    partition.ranges.pop_front();
                }
            }
            Record::Reset {
                partition,
                index,
                term,
            } => {
                let partition = self.partitions.entry(partition).or_default();
                partition.snapshot = (index, term);
                partition.ranges.clear();
            }
        }
    }

    /// The indexes an entry of `partition` may have next: above the snapshot, at most one above the last.
    pub fn next_indexes(&self, partition: PartitionId) -> (u64, u64) {
        self.partitions.get(&partition).map_or((1, 1), |partition| {
            (
                partition.snapshot.0.saturating_add(1),
                partition.last_index().saturating_add(1),
            )
        })
    }

    /// A partition with live entries in `segment`, or in an older one.
    pub fn pinned_by(&self, segment: u64) -> Option<PartitionId> {
        self.partitions
            .iter()
            .find(|(_, partition)| {
                partition
                    .ranges
                    .front()
                    .is_some_and(|range| range.segment <= segment)
            })
            .map(|(id, _)| *id)
    }

    /// Records that say everything about every partition except its entries.
    pub fn checkpoint(&self) -> Vec<Record> {
        let mut records = Vec::with_capacity(self.partitions.len() * 2);
        for (&id, partition) in &self.partitions {
            let HardState { term, vote, commit } = partition.hard_state;
            records.push(Record::HardState {
                partition: id,
                term,
                vote,
                commit,
            });
            let (index, term) = partition.snapshot;
            records.push(Record::Snapshot {
                partition: id,
                index,
                term,
            });
        }
        records
    }
}
