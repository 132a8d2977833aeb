//! `bark df`: what the files hold, and what the disks have left.

use bark_client::Client;
use clap::Args;
use futures::StreamExt;
use serde_json::json;

use super::status::{NODES_AT_ONCE, node_statuses, partition_statuses};
use crate::output::{Output, size_string};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Df {}

impl Df {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let (mut file_bytes, mut stored_bytes) = (0_u64, 0_u64);
        let (mut inodes, mut keys) = (0_u64, 0_u64);
        for status in partition_statuses(client).await? {
            file_bytes += status.file_bytes;
            stored_bytes += status.allocated_bytes;
            inodes += status.inodes;
            keys += status.keys;
        }
        let mut nodes = Vec::new();
        output.line(format_args!(
            "{:<12} {:>12} {:>12} {:>5}",
            "node", "size", "free", "use%"
        ))?;
        let mut statuses = futures::stream::iter(node_statuses(client)).buffered(NODES_AT_ONCE);
        while let Some((node, status)) = statuses.next().await {
            let Ok(status) = status else {
                output.line(format_args!("{:<12} {:>12}", node.id, "unreachable"))?;
                nodes.push(json!({ "node": node.id, "reachable": false }));
                continue;
            };
            let (total, free) = (status.disk_total_bytes, status.disk_free_bytes);
            let used_percent = (total.saturating_sub(free) * 100).checked_div(total).unwrap_or(0);
            let (size, left) = (size_string(total), size_string(free));
            output.line(format_args!(
                "{:<12} {size:>12} {left:>12} {used_percent:>4}%",
                node.id
            ))?;
            nodes.push(
                json!({ "node": node.id, "reachable": true, "total_bytes": total, "free_bytes": free }),
            );
        }
        let stored = size_string(stored_bytes);
        output.line(format_args!("stored: {stored} in {inodes} inodes; {keys} keys"))?;
        output.value(json!({
            "file_bytes": file_bytes, "stored_bytes": stored_bytes,
            "inodes": inodes, "keys": keys, "nodes": nodes,
        }))
    }
}
