//! A worker of a node: what waits for its turn, who waits for its answers, and the turn itself.
//!
//! Previous in the flow: requests of clients and plain connections, and what the rest of the node brings. Next:
//! effects; what stays in the node goes to the stand-ins of the log and the storage threads.
//!
//! Invariants:
//! - Every request gets at most one answer, and none after its node stopped.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use bark_core::open;
use bark_core::worker::Worker;
use bark_core::worker::event::{Effect, Input, StorageEvent};
use bark_core::worker::gateway::{CompletionSink, FoundKey, KeyAsker, KeySink, Reach};
use bark_schema::ids::PartitionId;
use bark_schema::operation::{Failure, KeyValue, Query, Reply, Request};

use super::{MONOTONIC_ORIGIN_US, Node, Running, Stop};
use crate::Planted;
use crate::network::ConnectionId;
use crate::world::{Event, World};

pub struct WorkerCell {
    pub worker: Worker,
    pub inbox: Vec<Input>,
    pub turn_scheduled: bool,
    pub timer_at_us: u64,
    sink: Rc<Sink>,
    askers: BTreeMap<u64, Asker>,
    next_token: u64,
}

impl WorkerCell {
    pub fn new(worker: Worker) -> WorkerCell {
        WorkerCell {
            worker,
            inbox: Vec::new(),
            turn_scheduled: false,
            timer_at_us: 0,
            sink: Rc::default(),
            askers: BTreeMap::new(),
            next_token: 0,
        }
    }

    fn token(&mut self, asker: Asker) -> u64 {
        self.next_token += 1;
        self.askers.insert(self.next_token, asker);
        self.next_token
    }
}

#[derive(Default)]
struct Sink {
    completed: RefCell<Vec<(u64, Result<Reply, Failure>)>>,
}

impl CompletionSink for Sink {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        self.completed.borrow_mut().push((token, result));
    }
}

impl KeySink for Sink {
    fn found(&self, token: u64, found: Option<FoundKey<'_>>) {
        let value = found.map(|found| KeyValue {
            value: found.value.clone(),
            version: found.version,
            expires: found.expires,
        });
        self.complete(token, Ok(Reply::Value(value)));
    }

    fn stored(&self, token: u64) {
        self.complete(token, Ok(Reply::Done));
    }
}

/// Who waits for an answer.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    /// A client: its connection and the id of its frame.
    Client(ConnectionId, u64),
    /// A connection whose client gives its requests no names, and the request's number on it.
    Plain(usize, u64),
    /// Somebody who wants no answer.
    Operator,
}

pub struct Answer {
    pub to: Asker,
    pub result: Result<Reply, Failure>,
}

impl Node {
    /// A client's request arrived.
    pub fn submit(
        &mut self,
        world: &mut World,
        worker: u16,
        from: Asker,
        deadline_ms: u32,
        request: Request,
        reach: Reach,
    ) {
        let Some(now) = self.clock(world) else { return };
        let Some(cell) = self.cell(worker) else { return };
        let deadline_us = now.monotonic_us + u64::from(deadline_ms) * 1000;
        let (sink, token) = (cell.sink.clone(), cell.token(from));
        // Every other read of one key takes the way that connections without names of their own take.
        if let Request::Query {
            partition,
            query: Query::KeyGet { key },
        } = &request
            && token.is_multiple_of(2)
        {
            let asker = KeyAsker { sink, token };
            cell.worker.gateway().submit_key(*partition, key, None, asker);
        } else {
            let gateway = cell.worker.gateway();
            gateway.submit(request, reach, deadline_us, sink, token);
        }
        self.poke(world, worker);
    }

    /// A plain read (`value` None) or SET arrived on a connection whose client names nothing, as over RESP.
    pub fn submit_key(
        &mut self,
        world: &mut World,
        worker: u16,
        from: Asker,
        (partition, key): (PartitionId, &[u8]),
        value: Option<&[u8]>,
    ) {
        let Some(cell) = self.cell(worker) else { return };
        let (sink, token) = (cell.sink.clone(), cell.token(from));
        let asker = KeyAsker { sink, token };
        cell.worker.gateway().submit_key(partition, key, value, asker);
        self.poke(world, worker);
    }

    /// One turn of a worker: effects that leave the node and answers for clients.
    pub fn turn(
        &mut self,
        world: &mut World,
        worker: u16,
        planted: Planted,
        sends: &mut Vec<Effect>,
        answers: &mut Vec<Answer>,
    ) -> Result<(), Stop> {
        let Some(now) = self.clock(world) else {
            return Ok(());
        };
        let (node, life) = (self.number, self.life);
        let log_position = self.running.as_ref().map_or(0, Running::log_position);
        let Some(cell) = self.cell(worker) else {
            return Ok(());
        };
        let mut inputs = std::mem::take(&mut cell.inbox);
        let mut effects = Vec::new();
        cell.worker.set_log_position(log_position);
        cell.worker.turn(now, &mut inputs, &mut effects);
        for (token, result) in cell.sink.completed.borrow_mut().drain(..) {
            if let Some(to) = cell.askers.remove(&token) {
                answers.push(Answer { to, result });
            }
        }
        let failed = cell.worker.partitions().find_map(|partition| {
            partition
                .failed()
                .map(|reason| (partition.id(), reason.to_owned()))
        });
        if let Some((partition, reason)) = failed {
            return Err(Stop::Defect(format!(
                "{partition} failed on node {node}: {reason}"
            )));
        }
        let wake_us = cell.worker.next_wake_us();
        let started_us = self.running.as_ref().map_or(0, |running| running.started_us);
        let wake_at_us = (wake_us.saturating_sub(MONOTONIC_ORIGIN_US) + started_us).max(world.now_us + 1);
        if let Some(cell) = self.cell(worker)
            && cell.timer_at_us != wake_at_us
        {
            cell.timer_at_us = wake_at_us;
            world.at(wake_at_us, Event::Timer { node, worker, life });
        }
        for effect in effects {
            match effect {
                Effect::Send { .. } => sends.push(effect),
                Effect::Sibling { to, message } => self.input(
                    world,
                    to,
                    Input::Sibling {
                        from: worker,
                        message,
                    },
                ),
                Effect::Persist { batch, records } => {
                    world.trace.mix(batch << 16 ^ records.len() as u64);
                    if let Some(running) = &mut self.running {
                        running.log_queue.push_back((worker, batch, records));
                    }
                }
                Effect::Admit { call, node } => {
                    self.members.admit(node);
                    let result = Ok(Reply::Done);
                    self.input(
                        world,
                        worker,
                        Input::Storage(StorageEvent::Block { call, result }),
                    );
                }
                Effect::MarkRejoining => {
                    if let Some(running) = &mut self.running {
                        running.rejoining = true;
                    }
                    let marked = open::mark_rejoining(&mut self.log_disk);
                    self.check_disks()?;
                    marked.map_err(|_| Stop::Disk)?;
                    if let Some(running) = &mut self.running {
                        running.knowing.insert(worker);
                    }
                }
                Effect::Storage(request) => {
                    if let Some(running) = &mut self.running {
                        running.storage_queue.push_back((worker, request));
                    }
                }
            }
        }
        self.finish_rejoining()?;
        self.begin_log(world, planted)?;
        self.begin_storage(world);
        Ok(())
    }
}
