//! Where things live: the cluster's ring as the client computes it from a node's welcome.
//!
//! Invariant: the same welcome gives the same placement as the nodes compute from their cluster file.

use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::message::Welcome;
use bark_schema::placement::{Ring, partition_of_key};

use crate::session::Topology;

/// The placement of partitions, keys and blocks.
#[derive(Debug)]
pub(crate) struct Router {
    ring: Ring,
    nodes: Vec<NodeNumber>,
    partition_count: u16,
    replicas: usize,
}

impl Router {
    pub(crate) fn new(welcome: &Welcome) -> Router {
        let nodes: Vec<(NodeNumber, &str, &str)> = welcome
            .nodes
            .iter()
            .map(|node| (node.number, node.id.as_str(), node.zone.as_str()))
            .collect();
        Router {
            ring: Ring::new(&nodes, welcome.vnodes),
            nodes: welcome.nodes.iter().map(|node| node.number).collect(),
            partition_count: welcome.partition_count,
            replicas: usize::from(welcome.replicas),
        }
    }

    /// What a session needs to know; `preferred` is asked first where any node will do.
    pub(crate) fn topology(&self, preferred: NodeNumber) -> Topology {
        let mut nodes = self.nodes.clone();
        nodes.sort_by_key(|node| (*node != preferred, *node));
        Topology {
            nodes,
            replicas: self
                .partitions()
                .map(|partition| self.partition_replicas(partition))
                .collect(),
        }
    }

    pub(crate) fn partitions(&self) -> impl Iterator<Item = PartitionId> + use<> {
        (0..self.partition_count).map(PartitionId)
    }

    pub(crate) fn partition_replicas(&self, partition: PartitionId) -> Vec<NodeNumber> {
        self.ring.partition_replicas(partition, self.replicas)
    }

    pub(crate) fn partition_of_key(&self, key: &[u8]) -> PartitionId {
        partition_of_key(key, self.partition_count)
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }

    /// Copies the cluster keeps of partitions, and of blocks without a policy.
    pub(crate) fn replicas(&self) -> usize {
        self.replicas
    }

    pub(crate) fn block_replicas(&self, block: BlockId) -> Vec<NodeNumber> {
        self.ring.block_replicas(block, self.replicas)
    }
}
