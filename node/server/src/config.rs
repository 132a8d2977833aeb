//! The command line of `bark-node`, checked before anything starts.

use std::net::SocketAddr;
use std::path::PathBuf;

use bark_schema::cluster_file::{self, ClusterFile};
use bark_schema::ids::NodeNumber;
use clap::{Parser, ValueEnum};

/// One member of a BarkFS cluster. With no arguments: a cluster of one, with its data in ./bark-data.
#[derive(Debug, Parser)]
#[command(name = "bark-node", version)]
pub struct Arguments {
    /// The cluster file; all members have the same one.
    #[arg(long, value_name = "FILE", requires = "id")]
    pub config: Option<PathBuf>,
    /// Which [[node]] of the cluster file this is.
    #[arg(long, value_name = "ID", requires = "config")]
    pub id: Option<String>,
    /// Where this node keeps its data.
    #[arg(long, value_name = "DIR", default_value = "bark-data")]
    pub data: PathBuf,
    /// Worker threads; by default one a core but one, which the network thread has.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// Network threads; 0, the default with one worker: that worker serves the sockets.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=16))]
    pub network_threads: Option<u16>,
    /// Leave the placing of threads on cores to the operating system.
    #[arg(long)]
    pub no_pin: bool,
    /// error, warn, info, debug or trace; or a filter such as info,raft=debug.
    #[arg(long, value_name = "LEVEL", default_value = "info,raft=warn")]
    pub log_level: String,
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{path}: {source}")]
    ClusterFile {
        path: PathBuf,
        source: cluster_file::Error,
    },
    #[error("{path}: no [[node]] has the id {id:?}; it has {known}")]
    UnknownNode {
        path: PathBuf,
        id: String,
        known: String,
    },
    #[error("--log-level: {0}")]
    LogLevel(String),
    #[error("--network-threads 0: the sockets need a thread of their own beside {workers} workers")]
    NoNetworkThread { workers: u16 },
    #[error("{name}: {address}: not an address of the form HOST:PORT with a numeric host")]
    Address { name: &'static str, address: String },
    #[error(
        "{name} = {address}: this node would be open to the network without TLS or tokens, which are not built yet; \
         bind 127.0.0.1 and use an SSH tunnel or a private network namespace"
    )]
    NotLoopback { name: &'static str, address: String },
}

/// What the node runs with.
#[derive(Debug)]
pub struct Config {
    pub cluster: ClusterFile,
    pub node: NodeNumber,
    pub node_id: String,
    pub data: PathBuf,
    pub capnp: SocketAddr,
    pub resp: SocketAddr,
    pub http: SocketAddr,
    pub workers: u16,
    /// 0: the worker serves the sockets.
    pub network_threads: u16,
    pub pin: bool,
    pub value_size_max: usize,
}

impl Config {
    pub fn from_arguments(arguments: &Arguments) -> Result<Config, Error> {
        let (cluster, position) = match (&arguments.config, &arguments.id) {
            (Some(path), Some(id)) => {
                let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
                    path: path.clone(),
                    source,
                })?;
                let cluster = cluster_file::parse(&text).map_err(|source| Error::ClusterFile {
                    path: path.clone(),
                    source,
                })?;
                let position = cluster
                    .nodes
                    .iter()
                    .position(|node| node.id == *id)
                    .ok_or_else(|| {
                        let known: Vec<&str> = cluster.nodes.iter().map(|node| node.id.as_str()).collect();
                        Error::UnknownNode {
                            path: path.clone(),
                            id: id.clone(),
                            known: known.join(", "),
                        }
                    })?;
                (cluster, position)
            }
            _ => (single()?, 0),
        };
        let node = &cluster.nodes[position];
        let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
        // On two cores or fewer one worker does best: with clients on the same machine, more only add wake-ups.
        let workers = arguments
            .workers
            .unwrap_or_else(|| (cores.saturating_sub(1)).clamp(1, 64) as u16);
        let workers = workers.min(cluster.partitions.max(1));
        let network_threads = arguments.network_threads.unwrap_or(u16::from(workers > 1));
        if network_threads == 0 && workers > 1 {
            return Err(Error::NoNetworkThread { workers });
        }
        Ok(Config {
            node: node.number,
            node_id: node.id.clone(),
            data: arguments.data.clone(),
            capnp: address("capnp", &node.capnp)?,
            resp: address("resp", &node.resp)?,
            http: address("http", &node.http)?,
            workers,
            network_threads,
            // A pinned worker beside a pinned network thread wants cores of their own.
            pin: !arguments.no_pin && cores >= usize::from(workers) + 2,
            value_size_max: cluster.value_size_max,
            cluster,
        })
    }
}

/// The cluster of one that no arguments mean.
fn single() -> Result<ClusterFile, Error> {
    cluster_file::single("node-1", "127.0.0.1:7111", "127.0.0.1:6379", "127.0.0.1:7113").map_err(|source| {
        Error::ClusterFile {
            path: PathBuf::from("built-in cluster"),
            source,
        }
    })
}

fn address(name: &'static str, text: &str) -> Result<SocketAddr, Error> {
    let address: SocketAddr = text.parse().map_err(|_| Error::Address {
        name,
        address: text.to_string(),
    })?;
    if !address.ip().is_loopback() {
        return Err(Error::NotLoopback {
            name,
            address: text.to_string(),
        });
    }
    Ok(address)
}
