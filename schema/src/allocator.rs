//! Which nodes the blocks of one writer go to, by the policies of their files.
//!
//! An order of all nodes is made for each block: the first get its copies, those behind are fallen back on. Where a block
//! went in the end is recorded with it, so nothing here need be the same tomorrow or on another machine.
//!
//! Invariants:
//! - An order names every node of the ring once.
//! - The nodes of one attempt are distinct, and of the next attempt others as far as there are any.

use std::collections::BTreeMap;

use crate::ids::{BlockId, NodeNumber};
use crate::placement::{NodeUse, Ring};
use crate::policy::{Allocate, Policy};

/// What a writer remembers from block to block.
#[derive(Clone, Debug)]
pub struct Allocator {
    turn: u64,
    uses: BTreeMap<NodeNumber, NodeUse>,
}

impl Allocator {
    /// `turn`: where round robin begins; different for every writer, so that they do not all begin at one node.
    pub fn new(turn: u64) -> Allocator {
        Allocator {
            turn,
            uses: BTreeMap::new(),
        }
    }

    /// Takes what the nodes told of themselves. Who did not tell is used last.
    pub fn learn(&mut self, uses: BTreeMap<NodeNumber, NodeUse>) {
        self.uses = uses;
    }

    /// Whether anything is known of the nodes.
    pub fn knows_uses(&self) -> bool {
        !self.uses.is_empty()
    }

    /// All nodes, preferred ones first, for a block of so many bytes and copies.
    pub fn order(
        &mut self,
        ring: &Ring,
        block: BlockId,
        policy: &Policy,
        copies: usize,
        size: u64,
    ) -> Vec<NodeNumber> {
        match policy.allocate {
            Allocate::Ring => ring.block_replicas(block, usize::MAX),
            Allocate::RoundRobin => {
                self.turn = self.turn.wrapping_add(1);
                ring.in_turn(self.turn)
            }
            Allocate::LeastUsed => {
                let order = ring.by_use(block, &self.uses);
                // The next block is not to go where this one is going already.
                for node in order.iter().take(copies) {
                    if let Some(known) = self.uses.get_mut(node) {
                        known.add(size);
                    }
                }
                order
            }
        }
    }
}

/// The nodes of the attempt with that number: with each one further along the order.
pub fn targets(order: &[NodeNumber], copies: usize, attempt: usize) -> Vec<NodeNumber> {
    let copies = copies.min(order.len());
    let first = match copies == order.len() {
        true => 0,
        false => attempt % order.len(),
    };
    order.iter().cycle().skip(first).take(copies).copied().collect()
}

/// Attempts after which all choices were tried.
pub fn attempts(order: &[NodeNumber], copies: usize) -> usize {
    match copies >= order.len() {
        true => 1,
        false => order.len(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ClientId, PartitionId};

    const NODES: [NodeNumber; 3] = [NodeNumber(1), NodeNumber(2), NodeNumber(3)];

    fn ring() -> Ring {
        let nodes = NODES.map(|number| (number, ["a", "b", "c"][usize::from(number.0) - 1], ""));
        Ring::new(&nodes, 128)
    }

    fn order(allocator: &mut Allocator, allocate: Allocate, counter: u64) -> Vec<NodeNumber> {
        let policy = Policy {
            allocate,
            ..Policy::default()
        };
        let block = BlockId::new(ClientId(7), PartitionId(0), counter);
        allocator.order(&ring(), block, &policy, 1, 1 << 20)
    }

    #[test]
    fn each_allocation_deals_as_it_says() {
        // Goal: round robin is exactly even, least used fills the emptiest up, the ring depends on the block alone.
        // Method: count the first nodes of a dozen blocks.
        let mut allocator = Allocator::new(u64::MAX - 3);
        let dealt = |allocator: &mut Allocator, allocate| {
            let mut counts = [0; 3];
            for counter in 1..=12 {
                counts[usize::from(order(allocator, allocate, counter)[0].0) - 1] += 1;
            }
            counts
        };
        assert_eq!(dealt(&mut allocator, Allocate::RoundRobin), [4; 3]);
        let mut other = Allocator::new(5);
        assert_eq!(
            order(&mut other, Allocate::Ring, 1),
            order(&mut allocator, Allocate::Ring, 1)
        );
        let known = |blocks: u64| NodeUse {
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            block_bytes: blocks << 20,
        };
        allocator.learn(NODES.into_iter().zip([known(8), known(0), known(8)]).collect());
        let counts = dealt(&mut allocator, Allocate::LeastUsed);
        assert!(counts[1] >= 9, "{counts:?}");
    }

    #[test]
    fn attempts_move_along_the_order() {
        // Goal: one node that is away never keeps a block from being stored where others are. Method: table.
        for (copies, expected) in [
            (1, vec![vec![1], vec![2], vec![3]]),
            (2, vec![vec![1, 2], vec![2, 3], vec![3, 1]]),
            (3, vec![vec![1, 2, 3]]),
            (9, vec![vec![1, 2, 3]]),
        ] {
            let numbers = |attempt| {
                targets(&NODES, copies, attempt)
                    .iter()
                    .map(|node| node.0)
                    .collect()
            };
            let found: Vec<Vec<u16>> = (0..attempts(&NODES, copies)).map(numbers).collect();
            assert_eq!(found, expected);
        }
        assert!(targets(&[], 3, 0).is_empty());
    }
}
