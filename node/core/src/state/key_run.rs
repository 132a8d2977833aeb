//! Applying a run of plain SETs: each as the command it stands for, their answers in one row.
//!
//! The answer to every SET of a run is "applied, version v", with versions that count up by one, so one row of
//! `replies` under the first sequence says it all. Where that does not hold (a key is locked, a sequence was used
//! before, the client is at its limit) the caller applies the SETs one by one as proposals.
//!
//! Invariants:
//! - A run's row covers exactly its sequences; rows of one client never overlap.

use bark_schema::operation::{Reply, RequestId, UnixNanos};
use bytes::Bytes;

use super::State;
use super::codec::{Reader, Row};
use super::key::{check_key, check_value};
use super::session::REPLIES_PER_CLIENT_MAX;

/// Beside the kinds of `reply`: a run's answers.
const RUN_TAG: u8 = 255;

/// The answers of a run.
#[derive(Clone, Copy)]
pub(super) struct RunReply {
    pub(super) count: u32,
    first_version: u64,
}

impl RunReply {
    pub(super) fn read(row: &[u8]) -> Option<RunReply> {
        if row.first() != Some(&RUN_TAG) {
            return None;
        }
        let mut reader = Reader::new(&row[1..]);
        Some(RunReply {
            count: u32::decode(&mut reader).ok()?,
            first_version: u64::decode(&mut reader).ok()?,
        })
    }

    fn write(self) -> Box<[u8]> {
        let mut row = Vec::with_capacity(13);
        RUN_TAG.encode(&mut row);
        self.count.encode(&mut row);
        self.first_version.encode(&mut row);
        row.into_boxed_slice()
    }

    pub(super) fn reply(self, offset: u64) -> Reply {
        Reply::Set {
            applied: true,
            version: self.first_version + offset,
            previous: None,
        }
    }
}

/// Sequences that a row of `replies` answers.
pub(super) fn sequences_in(row: &[u8]) -> u64 {
    RunReply::read(row).map_or(1, |run| u64::from(run.count))
}

impl State {
    /// Begins a run of `count` SETs. False: they must be applied one by one, as proposals.
    pub fn begin_key_run(&mut self, time: UnixNanos, first: RequestId, count: u32) -> bool {
        let end = first.sequence.saturating_add(u64::from(count));
        let session_allows = self.sessions.get(&first.client).is_none_or(|session| {
            session.replies < REPLIES_PER_CLIENT_MAX && session.acknowledged_below <= first.sequence
        });
        let last_before = self
            .replies
            .range((first.client, 0)..(first.client, end))
            .next_back();
        let is_new = last_before
            .is_none_or(|((_, sequence), row)| sequence.saturating_add(sequences_in(row)) <= first.sequence);
        #[cfg(feature = "planted-bugs")]
        let is_new = is_new || crate::planted::is_planted(crate::planted::Defect::ApplyTwice);
        let is_plain = self.locks.len() == 0
            && count > 0
            && first.acknowledged_below <= first.sequence
            && session_allows
            && is_new;
        if is_plain {
            self.time = self.time.max(time);
            self.retire();
        }
        is_plain
    }

    /// One SET of a run, with the index a proposal would have. False: its sizes are not allowed; nothing changed.
    pub fn apply_key_set(&mut self, index: u64, key: &[u8], value: &[u8]) -> bool {
        self.apply_empty(index);
        if check_key(key).is_err() || check_value(value).is_err() {
            return false;
        }
        self.place_key(key, Bytes::copy_from_slice(value), None);
        true
    }

    /// Records the answers of a run whose SETs were all applied, the last one with the newest index.
    pub fn end_key_run(&mut self, first: RequestId, count: u32) {
        let reply = RunReply {
            count,
            first_version: self.applied + 1 - u64::from(count),
        };
        self.record_row(
            first.client,
            first.sequence,
            first.acknowledged_below,
            reply.write(),
        );
    }
}
