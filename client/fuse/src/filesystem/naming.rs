//! Requests for names, and for what the file system has room for, that take more than handing them on.

use bark_schema::limits::KIB;
use bark_schema::operation::{Entry, RenameMode};
use bytes::Bytes;
use fuser::{Errno, Generation, INodeNo, RenameFlags, ReplyCreate, ReplyEmpty, ReplyStatfs};

use super::Filesystem;
use super::content::how_opened;
use crate::handles::Handle;
use crate::inheritance::Mode;
use crate::volume::Caller;

impl Filesystem {
    pub(super) fn create_file(
        &self,
        caller: Caller,
        (parent, entry): (INodeNo, Bytes),
        mode: Mode,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let handles = self.handles.clone();
        self.start(|volume| async move {
            let directory = volume.inode(parent);
            let made = volume.create_open(caller, directory, entry.clone(), mode, flags);
            match made.await {
                Ok((attributes, file, pages)) => {
                    let name = entry;
                    volume.note_told(&attributes, Entry { directory, name });
                    let handle = handles.add(Handle::File(file));
                    let how = how_opened(flags, pages, volume.is_strict);
                    reply.created(
                        &volume.names_valid(directory),
                        &attributes,
                        Generation(0),
                        handle,
                        how,
                    );
                }
                Err(error) => reply.error(error),
            }
        });
    }

    pub(super) fn rename_entry(&self, from: Entry, to: Entry, flags: RenameFlags, reply: ReplyEmpty) {
        let mode = match flags {
            flags if flags.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        self.start(|volume| async move {
            let renamed = volume.rename(from, to, mode).await;
            answer!(reply, renamed, () => reply.ok());
        });
    }

    pub(super) fn tell_capacity(&self, reply: ReplyStatfs) {
        self.start(|volume| async move {
            match volume.capacity().await {
                Ok(capacity) => reply.statfs(
                    capacity.blocks,
                    capacity.free,
                    capacity.free,
                    capacity.inodes.saturating_add(capacity.free_inodes),
                    capacity.free_inodes,
                    (4 * KIB) as u32,
                    255,
                    (4 * KIB) as u32,
                ),
                Err(error) => reply.error(error),
            }
        });
    }
}
