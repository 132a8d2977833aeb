//! `bark status`: the cluster at a glance; and what `nodes`, `partitions` and `df` ask as well.

use bark_client::{Client, Error};
use bark_schema::message::WelcomeNode;
use bark_schema::operation::{ClusterStatus, NodeStatus, PartitionStatus};
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use crate::output::Output;
use crate::problem::Problem;

pub(super) const NODES_AT_ONCE: usize = 16;
const PARTITIONS_AT_ONCE: usize = 32;

#[derive(Debug, Args)]
pub struct Status {}

impl Status {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let mut cluster = client.cluster_status(None).await?;
        let mut nodes_up = 0;
        let mut led = std::collections::BTreeSet::new();
        let mut statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        while let Some((_, status)) = statuses.next().await {
            let Ok(status) = status else { continue };
            nodes_up += 1;
            for (known, said) in cluster.nodes.iter_mut().zip(&status.nodes) {
                // Whoever refuses a node is believed, and nobody knows better than the node itself how it is.
                known.refusal = known.refusal.or(said.refusal);
                if said.number == status.node {
                    (known.draining, known.disk_slow) = (said.draining, said.disk_slow);
                }
            }
            let known = status
                .partitions
                .iter()
                .filter(|partition| partition.leader.is_some());
            led.extend(known.map(|partition| partition.partition));
        }
        let (nodes, partitions) = (cluster.nodes.len(), cluster.partition_count as usize);
        let named = |is_meant: fn(&NodeStatus) -> bool| -> Vec<&str> {
            let meant = cluster.nodes.iter().filter(|node| is_meant(node));
            meant.map(|node| node.id.as_str()).collect()
        };
        let draining = named(|node| node.draining);
        let slow = named(|node| node.disk_slow);
        let refused = named(|node| node.refusal.is_some());
        let health = match (nodes_up == nodes && refused.is_empty(), led.len() == partitions) {
            (true, true) => "healthy",
            (_, true) => "degraded",
            (_, false) => "partly unavailable",
        };
        output.line(format_args!("   cluster: {}", cluster.cluster))?;
        output.line(format_args!("    health: {health}"))?;
        output.line(format_args!("     nodes: {nodes_up} of {nodes} reachable"))?;
        for (what, ids) in [
            ("draining", &draining),
            ("slow disk", &slow),
            ("refused", &refused),
        ] {
            if !ids.is_empty() {
                output.line(format_args!("{what:>10}: {}", ids.join(", ")))?;
            }
        }
        output.line(format_args!(
            "partitions: {} of {partitions} have a leader",
            led.len()
        ))?;
        output.line(format_args!("  replicas: {}", cluster.replicas))?;
        output.line(format_args!("durability: {}", cluster.durability))?;
        output.value(json!({
            "cluster": cluster.cluster,
            "health": health,
            "nodes": nodes,
            "nodes_reachable": nodes_up,
            "nodes_draining": draining,
            "nodes_with_slow_disk": slow,
            "nodes_refused": refused,
            "partitions": partitions,
            "partitions_led": led.len(),
            "replicas": cluster.replicas,
            "durability": cluster.durability,
        }))
    }
}

/// What every node says of itself and the partitions it holds.
pub(super) fn node_statuses(
    client: &Client,
) -> impl Iterator<Item = impl Future<Output = (&WelcomeNode, Result<ClusterStatus, Error>)>> {
    client
        .welcome()
        .nodes
        .iter()
        .map(move |node| async move { (node, client.cluster_status(Some(node.number)).await) })
}

/// Every partition, from its leader.
pub(super) async fn partition_statuses(client: &Client) -> Result<Vec<PartitionStatus>, Problem> {
    let partitions = (0..client.welcome().partition_count).map(bark_schema::ids::PartitionId);
    let asked = partitions.map(|partition| client.partition_status(partition));
    let mut asked = futures::stream::iter(asked).buffered(PARTITIONS_AT_ONCE);
    let mut statuses = Vec::new();
    while let Some(status) = asked.next().await {
        statuses.push(status?);
    }
    Ok(statuses)
}
