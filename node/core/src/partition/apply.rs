//! Applying committed entries, and serving the reads whose place comes up.
//!
//! Previous in the flow: `consensus` hands over entries. Next: `state`; answers go to calls and sinks.
//!
//! Invariants:
//! - Entries are applied in order, each once; a read sees exactly the commands before its place.

use bark_schema::codec;
use bark_schema::operation::{Failure, Proposal, Query, Reply};
use bytes::Bytes;

use super::event::{Asker, Completion};
use super::key_run::{RUN_BIT, Run};
use super::pending::{Position, Read, WaitingRead};
use super::{HASH_INTERVAL_ENTRIES, HASH_POINTS_MAX, Partition};
use crate::consensus::CommittedEntry;
use crate::state::TOUCHED_KEYS_MAX;
use crate::time::Now;

impl Partition {
    pub(super) fn apply(&mut self, now: Now, entry: CommittedEntry, again: &mut Vec<Read>) {
        assert_eq!(
            entry.index,
            self.applied.0 + 1,
            "entries are applied in order, each once"
        );
        let mut lost = Vec::new();
        let own = self.pending.take_entry(entry.index, entry.term, &mut lost);
        let calls = own.map_or_else(Vec::new, |own| own.calls);
        for entry in lost {
            // Another leader's entry took its place: it was certainly not applied.
            let leader = self.leader();
            self.give_up(entry, &Failure::NotLeader { leader });
        }
        let own_term = self.is_leader() && entry.term == self.group.term();
        let mut data = entry.data;
        if data.is_empty() {
            self.state.apply_empty(self.state.applied() + 1);
        }
        let mut at = Place {
            now,
            own_term,
            entry: entry.index,
            command: 0,
        };
        while !data.is_empty() {
            let applied = match next_command(&mut data) {
                Ok(Next::Proposal(proposal)) => {
                    self.apply_proposal(&mut at, proposal, &calls, again);
                    Ok(())
                }
                Ok(Next::Run(run)) => self.apply_run(&mut at, run, &calls, again),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = applied {
                self.fail(format!("entry {} cannot be read: {reason}", entry.index));
                return;
            }
        }
        self.applied = (entry.index, entry.term);
        if own_term {
            // Reads that arrived before this entry was proposed are confirmed by its commit.
            let position = Position {
                entry: entry.index,
                command: usize::MAX,
            };
            self.serve_reads(now, position, |_| true, again);
        }
        if entry.index.is_multiple_of(HASH_INTERVAL_ENTRIES) {
            if self.hash_points.len() == HASH_POINTS_MAX {
                self.hash_points.pop_front();
            }
            self.hash_points.push_back((entry.index, self.state.hash()));
        }
    }

    fn apply_proposal(&mut self, at: &mut Place, proposal: Proposal, calls: &[Asker], again: &mut Vec<Read>) {
        self.serve_reads_before(at, again);
        self.time = self.time.max(proposal.time);
        let result = self.state.apply(self.state.applied() + 1, &proposal);
        let unfinished = self.state.take_unfinished();
        match calls.get(at.command) {
            Some(Asker::Call(call)) if unfinished => {
                self.unfinished.push((*call, proposal.id, proposal.command));
            }
            Some(Asker::Call(call)) => self.completions.push(Completion { call: *call, result }),
            _ => {}
        }
        at.command += 1;
    }

    /// Proposes again what was applied in part. If this node leads no more, whoever asked tries elsewhere, and what is
    /// left is done there.
    pub(super) fn go_on_with_unfinished(&mut self, now: Now) {
        let unfinished = std::mem::take(&mut self.unfinished);
        for (call, id, command) in unfinished {
            self.submit_command(now, Some(call), id, command);
        }
    }

    /// Reads pinned before the next command of the entry that is being applied.
    pub(super) fn serve_reads_before(&mut self, at: &Place, again: &mut Vec<Read>) {
        if at.own_term && !self.pending.reads.is_empty() {
            let position = Position {
                entry: at.entry,
                command: at.command,
            };
            self.serve_reads(at.now, position, |_| true, again);
        }
    }

    pub(super) fn serve_confirmed_reads(&mut self, now: Now, again: &mut Vec<Read>) {
        let (round, index) = self.pending.confirmed;
        if self.applied.0 >= index {
            let position = Position {
                entry: self.applied.0 + 1,
                command: 0,
            };
            self.serve_reads(now, position, |read| read.round <= round, again);
        }
    }

    fn serve_reads(
        &mut self,
        now: Now,
        position: Position,
        confirmed: impl Fn(&WaitingRead) -> bool,
        again: &mut Vec<Read>,
    ) {
        let now_ms = now.unix_ms();
        let mut untouched = 0;
        while let Some(WaitingRead { read, .. }) = self.pending.next_read(position, &confirmed) {
            if untouched == 0 {
                let ahead = self.pending.reads.iter().filter_map(|waiting| waiting.read.key());
                self.state.touch_keys(read.key().into_iter().chain(ahead));
                untouched = TOUCHED_KEYS_MAX;
            }
            untouched -= 1;
            let (call, query) = match read {
                Read::Key { .. } => {
                    self.serve_key_read(now_ms, read, again);
                    continue;
                }
                Read::Query { call, query } => (call, query),
            };
            if self.state.query_meets_expired(now_ms, &query) {
                // It must not be seen any more, and its end must be in the log before anyone is told.
                again.push(Read::Query { call, query });
                continue;
            }
            let result = match query {
                Query::PartitionStatus => Ok(Reply::Partition(self.status())),
                ref query => self.state.query(now_ms, query),
            };
            self.answer_query(call, query, result);
        }
    }
}

/// What stands next in an entry.
pub(super) enum Next {
    Proposal(Proposal),
    Run(Run),
}

/// How far applying an entry is.
pub(super) struct Place {
    pub(super) now: Now,
    own_term: bool,
    entry: u64,
    pub(super) command: usize,
}

/// Splits the first proposal or run off an entry's data.
pub(super) fn next_command(data: &mut Bytes) -> Result<Next, String> {
    let header: [u8; 4] = data
        .get(..4)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or("cut in a length".to_string())?;
    let word = u32::from_le_bytes(header);
    let length = (word & !RUN_BIT) as usize;
    if data.len() - 4 < length {
        return Err("cut in a command".to_string());
    }
    let _ = data.split_to(4);
    let bytes = data.split_to(length);
    if word & RUN_BIT != 0 {
        return Run::open(bytes).map(Next::Run);
    }
    codec::decode_proposal(&bytes)
        .map(Next::Proposal)
        .map_err(|error| error.to_string())
}
