//! Making copies of blocks that are missing or bad anew, and keeping the records true.
//!
//! Previous in the flow: the worker's clock ([`crate::worker`]), for partitions led here; a node that found a bad
//! copy. Next: the log, by `RecordCopies`.
//!
//! The leader knows which blocks have too few good copies. It asks a node that should have one to fetch it from
//! those that have one; bytes go from there to here and nowhere else. What became of it is recorded by one command
//! for many blocks. Leaders also ask nodes, a page at a time, which copies they lack, so that a node whose disk was
//! lost under its old name is not named for long.
//!
//! Invariants:
//! - A node is recorded as having a copy only after all of it was on its disk and verified.
//! - A copy on a node that is away is given up only together with a new one elsewhere.

use std::collections::BTreeMap;

use bark_schema::data::{CopyChange, DataCommand};
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Command, Failure, NodeRequest, Refusal, Reply};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;

use super::unexpected;
use crate::block_store::BadCopy;
use crate::checksum::crc32c;
use crate::state::BlockCopies;
use crate::worker::gateway::Gateway;

/// Blocks that are copied at the same time for one partition.
const IN_FLIGHT_MAX: usize = 2;

/// A block that needs more copies.
#[derive(Clone, Debug)]
pub struct Job {
    /// `nodes`: those that can be asked.
    pub copies: BlockCopies,
    /// How many copies to make.
    pub missing: usize,
    /// Where to, best first; the first may refuse.
    pub targets: Vec<NodeNumber>,
    /// Nodes that are named, and are not waited for any more.
    pub given_up: Vec<NodeNumber>,
}

/// Blocks that got a copy, and blocks that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mended {
    pub made: usize,
    pub failed: usize,
}

/// Makes copies and records them.
pub async fn mend(gateway: &Gateway, partition: PartitionId, jobs: Vec<Job>) -> Mended {
    let mut mended = Mended::default();
    let mut changes = Vec::new();
    let mut results = stream::iter(jobs)
        .map(|job| make_copies(gateway, job))
        .buffer_unordered(IN_FLIGHT_MAX);
    while let Some(made) = results.next().await {
        match made.is_empty() {
            true => mended.failed += 1,
            false => mended.made += 1,
        }
        changes.extend(made);
    }
    if let Err(failure) = record(gateway, partition, changes).await {
        tracing::debug!(partition = partition.0, %failure, "copies that were made will be recorded later");
        return Mended {
            made: 0,
            failed: mended.made + mended.failed,
        };
    }
    mended
}

/// What is to be recorded: nothing if no copy could be made.
async fn make_copies(gateway: &Gateway, job: Job) -> Vec<CopyChange> {
    let BlockCopies {
        block,
        size,
        checksum,
        nodes,
        ..
    } = job.copies;
    let mut made = Vec::new();
    for target in job.targets {
        if made.len() >= job.missing {
            break;
        }
        let request = NodeRequest::BlockFetch {
            block,
            size,
            checksum,
            from: nodes.clone(),
        };
        match gateway.node(target, request).await {
            Ok(_) => made.push(target),
            Err(failure) => {
                tracing::debug!(%block, node = target.0, %failure, "no copy could be made there");
            }
        }
    }
    // Those that are given up go first: a record that has enough nodes forgets how many it wanted.
    let mut given_up = job.given_up;
    given_up.truncate(made.len());
    let change = |node: NodeNumber, has| CopyChange { block, node, has };
    given_up
        .into_iter()
        .map(|node| change(node, false))
        .chain(made.into_iter().map(|node| change(node, true)))
        .collect()
}

async fn record(gateway: &Gateway, partition: PartitionId, changes: Vec<CopyChange>) -> Result<(), Failure> {
    for changes in changes.chunks(BLOCKS_PER_COMMAND_MAX) {
        let changes = changes.to_vec();
        let command = Command::Data(DataCommand::RecordCopies { changes });
        gateway.command(partition, command).await?;
    }
    Ok(())
}

/// Asks the nodes named in these records which copies they lack, and takes those out.
pub async fn find_missing(gateway: &Gateway, partition: PartitionId, page: Vec<(BlockId, Vec<NodeNumber>)>) {
    let mut by_node = BTreeMap::<NodeNumber, Vec<BlockId>>::new();
    for (block, nodes) in page {
        for node in nodes {
            by_node.entry(node).or_default().push(block);
        }
    }
    let asked = by_node.into_iter().map(|(node, blocks)| async move {
        let request = NodeRequest::BlocksMissing { blocks };
        (node, gateway.node(node, request).await)
    });
    let mut changes = Vec::new();
    for (node, answer) in join_all(asked).await {
        match answer {
            Ok(Reply::Blocks(missing)) if !missing.is_empty() => {
                tracing::warn!(
                    partition = partition.0,
                    node = node.0,
                    count = missing.len(),
                    "copies of blocks are missing on a node; they are made anew"
                );
                let lost = |block| CopyChange {
                    block,
                    node,
                    has: false,
                };
                changes.extend(missing.into_iter().map(lost));
            }
            Ok(_) => {}
            Err(failure) => {
                tracing::debug!(node = node.0, %failure, "a node did not say which copies it lacks");
            }
        }
    }
    if let Err(failure) = record(gateway, partition, changes).await {
        tracing::debug!(partition = partition.0, %failure, "missing copies are taken out of the records later");
    }
}

/// Copies a block to this node, unless it has a good copy.
pub async fn fetch(
    gateway: &Gateway,
    block: BlockId,
    size: u32,
    checksum: u32,
    from: Vec<NodeNumber>,
) -> Result<Reply, Failure> {
    let own = gateway.config().node;
    let request = NodeRequest::BlockVerify {
        block,
        checksum: Some(checksum),
    };
    if gateway.node(own, request).await.is_ok() {
        return Ok(Reply::Done);
    }
    let mut last = Failure::refused(Refusal::NotFound, format!("nobody else has {block}"));
    for source in from.into_iter().filter(|source| *source != own) {
        let request = NodeRequest::BlockGet {
            block,
            offset: 0,
            length: size,
        };
        match gateway.node(source, request).await {
            Ok(Reply::Block(data)) if data.len() == size as usize && crc32c(&[&data]) == checksum => {
                let request = NodeRequest::BlockPut {
                    block,
                    data,
                    checksum,
                    replicas: Vec::new(),
                    local_only: true,
                };
                return gateway.node(own, request).await;
            }
            Ok(Reply::Block(_)) => {
                tracing::warn!(%block, node = source.0, "a node sent wrong bytes of a block");
                last = Failure::refused(Refusal::Corrupt, format!("{source} sent wrong bytes of {block}"));
            }
            Ok(other) => return Err(unexpected(&other)),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}

/// Tells those who keep the records of copies on this node that were found bad. What does not get there is found again
/// when they ask ([`find_missing`]).
pub async fn tell_bad_copies(gateway: &Gateway, bad: Vec<BadCopy>) {
    let node = gateway.config().node;
    let mut by_home = BTreeMap::<PartitionId, Vec<CopyChange>>::new();
    for copy in bad {
        let block = copy.block;
        tracing::warn!(
            node = node.0,
            %block,
            segment = copy.segment,
            offset = copy.offset,
            "a copy of a block is bad; it is made anew from another"
        );
        if let Some(home) = block
            .home()
            .filter(|home| home.0 < gateway.config().partition_count)
        {
            let has = false;
            let change = CopyChange { block, node, has };
            by_home.entry(home).or_default().push(change);
        }
    }
    for (home, changes) in by_home {
        if let Err(failure) = record(gateway, home, changes).await {
            tracing::debug!(partition = home.0, %failure, "bad copies will be taken out of the records later");
        }
    }
}
