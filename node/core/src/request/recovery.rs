//! Finishing transactions: by their coordinator, or by whoever leads a participant when it is gone.

use bark_schema::ids::{PartitionId, TransactionId};
use bark_schema::operation::{Command, Failure, Query, Reply, TransactionOutcome};

use crate::worker::gateway::Gateway;

/// Tells every participant the outcome; when all have it, the first partition may forget it.
/// Whatever fails here is done again by the leaders' upkeep.
pub async fn deliver(
    gateway: &Gateway,
    transaction: TransactionId,
    commit: bool,
    primary: PartitionId,
    participants: Vec<PartitionId>,
) {
    let finishes: Vec<_> = participants
        .into_iter()
        .map(|partition| gateway.command(partition, Command::Finish { transaction, commit }))
        .collect();
    if finishes.is_empty() {
        return;
    }
    let finished = futures::future::join_all(finishes).await;
    if finished.iter().all(Result::is_ok)
        && let Err(failure) = gateway.command(primary, Command::Forget { transaction }).await
    {
        tracing::debug!(%failure, "the outcome of a finished transaction is kept a little longer");
    }
}

/// Records that the attempt is aborted and releases what it locked.
pub async fn abort(
    gateway: &Gateway,
    transaction: TransactionId,
    primary: PartitionId,
    participants: Vec<PartitionId>,
) {
    if participants.is_empty() {
        return;
    }
    let decide = Command::Decide {
        transaction,
        commit: false,
        steps: Vec::new(),
        participants: participants.clone(),
        reply: Box::new(Reply::Done),
        acknowledged_below: 0,
    };
    // Only a recorded abort may release locks: otherwise a late decision could still commit.
    // The decision this attempt believes lost may have been taken after all: then it holds.
    if let Ok(decided) = gateway.command(primary, decide).await {
        let commit = decided == Reply::Outcome(TransactionOutcome::Committed);
        deliver(gateway, transaction, commit, primary, participants).await;
    }
}

/// A participant's leader asks the first partition what became of a transaction, and aborts it if nothing did.
pub async fn resolve(
    gateway: &Gateway,
    transaction: TransactionId,
    primary: PartitionId,
    participant: PartitionId,
) {
    let commit = match outcome(gateway, transaction, primary).await {
        Ok(TransactionOutcome::Committed) => true,
        Ok(TransactionOutcome::Aborted) => false,
        Ok(TransactionOutcome::Undecided) => {
            let decide = Command::Decide {
                transaction,
                commit: false,
                steps: Vec::new(),
                participants: vec![participant],
                reply: Box::new(Reply::Done),
                acknowledged_below: 0,
            };
            let aborted = gateway.command(primary, decide).await;
            match (aborted, outcome(gateway, transaction, primary).await) {
                (_, Ok(TransactionOutcome::Committed)) => true,
                (_, Ok(TransactionOutcome::Aborted)) => false,
                _ => return,
            }
        }
        Err(_) => return,
    };
    if let Err(failure) = gateway
        .command(participant, Command::Finish { transaction, commit })
        .await
    {
        tracing::debug!(%failure, "a participant will be finished later");
    }
}

async fn outcome(
    gateway: &Gateway,
    transaction: TransactionId,
    primary: PartitionId,
) -> Result<TransactionOutcome, Failure> {
    match gateway
        .query(primary, Query::TransactionOutcome { transaction })
        .await?
    {
        Reply::Outcome(outcome) => Ok(outcome),
        other => Err(Failure::Busy(format!("unexpected answer {other:?}"))),
    }
}
