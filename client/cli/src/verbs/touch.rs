//! `bark touch`.

use std::ffi::OsString;

use bark_client::Client;
use bark_schema::operation::{AttributeChange, SetTime};
use clap::Args;
use serde_json::json;

use super::cluster_paths;
use crate::output::Output;
use crate::problem::Problem;

const MODE: u32 = 0o644;

#[derive(Debug, Args)]
pub struct Touch {
    #[arg(required = true)]
    paths: Vec<OsString>,
}

impl Touch {
    pub async fn run(self, client: &Client, output: &mut Output) -> Result<(), Problem> {
        let files = client.files();
        let change = AttributeChange {
            accessed: Some(SetTime::Now),
            modified: Some(SetTime::Now),
            ..AttributeChange::default()
        };
        output.begin_array();
        for path in cluster_paths(&self.paths)? {
            match files.set_attributes(&path, change.clone()).await {
                Err(error) if error.is_not_found() => {
                    files.create(&path, MODE).await?;
                }
                result => result?,
            }
            output.element(json!({ "path": path.to_string() }))?;
        }
        Ok(())
    }
}
