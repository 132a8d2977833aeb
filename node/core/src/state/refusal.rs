//! Refusals found while planning, written down as the answer to their request.
//!
//! A coordinator that finds a name taken has changed nothing, but its refusal is final for the one who asked.
//! Were it not in the log, a copy of the request that comes late could be carried out after all, when the name
//! is free again, though its client was told that it was refused.
//!
//! Design: the refusal travels as a `Decide` that aborts, of an attempt no coordinator can make: its term part
//! is the largest there is, its lower part the refusal's code, its reply the sentence. The price of no command
//! of its own is this convention; what it buys is that nothing changes on the wire.
//!
//! Invariants:
//! - A request has one answer: what was recorded first, success or refusal.

use bark_schema::ids::TransactionId;
use bark_schema::operation::{Command, Failure, Refusal, Reply, RequestId};
use bytes::Bytes;

use super::State;
use super::reply::{refusal_code, refusal_from_code};

/// No term comes near it.
const REFUSED_TERM: u64 = u32::MAX as u64;

/// The command that makes `refusal` the answer to request `id`, and answers with what the answer is.
pub(crate) fn refuse(id: RequestId, refusal: Refusal, sentence: String) -> Command {
    let transaction = TransactionId {
        client: id.client,
        sequence: id.sequence,
        attempt: REFUSED_TERM << 32 | u64::from(refusal_code(refusal)),
    };
    Command::Decide {
        transaction,
        commit: false,
        steps: Vec::new(),
        participants: Vec::new(),
        reply: Box::new(Reply::Link(Bytes::from(sentence))),
        acknowledged_below: id.acknowledged_below,
    }
}

pub(super) fn is_refusal(transaction: TransactionId) -> bool {
    transaction.attempt >> 32 == REFUSED_TERM
}

impl State {
    pub(super) fn record_refusal(
        &mut self,
        transaction: TransactionId,
        reply: &Reply,
        acknowledged_below: u64,
    ) -> Result<Reply, Failure> {
        let id = RequestId {
            client: transaction.client,
            sequence: transaction.sequence,
            acknowledged_below,
        };
        if let Some(recorded) = self.recorded(&id) {
            return recorded;
        }
        self.admit(&id)?;
        let refusal = u8::try_from(transaction.attempt & 0xffff_ffff)
            .ok()
            .and_then(|code| refusal_from_code(code).ok())
            .unwrap_or(Refusal::Internal);
        let sentence = match reply {
            Reply::Link(sentence) => String::from_utf8_lossy(sentence).into_owned(),
            _ => String::new(),
        };
        let result = Err(Failure::refused(refusal, sentence));
        self.record(id.client, id.sequence, acknowledged_below, &result);
        result
    }
}
