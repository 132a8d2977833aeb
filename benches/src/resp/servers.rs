//! The servers: BarkFS in three settings, and its peers with the settings that promise the same.
//!
//! Every server listens on free loopback ports and keeps its data in a directory of its own below the given one.
//! What was started is killed by its process id when the value is dropped, on every way out.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context;

use super::load::Dialect;
use crate::cluster::{Cluster, free_addresses};

/// Which promise a server keeps before it answers a SET; only like is compared with like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// In memory.
    Memory,
    /// On this machine's disk.
    Disk,
    /// On the disks of two of three nodes, all on this machine.
    Quorum,
}

pub struct Server {
    pub name: &'static str,
    pub promise: Promise,
    pub dialect: Dialect,
    pub addresses: Vec<SocketAddr>,
    /// What ran, for the table's header.
    pub setting: String,
    processes: Vec<Child>,
}

impl Drop for Server {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // It may have ended by itself; then there is nothing to kill.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Server {
    pub fn process_ids(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().map(Child::id)
    }
}

/// Where to start servers.
pub struct Place {
    pub directory: PathBuf,
    pub bark_node: PathBuf,
}

impl Place {
    pub fn redis(&self, name: &'static str, promise: Promise) -> anyhow::Result<Server> {
        let address = free_addresses(1)?[0];
        let durability: &[&str] = match promise {
            Promise::Memory => &["--appendonly", "no"],
            _ => &["--appendonly", "yes", "--appendfsync", "always"],
        };
        let port = address.port().to_string();
        let own = self.own_directory(name)?;
        let mut command = Command::new("redis-server");
        command
            .args(["--port", &port, "--bind", "127.0.0.1", "--save", ""])
            .args(["--io-threads", "1", "--auto-aof-rewrite-percentage", "0"])
            .args(durability)
            .args(["--dir".as_ref(), own.as_os_str()]);
        let setting = format!("redis-server --io-threads 1 {}", durability.join(" "));
        self.server(
            name,
            promise,
            Dialect::Resp,
            vec![address],
            setting,
            vec![command],
        )
    }

    pub fn memcached(&self) -> anyhow::Result<Server> {
        let address = free_addresses(1)?[0];
        let port = address.port().to_string();
        let mut command = Command::new("memcached");
        command.args([
            "-l",
            "127.0.0.1",
            "-p",
            &port,
            "-U",
            "0",
            "-t",
            "2",
            "-m",
            "256",
            "-u",
            "nobody",
        ]);
        let setting = "memcached -t 2 -m 256, text protocol".to_string();
        let (promise, dialect) = (Promise::Memory, Dialect::Memcached);
        self.server(
            "memcached",
            promise,
            dialect,
            vec![address],
            setting,
            vec![command],
        )
    }

    /// A cluster of one or three nodes.
    pub fn bark(&self, name: &'static str, promise: Promise) -> anyhow::Result<Server> {
        let nodes_count = if promise == Promise::Quorum { 3 } else { 1 };
        let durability = if promise == Promise::Memory {
            "none"
        } else {
            "disk"
        };
        let own = self.own_directory(name)?;
        let cluster = Cluster::new(&self.bark_node, &own, nodes_count, durability)?;
        let (addresses, setting) = (cluster.resp, cluster.setting);
        let dialect = Dialect::Resp;
        self.server(name, promise, dialect, addresses, setting, cluster.commands)
    }

    /// One node, and where clients reach it. It speaks no dialect of ours.
    pub fn etcd(&self) -> anyhow::Result<(Server, SocketAddr)> {
        let addresses = free_addresses(2)?;
        let (client, peer) = (
            format!("http://{}", addresses[0]),
            format!("http://{}", addresses[1]),
        );
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.own_directory("etcd")?);
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args([
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
        ]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        let (promise, dialect) = (Promise::Disk, Dialect::Resp);
        let server = self.server("etcd", promise, dialect, Vec::new(), String::new(), vec![command])?;
        Ok((server, addresses[0]))
    }

    fn own_directory(&self, name: &str) -> anyhow::Result<PathBuf> {
        let own = self.directory.join(name.replace([' ', ','], "-"));
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        Ok(own)
    }

    fn server(
        &self,
        name: &'static str,
        promise: Promise,
        dialect: Dialect,
        addresses: Vec<SocketAddr>,
        setting: String,
        commands: Vec<Command>,
    ) -> anyhow::Result<Server> {
        let mut server = Server {
            name,
            promise,
            dialect,
            addresses,
            setting,
            processes: Vec::new(),
        };
        let log_path = self.directory.join("servers.log");
        for mut command in commands {
            let log = File::options().create(true).append(true).open(&log_path)?;
            command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
            let program = Path::new(command.get_program()).display().to_string();
            let process = command.spawn().with_context(|| format!("starting {program}"))?;
            server.processes.push(process);
        }
        Ok(server)
    }
}
