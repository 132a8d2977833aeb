//! `bark mv`: one atomic rename for each source.

use std::ffi::OsString;

use bark_client::Client;
use clap::Args;
use serde_json::json;

use super::{cluster_path, cluster_paths, target};
use crate::output::Output;
use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Mv {
    #[arg(required = true)]
    from: Vec<OsString>,
    /// The new name, or a directory to move into.
    to: OsString,
}

impl Mv {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let to = cluster_path(&self.to)?;
        let sources = cluster_paths(&self.from)?;
        let several = sources.len() > 1;
        output.begin_array();
        for from in sources {
            let place = target(&files, to.clone(), from.name().map(|name| &name[..])).await?;
            if several && place == to {
                return Err(Problem::failed(to, "Not a directory"));
            }
            files.rename(&from, &place).await?;
            output.element(json!({ "from": from.to_string(), "to": place.to_string() }))?;
        }
        Ok(())
    }
}
