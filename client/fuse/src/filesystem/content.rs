//! Requests for the content of files that take more than handing them on.

use std::sync::Arc;

use fuser::{INodeNo, OpenFlags, ReplyOpen, ReplyWrite};

use super::{Filesystem, cache};
use crate::handles::Handle;
use crate::open_file::OpenFile;

/// What comes with a write.
pub(super) struct How {
    /// The program has no privileges, so the file loses its set-user and set-group bits.
    pub(super) kills: bool,
    /// It is published before it is answered.
    pub(super) synchronous: bool,
}

impl Filesystem {
    pub(super) fn open_file(&self, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (handles, notices) = (self.handles.clone(), self.notices.clone());
        self.start(|volume| async move {
            match volume.open(volume.inode(inode), flags.0).await {
                Ok((file, keep, stale)) => {
                    if stale {
                        notices.attributes_changed(inode).await;
                    }
                    reply.opened(handles.add(Handle::File(file)), cache(keep));
                }
                Err(error) => reply.error(error),
            }
        });
    }

    /// Answered on the spot where nothing else is to be done and there is room.
    pub(super) fn write_file(
        &self,
        file: Arc<OpenFile>,
        (offset, data): (u64, &[u8]),
        how: How,
        reply: ReplyWrite,
    ) {
        let written = data.len() as u32;
        {
            let _entered = self.runtime.enter();
            file.write(offset, data, !how.kills);
        }
        if !how.synchronous && !file.memory.is_full() {
            return reply.written(written);
        }
        self.start(|volume| async move {
            if how.synchronous
                && let Err(error) = volume.publish(&file).await
            {
                return reply.error(error);
            }
            file.memory.freed().await;
            reply.written(written);
        });
    }
}
