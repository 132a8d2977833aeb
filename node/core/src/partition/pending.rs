//! Commands and reads that wait for the log.
//!
//! One turn's commands for a partition travel in one entry. Reads take no entry, but they have a place in
//! the same order: a read is pinned to the position it arrived at, and sees exactly the commands before it.
//!
//! A read is served when its position was reached and a quorum confirmed, after it arrived, that this node
//! still leads. Two things confirm it: the answer to a read round (ReadIndex), or the commit of an entry of
//! the leader's own term that was proposed after the read arrived. So reads among writes cost nothing.
//!
//! Invariants:
//! - Positions of waiting reads never decrease: the first waiting read is always the next to be served.
//! - `waiting` is ordered by index, and every index in it was proposed by this node in `term`.

use std::collections::VecDeque;

use bark_schema::operation::Query;

use super::event::CallId;

/// A place in the order of commands: before command `command` of entry `entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub entry: u64,
    pub command: usize,
}

pub struct WaitingRead {
    pub position: Position,
    pub round: u64,
    pub call: CallId,
    pub query: Query,
}

pub struct WaitingEntry {
    pub index: u64,
    pub term: u64,
    /// Who asked for each command in the entry; None for the partition's own.
    pub calls: Vec<Option<CallId>>,
}

/// The commands of this turn that are not proposed yet.
#[derive(Default)]
pub struct Batch {
    pub data: Vec<u8>,
    pub calls: Vec<Option<CallId>>,
}

#[derive(Default)]
pub struct Pending {
    pub batch: Batch,
    pub waiting: VecDeque<WaitingEntry>,
    pub reads: VecDeque<WaitingRead>,
    /// The newest read round asked, and the newest confirmed with the index it asks for.
    pub round: u64,
    pub confirmed: (u64, u64),
    /// Reads have arrived since the last round was asked.
    pub reads_unasked: bool,
    /// Ticks since the last round was asked.
    pub ticks_since_round: u32,
}

impl Pending {
    /// The calls answered by entry `index` of `term`; those of entries that were overwritten are returned
    /// in `lost`.
    pub fn take_entry(&mut self, index: u64, term: u64, lost: &mut Vec<CallId>) -> Vec<Option<CallId>> {
        while let Some(first) = self.waiting.front() {
            if first.index > index {
                break;
            }
            let Some(entry) = self.waiting.pop_front() else {
                break;
            };
            if entry.index == index && entry.term == term {
                return entry.calls;
            }
            lost.extend(entry.calls.into_iter().flatten());
        }
        Vec::new()
    }

    /// The next read if its position is at or before `position` and `confirmed` holds for it.
    pub fn next_read(
        &mut self,
        position: Position,
        confirmed: impl Fn(&WaitingRead) -> bool,
    ) -> Option<WaitingRead> {
        let first = self.reads.front()?;
        if first.position <= position && confirmed(first) {
            return self.reads.pop_front();
        }
        None
    }

    /// Everything that waits, on losing leadership: (commands, reads).
    pub fn take_all(&mut self) -> (Vec<CallId>, Vec<CallId>) {
        let mut commands: Vec<CallId> = self
            .waiting
            .drain(..)
            .flat_map(|entry| entry.calls.into_iter().flatten())
            .collect();
        commands.extend(std::mem::take(&mut self.batch).calls.into_iter().flatten());
        let reads = self.reads.drain(..).map(|read| read.call).collect();
        self.reads_unasked = false;
        (commands, reads)
    }
}
