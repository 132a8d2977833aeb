//! How large the file system is, for statfs: the cluster's disks, or the quota the mounted directory is under.

use std::time::{Duration, Instant};

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::KIB;
use bark_schema::operation::Failure;
use bark_schema::quota::Quota;

use crate::cluster::Cluster;

/// `df` in a loop does not ask every partition each time.
const VALID: Duration = Duration::from_secs(1);
const UNIT: u64 = 4 * KIB as u64;
/// What one more inode takes of memory and log, for an estimate of how many more there can be.
const BYTES_PER_INODE: u64 = 16 * KIB as u64;

/// In units of 4 KiB of what programs can store, replicas accounted for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Capacity {
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

impl Capacity {
    /// What is left of it under a quota.
    fn within(mut self, quota: &Quota) -> Capacity {
        if quota.quota.is_none() {
            return self;
        }
        if quota.limits.bytes != u64::MAX {
            let left = quota.limits.bytes.saturating_sub(quota.used_bytes) / UNIT;
            self.free = self.free.min(left);
            self.blocks = quota.used_bytes.div_ceil(UNIT) + self.free;
        }
        if quota.limits.inodes != u64::MAX {
            let left = quota.limits.inodes.saturating_sub(quota.used_inodes);
            self.free_inodes = self.free_inodes.min(left);
            self.inodes = quota.used_inodes;
        }
        self
    }
}

#[derive(Debug, Default)]
pub(crate) struct CapacityCache {
    latest: tokio::sync::Mutex<Option<(Instant, Capacity)>>,
}

impl CapacityCache {
    pub(crate) async fn get(&self, cluster: &Cluster, root: InodeId) -> Result<Capacity, Failure> {
        let mut latest = self.latest.lock().await;
        if let Some((at, capacity)) = *latest
            && at.elapsed() < VALID
        {
            return Ok(capacity);
        }
        let (capacity, quota) = futures::future::try_join(ask(cluster), cluster.quota(root)).await?;
        let capacity = capacity.within(&quota);
        *latest = Some((Instant::now(), capacity));
        Ok(capacity)
    }
}

async fn ask(cluster: &Cluster) -> Result<Capacity, Failure> {
    let status = cluster.cluster_status().await?;
    let count = u16::try_from(status.partition_count).unwrap_or(u16::MAX);
    let partitions = (0..count).map(|partition| cluster.partition_status(PartitionId(partition)));
    let partitions = futures::future::try_join_all(partitions).await?;
    // What is stored: a file that is nearly all hole takes nothing, as in a quota.
    let used: u64 = partitions.iter().map(|partition| partition.allocated_bytes).sum();
    // Every node is taken to have the disk of the one that answered.
    let nodes = status.nodes.len().max(1) as u64;
    let replicas = u64::from(status.replicas.max(1));
    let free = status.disk_free_bytes.saturating_mul(nodes) / replicas;
    Ok(Capacity {
        blocks: (free + used) / UNIT,
        free: free / UNIT,
        inodes: partitions.iter().map(|partition| partition.inodes).sum(),
        free_inodes: free / BYTES_PER_INODE,
    })
}
