//! `bark quota get|set`: how much a directory and everything below it may take.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::quota::{Quota as Known, QuotaPhase};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::cluster_path;
use super::truncate::parse_size;
use crate::output::Output;
use crate::problem::Problem;

/// How a limit that is none is written down.
const NO_LIMIT: u64 = u64::MAX;

#[derive(Debug, Subcommand)]
pub enum Quota {
    /// Show the quota a directory is under and what is used of it.
    Get(Get),
    /// Set limits. Without any limit left the quota goes.
    Set(Set),
}

#[derive(Debug, Args)]
pub struct Get {
    path: OsString,
}

#[derive(Debug, Args)]
pub struct Set {
    path: OsString,
    /// Bytes stored, with units as `bark truncate` has them; 0 or none: no limit. What is not said stays.
    #[arg(long, value_parser = parse_limit, required_unless_present = "inodes")]
    bytes: Option<u64>,
    /// Files, links and directories, the directory itself included; 0 or none: no limit.
    #[arg(long, value_parser = parse_limit)]
    inodes: Option<u64>,
}

impl Quota {
    /// The verb's name in error messages.
    pub fn name(&self) -> &'static str {
        match self {
            Quota::Get(_) => "quota get",
            Quota::Set(_) => "quota set",
        }
    }

    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        match self {
            Quota::Get(Get { path }) => {
                let path = cluster_path(&path)?;
                let quota = files.quota(&path).await?;
                show(&path.to_string(), &quota, output)
            }
            Quota::Set(Set { path, bytes, inodes }) => {
                let path = cluster_path(&path)?;
                files.set_quota(&path, bytes, inodes).await?;
                let quota = files.quota(&path).await?;
                show(&path.to_string(), &quota, output)
            }
        }
    }
}

fn show(path: &str, quota: &Known, output: &mut Output) -> Result<(), Problem> {
    let Some(directory) = quota.quota else {
        output.line(format_args!("{path} is under no quota"))?;
        return output.value(json!({ "path": path, "quota": null }));
    };
    let limit = |limit: u64| match limit {
        NO_LIMIT => "none".to_owned(),
        limit => limit.to_string(),
    };
    output.line(format_args!("    path: {path}"))?;
    output.line(format_args!("   quota: of {directory}"))?;
    let bytes = limit(quota.limits.bytes);
    output.line(format_args!("   bytes: {} of {bytes}", quota.used_bytes))?;
    let inodes = limit(quota.limits.inodes);
    output.line(format_args!("  inodes: {} of {inodes}", quota.used_inodes))?;
    if quota.phase != QuotaPhase::Active {
        output.line(format_args!("   state: not in force yet; set it again"))?;
    }
    let limit = |limit: u64| match limit {
        NO_LIMIT => Value::Null,
        limit => json!(limit),
    };
    output.value(json!({
        "path": path,
        "quota": directory.0.to_string(),
        "bytes": limit(quota.limits.bytes),
        "inodes": limit(quota.limits.inodes),
        "used_bytes": quota.used_bytes,
        "used_inodes": quota.used_inodes,
        "in_force": quota.phase == QuotaPhase::Active,
    }))
}

fn parse_limit(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(NO_LIMIT),
        _ => match parse_size(text)? {
            0 => Ok(NO_LIMIT),
            limit => Ok(limit),
        },
    }
}
