//! Moving what came through the log out of memory: patches of a partition become one block.
//!
//! The leader takes patches of any files, up to a block's worth, stores their bytes one behind the other as a
//! block, or as one for each number of copies the files ask for, and proposes that the files point there. A patch that was overwritten
//! or dropped meanwhile is left alone by the command; its bytes in the block are lost space until the
//! block's last extent goes.
//!
//! Invariants:
//! - Contents never change by packing, and nothing is answered before or because of it.
//! - A failure anywhere leaves the patches where they were; the next round takes them again.

use std::collections::BTreeMap;

use bark_schema::data::{PackedFrom, PackedPiece};
use bark_schema::ids::PartitionId;
use bytes::{Bytes, BytesMut};

use super::defragment;
use crate::state::PatchToPack;
use crate::worker::gateway::Gateway;

pub async fn pack(gateway: &Gateway, partition: PartitionId, patches: Vec<PatchToPack>) {
    let mut by_copies = BTreeMap::<u32, Vec<PatchToPack>>::new();
    for patch in patches {
        by_copies.entry(patch.policy.replicas).or_default().push(patch);
    }
    for patches in by_copies.into_values() {
        // All have the same number of copies.
        let policy = patches.first().map(|patch| patch.policy).unwrap_or_default();
        let (data, pieces) = lay_out(patches);
        if let Err(failure) = defragment::store(gateway, partition, data, pieces, policy).await {
            tracing::debug!(partition = partition.0, %failure, "patches will be packed later");
        }
    }
}

/// The bytes of the block and what lies where in it.
fn lay_out(patches: Vec<PatchToPack>) -> (Bytes, Vec<PackedPiece>) {
    let mut data = BytesMut::with_capacity(patches.iter().map(|patch| patch.bytes.len()).sum());
    let mut pieces = Vec::with_capacity(patches.len());
    for patch in patches {
        pieces.push(PackedPiece {
            inode: patch.inode,
            offset: patch.offset,
            length: patch.bytes.len() as u32,
            block_offset: data.len() as u32,
            from: PackedFrom::Patch {
                written: patch.written,
            },
        });
        data.extend_from_slice(&patch.bytes);
    }
    (data.freeze(), pieces)
}
