//! What the mount tells the kernel unasked.
//!
//! The kernel may block such a notice until requests it waits for are answered, so it leaves from a thread
//! that does nothing else.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::mpsc;
use std::thread;

use bark_schema::ids::InodeId;
use bytes::Bytes;
use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;

#[derive(Clone, Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
}

struct Notice {
    subject: Subject,
    done: Option<oneshot::Sender<()>>,
}

/// What is out of date.
enum Subject {
    /// All the kernel has of a regular file.
    Content(INodeNo),
    /// Where a name of a directory leads.
    Name(INodeNo, Bytes),
}

/// The end of the queue that waits for a mounted session.
pub(crate) struct NoticeQueue {
    queue: mpsc::Receiver<Notice>,
}

impl Notices {
    pub(crate) fn new() -> (Notices, NoticeQueue) {
        let (sender, receiver) = mpsc::channel();
        (Notices { queue: sender }, NoticeQueue { queue: receiver })
    }

    /// What the kernel has of a regular file is out of date: its pages and attributes. Nobody may wait for this who is to
    /// answer a write: the kernel holds the pages until then.
    pub(crate) fn content_changed(&self, inode: InodeId) {
        self.send(content(inode), None);
    }

    /// A name does not lead where the kernel believes it does. Nobody may wait for what comes of this while he is to answer a
    /// question about that directory.
    pub(crate) fn name_gone(&self, directory: INodeNo, name: Bytes) {
        self.send(Subject::Name(directory, name), None);
    }

    /// The same for somebody who may wait until the kernel has forgotten it.
    pub(crate) async fn name_forgotten(&self, directory: INodeNo, name: Bytes) {
        self.send_and_wait(Subject::Name(directory, name)).await;
    }

    /// The same for somebody who may wait until the kernel has forgotten them.
    pub(crate) async fn content_renewed(&self, inode: InodeId) {
        self.send_and_wait(content(inode)).await;
    }

    async fn send_and_wait(&self, subject: Subject) {
        let (done, finished) = oneshot::channel();
        self.send(subject, Some(done));
        // It ends with the session: then there is no kernel left to tell.
        let _ = finished.await;
    }

    fn send(&self, subject: Subject, done: Option<oneshot::Sender<()>>) {
        // Without a session there is no kernel to tell.
        let _ = self.queue.send(Notice { subject, done });
    }
}

fn content(inode: InodeId) -> Subject {
    Subject::Content(INodeNo(inode.0))
}

impl NoticeQueue {
    /// Delivers until the file system is gone.
    pub(crate) fn deliver(self, notifier: Notifier) -> std::io::Result<()> {
        let deliver = move || {
            for Notice { subject, done } in self.queue {
                let taken = match &subject {
                    // From the first byte to the end.
                    Subject::Content(inode) => notifier.inval_inode(*inode, 0, 0),
                    Subject::Name(directory, name) => {
                        notifier.inval_entry(*directory, OsStr::from_bytes(name))
                    }
                };
                if let Err(error) = taken {
                    tracing::debug!(%error, "the kernel did not take a notice");
                }
                // Whoever asked may have gone.
                let _ = done.map(|done| done.send(()));
            }
        };
        thread::Builder::new().name("notices".into()).spawn(deliver)?;
        Ok(())
    }
}
