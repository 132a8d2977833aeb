//! The gateway's connection to the cluster, and one view of it out of what its nodes say.
//!
//! The gateway starts before the cluster is up: until a node answers, `client` is a 503 with the reason.
//!
//! Invariant: however many ask, the nodes are asked for their status at most twice a second.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bark_client::{Client, ClientConfig};
use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{ClusterStatus, NodeStatus, PartitionStatus};
use futures::future::join_all;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, timeout};

use crate::problem::Problem;

const CONNECT_PAUSE: Duration = Duration::from_millis(300);
/// A node that takes longer to say how it is counts as not reachable.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
const VIEW_AGE_MAX: Duration = Duration::from_millis(500);

pub struct Cluster {
    client: watch::Receiver<Result<Client, String>>,
    view: Mutex<Option<(Instant, Arc<View>)>>,
}

/// The cluster as its nodes, put together, see it.
#[derive(Debug)]
pub struct View {
    /// Sizes of disks and blocks are sums over the nodes; `node` is one that answered.
    pub status: ClusterStatus,
    pub disks: BTreeMap<NodeNumber, Disk>,
    pub replicas: BTreeMap<PartitionId, Vec<NodeNumber>>,
    pub leaderless: Vec<PartitionId>,
    pub unreachable: Vec<NodeNumber>,
}

#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub total_bytes: u64,
    pub free_bytes: u64,
}

impl Cluster {
    /// Starts connecting and goes on until a node answers.
    pub fn connect(config: ClientConfig) -> Cluster {
        let (sender, client) = watch::channel(Err("no node has answered yet".to_string()));
        tokio::spawn(async move {
            let mut reported = false;
            while !sender.is_closed() {
                match Client::connect(config.clone()).await {
                    Ok(client) => {
                        tracing::info!(cluster = client.welcome().cluster, "connected");
                        let _ = sender.send(Ok(client));
                        return sender.closed().await;
                    }
                    Err(error) => {
                        if !reported {
                            tracing::warn!(%error, "waiting for the cluster");
                            reported = true;
                        }
                        let _ = sender.send(Err(error.to_string()));
                    }
                }
                sleep(CONNECT_PAUSE).await;
            }
        });
        Cluster {
            client,
            view: Mutex::new(None),
        }
    }

    pub fn client(&self) -> Result<Client, Problem> {
        self.client.borrow().clone().map_err(Problem::unavailable)
    }

    pub fn is_connected(&self) -> bool {
        self.client.borrow().is_ok()
    }

    pub async fn view(&self) -> Result<Arc<View>, Problem> {
        let client = self.client()?;
        // Held across the question, so that those who come meanwhile share its answer.
        let mut view = self.view.lock().await;
        if let Some((at, view)) = &*view
            && at.elapsed() < VIEW_AGE_MAX
        {
            return Ok(view.clone());
        }
        let fresh = Arc::new(ask(&client).await?);
        *view = Some((Instant::now(), fresh.clone()));
        Ok(fresh)
    }
}

async fn ask(client: &Client) -> Result<View, Problem> {
    let nodes = client.welcome().nodes.iter().map(|node| node.number);
    let asked = nodes.map(|node| async move {
        match timeout(STATUS_TIMEOUT, client.cluster_status(Some(node))).await {
            Ok(Ok(status)) => Some(status),
            Ok(Err(_)) | Err(_) => None,
        }
    });
    let answers: Vec<ClusterStatus> = join_all(asked).await.into_iter().flatten().collect();
    let replicas = |partition| client.partition_replicas(partition);
    combine(answers, replicas).ok_or_else(|| Problem::unavailable("no node of the cluster answers"))
}

/// None without a single answer.
fn combine(answers: Vec<ClusterStatus>, replicas: impl Fn(PartitionId) -> Vec<NodeNumber>) -> Option<View> {
    let mut status = answers.first()?.clone();
    let disks: BTreeMap<NodeNumber, Disk> = answers
        .iter()
        .map(|answer| {
            let disk = Disk {
                total_bytes: answer.disk_total_bytes,
                free_bytes: answer.disk_free_bytes,
            };
            (answer.node, disk)
        })
        .collect();
    status.disk_total_bytes = disks.values().map(|disk| disk.total_bytes).sum();
    status.disk_free_bytes = disks.values().map(|disk| disk.free_bytes).sum();
    status.block_bytes = answers.iter().map(|answer| answer.block_bytes).sum();
    let reachable = |node: NodeStatus| NodeStatus {
        reachable: disks.contains_key(&node.number),
        ..node
    };
    status.nodes = status.nodes.into_iter().map(reachable).collect();
    let mut partitions: BTreeMap<PartitionId, PartitionStatus> = BTreeMap::new();
    for answer in &answers {
        for told in &answer.partitions {
            let better = match partitions.get(&told.partition) {
                None => true,
                Some(known) => trust(told, answer.node) > trust(known, NodeNumber(0)),
            };
            if better {
                partitions.insert(told.partition, told.clone());
            }
        }
    }
    let all = || {
        (0..=u16::MAX)
            .map(PartitionId)
            .take(status.partition_count as usize)
    };
    let led = |partition: &PartitionId| {
        let leader = partitions.get(partition).and_then(|known| known.leader);
        leader.is_some_and(|leader| disks.contains_key(&leader))
    };
    let leaderless = all().filter(|partition| !led(partition)).collect();
    let replicas = all().map(|partition| (partition, replicas(partition))).collect();
    let unreachable = status
        .nodes
        .iter()
        .filter(|node| !node.reachable)
        .map(|node| node.number)
        .collect();
    status.partitions = partitions.into_values().collect();
    Some(View {
        status,
        disks,
        replicas,
        leaderless,
        unreachable,
    })
}

/// The newest term is right about its leader; within it the leader itself knows most.
fn trust(status: &PartitionStatus, teller: NodeNumber) -> (u64, bool, bool, u64) {
    let leads = status.leader == Some(teller);
    (status.term, leads, status.leader.is_some(), status.applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(number: u16, leader: Option<u16>, term: u64) -> PartitionStatus {
        PartitionStatus {
            partition: PartitionId(number),
            leader: leader.map(NodeNumber),
            term,
            applied: 1,
            state_hash: 0,
            keys: 0,
            inodes: 0,
            file_bytes: 0,
            allocated_bytes: 0,
            orphans: 0,
            log_entries: 0,
            snapshot_index: 0,
            block_bytes: 0,
            garbage_bytes: 0,
            patch_bytes: 0,
        }
    }

    fn answer(node: u16, partitions: Vec<PartitionStatus>) -> ClusterStatus {
        let nodes = (1..=3).map(|number| NodeStatus {
            number: NodeNumber(number),
            id: format!("node-{number}"),
            capnp: String::new(),
            resp: String::new(),
            http: String::new(),
            zone: String::new(),
            reachable: true,
            draining: false,
            disk_slow: false,
            refusal: None,
        });
        ClusterStatus {
            cluster: "test".into(),
            node: NodeNumber(node),
            nodes: nodes.collect(),
            partitions,
            durability: "disk".into(),
            replicas: 3,
            partition_count: 2,
            disk_total_bytes: 100,
            disk_free_bytes: 10,
            block_bytes: 5,
        }
    }

    #[test]
    fn the_newest_term_names_the_leader() {
        // Goal: a node that was cut off does not decide the view. Method: it still tells of an old leader.
        let answers = vec![
            answer(1, vec![partition(0, Some(1), 4), partition(1, None, 9)]),
            answer(2, vec![partition(0, Some(2), 5), partition(1, Some(2), 9)]),
        ];
        let view = combine(answers, |_| vec![NodeNumber(1)]).unwrap();
        let leaders: Vec<_> = view.status.partitions.iter().map(|known| known.leader).collect();
        assert_eq!(leaders, [Some(NodeNumber(2)), Some(NodeNumber(2))]);
        assert!(view.leaderless.is_empty());
        assert_eq!(view.unreachable, [NodeNumber(3)]);
        assert_eq!(
            (
                view.status.disk_total_bytes,
                view.status.disk_free_bytes,
                view.status.block_bytes
            ),
            (200, 20, 10)
        );
    }

    #[test]
    fn a_leader_that_does_not_answer_leads_nothing() {
        // Goal: health is what clients will meet. Method: the leader is silent; a partition nobody mentions.
        let view = combine(vec![answer(1, vec![partition(0, Some(3), 4)])], |_| Vec::new()).unwrap();
        assert_eq!(view.leaderless, [PartitionId(0), PartitionId(1)]);
        assert!(combine(Vec::new(), |_| Vec::new()).is_none());
    }
}
