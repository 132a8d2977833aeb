//! A replica that may have forgotten what it promised, on its way back among the voters.
//!
//! Previous in the flow: `open`, which finds a blank log, or one that lost acknowledged records. Next: an
//! ordinary replica.
//!
//! Such a replica may have granted votes and acknowledged entries it knows nothing of. It says nothing in
//! consensus until **every** other replica has answered a question asked in this life (a nonce tells). An
//! answer is the replica's term and where its log ends. Then:
//!
//! - It goes to a term above all of them. Whoever was given a forgotten vote stands in one of those terms, or is
//!   restarted and no candidate any more. A leader among them hears of the higher term and is elected anew, so
//!   what it believed to know of this replica's log is gone as well.
//! - The farthest of the logs is its **floor**. An entry it acknowledged and forgot is committed only if another
//!   replica has it, or its leader counts that acknowledgement and has it too: both are within the floor.
//!   Until its own log has reached the floor it votes only for logs that have, and never stands for election.
//!
//! A replica that is blank because the cluster is new asks as well: nobody can tell from a blank disk whether it
//! was always blank. So a cluster's very first start waits until all replicas of a partition were there once.
//!
//! Price: one election for each partition when a replica comes back so, and it waits for all others, not for
//! a majority of them. A majority would do for the entries, but not for a vote that only its candidate knows of.
//!
//! Source: Michael et al., "Recovering Shared Objects Without Stable Storage" (2017), for what goes wrong without.
//!
//! Invariants:
//! - Between the question and the last answer no message of the group is taken or sent.
//! - A log below the floor is given no vote by this replica, its own included.

use std::collections::BTreeMap;

use bark_schema::ids::NodeNumber;
use bark_schema::message::{RaftKind, RaftMessage};
use bytes::Bytes;

use super::Partition;
use crate::consensus::{LogEnd, Outgoing};

/// The question is repeated to those who have not answered: every 200 ms.
const QUESTION_TICKS: u32 = 5;
/// Terms between the highest one heard of and the one to go on in. At level `memory` a term that was begun in the
/// last 100 ms before a power cut may be forgotten by all; an election takes longer than that.
const TERMS_SKIPPED: u64 = 16;

pub struct Rejoin {
    nonce: u64,
    answers: BTreeMap<NodeNumber, (u64, LogEnd)>,
    ticks: u32,
    /// Known once all have answered.
    floor: Option<LogEnd>,
}

impl Rejoin {
    pub fn new(nonce: u64) -> Rejoin {
        Rejoin {
            nonce,
            answers: BTreeMap::new(),
            ticks: 0,
            floor: None,
        }
    }
}

impl Partition {
    /// Not yet an ordinary voter.
    pub fn is_rejoining(&self) -> bool {
        self.rejoin.is_some()
    }

    /// Another node found that this one may have forgotten: from here on it is as if it had come back blank. One
    /// that failed stays so until it is opened anew, and rejoins then.
    pub fn may_have_forgotten(&mut self, nonce: u64) {
        if self.rejoin.is_none() && self.replicas.len() > 1 {
            self.guard(|partition| partition.group.step_down());
            self.rejoin = Some(Rejoin::new(nonce));
        }
    }

    /// Some replica has not answered yet: consensus does not exist for this one.
    pub(super) fn is_asking(&self) -> bool {
        self.rejoin.as_ref().is_some_and(|rejoin| rejoin.floor.is_none())
    }

    /// The log end this replica must reach before it may stand for election.
    fn unreached_floor(&self) -> Option<LogEnd> {
        let floor = self.rejoin.as_ref()?.floor?;
        (self.group.log_end() < floor).then_some(floor)
    }

    /// One tick of the election clock, in so far as this replica takes part.
    pub(super) fn tick_group(&mut self) {
        if self.is_asking() {
            self.ask_replicas();
        } else if self.unreached_floor().is_some() {
            self.group.tick_without_campaign();
        } else {
            self.group.tick();
        }
    }

    fn ask_replicas(&mut self) {
        let Some(rejoin) = &mut self.rejoin else { return };
        let due = rejoin.ticks.is_multiple_of(QUESTION_TICKS);
        rejoin.ticks = rejoin.ticks.wrapping_add(1);
        if !due {
            return;
        }
        let node = self.group.node();
        for to in &self.replicas {
            if *to != node && !rejoin.answers.contains_key(to) {
                self.group_output.messages.push(Outgoing::Raft(RaftMessage {
                    context: nonce_bytes(rejoin.nonce),
                    ..message(self.id, RaftKind::RejoinQuestion, node, *to)
                }));
            }
        }
    }

    /// Takes questions and answers; true if the message was one, or is not for a replica that stands as this one does.
    pub(super) fn step_rejoin(&mut self, received: &RaftMessage) -> bool {
        match received.kind {
            RaftKind::RejoinQuestion => self.answer_question(received),
            RaftKind::RejoinAnswer => self.take_answer(received),
            _ if self.is_asking() => {}
            RaftKind::TimeoutNow => return self.unreached_floor().is_some(),
            RaftKind::RequestVote | RaftKind::RequestPreVote => {
                let candidate = LogEnd {
                    term: received.log_term,
                    index: received.index,
                };
                return self.unreached_floor().is_some_and(|floor| candidate < floor);
            }
            _ => return false,
        }
        true
    }

    fn answer_question(&mut self, question: &RaftMessage) {
        let LogEnd { term, index } = self.group.log_end();
        self.group_output.messages.push(Outgoing::Raft(RaftMessage {
            term: self.group.term(),
            log_term: term,
            index,
            context: question.context.clone(),
            ..message(self.id, RaftKind::RejoinAnswer, self.group.node(), question.from)
        }));
    }

    fn take_answer(&mut self, answer: &RaftMessage) {
        let Some(rejoin) = &mut self.rejoin else { return };
        if rejoin.floor.is_some() || answer.context != nonce_bytes(rejoin.nonce) {
            return;
        }
        let end = LogEnd {
            term: answer.log_term,
            index: answer.index,
        };
        rejoin.answers.insert(answer.from, (answer.term, end));
        if rejoin.answers.len() + 1 < self.replicas.len() {
            return;
        }
        let own = (self.group.term(), self.group.log_end());
        let all = rejoin.answers.values().copied().chain([own]);
        let (term, floor) = all.fold(own, |(term, floor), (other_term, other_end)| {
            (term.max(other_term), floor.max(other_end))
        });
        rejoin.floor = Some(floor);
        if term > 0 {
            // At term 0 nobody ever voted: the cluster is new.
            self.group.enter_term(term.saturating_add(TERMS_SKIPPED));
        }
        tracing::debug!(
            partition = self.id.0,
            term,
            floor = floor.index,
            "every replica answered: this one takes part again"
        );
    }

    /// Ends when a log that reaches the floor is durable.
    pub(super) fn finish_rejoin(&mut self) {
        let floor = self.rejoin.as_ref().and_then(|rejoin| rejoin.floor);
        if floor.is_some_and(|floor| self.group.durable_log_end() >= floor) {
            self.rejoin = None;
            tracing::debug!(partition = self.id.0, "this replica votes again");
        }
    }
}

fn nonce_bytes(nonce: u64) -> Bytes {
    Bytes::copy_from_slice(&nonce.to_le_bytes())
}

fn message(
    partition: bark_schema::ids::PartitionId,
    kind: RaftKind,
    from: NodeNumber,
    to: NodeNumber,
) -> RaftMessage {
    RaftMessage {
        partition,
        kind,
        from,
        to,
        term: 0,
        log_term: 0,
        index: 0,
        entries: Vec::new(),
        commit: 0,
        commit_term: 0,
        snapshot: None,
        request_snapshot: 0,
        reject: false,
        reject_hint: 0,
        context: Bytes::new(),
        priority: 0,
    }
}
