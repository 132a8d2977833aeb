//! Asking the cluster, and what happens when it does not answer or refuses because a lease ran out.
//!
//! Next in the flow: the client library, which finds the leader, repeats and gives up at its deadline.
//! Here lives the policy for that moment: `Soft` hands the failure on, `Hard` asks again for as long as it
//! takes. A change whose outcome is not known is repeated as the same change for as long as the nodes remember it, and never
//! asked again after that: it would be a second change.

use std::time::Duration;

use bark_client::session::Call;
use bark_schema::data::DataCommand;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Command, Failure, Query, Refusal, Reply};

use super::Cluster;
use crate::delegations::Touched;

/// A soft mount waits no longer to hear whether its locks are lost.
const SOFT_LOCK_PATIENCE: Duration = Duration::from_secs(30);

/// What happens when an operation reaches its deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// The program gets EIO.
    Soft,
    /// The program waits until the cluster is back.
    Hard,
}

impl Cluster {
    /// How long somebody waits to know what his locks are worth.
    pub(crate) fn lock_patience(&self) -> Option<Duration> {
        (self.patience == Patience::Soft).then_some(SOFT_LOCK_PATIENCE)
    }

    pub(super) async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        let query = Query::By {
            client: self.client.id(),
            query: Box::new(query),
        };
        self.call(Call::Query { partition, query }).await
    }

    pub(super) async fn command(&self, partition: PartitionId, command: Command) -> Result<Reply, Failure> {
        let touched = self.delegations.touch_by_command(&command).await;
        let call = Call::Command { partition, command };
        // A lock that was given here has arrived by now, or is lost, and what was written under it with it.
        if let (_, Some(inode)) = touched_by(&call)
            && self.locks.settle(inode, self.lock_patience()).await.is_err()
        {
            return Err(Failure::refused(Refusal::Fenced, "a lock on the file is lost"));
        }
        let reply = self.call(call).await;
        note_answer(touched, &reply);
        reply
    }

    pub(super) async fn call(&self, call: Call) -> Result<Reply, Failure> {
        loop {
            match self.ask(call.clone()).await {
                Err(Failure::Refused(Refusal::Fenced, sentence)) => {
                    let (partition, inode) = touched_by(&call);
                    if !self.may_ask_again(partition, inode).await {
                        return Err(Failure::Refused(Refusal::Fenced, sentence));
                    }
                }
                answer => return answer,
            }
        }
    }

    /// A change was refused since some lease ran out. Unless it rests on what is lost, it may be made once more when the
    /// cluster knows that the mount knows.
    pub(super) async fn may_ask_again(&self, partition: Option<PartitionId>, inode: Option<InodeId>) -> bool {
        self.locks.rejoined(partition, inode, self.lock_patience()).await
    }

    pub(super) async fn ask(&self, call: Call) -> Result<Reply, Failure> {
        if self.patience == Patience::Soft {
            return self.client.call(call).await;
        }
        loop {
            let answer = match &call {
                Call::Command { .. } | Call::Namespace(_) => self.client.insist(call.clone()).await,
                _ => self.client.call(call.clone()).await,
            };
            match answer {
                Err(Failure::Busy(reason)) => {
                    tracing::warn!(reason, "the cluster does not answer; asking again");
                }
                result => return result,
            }
        }
    }
}

/// The partition that refused a call, if it can only be one, and the file that is changed.
fn touched_by(call: &Call) -> (Option<PartitionId>, Option<InodeId>) {
    let Call::Command { partition, command } = call else {
        return (None, None);
    };
    let inode = match command {
        Command::SetAttributes { inode, .. }
        | Command::WriteInline { inode, .. }
        | Command::Publish { inode, .. }
        | Command::XattrSet { inode, .. }
        | Command::XattrRemove { inode, .. }
        | Command::Data(
            DataCommand::Write { inode, .. }
            | DataCommand::Allocate { inode, .. }
            | DataCommand::CopyRange { to: inode, .. },
        ) => Some(*inode),
        Command::Data(DataCommand::Update(update)) => Some(update.inode),
        _ => None,
    };
    (Some(*partition), inode)
}

/// What came of a change that went to the cluster.
pub(super) fn note_answer(touched: Option<Touched>, reply: &Result<Reply, Failure>) {
    if let (Some(touched), Ok(Reply::Attributes(attributes) | Reply::Created { attributes, .. })) =
        (touched, reply)
    {
        touched.answered(attributes);
    }
}
