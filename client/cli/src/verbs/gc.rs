//! `bark gc`: what nobody needs, and dropping what may go.
//!
//! Two kinds of blocks are shown. Those in the ledger were in use once or were given up; the cluster drops them by
//! itself when no reader can be at them any more. Orphans lie on a node and no record knows them; whoever wrote them
//! may still be about to publish them, so only old ones are given up, which puts them in the ledger. Nothing is ever
//! dropped for not being found in a list.

use std::time::{SystemTime, UNIX_EPOCH};

use bark_client::Client;
use bark_schema::ids::PartitionId;
use bark_schema::upkeep::{LedgerRow, Orphans};
use clap::Args;
use serde_json::{Value, json};

use crate::output::{Output, size_string};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Gc {
    /// Only show what there is.
    #[arg(long)]
    dry_run: bool,
}

impl Gc {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        // Any error ends it: what could not be looked at is not known to be needed by nobody. A node that does not
        // answer is found out before anything is given up anywhere.
        let nodes = &client.welcome().nodes;
        for node in nodes {
            client.orphans(node.number, false).await?;
        }
        let mut orphans = Vec::new();
        for node in nodes {
            orphans.push(client.orphans(node.number, !self.dry_run).await?);
        }
        let mut ledger = Vec::new();
        for partition in (0..client.welcome().partition_count).map(PartitionId) {
            let rows = client.ledger(partition).await?;
            ledger.push((partition, rows));
        }
        let now_ns = unix_ns();
        for (partition, rows) in ledger.iter().filter(|(_, rows)| !rows.is_empty()) {
            let bytes: u64 = rows.iter().map(|row| u64::from(row.size)).sum();
            let oldest = rows.iter().map(|row| age_seconds(row, now_ns)).max().unwrap_or(0);
            output.line(format_args!(
                "{partition}: {} blocks to be dropped, {}, the oldest for {oldest} s",
                rows.len(),
                size_string(bytes)
            ))?;
        }
        for found in &orphans {
            output.line(format_args!(
                "{}: {} orphans, {}; {} given up",
                found.node,
                found.count,
                size_string(found.bytes),
                found.given_up
            ))?;
            for orphan in &found.orphans {
                output.line(format_args!(
                    "{}: {} of {}, noticed {} s ago{}",
                    found.node,
                    orphan.block,
                    size_string(u64::from(orphan.size)),
                    orphan.age_ms / 1_000,
                    if orphan.is_old { ", old" } else { "" }
                ))?;
            }
        }
        let dropped = ledger.iter().map(|(_, rows)| rows.len()).sum::<usize>();
        output.line(format_args!("{dropped} blocks in the ledgers"))?;
        output.value(json!({
            "dry_run": self.dry_run,
            "ledger": ledger.iter().map(|(partition, rows)| ledger_value(*partition, rows, now_ns)).collect::<Vec<_>>(),
            "orphans": orphans.iter().map(orphans_value).collect::<Vec<_>>(),
        }))
    }
}

fn unix_ns() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_nanos()).unwrap_or(i64::MAX))
}

fn age_seconds(row: &LedgerRow, now_ns: i64) -> i64 {
    match row.since {
        // Its writer gave it up, and nobody waits.
        0 => 0,
        since => now_ns.saturating_sub(since).max(0) / 1_000_000_000,
    }
}

fn ledger_value(partition: PartitionId, rows: &[LedgerRow], now_ns: i64) -> Value {
    let rows = rows.iter().map(|row| {
        json!({
            "block": row.block.to_string(),
            "bytes": row.size,
            "age_s": age_seconds(row, now_ns),
            "never_published": row.condemned,
            "nodes": row.nodes.iter().map(|node| node.0).collect::<Vec<_>>(),
        })
    });
    json!({ "partition": partition.0, "blocks": rows.collect::<Vec<_>>() })
}

fn orphans_value(found: &Orphans) -> Value {
    let orphans = found.orphans.iter().map(|orphan| {
        json!({
            "block": orphan.block.to_string(),
            "bytes": orphan.size,
            "age_s": orphan.age_ms / 1_000,
            "old": orphan.is_old,
        })
    });
    json!({
        "node": found.node.0,
        "count": found.count,
        "bytes": found.bytes,
        "given_up": found.given_up,
        "orphans": orphans.collect::<Vec<_>>(),
    })
}
