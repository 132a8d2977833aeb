//! `bark cat`: files to standard output as they arrive, `--json` or not.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;

use super::cluster_paths;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Cat {
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Cat {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        for path in cluster_paths(&self.paths)? {
            let mut reader = client.files().read(&path, ..).await?;
            while let Some(chunk) = reader.next_chunk().await? {
                output.content(&chunk)?;
            }
        }
        Ok(())
    }
}
