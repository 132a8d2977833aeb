//! Taking commands and reads in.
//!
//! Previous in the flow: `worker`, which found the partition led here. Next: `flush`, which proposes what the turn
//! collected; commands nobody waits for stay a little longer, for company.

use bark_schema::codec;
use bark_schema::limits::{FRAME_SIZE_PEER_MAX, KIB};
use bark_schema::operation::{Command, Failure, Proposal, Query, Refusal, RequestId};

use super::event::CallId;
use super::pending::{Position, Read, WaitingRead};
use super::{BATCH_COMMANDS_MAX, BATCH_SIZE_BYTES_MAX, Partition};
use crate::time::Now;

/// How long commands nobody waits for wait for company; an entry costs its nodes as much as a hundred commands.
const PATIENCE_US: u64 = 2_000;
/// They wait no longer once they have so many bytes.
const PATIENT_SIZE_BYTES_MAX: usize = 64 * KIB;
/// Largest command. It must fit a record of the log and, with the message around it, a frame to a follower; what
/// does not would stop the log of every node that tried.
const ENTRY_SIZE_BYTES_MAX: usize = FRAME_SIZE_PEER_MAX - 64 * KIB;

impl Partition {
    /// Takes a command into this turn's entry. `id` None: exactly-once is the command's own business.
    pub fn submit_command(
        &mut self,
        now: Now,
        call: Option<CallId>,
        id: Option<RequestId>,
        command: Command,
    ) {
        if !self.is_leader() {
            self.refuse_not_leader(call);
            return;
        }
        // Whether a lock that was granted is still held is decided when the request is applied.
        let asked = id.as_ref().filter(|_| !matches!(command, Command::Lock(_)));
        if let Some(recorded) = asked.and_then(|id| self.state.recorded(id)) {
            self.answer(call, recorded);
            return;
        }
        if let Command::Decide {
            transaction,
            commit: true,
            ..
        } = &command
            && transaction.attempt >> 32 != self.group.term()
        {
            // Its coordinator led in an earlier term. Whoever coordinates now reads first and must find
            // either that outcome or none for ever.
            self.answer(
                call,
                Err(Failure::Busy("the coordinator no longer leads".to_string())),
            );
            return;
        }
        self.time = self.time.max(now.unix_ns);
        let is_patient = matches!(command, Command::Ordered { awaited: false, .. });
        let encoded = codec::encode_proposal(&Proposal {
            time: self.time,
            id,
            command,
        });
        if encoded.len() > ENTRY_SIZE_BYTES_MAX {
            let sentence = format!(
                "{} bytes in one change, at most {ENTRY_SIZE_BYTES_MAX} are possible",
                encoded.len()
            );
            self.answer(call, Err(Failure::refused(Refusal::FileTooLarge, sentence)));
            return;
        }
        let batch = &mut self.pending.batch;
        let full = batch.data.len() + encoded.len() > BATCH_SIZE_BYTES_MAX
            || batch.calls.len() >= BATCH_COMMANDS_MAX;
        if full && !batch.calls.is_empty() {
            self.propose_batch();
        }
        let batch = &mut self.pending.batch;
        batch.patient_until_us = match is_patient {
            true if batch.calls.is_empty() => Some(now.monotonic_us + PATIENCE_US),
            true => batch
                .patient_until_us
                .filter(|_| batch.data.len() < PATIENT_SIZE_BYTES_MAX),
            false => None,
        };
        batch.seal_run();
        batch
            .data
            .extend_from_slice(&(encoded.len() as u32).to_le_bytes());
        batch.data.extend_from_slice(&encoded);
        batch.calls.push(call.into());
    }

    /// Takes a read; it sees every command submitted before it and none after.
    pub fn submit_query(&mut self, call: CallId, query: Query) {
        if !self.is_leader() {
            self.refuse_not_leader(Some(call));
            return;
        }
        if !self.watched.is_empty() {
            self.note_read(call);
        }
        self.push_read(Read::Query { call, query });
    }

    /// Pins a read to its place behind everything submitted so far.
    pub(super) fn push_read(&mut self, read: Read) {
        let position = Position {
            entry: self.group.last_index() + 1,
            command: self.pending.batch.calls.len(),
        };
        let round = self.pending.round + 1;
        self.pending.reads_unasked = true;
        self.pending.reads.push_back(WaitingRead {
            position,
            round,
            read,
        });
    }
}
