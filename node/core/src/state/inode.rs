//! Inodes: who owns a file, how large it is, and its content or where that is.
//!
//! A regular file keeps up to INLINE_SIZE_MAX bytes in its inode; once blocks are published the bytes are
//! in extents ([`super::extent`]) and none are here. The inline bytes may be fewer than the size: what is
//! missing reads as zeros, so a file can be extended by any amount without storing anything.
//!
//! Invariants:
//! - Inline content never exceeds the size or INLINE_SIZE_MAX; a file has inline bytes or extents, not both.
//! - A directory's link count is 2 and one for each subdirectory; `children` counts its entries.
//! - An inode with link count 0 has no name; it goes when nobody has it open ([`super::open`]).
//! - An inode's counter is below `inode_counter_next`, and no id is given twice.

use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Attributes, Failure, FileKind, NewInode, Refusal, Reply, UnixNanos};
use bark_schema::policy::Policy;
use bark_schema::usage::Usage;

use super::codec::{Reader, Row, Sink, row_struct};
use super::policy::PolicyByte;
use super::xattr::check_xattrs;
use super::{Error, State};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Inode {
    pub(crate) mode: u16,
    /// Rows in the table of extended attributes.
    pub(crate) xattr_count: u8,
    pub(crate) policy: PolicyByte,
    pub(crate) owner: u32,
    pub(crate) group: u32,
    pub(crate) link_count: u32,
    /// The directory it counts in ([`super::names`]); of a directory, itself.
    pub(crate) directory: InodeId,
    pub(crate) size: u64,
    pub(crate) accessed: UnixNanos,
    pub(crate) modified: UnixNanos,
    pub(crate) changed: UnixNanos,
    pub(crate) version: u64,
    pub(crate) body: Body,
}
row_struct!(Inode {
    mode,
    xattr_count,
    policy,
    owner,
    group,
    link_count,
    directory,
    size,
    accessed,
    modified,
    changed,
    version,
    body
});

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Body {
    Inline(Box<[u8]>),
    /// How many rows of the extent map the file has, and how many bytes they are.
    Extents {
        count: u64,
        allocated: u64,
    },
    Symlink(Box<[u8]>),
    Directory {
        parent: InodeId,
        children: u64,
    },
    /// A fifo, a socket or a device: its kind and number are all there is.
    Special {
        kind: FileKind,
        device: u64,
    },
}

impl Body {
    pub(crate) fn kind(&self) -> FileKind {
        match self {
            Body::Inline(_) | Body::Extents { .. } => FileKind::Regular,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Directory { .. } => FileKind::Directory,
            Body::Special { kind, .. } => *kind,
        }
    }
}

/// Millions of these are in memory: a field more is a decision.
const _: () = assert!(size_of::<Inode>() <= 88);

/// Most numbers one command sets aside.
const RESERVE_NUMBERS_MAX: u32 = 1 << 16;
const MODE_MASK: u32 = 0o7777;
/// The unit of `Attributes::blocks`.
const BLOCK_UNIT: u64 = 512;

/// What one inode adds to the counters of the partition.
#[derive(Clone, Copy)]
pub(super) struct Counted {
    pub(super) file_bytes: u64,
    pub(super) allocated_bytes: u64,
    pub(super) orphans: u64,
    /// The directory it counts in, and what it counts there.
    pub(super) directory: InodeId,
    pub(super) usage: Usage,
}

impl Counted {
    pub(super) const NOTHING: Counted = Counted {
        file_bytes: 0,
        allocated_bytes: 0,
        orphans: 0,
        directory: InodeId(0),
        usage: Usage {
            bytes: 0,
            stored: 0,
            inodes: 0,
        },
    };
}

impl Inode {
    /// `policy`: of the directory it is made in.
    pub(crate) fn new(
        attributes: &NewInode,
        policy: Policy,
        body: Body,
        directory: InodeId,
        time: UnixNanos,
    ) -> Inode {
        let (link_count, size) = match &body {
            Body::Directory { .. } => (2, 0),
            Body::Inline(bytes) | Body::Symlink(bytes) => (1, bytes.len() as u64),
            Body::Extents { .. } | Body::Special { .. } => (1, 0),
        };
        Inode {
            mode: mode_bits(attributes.mode),
            xattr_count: 0,
            policy: PolicyByte::new(policy.changed(&attributes.policy)),
            owner: attributes.owner,
            group: attributes.group,
            link_count,
            directory,
            size,
            accessed: time,
            modified: time,
            changed: time,
            version: 1,
            body,
        }
    }

    pub(crate) fn root() -> Inode {
        let body = Body::Directory {
            parent: InodeId::ROOT,
            children: 0,
        };
        Inode::new(
            &NewInode {
                mode: 0o755,
                ..NewInode::default()
            },
            Policy::default(),
            body,
            InodeId::ROOT,
            0,
        )
    }

    pub(crate) fn kind(&self) -> FileKind {
        self.body.kind()
    }

    pub(crate) fn attributes(&self, inode: InodeId) -> Attributes {
        Attributes {
            inode,
            kind: self.kind(),
            mode: u32::from(self.mode),
            owner: self.owner,
            group: self.group,
            size: self.size,
            link_count: self.link_count,
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
            version: self.version,
            device: match self.body {
                Body::Special { device, .. } => device,
                _ => 0,
            },
            blocks: self.allocated().div_ceil(BLOCK_UNIT),
            policy: self.policy.policy(),
            xattr_count: u32::from(self.xattr_count),
        }
    }

    /// Bytes stored of it: holes do not count.
    pub(crate) fn allocated(&self) -> u64 {
        match &self.body {
            Body::Inline(bytes) | Body::Symlink(bytes) => bytes.len() as u64,
            Body::Extents { allocated, .. } => *allocated,
            Body::Directory { .. } | Body::Special { .. } => 0,
        }
    }

    pub(super) fn counted(&self) -> Counted {
        if self.link_count == 0 {
            return Counted {
                orphans: 1,
                ..Counted::NOTHING
            };
        }
        let stored = self.allocated();
        Counted {
            file_bytes: if self.kind() == FileKind::Regular {
                self.size
            } else {
                0
            },
            allocated_bytes: stored,
            orphans: 0,
            directory: self.directory,
            usage: Usage {
                bytes: self.size,
                stored,
                inodes: 1,
            },
        }
    }

    /// The content changed at `time`.
    pub(crate) fn touch_content(&mut self, time: UnixNanos) {
        self.modified = time;
        self.changed = time;
        self.version += 1;
    }
}

/// The permission bits of a mode, which is all an inode stores of it.
pub(crate) fn mode_bits(mode: u32) -> u16 {
    (mode & MODE_MASK) as u16
}

pub(crate) fn no_such_inode() -> Failure {
    Failure::refused(Refusal::NotFound, "no such file or directory")
}

impl State {
    pub(super) fn inode(&self, inode: InodeId) -> Result<&Inode, Failure> {
        if let Some(row) = self.inodes.get(&inode) {
            return Ok(row);
        }
        // It may be born by a transaction that was committed already and is not finished here.
        self.check_inode_unlocked(inode)?;
        Err(no_such_inode())
    }

    /// A regular file's inode.
    pub(super) fn regular(&self, inode: InodeId) -> Result<&Inode, Failure> {
        let row = self.inode(inode)?;
        match row.kind() {
            FileKind::Regular => Ok(row),
            FileKind::Directory => Err(Failure::refused(Refusal::IsDirectory, "is a directory")),
            FileKind::Symlink => Err(Failure::refused(Refusal::InvalidArgument, "is a symbolic link")),
            _ => Err(Failure::refused(
                Refusal::InvalidArgument,
                "is not a regular file",
            )),
        }
    }

    /// A directory's parent and its number of entries.
    pub(super) fn directory(&self, inode: InodeId) -> Result<(InodeId, u64), Failure> {
        let row = self.inode(inode)?;
        match row.body {
            // Removed, though somebody may have it open: nothing is in it, and nothing comes into it.
            Body::Directory { .. } if row.link_count == 0 => Err(no_such_inode()),
            Body::Directory { parent, children } => Ok((parent, children)),
            _ => Err(Failure::refused(Refusal::NotDirectory, "not a directory")),
        }
    }

    pub(super) fn next_inode(&self) -> Result<InodeId, Failure> {
        if self.inode_counter_next > InodeId::COUNTER_MAX {
            return Err(Failure::refused(
                Refusal::NoSpace,
                "the partition has no inode numbers left",
            ));
        }
        Ok(InodeId::new(self.partition, self.inode_counter_next))
    }

    /// The id a coordinator may propose for the next directory born here. Another inode may take it
    /// first: then applying answers `Conflict`, and the coordinator asks again.
    pub fn allocate_inode_hint(&self) -> InodeId {
        let counter = self.inode_counter_next.min(InodeId::COUNTER_MAX);
        InodeId::new(self.partition, counter)
    }

    /// Adds a new inode under an id at or beyond the counter, or one reserved before.
    pub(super) fn bear(&mut self, id: InodeId, inode: Inode) {
        debug_assert!(!self.inodes.contains(&id));
        self.reserve(id);
        self.count(Counted::NOTHING, inode.counted());
        self.inodes.insert(id, inode);
    }

    /// Changes an inode, and with it the counters of the partition; false if there is none.
    pub(super) fn change_inode(&mut self, id: InodeId, change: impl FnOnce(&mut Inode)) -> bool {
        let mut counted = (Counted::NOTHING, Counted::NOTHING);
        let found = self.inodes.update(&id, |inode| {
            counted.0 = inode.counted();
            change(inode);
            counted.1 = inode.counted();
        });
        self.count(counted.0, counted.1);
        found
    }

    pub(super) fn count(&mut self, old: Counted, new: Counted) {
        let moved = |counter: u64, old, new| counter.wrapping_sub(old).wrapping_add(new);
        self.file_bytes = moved(self.file_bytes, old.file_bytes, new.file_bytes);
        self.allocated_bytes = moved(self.allocated_bytes, old.allocated_bytes, new.allocated_bytes);
        self.orphan_count = moved(self.orphan_count, old.orphans, new.orphans);
        if old.directory == new.directory {
            self.note_usage(old.directory, old.usage, new.usage);
        } else {
            self.note_usage(old.directory, old.usage, Usage::default());
            self.note_usage(new.directory, Usage::default(), new.usage);
        }
    }

    pub(super) fn answer_attributes(&self, inode: InodeId) -> Result<Reply, Failure> {
        Ok(Reply::Attributes(self.inode(inode)?.attributes(inode)))
    }

    /// Moves the counter past `count` numbers, which only the asker will use; answers the first.
    pub(super) fn reserve_inode_numbers(&mut self, count: u32) -> Result<Reply, Failure> {
        let first = self.next_inode()?.0 & InodeId::COUNTER_MAX;
        let next = first.saturating_add(u64::from(count.clamp(1, RESERVE_NUMBERS_MAX)));
        self.inode_counter_next = next.min(InodeId::COUNTER_MAX + 1);
        Ok(Reply::Count(first))
    }

    /// Sees to it that `id` is never given to another inode.
    pub(super) fn reserve(&mut self, id: InodeId) {
        self.inode_counter_next = self.inode_counter_next.max((id.0 & InodeId::COUNTER_MAX) + 1);
    }

    /// Takes a directory out of the tree; it was empty.
    pub(super) fn orphan_directory(&mut self, id: InodeId) {
        self.end_any_delegation(id);
        let time = self.moment();
        let found = self.change_inode(id, |inode| {
            inode.link_count = 0;
            inode.changed = time;
        });
        if found {
            self.make_due(id);
        }
    }

    /// Removes an inode and what it had. Its blocks go to the garbage ledger.
    pub(super) fn remove_inode(&mut self, id: InodeId) {
        self.cut_extents(id, 0, u64::MAX);
        self.remove_xattrs(id);
        self.drop_locks_of_inode(id);
        if let Some(inode) = self.inodes.remove(&id) {
            self.count(inode.counted(), Counted::NOTHING);
        }
    }

    pub(super) fn set_size(&mut self, id: InodeId, size: u64) {
        self.change_inode(id, |inode| inode.size = size);
    }
}

/// What a new inode may be asked to be.
pub(crate) fn check_new_inode(new: &NewInode) -> Result<(), Failure> {
    new.policy.check()?;
    check_xattrs(&new.xattrs, new.mode)
}

/// Whether `inode` lives in `partition`.
pub(crate) fn is_at_home(inode: InodeId, partition: PartitionId) -> bool {
    inode.home() == partition
}

impl Row for Body {
    fn encode<S: Sink>(&self, sink: &mut S) {
        match self {
            Body::Inline(bytes) => {
                0u8.encode(sink);
                bytes.encode(sink);
            }
            Body::Extents { count, allocated } => {
                1u8.encode(sink);
                count.encode(sink);
                allocated.encode(sink);
            }
            Body::Symlink(target) => {
                2u8.encode(sink);
                target.encode(sink);
            }
            Body::Directory { parent, children } => {
                3u8.encode(sink);
                parent.encode(sink);
                children.encode(sink);
            }
            Body::Special { kind, device } => {
                4u8.encode(sink);
                kind.encode(sink);
                device.encode(sink);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(Body::Inline(Row::decode(reader)?)),
            1 => Ok(Body::Extents {
                count: Row::decode(reader)?,
                allocated: Row::decode(reader)?,
            }),
            2 => Ok(Body::Symlink(Row::decode(reader)?)),
            3 => Ok(Body::Directory {
                parent: Row::decode(reader)?,
                children: Row::decode(reader)?,
            }),
            4 => Ok(Body::Special {
                kind: Row::decode(reader)?,
                device: Row::decode(reader)?,
            }),
            _ => Err(Error::Corrupt("an inode of unknown kind")),
        }
    }
}
