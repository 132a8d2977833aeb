//! What must hold of blocks when the cluster has come to rest.
//!
//! Invariants checked:
//! - Every node that is named as having a block in use has it, but one whose disk did harm: nothing needed was dropped.
//! - A block in use is on a majority of as many nodes as the policies of its files ask for.
//! - No block is in use and in the ledger.
//! - Before that, what nobody needs has gone, from the ledgers and from the disks.

use std::collections::BTreeMap;

use bark_core::block_store::BlockStore;
use bark_core::state::State;
use bark_schema::ids::{NodeNumber, PartitionId};

/// Of blocks of files without a policy; a majority of them is good.
const REPLICAS: usize = 3;

/// Whether everything nobody needs is gone: ledgers are empty, and stores hold what files point into.
/// Blocks that name no home are left out: nobody can be asked about them.
pub fn check_clean(
    states: &BTreeMap<PartitionId, &State>,
    stores: &BTreeMap<NodeNumber, &BlockStore>,
) -> Result<(), String> {
    for (partition, state) in states {
        if let Some((block, _, nodes)) = state.garbage().next() {
            return Err(format!(
                "{block} is still in the ledger of {partition}, for {nodes:?}"
            ));
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

/// `damaged` is the node whose disk lost or harmed what it keeps.
pub fn check(
    states: &BTreeMap<PartitionId, &State>,
    stores: &BTreeMap<NodeNumber, &BlockStore>,
    damaged: Option<NodeNumber>,
) -> Result<(), String> {
    for (partition, state) in states {
        for (block, nodes) in state.blocks() {
            for node in nodes.iter().filter(|node| Some(**node) != damaged) {
                let has = stores.get(node).is_some_and(|store| store.contains(block));
                if !has {
                    return Err(format!("{node} lacks {block}, which {partition} needs"));
                }
            }
        }
        let known: BTreeMap<_, _> = state.blocks().collect();
        for (block, policy) in state.block_policies() {
            let nodes = known.get(&block).copied().unwrap_or_default();
            if nodes.len() < policy.copies(REPLICAS) / 2 + 1 {
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
