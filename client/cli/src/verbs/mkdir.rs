//! `bark mkdir`.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;
use serde_json::json;

use super::cluster_paths;
use crate::output::Output;
use crate::problem::Problem;

const MODE: u32 = 0o755;

#[derive(Debug, Args)]
pub struct Mkdir {
    /// The directories above, too; fine if it is there.
    #[arg(short = 'p', long)]
    parents: bool,
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Mkdir {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        output.begin_array();
        for path in cluster_paths(&self.paths)? {
            match self.parents {
                true => files.make_directories(&path, MODE).await?,
                false => files.make_directory(&path, MODE).await?,
            }
            output.element(json!({ "path": path.to_string() }))?;
        }
        Ok(())
    }
}
