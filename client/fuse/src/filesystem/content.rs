//! Requests for the content of files that take more than handing them on.

use std::sync::Arc;

use bytes::Bytes;
use fuser::{FopenFlags, INodeNo, OpenFlags, ReplyOpen, ReplyWrite};

use super::Filesystem;
use crate::handles::Handle;
use crate::lock_table::Standing;
use crate::open_file::{OpenFile, Way};
use crate::pages::Renewed;

/// What comes with a write.
pub(super) struct How {
    /// It is published before it is answered.
    pub(super) synchronous: bool,
    pub(super) way: Way,
}

/// What the kernel does with the pages it has of a file that is opened. A strict mount goes past them, and so does who
/// appends: through them a write comes in parts that end with pages, and what others append could come between.
pub(super) fn how_opened(flags: i32, pages: Renewed, is_strict: bool) -> FopenFlags {
    let writes = flags & libc::O_ACCMODE != libc::O_RDONLY;
    match pages {
        _ if is_strict || (writes && flags & libc::O_APPEND != 0) => FopenFlags::FOPEN_DIRECT_IO,
        Renewed::Right | Renewed::Dropped => FopenFlags::FOPEN_KEEP_CACHE,
        Renewed::Absent => FopenFlags::empty(),
    }
}

/// An open that reads, and moves the time of access.
fn counts_as_read(flags: i32) -> bool {
    flags & libc::O_ACCMODE == libc::O_RDONLY && flags & libc::O_NOATIME == 0
}

impl Filesystem {
    pub(super) fn open_file(&self, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let handles = self.handles.clone();
        self.start(|volume| async move {
            match volume.open(volume.inode(inode), flags.0).await {
                Ok((file, pages)) => {
                    // What is read out of pages the kernel keeps is not heard of here.
                    if pages == Renewed::Right && counts_as_read(flags.0) {
                        volume.access_times.read(file.inode, file.times());
                    }
                    reply.opened(
                        handles.add(Handle::File(file)),
                        how_opened(flags.0, pages, volume.is_strict),
                    );
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
        let size = data.len() as u32;
        let is_fine = self.volume.cluster.locks().standing(file.inode) == Standing::Fine;
        let place = is_fine.then(|| {
            let _entered = self.runtime.enter();
            file.write(offset, data, how.way)
        });
        let place = place.flatten();
        if how.way.appends && self.volume.files.is_shared(file.inode) {
            // Appending goes past the kernel's pages, which others may have read again meanwhile.
            self.notices.content_changed(file.inode);
        }
        if place.is_some() && !how.synchronous && !file.memory.is_full() {
            return reply.written(size);
        }
        let left = place.is_none().then(|| Bytes::copy_from_slice(data));
        self.start(|volume| async move {
            let written = async {
                volume.settle_locks(&file).await?;
                let mut place = place;
                while let (None, Some(data)) = (place, &left) {
                    volume.publish(&file).await?;
                    place = file.write(offset, data, how.way);
                }
                if how.synchronous
                    && let Err(error) = volume.publish(&file).await
                {
                    let place = place.unwrap_or(offset);
                    file.withdraw(place, place + u64::from(size));
                    return Err(error);
                }
                file.memory.freed().await;
                Ok(())
            };
            match written.await {
                Ok(()) => reply.written(size),
                Err(error) => reply.error(error),
            }
        });
    }
}
