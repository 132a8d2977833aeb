//! Operations that may touch several partitions.

use super::Result;
use super::inode::{read_new_inode, write_new_inode};
use super::read::{self, Source};
use super::write::{write_entry, write_entry_parts};
use crate::generated::common_capnp as wire;
use crate::ids::{InodeId, PartitionId};
use crate::operation::{Entry, Namespace, RenameMode};

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

pub(super) fn read_rename_mode(replace: bool, exchange: bool) -> RenameMode {
    match (exchange, replace) {
        (true, _) => RenameMode::Exchange,
        (false, true) => RenameMode::Replace,
        (false, false) => RenameMode::NoReplace,
    }
}
