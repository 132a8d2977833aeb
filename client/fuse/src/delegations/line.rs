//! What is on its way to one partition, and until when its leader's word counts.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bark_client::OrderedChange;
use bark_client::session::Call;
use bark_schema::file_lock::LockCommand;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::LEASE_MS_DEFAULT;
use bark_schema::operation::{Command, Failure, Query, Reply, UnixNanos};
use tokio::sync::{RwLock, mpsc};

use super::read::is_decided_here;
use super::{Delegations, Table};
use crate::errno::errno;

/// Changes on their way to one partition at once; the cluster remembers the answers of as many.
const OUT_MAX: usize = 1024;
const OUT_BYTES_MAX: usize = 8 << 20;
/// So long after it was asked the leader's word counts: a client stops itself well before its lease is over.
const CONFIRMED: Duration = Duration::from_millis(LEASE_MS_DEFAULT as u64 / 2);

#[derive(Debug)]
pub(super) struct Line {
    /// Inode numbers set aside for files made here.
    pub(super) numbers: VecDeque<Range<u64>>,
    /// By ticket, with their sizes.
    out: BTreeMap<u64, usize>,
    out_bytes: usize,
    /// How many of these change an inode, whether the table still knows it or has forgotten it.
    pending: HashMap<InodeId, u32>,
    next_ticket: u64,
    /// Changes up to this ticket do not wait for company at the leader.
    hurried: u64,
    /// Counts whatever the table did or was made to forget, so that late answers are not believed.
    pub(super) changes: u64,
    confirmed_at: Option<Instant>,
    /// The cluster knows a lease of this client.
    pub(super) has_lease: bool,
    pub(super) is_watched: bool,
    /// A change was refused: nothing more is decided here until all is given back.
    pub(super) is_broken: bool,
    /// Held while a directory is taken, and shared by whatever changes something in the cluster directly.
    pub(super) gate: Arc<RwLock<()>>,
}

impl Default for Line {
    fn default() -> Line {
        Line {
            numbers: VecDeque::new(),
            out: BTreeMap::new(),
            out_bytes: 0,
            pending: HashMap::new(),
            next_ticket: 1,
            hurried: 0,
            changes: 0,
            confirmed_at: None,
            has_lease: false,
            is_watched: false,
            is_broken: false,
            gate: Arc::new(RwLock::new(())),
        }
    }
}

/// A change to be sent: to which inodes of the table, when, how large.
pub(super) struct Change {
    pub(super) partition: PartitionId,
    pub(super) time: UnixNanos,
    pub(super) number: Option<InodeId>,
    pub(super) command: Command,
    pub(super) haste: Haste,
    /// What it changes: of the table's files, and of directories.
    pub(super) member: Option<InodeId>,
    pub(super) directories: Vec<InodeId>,
}

/// Whether a program waits until a change is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// It may wait for company at the leader.
    Relaxed,
    /// It goes into the log at once.
    Awaited,
}

/// How a change ended.
pub(super) struct End {
    partition: PartitionId,
    ticket: u64,
    member: Option<InodeId>,
    directories: Vec<InodeId>,
    lock: Option<SentLock>,
    result: Result<Reply, Failure>,
}

/// A lock that was given or taken here.
#[derive(Clone, Copy, Debug)]
struct SentLock {
    sent: Instant,
    is_taken: bool,
}

/// A change that is not with the kernel yet: who was not answered waits for its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    partition: PartitionId,
    number: u64,
}

impl SentLock {
    fn of(command: &Command) -> Option<SentLock> {
        let Command::Lock(command) = command else {
            return None;
        };
        Some(SentLock {
            sent: Instant::now(),
            is_taken: matches!(command, LockCommand::Take { .. }),
        })
    }
}

impl Line {
    pub(super) fn is_valid(&self, now: Instant) -> bool {
        let is_confirmed = self.confirmed_at.is_some_and(|at| now < at + CONFIRMED);
        is_confirmed && !self.is_broken
    }

    /// The cluster answered what was asked at that time.
    pub(super) fn confirm(&mut self, asked_at: Instant) {
        self.confirmed_at = self.confirmed_at.max(Some(asked_at));
    }

    pub(super) fn doubt(&mut self) {
        self.confirmed_at = None;
    }

    /// A change of these inodes is on its way.
    fn begin<'a>(&mut self, inodes: impl Iterator<Item = &'a InodeId>, size: usize) -> u64 {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        self.changes += 1;
        self.out.insert(ticket, size);
        self.out_bytes += size;
        for inode in inodes {
            *self.pending.entry(*inode).or_default() += 1;
        }
        ticket
    }

    /// It no longer is.
    fn end<'a>(&mut self, ticket: u64, inodes: impl Iterator<Item = &'a InodeId>) {
        let Some(size) = self.out.remove(&ticket) else {
            return;
        };
        self.out_bytes -= size;
        for inode in inodes {
            if let Entry::Occupied(mut pending) = self.pending.entry(*inode) {
                *pending.get_mut() -= 1;
                if *pending.get() == 0 {
                    pending.remove();
                }
            }
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.out.len() < OUT_MAX && self.out_bytes < OUT_BYTES_MAX
    }

    pub(super) fn is_idle(&self) -> bool {
        self.out.is_empty()
    }

    pub(super) fn take_number(&mut self, partition: PartitionId) -> Option<InodeId> {
        let first = self.numbers.front_mut()?;
        let number = first.next();
        if first.is_empty() {
            self.numbers.pop_front();
        }
        number.map(|counter| InodeId::new(partition, counter))
    }

    pub(super) fn numbers_left(&self) -> u64 {
        self.numbers.iter().map(|range| range.end - range.start).sum()
    }
}

impl Delegations {
    /// Sends what was decided, under the table's lock. None: the kernel has it.
    pub(super) fn send(&self, table: &mut Table, change: Change, size: usize) -> Option<Ticket> {
        let Change {
            partition,
            time,
            number,
            command,
            haste,
            member,
            directories,
        } = change;
        let line = table.lines.entry(partition).or_default();
        let ticket = line.begin(member.iter().chain(&directories), size);
        let awaited = haste == Haste::Awaited;
        if awaited {
            line.hurried = ticket;
        }
        let lock = SentLock::of(&command);
        let ends = self.ends.clone();
        let end = Box::new(move |result| {
            // Without the mount nobody is left to tell.
            let _ = ends.send(End {
                partition,
                ticket,
                member,
                directories,
                lock,
                result,
            });
        });
        let inode = number;
        let change = OrderedChange {
            partition,
            time,
            inode,
            awaited,
            command,
        };
        match self.client.send_ordered(change, end) {
            true => None,
            false => Some(Ticket {
                partition,
                number: ticket,
            }),
        }
    }

    /// Waits until a change is applied that the kernel did not have when it was sent.
    pub(super) async fn wait_for(&self, ticket: Option<Ticket>) {
        if let Some(Ticket { partition, number }) = ticket {
            self.wait_until(partition, |line| !line.out.contains_key(&number))
                .await;
        }
    }

    /// Waits until what was sent to a partition before is applied, and has it applied now. With that it is as durable as
    /// the cluster makes things.
    pub(crate) async fn settle(&self, partition: PartitionId) {
        let (last, is_hurried) = match self.lock().lines.get_mut(&partition) {
            Some(line) if !line.is_idle() => {
                let last = line.next_ticket - 1;
                (last, std::mem::replace(&mut line.hurried, last) == last)
            }
            _ => return,
        };
        let ask = async {
            if !is_hurried {
                // Any question ends the leader's wait for more; this one costs it least. Whatever is answered: the changes'
                // own ends count.
                let query = Query::KeyCount;
                let _ = self.client.call(Call::Query { partition, query }).await;
            }
        };
        let done = self.wait_until(partition, |line| {
            line.out.first_key_value().is_none_or(|(first, _)| *first > last)
        });
        tokio::join!(ask, done);
    }

    /// The same, if something was decided of the inode that has not arrived yet.
    pub(crate) async fn settle_changes_of(&self, inode: InodeId) {
        if self.lock().is_pending(inode) {
            self.settle(inode.home()).await;
        }
    }

    /// What the cluster says of a lock that was given or taken here.
    fn lock_arrived(&self, end: &End, lock: SentLock) {
        match &end.result {
            Ok(_) if lock.is_taken => self.locks.confirm(end.partition, lock.sent),
            Ok(_) => {}
            Err(failure) => {
                tracing::warn!(partition = end.partition.0, %failure, "a lock that was given is lost");
                self.locks.fail(end.partition);
            }
        }
    }

    pub(super) fn gate(&self, partition: PartitionId) -> Arc<RwLock<()>> {
        self.lock().lines.entry(partition).or_default().gate.clone()
    }

    pub(crate) async fn settle_all(&self) {
        let partitions: Vec<PartitionId> = self.lock().lines.keys().copied().collect();
        futures::future::join_all(partitions.into_iter().map(|partition| self.settle(partition))).await;
    }

    async fn wait_until(&self, partition: PartitionId, is_over: impl Fn(&Line) -> bool) {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if self.lock().lines.get(&partition).is_none_or(&is_over) {
                return;
            }
            progress.await;
        }
    }
}

/// Takes the ends of changes into the table, for as long as the mount lives.
pub(super) async fn take_ends(delegations: Weak<Delegations>, mut ends: mpsc::UnboundedReceiver<End>) {
    let mut some = Vec::new();
    while ends.recv_many(&mut some, OUT_MAX).await > 0 {
        let Some(delegations) = delegations.upgrade() else {
            return;
        };
        let mut broken = Vec::new();
        {
            let mut table = delegations.lock();
            for end in some.drain(..) {
                let partition = end.partition;
                if let Some(lock) = end.lock {
                    delegations.lock_arrived(&end, lock);
                    table.arrive(&end);
                    continue;
                }
                if !table.end(end) {
                    broken.push(partition);
                }
            }
        }
        delegations.progress.notify_waiters();
        broken.dedup();
        for partition in broken {
            tokio::spawn(delegations.clone().abandon(partition));
        }
    }
}

impl Table {
    /// Changes of an inode are on their way.
    pub(super) fn is_pending(&self, inode: InodeId) -> bool {
        let line = self.lines.get(&inode.home());
        line.is_some_and(|line| line.pending.contains_key(&inode))
    }

    /// A change is not on its way any more.
    fn arrive(&mut self, end: &End) {
        if let Some(line) = self.lines.get_mut(&end.partition) {
            line.end(end.ticket, end.member.iter().chain(&end.directories));
        }
    }

    /// False if a change was refused.
    fn end(&mut self, end: End) -> bool {
        self.arrive(&end);
        // What the cluster says now is what it is; but for what was decided here since.
        if let Some(inode) = end.member
            && let Ok(Reply::Attributes(attributes) | Reply::Created { attributes, .. }) = &end.result
            && !self.is_pending(inode)
            && is_decided_here(attributes)
            && let Some(member) = self.files.get_mut(&inode)
            && member.attributes.is_some()
        {
            member.attributes = Some(attributes.clone());
        }
        let Err(failure) = end.result else { return true };
        tracing::error!(
            partition = end.partition.0,
            inode = end.member.map(|inode| inode.0),
            %failure,
            "a change that was told to be done is lost"
        );
        let error = errno(failure);
        for inode in end.member.iter().chain(&end.directories) {
            self.note_error(*inode, error);
        }
        if let Some(line) = self.lines.get_mut(&end.partition) {
            line.is_broken = true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delegations::{Directory, Phase};

    #[test]
    fn what_is_on_its_way_is_waited_for_when_its_directory_is_forgotten() {
        // Goal: nobody goes on as if a change had arrived because the directory it was decided in is wanted back. Method: a
        // directory is forgotten with a change of it and a file in it under way; the change ends late.
        let partition = PartitionId(0);
        let (directory, file) = (InodeId::new(partition, 2), InodeId::new(partition, 3));
        let mut table = Table::default();
        table.directories.insert(directory, Directory::new(Phase::Ready));
        let line = table.lines.entry(partition).or_default();
        let ticket = line.begin([file, directory].iter(), 100);
        let again = line.begin([file].iter(), 100);
        table.forget(directory);
        let end = |ticket, directories| End {
            partition,
            ticket,
            member: Some(file),
            directories,
            lock: None,
            result: Ok(Reply::Done),
        };
        assert!(table.is_pending(file) && table.is_pending(directory));
        assert!(table.end(end(ticket, vec![directory])));
        assert!(table.is_pending(file) && !table.is_pending(directory));
        assert!(table.end(end(again, Vec::new())));
        assert!(!table.is_pending(file));
        assert!(
            table
                .lines
                .get(&partition)
                .is_some_and(|line| line.is_idle() && line.pending.is_empty())
        );
    }
}
