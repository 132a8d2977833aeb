//! `bark rm`.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;
use serde_json::json;

use super::cluster_paths;
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Rm {
    /// Directories with everything below them.
    #[arg(short = 'r', long)]
    recursive: bool,
    /// What is not there is as good as removed.
    #[arg(short = 'f', long)]
    force: bool,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Rm {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        output.begin_array();
        for path in cluster_paths(&self.paths)? {
            if path.is_root() {
                return Err(Problem::failed(path, "The root directory cannot be removed"));
            }
            let removed = match self.recursive {
                true => files.remove_tree(&path).await,
                false => files.remove_file(&path).await,
            };
            match removed {
                Err(error) if self.force && error.is_not_found() => continue,
                result => result?,
            }
            output.element(json!({ "path": path.to_string() }))?;
        }
        Ok(())
    }
}
