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

/// What the kernel has of a regular file is out of date.
struct Notice {
    inode: INodeNo,
    done: Option<oneshot::Sender<()>>,
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
        self.send(inode, None);
    }

    /// The same for somebody who may wait until the kernel has forgotten them.
    pub(crate) async fn content_renewed(&self, inode: InodeId) {
        let (done, finished) = oneshot::channel();
        self.send(inode, Some(done));
        // It ends with the session: then there is no kernel left to tell.
        let _ = finished.await;
    }

    fn send(&self, inode: InodeId, done: Option<oneshot::Sender<()>>) {
        let inode = INodeNo(inode.0);
        // Without a session there is no kernel to tell.
        let _ = self.queue.send(Notice { inode, done });
    }
}

impl NoticeQueue {
    /// Delivers until the file system is gone.
    pub(crate) fn deliver(self, notifier: Notifier) -> std::io::Result<()> {
        let deliver = move || {
            for Notice { inode, done } in self.queue {
                // From the first byte to the end.
                if let Err(error) = notifier.inval_inode(inode, 0, 0) {
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
