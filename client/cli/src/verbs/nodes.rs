//! `bark nodes`.

use bark_client::Client;
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
            "{:<4} {:<12} {:<22} {:<8} {:<9} {:>10} {:>7}",
            "no", "id", "address", "zone", "state", "partitions", "leads"
        ))?;
        let mut statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        while let Some((node, status)) = statuses.next().await {
            let (state, held, leads) = match &status {
                Ok(status) => {
                    let led = status
                        .partitions
                        .iter()
                        .filter(|held| held.leader == Some(node.number));
                    ("up", status.partitions.len(), led.count())
                }
                Err(_) => ("down", 0, 0),
            };
            output.line(format_args!(
                "{:<4} {:<12} {:<22} {:<8} {state:<9} {held:>10} {leads:>7}",
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
