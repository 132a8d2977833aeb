//! Requests any node answers by itself: walks, blocks, what it knows of the cluster.

use bark_schema::operation::{ClusterStatus, Failure, NodeRequest, Refusal, Reply, Request};

use super::{block, mend, quota, unexpected, usage, walk};
use crate::worker::gateway::{DEADLINE_DEFAULT_US, Gateway, Reach};

/// `local_status`: what this worker alone knows, for `ClusterStatus`.
pub async fn carry_out(
    gateway: &Gateway,
    request: NodeRequest,
    local_status: Option<ClusterStatus>,
) -> Result<Reply, Failure> {
    match request {
        NodeRequest::Walk {
            start,
            path,
            follow_last,
            first_bytes,
        } => walk::walk(gateway, start, path, follow_last, first_bytes).await,
        NodeRequest::BlockPut {
            block,
            data,
            checksum,
            replicas,
            ..
        } => block::put(gateway, block, data, checksum, replicas).await,
        NodeRequest::ClusterStatus => match local_status {
            Some(status) => gather_status(gateway, status).await,
            None => Err(Failure::refused(Refusal::Internal, "the status is missing")),
        },
        NodeRequest::DirectoryUsage { directory } => usage::directory_usage(gateway, directory).await,
        NodeRequest::SetQuota { directory, limits } => quota::set(gateway, directory, limits).await,
        NodeRequest::GetQuota { directory } => quota::get(gateway, directory).await,
        NodeRequest::BlockFetch {
            block,
            size,
            checksum,
            from,
        } => mend::fetch(gateway, block, size, checksum, from).await,
        NodeRequest::Scrub { .. } | NodeRequest::Orphans { .. } => Err(Failure::refused(
            Refusal::Internal,
            "the first worker reads the node's copies",
        )),
        NodeRequest::Traced { .. }
        | NodeRequest::BlockGet { .. }
        | NodeRequest::BlockVerify { .. }
        | NodeRequest::BlocksMissing { .. }
        | NodeRequest::BlockDelete { .. }
        | NodeRequest::BlockList { .. }
        | NodeRequest::BlockAudit { .. }
        | NodeRequest::BlockCompact
        | NodeRequest::Drain { .. }
        | NodeRequest::Admit { .. } => Err(Failure::refused(
            Refusal::Internal,
            "this is carried out elsewhere in the node",
        )),
    }
}

/// Puts together what the workers of this node know.
async fn gather_status(gateway: &Gateway, mut status: ClusterStatus) -> Result<Reply, Failure> {
    let config = gateway.config();
    let deadline_us = gateway.now().monotonic_us + DEADLINE_DEFAULT_US;
    for worker in (0..config.worker_count).filter(|worker| *worker != config.worker) {
        let request = Request::Node(NodeRequest::ClusterStatus);
        match gateway.call(request, Reach::Sibling(worker), deadline_us).await? {
            Reply::Cluster(part) => status.partitions.extend(part.partitions),
            other => return Err(unexpected(&other)),
        }
    }
    status.partitions.sort_by_key(|partition| partition.partition);
    Ok(Reply::Cluster(status))
}
