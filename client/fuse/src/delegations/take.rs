//! Getting directories for this mount alone, and giving them back.
//!
//! A directory is asked for when this mount keeps changing it, or keeps asking about it, or made it and begins to use
//! it. What it holds is read then, as far as that is not much. A question stays with the leader of each partition where something is held; its answer
//! is what somebody else wants.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bark_client::session::Call;
use bark_schema::delegation::DelegationCommand;
use bark_schema::ids::{InodeId, PartitionId};
use bark_schema::limits::LEASE_MS_DEFAULT;
use bark_schema::operation::{
    Attributes, Command, DirectoryEntry, Failure, FileKind, ListPosition, Query, Reply,
};

use super::{Delegations, Directory, Name, Parent, Phase, Table};
use crate::cluster::{Page, unexpected};

/// What a lookup and a change count for, and with what a directory is asked for.
pub(super) const LOOKUP: u32 = 1;
pub(super) const CHANGE: u32 = 4;
const ENOUGH: u32 = 8;
/// For so long interest lasts, and for so long the expectation that a new directory will be used.
const RECENT: Duration = Duration::from_secs(1);
const EXPECTED: Duration = Duration::from_secs(10);
/// A directory that was not given, or was wanted back, is not asked for again for so long.
const REFUSED_PAUSE: Duration = Duration::from_secs(2);
/// Entries that are read of a directory. What is behind them is asked for name by name.
const LOAD_MAX: usize = 20_000;
const PAGE: u32 = 4096;
/// Directories held at once; names and files known in them.
const DIRECTORIES_MAX: usize = 1024;
const NAMES_MAX: usize = 400_000;
const INTERESTS_MAX: usize = 4096;
/// A directory is not worth waiting longer for changes of others that are under way.
const GATE_PATIENCE: Duration = Duration::from_millis(50);
const NUMBERS_AT_ONCE: u32 = 4096;
const NUMBERS_LOW: u64 = 1024;
const RENEW_AFTER: Duration = Duration::from_millis(LEASE_MS_DEFAULT as u64 / 5);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How much this mount has to do with a directory it does not have for itself.
#[derive(Debug)]
pub(super) struct Interest {
    until: Instant,
    weight: u32,
    not_before: Option<Instant>,
}

impl Table {
    /// Says whether it is enough to ask for the directory.
    fn note_interest(&mut self, directory: InodeId, weight: u32) -> bool {
        let now = Instant::now();
        if self.directories.contains_key(&directory) {
            return false;
        }
        if self.interests.len() >= INTERESTS_MAX {
            self.interests.retain(|_, interest| {
                let is_barred = interest.not_before.is_some_and(|at| now < at);
                is_barred || now < interest.until
            });
        }
        if self.interests.len() >= INTERESTS_MAX {
            return false;
        }
        let interest = self.interests.entry(directory).or_insert(Interest {
            until: now + RECENT,
            weight: 0,
            not_before: None,
        });
        if now >= interest.until {
            interest.until = now + RECENT;
            interest.weight = 0;
        }
        interest.weight += weight;
        interest.weight >= ENOUGH && interest.not_before.is_none_or(|at| now >= at)
    }

    /// The next that is asked about the directory is enough to ask for it.
    fn expect_use(&mut self, directory: InodeId) {
        if self.interests.len() < INTERESTS_MAX {
            let interest = Interest {
                until: Instant::now() + EXPECTED,
                weight: ENOUGH - LOOKUP,
                not_before: None,
            };
            self.interests.entry(directory).or_insert(interest);
        }
    }

    fn bar(&mut self, directory: InodeId) {
        let now = Instant::now();
        let interest = Interest {
            until: now,
            weight: 0,
            not_before: Some(now + REFUSED_PAUSE),
        };
        self.interests.insert(directory, interest);
    }

    fn names(&self) -> usize {
        self.directories
            .values()
            .map(|directory| directory.names.len())
            .sum()
    }

    /// The directory that was not used for longest, if there are too many or too much is known of them.
    fn superfluous(&self) -> Option<InodeId> {
        if self.directories.len() <= DIRECTORIES_MAX && self.names() <= NAMES_MAX {
            return None;
        }
        let ready = self
            .directories
            .iter()
            .filter(|(_, held)| held.phase == Phase::Ready);
        ready.min_by_key(|(_, held)| held.used).map(|(inode, _)| *inode)
    }
}

impl Delegations {
    /// This mount has to do with a directory.
    pub(super) fn note_interest(self: &Arc<Self>, directory: InodeId, weight: u32) {
        if !self.is_enabled {
            return;
        }
        let mut table = self.lock();
        if !table.note_interest(directory, weight) {
            return;
        }
        table.interests.remove(&directory);
        table
            .directories
            .insert(directory, Directory::new(Phase::Loading));
        drop(table);
        tokio::spawn(self.clone().take(directory));
    }

    /// This mount made a directory just now, most likely to put something into it.
    pub(crate) fn made_directory(&self, directory: InodeId) {
        if self.is_enabled {
            self.lock().expect_use(directory);
        }
    }

    /// Asks for a directory that was put down as loading.
    async fn take(self: Arc<Self>, directory: InodeId) {
        let taken = self.try_take(directory).await;
        let superfluous = {
            let mut table = self.lock();
            let is_wanted = table
                .directories
                .get(&directory)
                .is_some_and(|held| held.is_wanted);
            match taken {
                Ok(Some(loaded)) => table.put(directory, loaded),
                taken => {
                    if let Err(failure) = taken {
                        tracing::debug!(directory = directory.0, %failure, "directory not taken");
                    }
                    table.directories.remove(&directory);
                    table.bar(directory);
                }
            }
            match is_wanted {
                true => Some(directory),
                false => table.superfluous(),
            }
        };
        self.progress.notify_waiters();
        if let Some(superfluous) = superfluous {
            self.give_back(vec![superfluous]).await;
        }
    }

    async fn try_take(self: &Arc<Self>, directory: InodeId) -> Result<Option<Loaded>, Failure> {
        let partition = directory.home();
        let gate = self.gate(partition);
        let Ok(_gate) = tokio::time::timeout(GATE_PATIENCE, gate.write_owned()).await else {
            return Ok(None);
        };
        let asked_at = Instant::now();
        let command = Command::Delegation(DelegationCommand::Take {
            client: self.client.id(),
            directories: vec![directory],
            lease_ms: LEASE_MS_DEFAULT,
        });
        let (missing, renewed) = match self.client.call(Call::Command { partition, command }).await? {
            Reply::Opens { missing, renewed } => (missing, renewed),
            _ => return Ok(None),
        };
        if !missing.is_empty() {
            return Ok(None);
        }
        self.lease_answered(partition, asked_at, renewed);
        self.lock().lines.entry(partition).or_default().confirm(asked_at);
        self.watch(partition);
        let numbers = self.reserve_numbers(partition);
        let ((), loaded) = futures::try_join!(numbers, self.load(directory))?;
        Ok(Some(loaded))
    }

    async fn load(&self, directory: InodeId) -> Result<Loaded, Failure> {
        let moves = self.moves();
        let attributes = self.query(directory, Query::Attributes { inode: directory });
        let first = self.page(directory, ListPosition::Start);
        let (attributes, first) = futures::try_join!(attributes, first)?;
        let Reply::Attributes(attributes) = attributes else {
            return Err(unexpected(&attributes));
        };
        let mut loaded = Loaded {
            attributes,
            entries: Vec::new(),
            parent: Parent {
                inode: first.parent,
                moves,
            },
            is_complete: false,
        };
        let mut page = first;
        loop {
            let after = match page.entries.last() {
                Some(last) => ListPosition::AfterCookie(last.cookie),
                None => ListPosition::Start,
            };
            let is_last = !page.more || page.entries.is_empty();
            loaded.entries.extend(page.entries);
            if is_last || loaded.entries.len() >= LOAD_MAX {
                loaded.is_complete = is_last;
                return Ok(loaded);
            }
            page = self.page(directory, after).await?;
        }
    }

    async fn page(&self, directory: InodeId, after: ListPosition) -> Result<Page, Failure> {
        let query = Query::ReadDirectory {
            directory,
            after,
            limit: PAGE,
        };
        match self.query(directory, query).await? {
            Reply::Directory {
                entries,
                more,
                parent,
            } => Ok(Page {
                entries,
                more,
                parent,
            }),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn query(&self, directory: InodeId, query: Query) -> Result<Reply, Failure> {
        let query = Query::By {
            client: self.client.id(),
            query: Box::new(query),
        };
        let partition = directory.home();
        self.client.call(Call::Query { partition, query }).await
    }

    /// Has numbers for new files set aside, if few are left.
    async fn reserve_numbers(&self, partition: PartitionId) -> Result<(), Failure> {
        if self.lock().lines.entry(partition).or_default().numbers_left() >= NUMBERS_LOW {
            return Ok(());
        }
        let command = Command::ReserveInodes {
            count: NUMBERS_AT_ONCE,
        };
        match self.client.call(Call::Command { partition, command }).await? {
            Reply::Count(first) => {
                let numbers = first..first + u64::from(NUMBERS_AT_ONCE);
                self.lock()
                    .lines
                    .entry(partition)
                    .or_default()
                    .numbers
                    .push_back(numbers);
                Ok(())
            }
            other => Err(unexpected(&other)),
        }
    }

    /// A lease was renewed by what was asked then. If it had run out, whatever was held under it is lost.
    pub(crate) fn lease_answered(&self, partition: PartitionId, asked_at: Instant, renewed: bool) {
        let mut table = self.lock();
        let line = table.lines.entry(partition).or_default();
        let had_lease = std::mem::replace(&mut line.has_lease, true);
        let is_idle = line.is_idle();
        let lost = table.held(partition);
        let line = table.lines.entry(partition).or_default();
        if renewed || !had_lease || (lost.is_empty() && is_idle) {
            line.confirm(asked_at);
            return;
        }
        tracing::warn!(
            partition = partition.0,
            directories = lost.len(),
            "the lease ran out; what was held under it is lost"
        );
        // It is watched, so this is mended.
        line.is_broken = true;
        line.doubt();
        for directory in lost {
            table.forget(directory);
        }
    }

    /// Stays with the leader of a partition as long as something is held there.
    fn watch(self: &Arc<Self>, partition: PartitionId) {
        let mut table = self.lock();
        let line = table.lines.entry(partition).or_default();
        if !std::mem::replace(&mut line.is_watched, true) {
            tokio::spawn(self.clone().keep(partition));
        }
    }

    async fn keep(self: Arc<Self>, partition: PartitionId) {
        let client = self.client.id();
        let mut renewed_at = Instant::now();
        loop {
            let query = Query::AwaitRecall { client };
            match self.client.call(Call::Query { partition, query }).await {
                Ok(Reply::Delegated(wanted)) if !wanted.is_empty() => {
                    tokio::spawn(self.clone().give_back_wanted(wanted));
                }
                Ok(_) => {}
                Err(failure) => {
                    tracing::debug!(%partition, %failure, "the leader is not heard");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
            let needs_repair = {
                let mut table = self.lock();
                let is_idle = table.held(partition).is_empty();
                let line = table.lines.entry(partition).or_default();
                if is_idle && line.is_idle() && !line.is_broken {
                    line.is_watched = false;
                    return;
                }
                line.is_broken
            };
            if needs_repair {
                tokio::spawn(self.clone().abandon(partition));
            }
            if renewed_at.elapsed() >= RENEW_AFTER && self.renew(partition).await {
                renewed_at = Instant::now();
            }
            if let Err(failure) = self.reserve_numbers(partition).await {
                tracing::debug!(%partition, %failure, "no inode numbers set aside");
            }
        }
    }

    async fn renew(&self, partition: PartitionId) -> bool {
        let asked_at = Instant::now();
        let command = Command::UpdateOpens {
            client: self.client.id(),
            opened: Vec::new(),
            closed: Vec::new(),
            lease_ms: LEASE_MS_DEFAULT,
        };
        match self.client.call(Call::Command { partition, command }).await {
            Ok(Reply::Opens { renewed, .. }) => {
                self.lease_answered(partition, asked_at, renewed);
                true
            }
            _ => false,
        }
    }

    async fn give_back_wanted(self: Arc<Self>, wanted: Vec<InodeId>) {
        {
            let mut table = self.lock();
            for directory in &wanted {
                table.bar(*directory);
            }
        }
        self.give_back(wanted).await;
    }

    /// Forgets directories of one partition, waits for what was decided in them, and gives them back: also those the
    /// table does not know, which the cluster believes to be held.
    async fn give_back(&self, mut directories: Vec<InodeId>) {
        let Some(partition) = directories.first().map(|directory| directory.home()) else {
            return;
        };
        {
            let mut table = self.lock();
            table.lines.entry(partition).or_default().changes += 1;
            directories.retain(|directory| table.begin_return(*directory));
        }
        if directories.is_empty() {
            return;
        }
        self.settle(partition).await;
        let command = Command::Delegation(DelegationCommand::GiveBack {
            client: self.client.id(),
            directories: directories.clone(),
        });
        // One that is late would take away what was taken anew.
        while let Err(failure) = self
            .client
            .call(Call::Command {
                partition,
                command: command.clone(),
            })
            .await
        {
            tracing::debug!(%partition, %failure, "directories not given back yet");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let mut table = self.lock();
        for directory in &directories {
            table.directories.remove(directory);
        }
    }

    /// A change of this partition was refused: begins anew there.
    pub(super) async fn abandon(self: Arc<Self>, partition: PartitionId) {
        let _gate = self.gate(partition).write_owned().await;
        let held = self.lock().held(partition);
        self.give_back(held).await;
        self.settle(partition).await;
        let mut table = self.lock();
        let line = table.lines.entry(partition).or_default();
        if line.is_idle() {
            self.client.end_order(partition);
            line.is_broken = false;
        }
    }

    /// Gives everything back, when the mount ends.
    pub(crate) async fn give_all_back(&self) {
        let mut held: Vec<InodeId> = self.lock().directories.keys().copied().collect();
        held.sort_unstable();
        let by_partition = held.chunk_by(|left, right| left.home() == right.home());
        let returns = by_partition.map(|directories| self.give_back(directories.to_vec()));
        futures::future::join_all(returns).await;
    }
}

/// What was read of a directory.
struct Loaded {
    attributes: Attributes,
    entries: Vec<DirectoryEntry>,
    parent: Parent,
    is_complete: bool,
}

impl Table {
    /// Says whether it is to be given back now.
    fn begin_return(&mut self, directory: InodeId) -> bool {
        match self.directories.get_mut(&directory) {
            Some(held) if held.phase == Phase::Returning => return false,
            Some(held) if held.phase == Phase::Loading => {
                held.is_wanted = true;
                return false;
            }
            _ => {}
        }
        self.forget(directory);
        self.directories
            .insert(directory, Directory::new(Phase::Returning));
        true
    }

    fn held(&self, partition: PartitionId) -> Vec<InodeId> {
        let held = self
            .directories
            .iter()
            .filter(|(inode, _)| inode.home() == partition);
        held.filter(|(_, held)| held.phase == Phase::Ready)
            .map(|(inode, _)| *inode)
            .collect()
    }

    fn put(&mut self, inode: InodeId, loaded: Loaded) {
        // Answers to what was asked before are older than this.
        self.lines.entry(inode.home()).or_default().changes += 1;
        let mut directory = Directory::new(Phase::Ready);
        directory.is_complete = loaded.is_complete;
        directory.attributes = Some(loaded.attributes);
        directory.parent = Some(loaded.parent);
        for entry in &loaded.entries {
            let name = match &entry.attributes {
                Some(attributes) if entry.kind != FileKind::Directory => {
                    let known = self.add(inode, attributes);
                    self.note_unlocked_elsewhere(known);
                    known
                }
                _ => Name::Elsewhere(entry.inode, entry.kind),
            };
            directory.names.insert(entry.name.clone(), name);
        }
        self.directories.insert(inode, directory);
    }
}
