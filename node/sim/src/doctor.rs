//! What `bark doctor` says of a cluster at rest: nothing, whatever the run did to it.
//!
//! The very code that the command line runs, over the replicas' states instead of a network. Beside it stand `tree`,
//! `usage` and `ledger`, which look at the same things in other ways: either may have a blind spot.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bark_client::doctor::{FindingKind, Members, Source, examine};
use bark_core::block_store::BlockStore;
use bark_core::state::State;
use bark_schema::audit::{AuditBlock, AuditPage};
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{ClusterStatus, Failure, NodeRequest, Query, Reply};

/// `damaged` is the node whose disk lost or harmed what it keeps.
pub fn check(
    states: &BTreeMap<PartitionId, &State>,
    stores: &BTreeMap<NodeNumber, &BlockStore>,
    damaged: Option<NodeNumber>,
) -> Result<(), String> {
    let members = Members {
        partition_count: states.len() as u16,
        nodes: stores.keys().map(|node| (*node, node.to_string())).collect(),
    };
    let source = AtRest { states, stores };
    let mut examination = pin!(examine(&source, &members));
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(report) = examination.as_mut().poll(&mut context) else {
        return Err("the doctor waits though every answer is there".to_owned());
    };
    if let Some(note) = report.notes.first() {
        return Err(format!("the doctor could not look at everything: {note}"));
    }
    let is_copy = |kind| matches!(kind, FindingKind::CopyMissing | FindingKind::CopyDiffers);
    let mut findings = report.findings.iter();
    match findings.find(|finding| !is_copy(finding.kind) || finding.node != damaged) {
        Some(finding) => Err(format!("the doctor finds {finding:?}")),
        None => Ok(()),
    }
}

struct AtRest<'a> {
    states: &'a BTreeMap<PartitionId, &'a State>,
    stores: &'a BTreeMap<NodeNumber, &'a BlockStore>,
}

impl Source for AtRest<'_> {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        match self.states.get(&partition) {
            Some(state) => state.query(0, &query),
            None => Err(Failure::Busy("the partition is nowhere".to_owned())),
        }
    }

    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure> {
        match (request, self.stores.get(&node)) {
            (NodeRequest::BlockAudit { after, limit }, Some(store)) => {
                Ok(Reply::Audit(Box::new(blocks(store, after, limit))))
            }
            // That replicas are equal is compared after every turn.
            (NodeRequest::ClusterStatus, _) => Ok(Reply::Cluster(no_partitions(node))),
            _ => Err(Failure::Busy("nobody answers that here".to_owned())),
        }
    }

    async fn pause(&self) {}
}

fn blocks(store: &BlockStore, after: Option<bark_schema::ids::BlockId>, limit: u32) -> AuditPage {
    let listed = store.blocks_after(after, limit as usize).into_iter();
    let described = listed.filter_map(|block| {
        let (size, checksum) = store.describe(block)?;
        Some(AuditBlock {
            block,
            size,
            checksum,
            nodes: Vec::new(),
        })
    });
    AuditPage {
        blocks: described.collect(),
        ..AuditPage::default()
    }
}

fn no_partitions(node: NodeNumber) -> ClusterStatus {
    ClusterStatus {
        cluster: String::new(),
        node,
        nodes: Vec::new(),
        partitions: Vec::new(),
        durability: String::new(),
        replicas: 0,
        partition_count: 0,
        disk_total_bytes: 0,
        disk_free_bytes: 0,
        block_bytes: 0,
    }
}
