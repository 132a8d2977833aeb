//! A directory that clients take for themselves in turn, change without waiting, and give back when others come.
//!
//! What a holder told is done counts from that moment, so whoever sees the directory afterwards must find it: no
//! answer may be older than what was told before it was asked for. A holder that is out of reach until its lease is over
//! loses what had not arrived. It hears of that late, so what looks wrong is wrong only if no holder has lost
//! anything in the end.
//!
//! Invariant: a name that anybody else changes at the time of a look may be seen as it was or as it will be.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::delegation::DelegationCommand;
use bark_schema::ids::{ClientId, InodeId, PartitionId};
use bark_schema::operation::{Command, Failure, ListPosition, Namespace, NewContent, Query, Refusal, Reply};
use bytes::Bytes;

use super::owner::make_root;
use super::{ATTRIBUTES, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};
use crate::counts::Counts;

const NAMES: u64 = 12;
const BURST_MAX: u64 = 12;
const LEASE_MS: u32 = 3_000;
/// A holder stops itself at half of its lease.
const CONFIRMED_US: u64 = LEASE_MS as u64 * 500;
const NUMBERS: u32 = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    There,
    Absent,
    /// A change that was not told yet is under way, or its outcome is not known.
    Open,
}

/// The directory, and what its names were, one after the other.
#[derive(Default)]
pub struct SharedDirectory {
    directory: Cell<Option<InodeId>>,
    names: RefCell<BTreeMap<Bytes, Vec<(u64, Place)>>>,
    changes: Cell<u64>,
    /// Who has it, and who of those is asked to give it back.
    holder: Cell<Option<ClientId>>,
    is_wanted: Cell<bool>,
    /// A holder lost what it had told.
    is_lost: Cell<bool>,
    suspicion: RefCell<Option<String>>,
}

impl SharedDirectory {
    fn place(&self, name: &Bytes) -> Place {
        let names = self.names.borrow();
        let last = names.get(name).and_then(|places| places.last());
        last.map_or(Place::Absent, |(_, place)| *place)
    }

    fn note(&self, name: &Bytes, place: Place) {
        self.changes.set(self.changes.get() + 1);
        let mut names = self.names.borrow_mut();
        names
            .entry(name.clone())
            .or_default()
            .push((self.changes.get(), place));
    }

    /// Whether the name may have been there, or not, at some time since `change`.
    fn allows(&self, name: &Bytes, since: u64, is_there: bool) -> bool {
        let names = self.names.borrow();
        let Some(places) = names.get(name) else {
            return !is_there;
        };
        let before = places.iter().rev().find(|(change, _)| *change <= since);
        let before = before.map_or(Place::Absent, |(_, place)| *place);
        let after = places.iter().filter(|(change, _)| *change > since);
        let mut all = after.map(|(_, place)| *place).chain([before]);
        let wanted = match is_there {
            true => Place::There,
            false => Place::Absent,
        };
        all.any(|place| place == wanted || place == Place::Open)
    }
}

struct Taker {
    port: Port,
    random: Random,
    client: ClientId,
    directory: InodeId,
    partition: PartitionId,
    shared: Rc<SharedDirectory>,
    numbers: std::ops::Range<u64>,
}

/// Takes the directory, changes it, and looks at it, until the work is over.
pub async fn delegated(port: Port, random: Random, client: ClientId, shared: Rc<SharedDirectory>) {
    let directory = match shared.directory.get() {
        Some(directory) => directory,
        None => {
            // The first to come; others find it there.
            let Some(directory) = make_root(&port, &format!("delegated-{}", client.0)).await else {
                return;
            };
            match shared.directory.get() {
                Some(other) => other,
                None => {
                    shared.directory.set(Some(directory));
                    directory
                }
            }
        }
    };
    let mut taker = Taker {
        port: port.clone(),
        random,
        client,
        directory,
        partition: directory.home(),
        shared: shared.clone(),
        numbers: 0..0,
    };
    while port.works() && !shared.is_lost.get() {
        match taker.random.below(4) {
            0..=1 => taker.hold().await,
            2 => taker.change().await,
            _ => taker.look().await,
        }
        let pause = taker.random.below(150_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    if let Some(suspicion) = shared.suspicion.borrow_mut().take()
        && !shared.is_lost.get()
    {
        port.stage().fail(suspicion);
    }
}

/// Waits for others to want the directory back.
pub async fn await_recalls(port: Port, client: ClientId, shared: Rc<SharedDirectory>) {
    while port.works() {
        if shared.holder.get() == Some(client)
            && let Some(directory) = shared.directory.get()
        {
            let query = Query::AwaitRecall { client };
            let partition = directory.home();
            let told = port.call(Call::Query { partition, query }, 2_000).await;
            if matches!(told, Ok(Reply::Delegated(wanted)) if wanted.contains(&directory)) {
                port.stage().count(Counts {
                    recalls: 1,
                    ..Counts::default()
                });
                shared.is_wanted.set(true);
            }
        }
        port.sleep(20_000).await;
    }
}

impl Taker {
    async fn hold(&mut self) {
        if self.numbers.is_empty() && !self.reserve_numbers().await {
            return;
        }
        let asked_us = self.port.now_us();
        let take = DelegationCommand::Take {
            client: self.client,
            directories: vec![self.directory],
            lease_ms: LEASE_MS,
        };
        match self.command(Command::Delegation(take)).await {
            Fate::Done(Reply::Opens { missing, .. }) if missing.is_empty() => {}
            _ => return,
        }
        self.shared.holder.set(Some(self.client));
        self.shared.is_wanted.set(false);
        // A holder decides by what it knows: it must be what is there.
        self.look().await;
        let mut on_the_way = Vec::new();
        // The same few again and again, so that their order counts.
        let few = [self.some_name(), self.some_name()];
        while self.port.works()
            && self.port.now_us() < asked_us + CONFIRMED_US
            && !self.shared.is_wanted.get()
            && !self.shared.is_lost.get()
            && !self.random.chance(6)
        {
            on_the_way.extend(self.change_at_once(&few));
            let pause = self.random.below(30_000);
            self.port.sleep(pause).await;
        }
        self.port.stage().count(Counts {
            ordered_changes: on_the_way.len() as u64,
            ..Counts::default()
        });
        for answer in on_the_way {
            self.judge(answer.await);
        }
        if self.shared.holder.get() == Some(self.client) {
            self.shared.holder.set(None);
        }
        let give_back = DelegationCommand::GiveBack {
            client: self.client,
            directories: vec![self.directory],
        };
        self.command(Command::Delegation(give_back)).await;
    }

    async fn reserve_numbers(&mut self) -> bool {
        match self.command(Command::ReserveInodes { count: NUMBERS }).await {
            Fate::Done(Reply::Count(first)) => {
                self.numbers = first..first + u64::from(NUMBERS);
                true
            }
            _ => false,
        }
    }

    /// Sends some changes, told at once, without waiting for what comes of those before.
    fn change_at_once(
        &mut self,
        few: &[Bytes; 2],
    ) -> Vec<impl Future<Output = Result<Reply, Failure>> + use<>> {
        let count = 1 + self.random.below(BURST_MAX);
        let mut sent = Vec::new();
        for _ in 0..count {
            let name = few[self.random.below(2) as usize].clone();
            let (inode, command) = match self.shared.place(&name) {
                Place::Open => continue,
                Place::There => (None, self.unlink(&name)),
                Place::Absent => match self.numbers.next() {
                    Some(counter) => (Some(InodeId::new(self.partition, counter)), self.create(&name)),
                    None => continue,
                },
            };
            let after = match inode {
                Some(_) => Place::There,
                None => Place::Absent,
            };
            self.shared.note(&name, after);
            let call = Call::Ordered {
                partition: self.partition,
                time: 0,
                inode,
                awaited: self.random.below(4) == 0,
                command,
            };
            sent.push(self.port.begin(call, WORK_DEADLINE_MS));
        }
        sent
    }

    fn judge(&self, result: Result<Reply, Failure>) {
        match result {
            Ok(_) => {}
            // The lease was over, or nobody could be reached for too long.
            Err(Failure::Refused(Refusal::Conflict, _) | Failure::Unknown(_) | Failure::Busy(_)) => {
                self.shared.is_lost.set(true);
            }
            Err(failure) => self.fail(format!("a change that was told is refused: {failure}")),
        }
    }

    /// As clients do that have nothing for themselves.
    async fn change(&mut self) {
        let name = self.some_name();
        let (call, after) = match self.shared.place(&name) {
            Place::Open => return,
            Place::There => {
                let operation = Namespace::Unlink {
                    directory: self.directory,
                    name: name.clone(),
                };
                (Call::Namespace(operation), Place::Absent)
            }
            Place::Absent => {
                let (partition, command) = (self.partition, self.create(&name));
                (Call::Command { partition, command }, Place::There)
            }
        };
        self.shared.note(&name, Place::Open);
        match self.port.change(call, WORK_DEADLINE_MS).await {
            Fate::Done(_) => self.shared.note(&name, after),
            // A holder that lost what it told is the only reason there can be.
            Fate::Refused(refusal, sentence) => {
                self.suspect(format!(
                    "{name:?} cannot be made {after:?}: {refusal:?}, {sentence}"
                ));
            }
            Fate::Nothing | Fate::Unsure => {}
        }
    }

    async fn look(&mut self) {
        let since = self.shared.changes.get();
        let query = Query::By {
            client: self.client,
            query: Box::new(Query::ReadDirectory {
                directory: self.directory,
                after: ListPosition::Start,
                limit: 100,
            }),
        };
        let partition = self.partition;
        let answer = self
            .port
            .call(Call::Query { partition, query }, WORK_DEADLINE_MS)
            .await;
        let Ok(Reply::Directory { entries, .. }) = answer else {
            return;
        };
        let there: BTreeSet<Bytes> = entries.into_iter().map(|entry| entry.name).collect();
        for number in 0..NAMES {
            let name = file_name(number);
            let is_there = there.contains(&name);
            if !self.shared.allows(&name, since, is_there) {
                let places = self.shared.names.borrow().get(&name).cloned();
                self.suspect(format!(
                    "{name:?} is there: {is_there}, after change {since} and these: {places:?}"
                ));
            }
        }
    }

    fn some_name(&mut self) -> Bytes {
        file_name(self.random.below(NAMES))
    }

    fn create(&self, name: &Bytes) -> Command {
        Command::Create {
            directory: self.directory,
            name: name.clone(),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        }
    }

    fn unlink(&self, name: &Bytes) -> Command {
        Command::Unlink {
            directory: self.directory,
            name: name.clone(),
        }
    }

    async fn command(&self, command: Command) -> Fate {
        let partition = self.partition;
        self.port
            .change(Call::Command { partition, command }, WORK_DEADLINE_MS)
            .await
    }

    fn suspect(&self, reason: String) {
        self.shared.suspicion.borrow_mut().get_or_insert(format!(
            "delegated directory, seen by client {}: {reason}",
            self.client.0
        ));
    }

    fn fail(&self, reason: String) {
        let stage = self.port.stage();
        stage.fail(format!("delegated directory, client {}: {reason}", self.client.0));
    }
}

fn file_name(number: u64) -> Bytes {
    name(&format!("file-{number}"))
}
