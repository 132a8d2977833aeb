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
use bytes::Bytes;

use super::event::{Asker, CallId, KeyAsker};
use super::key_run::OpenRun;

/// A place in the order of commands: before command `command` of entry `entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub entry: u64,
    pub command: usize,
}

pub struct WaitingRead {
    pub position: Position,
    pub round: u64,
    pub read: Read,
}

/// What is asked, by whom.
pub enum Read {
    Query {
        call: CallId,
        query: Query,
    },
    Key {
        asker: KeyAsker,
        key: ReadKey,
        deadline_us: u64,
    },
}

impl Read {
    /// The key, if it reads just one.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Read::Key { key, .. } => Some(key.bytes()),
            Read::Query { .. } => None,
        }
    }
}

/// Longest key that needs no memory of its own while its read waits.
const INLINE_KEY_SIZE: usize = 30;

/// The key of a waiting read.
pub enum ReadKey {
    Inline(u8, [u8; INLINE_KEY_SIZE]),
    Heap(Box<[u8]>),
}

impl ReadKey {
    pub fn new(key: &[u8]) -> ReadKey {
        let mut bytes = [0; INLINE_KEY_SIZE];
        match bytes.get_mut(..key.len()) {
            Some(room) => {
                room.copy_from_slice(key);
                ReadKey::Inline(key.len() as u8, bytes)
            }
            None => ReadKey::Heap(key.into()),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        match self {
            ReadKey::Inline(size, bytes) => &bytes[..usize::from(*size)],
            ReadKey::Heap(bytes) => bytes,
        }
    }
}

pub struct WaitingEntry {
    pub index: u64,
    pub term: u64,
    /// Who asked for each command in the entry.
    pub calls: Vec<Asker>,
    /// The entry's own bytes, to make calls of SETs that cannot be answered.
    pub data: Bytes,
    /// When its SETs become calls that end without an answer.
    pub deadline_us: u64,
}

/// The commands of this turn that are not proposed yet.
#[derive(Default)]
pub struct Batch {
    pub data: Vec<u8>,
    pub calls: Vec<Asker>,
    /// The run at the end of `data`, while SETs may join it.
    pub run: Option<OpenRun>,
    pub deadline_us: u64,
    /// All of its commands are ordered: it waits for company until then.
    pub patient_until_us: Option<u64>,
}

impl Batch {
    /// What comes next stands outside the run.
    pub fn seal_run(&mut self) {
        if let Some(run) = self.run.take() {
            run.seal(&mut self.data);
        }
    }
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
    /// The entry of this node at `index`, if it is the one of `term`; entries that were overwritten are added
    /// to `lost`.
    pub fn take_entry(
        &mut self,
        index: u64,
        term: u64,
        lost: &mut Vec<WaitingEntry>,
    ) -> Option<WaitingEntry> {
        while let Some(entry) = self.waiting.pop_front_if(|first| first.index <= index) {
            if entry.index == index && entry.term == term {
                return Some(entry);
            }
            lost.push(entry);
        }
        None
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

    /// Everything that waits, on losing leadership: entries, the commands not proposed yet, reads.
    pub fn take_all(&mut self) -> (Vec<WaitingEntry>, Batch, Vec<WaitingRead>) {
        self.reads_unasked = false;
        let reads = self.reads.drain(..).collect();
        (
            self.waiting.drain(..).collect(),
            std::mem::take(&mut self.batch),
            reads,
        )
    }
}
