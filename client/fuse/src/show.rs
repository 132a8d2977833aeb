//! What the kernel is told of inodes: by an answer to one question, or to one about a directory.
//!
//! The kernel counts what programs write and change: what it asked for before that, it does not take from an answer. It
//! does not see when this mount publishes. So an answer that was on its way meanwhile shows a file as it was before writes the
//! kernel has forgotten about, and is not told.

use bark_schema::operation::{Attributes, DirectoryEntry, Entry};
use fuser::{Errno, FileAttr, FileType};

use crate::attributes::{bare_directory, file_attributes};
use crate::directory::{DirectoryStream, ask_missing, is_dot};
use crate::errno::errno;
use crate::volume::Volume;

/// How often an answer may be overtaken: each time, this mount has published something of the file and closed it.
const OVERTAKEN_MAX: u32 = 8;

impl Volume {
    /// Attributes on their way to the kernel.
    pub(crate) fn show(&self, attributes: Attributes) -> FileAttr {
        let attributes = self.files.show(attributes);
        self.with_access_time(attributes)
    }

    /// What the cluster answered to a question, which is asked again if a publication of this mount has overtaken it.
    pub(crate) async fn show_answer(&self, mut attributes: Attributes) -> Result<FileAttr, Errno> {
        for _ in 0..OVERTAKEN_MAX {
            let inode = attributes.inode;
            let moment = (attributes.version, attributes.changed);
            if let Some(current) = self.files.show_current(attributes) {
                return Ok(self.with_access_time(current));
            }
            attributes = self.cluster.attributes(inode).await.map_err(errno)?;
            if (attributes.version, attributes.changed) == moment {
                // It is so: where the clock here is ahead of the nodes', they note an earlier time than was decided here.
                self.files.correct_published(inode, moment);
                break;
            }
        }
        Ok(self.show(attributes))
    }

    /// Attributes of a file with what is written here, which the cluster does not have yet.
    pub(crate) fn show_written(&self, attributes: &Attributes) -> FileAttr {
        self.files.note_shown(attributes);
        self.with_access_time(attributes.clone())
    }

    /// The time of the last read that is not told yet counts too.
    pub(crate) fn with_access_time(&self, mut attributes: Attributes) -> FileAttr {
        self.access_times.show_in(&mut attributes);
        file_attributes(&attributes, self.number(attributes.inode))
    }

    /// The kernel is told that a name leads there.
    pub(crate) fn note_told(&self, shown: &FileAttr, entry: Entry) {
        if shown.kind == FileType::RegularFile {
            self.told_names.note(self.inode(shown.ino), entry);
        }
    }

    /// Part of a directory with attributes, one entry after the other until `add` says that there is no more room. The
    /// kernel takes no attributes of `.` and `..`.
    pub(crate) async fn list(
        &self,
        directory: &DirectoryStream,
        mut from: u64,
        mut add: impl FnMut(&DirectoryEntry, &FileAttr) -> bool,
    ) -> Result<(), Errno> {
        loop {
            let part = directory.entries(&self.cluster, from).await?;
            let asked = ask_missing(&self.cluster, &part).await?;
            let mut is_empty = true;
            for entry in part.entries().take(asked.count) {
                from = entry.cookie;
                let shown = match asked.attributes(entry) {
                    Some(attributes) => match self.show_answer(attributes.clone()).await {
                        Err(Errno::ENOENT) => continue,
                        shown => shown?,
                    },
                    None if is_dot(entry) => bare_directory(self.number(entry.inode)),
                    None => continue,
                };
                is_empty = false;
                if add(entry, &shown) {
                    break;
                }
                let (directory, name) = (directory.inode, entry.name.clone());
                self.note_told(&shown, Entry { directory, name });
            }
            // If all of them were removed meanwhile: an answer without an entry would be the end of the directory.
            if !is_empty || asked.count == 0 {
                return Ok(());
            }
        }
    }
}
