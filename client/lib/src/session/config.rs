//! What a session is given at its start.

use bark_schema::ids::{ClientId, NodeNumber};

/// Fixed properties of a [`Session`].
#[derive(Clone, Debug)]
pub struct SessionConfig {
    pub client: ClientId,
    /// Of the jitter.
    pub seed: u64,
    /// After this long without an answer the call is tried elsewhere.
    pub attempt_timeout_ms: u64,
    /// The same for requests to one named node, which move whole blocks.
    pub named_attempt_timeout_ms: u64,
    pub backoff_min_ms: u64,
    pub backoff_max_ms: u64,
    /// Changes are not repeated after this; below what nodes remember (10 minutes), by more than clocks differ.
    pub retention_ms: u64,
    /// Nodes are asked to tell where the time of each request goes.
    pub traced: bool,
}

impl SessionConfig {
    /// The defaults for a client of that name.
    pub fn new(client: ClientId, seed: u64) -> SessionConfig {
        SessionConfig {
            client,
            seed,
            attempt_timeout_ms: 2_000,
            named_attempt_timeout_ms: 15_000,
            backoff_min_ms: 10,
            backoff_max_ms: 500,
            retention_ms: 480_000,
            traced: false,
        }
    }
}

/// Who is in the cluster and which nodes hold which partition, in ring order.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// All nodes, the preferred one first.
    pub nodes: Vec<NodeNumber>,
    /// By partition.
    pub replicas: Vec<Vec<NodeNumber>>,
}
