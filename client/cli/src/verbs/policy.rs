//! `bark policy get|set`: how the files made in a directory are cut into blocks, and where those go.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::limits::{BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, POLICY_REPLICAS_MAX};
use bark_schema::policy::{Allocate, Policy as Known, PolicyChange};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::cluster_path;
use super::truncate::parse_size;
use crate::output::Output;
use crate::problem::Problem;

/// Of the labels `bark stat` shows.
pub(super) const STAT_LABEL_WIDTH: usize = 8;

#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Show the policy of a directory or file.
    Get(Get),
    /// Set the policy of a directory, for what is made in it from now on. What is not said stays.
    Set(Set),
}

#[derive(Debug, Args)]
pub struct Get {
    path: OsString,
}

#[derive(Debug, Args)]
#[group(skip)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["allocate", "replicas", "block_size"])))]
pub struct Set {
    path: OsString,
    /// How the nodes for a block are chosen.
    #[arg(long, value_enum)]
    allocate: Option<Choice>,
    /// Copies of each block: 1 up to the number of nodes; 0 or default: as many as the cluster keeps. With one copy,
    /// what is on a node that is lost is lost.
    #[arg(long, value_parser = parse_replicas)]
    replicas: Option<u32>,
    /// What files are cut into: 64K, 128K, 256K, 512K, 1M, 2M or 4M; default is 1M.
    #[arg(long, value_parser = parse_block_size)]
    block_size: Option<u32>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Choice {
    /// By a hash of the block's name.
    Ring,
    /// The next ones in turn.
    RoundRobin,
    /// Those that have used the smallest part of their disks.
    LeastUsed,
}

impl Policy {
    /// The verb's name in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Policy::Get(_) => "policy get",
            Policy::Set(_) => "policy set",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let (path, policy) = match self {
            Policy::Get(Get { path }) => {
                let path = cluster_path(&path)?;
                let policy = files.stat(&path).await?.policy;
                (path, policy)
            }
            Policy::Set(set) => {
                let path = cluster_path(&set.path)?;
                let change = PolicyChange {
                    block_size: set.block_size,
                    replicas: set.replicas,
                    allocate: set.allocate.map(|choice| match choice {
                        Choice::Ring => Allocate::Ring,
                        Choice::RoundRobin => Allocate::RoundRobin,
                        Choice::LeastUsed => Allocate::LeastUsed,
                    }),
                };
                let policy = files.set_policy(&path, change).await?;
                (path, policy)
            }
        };
        output.line(format_args!("    path: {path}"))?;
        lines(client, &policy, STAT_LABEL_WIDTH, output)?;
        let mut value = value(client, &policy);
        value["path"] = json!(path.to_string());
        output.value(value)
    }
}

/// A policy for people, with labels of this width.
pub(super) fn lines(
    client: &Client,
    policy: &Known,
    width: usize,
    output: &mut Output,
) -> Result<(), Problem> {
    let allocate = allocate_name(policy.allocate);
    output.line(format_args!("{:>width$}: {allocate}", "allocate"))?;
    let copies = policy.copies(cluster_replicas(client));
    let origin = match policy.replicas {
        0 => " (as the cluster keeps)",
        _ => "",
    };
    output.line(format_args!("{:>width$}: {copies}{origin}", "copies"))?;
    output.line(format_args!("{:>width$}: {} bytes", "blocks", policy.block_size))
}

/// For programs: `replicas` is what is in force, `default_replicas` whether it is the cluster's.
pub(super) fn value(client: &Client, policy: &Known) -> Value {
    json!({
        "allocate": allocate_name(policy.allocate),
        "replicas": policy.copies(cluster_replicas(client)),
        "default_replicas": policy.replicas == 0,
        "block_size": policy.block_size,
    })
}

fn cluster_replicas(client: &Client) -> usize {
    usize::from(client.welcome().replicas)
}

fn allocate_name(allocate: Allocate) -> &'static str {
    match allocate {
        Allocate::Ring => "ring",
        Allocate::RoundRobin => "round-robin",
        Allocate::LeastUsed => "least-used",
    }
}

fn parse_replicas(text: &str) -> Result<u32, String> {
    if text == "default" {
        return Ok(0);
    }
    let replicas = text
        .parse()
        .ok()
        .filter(|replicas| *replicas <= POLICY_REPLICAS_MAX);
    replicas.ok_or_else(|| {
        format!("must be 1 to {POLICY_REPLICAS_MAX} and not more than there are nodes, or default")
    })
}

fn parse_block_size(text: &str) -> Result<u32, String> {
    if text == "default" {
        return Ok(BLOCK_SIZE_DEFAULT as u32);
    }
    let size = parse_size(text)?;
    let sizes = BLOCK_SIZE_MIN as u64..=BLOCK_SIZE_MAX as u64;
    match size.is_power_of_two() && sizes.contains(&size) {
        true => Ok(size as u32),
        false => Err("must be a power of two from 64K to 4M".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_checked_with_what_is_allowed() {
        // Goal: a wrong number is wrong usage, and the answer helps. Method: table.
        for (text, expected) in [
            ("64K", 1 << 16),
            ("1M", 1 << 20),
            ("4194304", 1 << 22),
            ("default", 1 << 20),
        ] {
            assert_eq!(parse_block_size(text), Ok(expected), "{text}");
        }
        for text in ["0", "32K", "100000", "8M", "1MB", "3M", ""] {
            assert!(parse_block_size(text).is_err(), "{text}");
        }
        for (text, expected) in [("0", 0), ("default", 0), ("1", 1), ("7", 7)] {
            assert_eq!(parse_replicas(text), Ok(expected), "{text}");
        }
        for text in ["8", "-1", "three", ""] {
            assert!(parse_replicas(text).is_err(), "{text}");
        }
    }
}
