//! Clusters of real nodes for benchmarks: their file, their ports, the commands that start them.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

/// A cluster that nobody has started yet.
pub struct Cluster {
    pub file: PathBuf,
    /// Where Redis clients reach each node.
    pub resp: Vec<SocketAddr>,
    /// One command a node.
    pub commands: Vec<Command>,
    /// What it is, for the table's header.
    pub setting: String,
}

impl Cluster {
    /// Every node holds everything. File and data are below `directory`, ports are free ones of the loopback.
    pub fn new(
        bark_node: &Path,
        directory: &Path,
        nodes_count: usize,
        durability: &str,
    ) -> anyhow::Result<Cluster> {
        let ports = free_addresses(3 * nodes_count)?;
        let mut text = format!(
            "[cluster]\nname = \"bench\"\nreplicas = {nodes_count}\npartitions = 16\nvnodes = 128\n\
             durability = \"{durability}\"\n"
        );
        for (number, ports) in ports.chunks(3).enumerate() {
            text.push_str(&format!(
                "\n[[node]]\nid = \"node-{number}\"\ncapnp = \"{}\"\nresp = \"{}\"\nhttp = \"{}\"\n",
                ports[0], ports[1], ports[2]
            ));
        }
        let file = directory.join("cluster.toml");
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        let commands = (0..nodes_count).map(|number| {
            let mut command = Command::new(bark_node);
            command.arg("--config").arg(&file);
            command.args(["--id", &format!("node-{number}"), "--log-level", "warn", "--data"]);
            command.arg(directory.join(format!("data-{number}")));
            command
        });
        Ok(Cluster {
            commands: commands.collect(),
            resp: ports.chunks(3).map(|ports| ports[1]).collect(),
            setting: format!(
                "{nodes_count} x bark-node, replicas = {nodes_count}, partitions = 16, durability = {durability}"
            ),
            file,
        })
    }
}

/// Ports that were free a moment ago.
pub fn free_addresses(count: usize) -> anyhow::Result<Vec<SocketAddr>> {
    let listeners: Result<Vec<_>, _> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
    let addresses: Result<Vec<_>, _> = listeners?.iter().map(TcpListener::local_addr).collect();
    let addresses = addresses?;
    ensure!(addresses.len() == count, "not enough free ports");
    Ok(addresses)
}
