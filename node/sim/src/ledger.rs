//! What must hold of blocks when the cluster has come to rest.
//!
//! Invariants checked:
//! - Every node that is named as having a block in use has a good copy, all of whose bytes verify, whatever its disk did: it was made anew,
//!   unless it was the only one.
//! - A block in use is on as many nodes as the policies of its files ask for.
//! - No block is in use and in the ledger.
//! - Before that, what nobody needs has gone, from the ledgers and from the disks, and every block has its copies.

use std::collections::BTreeMap;

use bark_core::block_store::BlockStore;
use bark_core::disk::simulated::SimulatedDisk;
use bark_core::state::State;
use bark_core::storage::BLOCK_DIRECTORY;
use bark_schema::ids::{NodeNumber, PartitionId};

use crate::cluster::BLOCK_CONFIG;

/// Of blocks of files without a policy.
const REPLICAS: usize = 3;

/// Whether everything nobody needs is gone: ledgers are empty, and stores hold what files point into.
/// Blocks that name no home are left out: nobody can be asked about them. `damaged` is the node whose disk did harm.
pub fn check_clean(
    states: &BTreeMap<PartitionId, &State>,
    stores: &BTreeMap<NodeNumber, &BlockStore>,
    damaged: Option<NodeNumber>,
) -> Result<(), String> {
    for (partition, state) in states {
        if let Some((block, _, nodes)) = state.garbage().next() {
            return Err(format!(
                "{block} is still in the ledger of {partition}, for {nodes:?}"
            ));
        }
        if let Some(short) = state.short_of_copies(None).next() {
            return Err(format!("too few nodes have copies for {partition}: {short:?}"));
        }
        for (block, nodes) in state.blocks() {
            if nodes.len() == 1 && nodes.first() == damaged.as_ref() {
                // It was the only copy that was ever asked for.
                continue;
            }
            let has_not = |node: &&NodeNumber| !stores.get(node).is_some_and(|store| store.is_sound(block));
            if let Some(node) = nodes.iter().find(has_not) {
                return Err(format!(
                    "{node} of {nodes:?} lacks {block}, which {partition} needs"
                ));
            }
        }
    }
    for (node, store) in stores {
        for block in store.blocks_after(None, usize::MAX) {
            let home = block.home().and_then(|home| states.get(&home));
            if home.is_some_and(|state| !state.is_referenced(block)) {
                return Err(format!("{node} still has {block}, which nobody needs"));
            }
        }
    }
    Ok(())
}

/// Whether every copy that a record names verifies on its disk, as a node that is started anew finds it.
pub fn check_copies(
    states: &BTreeMap<PartitionId, &State>,
    node: NodeNumber,
    disk: &SimulatedDisk,
    is_damaged: bool,
) -> Result<(), String> {
    let mut disk = disk.clone();
    let opened = BlockStore::open(&mut disk, BLOCK_DIRECTORY, BLOCK_CONFIG);
    let (mut store, _) = opened.map_err(|error| format!("the blocks of {node}: {error}"))?;
    for (partition, state) in states {
        for (block, nodes) in state.blocks().filter(|(_, nodes)| nodes.contains(&node)) {
            let is_lost = is_damaged && nodes.len() == 1;
            if let Err(error) = store.verify(&mut disk, block, None)
                && !is_lost
            {
                return Err(format!(
                    "{node} of {nodes:?} has no good copy for {partition}: {error}"
                ));
            }
        }
    }
    Ok(())
}

pub fn check(states: &BTreeMap<PartitionId, &State>) -> Result<(), String> {
    for (partition, state) in states {
        let known: BTreeMap<_, _> = state.blocks().collect();
        for (block, policy) in state.block_policies() {
            let nodes = known.get(&block).copied().unwrap_or_default();
            if nodes.len() < policy.copies(REPLICAS) {
                return Err(format!(
                    "{block} of {partition} is on {nodes:?} only, in a file with {policy:?}"
                ));
            }
        }
        for (block, _, _) in state.garbage() {
            if state.is_referenced(block) {
                return Err(format!("{block} of {partition} is in use and in the ledger"));
            }
        }
    }
    Ok(())
}
