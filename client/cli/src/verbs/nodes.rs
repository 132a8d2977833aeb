//! `bark nodes`.

use bark_client::Client;
use bark_schema::ids::NodeNumber;
use bark_schema::operation::{ClusterStatus, DiskRefusal};
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::status::{NODES_AT_ONCE, node_statuses};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Nodes {}

impl Nodes {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        output.begin_array();
        output.line(format_args!(
            "{:<4} {:<12} {:<22} {:<8} {:<11} {:>10} {:>7}",
            "no", "id", "address", "zone", "state", "partitions", "leads"
        ))?;
        let statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        let statuses: Vec<_> = statuses.collect().await;
        for (node, status) in &statuses {
            let (state, held, leads) = match status {
                Ok(status) => {
                    let led = status
                        .partitions
                        .iter()
                        .filter(|held| held.leader == Some(node.number));
                    (own_state(status), status.partitions.len(), led.count())
                }
                Err(_) => ("down", 0, 0),
            };
            let answers = statuses.iter().filter_map(|(_, status)| status.as_ref().ok());
            let state = refused_state(answers, node.number).unwrap_or(state);
            output.line(format_args!(
                "{:<4} {:<12} {:<22} {:<8} {state:<11} {held:>10} {leads:>7}",
                node.number.0, node.id, node.capnp, node.zone
            ))?;
            output.element(json!({
                "number": node.number.0,
                "id": node.id,
                "capnp": node.capnp,
                "zone": node.zone,
                "state": state,
                "partitions": held,
                "leads": leads,
            }))?;
        }
        Ok(())
    }
}

/// What a node says of itself.
fn own_state(status: &ClusterStatus) -> &'static str {
    let own = status.nodes.iter().find(|node| node.number == status.node);
    match own {
        Some(own) if own.disk_slow => "slow disk",
        Some(own) if own.draining => "draining",
        _ => "up",
    }
}

/// What other nodes have against it; until `bark node replace` it takes no part.
fn refused_state<'a>(
    mut answers: impl Iterator<Item = &'a ClusterStatus>,
    node: NodeNumber,
) -> Option<&'static str> {
    let refusal = answers.find_map(|status| {
        let known = status.nodes.iter().find(|known| known.number == node)?;
        known.refusal
    });
    refusal.map(|refusal| match refusal {
        DiskRefusal::OtherDisk => "other disk",
        DiskRefusal::OlderCopy => "older copy",
    })
}
