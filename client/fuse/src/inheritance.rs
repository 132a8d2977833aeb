//! What a new inode gets from the program that makes it and from the directory it is born in.
//!
//! A directory with the set-group bit gives its group, and to directories the bit. A directory with a default
//! access control list gives that, and then the program's umask does not count.
//!
//! Invariant: what is inherited is in the command that creates the inode, so nobody meets it without.

use bark_schema::access_list::{self, AccessList};
use bark_schema::ids::InodeId;
use bark_schema::operation::{Failure, FileKind, NewInode, Refusal, Xattr};
use bytes::Bytes;
use fuser::Errno;

use crate::errno::errno;
use crate::volume::{Caller, Volume};

const SET_GROUP: u32 = libc::S_ISGID;

/// What a program asks for, and what it never wants others to be allowed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    pub(crate) mode: u32,
    pub(crate) umask: u32,
}

impl Volume {
    pub(crate) async fn new_inode(
        &self,
        caller: Caller,
        directory: InodeId,
        mode: Mode,
        kind: FileKind,
    ) -> Result<NewInode, Errno> {
        let (parent_mode, parent_group, bare) = match self.files.shown(directory) {
            Some(shown) => (shown.mode, shown.group, shown.bare),
            None => {
                let parent = self.cluster.attributes(directory).await.map_err(errno)?;
                (parent.mode, parent.group, parent.xattr_count == 0)
            }
        };
        let mut new = NewInode {
            mode: mode.mode & 0o7777,
            owner: caller.user,
            group: caller.group,
            ..NewInode::default()
        };
        if parent_mode & SET_GROUP != 0 {
            new.group = parent_group;
            if kind == FileKind::Directory {
                new.mode |= SET_GROUP;
            }
        }
        let default = match bare || kind == FileKind::Symlink {
            true => None,
            false => self.default_list(directory).await?,
        };
        match default {
            Some(default) => inherit(&mut new, kind, &default),
            None => new.mode &= !mode.umask,
        }
        Ok(new)
    }

    async fn default_list(&self, directory: InodeId) -> Result<Option<AccessList>, Errno> {
        let name = Bytes::from_static(access_list::DEFAULT);
        match self.cluster.xattr(directory, name).await {
            Ok(value) => Ok(AccessList::parse(&value)),
            Err(Failure::Refused(Refusal::NoData, _)) => Ok(None),
            Err(failure) => Err(errno(failure)),
        }
    }
}

fn inherit(new: &mut NewInode, kind: FileKind, default: &AccessList) {
    let list = default.inherited(new.mode);
    new.mode = new.mode & !0o777 | list.permissions();
    let mut give = |name: &'static [u8], list: &AccessList| {
        new.xattrs.push(Xattr {
            name: Bytes::from_static(name),
            value: list.encode(),
        });
    };
    if !list.is_minimal() {
        give(access_list::ACCESS, &list);
    }
    if kind == FileKind::Directory {
        give(access_list::DEFAULT, default);
    }
}
