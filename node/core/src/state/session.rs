//! Exactly-once: what each client's requests were answered, so that repeating one changes nothing.
//!
//! A change carries (client, sequence). Its answer is a row of `replies`, written by the same entry that
//! makes the change, and goes once the client says it has it (`acknowledged_below`). Refusals that are
//! decided are answers too; being locked, busy or sent to the wrong command is none, and leaves no row.
//!
//! What nobody asks for any more goes by log time, a bounded number of rows with each entry: a queue
//! `retirements` holds when to look at a client (or at a transaction's marker) next, and looking at one
//! that was used meanwhile only puts it back.
//!
//! Invariants:
//! - A client's row counts its rows in `replies`, and none of them ends below its `acknowledged_below`.
//! - Each client and each marker has exactly one row in `retirements`.
//! - A client is forgotten no earlier than RETENTION after its last change, oldest replies first; while
//!   that goes on, a request whose reply is gone is refused, never applied again.

use bark_schema::ids::{ClientId, TransactionId};
use bark_schema::operation::{Failure, Refusal, Reply, RequestId, UnixNanos};

use super::codec::{Reader, Row, Sink, row_struct};
use super::key_run::{RunReply, sequences_in};
use super::reply::{decode_result, encode_result};
use super::transaction::TombstoneKind;
use super::{Error, State};
#[cfg(feature = "planted-bugs")]
use crate::planted::{Defect, is_planted};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SessionRow {
    pub(crate) acknowledged_below: u64,
    pub(crate) last_used: UnixNanos,
    pub(crate) replies: u32,
}
row_struct!(SessionRow {
    acknowledged_below,
    last_used,
    replies
});

/// What is looked at when its time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Retiree {
    Client(ClientId),
    Tombstone(TombstoneKind, TransactionId),
}

/// How long after its last use a client is remembered: longer than any client repeats a request.
pub(crate) const RETENTION: UnixNanos = 600 * 1_000_000_000;
/// Most unacknowledged replies of one client.
pub(crate) const REPLIES_PER_CLIENT_MAX: u32 = 65_536;
/// Most retirements looked at with one entry.
const RETIREMENTS_PER_ENTRY_MAX: usize = 16;
/// Most replies dropped with one entry when a client is forgotten.
const REPLIES_DROPPED_PER_ENTRY_MAX: usize = 256;

impl State {
    /// The answer a request was given, if it was.
    pub fn recorded(&self, id: &RequestId) -> Option<Result<Reply, Failure>> {
        #[cfg(feature = "planted-bugs")]
        if is_planted(Defect::ApplyTwice) {
            return None;
        }
        if let Some(bytes) = self.replies.get(&(id.client, id.sequence)) {
            if let Some(run) = RunReply::read(bytes) {
                return Some(Ok(run.reply(0)));
            }
            return Some(decode_result(&mut Reader::new(bytes)).unwrap_or_else(|_| {
                Err(Failure::refused(
                    Refusal::Internal,
                    "a recorded reply cannot be read",
                ))
            }));
        }
        let before = self
            .replies
            .range((id.client, 0)..(id.client, id.sequence))
            .next_back();
        if let Some(((_, first), row)) = before
            && let Some(run) = RunReply::read(row)
            && id.sequence - first < u64::from(run.count)
        {
            return Some(Ok(run.reply(id.sequence - first)));
        }
        let session = self.sessions.get(&id.client)?;
        (id.sequence < session.acknowledged_below).then(|| {
            Err(Failure::refused(
                Refusal::SessionExpired,
                "the answer to this request was dropped",
            ))
        })
    }

    /// Whether there is room for one more answer.
    pub(super) fn admit(&self, id: &RequestId) -> Result<(), Failure> {
        if id.acknowledged_below > id.sequence {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "request was acknowledged before it was made",
            ));
        }
        match self.sessions.get(&id.client) {
            // Those this very request acknowledges count too: a client at the limit sends one less.
            Some(session) if session.replies >= REPLIES_PER_CLIENT_MAX => {
                let acknowledged = self
                    .replies
                    .range((id.client, 0)..(id.client, id.acknowledged_below))
                    .next();
                match acknowledged {
                    Some(_) => Ok(()),
                    None => Err(Failure::Busy(
                        "too many unacknowledged requests of one client".to_owned(),
                    )),
                }
            }
            _ => Ok(()),
        }
    }

    /// Keeps the answer to a request, if it is one that is final.
    pub(super) fn record(
        &mut self,
        client: ClientId,
        sequence: u64,
        acknowledged_below: u64,
        result: &Result<Reply, Failure>,
    ) {
        if let Some(bytes) = encode_result(result) {
            self.record_row(client, sequence, acknowledged_below, bytes);
        }
    }

    /// Keeps an encoded answer, or several in one row.
    pub(super) fn record_row(
        &mut self,
        client: ClientId,
        sequence: u64,
        acknowledged_below: u64,
        row: Box<[u8]>,
    ) {
        let time = self.time;
        let known = self.sessions.get(&client).cloned();
        let mut session = known.clone().unwrap_or(SessionRow {
            acknowledged_below: 0,
            last_used: time,
            replies: 0,
        });
        if known.is_none() {
            self.retirements.insert((time, Retiree::Client(client)), ());
        }
        if acknowledged_below > session.acknowledged_below {
            session.acknowledged_below = acknowledged_below;
            session.replies -= self.drop_replies(client, acknowledged_below, usize::MAX).0;
        }
        self.replies.insert((client, sequence), row);
        session.replies += 1;
        session.last_used = time;
        self.sessions.insert(client, session);
    }

    /// Drops up to `limit` rows that end below `below`. Returns how many and the sequence after the last one.
    fn drop_replies(&mut self, client: ClientId, below: u64, limit: usize) -> (u32, Option<u64>) {
        let range = self.replies.range((client, 0)..(client, below));
        let rows: Vec<(u64, u64)> = range
            .map(|((_, sequence), row)| (*sequence, sequence.saturating_add(sequences_in(row))))
            .take_while(|(_, end)| *end <= below)
            .take(limit)
            .collect();
        for (sequence, _) in &rows {
            self.replies.remove(&(client, *sequence));
        }
        (rows.len() as u32, rows.last().map(|(_, end)| *end))
    }

    /// Forgets what was last used too long ago; a bounded number of rows.
    pub(super) fn retire(&mut self) {
        for _ in 0..RETIREMENTS_PER_ENTRY_MAX {
            let Some((&(since, retiree), ())) = self.retirements.first() else {
                return;
            };
            if since.saturating_add(RETENTION) > self.time {
                return;
            }
            match retiree {
                Retiree::Tombstone(kind, transaction) => {
                    self.tombstones.remove(&(kind, transaction));
                    self.retirements.remove(&(since, retiree));
                }
                Retiree::Client(client) => {
                    if !self.retire_client(since, client) {
                        return;
                    }
                }
            }
        }
    }

    /// Looks at one client. False if it has replies left to drop with the next entries.
    fn retire_client(&mut self, since: UnixNanos, client: ClientId) -> bool {
        let retiree = Retiree::Client(client);
        let Some(mut session) = self.sessions.get(&client).cloned() else {
            self.retirements.remove(&(since, retiree));
            return true;
        };
        if session.last_used > since {
            self.retirements.remove(&(since, retiree));
            self.retirements.insert((session.last_used, retiree), ());
            return true;
        }
        let (dropped, end) = self.drop_replies(client, u64::MAX, REPLIES_DROPPED_PER_ENTRY_MAX);
        session.replies -= dropped;
        if let Some(end) = end {
            session.acknowledged_below = session.acknowledged_below.max(end);
        }
        let is_empty = session.replies == 0;
        if is_empty {
            self.sessions.remove(&client);
            self.retirements.remove(&(since, retiree));
        } else {
            self.sessions.insert(client, session);
        }
        is_empty
    }
}

impl Row for Retiree {
    fn encode<S: Sink>(&self, sink: &mut S) {
        match self {
            Retiree::Client(client) => {
                0u8.encode(sink);
                client.encode(sink);
            }
            Retiree::Tombstone(kind, transaction) => {
                1u8.encode(sink);
                kind.encode(sink);
                transaction.encode(sink);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(Retiree::Client(Row::decode(reader)?)),
            1 => Ok(Retiree::Tombstone(Row::decode(reader)?, Row::decode(reader)?)),
            _ => Err(Error::Corrupt("a retirement of unknown kind")),
        }
    }
}
