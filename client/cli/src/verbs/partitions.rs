//! `bark partitions`: each with its replicas, what any of them says of its leader, and whether they agree.
//!
//! Replicas that applied the same entries must have the same state, so their hashes are compared here as
//! they are among the nodes. While writes come in, replicas are seldom asked at the same entry: then
//! they are `behind`, which says nothing bad.

use std::collections::BTreeMap;

use bark_client::Client;
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::PartitionStatus;
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::status::{NODES_AT_ONCE, node_statuses};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Partitions {}

impl Partitions {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        // Of all that is said of a partition, the newest term with a leader counts.
        let mut best: BTreeMap<PartitionId, PartitionStatus> = BTreeMap::new();
        let mut replicas_said: BTreeMap<PartitionId, Vec<Replica>> = BTreeMap::new();
        let mut statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        while let Some((node, status)) = statuses.next().await {
            for said in status.into_iter().flat_map(|status| status.partitions) {
                replicas_said.entry(said.partition).or_default().push(Replica {
                    node: node.number,
                    applied: said.applied,
                    hash: said.state_hash,
                });
                let rank = |status: &PartitionStatus| (status.leader.is_some(), status.term, status.applied);
                match best.get(&said.partition) {
                    Some(known) if rank(known) >= rank(&said) => {}
                    _ => {
                        best.insert(said.partition, said);
                    }
                }
            }
        }
        output.begin_array();
        output.line(format_args!(
            "{:<10} {:<7} {:<12} {:>6} {:>10} {:>10} {:>10}  {}",
            "partition", "leader", "replicas", "term", "applied", "inodes", "keys", "state"
        ))?;
        for partition in (0..client.welcome().partition_count).map(PartitionId) {
            let replicas: Vec<u16> = client
                .partition_replicas(partition)
                .into_iter()
                .map(|node| node.0)
                .collect();
            let status = best.get(&partition);
            let leader = status.and_then(|status| status.leader).map(|node| node.0);
            let number = |field: fn(&PartitionStatus) -> u64| status.map_or(0, field);
            let (term, applied) = (number(|status| status.term), number(|status| status.applied));
            let (inodes, keys) = (number(|status| status.inodes), number(|status| status.keys));
            let said = replicas_said.remove(&partition).unwrap_or_default();
            let state = agreement(&said, replicas.len());
            let shown = replicas.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            output.line(format_args!(
                "{:<10} {:<7} {shown:<12} {term:>6} {applied:>10} {inodes:>10} {keys:>10}  {state}",
                partition.0,
                leader.map_or("none".into(), |leader| leader.to_string()),
            ))?;
            output.element(json!({
                "partition": partition.0,
                "leader": leader,
                "replicas": replicas,
                "term": term,
                "applied": applied,
                "inodes": inodes,
                "keys": keys,
                "orphans": number(|status| status.orphans),
                "state": state,
                "hashes": said.iter().map(|replica| json!({
                    "node": replica.node.0,
                    "applied": replica.applied,
                    "hash": format!("{:016x}", replica.hash),
                })).collect::<Vec<_>>(),
            }))?;
        }
        Ok(())
    }
}

/// What one replica says of itself.
struct Replica {
    node: NodeNumber,
    applied: u64,
    /// Of its whole state at `applied`.
    hash: u64,
}

/// One word on how the replicas of a partition stand to each other.
fn agreement(said: &[Replica], expected: usize) -> &'static str {
    let same_entry = |a: &Replica, b: &Replica| a.applied == b.applied;
    let differ = said
        .iter()
        .enumerate()
        .any(|(i, a)| said[..i].iter().any(|b| same_entry(a, b) && a.hash != b.hash));
    if differ {
        "DIFFERS"
    } else if said.len() < expected {
        "missing"
    } else if said.windows(2).all(|pair| same_entry(&pair[0], &pair[1])) {
        "equal"
    } else {
        "behind"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: u16, applied: u64, hash: u64) -> Replica {
        Replica {
            node: NodeNumber(node),
            applied,
            hash,
        }
    }

    /// Goal: a difference at the same entry is never hidden by a replica that is behind or away.
    #[test]
    fn replicas_that_differ_are_named_whatever_the_others_do() {
        assert_eq!(agreement(&[replica(1, 5, 7), replica(2, 5, 7)], 2), "equal");
        assert_eq!(agreement(&[replica(1, 5, 7), replica(2, 4, 9)], 2), "behind");
        assert_eq!(agreement(&[replica(1, 5, 7)], 2), "missing");
        assert_eq!(
            agreement(&[replica(1, 5, 7), replica(2, 4, 9), replica(3, 5, 8)], 4),
            "DIFFERS"
        );
    }
}
