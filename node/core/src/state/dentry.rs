//! Directory entries, and the commands that make and remove one: create and unlink.
//!
//! Entries live where their directory lives; a new file's inode is born beside them, so both commands are
//! one log entry of one partition.
//!
//! Invariants:
//! - An entry's directory exists here, is a directory, and counts the entry in `children`.
//! - An entry of kind directory counts once in its directory's link count.
//! - An entry whose inode's home is here points at an inode that exists, but for transactions under way.
//! - At most NAMES_PER_COOKIE_MAX names of a directory have the same cookie.

use bark_schema::ids::InodeId;
use bark_schema::limits::{INLINE_SIZE_MAX, NAME_SIZE_MAX, PATH_SIZE_MAX};
use bark_schema::listing::cookie;
use bark_schema::operation::{Failure, FileKind, NewContent, NewInode, Refusal, Reply};

use super::codec::{Reader, Row, Sink, row_struct};
use super::entry_name::EntryName;
use super::inode::{Body, Inode, check_new_inode, is_at_home};
use super::{Error, State};

/// A name in a directory. Entries are ordered by the digest of their names: so their places, which listings
/// go on after, are numbers that stay what they are while other entries come and go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DentryKey {
    pub(crate) directory: InodeId,
    pub(crate) cookie: u64,
    pub(crate) name: EntryName,
}
row_struct!(DentryKey {
    directory,
    cookie,
    name
});

impl DentryKey {
    pub(crate) fn new(directory: InodeId, name: &[u8]) -> DentryKey {
        DentryKey {
            directory,
            cookie: cookie(name),
            name: EntryName::new(name),
        }
    }

    /// Before every entry whose cookie is `cookie` or more.
    pub(crate) fn first(directory: InodeId, cookie: u64) -> DentryKey {
        DentryKey {
            directory,
            cookie,
            name: EntryName::new(b""),
        }
    }
}

/// Most names of one directory with the same cookie, which a page never parts. Only names chosen for it
/// come to more than one.
const NAMES_PER_COOKIE_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dentry {
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
}
row_struct!(Dentry { inode, kind });

/// Millions of these are in memory, too.
const _: () = assert!(size_of::<DentryKey>() + size_of::<Dentry>() <= 56);

pub(crate) fn no_such_entry() -> Failure {
    Failure::refused(Refusal::NotFound, "no such file or directory")
}

/// A name an entry may have.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Failure> {
    if name.is_empty() {
        return Err(Failure::refused(Refusal::NotFound, "a name is empty"));
    }
    if name.len() > NAME_SIZE_MAX {
        return Err(Failure::refused(Refusal::NameTooLong, "name is too long"));
    }
    if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
        return Err(Failure::refused(
            Refusal::InvalidArgument,
            "not a name an entry can have",
        ));
    }
    Ok(())
}

impl State {
    pub(super) fn dentry(&self, directory: InodeId, name: &[u8]) -> Option<Dentry> {
        self.dentries.get(&DentryKey::new(directory, name)).copied()
    }

    pub(super) fn create(
        &mut self,
        directory: InodeId,
        name: &[u8],
        attributes: &NewInode,
        content: &NewContent,
        exclusive: bool,
    ) -> Result<Reply, Failure> {
        check_name(name)?;
        self.directory(directory)?;
        self.check_entry_unlocked(directory, name)?;
        if let Some(existing) = self.dentry(directory, name) {
            let asks_for_file = matches!(content, NewContent::Inline(_));
            return self.open_existing(existing, exclusive || !asks_for_file);
        }
        let body = new_body(content)?;
        check_new_inode(attributes)?;
        let kind = body.kind();
        self.check_room_for(directory, name)?;
        let id = self.birth_number()?;
        let policy = self.policy_of(directory)?;
        let inode = Inode::new(attributes, policy, body, directory, self.moment());
        self.check_growth(directory, inode.allocated(), 1)?;
        self.bear(id, inode);
        self.put_xattrs(id, &attributes.xattrs);
        self.put_dentry(directory, name, Dentry { inode: id, kind });
        Ok(Reply::Created {
            attributes: self.inode(id)?.attributes(id),
            created: true,
        })
    }

    /// What a create finds when the name is taken.
    fn open_existing(&self, existing: Dentry, exclusive: bool) -> Result<Reply, Failure> {
        if exclusive {
            return Err(Failure::refused(Refusal::Exists, "file exists"));
        }
        match existing.kind {
            FileKind::Directory => Err(Failure::refused(Refusal::IsDirectory, "is a directory")),
            FileKind::Symlink => Err(Failure::refused(Refusal::Exists, "a symbolic link has this name")),
            _ if !is_at_home(existing.inode, self.partition) => Err(Failure::CrossPartition),
            _ => {
                self.check_inode_unlocked(existing.inode)?;
                let attributes = self.inode(existing.inode)?.attributes(existing.inode);
                Ok(Reply::Created {
                    attributes,
                    created: false,
                })
            }
        }
    }

    pub(super) fn unlink(&mut self, directory: InodeId, name: &[u8]) -> Result<Reply, Failure> {
        check_name(name)?;
        self.directory(directory)?;
        self.check_entry_unlocked(directory, name)?;
        let entry = self.dentry(directory, name).ok_or_else(no_such_entry)?;
        if entry.kind == FileKind::Directory {
            return Err(Failure::refused(Refusal::IsDirectory, "is a directory"));
        }
        if !is_at_home(entry.inode, self.partition) {
            return Err(Failure::CrossPartition);
        }
        self.check_inode_unlocked(entry.inode)?;
        self.remove_dentry(directory, name);
        self.drop_link(entry.inode, directory);
        Ok(Reply::Done)
    }

    /// Whether there is room for one more name at its place in the listing.
    pub(super) fn check_room_for(&self, directory: InodeId, name: &[u8]) -> Result<(), Failure> {
        let cookie = cookie(name);
        let same = DentryKey::first(directory, cookie)..DentryKey::first(directory, cookie.saturating_add(1));
        if self.dentries.range(same).count() >= NAMES_PER_COOKIE_MAX {
            return Err(Failure::refused(
                Refusal::NoSpace,
                "too many names of this directory have the same digest",
            ));
        }
        Ok(())
    }

    /// Adds an entry, or points an existing one elsewhere.
    pub(super) fn put_dentry(&mut self, directory: InodeId, name: &[u8], dentry: Dentry) {
        self.remove_dentry(directory, name);
        self.dentries.insert(DentryKey::new(directory, name), dentry);
        self.count_entry(directory, dentry.kind, 1);
        if dentry.kind == FileKind::Directory {
            self.note_entry(directory, dentry.inode, 1);
        }
    }

    pub(super) fn remove_dentry(&mut self, directory: InodeId, name: &[u8]) {
        if let Some(old) = self.dentries.remove(&DentryKey::new(directory, name)) {
            self.count_entry(directory, old.kind, -1);
            if old.kind == FileKind::Directory {
                self.note_entry(directory, old.inode, -1);
            }
        }
    }

    fn count_entry(&mut self, directory: InodeId, kind: FileKind, by: i32) {
        let time = self.moment();
        self.change_inode(directory, |inode| {
            if let Body::Directory { children, .. } = &mut inode.body {
                *children = children.saturating_add_signed(i64::from(by));
            }
            if kind == FileKind::Directory {
                inode.link_count = inode.link_count.saturating_add_signed(by);
            }
            inode.touch_content(time);
        });
    }
}

fn new_body(content: &NewContent) -> Result<Body, Failure> {
    match content {
        NewContent::Inline(bytes) if bytes.len() > INLINE_SIZE_MAX => Err(Failure::TooLargeForInline),
        NewContent::Inline(bytes) => Ok(Body::Inline(bytes[..].into())),
        NewContent::Symlink(target) if target.is_empty() => Err(Failure::refused(
            Refusal::NotFound,
            "a symbolic link needs a target",
        )),
        NewContent::Symlink(target) if target.len() > PATH_SIZE_MAX => {
            Err(Failure::refused(Refusal::NameTooLong, "target is too long"))
        }
        NewContent::Symlink(target) if target.contains(&0) => {
            Err(Failure::refused(Refusal::InvalidArgument, "target holds a NUL"))
        }
        NewContent::Symlink(target) => Ok(Body::Symlink(target[..].into())),
        NewContent::Special { kind, device } => match kind {
            FileKind::Fifo | FileKind::Socket => Ok(Body::Special {
                kind: *kind,
                device: 0,
            }),
            FileKind::CharacterDevice | FileKind::BlockDevice => Ok(Body::Special {
                kind: *kind,
                device: *device,
            }),
            FileKind::Regular | FileKind::Directory | FileKind::Symlink => Err(Failure::refused(
                Refusal::InvalidArgument,
                "not a kind of special file",
            )),
        },
    }
}

impl Row for FileKind {
    fn encode<S: Sink>(&self, sink: &mut S) {
        let tag: u8 = match self {
            FileKind::Regular => 0,
            FileKind::Directory => 1,
            FileKind::Symlink => 2,
            FileKind::Fifo => 3,
            FileKind::Socket => 4,
            FileKind::CharacterDevice => 5,
            FileKind::BlockDevice => 6,
        };
        tag.encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(FileKind::Regular),
            1 => Ok(FileKind::Directory),
            2 => Ok(FileKind::Symlink),
            3 => Ok(FileKind::Fifo),
            4 => Ok(FileKind::Socket),
            5 => Ok(FileKind::CharacterDevice),
            6 => Ok(FileKind::BlockDevice),
            _ => Err(Error::Corrupt("an entry of unknown kind")),
        }
    }
}
