//! `bark scrub`: has every node read all its copies of blocks, and tells which were bad and what became of them.
//!
//! The nodes do the work, and go on with it whether or not anybody waits here.

use std::collections::BTreeMap;
use std::time::Duration;

use bark_client::Client;
use bark_schema::ids::NodeNumber;
use bark_schema::upkeep::{BadCopy, CopyHealth, ScrubStatus};
use clap::Args;
use serde_json::{Value, json};

use crate::output::{Output, size_string};
use crate::problem::Problem;

const ASK_EVERY: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub struct Scrub {
    /// Show how far the nodes are.
    #[arg(long)]
    watch: bool,
}

impl Scrub {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let nodes: Vec<NodeNumber> = client.welcome().nodes.iter().map(|node| node.number).collect();
        let mut cycles = BTreeMap::new();
        let mut away = Vec::new();
        for node in nodes {
            match client.scrub(node, true).await {
                Ok(status) => {
                    cycles.insert(node, status.cycle);
                }
                Err(error) => {
                    output.line(format_args!("{node}: not asked: {error}"))?;
                    away.push(node);
                }
            }
        }
        let mut done = Vec::new();
        for (node, cycle) in cycles {
            match self.wait(client, node, cycle, output).await {
                Ok(status) => done.push(status),
                Err(error) => {
                    output.line(format_args!("{node}: {error}"))?;
                    away.push(node);
                }
            }
        }
        for status in &done {
            report(status, output)?;
        }
        let unhealed = done.iter().map(unhealed).sum::<u64>();
        let away_numbers: Vec<u16> = away.iter().map(|node| node.0).collect();
        output.value(json!({
            "nodes": done.iter().map(status_value).collect::<Vec<_>>(),
            "unanswered": away_numbers,
            "unhealed": unhealed,
        }))?;
        if unhealed > 0 {
            return Err(Problem::failed(
                "blocks",
                format!("{unhealed} bad copies were not healed"),
            ));
        }
        if !away.is_empty() {
            let sentence = format!("{} did not read their copies", away.len());
            return Err(Problem::failed("nodes", sentence));
        }
        Ok(())
    }

    /// Until that cycle, or a later one, is over.
    async fn wait(
        &self,
        client: &Client,
        node: NodeNumber,
        cycle: u64,
        output: &mut Output,
    ) -> Result<ScrubStatus, bark_client::Error> {
        let mut shown = None;
        loop {
            let status = client.scrub(node, false).await?;
            if status.cycle < cycle {
                // It was started anew, and has forgotten that it was asked.
                client.scrub(node, true).await?;
            } else if !status.running {
                return Ok(status);
            }
            let progress = (status.checked_blocks, status.bad_count);
            if self.watch && shown != Some(progress) {
                shown = Some(progress);
                // A terminal that is gone is noticed at the end.
                let _ = output.line(format_args!(
                    "{node}: {} of {} read, {} blocks, {} bad",
                    size_string(status.checked_bytes),
                    size_string(status.total_bytes),
                    status.checked_blocks,
                    status.bad_count
                ));
                let _ = output.flush();
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

fn report(status: &ScrubStatus, output: &mut Output) -> Result<(), Problem> {
    output.line(format_args!(
        "{}: {} in {} blocks read, {} bad",
        status.node,
        size_string(status.checked_bytes),
        status.checked_blocks,
        status.bad_count
    ))?;
    for bad in &status.bad {
        let file = match bad.inode {
            Some(inode) => format!(" of {inode}"),
            None => String::new(),
        };
        output.line(format_args!(
            "{}: {}{file} in blocks/{} at byte {}: {}",
            status.node,
            bad.block,
            segment_name(bad),
            bad.offset,
            health(bad.health)
        ))?;
    }
    Ok(())
}

/// Those beyond the listed ones count as not healed: nobody knows.
fn unhealed(status: &ScrubStatus) -> u64 {
    let settled = status.bad.iter().filter(|bad| bad.health != CopyHealth::Waiting);
    status.bad_count.saturating_sub(settled.count() as u64)
}

fn segment_name(bad: &BadCopy) -> String {
    format!("{:08x}.blocks", bad.segment)
}

fn health(health: CopyHealth) -> &'static str {
    match health {
        CopyHealth::Waiting => "not healed",
        CopyHealth::Healed => "healed",
        CopyHealth::Unneeded => "not needed by any file",
    }
}

fn status_value(status: &ScrubStatus) -> Value {
    let bad = status.bad.iter().map(|bad| {
        json!({
            "block": bad.block.to_string(),
            "file": format!("blocks/{}", segment_name(bad)),
            "offset": bad.offset,
            "inode": bad.inode.map(|inode| inode.0),
            "health": match bad.health {
                CopyHealth::Waiting => "bad",
                CopyHealth::Healed => "healed",
                CopyHealth::Unneeded => "unneeded",
            },
        })
    });
    json!({
        "node": status.node.0,
        "blocks": status.checked_blocks,
        "bytes": status.checked_bytes,
        "bad_count": status.bad_count,
        "bad": bad.collect::<Vec<_>>(),
    })
}
