//! Ids, attributes and other parts that many messages have.

use bark_schema::data::*;
use bark_schema::ids::*;
use bark_schema::operation::*;
use bark_schema::policy::*;
use bytes::Bytes;

use super::Generator;

impl Generator {
    pub(super) fn partition(&mut self) -> PartitionId {
        PartitionId(self.number() as u16)
    }

    /// Never zero, which means none.
    pub(super) fn node(&mut self) -> NodeNumber {
        NodeNumber((self.number() as u16).max(1))
    }

    pub(super) fn inode(&mut self) -> InodeId {
        InodeId(self.number().max(1))
    }

    pub(super) fn block(&mut self) -> BlockId {
        BlockId {
            client: ClientId(self.number()),
            counter: self.number(),
        }
    }

    pub(super) fn transaction(&mut self) -> TransactionId {
        TransactionId {
            client: ClientId(self.number()),
            sequence: self.number(),
            attempt: self.number(),
        }
    }

    pub(super) fn request_id(&mut self) -> RequestId {
        RequestId {
            client: ClientId(self.number()),
            sequence: self.number(),
            acknowledged_below: self.number(),
        }
    }

    pub(super) fn entry(&mut self) -> Entry {
        Entry {
            directory: self.inode(),
            name: self.data(),
        }
    }

    pub(super) fn kind(&mut self) -> FileKind {
        match self.choose("FileKind", 7) {
            0 => FileKind::Regular,
            1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            4 => FileKind::Socket,
            5 => FileKind::CharacterDevice,
            _ => FileKind::BlockDevice,
        }
    }

    pub(super) fn rename_mode(&mut self) -> RenameMode {
        match self.choose("RenameMode", 3) {
            0 => RenameMode::Replace,
            1 => RenameMode::NoReplace,
            _ => RenameMode::Exchange,
        }
    }

    pub(super) fn set_time(&mut self) -> SetTime {
        match self.choose("SetTime", 2) {
            0 => SetTime::Now,
            _ => SetTime::At(self.i64()),
        }
    }

    pub(super) fn xattr(&mut self) -> Xattr {
        Xattr {
            name: self.data(),
            value: self.data(),
        }
    }

    pub(super) fn list_position(&mut self) -> ListPosition {
        match self.choose("ListPosition", 3) {
            0 => ListPosition::Start,
            1 => ListPosition::AfterName(Bytes::from(vec![b'n'; 1 + (self.next() % 255) as usize])),
            _ => ListPosition::AfterCookie(self.number().max(1)),
        }
    }

    pub(super) fn new_inode(&mut self) -> NewInode {
        NewInode {
            mode: self.u32(),
            owner: self.u32(),
            group: self.u32(),
            policy: self.policy_change(),
            xattrs: self.list(Self::xattr),
        }
    }

    pub(super) fn allocate(&mut self) -> Allocate {
        match self.choose("Allocate", 3) {
            0 => Allocate::Ring,
            1 => Allocate::RoundRobin,
            _ => Allocate::LeastUsed,
        }
    }

    pub(super) fn policy(&mut self) -> Policy {
        Policy {
            block_size: self.u32(),
            replicas: self.u32(),
            allocate: self.allocate(),
        }
    }

    pub(super) fn policy_change(&mut self) -> PolicyChange {
        PolicyChange {
            block_size: self.option(Self::u32).filter(|size| *size != 0),
            replicas: self.option(Self::u32),
            allocate: self.option(Self::allocate),
        }
    }

    pub(super) fn attributes(&mut self) -> Attributes {
        Attributes {
            inode: self.inode(),
            kind: self.kind(),
            mode: self.u32(),
            owner: self.u32(),
            group: self.u32(),
            size: self.number(),
            link_count: self.u32(),
            accessed: self.i64(),
            modified: self.i64(),
            changed: self.i64(),
            version: self.number(),
            device: self.number(),
            blocks: self.number(),
            policy: self.policy(),
            xattr_count: self.u32(),
        }
    }

    pub(super) fn extent(&mut self) -> Extent {
        Extent {
            offset: self.number(),
            length: self.u32(),
            block: self.block(),
            block_offset: self.u32(),
            block_size: self.u32(),
            checksum: self.u32(),
            nodes: self.list(Self::node),
        }
    }

    pub(super) fn content(&mut self) -> Content {
        match self.choose("Content", 2) {
            0 => Content::Inline(self.data()),
            _ => Content::Mapped(FileMap {
                extents: self.list(Self::extent),
                patches: self.list(|generator| Patch {
                    offset: generator.number(),
                    data: generator.data(),
                }),
                known_until: self.number(),
            }),
        }
    }

    pub(super) fn expiry(&mut self) -> Expiry {
        match self.choose("Expiry", 4) {
            0 => Expiry::Never,
            1 => Expiry::Keep,
            2 => Expiry::At(self.number()),
            _ => Expiry::After(self.number()),
        }
    }

    pub(super) fn condition(&mut self) -> Condition {
        match self.choose("Condition", 4) {
            0 => Condition::Always,
            1 => Condition::IfAbsent,
            2 => Condition::IfPresent,
            _ => Condition::IfVersion(self.number()),
        }
    }

    pub(super) fn attribute_change(&mut self) -> AttributeChange {
        AttributeChange {
            mode: self.option(Self::u32),
            owner: self.option(Self::u32),
            group: self.option(Self::u32),
            size: self.option(Self::number),
            accessed: self.option(Self::set_time),
            modified: self.option(Self::set_time),
            policy: self.policy_change(),
        }
    }
}
