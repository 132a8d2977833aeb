//! `bark node drain|replace`: what operators do with one node.

use std::time::{Duration, Instant};

use bark_client::Client;
use bark_schema::ids::NodeNumber;
use bark_schema::message::WelcomeNode;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::output::Output;
use crate::problem::Problem;

/// Between two looks at what a node leads.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[derive(Debug, Subcommand)]
pub enum Node {
    /// Have a node hand over what it leads, and lead nothing until this is undone or it starts again.
    Drain(Drain),
    /// Let a node back in that came, or will come, with another disk or an older copy of its own.
    Replace(Replace),
}

#[derive(Debug, Args)]
pub struct Drain {
    /// The node's id in the cluster file.
    id: String,
    /// It may lead again.
    #[arg(long)]
    undo: bool,
    /// Seconds to wait until it leads nothing any more.
    #[arg(long, default_value_t = 30, conflicts_with = "undo")]
    wait: u64,
}

#[derive(Debug, Args)]
pub struct Replace {
    /// The node's id in the cluster file.
    id: String,
}

impl Node {
    /// The verb's name in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Node::Drain(_) => "node drain",
            Node::Replace(_) => "node replace",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        match self {
            Node::Drain(verb) => verb.run(client, output).await,
            Node::Replace(verb) => verb.run(client, output).await,
        }
    }
}

impl Drain {
    async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let node = find(client, &self.id)?.number;
        client.drain(node, !self.undo).await?;
        if self.undo {
            output.line(format_args!("{} may lead again", self.id))?;
            return output.value(json!({ "node": self.id, "draining": false }));
        }
        let end = Instant::now() + Duration::from_secs(self.wait);
        loop {
            let status = client.cluster_status(Some(node)).await?;
            let leads = status
                .partitions
                .iter()
                .filter(|it| it.leader == Some(node))
                .count();
            if leads == 0 {
                output.line(format_args!("{} leads nothing any more", self.id))?;
                return output.value(json!({ "node": self.id, "draining": true, "leads": 0 }));
            }
            if Instant::now() >= end {
                let sentence = format!(
                    "still leads {leads} partitions after {} s: no other replica of them may lead; it goes on trying",
                    self.wait
                );
                return Err(Problem::failed(&self.id, sentence));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

impl Replace {
    async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let node = find(client, &self.id)?.number;
        let others: Vec<&WelcomeNode> = client
            .welcome()
            .nodes
            .iter()
            .filter(|it| it.number != node)
            .collect();
        if others.is_empty() {
            return Err(Problem::failed(
                &self.id,
                "there is no other node that could bring its data back",
            ));
        }
        let mut missed = Vec::new();
        for other in &others {
            if client.admit(other.number, node).await.is_err() {
                missed.push(other.id.clone());
            }
        }
        if !missed.is_empty() {
            let sentence = format!(
                "{} did not answer: the node votes when all others have admitted it; repeat this when they are up",
                missed.join(", ")
            );
            return Err(Problem::failed(&self.id, sentence));
        }
        output.line(format_args!(
            "{} is let in with its new disk: it gets its data from the others, and votes when it has it",
            self.id
        ))?;
        output.value(
            json!({ "node": self.id, "admitted_by": others.iter().map(|it| &it.id).collect::<Vec<_>>() }),
        )
    }
}

/// The node an operator means: its id, or its number.
fn find<'a>(client: &'a Client, id: &str) -> Result<&'a WelcomeNode, Problem> {
    let number = id.parse().ok().map(NodeNumber);
    let nodes = &client.welcome().nodes;
    let found = nodes.iter().find(|node| node.id == id);
    found
        .or_else(|| nodes.iter().find(|node| Some(node.number) == number))
        .ok_or_else(|| Problem::usage(id, "no such node in the cluster"))
}
