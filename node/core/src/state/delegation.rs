//! Directories that one client has for itself, and the changes it sends after it told they were done.
//!
//! A delegation covers a directory: its names, its attributes, and the inodes at home here that have a name in it.
//! Whoever else asks for any of that is refused with the holder's name, and the leader has the holder give it back
//! before it asks again. So exclusion is decided where entries are applied, and no leader, old or new, can be wrong
//! about it.
//!
//! A delegation lasts as long as its holder's lease. A change under one is told to a program before it is sent, so it
//! must not fail for reasons of order: ordered commands of one client are applied in the order they were sent in,
//! whatever the network does to them, and one of a client whose delegation is over is refused for good.
//!
//! Invariants:
//! - A directory has one holder at most, and `delegations` and `delegations_by_client` hold the same pairs.
//! - A holder has a lease, and a directory without a name has no holder.
//! - A directory is not given to a client while others have advisory locks in it.
//! - What a transaction locks is delegated to nobody, or to the client whose transaction it is.
//! - An ordered command is applied only under delegations of its client, and only after the one before it.

use bark_schema::data::{DataCommand, DataQuery};
use bark_schema::delegation::DelegationCommand;
use bark_schema::file_lock::{FileLock, LockCommand};
use bark_schema::ids::{ClientId, InodeId};
use bark_schema::limits::{DELEGATIONS_PER_CLIENT_MAX, DELEGATIONS_PER_COMMAND_MAX};
use bark_schema::operation::{Command, Failure, FileKind, Query, Refusal, Reply, RequestId, Step, UnixNanos};

use super::State;
use super::lock::LockKey;
use super::reply::encode_result;
#[cfg(feature = "planted-bugs")]
use crate::planted::{Defect, is_planted};

/// What a client told a program of a change before it was applied.
#[derive(Clone, Copy)]
pub(super) struct Foretold {
    pub(super) time: UnixNanos,
    pub(super) inode: Option<InodeId>,
}

type Check<'a> = &'a mut dyn FnMut(InodeId) -> Result<(), Failure>;

impl State {
    /// Who has a directory for itself.
    pub fn holder(&self, directory: InodeId) -> Option<ClientId> {
        self.delegations.get(&directory).copied()
    }

    pub(super) fn change_delegations(&mut self, command: &DelegationCommand) -> Result<Reply, Failure> {
        let (DelegationCommand::Take { directories, .. } | DelegationCommand::GiveBack { directories, .. }) =
            command;
        if directories.len() > DELEGATIONS_PER_COMMAND_MAX {
            let sentence = "too many directories in one command";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        match *command {
            DelegationCommand::Take { client, lease_ms, .. } => {
                let renewed = self.renew_lease(client, lease_ms);
                let mut missing = directories.clone();
                missing.retain(|directory| !self.take_delegation(client, *directory));
                Ok(Reply::Opens { missing, renewed })
            }
            DelegationCommand::GiveBack { client, .. } => {
                for directory in directories {
                    self.end_delegation(client, *directory);
                }
                Ok(Reply::Done)
            }
        }
    }

    fn take_delegation(&mut self, client: ClientId, directory: InodeId) -> bool {
        if let Some(holder) = self.holder(directory) {
            return holder == client;
        }
        let held = (client, InodeId(0))..=(client, InodeId(u64::MAX));
        let has_room = self
            .delegations_by_client
            .range(held)
            .nth(DELEGATIONS_PER_CLIENT_MAX - 1)
            .is_none();
        // Under a quota a change may be refused that was told to be done.
        let is_limited = self.quota_of(directory).is_some();
        let is_used = self.is_locked_within(directory) || self.is_locked_by_others(client, directory);
        if !has_room || is_limited || self.directory(directory).is_err() || is_used {
            return false;
        }
        self.delegations.insert(directory, client);
        self.delegations_by_client.insert((client, directory), ());
        true
    }

    /// Whether a transaction has anything locked that a delegation of the directory covers.
    fn is_locked_within(&self, directory: InodeId) -> bool {
        self.locks.iter().any(|(key, _)| match key {
            LockKey::Entry(of, _) => *of == directory,
            LockKey::Inode(inode) => self.covers(directory, *inode),
            LockKey::Key(_) | LockKey::RenameLease => false,
        })
    }

    /// Whether another client holds or wants advisory locks of what a delegation of the directory covers: its holder gives
    /// them without asking.
    fn is_locked_by_others(&self, client: ClientId, directory: InodeId) -> bool {
        let mut locked = self.lock_files.iter();
        locked.any(|((owner, inode), _)| *owner != client && self.covers(directory, *inode))
    }

    fn covers(&self, directory: InodeId, inode: InodeId) -> bool {
        let mut is_other = |other: InodeId| match other == directory {
            true => Err(Failure::CrossPartition),
            false => Ok(()),
        };
        self.each_cover(inode, &mut is_other).is_err()
    }

    /// Says whether the client had it.
    pub(super) fn end_delegation(&mut self, client: ClientId, directory: InodeId) -> bool {
        if self.delegations_by_client.remove(&(client, directory)).is_none() {
            return false;
        }
        self.delegations.remove(&directory);
        true
    }

    /// The directory is removed.
    pub(super) fn end_any_delegation(&mut self, directory: InodeId) {
        if let Some(holder) = self.holder(directory) {
            self.end_delegation(holder, directory);
        }
    }

    /// Ends up to `limit` delegations of a client; says how many.
    pub(super) fn end_delegations(&mut self, client: ClientId, limit: usize) -> usize {
        let held = (client, InodeId(0))..=(client, InodeId(u64::MAX));
        let held = self.delegations_by_client.range(held).take(limit);
        let directories: Vec<InodeId> = held.map(|((_, directory), ())| *directory).collect();
        for directory in &directories {
            self.end_delegation(client, *directory);
        }
        directories.len()
    }

    /// A change that was told before it was sent: in its place, under delegations of the client, at the time told.
    pub(super) fn apply_ordered(
        &mut self,
        id: &RequestId,
        after: u64,
        foretold: Foretold,
        command: &Command,
    ) -> Result<Reply, Failure> {
        let over = || Failure::refused(Refusal::Conflict, "the delegation is over");
        let lease = self.leases.get(&id.client).ok_or_else(over)?;
        if !self.is_next(id, after, lease.ordered) {
            return Err(Failure::Busy("a change before this one is missing".to_owned()));
        }
        let held = self.check_held(id.client, command);
        let result = held.and_then(|()| {
            if let Command::Lock(command) = command {
                return self.change_locks_in_order(id.client, command);
            }
            self.foretold = Some(foretold);
            let result = self.execute(command);
            self.foretold = None;
            result
        });
        if encode_result(&result).is_some() {
            let sequence = id.sequence;
            self.leases.update(&id.client, |lease| lease.ordered = sequence);
        }
        result
    }

    /// Whether the ordered command with sequence `after`, behind which this one comes, has its answer.
    fn is_next(&self, id: &RequestId, after: u64, ordered: u64) -> bool {
        #[cfg(feature = "planted-bugs")]
        if is_planted(Defect::OrderIgnored) {
            return true;
        }
        let before = RequestId {
            sequence: after,
            ..*id
        };
        after == 0 || after == ordered || self.recorded(&before).is_some()
    }

    fn check_held(&self, client: ClientId, command: &Command) -> Result<(), Failure> {
        let mut is_held = |directory| match self.holder(directory) == Some(client) {
            true => Ok(()),
            false => Err(Failure::refused(Refusal::Conflict, "the delegation is over")),
        };
        match self.each_touched(command, &mut is_held)? {
            true => Ok(()),
            false => Err(Failure::refused(
                Refusal::InvalidArgument,
                "not a change that can be told before it is sent",
            )),
        }
    }

    /// Refuses what touches directories that somebody else has for itself.
    pub(super) fn check_undelegated(&self, client: ClientId, command: &Command) -> Result<(), Failure> {
        if self.delegations.len() == 0 {
            return Ok(());
        }
        if let Command::Repair(repair) = command {
            return self.each_repaired(repair, &mut self.refuse_others(Some(client)));
        }
        self.each_touched(command, &mut self.refuse_others(Some(client)))
            .map(|_| ())
    }

    /// Who locks a file wants to see what others wrote.
    pub(super) fn check_lock_undelegated(
        &self,
        client: ClientId,
        command: &LockCommand,
    ) -> Result<(), Failure> {
        match command {
            LockCommand::Take { lock, .. } if self.delegations.len() > 0 => {
                self.each_cover(lock.inode, &mut self.refuse_others(Some(client)))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_steps_undelegated(&self, client: ClientId, steps: &[Step]) -> Result<(), Failure> {
        if self.delegations.len() == 0 {
            return Ok(());
        }
        let check = &mut self.refuse_others(Some(client));
        for step in steps {
            match step {
                Step::InsertEntry { entry, .. }
                | Step::RemoveEntry { entry, .. }
                | Step::ExchangeEntry { entry, .. } => check(entry.directory)?,
                Step::RemoveDirectory { inode }
                | Step::SetParent { inode, .. }
                | Step::AddLinks { inode, .. } => self.each_cover(*inode, check)?,
                Step::CreateDirectory { .. }
                | Step::HoldRenameLease
                | Step::KeySet { .. }
                | Step::KeyDelete { .. } => {}
            }
        }
        Ok(())
    }

    pub(super) fn check_query_undelegated(
        &self,
        client: Option<ClientId>,
        query: &Query,
    ) -> Result<(), Failure> {
        if self.delegations.len() == 0 {
            return Ok(());
        }
        #[cfg(feature = "planted-bugs")]
        if is_planted(Defect::DelegationSeen) {
            return Ok(());
        }
        let check = &mut self.refuse_others(client);
        match query {
            // Where a directory lies no delegation of it covers.
            Query::Lookup { name, .. } if name == ".." => Ok(()),
            Query::Lookup { directory, name } => {
                check(*directory)?;
                match self.dentry(*directory, name) {
                    Some(entry) if entry.kind != FileKind::Directory => self.each_cover(entry.inode, check),
                    _ => Ok(()),
                }
            }
            Query::ReadDirectory { directory, .. } => check(*directory),
            Query::Attributes { inode }
            | Query::ReadLink { inode }
            | Query::Layout { inode, .. }
            | Query::XattrGet { inode, .. }
            | Query::XattrList { inode }
            | Query::Data(DataQuery::Seek { inode, .. }) => self.each_cover(*inode, check),
            _ => Ok(()),
        }
    }

    fn refuse_others(&self, client: Option<ClientId>) -> impl FnMut(InodeId) -> Result<(), Failure> {
        move |directory| match self.holder(directory) {
            Some(holder) if Some(holder) != client => Err(Failure::Delegated {
                directory,
                client: holder,
            }),
            _ => Ok(()),
        }
    }

    /// Checks every directory whose delegation covers what a command touches. False for commands that touch nothing
    /// of the kind.
    fn each_touched(&self, command: &Command, check: Check<'_>) -> Result<bool, Failure> {
        match command {
            Command::Create { directory, .. } => check(*directory)?,
            Command::Unlink { directory, name } => self.each_cover_of_entry(*directory, name, check)?,
            Command::Rename { from, to, .. } => {
                self.each_cover_of_entry(from.directory, &from.name, check)?;
                self.each_cover_of_entry(to.directory, &to.name, check)?;
            }
            Command::Link { inode, to } => {
                check(to.directory)?;
                self.each_cover(*inode, check)?;
            }
            Command::SetAttributes { inode, .. }
            | Command::XattrSet { inode, .. }
            | Command::XattrRemove { inode, .. }
            | Command::WriteInline { inode, .. }
            | Command::Publish { inode, .. }
            | Command::Data(DataCommand::Write { inode, .. } | DataCommand::Allocate { inode, .. }) => {
                self.each_cover(*inode, check)?;
            }
            Command::Data(DataCommand::Update(update)) => self.each_cover(update.inode, check)?,
            Command::Data(DataCommand::CopyRange { from, to, .. }) => {
                self.each_cover(*from, check)?;
                self.each_cover(*to, check)?;
            }
            Command::Lock(
                LockCommand::Take {
                    lock: FileLock { inode, .. },
                    wait: 0,
                    ..
                }
                | LockCommand::Release { inode, .. },
            ) => self.each_cover(*inode, check)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn each_cover_of_entry(&self, directory: InodeId, name: &[u8], check: Check<'_>) -> Result<(), Failure> {
        check(directory)?;
        match self.dentry(directory, name) {
            Some(entry) if entry.kind != FileKind::Directory => self.each_cover(entry.inode, check),
            _ => Ok(()),
        }
    }

    /// The directories whose delegations cover an inode at home here.
    pub(super) fn each_cover(&self, inode: InodeId, check: Check<'_>) -> Result<(), Failure> {
        let Some(row) = self.inodes.get(&inode) else {
            return Ok(());
        };
        match row.link_count {
            0 => Ok(()),
            _ if row.kind() == FileKind::Directory => check(inode),
            1 => check(row.directory),
            _ => {
                let names = (inode, InodeId(0))..=(inode, InodeId(u64::MAX));
                self.names
                    .range(names)
                    .try_for_each(|((_, directory), _)| check(*directory))
            }
        }
    }

    /// When what is applied now happened: for the times of inodes.
    pub(super) fn moment(&self) -> UnixNanos {
        self.foretold
            .map_or(self.time, |foretold| foretold.time.min(self.time))
    }

    /// The number for an inode that is born now.
    pub(super) fn birth_number(&self) -> Result<InodeId, Failure> {
        let Some(number) = self.foretold.and_then(|foretold| foretold.inode) else {
            return self.next_inode();
        };
        let counter = number.0 & InodeId::COUNTER_MAX;
        let is_set_aside =
            number.home() == self.partition && counter > 0 && counter < self.inode_counter_next;
        if !is_set_aside || self.inodes.contains(&number) {
            let sentence = "not an inode number that was set aside";
            return Err(Failure::refused(Refusal::InvalidArgument, sentence));
        }
        self.check_inode_unlocked(number)?;
        Ok(number)
    }
}
