//! What inodes are made and changed with: attributes, times, extended attributes.

use super::Result;
use super::policy::{read_allocate, said, write_allocate};
use super::read::{self, Source};
use crate::generated::common_capnp as wire;
use crate::operation::{AttributeChange, FileKind, NewInode, SetTime, UnixNanos, Xattr};
use crate::policy::PolicyChange;

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

pub(super) fn write_xattr(xattr: &Xattr, mut builder: wire::xattr::Builder<'_>) {
    builder.set_name(&xattr.name);
    builder.set_value(&xattr.value);
}

pub(super) fn read_xattr(reader: wire::xattr::Reader<'_>, source: Source<'_>) -> Result<Xattr> {
    Ok(Xattr {
        name: source.bytes(reader.get_name())?,
        value: source.bytes(reader.get_value())?,
    })
}

pub(super) fn write_new_inode(inode: &NewInode, mut builder: wire::new_inode::Builder<'_>) {
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

pub(super) fn read_new_inode(reader: wire::new_inode::Reader<'_>, source: Source<'_>) -> Result<NewInode> {
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

pub(super) fn read_kind(kind: std::result::Result<wire::FileKind, capnp::NotInSchema>) -> Result<FileKind> {
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
