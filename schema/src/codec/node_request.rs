//! Requests that any node, or a named one, answers by itself.

use super::Result;
use super::data::{read_block_ids, write_block_ids};
use super::read::{self, Source};
use super::request::{read_request, write_request};
use super::write::{write_block_id, write_nodes};
use crate::generated::common_capnp as wire;
use crate::ids::{InodeId, NodeNumber};
use crate::operation::NodeRequest;
use crate::quota::QuotaLimits;

pub fn write_node_request(request: &NodeRequest, mut builder: wire::node_request::Builder<'_>) {
    match request {
        NodeRequest::Walk {
            start,
            path,
            follow_last,
            first_bytes,
        } => {
            let mut group = builder.init_walk();
            group.set_start(start.0);
            group.set_path(path);
            group.set_follow_last(*follow_last);
            group.set_first_bytes(*first_bytes);
        }
        NodeRequest::BlockPut {
            block,
            data,
            checksum,
            replicas,
            local_only,
        } => {
            let mut group = builder.init_block_put();
            write_block_id(block, group.reborrow().init_block());
            group.set_data(data);
            group.set_checksum(*checksum);
            write_nodes(replicas, group.reborrow().init_replicas(replicas.len() as u32));
            group.set_local_only(*local_only);
        }
        NodeRequest::BlockGet {
            block,
            offset,
            length,
        } => {
            let mut group = builder.init_block_get();
            write_block_id(block, group.reborrow().init_block());
            group.set_offset(*offset);
            group.set_length(*length);
        }
        NodeRequest::BlockDelete { blocks } => {
            write_block_ids(blocks, builder.init_block_delete(blocks.len() as u32));
        }
        NodeRequest::BlockList { after, limit } => {
            let mut group = builder.init_block_list();
            group.set_limit(*limit);
            group.set_has_after(after.is_some());
            if let Some(after) = after {
                write_block_id(after, group.init_after());
            }
        }
        NodeRequest::BlockVerify { block, checksum } => {
            let mut group = builder.init_block_verify();
            write_block_id(block, group.reborrow().init_block());
            group.set_checksum(checksum.unwrap_or(0));
            group.set_has_checksum(checksum.is_some());
        }
        NodeRequest::Scrub { start } => builder.set_scrub(*start),
        NodeRequest::Orphans { give_up } => builder.set_orphans(*give_up),
        NodeRequest::BlocksMissing { blocks } => {
            write_block_ids(blocks, builder.init_blocks_missing(blocks.len() as u32));
        }
        NodeRequest::BlockFetch {
            block,
            size,
            checksum,
            from,
        } => {
            let mut group = builder.init_block_fetch();
            write_block_id(block, group.reborrow().init_block());
            group.set_size(*size);
            group.set_checksum(*checksum);
            write_nodes(from, group.init_from(from.len() as u32));
        }
        NodeRequest::BlockAudit { after, limit } => {
            let mut group = builder.init_block_audit();
            group.set_limit(*limit);
            group.set_has_after(after.is_some());
            if let Some(after) = after {
                write_block_id(after, group.init_after());
            }
        }
        NodeRequest::Traced { request } => write_request(request, builder.init_traced()),
        NodeRequest::BlockCompact => builder.set_block_compact(()),
        NodeRequest::ClusterStatus => builder.set_cluster_status(()),
        NodeRequest::DirectoryUsage { directory } => builder.set_directory_usage(directory.0),
        NodeRequest::SetQuota { directory, limits } => {
            let mut group = builder.init_set_quota();
            group.set_directory(directory.0);
            group.set_bytes(limits.bytes);
            group.set_inodes(limits.inodes);
        }
        NodeRequest::GetQuota { directory } => builder.set_get_quota(directory.0),
        NodeRequest::Drain { drain } => builder.set_drain(*drain),
        NodeRequest::Admit { node } => builder.set_admit(node.0),
    }
}

pub fn read_node_request(reader: wire::node_request::Reader<'_>, source: Source<'_>) -> Result<NodeRequest> {
    Ok(match reader.which()? {
        wire::node_request::Walk(group) => NodeRequest::Walk {
            start: InodeId(group.get_start()),
            path: source.bytes(group.get_path())?,
            follow_last: group.get_follow_last(),
            first_bytes: group.get_first_bytes(),
        },
        wire::node_request::BlockPut(group) => NodeRequest::BlockPut {
            block: read::block_id(group.get_block()?),
            data: source.bytes(group.get_data())?,
            checksum: group.get_checksum(),
            replicas: read::nodes(group.get_replicas())?,
            local_only: group.get_local_only(),
        },
        wire::node_request::BlockGet(group) => NodeRequest::BlockGet {
            block: read::block_id(group.get_block()?),
            offset: group.get_offset(),
            length: group.get_length(),
        },
        wire::node_request::BlockDelete(blocks) => NodeRequest::BlockDelete {
            blocks: read_block_ids(blocks)?,
        },
        wire::node_request::BlockList(group) => NodeRequest::BlockList {
            after: match group.get_has_after() {
                true => Some(read::block_id(group.get_after()?)),
                false => None,
            },
            limit: group.get_limit(),
        },
        wire::node_request::BlockVerify(group) => NodeRequest::BlockVerify {
            block: read::block_id(group.get_block()?),
            checksum: group.get_has_checksum().then(|| group.get_checksum()),
        },
        wire::node_request::Scrub(start) => NodeRequest::Scrub { start },
        wire::node_request::Orphans(give_up) => NodeRequest::Orphans { give_up },
        wire::node_request::BlocksMissing(blocks) => NodeRequest::BlocksMissing {
            blocks: read_block_ids(blocks)?,
        },
        wire::node_request::BlockFetch(group) => NodeRequest::BlockFetch {
            block: read::block_id(group.get_block()?),
            size: group.get_size(),
            checksum: group.get_checksum(),
            from: read::nodes(group.get_from())?,
        },
        wire::node_request::BlockAudit(group) => NodeRequest::BlockAudit {
            after: match group.get_has_after() {
                true => Some(read::block_id(group.get_after()?)),
                false => None,
            },
            limit: group.get_limit(),
        },
        wire::node_request::Traced(request) => NodeRequest::Traced {
            request: Box::new(read_request(request?, source)?),
        },
        wire::node_request::BlockCompact(()) => NodeRequest::BlockCompact,
        wire::node_request::ClusterStatus(()) => NodeRequest::ClusterStatus,
        wire::node_request::DirectoryUsage(directory) => NodeRequest::DirectoryUsage {
            directory: InodeId(directory),
        },
        wire::node_request::SetQuota(group) => NodeRequest::SetQuota {
            directory: InodeId(group.get_directory()),
            limits: QuotaLimits {
                bytes: group.get_bytes(),
                inodes: group.get_inodes(),
            },
        },
        wire::node_request::Drain(drain) => NodeRequest::Drain { drain },
        wire::node_request::Admit(node) => NodeRequest::Admit {
            node: NodeNumber(node),
        },
        wire::node_request::GetQuota(directory) => NodeRequest::GetQuota {
            directory: InodeId(directory),
        },
    })
}
