//! What can be said to `bark`, outside the verbs themselves.

use std::path::PathBuf;
use std::time::Duration;

use bark_client::{ClientConfig, Source};
use clap::{Args, Parser, ValueEnum};

use crate::problem::Problem;
use crate::verbs::Verb;

/// Where a node of one's own listens unless told otherwise.
const NODE_DEFAULT: &str = "127.0.0.1:7111";

/// Files, keys and the cluster of BarkFS.
#[derive(Debug, Parser)]
#[command(name = "bark", version, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub global: GlobalArguments,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Args)]
pub struct GlobalArguments {
    /// Cluster file; the default is what BARK_CLUSTER names, a file or HOST:PORT,HOST:PORT,...
    #[arg(long, global = true, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// A node's Cap'n Proto address; may be repeated.
    #[arg(long, global = true, value_name = "HOST:PORT", conflicts_with = "cluster")]
    node: Vec<String>,
    /// Answers in JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// How long one operation may take, in seconds.
    #[arg(long, global = true, default_value_t = 30, value_name = "SECONDS")]
    pub timeout: u64,
    #[arg(long, global = true, default_value = "error")]
    pub log_level: String,
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl GlobalArguments {
    pub fn client_config(&self) -> Result<ClientConfig, Problem> {
        let mut config = ClientConfig::new(self.source()?);
        config.deadline = Duration::from_secs(self.timeout.max(1));
        Ok(config)
    }

    fn source(&self) -> Result<Source, Problem> {
        if let Some(file) = &self.cluster {
            return existing_file(file.clone());
        }
        if !self.node.is_empty() {
            return Ok(Source::Nodes(self.node.clone()));
        }
        match std::env::var("BARK_CLUSTER") {
            Ok(value) if value.is_empty() => Ok(Source::Nodes(vec![NODE_DEFAULT.into()])),
            Ok(value) if PathBuf::from(&value).is_file() => Ok(Source::File(value.into())),
            Ok(value) if value.contains(':') => Ok(Source::Nodes(
                value.split(',').map(|node| node.trim().into()).collect(),
            )),
            Ok(value) => existing_file(value.into()),
            Err(_) => Ok(Source::Nodes(vec![NODE_DEFAULT.into()])),
        }
    }
}

fn existing_file(file: PathBuf) -> Result<Source, Problem> {
    match file.is_file() {
        true => Ok(Source::File(file)),
        false => Err(Problem::usage(file.display().to_string(), "No such cluster file")),
    }
}
