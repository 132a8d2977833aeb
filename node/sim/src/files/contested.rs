//! Few names that all clients enter, leave and replace: the history of each must be linearizable.
//!
//! Every client brings files of its own, made in a directory of its own, and each file says by its owner number
//! which it is. A name that is entered only if free (create, link, rename with NOREPLACE), replaced (rename),
//! exchanged and left (unlink) is a register whose value is that number; a lookup reads it.
//!
//! Renames here cross directories and mostly partitions, so what is checked is two-phase commit under load.
//! Beside that all give one file names in their own directories and take them away: they get into each other's way
//! at the inode, and what its links come to is counted by the tree at the end.

use std::cell::Cell;
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::ids::InodeId;
use bark_schema::operation::{
    Attributes, Command, Entry, Failure, Namespace, NewContent, NewInode, Query, Refusal, RenameMode, Reply,
};
use bytes::Bytes;

use super::owner::make_root;
use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::checker::{Action, Operation};
use crate::client::{Fate, Phase, Port};
use crate::keys::History;

const NAMES: u64 = 2;
/// Changes of one client: those of unknown outcome stay open, and the checker has to try all orders.
const CHANGES_MAX: u32 = 40;

/// The directory all fight in.
#[derive(Default)]
pub struct Contest {
    directory: Cell<Option<InodeId>>,
    /// The file all give names to.
    file: Cell<Option<InodeId>>,
    next_write: Cell<u32>,
}

struct Contestant {
    port: Port,
    random: Random,
    client: usize,
    history: History,
    contest: Rc<Contest>,
    arena: InodeId,
    home: InodeId,
    next_name: u64,
    /// Names of the common file.
    shares: Vec<Entry>,
    deadline_ms: u64,
}

pub async fn contested(port: Port, random: Random, client: usize, history: History, contest: Rc<Contest>) {
    let Some(arena) = arena(&port, client, &contest).await else {
        return;
    };
    let Some(home) = make_root(&port, &format!("contestant-{client}")).await else {
        return;
    };
    let mut contestant = Contestant {
        port: port.clone(),
        random,
        client,
        history,
        contest,
        arena,
        home,
        next_name: 0,
        shares: Vec::new(),
        deadline_ms: WORK_DEADLINE_MS,
    };
    let mut changes = 0;
    while port.works() {
        if contestant.random.chance(3) {
            contestant.share().await;
        }
        if contestant.random.chance(2) || changes >= CHANGES_MAX {
            let contested = contestant.any_name();
            contestant.look(contested).await;
        } else {
            changes += 1;
            contestant.change().await;
        }
        let pause = contestant.random.below(300_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    contestant.deadline_ms = VERIFY_DEADLINE_MS;
    for number in 0..NAMES {
        if !contestant.look(number).await {
            let reason = format!("after the repair, client {client} cannot look up contested name {number}");
            port.stage().fail(reason);
        }
    }
}

/// The first one made is where all go.
async fn arena(port: &Port, client: usize, contest: &Contest) -> Option<InodeId> {
    if contest.directory.get().is_none() {
        let made = make_root(port, &format!("contested-{client}")).await?;
        if contest.directory.get().is_none() {
            contest.directory.set(Some(made));
        }
    }
    contest.directory.get()
}

impl Contestant {
    fn any_name(&mut self) -> u64 {
        self.random.below(NAMES)
    }

    fn entry(&self, contested: u64) -> Entry {
        Entry {
            directory: self.arena,
            name: name(&format!("name-{contested}")),
        }
    }

    fn new_write(&self) -> u32 {
        let write = self.contest.next_write.get() + 1;
        self.contest.next_write.set(write);
        write
    }

    async fn change(&mut self) {
        let contested = self.any_name();
        match self.random.below(7) {
            0 => self.create(contested).await,
            1 => self.leave(contested).await,
            2 => self.link(contested).await,
            3 => self.rename(contested, RenameMode::NoReplace).await,
            4 => self.rename(contested, RenameMode::Exchange).await,
            _ => self.rename(contested, RenameMode::Replace).await,
        }
    }

    fn record(&self, contested: u64, called_us: u64, is_open: bool, action: Action) {
        self.history.borrow_mut().push(Operation {
            key: format!("contested name {contested}"),
            client: self.client,
            called_us,
            returned_us: (!is_open).then(|| self.port.now_us()),
            action,
        });
    }

    /// Makes a change of a contested name and writes it down; `refusal` says that it was not possible.
    async fn enter(
        &mut self,
        contested: u64,
        call: Call,
        refusal: Refusal,
        action: impl Fn(Option<bool>) -> Action,
    ) {
        let called_us = self.port.now_us();
        let outcome = match self.port.change(call.clone(), self.deadline_ms).await {
            Fate::Done(_) => Some(true),
            Fate::Refused(reason, _) if reason == refusal => Some(false),
            Fate::Refused(reason, sentence) => {
                let reason = format!("{call:?} was refused with {reason:?}: {sentence}");
                return self.port.stage().fail(reason);
            }
            Fate::Nothing => return,
            Fate::Unsure => None,
        };
        self.record(contested, called_us, outcome.is_none(), action(outcome));
    }

    fn new_file(&self, at: Entry, write: u32) -> Call {
        let command = Command::Create {
            directory: at.directory,
            name: at.name,
            attributes: NewInode {
                owner: write,
                ..ATTRIBUTES
            },
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        let partition = at.directory.home();
        Call::Command { partition, command }
    }

    async fn create(&mut self, contested: u64) {
        let write = self.new_write();
        let call = self.new_file(self.entry(contested), write);
        let needs = Some(false);
        let action = |outcome| enters(write, needs, outcome);
        self.enter(contested, call, Refusal::Exists, action).await;
    }

    /// A file in this client's own directory. None if nobody can tell whether it is there.
    async fn own_file(&mut self, write: u32) -> Option<(Entry, InodeId)> {
        self.next_name += 1;
        let at = Entry {
            directory: self.home,
            name: name(&format!("own-{}", self.next_name)),
        };
        let call = self.new_file(at.clone(), write);
        match self.port.change(call, self.deadline_ms).await {
            Fate::Done(Reply::Created { attributes, .. }) => Some((at, attributes.inode)),
            _ => None,
        }
    }

    async fn link(&mut self, contested: u64) {
        let write = self.new_write();
        let Some((_, inode)) = self.own_file(write).await else {
            return;
        };
        let to = self.entry(contested);
        let call = Call::Namespace(Namespace::Link { inode, to });
        let action = |outcome| enters(write, Some(false), outcome);
        self.enter(contested, call, Refusal::Exists, action).await;
    }

    async fn rename(&mut self, contested: u64, mode: RenameMode) {
        let write = self.new_write();
        let Some((from, _)) = self.own_file(write).await else {
            return;
        };
        let to = self.entry(contested);
        let call = Call::Namespace(Namespace::Rename { from, to, mode });
        let (needs, refusal) = match mode {
            RenameMode::NoReplace => (Some(false), Refusal::Exists),
            RenameMode::Exchange => (Some(true), Refusal::NotFound),
            RenameMode::Replace => (None, Refusal::Internal),
        };
        let action = |outcome| enters(write, needs, outcome);
        self.enter(contested, call, refusal, action).await;
    }

    /// Gives the common file a name, or takes one of its names away.
    async fn share(&mut self) {
        let Some(inode) = self.contest.file.get() else {
            if let Some((_, inode)) = self.own_file(0).await {
                self.contest.file.set(self.contest.file.get().or(Some(inode)));
            }
            return;
        };
        let taken = match self.random.chance(3) {
            true => self.shares.pop(),
            false => None,
        };
        let (call, at) = match taken {
            Some(Entry { directory, name }) => (Call::Namespace(Namespace::Unlink { directory, name }), None),
            None => {
                self.next_name += 1;
                let to = Entry {
                    directory: self.home,
                    name: name(&format!("share-{}", self.next_name)),
                };
                let at = Some(to.clone());
                (Call::Namespace(Namespace::Link { inode, to }), at)
            }
        };
        match self.port.change(call.clone(), self.deadline_ms).await {
            Fate::Done(_) => self.shares.extend(at),
            Fate::Refused(refusal, sentence) => {
                let reason = format!("{call:?} was refused with {refusal:?}: {sentence}");
                self.port.stage().fail(reason);
            }
            Fate::Nothing | Fate::Unsure => {}
        }
    }

    async fn leave(&mut self, contested: u64) {
        let Entry { directory, name } = self.entry(contested);
        let call = Call::Namespace(Namespace::Unlink { directory, name });
        let action = |outcome| Action::Delete { outcome };
        self.enter(contested, call, Refusal::NotFound, action).await;
    }

    /// True if the name could be looked up.
    async fn look(&mut self, contested: u64) -> bool {
        let Entry { directory, name } = self.entry(contested);
        let called_us = self.port.now_us();
        let query = Query::Lookup { directory, name };
        let partition = directory.home();
        let answer = self
            .port
            .call(Call::Query { partition, query }, self.deadline_ms)
            .await;
        let returned_us = self.port.now_us();
        let found = match answer {
            Ok(Reply::Entry {
                inode, attributes, ..
            }) => match self.owner_of(inode, attributes).await {
                Some(owner) => Some((i64::from(owner), 0)),
                // It went before it could be asked whose it was.
                None => return true,
            },
            Err(Failure::Refused(Refusal::NotFound, _)) => None,
            Ok(other) => {
                self.port.stage().fail(format!("a lookup was answered {other:?}"));
                return false;
            }
            Err(_) => return false,
        };
        self.history.borrow_mut().push(Operation {
            key: format!("contested name {contested}"),
            client: self.client,
            called_us,
            returned_us: Some(returned_us),
            action: Action::Get { found },
        });
        true
    }

    async fn owner_of(&self, inode: InodeId, attributes: Option<Attributes>) -> Option<u32> {
        if let Some(attributes) = attributes {
            return Some(attributes.owner);
        }
        let query = Query::Attributes { inode };
        let partition = inode.home();
        match self
            .port
            .call(Call::Query { partition, query }, self.deadline_ms)
            .await
        {
            Ok(Reply::Attributes(attributes)) => Some(attributes.owner),
            _ => None,
        }
    }
}

fn enters(write: u32, needs: Option<bool>, outcome: Option<bool>) -> Action {
    Action::Enter {
        write: i64::from(write),
        needs,
        outcome,
    }
}
