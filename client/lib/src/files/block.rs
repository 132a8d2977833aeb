//! One block to its replicas, one block back.
//!
//! Invariants:
//! - A node that is away is not the end: all are asked again until the client's deadline.
//! - A block counts as stored when a majority of its replicas has it on disk. Where the chosen nodes do not make it a
//!   majority, others are chosen; which ones have it, the extent says.
//! - Who has acknowledged a block and cannot be asked is waited for: that others never had it proves nothing.
//! - A whole block is checked against the CRC-32C its writer computed before a byte of it is given out; the
//!   node that sent other bytes is named in a warning.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use bark_schema::allocator::{attempts, targets};
use bark_schema::data::DataCommand;
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::limits::BLOCKS_PER_COMMAND_MAX;
use bark_schema::operation::{Command, Extent, Failure, NodeRequest, Refusal, Reply};
use bark_schema::placement::first_reader;
use bark_schema::policy::Policy;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::time::{Instant, sleep};

use crate::session::Call;
use crate::{Client, Error};

/// Between rounds of asking all nodes for the same block.
const PAUSE_MIN: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A block in progress. Sync, so that whoever holds a reader or writer stays free to move between threads.
pub(super) type OnTheWay<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + Sync>>;

/// Stores bytes as a new block for files of `home`, as their policy says, and describes them as the extent at `offset`.
pub(super) async fn put(
    client: Client,
    subject: String,
    home: PartitionId,
    policy: Policy,
    offset: u64,
    data: Bytes,
) -> Result<Extent, Error> {
    let block = client.new_block(home);
    let checksum = checksum(&data);
    let (order, copies) = client.place_block(block, &policy, data.len()).await;
    let length = data.len() as u32;
    let mut extent = Extent {
        offset,
        length,
        block,
        block_offset: 0,
        block_size: length,
        checksum,
        nodes: Vec::new(),
    };
    let mut last = Failure::Busy("the cluster has no nodes for blocks".into());
    let mut rounds = Rounds::new(&client);
    loop {
        let mut may_pass = false;
        for attempt in 0..attempts(&order, copies) {
            if attempt > 0 && rounds.is_over() {
                break;
            }
            let nodes = targets(&order, copies, attempt);
            match put_on(&client, &extent, &data, &nodes).await {
                Ok(Reply::Stored { nodes }) => {
                    extent.nodes = nodes;
                    return Ok(extent);
                }
                Ok(other) => return Err(Error::protocol(subject, &other)),
                Err(failure) => {
                    may_pass |= matches!(failure, Failure::Busy(_) | Failure::Unknown(_));
                    last = failure;
                }
            }
        }
        if !may_pass || !rounds.wait().await {
            break;
        }
    }
    abandon(&client, &[block], &order);
    // A block nobody refers to is not a change: whatever became of it, the file is as it was.
    Err(Error::new(
        subject,
        match last {
            Failure::Unknown(reason) => Failure::Busy(reason),
            other => other,
        },
    ))
}

/// Has the copies of blocks dropped that nobody will ever publish, behind the caller's back: whatever this does not reach
/// the nodes find by themselves, a day later.
pub(super) fn abandon(client: &Client, blocks: &[BlockId], nodes: &[NodeNumber]) {
    let mut by_home = BTreeMap::<PartitionId, Vec<BlockId>>::new();
    for block in blocks {
        if let Some(home) = block.home() {
            by_home.entry(home).or_default().push(*block);
        }
    }
    for (home, blocks) in by_home {
        for blocks in blocks.chunks(BLOCKS_PER_COMMAND_MAX) {
            let command = Command::Data(DataCommand::AbandonBlocks {
                blocks: blocks.to_vec(),
                nodes: nodes.to_vec(),
            });
            let client = client.clone();
            tokio::spawn(async move {
                if let Err(failure) = client.command(home, command).await {
                    tracing::debug!(%failure, "blocks nobody published stay for a day");
                }
            });
        }
    }
}

/// Stores a block on a majority of these nodes, through the first of them that manages.
async fn put_on(
    client: &Client,
    extent: &Extent,
    data: &Bytes,
    replicas: &[NodeNumber],
) -> Result<Reply, Failure> {
    let block = extent.block;
    let majority = replicas.len() / 2 + 1;
    let mut last = Failure::Busy("the cluster has no nodes for blocks".into());
    for via in replicas {
        let request = NodeRequest::BlockPut {
            block,
            data: data.clone(),
            checksum: extent.checksum,
            replicas: replicas.to_vec(),
            local_only: false,
        };
        match client.call(Call::NamedNode(*via, request)).await {
            Ok(Reply::Stored { nodes }) if nodes.len() < majority => {
                let (stored, wanted) = (nodes.len(), replicas.len());
                last = Failure::Busy(format!("{block} reached {stored} of {wanted} nodes, too few"));
            }
            Ok(other) => return Ok(other),
            Err(failure) => {
                tracing::debug!(node = via.0, %block, %failure, "block not stored through this node");
                last = failure;
            }
        }
    }
    Err(last)
}

/// Reads `length` bytes of an extent from `skip` on, from whichever node has them. Where one lets itself be waited for,
/// another is asked besides, and the first good answer counts (`hedge`).
pub(super) async fn get(
    client: Client,
    subject: String,
    extent: Extent,
    skip: u32,
    length: u32,
) -> Result<Bytes, Error> {
    let offset = extent.block_offset + skip;
    let whole = offset == 0 && length == extent.block_size;
    let mut last = Failure::refused(Refusal::Corrupt, format!("no node has {}", extent.block));
    let nodes = candidates(&client, &extent);
    let ask = async |node: NodeNumber| {
        let request = NodeRequest::BlockGet {
            block: extent.block,
            offset,
            length,
        };
        (node, client.call(Call::NamedNode(node, request)).await)
    };
    let begun = Instant::now();
    let mut rounds = Rounds::new(&client);
    let mut refused = false;
    let mut left = nodes.iter().copied().peekable();
    let mut asked = FuturesUnordered::new();
    // The node that is waited for, as long as it is alone.
    let mut alone = None;
    // The one that was, until another was asked besides.
    let mut hedged = None;
    loop {
        if asked.is_empty() {
            let Some(node) = left.next() else {
                // Who has no copy or a bad one said so for good; those that cannot be asked may come back.
                if !refused && !nodes.is_empty() && rounds.wait().await {
                    left = nodes.iter().copied().peekable();
                    continue;
                }
                break;
            };
            asked.push(ask(node));
            alone = Some(node);
        }
        let other = left.peek().copied().filter(|node| extent.nodes.contains(node));
        let answered = tokio::select! {
            biased;
            answered = asked.next() => answered,
            () = sleep(client.hedges().patience(length)), if alone.is_some() && other.is_some() => None,
        };
        let Some((node, answer)) = answered else {
            if let Some(first) = alone
                && client.hedges().take(first)
                && let Some(node) = left.next()
            {
                tracing::debug!(node = node.0, block = %extent.block, "asked besides a node that is slow");
                asked.push(ask(node));
                alone = None;
                hedged = Some(first);
            }
            continue;
        };
        match answer {
            Ok(Reply::Block(data)) => {
                let sound = data.len() == length as usize && (!whole || checksum(&data) == extent.checksum);
                if sound {
                    if let Some(slow) = hedged.filter(|slow| *slow != node && !asked.is_empty()) {
                        client.hedges().was_slow(slow);
                    }
                    client.hedges().note(length, begun.elapsed());
                    return Ok(data);
                }
                tracing::warn!(node = node.0, block = %extent.block, %subject, "node sent wrong bytes of a block");
                let sentence = format!("{node} sent wrong bytes of {}", extent.block);
                last = Failure::refused(Refusal::Corrupt, sentence);
                refused = true;
            }
            Ok(other) => return Err(Error::protocol(subject, &other)),
            // That a node does not have what it never acknowledged proves nothing.
            Err(Failure::Refused(..)) if !extent.nodes.is_empty() && !extent.nodes.contains(&node) => {}
            Err(failure) => {
                if matches!(failure, Failure::Refused(Refusal::Corrupt, _)) {
                    tracing::warn!(node = node.0, block = %extent.block, %subject, %failure, "bad copy of a block");
                }
                // A refusal says more than that a node is away.
                if !refused || matches!(failure, Failure::Refused(..)) {
                    refused = matches!(failure, Failure::Refused(..));
                    last = failure;
                }
            }
        }
    }
    Err(Error::new(subject, last))
}

/// Nodes are asked in rounds for as long as an operation may take: all of them may be away for a moment.
struct Rounds {
    until: Instant,
    pause: Duration,
}

impl Rounds {
    fn new(client: &Client) -> Rounds {
        Rounds {
            until: Instant::now() + client.config().deadline,
            pause: PAUSE_MIN,
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Waits for the next round; false when it is too late for one.
    async fn wait(&mut self) -> bool {
        if Instant::now() + self.pause >= self.until {
            return false;
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}

/// The nodes that acknowledged the block, first the one that keeps it in memory, last those that are slow; then those the
/// ring names, where repair may have put it since.
fn candidates(client: &Client, extent: &Extent) -> Vec<NodeNumber> {
    let mut nodes = extent.nodes.clone();
    let first = first_reader(extent.block, &nodes);
    nodes.sort_by_key(|node| (client.hedges().is_slow(*node), Some(*node) != first));
    for node in client.router().block_replicas(extent.block) {
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    nodes
}

/// CRC-32C.
pub(super) fn checksum(data: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, data) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_crc_32c() {
        // Goal: clients and nodes mean the same polynomial. Method: the check value of the CRC catalogue.
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }
}
