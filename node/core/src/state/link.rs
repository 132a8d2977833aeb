//! One more name for an inode, when both are at home here.

use bark_schema::ids::InodeId;
use bark_schema::operation::{Entry, Failure, FileKind, Refusal, Reply};

use super::State;
use super::dentry::{Dentry, check_name};
use super::inode::is_at_home;

impl State {
    pub(super) fn link(&mut self, inode: InodeId, to: &Entry) -> Result<Reply, Failure> {
        check_name(&to.name)?;
        if !is_at_home(inode, self.partition) || !is_at_home(to.directory, self.partition) {
            return Err(Failure::CrossPartition);
        }
        self.directory(to.directory)?;
        self.check_entry_unlocked(to.directory, &to.name)?;
        self.check_inode_unlocked(inode)?;
        let kind = self.inode(inode)?.kind();
        if kind == FileKind::Directory {
            return Err(Failure::refused(
                Refusal::NotPermitted,
                "directories have one name",
            ));
        }
        if self.dentry(to.directory, &to.name).is_some() {
            return Err(Failure::refused(Refusal::Exists, "file exists"));
        }
        self.check_names(inode, Some(to.directory), None)?;
        self.check_room_for(to.directory, &to.name)?;
        let counted_in = self.inode(inode)?.directory;
        self.check_same_quota(counted_in, to.directory)?;
        self.put_dentry(to.directory, &to.name, Dentry { inode, kind });
        self.change_names(inode, Some(to.directory), None);
        self.answer_attributes(inode)
    }
}
