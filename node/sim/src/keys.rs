//! What clients do to keys, written down for the linearizability checker.
//!
//! Few keys, so that operations meet. Registers hold the number of the write, which is unique; counters hold
//! numbers; pairs of keys are only ever written together. Values travel as decimal text.
//!
//! Invariants:
//! - An operation is in the history unless it certainly did not happen.

use std::cell::RefCell;
use std::rc::Rc;

use bark_client::session::Call;
use bark_core::random::Random;
use bark_schema::ids::PartitionId;
use bark_schema::operation::{self, Command, Expiry, Failure, Namespace, Outcome, Query, Reply};
use bytes::Bytes;

use crate::checker::{Action, Condition, Operation, SetOutcome};
use crate::client::{Phase, Port};
use crate::world::World;

pub type History = Rc<RefCell<Vec<Operation>>>;

/// How long an operation is tried while things go wrong, and when nothing does any more.
const WORK_DEADLINE_MS: u64 = 8_000;
const VERIFY_DEADLINE_MS: u64 = 20_000;

/// Keys that are set for a while only.
const FLEETING: &str = "fleeting-";
const TIME_TO_LIVE_MS: (u64, u64) = (100, 3_000);
/// Log time is cut to milliseconds, and so is a reader's.
const EXPIRY_SLACK_US: u64 = 2_000;
/// Times one client sets them: every one may end at any time, which the checker has to try.
const FLEETING_SETS_MAX: u32 = 12;

pub fn is_fleeting(key: &str) -> bool {
    key.starts_with(FLEETING)
}

#[derive(Clone)]
pub struct KeySpace(Rc<Space>);

struct Space {
    registers: Vec<Key>,
    counters: Vec<Key>,
    pair: [Key; 2],
    fleeting: Vec<Key>,
    next_write: std::cell::Cell<i64>,
}

#[derive(Clone)]
pub struct Key {
    pub name: String,
    pub partition: PartitionId,
}

impl KeySpace {
    pub fn draw(world: &mut World, partitions: u16) -> KeySpace {
        let mut key = |name: String| Key {
            name,
            partition: PartitionId(world.random.below(u64::from(partitions)) as u16),
        };
        KeySpace(Rc::new(Space {
            registers: (0..4).map(|number| key(format!("register-{number}"))).collect(),
            counters: (0..3).map(|number| key(format!("counter-{number}"))).collect(),
            pair: [key("pair-0".to_string()), key("pair-1".to_string())],
            fleeting: (0..2).map(|number| key(format!("{FLEETING}{number}"))).collect(),
            next_write: std::cell::Cell::new(1),
        }))
    }

    /// What the next call of `write` will give.
    fn next_write(&self) -> i64 {
        self.0.next_write.get()
    }

    pub fn any_register(&self, random: &mut Random) -> Key {
        self.0.registers[random.below(self.0.registers.len() as u64) as usize].clone()
    }

    pub fn write(&self) -> i64 {
        let write = self.0.next_write.get();
        self.0.next_write.set(write + 1);
        write
    }
}

/// What a client knows of a register: the newest version it saw.
#[derive(Clone, Copy, Default)]
struct Seen {
    version: u64,
}

struct Keys {
    port: Port,
    space: KeySpace,
    history: History,
    client: usize,
    deadline_ms: u64,
}

/// Works on registers and counters until told to stop, then reads all of them.
pub async fn work(port: Port, mut random: Random, space: KeySpace, history: History, client: usize) {
    let mut keys = Keys {
        port: port.clone(),
        space: space.clone(),
        history,
        client,
        deadline_ms: WORK_DEADLINE_MS,
    };
    let mut seen = vec![Seen::default(); space.0.registers.len()];
    let think_us = 1 + random.below(200_000);
    port.sleep(random.below(1_000_000)).await;
    while port.works() {
        if random.chance(3) {
            let key = space.0.counters[random.below(space.0.counters.len() as u64) as usize].clone();
            match random.below(5) {
                0 => drop(keys.get(&key).await),
                _ => keys.increment(&key, 1 + random.below(5) as i64).await,
            }
        } else {
            let index = random.below(space.0.registers.len() as u64) as usize;
            let key = space.0.registers[index].clone();
            match random.below(8) {
                0..=2 => {
                    if let Ok(Some((_, version))) = keys.get(&key).await {
                        seen[index].version = version;
                    }
                }
                3 => keys.delete(&key).await,
                4 => drop(keys.set(&key, Condition::IfAbsent, random.chance(2)).await),
                5 if seen[index].version > 0 => {
                    let condition = Condition::IfVersion(seen[index].version);
                    seen[index].version = keys.set(&key, condition, random.chance(2)).await.unwrap_or(0);
                }
                6 => drop(keys.set(&key, Condition::IfPresent, random.chance(2)).await),
                _ => {
                    seen[index].version = keys
                        .set(&key, Condition::Always, random.chance(2))
                        .await
                        .unwrap_or(0)
                }
            }
        }
        port.sleep(random.below(think_us)).await;
    }
    port.phase(Phase::Verify).await;
    keys.deadline_ms = VERIFY_DEADLINE_MS;
    for key in space.0.registers.iter().chain(&space.0.counters) {
        if let Err(failure) = keys.get(key).await {
            port.stage().fail(format!(
                "after the repair, client {client} cannot read {}: {failure}",
                key.name
            ));
        }
    }
}

/// Writes both keys of the pair at once, and at the end finds them equal.
pub async fn pairs(port: Port, space: KeySpace, history: History, client: usize) {
    let mut keys = Keys {
        port: port.clone(),
        space: space.clone(),
        history,
        client,
        deadline_ms: WORK_DEADLINE_MS,
    };
    while port.works() {
        keys.set_pair().await;
        port.sleep(400_000).await;
    }
    port.phase(Phase::Verify).await;
    keys.deadline_ms = VERIFY_DEADLINE_MS;
    // A write whose outcome is unknown may still happen now. Writes are unique: if the first key is the same
    // before and after the second was read, both were read in between two writes.
    loop {
        let mut found = Vec::new();
        for key in [&space.0.pair[0], &space.0.pair[1], &space.0.pair[0]] {
            match keys.get(key).await {
                Ok(value) => found.push(value.map(|(write, _)| write)),
                Err(failure) => {
                    let reason = format!("after the repair, {} cannot be read: {failure}", key.name);
                    return port.stage().fail(reason);
                }
            }
        }
        if found[0] == found[2] {
            if found[0] != found[1] {
                port.stage()
                    .fail(format!("a pair was written in half: {found:?}"));
            }
            return;
        }
        port.sleep(50_000).await;
    }
}

/// Sets keys for a while and looks whether they go when they must, and not before. `exact`: all clocks agree.
pub async fn fleeting(
    port: Port,
    mut random: Random,
    space: KeySpace,
    history: History,
    (client, exact): (usize, bool),
) {
    let mut keys = Keys {
        port: port.clone(),
        space: space.clone(),
        history,
        client,
        deadline_ms: WORK_DEADLINE_MS,
    };
    let mut sets_left = FLEETING_SETS_MAX;
    while port.works() {
        let key = &space.0.fleeting[random.below(space.0.fleeting.len() as u64) as usize];
        if sets_left > 0 && random.chance(3) {
            sets_left -= 1;
            let life_ms = TIME_TO_LIVE_MS.0 + random.below(TIME_TO_LIVE_MS.1 - TIME_TO_LIVE_MS.0);
            keys.set_for(key, life_ms, exact).await;
        } else {
            drop(keys.get(key).await);
        }
        port.sleep(random.below(500_000)).await;
    }
    port.phase(Phase::Verify).await;
    keys.deadline_ms = VERIFY_DEADLINE_MS;
    for key in &space.0.fleeting {
        if let Err(failure) = keys.get(key).await {
            let reason = format!("after the repair, {} cannot be read: {failure}", key.name);
            port.stage().fail(reason);
        }
    }
}

impl Keys {
    /// Sets a key that ends by itself; its end is an operation of its own.
    async fn set_for(&mut self, key: &Key, life_ms: u64, exact: bool) {
        let called_us = self.port.now_us();
        let before = self.history.borrow().len();
        let write = self.space.next_write();
        let expiry = Expiry::After(life_ms);
        self.set_with(key, Condition::Always, false, expiry).await;
        let returned_us = {
            let history = self.history.borrow();
            let own = |operation: &&Operation| matches!(operation.action, Action::Set { write: ours, .. } if ours == write);
            match history[before..].iter().find(own) {
                Some(set) => set.returned_us,
                // Certainly not done: there is nothing to end.
                None => return,
            }
        };
        let life_us = life_ms * 1000;
        let ends_us = returned_us.map(|at| at + life_us + EXPIRY_SLACK_US);
        let is_open = !exact || ends_us.is_none();
        self.history.borrow_mut().push(Operation {
            key: key.name.clone(),
            client: self.client,
            called_us: match exact {
                true => (called_us + life_us).saturating_sub(EXPIRY_SLACK_US),
                false => called_us,
            },
            returned_us: ends_us.filter(|_| !is_open),
            action: Action::Expire { write, is_open },
        });
    }

    /// Runs one call and writes it down, unless it certainly did not happen.
    async fn record(
        &mut self,
        keys: &[&Key],
        call: Call,
        action: impl Fn(Option<&Reply>) -> Result<Action, String>,
    ) -> Result<Reply, Failure> {
        let called_us = self.port.now_us();
        let result = self.port.call(call, self.deadline_ms).await;
        let returned_us = match &result {
            Ok(_) => Some(self.port.now_us()),
            Err(failure) if failure.outcome() == Outcome::Unknown => None,
            Err(Failure::Busy(_)) => return result,
            Err(failure) => {
                let reason = format!("client {}: {} was refused: {failure}", self.client, keys[0].name);
                self.port.stage().fail(reason);
                return result;
            }
        };
        match action(result.as_ref().ok()) {
            Ok(action) => {
                for key in keys {
                    self.history.borrow_mut().push(Operation {
                        key: key.name.clone(),
                        client: self.client,
                        called_us,
                        returned_us,
                        action: action.clone(),
                    });
                }
            }
            Err(reason) => self.port.stage().fail(format!("{}: {reason}", keys[0].name)),
        }
        result
    }

    async fn get(&mut self, key: &Key) -> Result<Option<(i64, u64)>, Failure> {
        let query = Query::KeyGet {
            key: bytes(&key.name),
        };
        let call = Call::Query {
            partition: key.partition,
            query,
        };
        let found = |reply: Option<&Reply>| match reply {
            Some(Reply::Value(None)) => Ok(None),
            Some(Reply::Value(Some(value))) => Ok(Some((number(&value.value)?, value.version))),
            other => Err(format!("a read was answered {other:?}")),
        };
        let called_us = self.port.now_us();
        let result = self.port.call(call, self.deadline_ms).await;
        let reply = match result {
            Ok(reply) => reply,
            // A read that failed says nothing.
            Err(failure) => return Err(failure),
        };
        match found(Some(&reply)) {
            Ok(found) => {
                self.history.borrow_mut().push(Operation {
                    key: key.name.clone(),
                    client: self.client,
                    called_us,
                    returned_us: Some(self.port.now_us()),
                    action: Action::Get { found },
                });
                Ok(found)
            }
            Err(reason) => {
                self.port.stage().fail(format!("{}: {reason}", key.name));
                Err(Failure::Busy(reason))
            }
        }
    }

    /// The version the key has now, if that is known.
    async fn set(&mut self, key: &Key, condition: Condition, return_previous: bool) -> Option<u64> {
        self.set_with(key, condition, return_previous, Expiry::Never)
            .await
    }

    async fn set_with(
        &mut self,
        key: &Key,
        condition: Condition,
        return_previous: bool,
        expiry: Expiry,
    ) -> Option<u64> {
        let write = self.space.write();
        let command = Command::KeySet {
            key: bytes(&key.name),
            value: bytes(&write.to_string()),
            expiry,
            condition: match condition {
                Condition::Always => operation::Condition::Always,
                Condition::IfAbsent => operation::Condition::IfAbsent,
                Condition::IfPresent => operation::Condition::IfPresent,
                Condition::IfVersion(version) => operation::Condition::IfVersion(version),
            },
            return_previous,
        };
        let call = Call::Command {
            partition: key.partition,
            command,
        };
        let action = |reply: Option<&Reply>| {
            let outcome = match reply {
                None => None,
                Some(Reply::Set {
                    applied,
                    version,
                    previous,
                }) => {
                    let previous = match previous {
                        _ if !return_previous => None,
                        None => Some(None),
                        Some(value) => Some(Some(number(value)?)),
                    };
                    Some(SetOutcome {
                        applied: *applied,
                        version: *version,
                        previous,
                    })
                }
                Some(other) => return Err(format!("a set was answered {other:?}")),
            };
            Ok(Action::Set {
                write,
                condition: condition.clone(),
                outcome,
            })
        };
        match self.record(&[key], call, action).await {
            Ok(Reply::Set { version, .. }) => Some(version),
            _ => None,
        }
    }

    async fn delete(&mut self, key: &Key) {
        let command = Command::KeyDelete {
            keys: vec![bytes(&key.name)],
            condition: operation::Condition::Always,
        };
        let call = Call::Command {
            partition: key.partition,
            command,
        };
        let action = |reply: Option<&Reply>| match reply {
            None => Ok(Action::Delete { outcome: None }),
            Some(Reply::Count(count)) => Ok(Action::Delete {
                outcome: Some(*count == 1),
            }),
            Some(other) => Err(format!("a delete was answered {other:?}")),
        };
        drop(self.record(&[key], call, action).await);
    }

    async fn increment(&mut self, key: &Key, by: i64) {
        let command = Command::KeyIncrement {
            key: bytes(&key.name),
            by,
        };
        let call = Call::Command {
            partition: key.partition,
            command,
        };
        let action = |reply: Option<&Reply>| match reply {
            None => Ok(Action::Increment { by, outcome: None }),
            Some(Reply::Number(sum)) => Ok(Action::Increment {
                by,
                outcome: Some(*sum),
            }),
            Some(other) => Err(format!("an increment was answered {other:?}")),
        };
        drop(self.record(&[key], call, action).await);
    }

    async fn set_pair(&mut self) {
        let space = self.space.clone();
        let write = space.write();
        let pair = [&space.0.pair[0], &space.0.pair[1]];
        let value = bytes(&write.to_string());
        let pairs = pair
            .iter()
            .map(|key| (key.partition, bytes(&key.name), value.clone()))
            .collect();
        let call = Call::Namespace(Namespace::KeySetMany {
            partition: pair[0].partition,
            pairs,
        });
        let action = |_: Option<&Reply>| Ok(Action::SetPlain { write });
        drop(self.record(&pair, call, action).await);
    }
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

pub fn number(value: &Bytes) -> Result<i64, String> {
    let text = std::str::from_utf8(value).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("{text:?}: {error}"))
}
