//! Which replica of each partition is to lead: the first in ring order, moved so that the load is even.
//!
//! Every node computes it by itself from what all of them know, and they come to the same. So nobody has to be
//! asked who leads what, and nobody hands a partition back to where it came from.
//!
//! The assignment of all nodes comes first, and then that of those that are there: when a node goes away, only the
//! partitions assigned to it change hands, unless the load would be uneven.
//!
//! Invariants:
//! - Same inputs, same assignment.
//! - No move of a partition, or of several along a chain of nodes, would make the loads of two nodes more even.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bark_schema::ids::NodeNumber;

/// By partition. None: none of its replicas is in `fit`.
pub fn assign(placement: &[Vec<NodeNumber>], fit: &BTreeSet<NodeNumber>) -> Vec<Option<NodeNumber>> {
    let everybody: BTreeSet<NodeNumber> = placement.iter().flatten().copied().collect();
    let mut leaders: Vec<Option<NodeNumber>> = placement.iter().map(|it| it.first().copied()).collect();
    even_out(placement, &everybody, &mut leaders);
    for (replicas, leader) in placement.iter().zip(0..) {
        if leaders[leader].is_some_and(|it| fit.contains(&it)) {
            continue;
        }
        let loads = loads(fit, &leaders);
        let candidates = replicas.iter().copied().filter(|node| fit.contains(node));
        // The first of the least loaded.
        leaders[leader] = candidates.min_by_key(|node| loads.get(node).copied().unwrap_or(0));
    }
    even_out(placement, fit, &mut leaders);
    leaders
}

fn loads(nodes: &BTreeSet<NodeNumber>, leaders: &[Option<NodeNumber>]) -> BTreeMap<NodeNumber, usize> {
    let mut loads: BTreeMap<NodeNumber, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for leader in leaders.iter().flatten() {
        if let Some(load) = loads.get_mut(leader) {
            *load += 1;
        }
    }
    loads
}

/// Moves partitions along chains from a node to one that has at least two less, until there is no such chain. Each
/// time the sum of the squares of the loads falls, so it ends.
fn even_out(placement: &[Vec<NodeNumber>], nodes: &BTreeSet<NodeNumber>, leaders: &mut [Option<NodeNumber>]) {
    loop {
        let loads = loads(nodes, leaders);
        let mut heaviest: Vec<NodeNumber> = nodes.iter().copied().collect();
        heaviest.sort_by_key(|node| (std::cmp::Reverse(loads[node]), *node));
        let found = heaviest
            .iter()
            .find_map(|from| chain(placement, nodes, leaders, &loads, *from));
        let Some(moves) = found else { return };
        for (partition, to) in moves {
            leaders[partition] = Some(to);
        }
    }
}

/// The shortest chain of moves that takes one partition off `from` and adds it to a node with two less.
fn chain(
    placement: &[Vec<NodeNumber>],
    nodes: &BTreeSet<NodeNumber>,
    leaders: &[Option<NodeNumber>],
    loads: &BTreeMap<NodeNumber, usize>,
    from: NodeNumber,
) -> Option<Vec<(usize, NodeNumber)>> {
    // How each node was reached: which partition moves to it, and from where.
    let mut reached: BTreeMap<NodeNumber, (usize, NodeNumber)> = BTreeMap::new();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        for (partition, replicas) in placement.iter().enumerate() {
            if leaders[partition] != Some(node) {
                continue;
            }
            for to in replicas.iter().copied().filter(|to| nodes.contains(to)) {
                if to == from || reached.contains_key(&to) {
                    continue;
                }
                reached.insert(to, (partition, node));
                if loads[&to] + 2 <= loads[&from] {
                    let mut moves = Vec::new();
                    let mut at = to;
                    while at != from {
                        let (partition, before) = reached[&at];
                        moves.push((partition, at));
                        at = before;
                    }
                    return Some(moves);
                }
                queue.push_back(to);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn nodes(numbers: &[u16]) -> BTreeSet<NodeNumber> {
        numbers.iter().copied().map(NodeNumber).collect()
    }

    /// `copies` replicas each, of nodes 1 to `count`, in drawn order.
    fn drawn(random: &mut Random, partitions: usize, count: u16, copies: usize) -> Vec<Vec<NodeNumber>> {
        let replicas = |random: &mut Random| {
            let mut all: Vec<NodeNumber> = (1..=count).map(NodeNumber).collect();
            let mut picked = Vec::new();
            while picked.len() < copies {
                picked.push(all.remove(random.below(all.len() as u64) as usize));
            }
            picked
        };
        (0..partitions).map(|_| replicas(random)).collect()
    }

    fn spread(leaders: &[Option<NodeNumber>], fit: &BTreeSet<NodeNumber>) -> usize {
        let loads = loads(fit, leaders);
        loads.values().max().unwrap_or(&0) - loads.values().min().unwrap_or(&0)
    }

    #[test]
    fn loads_differ_by_one_at_most_where_every_node_has_every_partition() {
        // Goal: the rule of thumb, for any number of partitions and any nodes away.
        let mut random = Random::new(5);
        for partitions in 0..40 {
            let placement = drawn(&mut random, partitions, 3, 3);
            for fit in [nodes(&[1, 2, 3]), nodes(&[1, 3]), nodes(&[2])] {
                let leaders = assign(&placement, &fit);
                assert!(
                    spread(&leaders, &fit) <= 1,
                    "{placement:?} with {fit:?}: {leaders:?}"
                );
                assert!(
                    leaders
                        .iter()
                        .all(|leader| leader.is_some_and(|it| fit.contains(&it)))
                );
            }
        }
    }

    #[test]
    fn loads_are_as_even_as_the_replicas_allow() {
        // Goal: only replicas lead, and chains of moves are found. Method: drawn placements over many nodes; a chain of three.
        let mut random = Random::new(6);
        for _ in 0..50 {
            let placement = drawn(&mut random, 64, 7, 3);
            let fit = nodes(&[1, 2, 3, 4, 5, 6, 7]);
            let leaders = assign(&placement, &fit);
            assert!(spread(&leaders, &fit) <= 1, "{leaders:?}");
            let allowed = |(leader, replicas): (&Option<NodeNumber>, &Vec<NodeNumber>)| {
                leader.is_some_and(|it| replicas.contains(&it))
            };
            assert!(leaders.iter().zip(&placement).all(allowed));
        }
        let pair = |one, other| vec![NodeNumber(one), NodeNumber(other)];
        let placement = [pair(1, 2), pair(1, 2), pair(2, 3)];
        let leaders = assign(&placement, &nodes(&[1, 2, 3]));
        assert_eq!(spread(&leaders, &nodes(&[1, 2, 3])), 0, "{leaders:?}");
    }

    #[test]
    fn a_node_that_goes_away_leaves_the_others_what_they_have() {
        // Goal: no leader moves without need. Method: three nodes, one goes; what was not its own stays where it was.
        let mut random = Random::new(7);
        for partitions in 1..30 {
            let placement = drawn(&mut random, partitions, 3, 3);
            let before = assign(&placement, &nodes(&[1, 2, 3]));
            let after = assign(&placement, &nodes(&[1, 2]));
            let moved = before
                .iter()
                .zip(&after)
                .filter(|(before, after)| **before != Some(NodeNumber(3)) && before != after);
            assert_eq!(moved.count(), 0, "{before:?} {after:?}");
        }
    }

    #[test]
    fn a_partition_none_of_whose_replicas_is_fit_has_no_preference() {
        // Goal: leaders stay where they are then.
        let placement = [vec![NodeNumber(1)], vec![NodeNumber(2), NodeNumber(1)]];
        assert_eq!(assign(&placement, &nodes(&[2])), [None, Some(NodeNumber(2))]);
    }
}
