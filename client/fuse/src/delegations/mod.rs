//! Directories this mount has for itself, and what it knows of them.
//!
//! In a directory that nobody else uses, what happens is decided here: names are looked up, files are made, changed,
//! renamed and removed in this table, the program is answered, and the change is sent without waiting for what
//! comes of it. Somebody else who comes to such a directory has it recalled: what is on its way arrives, then it is
//! given back and forgotten.
//!
//! Beside this table everything works as without it. What cannot be decided here (a directory made or moved, a file with
//! several names, one that is cut) is asked of the cluster as before, which knows who holds the directory and lets
//! it pass; `Touched` keeps the table out of the way meanwhile.
//!
//! Reading order: `read` and `list` answer from the table, `ahead` fills it with what is read next, `change` decides, `line` sends, `take` gets directories and gives
//! them back, `touched` is for what goes to the cluster, `lock` for advisory locks.
//!
//! Invariants:
//! - The table changes and the change is sent under one lock, so the cluster carries out what was decided in the order in
//!   which it was.
//! - A program is answered when the kernel has the change, so that it arrives even if this process is killed; or when it
//!   is applied.
//! - Nothing is decided here longer than half a lease after the cluster last confirmed it.
//! - A change that was refused although it was told to be done is told by the next fsync or close of what it was done to.

mod ahead;
mod change;
mod line;
mod list;
mod lock;
mod read;
mod take;
mod touched;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use bark_client::Client;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::operation::{Attributes, FileKind, UnixNanos};
use bytes::Bytes;
use fuser::Errno;
use tokio::sync::{Notify, mpsc};

use self::ahead::{Kept, Reads};
pub(crate) use self::line::Haste;
use self::line::{End, Line};
pub(crate) use self::list::Listed;
pub(crate) use self::lock::LockDecided;
pub(crate) use self::read::Known;
use self::take::Interest;
pub(crate) use self::touched::Touched;
use crate::attributes::unix_nanos;
use crate::lock_table::LockTable;

/// Errors remembered until somebody asks for them; more are only logged.
const ERRORS_MAX: usize = 4096;

#[derive(Debug)]
pub(crate) struct Delegations {
    client: Client,
    is_enabled: bool,
    locks: Arc<LockTable>,
    table: Mutex<Table>,
    /// A directory is ready, or changes have ended.
    progress: Notify,
    ends: mpsc::UnboundedSender<End>,
}

#[derive(Debug, Default)]
struct Table {
    directories: HashMap<InodeId, Directory>,
    files: HashMap<InodeId, Member>,
    lines: HashMap<PartitionId, Line>,
    interests: HashMap<InodeId, Interest>,
    errors: HashMap<InodeId, Errno>,
    kept: Kept,
    /// Counts what may have given directories other parents.
    moves: u64,
}

/// A directory that is delegated, or is about to be.
#[derive(Debug)]
struct Directory {
    phase: Phase,
    /// None: they are to be asked for.
    attributes: Option<Attributes>,
    names: HashMap<Bytes, Name>,
    parent: Option<Parent>,
    reads: Reads,
    /// A name that is not among them is not there.
    is_complete: bool,
    used: Instant,
    /// Somebody wants it back since before it was ready.
    is_wanted: bool,
}

/// Where a directory was when so many moves had been made. Those of others take the delegation away.
#[derive(Clone, Copy, Debug)]
struct Parent {
    inode: InodeId,
    moves: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It is asked for, or read: whoever needs it waits.
    Loading,
    Ready,
    /// It is being given back: nothing is decided in it, and it is not asked for again before that is done.
    Returning,
}

/// What a name in a delegated directory leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// One of `files`.
    Member(InodeId),
    /// Something the delegation does not cover: a directory, or a file at home elsewhere.
    Elsewhere(InodeId, FileKind),
    Nothing,
    /// To be asked for. Changes under way in the cluster, besides.
    Unknown {
        touched: u32,
    },
}

/// A non-directory that a delegation covers.
#[derive(Debug)]
struct Member {
    directory: InodeId,
    /// None: they are to be asked for.
    attributes: Option<Attributes>,
    /// It was in a delegated directory since before anybody else could lock it.
    is_unlocked_elsewhere: bool,
}

impl Delegations {
    /// `is_enabled`: otherwise nothing is ever taken, and everything is asked of the cluster.
    pub(crate) fn new(client: Client, locks: Arc<LockTable>, is_enabled: bool) -> Arc<Delegations> {
        let (ends, ended) = mpsc::unbounded_channel();
        let delegations = Arc::new(Delegations {
            client,
            is_enabled,
            locks,
            table: Mutex::default(),
            progress: Notify::new(),
            ends,
        });
        tokio::spawn(line::take_ends(Arc::downgrade(&delegations), ended));
        delegations
    }

    /// Why a change to the inode that was told to be done was refused, once.
    pub(crate) fn take_error(&self, inode: InodeId) -> Result<(), Errno> {
        match self.lock().errors.remove(&inode) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // The table changes by whole steps that do not panic half-way.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn note_error(&mut self, inode: InodeId, error: Errno) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.insert(inode, error);
        }
    }

    /// A directory that is delegated and known, under a lease that was confirmed.
    fn ready(&mut self, directory: InodeId) -> Option<&mut Directory> {
        let now = Instant::now();
        let is_valid = self
            .lines
            .get(&directory.home())
            .is_some_and(|line| line.is_valid(now));
        let found = self.directories.get_mut(&directory)?;
        if !is_valid || found.phase != Phase::Ready {
            return None;
        }
        found.used = now;
        Some(found)
    }

    /// Forgets a directory and what is in it.
    fn forget(&mut self, directory: InodeId) {
        let Some(forgotten) = self.directories.remove(&directory) else {
            return;
        };
        for name in forgotten.names.values() {
            if let Name::Member(inode) = name
                && self
                    .files
                    .get(inode)
                    .is_some_and(|member| member.directory == directory)
            {
                self.files.remove(inode);
            }
        }
    }
}

impl Directory {
    fn new(phase: Phase) -> Directory {
        Directory {
            phase,
            attributes: None,
            names: HashMap::new(),
            parent: None,
            reads: Reads::default(),
            is_complete: false,
            used: Instant::now(),
            is_wanted: false,
        }
    }

    fn name(&self, name: &Bytes) -> Name {
        match self.names.get(name) {
            Some(known) => *known,
            None if self.is_complete => Name::Nothing,
            None => Name::Unknown { touched: 0 },
        }
    }

    fn set(&mut self, name: Bytes, to: Name) {
        match to {
            Name::Nothing if self.is_complete => {
                self.names.remove(&name);
            }
            to => {
                self.names.insert(name, to);
            }
        }
    }

    /// Its names changed.
    fn touch(&mut self, time: UnixNanos) {
        if let Some(attributes) = &mut self.attributes {
            attributes.modified = attributes.modified.max(time);
            attributes.changed = attributes.changed.max(time);
            attributes.version += 1;
        }
    }
}

fn now() -> UnixNanos {
    unix_nanos(SystemTime::now())
}
