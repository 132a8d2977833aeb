//! Replies, failures and everything they carry.

use super::Result;
use super::audit::{read_audit_page, write_audit_page};
use super::data::{read_block_ids, read_content, write_block_ids, write_content};
use super::file_lock::{read_lock_answer, write_lock_answer};
use super::inode::{read_kind, write_kind};
use super::policy::{read_allocate, write_allocate};
use super::quota::{read_allowance, read_quota, write_allowance, write_quota};
use super::read::{self, Source};
use super::trace::{read_traced, write_traced};
use super::upkeep::{
    read_block_files, read_ledger, read_orphans, read_scrub_status, write_block_files, write_ledger,
    write_orphans, write_scrub_status,
};
use super::usage::{read_reports, read_usage, write_reports, write_usage};
use super::write::{write_inodes, write_keys, write_nodes, write_transaction_id};
use crate::data::Copied;
use crate::generated::common_capnp as wire;
use crate::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use crate::operation::{
    Attributes, ClusterStatus, DirectoryEntry, DiskRefusal, Extent, Failure, KeyValue, NodeStatus,
    PartitionStatus, Refusal, Reply, TransactionOutcome,
};
use crate::policy::Policy;

pub fn write_reply(reply: &Reply, mut builder: wire::reply::Builder<'_>) {
    match reply {
        Reply::Done => builder.set_done(()),
        Reply::Value(None) => builder.set_no_value(()),
        Reply::Value(Some(value)) => write_key_value(value, builder.init_value()),
        Reply::Values(values) => {
            let mut list = builder.init_values(values.len() as u32);
            for (index, value) in values.iter().enumerate() {
                write_optional(value.as_deref(), list.reborrow().get(index as u32));
            }
        }
        Reply::Count(count) => builder.set_count(*count),
        Reply::Number(number) => builder.set_number(*number),
        Reply::Set {
            applied,
            version,
            previous,
        } => {
            let mut group = builder.init_set();
            group.set_applied(*applied);
            group.set_version(*version);
            write_optional(previous.as_deref(), group.init_previous());
        }
        Reply::Keys { keys, more } => {
            let mut group = builder.init_keys();
            group.set_more(*more);
            write_keys(keys, group.init_keys(keys.len() as u32));
        }
        Reply::Entry {
            inode,
            kind,
            attributes,
        } => {
            let mut group = builder.init_entry();
            group.set_inode(inode.0);
            group.set_kind(write_kind(*kind));
            if let Some(attributes) = attributes {
                write_attributes(attributes, group.init_attributes());
            }
        }
        Reply::Attributes(attributes) => write_attributes(attributes, builder.init_attributes()),
        Reply::Created { attributes, created } => {
            let mut group = builder.init_created();
            group.set_created(*created);
            write_attributes(attributes, group.init_attributes());
        }
        Reply::Directory {
            entries,
            more,
            parent,
        } => {
            let mut group = builder.init_directory();
            group.set_more(*more);
            group.set_parent(parent.0);
            let mut list = group.init_entries(entries.len() as u32);
            for (index, entry) in entries.iter().enumerate() {
                write_directory_entry(entry, list.reborrow().get(index as u32));
            }
        }
        Reply::Link(target) => builder.set_link(target),
        Reply::Layout { attributes, content } => {
            let mut group = builder.init_layout();
            write_attributes(attributes, group.reborrow().init_attributes());
            write_content(content, group.init_content());
        }
        Reply::Walked {
            attributes,
            parent,
            content,
        } => {
            let mut group = builder.init_walked();
            group.set_parent(parent.0);
            write_attributes(attributes, group.reborrow().init_attributes());
            write_content(content, group.init_content());
        }
        Reply::Stored { nodes } => write_nodes(nodes, builder.init_stored(nodes.len() as u32)),
        Reply::Block(data) => builder.set_block(data),
        Reply::Partition(status) => write_partition_status(status, builder.init_partition()),
        Reply::Outcome(outcome) => builder.set_outcome(match outcome {
            TransactionOutcome::Committed => wire::TransactionOutcome::Committed,
            TransactionOutcome::Aborted => wire::TransactionOutcome::Aborted,
            TransactionOutcome::Undecided => wire::TransactionOutcome::Undecided,
        }),
        Reply::Cluster(status) => write_cluster_status(status, builder.init_cluster()),
        Reply::Xattr(value) => builder.set_xattr(value),
        Reply::Xattrs(names) => write_keys(names, builder.init_xattrs(names.len() as u32)),
        Reply::Opens { missing, renewed } => {
            let mut group = builder.init_opens();
            write_inodes(missing, group.reborrow().init_missing(missing.len() as u32));
            group.set_renewed(*renewed);
        }
        Reply::Copied(copied) => {
            let mut group = builder.init_copied();
            group.set_length(copied.length);
            write_attributes(&copied.attributes, group.init_attributes());
        }
        Reply::Scrub(status) => write_scrub_status(status, builder.init_scrub()),
        Reply::Orphans(orphans) => write_orphans(orphans, builder.init_orphans()),
        Reply::Ledger { rows, more } => write_ledger(rows, *more, builder.init_ledger()),
        Reply::BlockFiles(files) => write_block_files(files, builder.init_block_files()),
        Reply::Blocks(blocks) => write_block_ids(blocks, builder.init_blocks(blocks.len() as u32)),
        Reply::Usage(usage) => write_usage(usage, builder.init_usage()),
        Reply::UsageReports {
            reports,
            next,
            transactions,
            more,
        } => {
            let mut group = builder.init_usage_reports();
            write_reports(reports, group.reborrow().init_reports(reports.len() as u32));
            write_reports(next, group.reborrow().init_next(next.len() as u32));
            let mut list = group.reborrow().init_transactions(transactions.len() as u32);
            for (index, transaction) in transactions.iter().enumerate() {
                write_transaction_id(transaction, list.reborrow().get(index as u32));
            }
            group.set_more(*more);
        }
        Reply::Allowance(allowance) => write_allowance(allowance, builder.init_allowance()),
        Reply::Quota(quota) => write_quota(quota, builder.init_quota()),
        Reply::Delegated(directories) => {
            write_inodes(directories, builder.init_delegated(directories.len() as u32));
        }
        Reply::Lock(answer) => write_lock_answer(answer, builder.init_lock()),
        Reply::Audit(page) => write_audit_page(page, builder.init_audit()),
        Reply::Traced(traced) => write_traced(traced, builder.init_traced()),
    }
}

pub fn read_reply(reader: wire::reply::Reader<'_>, source: Source<'_>) -> Result<Reply> {
    Ok(match reader.which()? {
        wire::reply::Done(()) => Reply::Done,
        wire::reply::NoValue(()) => Reply::Value(None),
        wire::reply::Value(value) => Reply::Value(Some(read_key_value(value?, source)?)),
        wire::reply::Values(values) => Reply::Values(read::list(values, |value| source.optional(Ok(value)))?),
        wire::reply::Count(count) => Reply::Count(count),
        wire::reply::Number(number) => Reply::Number(number),
        wire::reply::Set(group) => Reply::Set {
            applied: group.get_applied(),
            version: group.get_version(),
            previous: source.optional(group.get_previous())?,
        },
        wire::reply::Keys(group) => Reply::Keys {
            keys: source.bytes_list(group.get_keys())?,
            more: group.get_more(),
        },
        wire::reply::Entry(group) => Reply::Entry {
            inode: InodeId(group.get_inode()),
            kind: read_kind(group.get_kind())?,
            attributes: match group.has_attributes() {
                true => Some(read_attributes(group.get_attributes()?)?),
                false => None,
            },
        },
        wire::reply::Attributes(attributes) => Reply::Attributes(read_attributes(attributes?)?),
        wire::reply::Created(group) => Reply::Created {
            attributes: read_attributes(group.get_attributes()?)?,
            created: group.get_created(),
        },
        wire::reply::Directory(group) => Reply::Directory {
            entries: read::list(group.get_entries(), |entry| read_directory_entry(entry, source))?,
            more: group.get_more(),
            parent: InodeId(group.get_parent()),
        },
        wire::reply::Link(target) => Reply::Link(source.bytes(target)?),
        wire::reply::Layout(group) => Reply::Layout {
            attributes: read_attributes(group.get_attributes()?)?,
            content: read_content(group.get_content()?, source)?,
        },
        wire::reply::Walked(group) => Reply::Walked {
            attributes: read_attributes(group.get_attributes()?)?,
            parent: InodeId(group.get_parent()),
            content: read_content(group.get_content()?, source)?,
        },
        wire::reply::Stored(nodes) => Reply::Stored {
            nodes: read::nodes(nodes)?,
        },
        wire::reply::Block(data) => Reply::Block(source.bytes(data)?),
        wire::reply::Partition(status) => Reply::Partition(read_partition_status(status?)),
        wire::reply::Outcome(outcome) => Reply::Outcome(match outcome? {
            wire::TransactionOutcome::Committed => TransactionOutcome::Committed,
            wire::TransactionOutcome::Aborted => TransactionOutcome::Aborted,
            wire::TransactionOutcome::Undecided => TransactionOutcome::Undecided,
        }),
        wire::reply::Cluster(status) => Reply::Cluster(read_cluster_status(status?)?),
        wire::reply::Xattr(value) => Reply::Xattr(source.bytes(value)?),
        wire::reply::Xattrs(names) => Reply::Xattrs(source.bytes_list(names)?),
        wire::reply::Opens(group) => Reply::Opens {
            missing: read::inodes(group.get_missing())?,
            renewed: group.get_renewed(),
        },
        wire::reply::Copied(group) => Reply::Copied(Copied {
            length: group.get_length(),
            attributes: read_attributes(group.get_attributes()?)?,
        }),
        wire::reply::Scrub(status) => Reply::Scrub(read_scrub_status(status?)?),
        wire::reply::Orphans(orphans) => Reply::Orphans(read_orphans(orphans?)?),
        wire::reply::Ledger(ledger) => {
            let (rows, more) = read_ledger(ledger?)?;
            Reply::Ledger { rows, more }
        }
        wire::reply::BlockFiles(files) => Reply::BlockFiles(read_block_files(files?)?),
        wire::reply::Blocks(blocks) => Reply::Blocks(read_block_ids(blocks)?),
        wire::reply::Usage(usage) => Reply::Usage(read_usage(usage?)),
        wire::reply::UsageReports(group) => Reply::UsageReports {
            reports: read_reports(group.get_reports())?,
            next: read_reports(group.get_next())?,
            transactions: read::list(group.get_transactions(), |id| read::transaction_id(Ok(id)))?,
            more: group.get_more(),
        },
        wire::reply::Allowance(allowance) => Reply::Allowance(read_allowance(allowance?)),
        wire::reply::Quota(quota) => Reply::Quota(read_quota(quota?)?),
        wire::reply::Delegated(directories) => Reply::Delegated(read::inodes(directories)?),
        wire::reply::Lock(answer) => Reply::Lock(read_lock_answer(answer?)?),
        wire::reply::Audit(page) => Reply::Audit(Box::new(read_audit_page(page?)?)),
        wire::reply::Traced(traced) => Reply::Traced(Box::new(read_traced(traced?, source)?)),
    })
}

pub fn write_failure(failure: &Failure, mut builder: wire::failure::Builder<'_>) {
    match failure {
        Failure::NotLeader { leader } => builder.set_not_leader(leader.map_or(0, |node| node.0)),
        Failure::Busy(sentence) => builder.set_busy(sentence.as_str()),
        Failure::Locked { transaction, primary } => {
            let mut group = builder.init_locked();
            group.set_primary(primary.0);
            write_transaction_id(transaction, group.init_transaction());
        }
        Failure::CrossPartition => builder.set_cross_partition(()),
        Failure::TooLargeForInline => builder.set_too_large_for_inline(()),
        Failure::OverAllowance { quota, bytes, inodes } => {
            let mut group = builder.init_over_allowance();
            group.set_quota(quota.0);
            group.set_bytes(*bytes);
            group.set_inodes(*inodes);
        }
        Failure::Delegated { directory, client } => {
            let mut group = builder.init_delegated();
            group.set_directory(directory.0);
            group.set_client(client.0);
        }
        Failure::Unknown(sentence) => builder.set_unknown(sentence.as_str()),
        Failure::Refused(refusal, sentence) => {
            let mut group = builder.init_refused();
            group.set_refusal(write_refusal(*refusal));
            group.set_sentence(sentence.as_str());
        }
    }
}

pub fn read_failure(reader: wire::failure::Reader<'_>) -> Result<Failure> {
    Ok(match reader.which()? {
        wire::failure::NotLeader(leader) => Failure::NotLeader {
            leader: read::node_or_none(leader),
        },
        wire::failure::Busy(sentence) => Failure::Busy(read::text(sentence)?),
        wire::failure::Locked(group) => Failure::Locked {
            transaction: read::transaction_id(group.get_transaction())?,
            primary: PartitionId(group.get_primary()),
        },
        wire::failure::CrossPartition(()) => Failure::CrossPartition,
        wire::failure::TooLargeForInline(()) => Failure::TooLargeForInline,
        wire::failure::OverAllowance(group) => Failure::OverAllowance {
            quota: InodeId(group.get_quota()),
            bytes: group.get_bytes(),
            inodes: group.get_inodes(),
        },
        wire::failure::Delegated(group) => Failure::Delegated {
            directory: InodeId(group.get_directory()),
            client: ClientId(group.get_client()),
        },
        wire::failure::Unknown(sentence) => Failure::Unknown(read::text(sentence)?),
        wire::failure::Refused(group) => {
            let refusal = read_refusal(group.get_refusal()?);
            Failure::Refused(refusal, read::text(group.get_sentence())?)
        }
    })
}

macro_rules! refusals {
    ($($name:ident),* $(,)?) => {
        fn write_refusal(refusal: Refusal) -> wire::Refusal {
            match refusal { $(Refusal::$name => wire::Refusal::$name),* }
        }

        fn read_refusal(refusal: wire::Refusal) -> Refusal {
            match refusal { $(wire::Refusal::$name => Refusal::$name),* }
        }
    };
}
refusals!(
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NameTooLong,
    InvalidArgument,
    TooManySymlinks,
    FileTooLarge,
    NoSpace,
    TooManyLinks,
    Conflict,
    Corrupt,
    NotInteger,
    Overflow,
    SessionExpired,
    PermissionDenied,
    Unsupported,
    Internal,
    NoData,
    Range,
    NotPermitted,
    CrossDevice,
    TooBig,
    QuotaExceeded,
    BeyondEnd,
    NoLocks,
    Deadlock,
    Fenced,
);

pub fn write_attributes(attributes: &Attributes, mut builder: wire::attributes::Builder<'_>) {
    builder.set_inode(attributes.inode.0);
    builder.set_kind(write_kind(attributes.kind));
    builder.set_mode(attributes.mode);
    builder.set_owner(attributes.owner);
    builder.set_group(attributes.group);
    builder.set_size(attributes.size);
    builder.set_link_count(attributes.link_count);
    builder.set_accessed(attributes.accessed);
    builder.set_modified(attributes.modified);
    builder.set_changed(attributes.changed);
    builder.set_version(attributes.version);
    builder.set_device(attributes.device);
    builder.set_blocks(attributes.blocks);
    builder.set_block_size(attributes.policy.block_size);
    builder.set_replicas(attributes.policy.replicas);
    builder.set_allocate(write_allocate(Some(attributes.policy.allocate)));
    builder.set_xattr_count(attributes.xattr_count);
}

pub fn read_attributes(reader: wire::attributes::Reader<'_>) -> Result<Attributes> {
    Ok(Attributes {
        inode: InodeId(reader.get_inode()),
        kind: read_kind(reader.get_kind())?,
        mode: reader.get_mode(),
        owner: reader.get_owner(),
        group: reader.get_group(),
        size: reader.get_size(),
        link_count: reader.get_link_count(),
        accessed: reader.get_accessed(),
        modified: reader.get_modified(),
        changed: reader.get_changed(),
        version: reader.get_version(),
        device: reader.get_device(),
        blocks: reader.get_blocks(),
        policy: Policy {
            block_size: reader.get_block_size(),
            replicas: reader.get_replicas(),
            allocate: read_allocate(reader.get_allocate())?.unwrap_or_default(),
        },
        xattr_count: reader.get_xattr_count(),
    })
}

fn write_key_value(value: &KeyValue, mut builder: wire::key_value::Builder<'_>) {
    builder.set_value(&value.value);
    builder.set_version(value.version);
    let mut expires = builder.init_expires();
    match value.expires {
        None => expires.set_never(()),
        Some(time) => expires.set_at(time),
    }
}

fn read_key_value(reader: wire::key_value::Reader<'_>, source: Source<'_>) -> Result<KeyValue> {
    Ok(KeyValue {
        value: source.bytes(reader.get_value())?,
        version: reader.get_version(),
        expires: match reader.get_expires().which()? {
            wire::key_value::expires::Never(()) => None,
            wire::key_value::expires::At(time) => Some(time),
        },
    })
}

pub fn write_optional(data: Option<&[u8]>, mut builder: wire::optional_data::Builder<'_>) {
    match data {
        None => builder.set_absent(()),
        Some(data) => builder.set_present(data),
    }
}

pub fn write_directory_entry(entry: &DirectoryEntry, mut builder: wire::directory_entry::Builder<'_>) {
    builder.set_name(&entry.name);
    builder.set_inode(entry.inode.0);
    builder.set_kind(write_kind(entry.kind));
    builder.set_cookie(entry.cookie);
    if let Some(attributes) = &entry.attributes {
        write_attributes(attributes, builder.init_attributes());
    }
}

fn read_directory_entry(
    reader: wire::directory_entry::Reader<'_>,
    source: Source<'_>,
) -> Result<DirectoryEntry> {
    Ok(DirectoryEntry {
        name: source.bytes(reader.get_name())?,
        inode: InodeId(reader.get_inode()),
        kind: read_kind(reader.get_kind())?,
        cookie: reader.get_cookie(),
        attributes: match reader.has_attributes() {
            true => Some(read_attributes(reader.get_attributes()?)?),
            false => None,
        },
    })
}

pub(super) fn write_extents(
    extents: &[Extent],
    mut list: capnp::struct_list::Builder<'_, wire::extent::Owned>,
) {
    for (index, extent) in extents.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        builder.set_offset(extent.offset);
        builder.set_length(extent.length);
        builder.set_block_client(extent.block.client.0);
        builder.set_block_counter(extent.block.counter);
        builder.set_block_offset(extent.block_offset);
        builder.set_block_size(extent.block_size);
        builder.set_checksum(extent.checksum);
        write_nodes(&extent.nodes, builder.init_nodes(extent.nodes.len() as u32));
    }
}

pub(super) fn read_extent(reader: wire::extent::Reader<'_>) -> Result<Extent> {
    Ok(Extent {
        offset: reader.get_offset(),
        length: reader.get_length(),
        block: BlockId {
            client: ClientId(reader.get_block_client()),
            counter: reader.get_block_counter(),
        },
        block_offset: reader.get_block_offset(),
        block_size: reader.get_block_size(),
        checksum: reader.get_checksum(),
        nodes: read::nodes(reader.get_nodes())?,
    })
}

pub fn write_partition_status(status: &PartitionStatus, mut builder: wire::partition_status::Builder<'_>) {
    builder.set_partition(status.partition.0);
    builder.set_leader(status.leader.map_or(0, |node| node.0));
    builder.set_term(status.term);
    builder.set_applied(status.applied);
    builder.set_state_hash(status.state_hash);
    builder.set_keys(status.keys);
    builder.set_inodes(status.inodes);
    builder.set_file_bytes(status.file_bytes);
    builder.set_log_entries(status.log_entries);
    builder.set_snapshot_index(status.snapshot_index);
    builder.set_allocated_bytes(status.allocated_bytes);
    builder.set_orphans(status.orphans);
    builder.set_block_bytes(status.block_bytes);
    builder.set_garbage_bytes(status.garbage_bytes);
    builder.set_patch_bytes(status.patch_bytes);
}

fn read_partition_status(reader: wire::partition_status::Reader<'_>) -> PartitionStatus {
    PartitionStatus {
        partition: PartitionId(reader.get_partition()),
        leader: read::node_or_none(reader.get_leader()),
        term: reader.get_term(),
        applied: reader.get_applied(),
        state_hash: reader.get_state_hash(),
        keys: reader.get_keys(),
        inodes: reader.get_inodes(),
        file_bytes: reader.get_file_bytes(),
        log_entries: reader.get_log_entries(),
        snapshot_index: reader.get_snapshot_index(),
        allocated_bytes: reader.get_allocated_bytes(),
        orphans: reader.get_orphans(),
        block_bytes: reader.get_block_bytes(),
        garbage_bytes: reader.get_garbage_bytes(),
        patch_bytes: reader.get_patch_bytes(),
    }
}

pub fn write_disk_refusal(refusal: Option<DiskRefusal>) -> wire::DiskRefusal {
    match refusal {
        None => wire::DiskRefusal::None,
        Some(DiskRefusal::OtherDisk) => wire::DiskRefusal::OtherDisk,
        Some(DiskRefusal::OlderCopy) => wire::DiskRefusal::OlderCopy,
    }
}

pub fn read_disk_refusal(refusal: wire::DiskRefusal) -> Option<DiskRefusal> {
    match refusal {
        wire::DiskRefusal::None => None,
        wire::DiskRefusal::OtherDisk => Some(DiskRefusal::OtherDisk),
        wire::DiskRefusal::OlderCopy => Some(DiskRefusal::OlderCopy),
    }
}

pub fn write_node_status(status: &NodeStatus, mut builder: wire::node_status::Builder<'_>) {
    builder.set_number(status.number.0);
    builder.set_id(status.id.as_str());
    builder.set_capnp(status.capnp.as_str());
    builder.set_resp(status.resp.as_str());
    builder.set_http(status.http.as_str());
    builder.set_zone(status.zone.as_str());
    builder.set_reachable(status.reachable);
    builder.set_draining(status.draining);
    builder.set_disk_slow(status.disk_slow);
    builder.set_refusal(write_disk_refusal(status.refusal));
}

fn read_node_status(reader: wire::node_status::Reader<'_>) -> Result<NodeStatus> {
    Ok(NodeStatus {
        number: NodeNumber(reader.get_number()),
        id: read::text(reader.get_id())?,
        capnp: read::text(reader.get_capnp())?,
        resp: read::text(reader.get_resp())?,
        http: read::text(reader.get_http())?,
        zone: read::text(reader.get_zone())?,
        reachable: reader.get_reachable(),
        draining: reader.get_draining(),
        disk_slow: reader.get_disk_slow(),
        refusal: read_disk_refusal(reader.get_refusal()?),
    })
}

pub fn write_cluster_status(status: &ClusterStatus, mut builder: wire::cluster_status::Builder<'_>) {
    builder.set_cluster(status.cluster.as_str());
    builder.set_node(status.node.0);
    let mut nodes = builder.reborrow().init_nodes(status.nodes.len() as u32);
    for (index, node) in status.nodes.iter().enumerate() {
        write_node_status(node, nodes.reborrow().get(index as u32));
    }
    let mut partitions = builder.reborrow().init_partitions(status.partitions.len() as u32);
    for (index, partition) in status.partitions.iter().enumerate() {
        write_partition_status(partition, partitions.reborrow().get(index as u32));
    }
    builder.set_durability(status.durability.as_str());
    builder.set_replicas(status.replicas);
    builder.set_partition_count(status.partition_count);
    builder.set_disk_total_bytes(status.disk_total_bytes);
    builder.set_disk_free_bytes(status.disk_free_bytes);
    builder.set_block_bytes(status.block_bytes);
}

fn read_cluster_status(reader: wire::cluster_status::Reader<'_>) -> Result<ClusterStatus> {
    Ok(ClusterStatus {
        cluster: read::text(reader.get_cluster())?,
        node: NodeNumber(reader.get_node()),
        nodes: read::list(reader.get_nodes(), read_node_status)?,
        partitions: read::list(reader.get_partitions(), |status| {
            Ok(read_partition_status(status))
        })?,
        durability: read::text(reader.get_durability())?,
        replicas: reader.get_replicas(),
        partition_count: reader.get_partition_count(),
        disk_total_bytes: reader.get_disk_total_bytes(),
        disk_free_bytes: reader.get_disk_free_bytes(),
        block_bytes: reader.get_block_bytes(),
    })
}
