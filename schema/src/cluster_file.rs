//! The cluster file: who the members are and how data is spread over them.
//!
//! Members are static and their order is append-only: a node's number is its place in the file. A mistake
//! here would be paid for with data, so everything is checked and each error says what to do.
//!
//! Invariants:
//! - A [`ClusterFile`] that exists is valid: ids and addresses unique, 1 ≤ replicas ≤ nodes, partitions ≥ 1.
//! - A field this program does not know is an error: it might be a misspelt one that matters.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::ids::NodeNumber;
use crate::limits::{MIB, VALUE_SIZE_MAX, VALUE_SIZE_MAX_MIB_DEFAULT};
use crate::placement::{Ring, map_digest};

pub const REPLICAS_DEFAULT: u16 = 3;
pub const PARTITIONS_DEFAULT: u16 = 16;
pub const VNODES_DEFAULT: u32 = 128;
/// 4096: more points per node even out nothing further and only make the ring slow to build.
pub const VNODES_MAX: u32 = 4096;

/// What an acknowledged write has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// The disks of a quorum.
    Disk,
    /// The memory of a quorum, and the disk soon.
    Memory,
    /// The memory of one node; for tests and caches.
    None,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    pub name: String,
    pub replicas: u16,
    pub partitions: u16,
    pub vnodes: u32,
    pub durability: Durability,
    /// Largest value of a key, in bytes. Not part of the digest: it may be changed node by node.
    pub value_size_max: usize,
    pub nodes: Vec<ClusterNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNode {
    pub number: NodeNumber,
    pub id: String,
    /// Addresses as HOST:PORT.
    pub capnp: String,
    pub resp: String,
    pub http: String,
    /// Empty: none given.
    pub zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("not a cluster file: {0}")]
    Syntax(String),
    #[error("cluster.name is empty: give the cluster a name")]
    EmptyName,
    #[error("no [[node]] is given: list every member")]
    NoNodes,
    #[error("{0} nodes are given, at most 65535 are possible")]
    TooManyNodes(usize),
    #[error("node {0}: id is empty: give it a unique id")]
    EmptyId(NodeNumber),
    #[error("node id {0:?} is given twice: ids must be unique")]
    DuplicateId(String),
    #[error("{field} of node {id:?}: {address:?} is no address: write HOST:PORT with a port of 1 to 65535")]
    Address {
        id: String,
        field: &'static str,
        address: String,
    },
    #[error("address {address} is used by {first} and by {second}: each needs its own")]
    DuplicateAddress {
        address: String,
        first: String,
        second: String,
    },
    #[error("cluster.replicas is {replicas} and there are {nodes} nodes: choose 1 to {nodes}")]
    Replicas { replicas: i64, nodes: usize },
    #[error("cluster.partitions is {0}: choose 1 to 65535, it can not be changed later")]
    Partitions(i64),
    #[error("cluster.vnodes is {0}: choose 1 to {VNODES_MAX}, it can not be changed later")]
    Vnodes(i64),
    #[error("cluster.value_size_max_mib is {0}: choose 1 to 512")]
    ValueSize(i64),
    #[error("cluster.durability is {0:?}: choose \"disk\", \"memory\" or \"none\"")]
    Durability(String),
    #[error("cluster.durability \"none\" is for one node and there are {0}: choose \"disk\" or \"memory\"")]
    NoneWithSeveralNodes(usize),
}

// The shape of the file. Numbers are wide here, so that a wrong one is refused in our words.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    cluster: RawCluster,
    #[serde(default)]
    node: Vec<RawNode>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    name: String,
    replicas: Option<i64>,
    partitions: Option<i64>,
    vnodes: Option<i64>,
    durability: Option<String>,
    value_size_max_mib: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    id: String,
    capnp: String,
    resp: String,
    http: String,
    #[serde(default)]
    zone: String,
}

/// Reads and checks a cluster file. `replicas` left out is 3, or the number of nodes if that is less.
pub fn parse(text: &str) -> Result<ClusterFile, Error> {
    let raw: RawFile = toml::from_str(text).map_err(|error| Error::Syntax(one_line(&error)))?;
    let cluster = raw.cluster;
    if cluster.name.is_empty() {
        return Err(Error::EmptyName);
    }
    let nodes = check_nodes(raw.node)?;
    let replicas = match cluster.replicas {
        None => REPLICAS_DEFAULT.min(nodes.len() as u16),
        Some(replicas) => u16::try_from(replicas)
            .ok()
            .filter(|count| *count >= 1 && usize::from(*count) <= nodes.len())
            .ok_or(Error::Replicas {
                replicas,
                nodes: nodes.len(),
            })?,
    };
    let partitions = cluster.partitions.unwrap_or(i64::from(PARTITIONS_DEFAULT));
    let vnodes = cluster.vnodes.unwrap_or(i64::from(VNODES_DEFAULT));
    Ok(ClusterFile {
        name: cluster.name,
        replicas,
        partitions: u16::try_from(partitions)
            .ok()
            .filter(|count| *count >= 1)
            .ok_or(Error::Partitions(partitions))?,
        vnodes: u32::try_from(vnodes)
            .ok()
            .filter(|count| (1..=VNODES_MAX).contains(count))
            .ok_or(Error::Vnodes(vnodes))?,
        durability: check_durability(cluster.durability.as_deref(), nodes.len())?,
        value_size_max: value_size_max(cluster.value_size_max_mib)?,
        nodes,
    })
}

/// In bytes. 512 MiB means one byte less, which is what a message can carry.
fn value_size_max(mib: Option<i64>) -> Result<usize, Error> {
    let given = mib.unwrap_or(i64::from(VALUE_SIZE_MAX_MIB_DEFAULT));
    match usize::try_from(given) {
        Ok(mib @ 1..=512) => Ok((mib * MIB).min(VALUE_SIZE_MAX)),
        _ => Err(Error::ValueSize(given)),
    }
}

/// The cluster of one that a node without a cluster file is. Addresses are HOST:PORT.
pub fn single(id: &str, capnp: &str, resp: &str, http: &str) -> Result<ClusterFile, Error> {
    let raw = RawNode {
        id: id.into(),
        capnp: capnp.into(),
        resp: resp.into(),
        http: http.into(),
        zone: String::new(),
    };
    Ok(ClusterFile {
        name: "single".into(),
        replicas: 1,
        partitions: PARTITIONS_DEFAULT,
        vnodes: VNODES_DEFAULT,
        durability: Durability::Disk,
        value_size_max: value_size_max(None)?,
        nodes: check_nodes(vec![raw])?,
    })
}

impl ClusterFile {
    pub fn node(&self, number: NodeNumber) -> Option<&ClusterNode> {
        self.nodes.get(usize::from(number.0).checked_sub(1)?)
    }

    pub fn node_by_id(&self, id: &str) -> Option<&ClusterNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    pub fn ring(&self) -> Ring {
        Ring::new(&self.members(), self.vnodes)
    }

    pub fn digest(&self) -> u64 {
        map_digest(
            &self.name,
            &self.members(),
            self.replicas,
            self.partitions,
            self.vnodes,
        )
    }

    fn members(&self) -> Vec<(NodeNumber, &str, &str)> {
        let nodes = self.nodes.iter();
        nodes
            .map(|node| (node.number, node.id.as_str(), node.zone.as_str()))
            .collect()
    }
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Durability::Disk => "disk",
            Durability::Memory => "memory",
            Durability::None => "none",
        }
    }
}

fn check_nodes(raw: Vec<RawNode>) -> Result<Vec<ClusterNode>, Error> {
    if raw.is_empty() {
        return Err(Error::NoNodes);
    }
    if raw.len() > usize::from(u16::MAX) {
        return Err(Error::TooManyNodes(raw.len()));
    }
    let mut users_of_addresses: BTreeMap<String, String> = BTreeMap::new();
    let mut nodes: Vec<ClusterNode> = Vec::with_capacity(raw.len());
    for (index, node) in raw.into_iter().enumerate() {
        let number = NodeNumber(index as u16 + 1);
        if node.id.is_empty() {
            return Err(Error::EmptyId(number));
        }
        if nodes.iter().any(|other| other.id == node.id) {
            return Err(Error::DuplicateId(node.id));
        }
        for (field, address) in [("capnp", &node.capnp), ("resp", &node.resp), ("http", &node.http)] {
            check_address(&node.id, field, address)?;
            let user = format!("{field} of {}", node.id);
            if let Some(first) = users_of_addresses.insert(address.clone(), user.clone()) {
                return Err(Error::DuplicateAddress {
                    address: address.clone(),
                    first,
                    second: user,
                });
            }
        }
        nodes.push(ClusterNode {
            number,
            id: node.id,
            capnp: node.capnp,
            resp: node.resp,
            http: node.http,
            zone: node.zone,
        });
    }
    Ok(nodes)
}

/// A name or an address, an IPv6 one in brackets, and a port. Names are resolved when they are used.
fn check_address(id: &str, field: &'static str, address: &str) -> Result<(), Error> {
    let valid = address.rsplit_once(':').is_some_and(|(host, port)| {
        let host_is_valid = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
            None => {
                let allowed = |char: char| char.is_ascii_alphanumeric() || "-._".contains(char);
                !host.is_empty() && host.chars().all(allowed)
            }
        };
        let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
        host_is_valid && digits_only && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if valid {
        return Ok(());
    }
    Err(Error::Address {
        id: id.into(),
        field,
        address: address.into(),
    })
}

fn check_durability(word: Option<&str>, node_count: usize) -> Result<Durability, Error> {
    match word {
        None | Some("disk") => Ok(Durability::Disk),
        Some("memory") => Ok(Durability::Memory),
        Some("none") if node_count > 1 => Err(Error::NoneWithSeveralNodes(node_count)),
        Some("none") => Ok(Durability::None),
        Some(other) => Err(Error::Durability(other.into())),
    }
}

/// The parser draws pictures over several lines; errors are one line here.
fn one_line(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    lines.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "\n[[node]]\nid='a'\ncapnp='127.0.0.1:1'\nresp='127.0.0.1:2'\nhttp='[::1]:3'\n";
    const OTHER: &str =
        "\n[[node]]\nid='b'\ncapnp='b.example:1'\nresp='b.example:2'\nhttp='b.example:3'\nzone='z'\n";

    fn with(cluster: &str, nodes: &str) -> Result<ClusterFile, Error> {
        parse(&format!("[cluster]\nname='dev'\n{cluster}\n{nodes}"))
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        // Goal: a short file is enough. Method: only the required fields.
        let file = with("", &format!("{NODE}{OTHER}")).expect("valid");
        assert_eq!((file.replicas, file.partitions, file.vnodes), (2, 16, 128));
        assert_eq!(file.durability, Durability::Disk);
        assert_eq!(file.value_size_max, 32 * MIB);
        assert_eq!(file.node(NodeNumber(2)), file.node_by_id("b"));
        assert_eq!(file.node(NodeNumber(0)), None);
        assert_eq!(file.nodes[1].zone, "z");
    }

    #[test]
    fn every_mistake_has_its_error() {
        // Goal: nothing wrong passes. Method: one file for each mistake.
        let both = format!("{NODE}{OTHER}");
        let check = |cluster: &str, nodes: &str, expected: Error| {
            assert_eq!(with(cluster, nodes), Err(expected), "{cluster} {nodes}");
        };
        check("", "", Error::NoNodes);
        check("value_size_max_mib=0", &both, Error::ValueSize(0));
        check("value_size_max_mib=513", &both, Error::ValueSize(513));
        check(
            "replicas=3",
            &both,
            Error::Replicas {
                replicas: 3,
                nodes: 2,
            },
        );
        check(
            "replicas=0",
            &both,
            Error::Replicas {
                replicas: 0,
                nodes: 2,
            },
        );
        check("partitions=0", NODE, Error::Partitions(0));
        check("partitions=65536", NODE, Error::Partitions(65536));
        check("vnodes=0", NODE, Error::Vnodes(0));
        check("vnodes=4097", NODE, Error::Vnodes(4097));
        check("durability='tape'", NODE, Error::Durability("tape".into()));
        check("durability='none'", &both, Error::NoneWithSeveralNodes(2));
        check("", &format!("{NODE}{NODE}"), Error::DuplicateId("a".into()));
        check("", &NODE.replace("'a'", "''"), Error::EmptyId(NodeNumber(1)));
        check(
            "",
            &NODE.replace("127.0.0.1:2", "127.0.0.1:1"),
            Error::DuplicateAddress {
                address: "127.0.0.1:1".into(),
                first: "capnp of a".into(),
                second: "resp of a".into(),
            },
        );
        for address in [
            "127.0.0.1",
            ":1",
            "a:0",
            "a:65536",
            "a:+1",
            "a b:1",
            "[::1:1",
            "::1:1",
            "",
        ] {
            check(
                "",
                &NODE.replace("127.0.0.1:1", address),
                Error::Address {
                    id: "a".into(),
                    field: "capnp",
                    address: address.into(),
                },
            );
        }
        assert_eq!(parse("[cluster]\nname=''"), Err(Error::EmptyName));
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        // Goal: a misspelt field is found. Method: look for its name in the message, which is one line.
        let check = |cluster: &str, nodes: &str, word: &str| {
            let error = with(cluster, nodes).expect_err("invalid").to_string();
            assert!(error.contains(word) && !error.contains('\n'), "{error}");
        };
        check("replica=1", NODE, "replica");
        check("", &format!("{NODE}\nzoned='a'"), "zoned");
        check("", "[[node]]\nid='a'", "capnp");
        check("replicas='x'", NODE, "replicas");
        check("= 3", NODE, "line");
    }

    #[test]
    fn a_cluster_of_one_needs_no_file() {
        // Goal: `bark-node` alone starts. Method: the documented addresses.
        let file = single("node-1", "127.0.0.1:7111", "127.0.0.1:6379", "127.0.0.1:7113");
        let file = file.expect("valid");
        assert_eq!((file.replicas, file.nodes.len()), (1, 1));
        assert!(single("node-1", "x", "127.0.0.1:6379", "127.0.0.1:7113").is_err());
    }
}
