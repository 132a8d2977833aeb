//! Which nodes a block of this client goes to.
//!
//! The choice is [`bark_schema::allocator`]'s; here is what it needs: the ring, and how full the nodes are, asked for when a
//! policy wants it and then once in a while.
//!
//! Invariant: nobody waits for the nodes' answers longer than USES_TIMEOUT, nor at all while older ones are known.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bark_schema::allocator::Allocator;
use bark_schema::ids::{BlockId, NodeNumber};
use bark_schema::placement::NodeUse;
use bark_schema::policy::{Allocate, Policy};
use futures::future::join_all;
use tokio::time::{Instant, timeout};

use crate::Client;

/// Nodes are asked again after this. 5 s: a writer at full speed moves a disk by a few GiB meanwhile, and counts those.
const USES_AGE_MAX: Duration = Duration::from_secs(5);
/// A node that does not answer by then is used last.
const USES_TIMEOUT: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Placing {
    allocator: Mutex<Allocator>,
    /// When the nodes were asked last; held by whoever asks.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl Placing {
    pub(crate) fn new(turn: u64) -> Placing {
        Placing {
            allocator: Mutex::new(Allocator::new(turn)),
            asked: tokio::sync::Mutex::new(None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Allocator> {
        // It is changed by whole steps that do not panic half-way.
        self.allocator.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// All nodes, those the block belongs on first, and how many copies it is to have.
    pub(crate) async fn place_block(
        &self,
        block: BlockId,
        policy: &Policy,
        size: usize,
    ) -> (Vec<NodeNumber>, usize) {
        if policy.allocate == Allocate::LeastUsed {
            self.learn_uses().await;
        }
        let router = self.router();
        let copies = policy.copies(router.replicas());
        let mut allocator = self.placing().lock();
        let order = allocator.order(router.ring(), block, policy, copies, size as u64);
        (order, copies)
    }

    /// Asks the nodes how full they are, unless that is known.
    async fn learn_uses(&self) {
        let placing = self.placing();
        let mut asked = match placing.asked.try_lock() {
            Ok(asked) => asked,
            // Another task is asking.
            Err(_) if placing.lock().knows_uses() => return,
            Err(_) => placing.asked.lock().await,
        };
        if asked.is_some_and(|asked| asked.elapsed() < USES_AGE_MAX) {
            return;
        }
        let answers = self.welcome().nodes.iter().map(|node| {
            let node = node.number;
            async move {
                let status = timeout(USES_TIMEOUT, self.cluster_status(Some(node))).await;
                Some((node, status.ok()?.ok()?.node_use()))
            }
        });
        let known: BTreeMap<NodeNumber, NodeUse> = join_all(answers).await.into_iter().flatten().collect();
        placing.lock().learn(known);
        *asked = Some(Instant::now());
    }
}
