//! The steps of transactions.

use super::Result;
use super::inode::{read_kind, read_new_inode, write_kind, write_new_inode};
use super::policy::{read_policy, write_policy};
use super::read::{self, Source};
use super::write::write_entry;
use crate::generated::common_capnp as wire;
use crate::ids::InodeId;
use crate::operation::Step;

pub(super) fn write_steps(steps: &[Step], mut list: capnp::struct_list::Builder<'_, wire::step::Owned>) {
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
            born,
        } => {
            let mut group = builder.init_create_directory();
            group.set_born(*born);
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

pub(super) fn read_step(reader: wire::step::Reader<'_>, source: Source<'_>) -> Result<Step> {
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
            born: group.get_born(),
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
