//! The answers of one connection in the order of its commands, ready or still awaited.
//!
//! Previous in the flow: completions of requests. Next: the ready prefix goes to the wire.
//!
//! A place in the ring is named by a number that only grows, so a late answer to a place that is gone
//! names nothing. A token carries that number and, for a command that asks several partitions, which of
//! its parts the answer is.
//!
//! Invariants:
//! - `base` is the number of the first slot.
//! - Every place is filled exactly once.

use std::cell::Cell;
use std::collections::VecDeque;

use bark_schema::ids::PartitionId;
use bark_schema::operation::{Failure, Reply, RequestId, UnixMillis};
use bytes::Bytes;

use super::command::{Merge, Render};
use super::reply::{Answer, Version, write_bulk_or_null};

/// Partitions are fewer than 2^12 (cluster_file::PARTITIONS_MAX), so a part's index fits.
const PART_BITS: u32 = 12;

/// Answers of one connection that are awaited or wait for its client to read, by their expected size.
const ANSWER_BYTES_MAX: usize = 4 << 20;
/// What an answer is taken for before any was seen: the first commands of a connection go out by the handful.
const ANSWER_SIZE_FIRST: usize = 512 << 10;
/// Values longer than this are shared, not copied, while they wait for their turn.
const COPIED_SIZE_MAX: usize = 4096;
/// Written answers that wait for their turn; beyond this they are kept one by one.
const WRITTEN_SIZE_MAX: usize = 1 << 20;
/// The same for all connections of a worker together; beyond, each has one command under way.
const WORKER_ANSWER_BYTES_MAX: usize = 64 << 20;

thread_local! {
    /// What all rings of this thread, which is one worker, expect to hold.
    static EXPECTED_BYTES: Cell<usize> = const { Cell::new(0) };
}

pub struct Ring {
    base: u64,
    slots: VecDeque<Slot>,
    awaited_bytes: usize,
    /// What the next answers are expected to take: large ones are believed at once, small ones by and by.
    answer_size: usize,
    /// Answers as they go out, in the order they came; emptied when nobody waits.
    written: Vec<u8>,
    /// This ring's part of EXPECTED_BYTES.
    expected_bytes: usize,
}

enum Slot {
    Ready(Answer),
    /// Its bytes lie in `written`.
    Written {
        start: u32,
        size: u32,
    },
    /// A SET was applied.
    Stored,
    One {
        render: Render,
        change: Option<(PartitionId, RequestId)>,
        size: usize,
    },
    Parts(Box<Parts>),
    Task,
}

/// Answers of several partitions to one command.
struct Parts {
    merge: Merge,
    awaited: usize,
    total: u64,
    values: Vec<Answer>,
    failure: Option<Answer>,
    size: usize,
}

impl Default for Ring {
    fn default() -> Ring {
        Ring {
            base: 0,
            slots: VecDeque::new(),
            awaited_bytes: 0,
            answer_size: ANSWER_SIZE_FIRST,
            written: Vec::new(),
            expected_bytes: 0,
        }
    }
}

impl Ring {
    /// Commands that may be in the ring. A client may ask for gigabytes in a few bytes and read nothing: nobody knows
    /// how large an answer will be, so the last ones tell.
    pub fn len_max(&mut self, at_most: usize) -> usize {
        let others_bytes = self.account();
        let bytes_max = ANSWER_BYTES_MAX.min(WORKER_ANSWER_BYTES_MAX.saturating_sub(others_bytes));
        (bytes_max / self.answer_size.max(1)).clamp(1, at_most)
    }

    /// Brings this ring's part of the worker's total up to date; returns the others'.
    fn account(&mut self) -> usize {
        let others_bytes = EXPECTED_BYTES.get() - self.expected_bytes;
        self.expected_bytes = self.slots.len() * self.answer_size;
        EXPECTED_BYTES.set(others_bytes + self.expected_bytes);
        others_bytes
    }

    fn expect(&mut self, answer_size: usize) {
        self.answer_size = answer_size.max(self.answer_size - self.answer_size / 8);
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// Bytes of the requests that are not answered yet.
    pub fn awaited_bytes(&self) -> usize {
        self.awaited_bytes
    }

    pub fn push_ready(&mut self, answer: Answer) {
        self.slots.push_back(Slot::Ready(answer));
    }

    /// A place for one request's answer; the token to ask under.
    pub fn push_one(&mut self, render: Render, change: Option<(PartitionId, RequestId)>, size: usize) -> u64 {
        self.awaited_bytes += size;
        self.push(Slot::One { render, change, size })
    }

    /// A place for `count` parts; part `i` asks under the token plus `i`.
    pub fn push_parts(&mut self, merge: Merge, count: usize, size: usize) -> u64 {
        self.awaited_bytes += size;
        let values = match &merge {
            Merge::Sum => Vec::new(),
            Merge::Values(positions) => vec![Answer::Null; positions.iter().map(Vec::len).sum()],
        };
        self.push(Slot::Parts(Box::new(Parts {
            merge,
            awaited: count,
            total: 0,
            values,
            failure: None,
            size,
        })))
    }

    pub fn push_task(&mut self) -> u64 {
        self.push(Slot::Task)
    }

    fn push(&mut self, slot: Slot) -> u64 {
        self.slots.push_back(slot);
        (self.base + self.slots.len() as u64 - 1) << PART_BITS
    }

    /// A task's answer.
    pub fn fill(&mut self, token: u64, answer: Answer) {
        let answer_size = answer.size_bytes();
        if let Some(slot @ Slot::Task) = self.slot(token) {
            *slot = Slot::Ready(answer);
            self.expect(answer_size);
        }
    }

    /// A request's answer. Returns the change it ends, if it is one.
    pub fn complete(
        &mut self,
        token: u64,
        result: Result<Reply, Failure>,
        now_ms: UnixMillis,
    ) -> Option<(PartitionId, RequestId)> {
        let part = (token & ((1 << PART_BITS) - 1)) as usize;
        let slot = self.slot(token)?;
        match slot {
            Slot::One { render, change, size } => {
                let (change, size) = (*change, *size);
                let answer = render.answer(result, now_ms);
                let answer_size = answer.size_bytes();
                *slot = Slot::Ready(answer);
                self.awaited_bytes -= size;
                self.expect(answer_size);
                change
            }
            Slot::Parts(parts) => {
                if let Some(answer) = parts.take(part, result) {
                    let (size, answer_size) = (parts.size, answer.size_bytes());
                    *slot = Slot::Ready(answer);
                    self.awaited_bytes -= size;
                    self.expect(answer_size);
                }
                None
            }
            Slot::Ready(_) | Slot::Written { .. } | Slot::Stored | Slot::Task => None,
        }
    }

    /// The value of a key read, for a place made by `push_one`.
    pub fn found(&mut self, token: u64, value: Option<&Bytes>, version: Version) {
        let fits = self.written.len() < WRITTEN_SIZE_MAX;
        let Some(offset) = (token >> PART_BITS).checked_sub(self.base) else {
            return;
        };
        let Some(slot) = self.slots.get_mut(offset as usize) else {
            return;
        };
        let Slot::One { size, .. } = *slot else { return };
        *slot = match value {
            Some(value) if value.len() > COPIED_SIZE_MAX || !fits => Slot::Ready(Answer::Bulk(value.clone())),
            value => {
                let start = self.written.len();
                write_bulk_or_null(value.map(|value| &value[..]), version, &mut self.written);
                Slot::Written {
                    start: start as u32,
                    size: (self.written.len() - start) as u32,
                }
            }
        };
        self.awaited_bytes -= size;
        self.expect(value.map_or(0, Bytes::len));
    }

    /// A SET was applied, for a place made by `push_one`.
    pub fn stored(&mut self, token: u64) {
        let Some(slot @ Slot::One { .. }) = self.slot(token) else {
            return;
        };
        let Slot::One { size, .. } = *slot else { return };
        *slot = Slot::Stored;
        self.awaited_bytes -= size;
        self.expect(0);
    }

    pub fn is_front(&self, token: u64) -> bool {
        token >> PART_BITS == self.base
    }

    /// Writes the answers that are there, up to the first that is not, until `out` has `size_max` bytes.
    pub fn write_ready(&mut self, version: Version, size_max: usize, out: &mut Vec<u8>) {
        while out.len() < size_max
            && let Some(slot) = self.slots.front()
        {
            match slot {
                Slot::Stored => out.extend_from_slice(b"+OK\r\n"),
                Slot::Written { start, size } => {
                    let start = *start as usize;
                    out.extend_from_slice(&self.written[start..start + *size as usize]);
                }
                Slot::Ready(answer) => answer.write(version, out),
                Slot::One { .. } | Slot::Parts(_) | Slot::Task => break,
            }
            self.slots.pop_front();
            self.base += 1;
        }
        if self.slots.is_empty() {
            self.written.clear();
        }
    }

    pub fn front_is_ready(&self) -> bool {
        matches!(
            self.slots.front(),
            Some(Slot::Ready(_) | Slot::Written { .. } | Slot::Stored)
        )
    }

    fn slot(&mut self, token: u64) -> Option<&mut Slot> {
        let offset = (token >> PART_BITS).checked_sub(self.base)?;
        self.slots.get_mut(usize::try_from(offset).ok()?)
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.slots.clear();
        self.account();
    }
}

impl Parts {
    /// The whole answer after the last part. One failed part fails the command.
    fn take(&mut self, part: usize, result: Result<Reply, Failure>) -> Option<Answer> {
        match (&self.merge, result) {
            (Merge::Sum, Ok(Reply::Count(count))) => self.total += count,
            (Merge::Values(positions), Ok(Reply::Values(values))) => {
                let positions = positions.get(part).map_or(&[][..], Vec::as_slice);
                for (position, value) in positions.iter().zip(values) {
                    self.values[*position] = Answer::bulk_or_null(value);
                }
            }
            (_, Ok(_)) => self.failure = Some(Answer::error("a partition gave an answer of another kind")),
            (_, Err(failure)) => self.failure = Some(Answer::failure(&failure)),
        }
        self.awaited = self.awaited.saturating_sub(1);
        if self.awaited > 0 {
            return None;
        }
        if let Some(failure) = self.failure.take() {
            return Some(failure);
        }
        Some(match self.merge {
            Merge::Sum => Answer::count(self.total),
            Merge::Values(_) => Answer::Array(std::mem::take(&mut self.values)),
        })
    }
}

/// What a request holds in memory, for the bound on what is in flight.
pub fn request_size(arguments: &[Bytes]) -> usize {
    arguments.iter().map(Bytes::len).sum()
}
