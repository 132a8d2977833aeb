//! Whether every node answers, and whether replicas that applied the same have the same state.

use std::collections::BTreeMap;

use bark_schema::ids::{NodeNumber, PartitionId};
use bark_schema::operation::{NodeRequest, PartitionStatus, Reply};

use super::finding::{Finding, FindingKind};
use super::{Examination, Source, unexpected};

/// How often replicas are asked until two are met at the same entry: on a busy cluster they seldom are.
const ROUNDS_MAX: u32 = 5;

impl<S: Source> Examination<'_, S> {
    pub(super) async fn replicas(&mut self) {
        let mut hashes: BTreeMap<(PartitionId, u64), BTreeMap<NodeNumber, u64>> = BTreeMap::new();
        for round in 0..ROUNDS_MAX {
            if round > 0 {
                self.source.pause().await;
            }
            let mut met: BTreeMap<PartitionId, u64> = BTreeMap::new();
            let mut all_agree = true;
            for node in self.members.nodes.keys().copied().collect::<Vec<_>>() {
                for status in self.statuses(node).await {
                    let key = (status.partition, status.applied);
                    hashes.entry(key).or_default().insert(node, status.state_hash);
                    all_agree &= *met.entry(status.partition).or_insert(status.applied) == status.applied;
                }
            }
            if all_agree {
                break;
            }
        }
        for ((partition, applied), said) in hashes {
            let mut different: Vec<u64> = said.values().copied().collect();
            different.sort_unstable();
            different.dedup();
            if different.len() > 1 {
                let said: Vec<String> = said
                    .iter()
                    .map(|(node, hash)| format!("{hash:016x} on {}", self.node_name(*node)))
                    .collect();
                let sentence = format!(
                    "its replicas have different states after {applied} log entries: {}",
                    said.join(", ")
                );
                self.report.add(Finding {
                    partition: Some(partition),
                    ..Finding::new(FindingKind::ReplicaDiffers, partition.to_string(), sentence)
                });
            }
        }
    }

    async fn statuses(&mut self, node: NodeNumber) -> Vec<PartitionStatus> {
        let failure = match self.source.node(node, NodeRequest::ClusterStatus).await {
            Ok(Reply::Cluster(status)) => return status.partitions,
            Ok(other) => unexpected(&other),
            Err(failure) => failure,
        };
        self.report.unanswered(self.node_name(node), &failure);
        Vec::new()
    }
}
