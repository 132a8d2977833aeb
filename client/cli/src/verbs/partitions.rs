//! `bark partitions`: each with its replicas and what any of them says of its leader.

use std::collections::BTreeMap;

use bark_client::Client;
use bark_schema::ids::PartitionId;
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
        let mut statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        while let Some((_, status)) = statuses.next().await {
            for said in status.into_iter().flat_map(|status| status.partitions) {
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
            "{:<10} {:<7} {:<12} {:>6} {:>10} {:>10} {:>10}",
            "partition", "leader", "replicas", "term", "applied", "inodes", "keys"
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
            let shown = replicas.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
            output.line(format_args!(
                "{:<10} {:<7} {shown:<12} {term:>6} {applied:>10} {inodes:>10} {keys:>10}",
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
            }))?;
        }
        Ok(())
    }
}
