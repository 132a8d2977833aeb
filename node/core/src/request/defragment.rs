//! Joining files that fell into small pieces: a run of neighbours becomes one block.
//!
//! Small overwrites leave a file in thousands of extents, each a fetch of its own to read. The leader reads a
//! run of them, stores it as one block and proposes that the file points there; the command moves only what
//! is still where it was read. Runs without gaps alone are taken: they end as one extent, and are not taken
//! again.
//!
//! Invariants:
//! - Contents never change, and bytes are stored again only if every piece of the run could be read.

use bark_schema::data::{DataCommand, PackedBlock, PackedFrom, PackedPiece};
use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, Failure, NodeRequest, Refusal, Reply};
use bark_schema::policy::Policy;
use bytes::{Bytes, BytesMut};

use super::{block, unexpected};
use crate::checksum::crc32c;
use crate::state::{Fragment, FragmentPlace};
use crate::worker::gateway::Gateway;

pub async fn defragment(gateway: &Gateway, partition: PartitionId, run: Vec<Fragment>) {
    if let Err(failure) = try_defragment(gateway, partition, run).await {
        tracing::debug!(partition = partition.0, %failure, "a file stays in pieces a little longer");
    }
}

async fn try_defragment(
    gateway: &Gateway,
    partition: PartitionId,
    run: Vec<Fragment>,
) -> Result<(), Failure> {
    let policy = run.first().map(|fragment| fragment.policy).unwrap_or_default();
    let mut data = BytesMut::new();
    let mut pieces = Vec::with_capacity(run.len());
    for fragment in run {
        let block_offset = data.len() as u32;
        let from = match fragment.place {
            FragmentPlace::Patch { written, bytes } => {
                data.extend_from_slice(&bytes);
                PackedFrom::Patch { written }
            }
            FragmentPlace::Block {
                block,
                block_offset,
                nodes,
            } => {
                let request = NodeRequest::BlockGet {
                    block,
                    offset: block_offset,
                    length: fragment.length,
                };
                data.extend_from_slice(&read(gateway, &nodes, request, fragment.length).await?);
                PackedFrom::Block { block, block_offset }
            }
        };
        pieces.push(PackedPiece {
            inode: fragment.inode,
            offset: fragment.offset,
            length: fragment.length,
            block_offset,
            from,
        });
    }
    store(gateway, partition, data.freeze(), pieces, policy).await
}

/// Stores bytes as a block and lets the pieces point there.
pub(super) async fn store(
    gateway: &Gateway,
    partition: PartitionId,
    data: Bytes,
    pieces: Vec<PackedPiece>,
    policy: Policy,
) -> Result<(), Failure> {
    let checksum = crc32c(&[&data]);
    let size = data.len() as u32;
    let id = gateway.new_block(partition);
    let replicas = nodes_for(gateway, partition, id, policy);
    let nodes = match block::put(gateway, id, data, checksum, replicas).await? {
        Reply::Stored { nodes } => nodes,
        other => return Err(unexpected(&other)),
    };
    let block = PackedBlock {
        block: id,
        size,
        checksum,
        nodes,
    };
    let command = Command::Data(DataCommand::Repack { block, pieces });
    gateway.command(partition, command).await.map(|_| ())
}

/// Where the leader puts a block it makes: on its partition's replicas, unless the file's policy wants more or fewer copies.
/// Those go round from block to block, and so do retries, which use a new block. How the policy allocates is
/// for blocks that clients cut.
fn nodes_for(gateway: &Gateway, partition: PartitionId, block: BlockId, policy: Policy) -> Vec<NodeNumber> {
    let config = gateway.config();
    let mut nodes = config.replicas_of(partition).to_vec();
    if policy.replicas == 0 {
        return nodes;
    }
    let others = config.nodes.iter().map(|node| node.number);
    let mut others: Vec<NodeNumber> = others.filter(|node| !nodes.contains(node)).collect();
    for nodes in [&mut nodes, &mut others] {
        let turn = block.counter.checked_rem(nodes.len() as u64).unwrap_or(0);
        nodes.rotate_left(turn as usize);
    }
    nodes.extend(others);
    nodes.truncate(policy.copies(nodes.len()));
    nodes
}

/// From the first node that has all of it.
async fn read(
    gateway: &Gateway,
    nodes: &[NodeNumber],
    request: NodeRequest,
    length: u32,
) -> Result<Bytes, Failure> {
    let mut last = Failure::refused(Refusal::NotFound, "the block is on no node");
    for node in nodes {
        match gateway.node(*node, request.clone()).await {
            Ok(Reply::Block(data)) if data.len() == length as usize => return Ok(data),
            Ok(other) => return Err(unexpected(&other)),
            Err(failure) => last = failure,
        }
    }
    Err(last)
}
