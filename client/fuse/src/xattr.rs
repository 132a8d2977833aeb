//! Extended attributes.
//!
//! Names of `user.`, `trusted.` and `security.` are kept as they are, and so are access control lists, which
//! the kernel checks. Other names of `system.` mean nothing here.

use bark_schema::access_list;
use bark_schema::ids::InodeId;
use bark_schema::limits::{XATTR_NAME_SIZE_MAX, XATTR_SIZE_MAX};
use bark_schema::operation::{Condition, Xattr};
use bytes::{BufMut, Bytes, BytesMut};
use fuser::{Errno, ReplyXattr};

use crate::errno::errno;
use crate::volume::{Caller, Volume};

impl Volume {
    pub(crate) async fn xattr(&self, inode: InodeId, name: Bytes) -> Result<Bytes, Errno> {
        check(&name)?;
        if self.is_bare(inode) {
            return Err(Errno::from_i32(libc::ENODATA));
        }
        self.cluster.xattr(inode, name).await.map_err(errno)
    }

    /// All names, each ended by a NUL, as listxattr has them.
    pub(crate) async fn xattrs(&self, inode: InodeId) -> Result<Bytes, Errno> {
        let mut list = BytesMut::new();
        if self.is_bare(inode) {
            return Ok(list.freeze());
        }
        for name in self.cluster.xattrs(inode).await.map_err(errno)? {
            list.extend_from_slice(&name);
            list.put_u8(0);
        }
        Ok(list.freeze())
    }

    pub(crate) async fn set_xattr(
        &self,
        caller: Caller,
        inode: InodeId,
        name: Bytes,
        value: Bytes,
        flags: i32,
    ) -> Result<(), Errno> {
        check(&name)?;
        if value.len() > XATTR_SIZE_MAX {
            return Err(Errno::E2BIG);
        }
        self.settle(inode).await?;
        let condition = match flags {
            libc::XATTR_CREATE => Condition::IfAbsent,
            libc::XATTR_REPLACE => Condition::IfPresent,
            _ => Condition::Always,
        };
        let mode = match name == access_list::ACCESS {
            true => self.mode_without_group_bit(caller, inode).await?,
            false => None,
        };
        let xattr = Xattr { name, value };
        let set = self.cluster.set_xattr(inode, xattr, condition, mode).await;
        self.directories.changed();
        self.show(set.map_err(errno)?);
        Ok(())
    }

    /// Whoever sets an access list and is not of the inode's group takes its set-group bit away, as with chmod.
    /// The kernel names one group of the program; of the others nothing is known here.
    async fn mode_without_group_bit(&self, caller: Caller, inode: InodeId) -> Result<Option<u32>, Errno> {
        let attributes = self.cluster.attributes(inode).await.map_err(errno)?;
        let set = attributes.mode & libc::S_ISGID != 0;
        let keeps = caller.user == 0 || caller.group == attributes.group;
        Ok((set && !keeps).then_some(attributes.mode & !libc::S_ISGID))
    }

    pub(crate) async fn remove_xattr(&self, inode: InodeId, name: Bytes) -> Result<(), Errno> {
        check(&name)?;
        self.settle(inode).await?;
        let removed = self.cluster.remove_xattr(inode, name).await;
        self.directories.changed();
        self.show(removed.map_err(errno)?);
        Ok(())
    }
}

/// Answers as getxattr and listxattr want it: the size alone, or the bytes if there is room for them.
pub(crate) fn answer(reply: ReplyXattr, size: u32, result: Result<Bytes, Errno>) {
    match result {
        Ok(bytes) if size == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(error),
    }
}

fn check(name: &[u8]) -> Result<(), Errno> {
    if name.len() > XATTR_NAME_SIZE_MAX {
        return Err(Errno::ERANGE);
    }
    let is_list = name == access_list::ACCESS || name == access_list::DEFAULT;
    match name.starts_with(b"system.") && !is_list {
        true => Err(Errno::EOPNOTSUPP),
        false => Ok(()),
    }
}
