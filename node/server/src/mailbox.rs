//! What other threads of the node have for a worker: answers of the log and of the disk, messages of sibling
//! workers, the order to stop. Rare beside network traffic, so one MPSC queue a worker serves all.

use std::collections::VecDeque;

use bark_core::worker::event::{Input, SiblingMessage};
use bark_queue::mpsc;

use crate::thread_waker::ThreadWaker;

/// Mails a mailbox holds of each sender; senders keep what does not fit and try again.
const MAILS_MAX: usize = 4 * 1024;

#[derive(Debug)]
pub enum Mail {
    Input(Input),
    /// Everything one sibling sent in one of its turns.
    Siblings {
        from: u16,
        messages: Vec<SiblingMessage>,
    },
    Stop,
}

/// The sending end; one a sending thread.
pub struct MailSender {
    queue: mpsc::Producer<Mail>,
    waker: ThreadWaker,
    /// Mails that found the mailbox full, in order.
    overflow: VecDeque<Mail>,
}

pub type Mailbox = mpsc::Consumer<Mail>;

/// A mailbox for the worker that `waker` wakes; `senders_max` threads may send.
pub fn mailbox(waker: ThreadWaker, senders_max: usize) -> (MailSender, Mailbox) {
    let (queue, mailbox) = mpsc::channel(MAILS_MAX, senders_max);
    (
        MailSender {
            queue,
            waker,
            overflow: VecDeque::new(),
        },
        mailbox,
    )
}

impl Clone for MailSender {
    /// Another sending end; what this one could not send yet stays with it.
    fn clone(&self) -> MailSender {
        MailSender {
            queue: self.queue.clone(),
            waker: self.waker.clone(),
            overflow: VecDeque::new(),
        }
    }
}

impl MailSender {
    /// Queues a mail and wakes the worker if it sleeps. Never blocks: what does not fit is sent by a later call.
    pub fn send(&mut self, mail: Mail) {
        self.overflow.push_back(mail);
        self.flush();
    }

    /// Sends what did not fit before. True if nothing is left.
    pub fn flush(&mut self) -> bool {
        while let Some(mail) = self.overflow.pop_front() {
            match self.queue.push(mail) {
                Ok(()) => {}
                Err(full) => {
                    self.overflow.push_front(full.0);
                    break;
                }
            }
        }
        self.waker.wake();
        self.overflow.is_empty()
    }

    /// Like [`MailSender::flush`], but wakes nobody when there was nothing left.
    pub fn flush_rest(&mut self) -> bool {
        self.overflow.is_empty() || self.flush()
    }
}
