//! Which nodes the blocks cut on a connection go to.
//!
//! The choice is [`bark_schema::allocator`]'s; here is what it needs: the ring, and how full the nodes are, asked for when a
//! policy wants it and then once in a while.

use std::cell::{Cell, OnceCell, RefCell};

use bark_core::worker::gateway::{Gateway, Reach};
use bark_schema::allocator::Allocator;
use bark_schema::cluster_file::ClusterFile;
use bark_schema::ids::{BlockId, NodeNumber};
use bark_schema::operation::{NodeRequest, Reply, Request};
use bark_schema::placement::Ring;
use bark_schema::policy::{Allocate, Policy};
use futures::future::join_all;

/// Nodes are asked again after this. 5 s: a writer at full speed moves a disk by a few GiB meanwhile, and counts those.
const USES_AGE_MAX_US: u64 = 5_000_000;
/// A node that does not answer by then is used last.
const USES_DEADLINE_US: u64 = 500_000;

pub struct Placing {
    /// Made when the first block is cut.
    ring: OnceCell<Ring>,
    allocator: RefCell<Allocator>,
    asked_us: Cell<Option<u64>>,
}

impl Placing {
    pub fn new(turn: u64) -> Placing {
        Placing {
            ring: OnceCell::new(),
            allocator: RefCell::new(Allocator::new(turn)),
            asked_us: Cell::new(None),
        }
    }

    /// All nodes, those a block belongs on first, and how many copies it is to have.
    pub async fn order(
        &self,
        gateway: &Gateway,
        cluster: &ClusterFile,
        block: BlockId,
        policy: &Policy,
        size: usize,
    ) -> (Vec<NodeNumber>, usize) {
        let ring = self.ring.get_or_init(|| cluster.ring());
        if policy.allocate == Allocate::LeastUsed {
            self.ask(gateway).await;
        }
        let copies = policy.copies(usize::from(cluster.replicas));
        let mut allocator = self.allocator.borrow_mut();
        let order = allocator.order(ring, block, policy, copies, size as u64);
        (order, copies)
    }

    async fn ask(&self, gateway: &Gateway) {
        let now_us = gateway.now().monotonic_us;
        let is_fresh = |asked_us| now_us.saturating_sub(asked_us) < USES_AGE_MAX_US;
        if self.asked_us.get().is_some_and(is_fresh) {
            return;
        }
        self.asked_us.set(Some(now_us));
        let answers = gateway.config().nodes.iter().map(|node| {
            let request = Request::Node(NodeRequest::ClusterStatus);
            gateway.call(request, Reach::Node(node.number), now_us + USES_DEADLINE_US)
        });
        let answers = join_all(answers).await;
        let known = answers.into_iter().filter_map(|answer| match answer {
            Ok(Reply::Cluster(status)) => Some((status.node, status.node_use())),
            _ => None,
        });
        self.allocator.borrow_mut().learn(known.collect());
    }
}
