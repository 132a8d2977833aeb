//! Connections whose clients give their requests no names, as those over RESP do: plain reads and SETs, several at
//! a time, handed to a worker as bytes, which is the short way of the core ([`bark_core`]'s `worker::keys`).
//!
//! Such a connection goes to one worker of one node and is lost with it. Nothing is repeated: what was not answered
//! may have happened or not, and stays open in the history.
//!
//! Invariants:
//! - A SET is in the history unless it certainly did not happen; a read only if it was answered.

use std::collections::BTreeMap;

use bark_core::random::Random;
use bark_schema::operation::{Failure, Outcome, Reply};

use super::Simulation;
use crate::checker::{Action, Condition, Operation, SetOutcome};
use crate::client::Phase;
use crate::cluster::{Asker, Shape};
use crate::counts::Counts;
use crate::keys::{Key, KeySpace, number};
use crate::world::{Event, World};

/// Requests sent without waiting for the answer of the one before.
const PIPELINE_MAX: u64 = 6;
/// Many SETs of unknown outcome are many orders the checker has to try.
const OPEN_MAX: u32 = 12;

pub struct Connection {
    client: usize,
    node: u16,
    worker: u16,
    keys: KeySpace,
    random: Random,
    think_us: u64,
    next_request: u64,
    /// Not answered yet.
    requests: BTreeMap<u64, Sent>,
    open: u32,
}

struct Sent {
    key: Key,
    called_us: u64,
    /// None: a read.
    write: Option<i64>,
}

impl Connection {
    pub fn draw(world: &mut World, shape: &Shape, client: usize, keys: KeySpace) -> Connection {
        Connection {
            client,
            node: world.between(1, u64::from(shape.nodes)) as u16,
            worker: world.random.below(u64::from(shape.workers)) as u16,
            keys,
            random: Random::new(world.random.next_u64()),
            think_us: world.between(1_000, 300_000),
            next_request: 0,
            requests: BTreeMap::new(),
            open: 0,
        }
    }
}

impl Simulation {
    /// The client thinks of its next requests.
    pub(super) fn plain_due(&mut self, index: usize) {
        let Simulation {
            nodes,
            world,
            plain,
            stage,
            ..
        } = self;
        if stage.phase.get() != Phase::Work {
            return;
        }
        let connection = &mut plain[index];
        let pause_us = 1 + connection.random.below(connection.think_us);
        world.after(pause_us, Event::Plain { connection: index });
        let node = &mut nodes[usize::from(connection.node) - 1];
        if node.running.is_none() || !connection.requests.is_empty() || connection.open >= OPEN_MAX {
            return;
        }
        for _ in 0..1 + connection.random.below(PIPELINE_MAX) {
            let key = connection.keys.any_register(&mut connection.random);
            let write = match connection.random.chance(2) {
                true => Some(connection.keys.write()),
                false => None,
            };
            connection.next_request += 1;
            let request = connection.next_request;
            let value = write.map(|write| write.to_string().into_bytes());
            let asker = Asker::Plain(index, request);
            let place = (key.partition, key.name.as_bytes());
            node.submit_key(world, connection.worker, asker, place, value.as_deref());
            let sent = Sent {
                key,
                called_us: world.now_us,
                write,
            };
            connection.requests.insert(request, sent);
        }
    }

    pub(super) fn plain_answer(&mut self, index: usize, request: u64, result: Result<Reply, Failure>) {
        let Some(sent) = self.plain[index].requests.remove(&request) else {
            return self
                .stage
                .fail(format!("plain request {request} was answered twice"));
        };
        let action = match (&result, sent.write) {
            (Ok(Reply::Done), Some(write)) => Action::SetPlain { write },
            // It became a call on its way, and was answered like one.
            (Ok(Reply::Set { applied, version, .. }), Some(write)) => Action::Set {
                write,
                condition: Condition::Always,
                outcome: Some(SetOutcome {
                    applied: *applied,
                    version: *version,
                    previous: None,
                }),
            },
            (Ok(Reply::Value(None)), None) => Action::Get { found: None },
            (Ok(Reply::Value(Some(found))), None) => match number(&found.value) {
                Ok(value) => Action::Get {
                    found: Some((value, found.version)),
                },
                Err(reason) => return self.stage.fail(reason),
            },
            (Ok(other), _) => {
                let reason = format!("a plain request of {} was answered {other:?}", sent.key.name);
                return self.stage.fail(reason);
            }
            (Err(failure), Some(_)) if failure.outcome() == Outcome::Unknown => {
                return self.plain_is_open(index, sent);
            }
            (Err(_), _) => return,
        };
        self.stage.count(Counts {
            plain_answers: 1,
            ..Counts::default()
        });
        self.history.borrow_mut().push(Operation {
            key: sent.key.name,
            client: self.plain[index].client,
            called_us: sent.called_us,
            returned_us: Some(self.world.now_us),
            action,
        });
    }

    /// The node is gone, and with it every connection to it.
    pub(super) fn plain_lost(&mut self, node: u16) {
        for index in 0..self.plain.len() {
            if self.plain[index].node == node {
                for sent in std::mem::take(&mut self.plain[index].requests).into_values() {
                    self.plain_is_open(index, sent);
                }
            }
        }
    }

    fn plain_is_open(&mut self, index: usize, sent: Sent) {
        let Some(write) = sent.write else { return };
        self.plain[index].open += 1;
        self.history.borrow_mut().push(Operation {
            key: sent.key.name,
            client: self.plain[index].client,
            called_us: sent.called_us,
            returned_us: None,
            action: Action::SetPlain { write },
        });
    }
}
