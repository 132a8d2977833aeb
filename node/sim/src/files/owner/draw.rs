//! Changes of names and attributes, drawn by the dice: most of them possible, some of them not.

use bark_client::session::Call;
use bark_schema::access_time::Access;
use bark_schema::ids::InodeId;
use bark_schema::limits::NAME_SIZE_MAX;
use bark_schema::operation::{
    AttributeChange, Command, Condition, Entry, FileKind, Namespace, NewContent, NewInode, RenameMode,
    SetTime, UnixNanos, Xattr,
};
use bark_schema::policy::{Allocate, PolicyChange};
use bytes::Bytes;

use super::super::{ATTRIBUTES, name};
use super::Owner;

/// 2001-09-09, and some nanoseconds.
const SOME_TIME: UnixNanos = 1_000_000_000_123_456_789;
const SIZE_MAX: u64 = 6_000;

impl Owner {
    /// A name nothing here has had; now and then one of odd bytes, or of the greatest length.
    fn new_name(&mut self) -> Bytes {
        self.next_name += 1;
        let mut bytes = format!("n{}", self.next_name).into_bytes();
        match self.random.below(20) {
            0 => bytes.resize(NAME_SIZE_MAX, b'x'),
            1 => bytes.extend_from_slice(&[0xff, 0x80, b'\n', b' ']),
            _ => {}
        }
        Bytes::from(bytes)
    }

    fn any_entry(&mut self) -> Option<(InodeId, Bytes, InodeId)> {
        let all = self.reference.entries();
        self.pick(&all)
    }

    fn any_inode(&mut self) -> Option<InodeId> {
        let all = self.reference.sure();
        self.pick(&all)
    }

    /// Where something new may go: mostly a free name, sometimes a taken or an impossible one.
    fn place(&mut self) -> Entry {
        let directory = self.any_directory();
        match self.random.below(12) {
            0..=1 => {
                if let Some((directory, name, _)) = self.any_entry() {
                    return Entry { directory, name };
                }
            }
            2 => {
                let impossible: [&[u8]; 5] = [b"", b".", b"..", b"a/b", &[b'x'; NAME_SIZE_MAX + 1]];
                let name = impossible[self.random.below(impossible.len() as u64) as usize];
                let name = Bytes::copy_from_slice(name);
                return Entry { directory, name };
            }
            _ => {}
        }
        let name = self.new_name();
        Entry { directory, name }
    }

    /// An entry that is there, or sometimes one that is not.
    fn taken(&mut self) -> Entry {
        match self.any_entry() {
            Some((directory, name, _)) if !self.random.chance(12) => Entry { directory, name },
            _ => Entry {
                directory: self.any_directory(),
                name: self.new_name(),
            },
        }
    }

    fn new_attributes(&mut self) -> NewInode {
        let xattrs = match self.random.chance(6) {
            true => vec![self.some_xattr()],
            false => Vec::new(),
        };
        let policy = match self.random.chance(10) {
            true => self.some_policy(),
            false => PolicyChange::default(),
        };
        NewInode {
            mode: self.random.below(0o10000) as u32,
            owner: self.random.below(3) as u32,
            policy,
            xattrs,
            ..ATTRIBUTES
        }
    }

    fn xattr_name(&mut self) -> Bytes {
        let names = ["user.a", "user.b", "security.c"];
        name(names[self.random.below(names.len() as u64) as usize])
    }

    fn some_xattr(&mut self) -> Xattr {
        let name = self.xattr_name();
        let value = match self.random.chance(4) {
            true => Bytes::new(),
            false => Bytes::from(self.some_bytes(100)),
        };
        Xattr { name, value }
    }

    pub(super) async fn make_directory(&mut self) {
        let Entry { directory, name } = self.place();
        let attributes = self.new_attributes();
        let operation = Namespace::MakeDirectory {
            directory,
            name,
            attributes,
        };
        self.attempt(Call::Namespace(operation)).await;
    }

    pub(super) async fn create(&mut self) {
        let content = self.some_bytes(300);
        self.make(NewContent::Inline(Bytes::from(content))).await;
    }

    /// mknod and symlink.
    pub(super) async fn make_other_kind(&mut self) {
        let content = match self.random.below(6) {
            0..=2 => {
                let target = self.some_bytes(100).into_iter().map(|byte| byte.max(1));
                NewContent::Symlink(target.collect())
            }
            kind => NewContent::Special {
                kind: match kind {
                    3 => FileKind::Fifo,
                    4 => FileKind::Socket,
                    _ => FileKind::CharacterDevice,
                },
                device: self.random.next_u64(),
            },
        };
        self.make(content).await;
    }

    async fn make(&mut self, content: NewContent) {
        let Entry { directory, name } = self.place();
        let command = Command::Create {
            directory,
            name,
            attributes: self.new_attributes(),
            content,
            exclusive: !self.random.chance(4),
        };
        let partition = directory.home();
        self.attempt(Call::Command { partition, command }).await;
    }

    pub(super) async fn rename(&mut self) {
        let from = self.taken();
        let to = match self.random.below(3) {
            0 => self.taken(),
            1 => Entry {
                directory: from.directory,
                name: self.new_name(),
            },
            _ => Entry {
                directory: self.any_directory(),
                name: self.new_name(),
            },
        };
        let mode = match self.random.below(5) {
            0 => RenameMode::NoReplace,
            1 => RenameMode::Exchange,
            _ => RenameMode::Replace,
        };
        let operation = Namespace::Rename { from, to, mode };
        self.attempt(Call::Namespace(operation)).await;
    }

    pub(super) async fn unlink(&mut self) {
        let Entry { directory, name } = self.taken();
        self.attempt(Call::Namespace(Namespace::Unlink { directory, name }))
            .await;
    }

    pub(super) async fn remove_directory(&mut self) {
        let Entry { directory, name } = self.taken();
        let operation = Namespace::RemoveDirectory { directory, name };
        self.attempt(Call::Namespace(operation)).await;
    }

    pub(super) async fn link(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let to = self.place();
        self.attempt(Call::Namespace(Namespace::Link { inode, to })).await;
    }

    pub(super) async fn set_attributes(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let change = AttributeChange {
            mode: self.maybe(0o10000).map(|mode| mode as u32),
            owner: self.maybe(100).map(|owner| owner as u32),
            group: self.maybe(100).map(|group| group as u32),
            size: self.maybe(SIZE_MAX).filter(|_| !self.random.chance(2)),
            accessed: self.some_time(),
            modified: self.some_time(),
            ..AttributeChange::default()
        };
        let command = Command::SetAttributes { inode, change };
        let partition = inode.home();
        self.attempt(Call::Command { partition, command }).await;
    }

    /// Tells that something was read, at a time not long before or after its last change.
    pub(super) async fn tell_access(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let changed = self.reference.get(inode).map_or(0, |known| known.changed_min);
        let access = Access {
            inode,
            at: changed.saturating_add(self.random.below(2_000_000_000) as UnixNanos - 1_000_000_000),
        };
        let command = Command::MoveAccessTimes {
            accesses: vec![access],
        };
        let partition = inode.home();
        self.attempt(Call::Command { partition, command }).await;
    }

    /// Of a directory mostly; of anything else it must be refused.
    pub(super) async fn set_policy(&mut self) {
        let inode = match self.random.chance(8) {
            true => self.any_inode(),
            false => Some(self.any_directory()),
        };
        let Some(inode) = inode else { return };
        let change = AttributeChange {
            policy: self.some_policy(),
            ..AttributeChange::default()
        };
        let command = Command::SetAttributes { inode, change };
        let partition = inode.home();
        self.attempt(Call::Command { partition, command }).await;
    }

    /// Now and then one that nobody can have.
    fn some_policy(&mut self) -> PolicyChange {
        let allocations = [Allocate::Ring, Allocate::RoundRobin, Allocate::LeastUsed];
        let allocate = allocations[self.random.below(3) as usize];
        let impossible = self.random.chance(20);
        let block_size = match impossible {
            true => 65_537,
            false => 1 << (16 + self.random.below(7)),
        };
        let replicas = self.random.below(4) as u32;
        PolicyChange {
            block_size: Some(block_size).filter(|_| !self.random.chance(3)),
            replicas: Some(replicas).filter(|_| !self.random.chance(3)),
            allocate: Some(allocate).filter(|_| !self.random.chance(3)),
        }
    }

    fn maybe(&mut self, below: u64) -> Option<u64> {
        let value = self.random.below(below);
        self.random.chance(3).then_some(value)
    }

    fn some_time(&mut self) -> Option<SetTime> {
        match self.random.below(6) {
            0 => Some(SetTime::Now),
            1 => Some(SetTime::At(
                SOME_TIME + self.random.below(2_000_000_000) as UnixNanos,
            )),
            // Before the epoch.
            2 => Some(SetTime::At(-1 - self.random.below(5_000_000_000) as UnixNanos)),
            _ => None,
        }
    }

    pub(super) async fn change_xattr(&mut self) {
        let Some(inode) = self.any_inode() else { return };
        let command = match self.random.chance(4) {
            true => Command::XattrRemove {
                inode,
                name: self.xattr_name(),
            },
            false => Command::XattrSet {
                inode,
                xattr: self.some_xattr(),
                condition: match self.random.below(3) {
                    0 => Condition::IfAbsent,
                    1 => Condition::IfPresent,
                    _ => Condition::Always,
                },
                mode: self.maybe(0o10000).map(|mode| mode as u32),
            },
        };
        let partition = inode.home();
        self.attempt(Call::Command { partition, command }).await;
    }
}
