//! What the mount tells the kernel unasked.
//!
//! The kernel may block such a notice until requests it waits for are answered, so it leaves from a thread
//! that does nothing else.

use std::sync::mpsc;
use std::thread;

use bark_schema::ids::InodeId;
use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;

#[derive(Clone, Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
}

enum Notice {
    Attributes {
        inode: INodeNo,
        done: oneshot::Sender<()>,
    },
    Content {
        inode: INodeNo,
        done: Option<oneshot::Sender<()>>,
    },
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

    /// The attributes the kernel has of an inode are out of date; its pages are not touched.
    pub(crate) async fn attributes_changed(&self, inode: INodeNo) {
        let (done, finished) = oneshot::channel();
        if self.queue.send(Notice::Attributes { inode, done }).is_ok() {
            // It ends with the session: then there is no kernel left to tell.
            let _ = finished.await;
        }
    }

    /// So are the pages of a regular file. Nobody may wait for this who is to answer a write: the kernel holds the
    /// pages until then.
    pub(crate) fn content_changed(&self, inode: InodeId) {
        // Without a session there is no kernel to tell.
        let _ = self.queue.send(Notice::Content {
            inode: INodeNo(inode.0),
            done: None,
        });
    }

    /// The same for somebody who may wait until the kernel has forgotten them.
    pub(crate) async fn content_renewed(&self, inode: InodeId) {
        let (sender, finished) = oneshot::channel();
        let notice = Notice::Content {
            inode: INodeNo(inode.0),
            done: Some(sender),
        };
        if self.queue.send(notice).is_ok() {
            let _ = finished.await;
        }
    }
}

impl NoticeQueue {
    /// Delivers until the file system is gone.
    pub(crate) fn deliver(self, notifier: Notifier) -> std::io::Result<()> {
        let deliver = move || {
            for notice in self.queue {
                // A negative offset: attributes only. A length of 0: up to the end.
                let (inode, offset) = match &notice {
                    Notice::Attributes { inode, .. } => (*inode, -1),
                    Notice::Content { inode, .. } => (*inode, 0),
                };
                if let Err(error) = notifier.inval_inode(inode, offset, 0) {
                    tracing::debug!(%error, "the kernel did not take a notice");
                }
                let done = match notice {
                    Notice::Attributes { done, .. } => Some(done),
                    Notice::Content { done, .. } => done,
                };
                // Whoever asked may have gone.
                let _ = done.map(|done| done.send(()));
            }
        };
        thread::Builder::new().name("notices".into()).spawn(deliver)?;
        Ok(())
    }
}
