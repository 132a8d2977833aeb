//! Requests, queries, commands, namespace operations and the steps of transactions.
//!
//! Next to each writer stands its reader, variant by variant in the order of the schema.

use capnp::data_list;

use super::data::{
    read_block_ids, read_data_command, read_data_query, write_block_ids, write_data_command, write_data_query,
};
use super::policy::{read_allocate, read_policy, said, write_allocate, write_policy};
use super::quota::{read_quota_command, read_quota_query, write_quota_command, write_quota_query};
use super::read::{self, Source, required};
use super::reply::{read_reply, write_extents, write_reply};
use super::usage::{read_usage_command, read_usage_query, write_usage_command, write_usage_query};
use super::{Error, Result};
use crate::access_time::Access;
use crate::generated::common_capnp as wire;
use crate::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId, TransactionId};
use crate::operation::{
    AttributeChange, Command, Condition, Entry, Expiry, FileKind, ListPosition, Namespace, NewContent,
    NewInode, NodeRequest, Query, RenameMode, Request, RequestId, SetTime, Step, UnixNanos, Xattr,
};
use crate::policy::PolicyChange;
use crate::quota::QuotaLimits;

pub fn write_request(request: &Request, mut builder: wire::request::Builder<'_>) {
    match request {
        Request::Query { partition, query } => {
            let mut group = builder.init_query();
            group.set_partition(partition.0);
            write_query(query, group.init_query());
        }
        Request::Command {
            partition,
            id,
            command,
        } => {
            let mut group = builder.init_command();
            group.set_partition(partition.0);
            write_request_id(id, group.reborrow().init_id());
            write_command(command, group.init_command());
        }
        Request::Namespace { id, operation } => {
            let mut group = builder.init_namespace();
            write_request_id(id, group.reborrow().init_id());
            write_namespace(operation, group.init_operation());
        }
        Request::Node(request) => write_node_request(request, builder.reborrow().init_node()),
    }
}

pub fn read_request(reader: wire::request::Reader<'_>, source: Source<'_>) -> Result<Request> {
    Ok(match reader.which()? {
        wire::request::Query(group) => {
            required(group.has_query(), "query")?;
            Request::Query {
                partition: PartitionId(group.get_partition()),
                query: read_query(group.get_query()?, source)?,
            }
        }
        wire::request::Command(group) => {
            required(group.has_id() && group.has_command(), "command and its id")?;
            Request::Command {
                partition: PartitionId(group.get_partition()),
                id: read::request_id(group.get_id())?,
                command: read_command(group.get_command()?, source)?,
            }
        }
        wire::request::Namespace(group) => {
            required(group.has_id() && group.has_operation(), "operation and its id")?;
            Request::Namespace {
                id: read::request_id(group.get_id())?,
                operation: read_namespace(group.get_operation()?, source)?,
            }
        }
        wire::request::Node(request) => Request::Node(read_node_request(request?, source)?),
    })
}

pub fn write_query(query: &Query, mut builder: wire::query::Builder<'_>) {
    match query {
        Query::KeyGet { key } => builder.set_key_get(key),
        Query::KeyGetMany { keys } => write_keys(keys, builder.init_key_get_many(keys.len() as u32)),
        Query::KeyExists { keys } => write_keys(keys, builder.init_key_exists(keys.len() as u32)),
        Query::KeyScan { after, prefix, limit } => {
            let mut group = builder.init_key_scan();
            group.set_after(after);
            group.set_prefix(prefix);
            group.set_limit(*limit);
        }
        Query::KeyCount => builder.set_key_count(()),
        Query::Lookup { directory, name } => {
            write_entry_parts(*directory, name, builder.init_lookup());
        }
        Query::Attributes { inode } => builder.set_attributes(inode.0),
        Query::ReadDirectory {
            directory,
            after,
            limit,
        } => {
            let mut group = builder.init_read_directory();
            group.set_directory(directory.0);
            match after {
                ListPosition::Start => {}
                ListPosition::AfterName(name) => group.set_after(name),
                ListPosition::AfterCookie(cookie) => group.set_after_cookie(*cookie),
            }
            group.set_limit(*limit);
        }
        Query::ReadLink { inode } => builder.set_read_link(inode.0),
        Query::Layout {
            inode,
            offset,
            length,
        } => {
            let mut group = builder.init_layout();
            group.set_inode(inode.0);
            group.set_offset(*offset);
            group.set_length(*length);
        }
        Query::PartitionStatus => builder.set_partition_status(()),
        Query::TransactionOutcome { transaction } => {
            write_transaction_id(transaction, builder.init_transaction_outcome());
        }
        Query::XattrGet { inode, name } => {
            let mut group = builder.init_xattr_get();
            group.set_inode(inode.0);
            group.set_name(name);
        }
        Query::XattrList { inode } => builder.set_xattr_list(inode.0),
        Query::Data(query) => write_data_query(query, builder.init_data()),
        Query::Usage(query) => write_usage_query(query, builder.init_usage()),
        Query::Quota(query) => write_quota_query(query, builder.init_quota()),
    }
}

pub fn read_query(reader: wire::query::Reader<'_>, source: Source<'_>) -> Result<Query> {
    Ok(match reader.which()? {
        wire::query::KeyGet(key) => Query::KeyGet {
            key: source.bytes(key)?,
        },
        wire::query::KeyGetMany(keys) => Query::KeyGetMany {
            keys: source.bytes_list(keys)?,
        },
        wire::query::KeyExists(keys) => Query::KeyExists {
            keys: source.bytes_list(keys)?,
        },
        wire::query::KeyScan(group) => Query::KeyScan {
            after: source.bytes(group.get_after())?,
            prefix: source.bytes(group.get_prefix())?,
            limit: group.get_limit(),
        },
        wire::query::KeyCount(()) => Query::KeyCount,
        wire::query::Lookup(entry) => {
            let Entry { directory, name } = source.entry(entry)?;
            Query::Lookup { directory, name }
        }
        wire::query::Attributes(inode) => Query::Attributes {
            inode: InodeId(inode),
        },
        wire::query::ReadDirectory(group) => Query::ReadDirectory {
            directory: InodeId(group.get_directory()),
            after: match group.get_after_cookie() {
                0 => match source.bytes(group.get_after())? {
                    name if name.is_empty() => ListPosition::Start,
                    name => ListPosition::AfterName(name),
                },
                cookie => ListPosition::AfterCookie(cookie),
            },
            limit: group.get_limit(),
        },
        wire::query::ReadLink(inode) => Query::ReadLink {
            inode: InodeId(inode),
        },
        wire::query::Layout(group) => Query::Layout {
            inode: InodeId(group.get_inode()),
            offset: group.get_offset(),
            length: group.get_length(),
        },
        wire::query::PartitionStatus(()) => Query::PartitionStatus,
        wire::query::TransactionOutcome(id) => Query::TransactionOutcome {
            transaction: read::transaction_id(id)?,
        },
        wire::query::XattrGet(group) => Query::XattrGet {
            inode: InodeId(group.get_inode()),
            name: source.bytes(group.get_name())?,
        },
        wire::query::XattrList(inode) => Query::XattrList {
            inode: InodeId(inode),
        },
        wire::query::Data(query) => Query::Data(read_data_query(query?)?),
        wire::query::Usage(query) => Query::Usage(read_usage_query(query?)?),
        wire::query::Quota(query) => Query::Quota(read_quota_query(query?)?),
    })
}

pub fn write_command(command: &Command, mut builder: wire::command::Builder<'_>) {
    match command {
        Command::KeySet {
            key,
            value,
            expiry,
            condition,
            return_previous,
        } => {
            let mut group = builder.init_key_set();
            group.set_key(key);
            group.set_value(value);
            write_expiry(*expiry, group.reborrow().init_expiry());
            write_condition(*condition, group.reborrow().init_condition());
            group.set_return_previous(*return_previous);
        }
        Command::KeyDelete { keys, condition } => {
            let mut group = builder.init_key_delete();
            write_keys(keys, group.reborrow().init_keys(keys.len() as u32));
            write_condition(*condition, group.init_condition());
        }
        Command::KeyIncrement { key, by } => {
            let mut group = builder.init_key_increment();
            group.set_key(key);
            group.set_by(*by);
        }
        Command::KeyExpireDue { limit } => builder.set_key_expire_due(*limit),
        Command::ReserveInodes { count } => builder.set_reserve_inodes(*count),
        Command::Create {
            directory,
            name,
            attributes,
            content,
            exclusive,
        } => {
            let mut group = builder.init_create();
            group.set_directory(directory.0);
            group.set_name(name);
            write_new_inode(attributes, group.reborrow().init_attributes());
            let mut new_content = group.reborrow().init_content();
            match content {
                NewContent::Inline(data) => new_content.set_inline(data),
                NewContent::Symlink(target) => new_content.set_symlink(target),
                NewContent::Special { kind, device } => {
                    let mut special = new_content.init_special();
                    special.set_kind(write_kind(*kind));
                    special.set_device(*device);
                }
            }
            group.set_exclusive(*exclusive);
        }
        Command::Unlink { directory, name } => {
            write_entry_parts(*directory, name, builder.init_unlink());
        }
        Command::Rename { from, to, mode } => {
            let mut group = builder.init_rename();
            write_entry(from, group.reborrow().init_from());
            write_entry(to, group.reborrow().init_to());
            group.set_replace(*mode == RenameMode::Replace);
            group.set_exchange(*mode == RenameMode::Exchange);
        }
        Command::Link { inode, to } => {
            let mut group = builder.init_link();
            group.set_inode(inode.0);
            write_entry(to, group.init_to());
        }
        Command::XattrSet {
            inode,
            xattr,
            condition,
            mode,
        } => {
            let mut group = builder.init_xattr_set();
            group.set_inode(inode.0);
            write_xattr(xattr, group.reborrow().init_xattr());
            write_condition(*condition, group.reborrow().init_condition());
            group.set_changes_mode(mode.is_some());
            group.set_mode(mode.unwrap_or(0));
        }
        Command::XattrRemove { inode, name } => {
            let mut group = builder.init_xattr_remove();
            group.set_inode(inode.0);
            group.set_name(name);
        }
        Command::UpdateOpens {
            client,
            opened,
            closed,
            lease_ms,
        } => {
            let mut group = builder.init_update_opens();
            group.set_client(client.0);
            write_inodes(opened, group.reborrow().init_opened(opened.len() as u32));
            write_inodes(closed, group.reborrow().init_closed(closed.len() as u32));
            group.set_lease_ms(*lease_ms);
        }
        Command::ReapOrphans { limit } => builder.set_reap_orphans(*limit),
        Command::MoveAccessTimes { accesses } => {
            let mut list = builder.init_move_access_times(accesses.len() as u32);
            for (index, access) in accesses.iter().enumerate() {
                let mut builder = list.reborrow().get(index as u32);
                builder.set_inode(access.inode.0);
                builder.set_at(access.at);
            }
        }
        Command::SetAttributes { inode, change } => {
            let mut group = builder.init_set_attributes();
            group.set_inode(inode.0);
            write_attribute_change(change, group.init_change());
        }
        Command::WriteInline {
            inode,
            offset,
            data,
            truncate,
        } => {
            let mut group = builder.init_write_inline();
            group.set_inode(inode.0);
            group.set_offset(*offset);
            group.set_data(data);
            group.set_truncate(*truncate);
        }
        Command::Publish {
            inode,
            extents,
            size,
            replace_all,
            base_version,
        } => {
            let mut group = builder.init_publish();
            group.set_inode(inode.0);
            write_extents(extents, group.reborrow().init_extents(extents.len() as u32));
            group.set_size(*size);
            group.set_replace_all(*replace_all);
            group.set_has_base_version(base_version.is_some());
            group.set_base_version(base_version.unwrap_or(0));
        }
        Command::Prepare {
            transaction,
            primary,
            steps,
        } => {
            let mut group = builder.init_prepare();
            write_transaction_id(transaction, group.reborrow().init_transaction());
            group.set_primary(primary.0);
            write_steps(steps, group.init_steps(steps.len() as u32));
        }
        Command::Decide {
            transaction,
            commit,
            steps,
            participants,
            reply,
            acknowledged_below,
        } => {
            let mut group = builder.init_decide();
            write_transaction_id(transaction, group.reborrow().init_transaction());
            group.set_commit(*commit);
            write_steps(steps, group.reborrow().init_steps(steps.len() as u32));
            let mut list = group.reborrow().init_participants(participants.len() as u32);
            for (index, partition) in participants.iter().enumerate() {
                list.set(index as u32, partition.0);
            }
            write_reply(reply, group.reborrow().init_reply());
            group.set_acknowledged_below(*acknowledged_below);
        }
        Command::Finish { transaction, commit } => {
            let mut group = builder.init_finish();
            write_transaction_id(transaction, group.reborrow().init_transaction());
            group.set_commit(*commit);
        }
        Command::Forget { transaction } => write_transaction_id(transaction, builder.init_forget()),
        Command::Data(command) => write_data_command(command, builder.init_data()),
        Command::Usage(command) => write_usage_command(command, builder.init_usage()),
        Command::Quota(command) => write_quota_command(command, builder.init_quota()),
    }
}

pub fn read_command(reader: wire::command::Reader<'_>, source: Source<'_>) -> Result<Command> {
    Ok(match reader.which()? {
        wire::command::KeySet(group) => Command::KeySet {
            key: source.bytes(group.get_key())?,
            value: source.bytes(group.get_value())?,
            expiry: read_expiry(group.get_expiry()?)?,
            condition: read_condition(group.get_condition()?)?,
            return_previous: group.get_return_previous(),
        },
        wire::command::KeyDelete(group) => Command::KeyDelete {
            keys: source.bytes_list(group.get_keys())?,
            condition: read_condition(group.get_condition()?)?,
        },
        wire::command::KeyIncrement(group) => Command::KeyIncrement {
            key: source.bytes(group.get_key())?,
            by: group.get_by(),
        },
        wire::command::KeyExpireDue(limit) => Command::KeyExpireDue { limit },
        wire::command::ReserveInodes(count) => Command::ReserveInodes { count },
        wire::command::Create(group) => Command::Create {
            directory: InodeId(group.get_directory()),
            name: source.bytes(group.get_name())?,
            attributes: read_new_inode(group.get_attributes()?, source)?,
            content: match group.get_content()?.which()? {
                wire::new_content::Inline(data) => NewContent::Inline(source.bytes(data)?),
                wire::new_content::Symlink(target) => NewContent::Symlink(source.bytes(target)?),
                wire::new_content::Special(special) => NewContent::Special {
                    kind: read_kind(special.get_kind())?,
                    device: special.get_device(),
                },
            },
            exclusive: group.get_exclusive(),
        },
        wire::command::Unlink(entry) => {
            let Entry { directory, name } = source.entry(entry)?;
            Command::Unlink { directory, name }
        }
        wire::command::Rename(group) => Command::Rename {
            from: source.entry(group.get_from())?,
            to: source.entry(group.get_to())?,
            mode: read_rename_mode(group.get_replace(), group.get_exchange()),
        },
        wire::command::Link(group) => Command::Link {
            inode: InodeId(group.get_inode()),
            to: source.entry(group.get_to())?,
        },
        wire::command::XattrSet(group) => Command::XattrSet {
            inode: InodeId(group.get_inode()),
            xattr: read_xattr(group.get_xattr()?, source)?,
            condition: read_condition(group.get_condition()?)?,
            mode: group.get_changes_mode().then(|| group.get_mode()),
        },
        wire::command::XattrRemove(group) => Command::XattrRemove {
            inode: InodeId(group.get_inode()),
            name: source.bytes(group.get_name())?,
        },
        wire::command::UpdateOpens(group) => Command::UpdateOpens {
            client: ClientId(group.get_client()),
            opened: read::inodes(group.get_opened())?,
            closed: read::inodes(group.get_closed())?,
            lease_ms: group.get_lease_ms(),
        },
        wire::command::ReapOrphans(limit) => Command::ReapOrphans { limit },
        wire::command::MoveAccessTimes(list) => Command::MoveAccessTimes {
            accesses: read::list(list, |access| {
                Ok(Access {
                    inode: InodeId(access.get_inode()),
                    at: access.get_at(),
                })
            })?,
        },
        wire::command::SetAttributes(group) => Command::SetAttributes {
            inode: InodeId(group.get_inode()),
            change: read_attribute_change(group.get_change()?)?,
        },
        wire::command::WriteInline(group) => Command::WriteInline {
            inode: InodeId(group.get_inode()),
            offset: group.get_offset(),
            data: source.bytes(group.get_data())?,
            truncate: group.get_truncate(),
        },
        wire::command::Publish(group) => Command::Publish {
            inode: InodeId(group.get_inode()),
            extents: read::list(group.get_extents(), super::reply::read_extent)?,
            size: group.get_size(),
            replace_all: group.get_replace_all(),
            base_version: group.get_has_base_version().then(|| group.get_base_version()),
        },
        wire::command::Prepare(group) => Command::Prepare {
            transaction: read::transaction_id(group.get_transaction())?,
            primary: PartitionId(group.get_primary()),
            steps: read::list(group.get_steps(), |step| read_step(step, source))?,
        },
        wire::command::Decide(group) => Command::Decide {
            transaction: read::transaction_id(group.get_transaction())?,
            commit: group.get_commit(),
            steps: read::list(group.get_steps(), |step| read_step(step, source))?,
            participants: read::partitions(group.get_participants())?,
            reply: Box::new(read_reply(group.get_reply()?, source)?),
            acknowledged_below: group.get_acknowledged_below(),
        },
        wire::command::Finish(group) => Command::Finish {
            transaction: read::transaction_id(group.get_transaction())?,
            commit: group.get_commit(),
        },
        wire::command::Forget(id) => Command::Forget {
            transaction: read::transaction_id(id)?,
        },
        wire::command::Data(command) => Command::Data(read_data_command(command?, source)?),
        wire::command::Usage(command) => Command::Usage(read_usage_command(command?)?),
        wire::command::Quota(command) => Command::Quota(read_quota_command(command?)?),
    })
}

pub fn write_namespace(operation: &Namespace, builder: wire::namespace::Builder<'_>) {
    match operation {
        Namespace::MakeDirectory {
            directory,
            name,
            attributes,
        } => {
            let mut group = builder.init_make_directory();
            write_entry_parts(*directory, name, group.reborrow().init_entry());
            write_new_inode(attributes, group.init_attributes());
        }
        Namespace::RemoveDirectory { directory, name } => {
            write_entry_parts(*directory, name, builder.init_remove_directory());
        }
        Namespace::Unlink { directory, name } => {
            write_entry_parts(*directory, name, builder.init_unlink());
        }
        Namespace::Rename { from, to, mode } => {
            let mut group = builder.init_rename();
            write_entry(from, group.reborrow().init_from());
            write_entry(to, group.reborrow().init_to());
            group.set_replace(*mode == RenameMode::Replace);
            group.set_exchange(*mode == RenameMode::Exchange);
        }
        Namespace::Link { inode, to } => {
            let mut group = builder.init_link();
            group.set_inode(inode.0);
            write_entry(to, group.init_to());
        }
        Namespace::KeySetMany { partition, pairs } => {
            let mut group = builder.init_key_set_many();
            group.set_partition(partition.0);
            let mut list = group.init_pairs(pairs.len() as u32);
            for (index, (partition, key, value)) in pairs.iter().enumerate() {
                let mut pair = list.reborrow().get(index as u32);
                pair.set_partition(partition.0);
                pair.set_key(key);
                pair.set_value(value);
            }
        }
        Namespace::KeyDeleteMany { partition, keys } => {
            let mut group = builder.init_key_delete_many();
            group.set_partition(partition.0);
            let mut list = group.init_keys(keys.len() as u32);
            for (index, (partition, key)) in keys.iter().enumerate() {
                let mut item = list.reborrow().get(index as u32);
                item.set_partition(partition.0);
                item.set_key(key);
            }
        }
    }
}

pub fn read_namespace(reader: wire::namespace::Reader<'_>, source: Source<'_>) -> Result<Namespace> {
    Ok(match reader.which()? {
        wire::namespace::MakeDirectory(group) => {
            let Entry { directory, name } = source.entry(group.get_entry())?;
            let attributes = read_new_inode(group.get_attributes()?, source)?;
            Namespace::MakeDirectory {
                directory,
                name,
                attributes,
            }
        }
        wire::namespace::RemoveDirectory(entry) => {
            let Entry { directory, name } = source.entry(entry)?;
            Namespace::RemoveDirectory { directory, name }
        }
        wire::namespace::Unlink(entry) => {
            let Entry { directory, name } = source.entry(entry)?;
            Namespace::Unlink { directory, name }
        }
        wire::namespace::Rename(group) => Namespace::Rename {
            from: source.entry(group.get_from())?,
            to: source.entry(group.get_to())?,
            mode: read_rename_mode(group.get_replace(), group.get_exchange()),
        },
        wire::namespace::Link(group) => Namespace::Link {
            inode: InodeId(group.get_inode()),
            to: source.entry(group.get_to())?,
        },
        wire::namespace::KeySetMany(group) => Namespace::KeySetMany {
            partition: PartitionId(group.get_partition()),
            pairs: read::list(group.get_pairs(), |pair| {
                let key = source.bytes(pair.get_key())?;
                Ok((
                    PartitionId(pair.get_partition()),
                    key,
                    source.bytes(pair.get_value())?,
                ))
            })?,
        },
        wire::namespace::KeyDeleteMany(group) => Namespace::KeyDeleteMany {
            partition: PartitionId(group.get_partition()),
            keys: read::list(group.get_keys(), |item| {
                Ok((PartitionId(item.get_partition()), source.bytes(item.get_key())?))
            })?,
        },
    })
}

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
        wire::node_request::GetQuota(directory) => NodeRequest::GetQuota {
            directory: InodeId(directory),
        },
    })
}

fn write_steps(steps: &[Step], mut list: capnp::struct_list::Builder<'_, wire::step::Owned>) {
    for (index, step) in steps.iter().enumerate() {
        write_step(step, list.reborrow().get(index as u32));
    }
}

fn write_step(step: &Step, mut builder: wire::step::Builder<'_>) {
    match step {
        Step::InsertEntry {
            entry,
            inode,
            kind,
            expected,
            quota,
            policy,
        } => {
            let mut group = builder.init_insert_entry();
            write_entry(entry, group.reborrow().init_entry());
            group.set_inode(inode.0);
            group.set_kind(write_kind(*kind));
            group.set_expected(expected.map_or(0, |inode| inode.0));
            group.set_quota(quota.map_or(0, |inode| inode.0));
            if let Some(policy) = policy {
                write_policy(policy, group.init_policy());
            }
        }
        Step::ExchangeEntry {
            entry,
            inode,
            kind,
            expected,
            quota,
        } => {
            let mut group = builder.init_exchange_entry();
            write_entry(entry, group.reborrow().init_entry());
            group.set_inode(inode.0);
            group.set_kind(write_kind(*kind));
            group.set_expected(expected.0);
            group.set_quota(quota.map_or(0, |inode| inode.0));
        }
        Step::RemoveEntry { entry, inode } => {
            let mut group = builder.init_remove_entry();
            write_entry(entry, group.reborrow().init_entry());
            group.set_inode(inode.0);
        }
        Step::CreateDirectory {
            inode,
            parent,
            attributes,
            quota,
        } => {
            let mut group = builder.init_create_directory();
            group.set_inode(inode.0);
            group.set_parent(parent.0);
            group.set_quota(quota.map_or(0, |inode| inode.0));
            write_new_inode(attributes, group.init_attributes());
        }
        Step::RemoveDirectory { inode } => builder.set_remove_directory(inode.0),
        Step::SetParent { inode, parent, quota } => {
            let mut group = builder.init_set_parent();
            group.set_inode(inode.0);
            group.set_parent(parent.0);
            group.set_quota(quota.map_or(0, |inode| inode.0));
        }
        Step::AddLinks {
            inode,
            count,
            added,
            removed,
            quota,
        } => {
            let mut group = builder.init_add_links();
            group.set_inode(inode.0);
            group.set_count(*count);
            group.set_added(added.map_or(0, |inode| inode.0));
            group.set_removed(removed.map_or(0, |inode| inode.0));
            group.set_quota(quota.map_or(0, |inode| inode.0));
        }
        Step::HoldRenameLease => builder.set_hold_rename_lease(()),
        Step::KeySet { key, value } => {
            let mut group = builder.init_key_set();
            group.set_key(key);
            group.set_value(value);
        }
        Step::KeyDelete { key } => builder.set_key_delete(key),
    }
}

fn read_step(reader: wire::step::Reader<'_>, source: Source<'_>) -> Result<Step> {
    Ok(match reader.which()? {
        wire::step::InsertEntry(group) => Step::InsertEntry {
            entry: source.entry(group.get_entry())?,
            inode: InodeId(group.get_inode()),
            kind: read_kind(group.get_kind())?,
            expected: read::inode_or_none(group.get_expected()),
            quota: read::inode_or_none(group.get_quota()),
            policy: match group.has_policy() {
                true => Some(read_policy(group.get_policy()?)?),
                false => None,
            },
        },
        wire::step::ExchangeEntry(group) => Step::ExchangeEntry {
            entry: source.entry(group.get_entry())?,
            inode: InodeId(group.get_inode()),
            kind: read_kind(group.get_kind())?,
            expected: InodeId(group.get_expected()),
            quota: read::inode_or_none(group.get_quota()),
        },
        wire::step::RemoveEntry(group) => Step::RemoveEntry {
            entry: source.entry(group.get_entry())?,
            inode: InodeId(group.get_inode()),
        },
        wire::step::CreateDirectory(group) => Step::CreateDirectory {
            inode: InodeId(group.get_inode()),
            parent: InodeId(group.get_parent()),
            attributes: read_new_inode(group.get_attributes()?, source)?,
            quota: read::inode_or_none(group.get_quota()),
        },
        wire::step::RemoveDirectory(inode) => Step::RemoveDirectory {
            inode: InodeId(inode),
        },
        wire::step::SetParent(group) => Step::SetParent {
            inode: InodeId(group.get_inode()),
            parent: InodeId(group.get_parent()),
            quota: read::inode_or_none(group.get_quota()),
        },
        wire::step::AddLinks(group) => Step::AddLinks {
            inode: InodeId(group.get_inode()),
            count: group.get_count(),
            added: read::inode_or_none(group.get_added()),
            removed: read::inode_or_none(group.get_removed()),
            quota: read::inode_or_none(group.get_quota()),
        },
        wire::step::HoldRenameLease(()) => Step::HoldRenameLease,
        wire::step::KeySet(group) => Step::KeySet {
            key: source.bytes(group.get_key())?,
            value: source.bytes(group.get_value())?,
        },
        wire::step::KeyDelete(key) => Step::KeyDelete {
            key: source.bytes(key)?,
        },
    })
}

pub fn write_condition(condition: Condition, mut builder: wire::condition::Builder<'_>) {
    match condition {
        Condition::Always => builder.set_always(()),
        Condition::IfAbsent => builder.set_if_absent(()),
        Condition::IfPresent => builder.set_if_present(()),
        Condition::IfVersion(version) => builder.set_if_version(version),
    }
}

pub fn read_condition(reader: wire::condition::Reader<'_>) -> Result<Condition> {
    Ok(match reader.which()? {
        wire::condition::Always(()) => Condition::Always,
        wire::condition::IfAbsent(()) => Condition::IfAbsent,
        wire::condition::IfPresent(()) => Condition::IfPresent,
        wire::condition::IfVersion(version) => Condition::IfVersion(version),
    })
}

fn write_expiry(expiry: Expiry, mut builder: wire::expiry::Builder<'_>) {
    match expiry {
        Expiry::Never => builder.set_never(()),
        Expiry::Keep => builder.set_keep(()),
        Expiry::At(time) => builder.set_at(time),
        Expiry::After(duration) => builder.set_after(duration),
    }
}

fn read_expiry(reader: wire::expiry::Reader<'_>) -> Result<Expiry> {
    Ok(match reader.which()? {
        wire::expiry::Never(()) => Expiry::Never,
        wire::expiry::Keep(()) => Expiry::Keep,
        wire::expiry::At(time) => Expiry::At(time),
        wire::expiry::After(duration) => Expiry::After(duration),
    })
}

pub fn write_attribute_change(change: &AttributeChange, mut builder: wire::attribute_change::Builder<'_>) {
    builder.set_changes_mode(change.mode.is_some());
    builder.set_changes_owner(change.owner.is_some());
    builder.set_changes_group(change.group.is_some());
    builder.set_changes_size(change.size.is_some());
    builder.set_changes_accessed(change.accessed.is_some());
    builder.set_changes_modified(change.modified.is_some());
    builder.set_mode(change.mode.unwrap_or(0));
    builder.set_owner(change.owner.unwrap_or(0));
    builder.set_group(change.group.unwrap_or(0));
    builder.set_size(change.size.unwrap_or(0));
    builder.set_accessed(time_value(change.accessed));
    builder.set_modified(time_value(change.modified));
    builder.set_accessed_now(change.accessed == Some(SetTime::Now));
    builder.set_modified_now(change.modified == Some(SetTime::Now));
    let policy = &change.policy;
    builder.set_block_size(policy.block_size.unwrap_or(0));
    builder.set_allocate(write_allocate(policy.allocate));
    builder.set_changes_replicas(policy.replicas.is_some());
    builder.set_replicas(policy.replicas.unwrap_or(0));
}

pub fn read_attribute_change(reader: wire::attribute_change::Reader<'_>) -> Result<AttributeChange> {
    Ok(AttributeChange {
        mode: reader.get_changes_mode().then(|| reader.get_mode()),
        owner: reader.get_changes_owner().then(|| reader.get_owner()),
        group: reader.get_changes_group().then(|| reader.get_group()),
        size: reader.get_changes_size().then(|| reader.get_size()),
        accessed: reader
            .get_changes_accessed()
            .then(|| read_time(reader.get_accessed_now(), reader.get_accessed())),
        modified: reader
            .get_changes_modified()
            .then(|| read_time(reader.get_modified_now(), reader.get_modified())),
        policy: PolicyChange {
            block_size: said(reader.get_block_size()),
            replicas: reader.get_changes_replicas().then(|| reader.get_replicas()),
            allocate: read_allocate(reader.get_allocate())?,
        },
    })
}

fn time_value(time: Option<SetTime>) -> UnixNanos {
    match time {
        Some(SetTime::At(time)) => time,
        Some(SetTime::Now) | None => 0,
    }
}

fn read_time(now: bool, time: UnixNanos) -> SetTime {
    if now { SetTime::Now } else { SetTime::At(time) }
}

fn read_rename_mode(replace: bool, exchange: bool) -> RenameMode {
    match (exchange, replace) {
        (true, _) => RenameMode::Exchange,
        (false, true) => RenameMode::Replace,
        (false, false) => RenameMode::NoReplace,
    }
}

fn write_xattr(xattr: &Xattr, mut builder: wire::xattr::Builder<'_>) {
    builder.set_name(&xattr.name);
    builder.set_value(&xattr.value);
}

fn read_xattr(reader: wire::xattr::Reader<'_>, source: Source<'_>) -> Result<Xattr> {
    Ok(Xattr {
        name: source.bytes(reader.get_name())?,
        value: source.bytes(reader.get_value())?,
    })
}

fn write_new_inode(inode: &NewInode, mut builder: wire::new_inode::Builder<'_>) {
    builder.set_mode(inode.mode);
    builder.set_owner(inode.owner);
    builder.set_group(inode.group);
    let policy = &inode.policy;
    builder.set_block_size(policy.block_size.unwrap_or(0));
    builder.set_allocate(write_allocate(policy.allocate));
    builder.set_changes_replicas(policy.replicas.is_some());
    builder.set_replicas(policy.replicas.unwrap_or(0));
    if !inode.xattrs.is_empty() {
        let mut list = builder.init_xattrs(inode.xattrs.len() as u32);
        for (index, xattr) in inode.xattrs.iter().enumerate() {
            write_xattr(xattr, list.reborrow().get(index as u32));
        }
    }
}

fn read_new_inode(reader: wire::new_inode::Reader<'_>, source: Source<'_>) -> Result<NewInode> {
    Ok(NewInode {
        mode: reader.get_mode(),
        owner: reader.get_owner(),
        group: reader.get_group(),
        policy: PolicyChange {
            block_size: said(reader.get_block_size()),
            replicas: reader.get_changes_replicas().then(|| reader.get_replicas()),
            allocate: read_allocate(reader.get_allocate())?,
        },
        xattrs: read::list(reader.get_xattrs(), |xattr| read_xattr(xattr, source))?,
    })
}

pub(super) fn write_kind(kind: FileKind) -> wire::FileKind {
    match kind {
        FileKind::Regular => wire::FileKind::Regular,
        FileKind::Directory => wire::FileKind::Directory,
        FileKind::Symlink => wire::FileKind::Symlink,
        FileKind::Fifo => wire::FileKind::Fifo,
        FileKind::Socket => wire::FileKind::Socket,
        FileKind::CharacterDevice => wire::FileKind::CharacterDevice,
        FileKind::BlockDevice => wire::FileKind::BlockDevice,
    }
}

pub(super) fn read_kind(
    kind: std::result::Result<wire::FileKind, capnp::NotInSchema>,
) -> std::result::Result<FileKind, Error> {
    Ok(match kind? {
        wire::FileKind::Regular => FileKind::Regular,
        wire::FileKind::Directory => FileKind::Directory,
        wire::FileKind::Symlink => FileKind::Symlink,
        wire::FileKind::Fifo => FileKind::Fifo,
        wire::FileKind::Socket => FileKind::Socket,
        wire::FileKind::CharacterDevice => FileKind::CharacterDevice,
        wire::FileKind::BlockDevice => FileKind::BlockDevice,
    })
}

fn write_entry(entry: &Entry, builder: wire::entry::Builder<'_>) {
    write_entry_parts(entry.directory, &entry.name, builder);
}

fn write_entry_parts(directory: InodeId, name: &[u8], mut builder: wire::entry::Builder<'_>) {
    builder.set_directory(directory.0);
    builder.set_name(name);
}

pub(super) fn write_keys(keys: &[bytes::Bytes], mut list: data_list::Builder<'_>) {
    for (index, key) in keys.iter().enumerate() {
        list.set(index as u32, key);
    }
}

pub(super) fn write_inodes(inodes: &[InodeId], mut list: capnp::primitive_list::Builder<'_, u64>) {
    for (index, inode) in inodes.iter().enumerate() {
        list.set(index as u32, inode.0);
    }
}

pub(super) fn write_nodes(nodes: &[NodeNumber], mut list: capnp::primitive_list::Builder<'_, u16>) {
    for (index, node) in nodes.iter().enumerate() {
        list.set(index as u32, node.0);
    }
}

pub(super) fn write_request_id(id: &RequestId, mut builder: wire::request_id::Builder<'_>) {
    builder.set_client(id.client.0);
    builder.set_sequence(id.sequence);
    builder.set_acknowledged_below(id.acknowledged_below);
}

pub(super) fn write_block_id(block: &BlockId, mut builder: wire::block_id::Builder<'_>) {
    builder.set_client(block.client.0);
    builder.set_counter(block.counter);
}

pub(super) fn write_transaction_id(id: &TransactionId, mut builder: wire::transaction_id::Builder<'_>) {
    builder.set_client(id.client.0);
    builder.set_sequence(id.sequence);
    builder.set_attempt(id.attempt);
}
