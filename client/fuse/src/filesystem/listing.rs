//! Listings: pages of a directory, with attributes or without.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use bark_schema::operation::Entry;
use fuser::{Generation, ReplyDirectory, ReplyDirectoryPlus};

use super::Filesystem;
use crate::attributes::file_type;
use crate::directory::DirectoryStream;

/// Entries looked at for one page of a listing; a page is as large as the kernel's buffer.
const LIST_ENTRIES: usize = 256;

impl Filesystem {
    pub(super) fn list(&self, directory: Arc<DirectoryStream>, offset: u64, mut reply: ReplyDirectory) {
        self.start(|volume| async move {
            match directory.entries(&volume.cluster, offset, LIST_ENTRIES).await {
                Ok(entries) => {
                    for entry in entries {
                        let (number, kind) = (volume.number(entry.inode), file_type(entry.kind));
                        if reply.add(number, entry.next, kind, OsStr::from_bytes(&entry.name)) {
                            break;
                        }
                    }
                    volume.was_read(directory.inode);
                    reply.ok();
                }
                Err(error) => reply.error(error),
            }
        });
    }

    pub(super) fn list_with_attributes(
        &self,
        directory: Arc<DirectoryStream>,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.start(|volume| async move {
            match volume.list(&directory, offset, LIST_ENTRIES).await {
                Ok(entries) => {
                    for (entry, shown) in entries {
                        let entry_name = OsStr::from_bytes(&entry.name);
                        if reply.add(
                            shown.ino,
                            entry.next,
                            entry_name,
                            &volume.valid(),
                            &shown,
                            Generation(0),
                        ) {
                            break;
                        }
                        let (directory, name) = (directory.inode, entry.name);
                        volume.note_told(&shown, Entry { directory, name });
                    }
                    volume.was_read(directory.inode);
                    reply.ok();
                }
                Err(error) => reply.error(error),
            }
        });
    }
}
