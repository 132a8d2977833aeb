//! Inodes as requests and replies describe them: kinds, attributes, and what they are born with.

use bytes::Bytes;

use crate::ids::InodeId;
use crate::operation::UnixNanos;
use crate::policy::{Policy, PolicyChange};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    pub directory: InodeId,
    pub name: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

/// What a rename does with the name it moves to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Takes the place of what has it.
    Replace,
    /// Refuses with `Exists` if anything has it.
    NoReplace,
    /// Both must exist, and change places.
    Exchange,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewInode {
    /// Permission bits, 0o7777.
    pub mode: u32,
    pub owner: u32,
    pub group: u32,
    /// What is not said is as its directory has it.
    pub policy: PolicyChange,
    /// It is born with these, as a file in a directory with a default access control list.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xattr {
    pub name: Bytes,
    pub value: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NewContent {
    /// A regular file with these bytes, at most INLINE_SIZE_MAX.
    Inline(Bytes),
    /// A symbolic link to this target.
    Symlink(Bytes),
    /// A fifo, a socket or a device; nothing but its kind and number is stored.
    Special { kind: FileKind, device: u64 },
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// That of the log entry.
    Now,
    At(UnixNanos),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttributeChange {
    pub mode: Option<u32>,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    /// Truncates or extends with zeros.
    pub size: Option<u64>,
    pub accessed: Option<SetTime>,
    pub modified: Option<SetTime>,
    /// Of a directory only: `NotDirectory` otherwise.
    pub policy: PolicyChange,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub inode: InodeId,
    pub kind: FileKind,
    pub mode: u32,
    pub owner: u32,
    pub group: u32,
    pub size: u64,
    pub link_count: u32,
    pub accessed: UnixNanos,
    pub modified: UnixNanos,
    pub changed: UnixNanos,
    /// Counts every change of the content: the base for `Publish` and ETags.
    pub version: u64,
    /// Number of a device node, as the client gave it; 0 for all else.
    pub device: u64,
    /// Units of 512 bytes that are stored: holes take none.
    pub blocks: u64,
    /// Of its blocks; of a directory, what is made in it is born with.
    pub policy: Policy,
    /// How many extended attributes it has: with none, nobody needs to ask for one.
    pub xattr_count: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: Bytes,
    pub inode: InodeId,
    pub kind: FileKind,
    /// Present when the inode's home is the directory's partition.
    pub attributes: Option<Attributes>,
    /// The entry's place in the order of listings, never 0 and below 2^63: the same as long as it has this name.
    pub cookie: u64,
}
