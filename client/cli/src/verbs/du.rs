//! `bark du`: what directories take with everything below them, as the cluster has it counted.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;
use serde_json::json;

use super::cluster_paths;
use crate::output::{Output, size_string};
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Du {
    /// Sizes as people read them.
    #[arg(short = 'H', long)]
    human: bool,
    #[arg(default_value = "/")]
    paths: Vec<OsString>,
}

impl Du {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let paths = cluster_paths(&self.paths)?;
        let several = paths.len() > 1;
        output.line(format_args!(
            "{:>16} {:>16} {:>10}  path",
            "bytes", "stored", "inodes"
        ))?;
        for path in paths {
            let usage = client.files().usage(&path).await?;
            let size = |bytes: u64| match self.human {
                true => size_string(bytes),
                false => bytes.to_string(),
            };
            output.line(format_args!(
                "{:>16} {:>16} {:>10}  {path}",
                size(usage.bytes),
                size(usage.stored),
                usage.inodes
            ))?;
            let value = json!({
                "path": path.to_string(),
                "bytes": usage.bytes,
                "stored_bytes": usage.stored,
                "inodes": usage.inodes,
            });
            match several {
                true => output.element(value)?,
                false => output.value(value)?,
            }
        }
        Ok(())
    }
}
