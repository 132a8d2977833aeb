//! What the mount tells the kernel unasked.
//!
//! The kernel may block such a notice until requests it waits for are answered, so it leaves from a thread
//! that does nothing else.

use std::sync::mpsc;
use std::thread;

use fuser::{INodeNo, Notifier};
use tokio::sync::oneshot;

#[derive(Clone, Debug)]
pub(crate) struct Notices {
    queue: mpsc::Sender<Notice>,
}

struct Notice {
    inode: INodeNo,
    done: oneshot::Sender<()>,
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
        if self.queue.send(Notice { inode, done }).is_ok() {
            // It ends with the session: then there is no kernel left to tell.
            let _ = finished.await;
        }
    }
}

impl NoticeQueue {
    /// Delivers until the file system is gone.
    pub(crate) fn deliver(self, notifier: Notifier) -> std::io::Result<()> {
        let deliver = move || {
            for notice in self.queue {
                // A negative offset: attributes only.
                if let Err(error) = notifier.inval_inode(notice.inode, -1, 0) {
                    tracing::debug!(%error, "the kernel did not take a notice");
                }
                // Whoever asked may have gone.
                let _ = notice.done.send(());
            }
        };
        thread::Builder::new().name("notices".into()).spawn(deliver)?;
        Ok(())
    }
}
