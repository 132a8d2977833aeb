//! `bark doctor`: whether everything the cluster keeps agrees, one sentence for each thing that does not.
//!
//! Nothing is changed. Exit status 0: clean; 1: there are findings.

use std::time::Duration;

use bark_client::Client;
use bark_client::doctor::{Finding, Members, Report, Source, examine};
use bark_client::session::Call;
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{Failure, NodeRequest, Query, Reply};
use clap::Args;
use serde_json::{Value, json};

use crate::output::Output;
use crate::problem::Problem;

/// Between two looks at what seems not to agree: longer than a transaction takes.
const PAUSE: Duration = Duration::from_millis(300);

#[derive(Debug, Args)]
pub struct Doctor {}

impl Doctor {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let nodes = client.welcome().nodes.iter();
        let members = Members {
            partition_count: client.welcome().partition_count,
            nodes: nodes.map(|node| (node.number, node.id.clone())).collect(),
        };
        let report = examine(&Cluster { client }, &members).await;
        show(&report, output)?;
        let count = report.findings.len() as u64 + report.more;
        match count {
            0 => Ok(()),
            1 => Err(Problem::failed("cluster", "1 finding")),
            _ => Err(Problem::failed("cluster", format_args!("{count} findings"))),
        }
    }
}

fn show(report: &Report, output: &mut Output) -> Result<(), Problem> {
    for finding in &report.findings {
        output.line(format_args!("{}: {}", finding.place, finding.sentence))?;
        output.line(format_args!("    what to do: {}", finding.kind.advice()))?;
    }
    for note in &report.notes {
        output.line(format_args!("not looked at: {note}"))?;
    }
    let looked = &report.looked;
    output.line(format_args!(
        "{}: {} entries, {} names of inodes, {} blocks and {} copies of them were looked at",
        match report.findings.len() as u64 + report.more {
            0 => "clean".to_owned(),
            1 => "1 finding".to_owned(),
            count => format!("{count} findings"),
        },
        looked.entries,
        looked.names,
        looked.blocks,
        looked.copies
    ))?;
    output.value(json!({
        "clean": report.is_clean(),
        "complete": report.notes.is_empty(),
        "findings": report.findings.iter().map(finding_json).collect::<Vec<_>>(),
        "more_findings": report.more,
        "notes": report.notes,
        "looked_at": {
            "rows": looked.rows,
            "entries": looked.entries,
            "names": looked.names,
            "blocks": looked.blocks,
            "copies": looked.copies,
        },
    }))?;
    output.finish()
}

fn finding_json(finding: &Finding) -> Value {
    json!({
        "kind": finding.kind.name(),
        "place": finding.place,
        "finding": finding.sentence,
        "advice": finding.kind.advice(),
        "partition": finding.partition.map(|partition| partition.0),
        "node": finding.node.map(|node| node.0),
        "inode": finding.inode.map(|inode| inode.0.to_string()),
        "directory": finding.directory.map(|inode| inode.0.to_string()),
        "block": finding.block.map(|block| block.to_string()),
    })
}

struct Cluster<'a> {
    client: &'a Client,
}

impl Source for Cluster<'_> {
    async fn query(&self, partition: PartitionId, query: Query) -> Result<Reply, Failure> {
        self.client.call(Call::Query { partition, query }).await
    }

    async fn node(&self, node: NodeNumber, request: NodeRequest) -> Result<Reply, Failure> {
        self.client.call(Call::NamedNode(node, request)).await
    }

    async fn pause(&self) {
        tokio::time::sleep(PAUSE).await;
    }
}
