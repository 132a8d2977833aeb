//! Directory entries, and the commands that make and remove one: create and unlink.
//!
//! Entries live where their directory lives; a new file's inode is born beside them, so both commands are
//! one log entry of one partition.
//!
//! Invariants:
//! - An entry's directory exists here, is a directory, and counts the entry in `children`.
//! - An entry of kind directory counts once in its directory's link count.
//! - An entry whose inode's home is here points at an inode that exists, but for transactions under way.

use bark_schema::ids::InodeId;
use bark_schema::limits::{INLINE_SIZE_MAX, NAME_SIZE_MAX, PATH_SIZE_MAX};
use bark_schema::operation::{Failure, FileKind, NewContent, NewInode, Refusal, Reply};

use super::codec::{Reader, Row, Sink, row_struct};
use super::inode::{Body, Inode, is_at_home};
use super::{Error, State};

/// Directory and name.
pub(crate) type DentryKey = (InodeId, Box<[u8]>);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Dentry {
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
}
row_struct!(Dentry { inode, kind });

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
        self.dentries.get(&(directory, name.into())).copied()
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
            let asks_for_link = matches!(content, NewContent::Symlink(_));
            return self.open_existing(existing, exclusive || asks_for_link);
        }
        let body = new_body(content)?;
        let kind = match body {
            Body::Symlink(_) => FileKind::Symlink,
            _ => FileKind::Regular,
        };
        let id = self.next_inode()?;
        let inode = Inode::new(attributes, body, self.time);
        let attributes = inode.attributes(id);
        self.bear(id, inode);
        self.put_dentry(directory, name, Dentry { inode: id, kind });
        Ok(Reply::Created {
            attributes,
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
            FileKind::Regular if !is_at_home(existing.inode, self.partition) => Err(Failure::CrossPartition),
            FileKind::Regular => {
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
        self.drop_link(entry.inode);
        Ok(Reply::Done)
    }

    /// Adds an entry, or points an existing one elsewhere.
    pub(super) fn put_dentry(&mut self, directory: InodeId, name: &[u8], dentry: Dentry) {
        self.remove_dentry(directory, name);
        self.dentries.insert((directory, name.into()), dentry);
        self.count_entry(directory, dentry.kind, 1);
    }

    pub(super) fn remove_dentry(&mut self, directory: InodeId, name: &[u8]) {
        if let Some(old) = self.dentries.remove(&(directory, Box::from(name))) {
            self.count_entry(directory, old.kind, -1);
        }
    }

    fn count_entry(&mut self, directory: InodeId, kind: FileKind, by: i32) {
        let time = self.time;
        self.inodes.update(&directory, |inode| {
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
    }
}

impl Row for FileKind {
    fn encode<S: Sink>(&self, sink: &mut S) {
        let tag: u8 = match self {
            FileKind::Regular => 0,
            FileKind::Directory => 1,
            FileKind::Symlink => 2,
        };
        tag.encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(FileKind::Regular),
            1 => Ok(FileKind::Directory),
            2 => Ok(FileKind::Symlink),
            _ => Err(Error::Corrupt("an entry of unknown kind")),
        }
    }
}
