//! Changes of several partitions: two-phase commit whose every move is a log entry.
//!
//! The coordinator prepares the steps of the other partitions there, then has the first partition decide:
//! that entry checks and applies the first partition's own steps, records the client's answer and the
//! outcome, and is the moment the transaction happens. The others learn it by `Finish`; when all have,
//! `Forget` drops the outcome. Whoever finds a prepared transaction without a coordinator asks the first
//! partition, where `Decide` with `commit` false makes "not decided" into "aborted" for good.
//!
//! Invariants:
//! - A transaction has one outcome: once recorded, no `Decide` changes it.
//! - After `Finish` of a transaction, a late `Prepare` of it holds nothing.
//! - Of all attempts at one request at most one commits: a request with a recorded answer gets that answer.

use bark_schema::ids::{PartitionId, TransactionId};
use bark_schema::operation::{Failure, Refusal, Reply, RequestId, Step, TransactionOutcome, UnixNanos};

use super::codec::{Reader, Row, Sink, row_struct};
use super::lock::LockKey;
use super::reply::is_recordable;
use super::session::Retiree;
use super::{Error, State};

/// A transaction that holds locks here until its outcome is known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prepared {
    pub(crate) primary: PartitionId,
    pub(crate) since: UnixNanos,
    pub(crate) steps: Vec<Step>,
}
row_struct!(Prepared {
    primary,
    since,
    steps
});

/// What was decided here and not all participants know yet.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutcomeRow {
    pub(crate) commit: bool,
    pub(crate) participants: Vec<PartitionId>,
}
row_struct!(OutcomeRow { commit, participants });

/// Markers of transactions that are over, kept as long as a late command about them may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TombstoneKind {
    /// Finished at this participant.
    Finished,
    /// Aborted at this first partition, and nobody is left to be told.
    Aborted,
}

impl State {
    pub(super) fn prepare(
        &mut self,
        transaction: TransactionId,
        primary: PartitionId,
        steps: &[Step],
    ) -> Result<Reply, Failure> {
        let is_over = self.tombstones.contains(&(TombstoneKind::Finished, transaction));
        if is_over || self.prepared.contains(&transaction) {
            return Ok(Reply::Done);
        }
        self.check_fence(transaction.client, transaction.sequence)?;
        self.check_steps(transaction, steps)?;
        self.reserve_inodes(steps);
        self.reserve_births(steps, true);
        for step in steps {
            self.locks.insert(LockKey::of_step(step), transaction);
        }
        let prepared = Prepared {
            primary,
            since: self.time,
            steps: steps.to_vec(),
        };
        self.prepared.insert(transaction, prepared);
        Ok(Reply::Done)
    }

    pub(super) fn finish(&mut self, transaction: TransactionId, commit: bool) -> Result<Reply, Failure> {
        self.bury(TombstoneKind::Finished, transaction);
        let Some(prepared) = self.prepared.remove(&transaction) else {
            return Ok(Reply::Done);
        };
        for step in &prepared.steps {
            self.locks.remove(&LockKey::of_step(step));
        }
        self.reserve_births(&prepared.steps, false);
        if commit {
            prepared.steps.iter().for_each(|step| self.apply_step(step));
        }
        Ok(Reply::Done)
    }

    pub(super) fn decide_commit(
        &mut self,
        transaction: TransactionId,
        steps: &[Step],
        participants: &[PartitionId],
        reply: &Reply,
        acknowledged_below: u64,
    ) -> Result<Reply, Failure> {
        let id = request_of(transaction, acknowledged_below);
        if self.is_aborted(transaction) {
            return Err(aborted());
        }
        let is_committed = self
            .outcomes
            .get(&transaction)
            .is_some_and(|outcome| outcome.commit);
        match self.recorded(&id) {
            Some(Ok(recorded)) if is_committed || participants.is_empty() => return Ok(recorded),
            _ if is_committed => return Ok(reply.clone()),
            // Another attempt was answered. Were this one answered with success too, its coordinator
            // would have its participants commit what they hold, a second time.
            Some(Ok(_)) => {
                self.record_abort(transaction, participants);
                return Err(aborted());
            }
            Some(Err(failure)) => {
                self.record_abort(transaction, participants);
                return Err(failure);
            }
            None => {}
        }
        if let Err(failure) = self.check_decision(&id, transaction, steps, reply) {
            self.record_abort(transaction, participants);
            if !matches!(failure, Failure::Refused(Refusal::Conflict, _)) {
                let result = Err(failure.clone());
                self.record(id.client, id.sequence, acknowledged_below, &result);
            }
            return Err(failure);
        }
        steps.iter().for_each(|step| self.apply_step(step));
        self.record(id.client, id.sequence, acknowledged_below, &Ok(reply.clone()));
        if !participants.is_empty() {
            let outcome = OutcomeRow {
                commit: true,
                participants: participants.to_vec(),
            };
            self.outcomes.insert(transaction, outcome);
        }
        Ok(reply.clone())
    }

    fn check_decision(
        &self,
        id: &RequestId,
        transaction: TransactionId,
        steps: &[Step],
        reply: &Reply,
    ) -> Result<(), Failure> {
        self.admit(id)?;
        if !is_recordable(reply) {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "not an answer a change can have",
            ));
        }
        self.check_fence(transaction.client, transaction.sequence)?;
        self.check_steps(transaction, steps)
    }

    /// Makes sure that the transaction never commits, unless it has; answers which of the two it is.
    pub(super) fn decide_abort(
        &mut self,
        transaction: TransactionId,
        participants: &[PartitionId],
    ) -> Result<Reply, Failure> {
        if self
            .outcomes
            .get(&transaction)
            .is_some_and(|outcome| outcome.commit)
        {
            return Ok(Reply::Outcome(TransactionOutcome::Committed));
        }
        if !self.is_aborted(transaction) {
            self.record_abort(transaction, participants);
        }
        Ok(Reply::Outcome(TransactionOutcome::Aborted))
    }

    pub(super) fn forget(&mut self, transaction: TransactionId) -> Result<Reply, Failure> {
        if let Some(outcome) = self.outcomes.remove(&transaction)
            && !outcome.commit
        {
            self.bury(TombstoneKind::Aborted, transaction);
        }
        Ok(Reply::Done)
    }

    fn is_aborted(&self, transaction: TransactionId) -> bool {
        match self.outcomes.get(&transaction) {
            Some(outcome) => !outcome.commit,
            None => self.tombstones.contains(&(TombstoneKind::Aborted, transaction)),
        }
    }

    fn record_abort(&mut self, transaction: TransactionId, participants: &[PartitionId]) {
        if participants.is_empty() {
            self.bury(TombstoneKind::Aborted, transaction);
        } else {
            let outcome = OutcomeRow {
                commit: false,
                participants: participants.to_vec(),
            };
            self.outcomes.insert(transaction, outcome);
        }
    }

    /// Leaves a marker that goes by itself after a while.
    fn bury(&mut self, kind: TombstoneKind, transaction: TransactionId) {
        if !self.tombstones.contains(&(kind, transaction)) {
            self.tombstones.insert((kind, transaction), ());
            self.retirements
                .insert((self.time, Retiree::Tombstone(kind, transaction)), ());
        }
    }
}

fn request_of(transaction: TransactionId, acknowledged_below: u64) -> RequestId {
    RequestId {
        client: transaction.client,
        sequence: transaction.sequence,
        acknowledged_below,
    }
}

fn aborted() -> Failure {
    Failure::Busy("the transaction was aborted; another attempt may succeed".to_owned())
}

impl Row for TombstoneKind {
    fn encode<S: Sink>(&self, sink: &mut S) {
        matches!(self, TombstoneKind::Aborted).encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(if bool::decode(reader)? {
            TombstoneKind::Aborted
        } else {
            TombstoneKind::Finished
        })
    }
}
