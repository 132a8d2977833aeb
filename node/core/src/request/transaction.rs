//! Two-phase commit whose every step is a log entry.
//!
//! The first partition's `Decide` entry is the outcome: it validates and applies that partition's own steps
//! and records the result in one entry, so there is no moment in which the outcome exists but is not
//! durable. The other partitions `Prepare` first (their steps are checked, their objects locked) and
//! `Finish` after. Nobody waits while holding a lock: a conflict aborts this attempt.
//!
//! Invariants:
//! - A transaction commits only if every other participant had prepared it.
//! - Each attempt has a name of its own; an aborted one stays aborted.
//! - Until a participant has finished, reads of what it locked wait: nobody sees half a transaction.

use std::collections::BTreeMap;

use bark_schema::ids::{InodeId, PartitionId, TransactionId};
use bark_schema::operation::{Command, Entry, Failure, Query, Refusal, Reply, RequestId, Step};
use bytes::Bytes;

use super::recovery;
use super::unexpected;
use crate::worker::gateway::Gateway;

/// Deepest directory tree: bounds the walk over ancestors.
const DEPTH_MAX: u32 = 4096;

/// What a transaction does.
#[derive(Default)]
pub struct Plan {
    /// Steps by the partition that holds what they touch.
    pub steps: BTreeMap<PartitionId, Vec<Step>>,
    /// Directories that get a new parent: under the cluster's rename lease, and not below themselves.
    pub reparents: Vec<Reparent>,
    /// What the names led to that it was planned from.
    pub seen: Vec<(Entry, Option<InodeId>)>,
}

#[derive(Clone, Copy)]
pub struct Reparent {
    pub moved: InodeId,
    pub parent: InodeId,
}

impl Plan {
    pub fn add(&mut self, partition: PartitionId, step: Step) {
        self.steps.entry(partition).or_default().push(step);
    }
}

/// One attempt: prepares, decides, and lets the rest finish in the background.
/// Errors: `Locked` or `Busy` if another attempt may succeed; anything else is the answer.
pub async fn attempt(
    gateway: &Gateway,
    id: RequestId,
    transaction: TransactionId,
    primary: PartitionId,
    mut plan: Plan,
    reply: Reply,
) -> Result<Reply, Failure> {
    let own_steps = plan.steps.remove(&primary).unwrap_or_default();
    if !plan.reparents.is_empty() {
        // Held from the prepare on, also when the root's partition is the first one: the ancestors are
        // looked at between prepare and decision. If the lease is lost meanwhile, so is the attempt.
        plan.add(InodeId::ROOT.home(), Step::HoldRenameLease);
    }
    let participants: Vec<PartitionId> = plan.steps.keys().copied().collect();
    let prepares: Vec<_> = std::mem::take(&mut plan.steps)
        .into_iter()
        .map(|(partition, steps)| {
            gateway.command(
                partition,
                Command::Prepare {
                    transaction,
                    primary,
                    steps,
                },
            )
        })
        .collect();
    for prepared in futures::future::join_all(prepares).await {
        if let Err(failure) = prepared {
            recovery::abort(gateway, transaction, primary, participants).await;
            return Err(failure);
        }
    }
    for reparent in plan.reparents {
        if let Err(failure) = refuse_own_descendant(gateway, reparent).await {
            recovery::abort(gateway, transaction, primary, participants).await;
            return Err(failure);
        }
    }
    let decide = Command::Decide {
        transaction,
        commit: true,
        steps: own_steps,
        participants: participants.clone(),
        reply: Box::new(reply),
        acknowledged_below: id.acknowledged_below,
    };
    let decided = gateway.command(primary, decide).await;
    match decided {
        Ok(reply) => {
            let gateway_of_delivery = gateway.clone();
            gateway.spawn(async move {
                recovery::deliver(&gateway_of_delivery, transaction, true, primary, participants).await;
            });
            Ok(reply)
        }
        // The outcome exists or will: participants ask the first partition, and so does a repeated request.
        Err(Failure::Unknown(sentence)) => Err(Failure::Unknown(sentence)),
        Err(failure) => {
            recovery::abort(gateway, transaction, primary, participants).await;
            Err(failure)
        }
    }
}

/// Refuses to move a directory below itself: `mv a b/d` beside `mv b a/c` must not tie a loop.
async fn refuse_own_descendant(gateway: &Gateway, reparent: Reparent) -> Result<(), Failure> {
    let mut ancestor = reparent.parent;
    for _ in 0..DEPTH_MAX {
        if ancestor == reparent.moved {
            return Err(Failure::refused(
                Refusal::InvalidArgument,
                "a directory cannot move below itself",
            ));
        }
        if ancestor == InodeId::ROOT {
            return Ok(());
        }
        ancestor = parent(gateway, ancestor).await?;
    }
    Err(Failure::refused(
        Refusal::InvalidArgument,
        "the directory tree is too deep",
    ))
}

async fn parent(gateway: &Gateway, directory: InodeId) -> Result<InodeId, Failure> {
    // Not a page of the directory: that would wait for the very entry this transaction holds in it.
    let query = Query::Lookup {
        directory,
        name: Bytes::from_static(b".."),
    };
    match gateway.query(directory.home(), query).await? {
        Reply::Entry { inode, .. } => Ok(inode),
        other => Err(unexpected(&other)),
    }
}
