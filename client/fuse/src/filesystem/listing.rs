//! Listings: pages of a directory, with attributes or without.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{Generation, ReplyDirectory, ReplyDirectoryPlus};

use super::Filesystem;
use crate::attributes::file_type;
use crate::directory::DirectoryStream;

impl Filesystem {
    pub(super) fn list(&self, directory: Arc<DirectoryStream>, offset: u64, mut reply: ReplyDirectory) {
        self.start(|volume| async move {
            match directory.names(&volume.cluster, offset).await {
                Ok(part) => {
                    for entry in part.entries() {
                        let (number, kind) = (volume.number(entry.inode), file_type(entry.kind));
                        if reply.add(number, entry.cookie, kind, OsStr::from_bytes(&entry.name)) {
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
            let valid = volume.valid();
            let listed = volume.list(&directory, offset, |entry, shown| {
                let name = OsStr::from_bytes(&entry.name);
                reply.add(shown.ino, entry.cookie, name, &valid, shown, Generation(0))
            });
            match listed.await {
                Ok(()) => {
                    volume.was_read(directory.inode);
                    reply.ok();
                }
                Err(error) => reply.error(error),
            }
        });
    }
}
