//! The command line.
//!
//! Invariant: the gateway listens on loopback only. It has no notion of who asks, so whoever reaches the
//! port may do everything.

use std::net::SocketAddr;
use std::path::PathBuf;

use bark_client::{ClientConfig, Source};
use clap::{Parser, ValueEnum};

/// Where a node of one's own listens unless told otherwise.
const NODE_DEFAULT: &str = "127.0.0.1:7111";

/// The JSON-over-HTTP gateway of BarkFS, with a web page.
#[derive(Debug, Parser)]
#[command(name = "cerializer", version)]
pub struct Arguments {
    /// Cluster file; the default is what BARK_CLUSTER names, a file or HOST:PORT,HOST:PORT,...
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// A node's Cap'n Proto address; may be repeated.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "cluster")]
    node: Vec<String>,
    /// Where to answer HTTP. Loopback only.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7100")]
    pub listen: SocketAddr,
    /// error, warn, info, debug or trace; or a filter such as cerializer=debug,bark_client=info.
    #[arg(long, default_value = "info")]
    pub log_level: String,
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

impl Arguments {
    /// Checks what clap cannot, and says where the cluster is.
    pub fn validate(&self, environment: Option<&str>) -> Result<ClientConfig, String> {
        if !self.listen.ip().is_loopback() {
            return Err(format!(
                "--listen {}: not a loopback address. Whoever reaches this port can read and change \
                 everything, because the gateway does not ask who they are; put a proxy that does in front \
                 of 127.0.0.1",
                self.listen
            ));
        }
        Ok(ClientConfig::new(self.source(environment)?))
    }

    fn source(&self, environment: Option<&str>) -> Result<Source, String> {
        if let Some(file) = &self.cluster {
            return existing_file(file.clone());
        }
        if !self.node.is_empty() {
            return Ok(Source::Nodes(self.node.clone()));
        }
        match environment {
            None | Some("") => Ok(Source::Nodes(vec![NODE_DEFAULT.into()])),
            Some(value) if !PathBuf::from(value).is_file() && value.contains(':') => Ok(Source::Nodes(
                value.split(',').map(|node| node.trim().into()).collect(),
            )),
            Some(value) => existing_file(value.into()),
        }
    }
}

fn existing_file(file: PathBuf) -> Result<Source, String> {
    match file.is_file() {
        true => Ok(Source::File(file)),
        false => Err(format!("{}: No such cluster file", file.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &[&str]) -> Arguments {
        Arguments::parse_from(["cerializer"].iter().chain(line))
    }

    #[test]
    fn only_loopback_is_listened_on() {
        // Goal: nothing is exposed by accident. Method: table of addresses.
        for (listen, accepted) in [
            ("127.0.0.1:7100", true),
            ("127.9.9.9:1", true),
            ("[::1]:7100", true),
            ("0.0.0.0:7100", false),
            ("[::]:7100", false),
            ("192.168.1.1:7100", false),
        ] {
            let result = arguments(&["--listen", listen]).validate(None);
            assert_eq!(result.is_ok(), accepted, "{listen}");
        }
    }

    #[test]
    fn the_cluster_is_found_in_arguments_then_environment() {
        // Goal: what was said last by the user wins. Method: each way and both.
        let nodes = |line: &[&str], environment| match arguments(line).source(environment) {
            Ok(Source::Nodes(nodes)) => nodes,
            other => panic!("{other:?}"),
        };
        assert_eq!(nodes(&[], None), [NODE_DEFAULT]);
        assert_eq!(nodes(&[], Some("a:1, b:2")), ["a:1", "b:2"]);
        assert_eq!(
            nodes(&["--node", "c:3", "--node", "d:4"], Some("a:1")),
            ["c:3", "d:4"]
        );
        assert!(arguments(&["--cluster", "/no/such/file"]).source(None).is_err());
    }
}
