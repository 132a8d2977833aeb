//! Files that are open and have no name: kept as long as somebody has them open, and gone when nobody has.
//!
//! One script plays several clients of the open files, each with a lease of its own: they tell what they have
//! open, renew, close, and at the end stop renewing as if they had died. By the rules ([`bark_core`]'s `state::open`)
//! a file stays for the grace time after its last name went, was closed, or the lease of the last one ended. As all
//! clocks agree, unless that fault is drawn, it can be said until when a file must be there.
//!
//! Invariants:
//! - A file that can be asked for holds what was written to it, name or not.
//! - That all are gone in the end is seen by the audit, which waits for it.

use std::collections::{BTreeMap, BTreeSet};

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::data::DataCommand;
use bark_schema::ids::{ClientId, InodeId};
use bark_schema::limits::ORPHAN_GRACE_MS;
use bark_schema::operation::{Command, Entry, Namespace, NewContent, Refusal, RenameMode, Reply};
use bytes::Bytes;

use super::owner::make_root;
use super::reader::{self, Found};
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};
use crate::counts::Counts;

const HOLDERS: u64 = 2;
const LEASE_MS: u32 = 5_000;
const RENEWAL_US: u64 = 1_000_000;
const GRACE_US: u64 = ORPHAN_GRACE_MS * 1_000;
/// Open at the same time.
const FILES_MAX: usize = 6;
const CONTENT_SIZE_MAX: u64 = 12_000;

/// A client of open files.
struct Holder {
    id: ClientId,
    told: BTreeSet<InodeId>,
    /// Told when no answer came: the lease may have ended before that, which only the lost answer said.
    doubtful: BTreeSet<InodeId>,
    /// The lease runs at least until then, if it has one.
    lease_until_us: Option<u64>,
    renew_at_us: u64,
}

struct File {
    content: Vec<u8>,
    /// It has no name, and stays at least until then, whoever has it open.
    stays_until_us: u64,
    sure: bool,
}

struct Unnamed {
    port: Port,
    random: Random,
    number: usize,
    directory: InodeId,
    /// When files must be there can be told.
    exact: bool,
    holders: Vec<Holder>,
    files: BTreeMap<InodeId, File>,
    next_name: u64,
    deadline_ms: u64,
}

pub async fn unnamed(port: Port, random: Random, number: usize, exact: bool) {
    let Some(directory) = make_root(&port, &format!("unnamed-{number}")).await else {
        return;
    };
    let holder = |index| Holder {
        id: ClientId(5_000 + HOLDERS * number as u64 + index),
        told: BTreeSet::new(),
        doubtful: BTreeSet::new(),
        lease_until_us: None,
        renew_at_us: 0,
    };
    let mut work = Unnamed {
        port: port.clone(),
        random,
        number,
        directory,
        exact,
        holders: (0..HOLDERS).map(holder).collect(),
        files: BTreeMap::new(),
        next_name: 0,
        deadline_ms: WORK_DEADLINE_MS,
    };
    while port.works() {
        work.renew().await;
        work.step().await;
        let pause = work.random.below(200_000);
        port.sleep(pause).await;
    }
    while port.stage().phase.get() < Phase::Verify {
        work.renew().await;
        port.sleep(100_000).await;
    }
    work.deadline_ms = VERIFY_DEADLINE_MS;
    for inode in work.files.keys().copied().collect::<Vec<_>>() {
        work.look(inode).await;
    }
    // One closes what it has open, the others die: both ways everything must go.
    work.close_all(0).await;
}

impl Unnamed {
    fn fail(&self, reason: String) {
        let stage = self.port.stage();
        stage.fail(format!("unnamed files of client {}: {reason}", self.number));
    }

    async fn step(&mut self) {
        let any = match self.files.len() as u64 {
            0 => None,
            count => self.files.keys().nth(self.random.below(count) as usize).copied(),
        };
        match (self.random.below(8), any) {
            (0..=1, _) if self.files.len() < FILES_MAX => self.make().await,
            (2, Some(inode)) => self.write(inode).await,
            (3, Some(inode)) => self.link(inode).await,
            (4, Some(inode)) => self.close(inode).await,
            (_, Some(inode)) => self.look(inode).await,
            (_, None) => self.make().await,
        }
    }

    /// Makes a file, opens it, and takes its name away, in one of the orders this can go.
    async fn make(&mut self) {
        self.next_name += 1;
        let at = Entry {
            directory: self.directory,
            name: name(&format!("file-{}", self.next_name)),
        };
        let size = 1 + self.random.below(CONTENT_SIZE_MAX);
        let content: Vec<u8> = (0..size).map(|_| self.random.next_u64() as u8).collect();
        let Some(inode) = self.create(&at).await else {
            return;
        };
        let file = File {
            content: Vec::new(),
            stays_until_us: 0,
            sure: true,
        };
        self.files.insert(inode, file);
        self.append(inode, content).await;
        let told_before = self.random.chance(2);
        if told_before {
            self.open(inode).await;
        }
        let sent_us = self.port.now_us();
        let call = match self.random.chance(3) {
            true => match self.replacement(&at).await {
                Some(call) => call,
                None => return self.forget(inode),
            },
            false => Call::Namespace(Namespace::Unlink {
                directory: at.directory,
                name: at.name.clone(),
            }),
        };
        match self.port.change(call, self.deadline_ms).await {
            Fate::Done(_) => {
                if let Some(file) = self.files.get_mut(&inode) {
                    file.stays_until_us = file.stays_until_us.max(sent_us + GRACE_US);
                }
                if !told_before {
                    self.open(inode).await;
                }
            }
            Fate::Refused(refusal, sentence) => {
                self.fail(format!("{inode} keeps its name: {refusal:?}, {sentence}"));
            }
            // It may have its name for ever.
            Fate::Nothing | Fate::Unsure => self.forget(inode),
        }
    }

    async fn create(&mut self, at: &Entry) -> Option<InodeId> {
        let command = Command::Create {
            directory: at.directory,
            name: at.name.clone(),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        let partition = at.directory.home();
        match self
            .port
            .change(Call::Command { partition, command }, self.deadline_ms)
            .await
        {
            Fate::Done(Reply::Created { attributes, .. }) => Some(attributes.inode),
            Fate::Refused(refusal, sentence) => {
                self.fail(format!("create of a new name: {refusal:?}, {sentence}"));
                None
            }
            _ => None,
        }
    }

    /// A rename of another file onto the name.
    async fn replacement(&mut self, at: &Entry) -> Option<Call> {
        self.next_name += 1;
        let from = Entry {
            directory: self.directory,
            name: name(&format!("file-{}", self.next_name)),
        };
        self.create(&from).await?;
        Some(Call::Namespace(Namespace::Rename {
            from,
            to: at.clone(),
            mode: RenameMode::Replace,
        }))
    }

    /// Nothing is foretold about it any more.
    fn forget(&mut self, inode: InodeId) {
        self.files.remove(&inode);
    }

    async fn append(&mut self, inode: InodeId, data: Vec<u8>) {
        let command = Command::Data(DataCommand::Write {
            inode,
            offset: None,
            data: Bytes::from(data.clone()),
        });
        let partition = inode.home();
        let fate = self
            .port
            .change(Call::Command { partition, command }, self.deadline_ms)
            .await;
        match fate {
            Fate::Done(_) => {
                if let Some(file) = self.files.get_mut(&inode) {
                    file.content.extend_from_slice(&data);
                }
            }
            Fate::Refused(refusal, sentence) => self.is_gone(inode, "a write", refusal, &sentence),
            Fate::Unsure => {
                if let Some(file) = self.files.get_mut(&inode) {
                    file.sure = false;
                }
            }
            Fate::Nothing => {}
        }
    }

    async fn write(&mut self, inode: InodeId) {
        let size = 1 + self.random.below(300);
        let data: Vec<u8> = (0..size).map(|_| self.random.next_u64() as u8).collect();
        self.append(inode, data).await;
    }

    /// A file that has lost its last name gets no other.
    async fn link(&mut self, inode: InodeId) {
        self.next_name += 1;
        let to = Entry {
            directory: self.directory,
            name: name(&format!("file-{}", self.next_name)),
        };
        let call = Call::Namespace(Namespace::Link { inode, to });
        match self.port.change(call, self.deadline_ms).await {
            Fate::Done(reply) => self.fail(format!("{inode}, without a name, got one: {reply:?}")),
            Fate::Refused(Refusal::NotFound, _) | Fate::Nothing | Fate::Unsure => {}
            Fate::Refused(refusal, sentence) => {
                self.fail(format!(
                    "a link of {inode} was refused with {refusal:?}: {sentence}"
                ));
            }
        }
    }

    /// Reads it; without a name it has no links.
    async fn look(&mut self, inode: InodeId) {
        match reader::read(&self.port, inode, self.deadline_ms).await {
            Found::Content(seen, content) => {
                let Some(file) = self.files.get(&inode) else {
                    return;
                };
                if file.sure && file.content != content {
                    let (now, written) = (content.len(), file.content.len());
                    self.fail(format!(
                        "{inode} holds other bytes than were written: {now} of {written}"
                    ));
                }
                if seen.link_count != 0 {
                    self.fail(format!("{inode} has no name and {} links", seen.link_count));
                }
                self.port.stage().count(Counts {
                    unnamed_reads: 1,
                    ..Counts::default()
                });
            }
            Found::Refused(refusal, sentence) => self.is_gone(inode, "a read", refusal, &sentence),
            Found::Lost | Found::Unread => {}
        }
    }

    /// Somebody was told that it is gone.
    fn is_gone(&mut self, inode: InodeId, what: &str, refusal: Refusal, sentence: &str) {
        if refusal != Refusal::NotFound {
            return self.fail(format!(
                "{what} of {inode} was refused with {refusal:?}: {sentence}"
            ));
        }
        let must_stay_us = self.must_stay_us(inode);
        if self.exact && self.port.now_us() < must_stay_us {
            self.fail(format!(
                "{what} of {inode} says it is gone, which must be there until {must_stay_us} us"
            ));
        }
        self.forget(inode);
    }

    /// Until when a file must be there.
    fn must_stay_us(&self, inode: InodeId) -> u64 {
        let Some(file) = self.files.get(&inode) else {
            return 0;
        };
        let holders = self.holders.iter().filter(|holder| holder.told.contains(&inode));
        let by_lease = holders
            .filter_map(|holder| holder.lease_until_us)
            .max()
            .unwrap_or(0);
        match by_lease {
            0 => file.stays_until_us,
            until_us => file.stays_until_us.max(until_us + GRACE_US),
        }
    }

    /// Some of the holders have it open from now on.
    async fn open(&mut self, inode: InodeId) {
        let first = self.random.below(HOLDERS) as usize;
        self.tell(first, vec![inode], Vec::new()).await;
        if self.random.chance(2) {
            let other = (first + 1) % self.holders.len();
            self.tell(other, vec![inode], Vec::new()).await;
        }
    }

    async fn close(&mut self, inode: InodeId) {
        let index = self.random.below(HOLDERS) as usize;
        self.tell(index, Vec::new(), vec![inode]).await;
    }

    async fn close_all(&mut self, index: usize) {
        let closed = self.holders[index].told.iter().copied().collect();
        self.tell(index, Vec::new(), closed).await;
    }

    async fn renew(&mut self) {
        for index in 0..self.holders.len() {
            let now_us = self.port.now_us();
            if self.holders[index].lease_until_us.is_some() && self.holders[index].renew_at_us <= now_us {
                self.tell(index, Vec::new(), Vec::new()).await;
            }
        }
    }

    async fn tell(&mut self, index: usize, mut opened: Vec<InodeId>, closed: Vec<InodeId>) {
        let sent_us = self.port.now_us();
        let mut doubtful = std::mem::take(&mut self.holders[index].doubtful);
        doubtful.retain(|inode| !closed.contains(inode) && !opened.contains(inode));
        opened.extend(doubtful);
        let had_until_us = self.holders[index].lease_until_us;
        let command = Command::UpdateOpens {
            client: self.holders[index].id,
            opened: opened.clone(),
            closed: closed.clone(),
            lease_ms: LEASE_MS,
        };
        // It may be carried out from now on: nothing is promised because of these any more.
        for inode in &closed {
            let stays_us = self.must_stay_us(*inode).min(sent_us + GRACE_US);
            if self.holders[index].told.remove(inode)
                && let Some(file) = self.files.get_mut(inode)
            {
                file.stays_until_us = file.stays_until_us.max(stays_us);
            }
        }
        let partition = self.directory.home();
        let fate = self
            .port
            .change(Call::Command { partition, command }, self.deadline_ms)
            .await;
        let (missing, renewed) = match fate {
            Fate::Done(Reply::Opens { missing, renewed }) => (missing, renewed),
            Fate::Done(other) => return self.fail(format!("opens were answered {other:?}")),
            Fate::Refused(refusal, sentence) => {
                return self.fail(format!("opens were refused: {refusal:?}, {sentence}"));
            }
            Fate::Nothing | Fate::Unsure => {
                let told = self.end_promises(index, had_until_us);
                self.holders[index].doubtful = told.into_iter().chain(opened).collect();
                return;
            }
        };
        let now_us = self.port.now_us();
        self.holders[index].renew_at_us = now_us + RENEWAL_US;
        let mut again = Vec::new();
        if !renewed && let Some(until_us) = had_until_us {
            if self.exact && now_us < until_us {
                self.fail(format!(
                    "a lease ended at {now_us}, which runs until {until_us} us"
                ));
            }
            again = self.end_promises(index, had_until_us);
        }
        let lease_us = u64::from(LEASE_MS) * 1_000;
        self.holders[index].lease_until_us = Some(sent_us + lease_us);
        for inode in opened {
            match missing.contains(&inode) {
                true => self.is_gone(inode, "an open", Refusal::NotFound, "missing"),
                false => drop(self.holders[index].told.insert(inode)),
            }
        }
        if !again.is_empty() {
            Box::pin(self.tell(index, again, Vec::new())).await;
        }
    }

    /// What was told before counts no longer than the lease it was told under, and the grace time after that.
    fn end_promises(&mut self, index: usize, lease_until_us: Option<u64>) -> Vec<InodeId> {
        let told: Vec<InodeId> = std::mem::take(&mut self.holders[index].told)
            .into_iter()
            .collect();
        for inode in &told {
            if let (Some(file), Some(until_us)) = (self.files.get_mut(inode), lease_until_us) {
                file.stays_until_us = file.stays_until_us.max(until_us + GRACE_US);
            }
        }
        told
    }
}
