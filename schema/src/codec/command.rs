//! Changes of one partition by one log entry.

use super::data::{read_data_command, write_data_command};
use super::delegation::{read_delegation_command, write_delegation_command};
use super::file_lock::{read_lock_command, write_lock_command};
use super::inode::{
    read_attribute_change, read_kind, read_new_inode, read_xattr, write_attribute_change, write_kind,
    write_new_inode, write_xattr,
};
use super::namespace::read_rename_mode;
use super::quota::{read_quota_command, write_quota_command};
use super::read::{self, Source};
use super::repair::{read_repair, write_repair};
use super::reply::{read_reply, write_extents, write_reply};
use super::step::{read_step, write_steps};
use super::usage::{read_usage_command, write_usage_command};
use super::write::{write_entry, write_entry_parts, write_inodes, write_keys, write_transaction_id};
use super::{Error, Result};
use crate::access_time::Access;
use crate::generated::common_capnp as wire;
use crate::ids::{ClientId, InodeId, PartitionId};
use crate::operation::{Command, Condition, Entry, Expiry, NewContent, RenameMode};

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
        Command::Delegation(command) => write_delegation_command(command, builder.init_delegation()),
        Command::Ordered {
            after,
            time,
            inode,
            awaited,
            command,
        } => {
            let mut group = builder.init_ordered();
            group.set_after(*after);
            group.set_time(*time);
            group.set_inode(inode.map_or(0, |inode| inode.0));
            group.set_awaited(*awaited);
            write_command(command, group.init_command());
        }
        Command::Lock(command) => write_lock_command(command, builder.init_lock()),
        Command::Repair(command) => write_repair(command, builder.init_repair()),
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
        wire::command::Delegation(command) => Command::Delegation(read_delegation_command(command?)?),
        wire::command::Ordered(group) => Command::Ordered {
            after: group.get_after(),
            time: group.get_time(),
            inode: Some(InodeId(group.get_inode())).filter(|inode| inode.0 != 0),
            awaited: group.get_awaited(),
            command: match read_command(group.get_command()?, source)? {
                Command::Ordered { .. } => return Err(Error::Nested("command")),
                command => Box::new(command),
            },
        },
        wire::command::Lock(command) => Command::Lock(read_lock_command(command?)?),
        wire::command::Repair(command) => Command::Repair(read_repair(command?, source)?),
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
