//! Advisory locks of files, across clients: who holds which bytes, and who waits for them.
//!
//! The locks of a file are rows at its home, so taking one is one log entry, and what was granted survives the
//! leader. Waiting is a row too: whatever releases a lock grants, in the same entry, what has become possible,
//! in the order of arrival. So a place in the queue survives the leader as well, and a wait that is cancelled
//! was either granted before, which the answer says, or never will be. Clients hear of it by a read that the leader
//! holds back until it has news ([`crate::partition`]).
//!
//! A lock that conflicts with nothing that is held is granted at once, even if others wait for something
//! that conflicts with it. The price: who wants to write may wait as long as readers come. Making these queue would
//! let two clients wait for each other who hold compatible locks, across partitions, where nobody sees it.
//!
//! Locks last as long as the lease of their client: see `lock_lease`.
//!
//! Invariants:
//! - No two locks of one file conflict. Those of one owner do not overlap, and touch only if their modes differ.
//! - A wait is for something that conflicts with a lock that is held, unless its client's lease ran out.
//! - `lock_files` counts the locks and waits of each client on each file, and the lease of the client all of them.
//! - Locks and waits are on inodes that exist.

use bark_schema::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};
use bark_schema::ids::{ClientId, InodeId};
use bark_schema::limits::{LOCK_WAITS_PER_FILE_MAX, LOCKS_PER_CLIENT_MAX, LOCKS_PER_FILE_MAX};
use bark_schema::operation::{Failure, Refusal, Reply};

use super::codec::{Reader, Row, Sink, row_struct};
use super::{Error, State};

/// Where a lock is found: by file, owner and first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LockPlace {
    pub(crate) inode: InodeId,
    pub(crate) owner: LockOwner,
    pub(crate) first: u64,
}
row_struct!(LockPlace { inode, owner, first });

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LockRow {
    pub(crate) last: u64,
    pub(crate) mode: LockMode,
    pub(crate) process: u32,
}
row_struct!(LockRow { last, mode, process });

/// Somebody waits, under a number of his own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WaitRow {
    pub(crate) number: u64,
    pub(crate) lock: FileLock,
}
row_struct!(WaitRow { number, lock });

row_struct!(LockOwner { client, kind, number });
row_struct!(LockRange { first, last });
row_struct!(FileLock {
    inode,
    owner,
    range,
    mode,
    process
});

/// Owners looked at to find out whether a wait would never end; beyond that it is taken to end.
const DEADLOCK_OWNERS_MAX: usize = 32;

impl State {
    pub(super) fn change_locks(&mut self, command: &LockCommand) -> Result<Reply, Failure> {
        match command {
            LockCommand::Take { lock, wait, lease_ms } => self.take_lock(lock, *wait, *lease_ms),
            LockCommand::Release { inode, owner, range } => self.release_lock(*inode, *owner, *range),
            LockCommand::Cancel { inode, client, wait } => self.cancel_wait(*inode, *client, *wait),
            LockCommand::Renew { client, lease_ms } => self.renew_lock_lease(*client, *lease_ms),
            LockCommand::EndLeases { limit } => Ok(self.end_lock_leases(*limit)),
            LockCommand::Rejoin { .. } => Err(Failure::refused(
                Refusal::InvalidArgument,
                "a client rejoins by a request of its own",
            )),
        }
    }

    /// A lock its client has given to a program already. Refused if others are in its way: then somebody was told wrong.
    pub(super) fn change_locks_in_order(
        &mut self,
        client: ClientId,
        command: &LockCommand,
    ) -> Result<Reply, Failure> {
        if command.client() != Some(client) {
            let sentence = "a client takes locks for itself only";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        if let LockCommand::Take { lock, .. } = command
            && self.lock_in_the_way(lock).is_some()
        {
            let sentence = "somebody else has the lock";
            return Err(Failure::refused(Refusal::Conflict, sentence));
        }
        self.change_locks(command)
    }

    pub(super) fn query_locks(&self, query: &LockQuery) -> Result<Reply, Failure> {
        let answer = match query {
            LockQuery::Conflict { lock } => match self.lock_in_the_way(lock) {
                Some(other) => LockAnswer::Held(other),
                None => LockAnswer::Free,
            },
            LockQuery::Waited { inode, client, wait } => {
                if !self.lock_leases.contains(client) {
                    return Err(super::lock_lease::fenced());
                }
                match self.find_wait(*inode, *client, *wait) {
                    Some(_) => LockAnswer::Waiting,
                    None => self.granted(*inode)?,
                }
            }
        };
        Ok(Reply::Lock(answer))
    }

    /// How often a wait has ended; not part of the replicated state.
    pub fn ended_waits(&self) -> u64 {
        self.ended_waits
    }

    fn take_lock(&mut self, lock: &FileLock, wait: u64, lease_ms: u32) -> Result<Reply, Failure> {
        let is_whole = lock.range == LockRange::ALL;
        if lock.range.first > lock.range.last || (lock.owner.kind == LockKind::Flock && !is_whole) {
            return Err(Failure::refused(Refusal::InvalidArgument, "no such range"));
        }
        self.granted(lock.inode)?;
        self.check_lock_room(lock)?;
        let other = self.lock_in_the_way(lock);
        if wait != 0 && other.is_some() {
            self.check_wait_room(lock.inode)?;
            if lock.owner.kind == LockKind::Range && self.would_never_end(lock) {
                return Err(Failure::refused(
                    Refusal::Deadlock,
                    "the holder waits for a lock of this owner",
                ));
            }
        }
        self.extend_lock_lease(lock.owner.client, lease_ms);
        let answer = match other {
            None => {
                self.hold(lock);
                self.granted(lock.inode)?
            }
            Some(other) => {
                if lock.owner.kind == LockKind::Flock {
                    self.let_go(lock.inode, lock.owner, lock.range);
                }
                match wait {
                    0 => LockAnswer::Held(other),
                    number => {
                        self.add_wait(number, lock);
                        LockAnswer::Waiting
                    }
                }
            }
        };
        self.grant_waits(lock.inode);
        Ok(Reply::Lock(answer))
    }

    fn release_lock(&mut self, inode: InodeId, owner: LockOwner, range: LockRange) -> Result<Reply, Failure> {
        let splits = self
            .locks_of(inode, owner)
            .any(|held| held.range.first < range.first && held.range.last > range.last);
        if splits && self.locks_on(inode) >= LOCKS_PER_FILE_MAX {
            return Err(no_locks());
        }
        self.let_go(inode, owner, range);
        self.grant_waits(inode);
        Ok(Reply::Done)
    }

    fn cancel_wait(&mut self, inode: InodeId, client: ClientId, wait: u64) -> Result<Reply, Failure> {
        match self.find_wait(inode, client, wait) {
            Some(ticket) => {
                self.remove_wait(inode, ticket);
                Ok(Reply::Done)
            }
            None => Ok(Reply::Lock(self.granted(inode)?)),
        }
    }

    /// Takes away whatever anybody holds or wants of an inode that goes.
    pub(super) fn drop_locks_of_inode(&mut self, inode: InodeId) {
        for (place, _) in self.lock_rows(inode) {
            self.remove_lock(&place);
        }
        for ticket in self.tickets(inode) {
            self.remove_wait(inode, ticket);
        }
    }

    /// Takes away what one client holds or wants, and grants what others wait for.
    pub(super) fn drop_locks_of_client(&mut self, client: ClientId) {
        for inode in self.files_locked_by(client) {
            for (place, _) in self.lock_rows(inode) {
                if place.owner.client == client {
                    self.remove_lock(&place);
                }
            }
            for ticket in self.tickets(inode) {
                let wait = self.lock_waits.get(&(inode, ticket));
                if wait.is_some_and(|wait| wait.lock.owner.client == client) {
                    self.remove_wait(inode, ticket);
                }
            }
            self.grant_waits(inode);
        }
    }

    pub(super) fn grant_waits_of(&mut self, client: ClientId) {
        for inode in self.files_locked_by(client) {
            self.grant_waits(inode);
        }
    }

    fn files_locked_by(&self, client: ClientId) -> Vec<InodeId> {
        let all = (client, InodeId(0))..=(client, InodeId(u64::MAX));
        self.lock_files.range(all).map(|((_, inode), _)| *inode).collect()
    }

    fn granted(&self, inode: InodeId) -> Result<LockAnswer, Failure> {
        Ok(LockAnswer::Granted(Box::new(
            self.inode(inode)?.attributes(inode),
        )))
    }

    /// The first lock of another owner that does not go together with `lock`.
    fn lock_in_the_way(&self, lock: &FileLock) -> Option<FileLock> {
        self.held_on(lock.inode).find(|held| held.conflicts(lock))
    }

    /// Gives the bytes to the owner in the new mode, whatever he held of them before.
    fn hold(&mut self, lock: &FileLock) {
        self.let_go(lock.inode, lock.owner, lock.range);
        let mut range = lock.range;
        let beside: Vec<FileLock> = self
            .locks_of(lock.inode, lock.owner)
            .filter(|held| held.mode == lock.mode && touch(held.range, range))
            .collect();
        for held in beside {
            range.first = range.first.min(held.range.first);
            range.last = range.last.max(held.range.last);
            self.remove_lock(&place_of(&held));
        }
        self.insert_lock(&FileLock { range, ..*lock });
    }

    /// Takes bytes from their owner; what he holds before and behind them stays.
    fn let_go(&mut self, inode: InodeId, owner: LockOwner, range: LockRange) {
        let cut: Vec<FileLock> = self
            .locks_of(inode, owner)
            .filter(|held| held.range.overlaps(range))
            .collect();
        for held in cut {
            self.remove_lock(&place_of(&held));
            let (first, last) = (held.range.first, held.range.last);
            if first < range.first {
                let last = range.first - 1;
                let range = LockRange { first, last };
                self.insert_lock(&FileLock { range, ..held });
            }
            if last > range.last {
                let first = range.last + 1;
                let range = LockRange { first, last };
                self.insert_lock(&FileLock { range, ..held });
            }
        }
    }

    /// Gives those who wait what is free by now, first come, first served; but not to clients who are silent.
    fn grant_waits(&mut self, inode: InodeId) {
        for ticket in self.tickets(inode) {
            let Some(WaitRow { lock, .. }) = self.lock_waits.get(&(inode, ticket)).copied() else {
                continue;
            };
            if self.is_lock_lease_running(lock.owner.client) && self.lock_in_the_way(&lock).is_none() {
                self.remove_wait(inode, ticket);
                self.hold(&lock);
            }
        }
    }

    /// Whether somebody `lock` would wait for waits, himself or through others, for its owner.
    fn would_never_end(&self, lock: &FileLock) -> bool {
        let mut met: Vec<LockOwner> = Vec::new();
        let mut wanted = vec![*lock];
        while let Some(lock) = wanted.pop() {
            let holders = self.held_on(lock.inode).filter(|held| held.conflicts(&lock));
            let holders: Vec<LockOwner> = holders.map(|held| held.owner).collect();
            for holder in holders {
                if met.contains(&holder) || met.len() == DEADLOCK_OWNERS_MAX {
                    continue;
                }
                met.push(holder);
                let waits = self.lock_waits.iter().map(|(_, wait)| wait.lock);
                wanted.extend(waits.filter(|wait| wait.owner == holder));
            }
        }
        met.contains(&lock.owner)
    }

    fn check_lock_room(&self, lock: &FileLock) -> Result<(), Failure> {
        let lease = self.lock_leases.get(&lock.owner.client);
        let held = lease.map_or(0, |lease| lease.locks as usize);
        // A change in the middle of what is held makes two more.
        if held + 2 > LOCKS_PER_CLIENT_MAX || self.locks_on(lock.inode) + 2 > LOCKS_PER_FILE_MAX {
            return Err(no_locks());
        }
        Ok(())
    }

    fn check_wait_room(&self, inode: InodeId) -> Result<(), Failure> {
        match self.tickets(inode).len() < LOCK_WAITS_PER_FILE_MAX {
            true => Ok(()),
            false => Err(no_locks()),
        }
    }

    fn insert_lock(&mut self, lock: &FileLock) {
        let row = LockRow {
            last: lock.range.last,
            mode: lock.mode,
            process: lock.process,
        };
        self.file_locks.insert(place_of(lock), row);
        self.count_lock(lock.owner.client, lock.inode, true);
    }

    fn remove_lock(&mut self, place: &LockPlace) {
        if self.file_locks.remove(place).is_some() {
            self.count_lock(place.owner.client, place.inode, false);
        }
    }

    /// The index of the entry is the ticket: whoever comes later has a higher one.
    fn add_wait(&mut self, number: u64, lock: &FileLock) {
        let row = WaitRow { number, lock: *lock };
        self.lock_waits.insert((lock.inode, self.applied), row);
        self.count_lock(lock.owner.client, lock.inode, true);
    }

    fn remove_wait(&mut self, inode: InodeId, ticket: u64) {
        if let Some(wait) = self.lock_waits.remove(&(inode, ticket)) {
            self.count_lock(wait.lock.owner.client, inode, false);
            self.ended_waits += 1;
        }
    }

    fn count_lock(&mut self, client: ClientId, inode: InodeId, is_more: bool) {
        let key = (client, inode);
        let before = self.lock_files.get(&key).copied().unwrap_or(0);
        match (is_more, before) {
            (true, _) => self.lock_files.insert(key, before + 1),
            (false, 0 | 1) => drop(self.lock_files.remove(&key)),
            (false, _) => self.lock_files.insert(key, before - 1),
        }
        self.lock_leases.update(&client, |lease| match is_more {
            true => lease.locks += 1,
            false => lease.locks -= 1,
        });
    }

    fn find_wait(&self, inode: InodeId, client: ClientId, number: u64) -> Option<u64> {
        let mut waits = self.lock_waits.range((inode, 0)..=(inode, u64::MAX));
        let found = waits.find(|(_, wait)| wait.lock.owner.client == client && wait.number == number);
        found.map(|((_, ticket), _)| *ticket)
    }

    fn tickets(&self, inode: InodeId) -> Vec<u64> {
        let waits = self.lock_waits.range((inode, 0)..=(inode, u64::MAX));
        waits.map(|((_, ticket), _)| *ticket).collect()
    }

    fn lock_rows(&self, inode: InodeId) -> Vec<(LockPlace, LockRow)> {
        let rows = self.file_locks.range(first_place(inode)..=last_place(inode));
        rows.map(|(place, row)| (*place, *row)).collect()
    }

    fn locks_on(&self, inode: InodeId) -> usize {
        self.file_locks
            .range(first_place(inode)..=last_place(inode))
            .count()
    }

    pub(super) fn held_on(&self, inode: InodeId) -> impl Iterator<Item = FileLock> {
        let rows = self.file_locks.range(first_place(inode)..=last_place(inode));
        rows.map(|(place, row)| lock_of(place, row))
    }

    fn locks_of(&self, inode: InodeId, owner: LockOwner) -> impl Iterator<Item = FileLock> {
        let place = |first| LockPlace { inode, owner, first };
        let rows = self.file_locks.range(place(0)..=place(u64::MAX));
        rows.map(|(place, row)| lock_of(place, row))
    }
}

fn no_locks() -> Failure {
    Failure::refused(Refusal::NoLocks, "too many locks")
}

/// Whether nothing is between the two.
fn touch(one: LockRange, other: LockRange) -> bool {
    let ends_before = |one: LockRange, other: LockRange| one.last.checked_add(1) == Some(other.first);
    one.overlaps(other) || ends_before(one, other) || ends_before(other, one)
}

fn place_of(lock: &FileLock) -> LockPlace {
    LockPlace {
        inode: lock.inode,
        owner: lock.owner,
        first: lock.range.first,
    }
}

pub(super) fn lock_of(place: &LockPlace, row: &LockRow) -> FileLock {
    FileLock {
        inode: place.inode,
        owner: place.owner,
        range: LockRange {
            first: place.first,
            last: row.last,
        },
        mode: row.mode,
        process: row.process,
    }
}

fn first_place(inode: InodeId) -> LockPlace {
    let owner = LockOwner {
        client: ClientId(0),
        kind: LockKind::Flock,
        number: 0,
    };
    LockPlace {
        inode,
        owner,
        first: 0,
    }
}

fn last_place(inode: InodeId) -> LockPlace {
    let owner = LockOwner {
        client: ClientId(u64::MAX),
        kind: LockKind::Range,
        number: u64::MAX,
    };
    LockPlace {
        inode,
        owner,
        first: u64::MAX,
    }
}

impl Row for LockKind {
    fn encode<S: Sink>(&self, sink: &mut S) {
        matches!(self, LockKind::Range).encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match bool::decode(reader)? {
            true => LockKind::Range,
            false => LockKind::Flock,
        })
    }
}

impl Row for LockMode {
    fn encode<S: Sink>(&self, sink: &mut S) {
        matches!(self, LockMode::Exclusive).encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        Ok(match bool::decode(reader)? {
            true => LockMode::Exclusive,
            false => LockMode::Shared,
        })
    }
}
