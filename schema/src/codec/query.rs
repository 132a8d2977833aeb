//! Reads of one partition.

use super::audit::{read_audit_query, write_audit_query};
use super::data::{read_data_query, write_data_query};
use super::file_lock::{read_lock_query, write_lock_query};
use super::quota::{read_quota_query, write_quota_query};
use super::read::{self, Source};
use super::usage::{read_usage_query, write_usage_query};
use super::write::{write_entry_parts, write_keys, write_transaction_id};
use super::{Error, Result};
use crate::generated::common_capnp as wire;
use crate::ids::{ClientId, InodeId};
use crate::operation::{Entry, ListPosition, Query};

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
        Query::By { client, query } => {
            let mut group = builder.init_by();
            group.set_client(client.0);
            write_query(query, group.init_query());
        }
        Query::AwaitRecall { client } => builder.set_await_recall(client.0),
        Query::Lock(query) => write_lock_query(query, builder.init_lock()),
        Query::Audit(query) => write_audit_query(query, builder.init_audit()),
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
        wire::query::By(group) => Query::By {
            client: ClientId(group.get_client()),
            query: match read_query(group.get_query()?, source)? {
                Query::By { .. } | Query::AwaitRecall { .. } => return Err(Error::Nested("query")),
                query => Box::new(query),
            },
        },
        wire::query::AwaitRecall(client) => Query::AwaitRecall {
            client: ClientId(client),
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
        wire::query::Lock(query) => Query::Lock(read_lock_query(query?)?),
        wire::query::Audit(query) => Query::Audit(read_audit_query(query?)?),
    })
}
