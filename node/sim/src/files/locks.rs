//! Clients add to a number in a file, each under an advisory lock, and stop at the worst moments.
//!
//! Whoever has the lock reads the number, waits a while and writes the next one. Some are silent for longer than their
//! lease meanwhile, or do not know what became of a request: then the lock may be another's already, and the write
//! must be refused. So no two writes that were acknowledged have the same number, and nobody ever reads less than
//! was acknowledged before, however the faults fall. A client that was fenced, or is in doubt, says that it knows
//! (`Rejoin`) and begins anew.
//!
//! These clients have sessions of their own: what else their client did would be refused as well.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::file_lock::{
    FileLock, LockAnswer, LockCommand, LockKind, LockMode, LockOwner, LockQuery, LockRange,
};
use bark_schema::ids::{ClientId, InodeId};
use bark_schema::operation::{Command, Content, NewContent, Query, Refusal, Reply};
use bytes::Bytes;

use super::{ATTRIBUTES, VERIFY_DEADLINE_MS, WORK_DEADLINE_MS, name};
use crate::client::{Fate, Phase, Port};
use crate::counts::Counts;

const LEASE_MS: u32 = 1_000;
const RENEWAL_US: u64 = 300_000;
const NUMBER_SIZE: u64 = 8;

/// The file, and what all clients know of it.
#[derive(Default)]
pub struct SharedNumber {
    inode: Cell<Option<InodeId>>,
    acknowledged: RefCell<BTreeSet<u64>>,
}

/// The client must begin anew: it lost its locks, or does not know.
struct Lost;

struct Adder {
    port: Port,
    random: Random,
    client: ClientId,
    number: usize,
    inode: InodeId,
    shared: Rc<SharedNumber>,
    waits: u64,
}

pub async fn add_under_lock(
    port: Port,
    random: Random,
    (number, client): (usize, ClientId),
    shared: Rc<SharedNumber>,
) {
    let Some(inode) = open(&port, &shared).await else {
        return;
    };
    let mut adder = Adder {
        port: port.clone(),
        random,
        client,
        number,
        inode,
        shared,
        waits: 0,
    };
    while port.works() {
        if adder.round().await.is_err() {
            adder.rejoin().await;
        }
        let pause = adder.random.below(100_000);
        port.sleep(pause).await;
    }
    port.phase(Phase::Verify).await;
    if adder.read(VERIFY_DEADLINE_MS).await.is_none() {
        adder.fail("after the repair, the number cannot be read".to_owned());
    }
}

async fn open(port: &Port, shared: &SharedNumber) -> Option<InodeId> {
    while port.works() {
        let command = Command::Create {
            directory: InodeId::ROOT,
            name: name("number"),
            attributes: ATTRIBUTES,
            content: NewContent::Inline(Bytes::copy_from_slice(&0u64.to_le_bytes())),
            exclusive: false,
        };
        let partition = InodeId::ROOT.home();
        let call = Call::Command { partition, command };
        if let Fate::Done(Reply::Created { attributes, .. }) = port.change(call, WORK_DEADLINE_MS).await {
            shared.inode.set(Some(attributes.inode));
            return Some(attributes.inode);
        }
    }
    None
}

impl Adder {
    fn fail(&self, reason: String) {
        let stage = self.port.stage();
        stage.fail(format!("number under a lock, client {}: {reason}", self.number));
    }

    async fn change(&self, command: LockCommand) -> Fate {
        let partition = self.inode.home();
        let command = Command::Lock(command);
        let call = Call::Command { partition, command };
        self.port.change(call, WORK_DEADLINE_MS).await
    }

    /// What a change answered; a client that cannot tell, or is told that it lost its locks, begins anew.
    fn settle(&self, fate: Fate) -> Result<Option<Reply>, Lost> {
        match fate {
            Fate::Done(reply) => Ok(Some(reply)),
            Fate::Refused(Refusal::Fenced, _) | Fate::Unsure => Err(Lost),
            Fate::Nothing => Ok(None),
            Fate::Refused(refusal, sentence) => {
                self.fail(format!("refused with {refusal:?}: {sentence}"));
                Err(Lost)
            }
        }
    }

    /// Takes the lock, adds, lets go.
    async fn round(&mut self) -> Result<(), Lost> {
        // Both kinds, which do not see each other; in one order, or two would wait for each other.
        let (one, two) = (LockKind::Flock, LockKind::Range);
        if !self.take(one).await? {
            return Ok(());
        }
        if self.take(two).await? {
            self.add().await?;
            self.release(two).await?;
        }
        self.release(one).await
    }

    fn owner(&self, kind: LockKind) -> LockOwner {
        LockOwner {
            client: self.client,
            kind,
            number: 1,
        }
    }

    async fn take(&mut self, kind: LockKind) -> Result<bool, Lost> {
        self.waits += 1;
        let wait = match self.random.chance(3) {
            true => 0,
            false => self.waits,
        };
        let lock = FileLock {
            inode: self.inode,
            owner: self.owner(kind),
            range: LockRange::ALL,
            mode: LockMode::Exclusive,
            process: 1,
        };
        let command = LockCommand::Take {
            lock,
            wait,
            lease_ms: LEASE_MS,
        };
        match self.settle(self.change(command).await)? {
            Some(Reply::Lock(LockAnswer::Granted(_))) => Ok(true),
            Some(Reply::Lock(LockAnswer::Waiting)) => self.wait(wait).await,
            Some(Reply::Lock(LockAnswer::Held(_))) | None => Ok(false),
            Some(other) => {
                self.fail(format!("a lock was answered {other:?}"));
                Err(Lost)
            }
        }
    }

    /// Asks until it is granted, or until its patience ends; then it cancels, which may be too late.
    async fn wait(&mut self, wait: u64) -> Result<bool, Lost> {
        let (inode, client) = (self.inode, self.client);
        let partition = inode.home();
        let patience = self.random.below(8);
        for _ in 0..patience {
            let query = Query::Lock(LockQuery::Waited { inode, client, wait });
            let call = Call::Query { partition, query };
            match self.port.call(call, WORK_DEADLINE_MS).await {
                Ok(Reply::Lock(LockAnswer::Granted(_))) => return Ok(true),
                Ok(Reply::Lock(LockAnswer::Waiting)) => {}
                Ok(other) => {
                    self.fail(format!("a wait was answered {other:?}"));
                    return Err(Lost);
                }
                Err(_) => return Err(Lost),
            }
            self.renew().await?;
        }
        let cancel = LockCommand::Cancel { inode, client, wait };
        match self.settle(self.change(cancel).await)? {
            Some(Reply::Done) => Ok(false),
            Some(Reply::Lock(LockAnswer::Granted(_))) => Ok(true),
            _ => Err(Lost),
        }
    }

    async fn renew(&self) -> Result<(), Lost> {
        let renew = LockCommand::Renew {
            client: self.client,
            lease_ms: LEASE_MS,
        };
        self.settle(self.change(renew).await).map(|_| ())
    }

    async fn add(&mut self) -> Result<(), Lost> {
        let Some(before) = self.read(WORK_DEADLINE_MS).await else {
            return Ok(());
        };
        // Mostly within the lease; else beyond it, renewed or not.
        let pause_us = match self.random.below(6) {
            0 => 3_000_000,
            _ => self.random.below(400_000),
        };
        let renews = self.random.chance(2);
        let until_us = self.port.now_us() + pause_us;
        while self.port.now_us() < until_us {
            let left_us = until_us - self.port.now_us();
            self.port.sleep(left_us.min(RENEWAL_US)).await;
            if renews {
                self.renew().await?;
            }
        }
        let command = Command::WriteInline {
            inode: self.inode,
            offset: 0,
            data: Bytes::copy_from_slice(&(before + 1).to_le_bytes()),
            truncate: false,
        };
        let partition = self.inode.home();
        let call = Call::Command { partition, command };
        if self
            .settle(self.port.change(call, WORK_DEADLINE_MS).await)?
            .is_some()
        {
            self.port.stage().count(Counts {
                additions_under_lock: 1,
                ..Counts::default()
            });
            if !self.shared.acknowledged.borrow_mut().insert(before + 1) {
                self.fail(format!("{} was written by two who had the lock", before + 1));
            }
        }
        Ok(())
    }

    async fn read(&self, deadline_ms: u64) -> Option<u64> {
        let acknowledged = self.shared.acknowledged.borrow().last().copied().unwrap_or(0);
        let query = Query::Layout {
            inode: self.inode,
            offset: 0,
            length: NUMBER_SIZE,
        };
        let partition = self.inode.home();
        let call = Call::Query { partition, query };
        let Ok(Reply::Layout {
            content: Content::Inline(bytes),
            ..
        }) = self.port.call(call, deadline_ms).await
        else {
            return None;
        };
        let Ok(bytes) = <[u8; 8]>::try_from(&bytes[..]) else {
            self.fail(format!("the number has {} bytes", bytes.len()));
            return None;
        };
        let found = u64::from_le_bytes(bytes);
        if found < acknowledged {
            self.fail(format!("{acknowledged} was written, and later {found} is read"));
        }
        Some(found)
    }

    async fn release(&self, kind: LockKind) -> Result<(), Lost> {
        let release = LockCommand::Release {
            inode: self.inode,
            owner: self.owner(kind),
            range: LockRange::ALL,
        };
        match self.settle(self.change(release).await)? {
            Some(_) => Ok(()),
            // Not released for sure: everything goes when it begins anew.
            None => Err(Lost),
        }
    }

    async fn rejoin(&self) {
        while self.port.stage().phase.get() < Phase::Verify {
            let rejoin = LockCommand::Rejoin { client: self.client };
            match self.change(rejoin).await {
                Fate::Done(_) => return,
                Fate::Refused(refusal, sentence) => {
                    return self.fail(format!("could not begin anew: {refusal:?}, {sentence}"));
                }
                Fate::Nothing | Fate::Unsure => {}
            }
        }
    }
}
