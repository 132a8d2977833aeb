//! Waiting for advisory locks: questions that are held back until they have news, and the end of leases.
//!
//! Waits are rows of the state ([`crate::state`]), so a question about one can be answered at any time. The leader
//! keeps those whose answer is "still waiting" for a while, and looks at them again when some wait has ended.
//! Who asks learns of a grant with the entry that makes it, and asks again after a change of leaders.
//!
//! Invariants:
//! - A question is held back for HELD_TICKS_MAX at most, and only by a leader.

use bark_schema::file_lock::{LockAnswer, LockCommand, LockQuery};
use bark_schema::operation::{Command, Failure, Query, Reply};

use super::Partition;
use super::event::{CallId, Completion};
use crate::time::Now;

/// 1 s: half of what a client waits for any answer.
const HELD_TICKS_MAX: u32 = 25;
/// Leases ended with one entry.
const END_LIMIT: u32 = 16;

#[derive(Default)]
pub struct LockWaits {
    held: Vec<HeldQuery>,
    /// What the state counted when the held questions were looked at last.
    ended_waits: u64,
}

struct HeldQuery {
    call: CallId,
    query: Query,
    ticks_left: u32,
}

fn is_about_wait(query: &Query) -> bool {
    match query {
        Query::By { query, .. } => is_about_wait(query),
        query => matches!(query, Query::Lock(LockQuery::Waited { .. })),
    }
}

impl Partition {
    /// Answers a read, or holds it back.
    pub(super) fn answer_query(&mut self, call: CallId, query: Query, result: Result<Reply, Failure>) {
        let waits = is_about_wait(&query) && matches!(result, Ok(Reply::Lock(LockAnswer::Waiting)));
        match waits {
            true => self.lock_waits.held.push(HeldQuery {
                call,
                query,
                ticks_left: HELD_TICKS_MAX,
            }),
            false => self.completions.push(Completion { call, result }),
        }
    }

    /// Answers what was held back and has news.
    pub(super) fn serve_lock_waits(&mut self, now: Now) {
        let ended = self.state.ended_waits();
        if ended == self.lock_waits.ended_waits {
            return;
        }
        self.lock_waits.ended_waits = ended;
        for held in std::mem::take(&mut self.lock_waits.held) {
            match self.state.query(now.unix_ms(), &held.query) {
                Ok(Reply::Lock(LockAnswer::Waiting)) => self.lock_waits.held.push(held),
                result => self.completions.push(Completion {
                    call: held.call,
                    result,
                }),
            }
        }
    }

    /// Lets nobody wait for an answer for too long.
    pub(super) fn tick_lock_waits(&mut self) {
        for mut held in std::mem::take(&mut self.lock_waits.held) {
            held.ticks_left -= 1;
            match held.ticks_left {
                0 => self.answer(Some(held.call), Ok(Reply::Lock(LockAnswer::Waiting))),
                _ => self.lock_waits.held.push(held),
            }
        }
    }

    pub(super) fn give_up_lock_waits(&mut self, failure: &Failure) {
        for held in std::mem::take(&mut self.lock_waits.held) {
            self.answer(Some(held.call), Err(failure.clone()));
        }
    }

    /// Proposes the end of leases that ran out.
    pub(super) fn end_due_lock_leases(&mut self, now: Now) {
        if self.state.has_due_lock_leases(now.unix_ns) {
            let command = Command::Lock(LockCommand::EndLeases { limit: END_LIMIT });
            self.submit_command(now, None, None, command);
        }
    }
}
