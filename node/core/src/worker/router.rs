//! Carries calls to where they can be answered: a partition led here, a sibling worker, another node.
//!
//! Previous in the flow: `gateway` (protocol code, coroutines) and messages from peers and siblings.
//! Next: `partition`, or out to another node.
//!
//! Invariants:
//! - A change is repeated only under the id it was given, so it is applied at most once.
//! - A call that must stay here ([`Reach::Here`]) is never forwarded: its asker learns the leader instead.

use bark_schema::ids::{BlockId, NodeNumber, PartitionId};
use bark_schema::message::PeerMessage;
use bark_schema::operation::{Command, Failure, NodeRequest, Refusal, Reply, Request};
use bark_schema::placement::first_reader;

use super::Worker;
use super::calls::{Call, Place};
use super::event::{Effect, SiblingMessage};
use super::gateway::{NO_SESSION, NewCall, Reach, Submitted, Waiter};
use super::recalls::awaits_recall;
use crate::partition::event::{CallId, Completion};
use crate::request;
use crate::state::refusal::refuse;

/// Answers from here on travel with the blocks.
const BULK_SIZE_MIN: usize = 32 << 10;

impl Worker {
    pub(super) fn route_submitted(&mut self) -> bool {
        let mut any = false;
        loop {
            // Taken out, because routing may submit more; put back for its memory.
            let mut queue = std::mem::take(&mut *self.gateway.shared().submitted.borrow_mut());
            if queue.items.is_empty() {
                *self.gateway.shared().submitted.borrow_mut() = queue;
                return any;
            }
            any = true;
            for item in queue.items.drain(..) {
                match item {
                    Submitted::Call(new) => {
                        let NewCall {
                            request,
                            reach,
                            deadline_us,
                            waiter,
                        } = *new;
                        self.begin_call(request, reach, deadline_us, waiter);
                    }
                    Submitted::Key(operation) => self.route_key(operation, &queue.bytes),
                }
            }
            queue.bytes.clear();
            queue.bytes.shrink_to(super::KEY_BYTES_KEPT);
            let mut submitted = self.gateway.shared().submitted.borrow_mut();
            if submitted.items.is_empty() {
                *submitted = queue;
            }
        }
    }

    pub(super) fn begin_call(&mut self, request: Request, reach: Reach, deadline_us: u64, waiter: Waiter) {
        if self.calls.len() >= super::CALLS_MAX {
            let failure = Failure::Busy(format!(
                "{} requests are under way on this worker",
                super::CALLS_MAX
            ));
            self.finish(waiter, Err(failure));
            return;
        }
        let id = self.calls.insert(Call {
            request,
            reach,
            deadline_us,
            waiter,
            place: Place::Nowhere,
            attempts: 0,
            maybe_applied: false,
        });
        self.route(id, false);
    }

    /// `released`: it was held before and may pass those that still are.
    pub(super) fn route(&mut self, id: CallId, released: bool) {
        let Some(call) = self.calls.get(id) else { return };
        let reach = call.reach;
        match (call.request.partition(), reach) {
            (_, Reach::Sibling(worker)) => self.send_to_sibling(id, worker),
            (Some(partition), _) => self.route_to_partition(id, partition, released),
            (None, Reach::Node(node)) if node != self.config.node => self.send_to_node(id, node),
            (None, _) => self.carry_out_here(id),
        }
    }

    fn route_to_partition(&mut self, id: CallId, partition: PartitionId, released: bool) {
        if partition.0 >= self.config.partition_count {
            let sentence = format!(
                "{partition} does not exist: there are {}",
                self.config.partition_count
            );
            self.complete(id, Err(Failure::refused(Refusal::InvalidArgument, sentence)));
            return;
        }
        let forwardable = self
            .calls
            .get(id)
            .is_some_and(|call| call.reach == Reach::Cluster);
        if forwardable && !released && self.calls.is_held(partition) {
            self.hold(id, partition);
            return;
        }
        if let Some(local) = self.partitions.get(&partition) {
            if local.is_leader() {
                if local.is_handing_over() {
                    self.hold(id, partition);
                } else {
                    self.carry_out_here(id);
                }
                return;
            }
            let leader = local.leader().filter(|leader| *leader != self.config.node);
            match (forwardable, leader) {
                (true, Some(leader)) if self.gateway.reachable(leader) => self.send_to_node(id, leader),
                (true, _) => self.hold(id, partition),
                (false, leader) => self.complete(id, Err(Failure::NotLeader { leader })),
            }
            return;
        }
        let replicas = self.config.replicas_of(partition);
        if replicas.contains(&self.config.node) {
            self.send_to_sibling(id, self.config.worker_of(partition));
            return;
        }
        if !forwardable {
            self.complete(
                id,
                Err(Failure::NotLeader {
                    leader: replicas.first().copied(),
                }),
            );
            return;
        }
        let attempts = self.calls.get(id).map_or(0, |call| call.attempts) as usize;
        let hint = self
            .leader_hints
            .get(&partition)
            .copied()
            .filter(|node| self.gateway.reachable(*node));
        let reachable: Vec<NodeNumber> = replicas
            .iter()
            .copied()
            .filter(|node| self.gateway.reachable(*node))
            .collect();
        match hint.or_else(|| reachable.get(attempts % reachable.len().max(1)).copied()) {
            Some(node) => self.send_to_node(id, node),
            None => self.hold(id, partition),
        }
    }

    fn carry_out_here(&mut self, id: CallId) {
        if let Some(call) = self.calls.get(id)
            && let Some(failure) = self
                .refusal_for_space(&call.request)
                .or_else(|| self.refusal_for_copies(&call.request))
        {
            if let Err(failure) = self.record_refusal(id, failure) {
                self.complete(id, Err(failure));
            }
            return;
        }
        if let Some(call) = self.calls.get(id)
            && let Some(reply) = self.refusal_for_cooling(&call.request)
        {
            self.complete(id, Ok(reply));
            return;
        }
        self.note_handed(id);
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.place = Place::Here;
        let now = self.gateway.now();
        match &call.request {
            Request::Query { partition, query } => {
                let query = query.clone();
                let partition = *partition;
                if let Some(client) = awaits_recall(&query) {
                    self.await_recall(id, partition, client);
                    return;
                }
                self.with_partition(partition, |local| local.submit_query(id, query));
            }
            Request::Command {
                partition,
                id: request_id,
                command,
            } => {
                call.maybe_applied = true;
                let session = (*request_id != NO_SESSION).then_some(*request_id);
                let (partition, command) = (*partition, command.clone());
                self.with_partition(partition, |local| {
                    local.submit_command(now, Some(id), session, command)
                });
            }
            Request::Namespace {
                id: request_id,
                operation,
            } => {
                call.maybe_applied = true;
                let (request_id, operation) = (*request_id, operation.clone());
                self.coordinate(id, request_id, operation);
            }
            Request::Node(request) => {
                let request = request.clone();
                self.carry_out_node_request(id, request);
            }
        }
    }

    /// What is behind an ordered change counts on its answer being in the log, so its refusal goes there.
    fn record_refusal(&mut self, id: CallId, failure: Failure) -> Result<(), Failure> {
        let now = self.gateway.now();
        match (self.calls.get_mut(id), failure) {
            (Some(call), Failure::Refused(refusal, sentence)) if call.request.is_ordered() => {
                let Request::Command {
                    partition, id: name, ..
                } = call.request
                else {
                    return Err(Failure::Refused(refusal, sentence));
                };
                call.place = Place::Here;
                call.maybe_applied = true;
                let refusal = refuse(name, refusal, sentence);
                self.with_partition(partition, |local| {
                    local.submit_command(now, Some(id), None, refusal);
                });
                Ok(())
            }
            (_, failure) => Err(failure),
        }
    }

    fn carry_out_node_request(&mut self, id: CallId, request: NodeRequest) {
        match request {
            NodeRequest::BlockGet {
                block,
                offset,
                length,
            } => {
                self.storage(super::event::StorageRequest::BlockGet {
                    call: id,
                    block,
                    offset,
                    length,
                });
            }
            NodeRequest::BlockList { after, limit } => {
                let call = id;
                self.storage(super::event::StorageRequest::BlockList { call, after, limit });
            }
            // The first worker does what there is once a node.
            NodeRequest::Scrub { .. } | NodeRequest::Orphans { .. } if self.config.worker != 0 => {
                self.send_to_sibling(id, 0);
            }
            NodeRequest::Scrub { start } => {
                let status = self.scrub(start);
                self.complete(id, Ok(Reply::Scrub(status)));
            }
            NodeRequest::Orphans { give_up } => self.find_orphans(id, give_up),
            NodeRequest::BlockVerify { block, checksum } => {
                let call = id;
                self.storage(super::event::StorageRequest::BlockVerify {
                    call,
                    block,
                    checksum,
                });
            }
            NodeRequest::BlocksMissing { blocks } => {
                self.storage(super::event::StorageRequest::BlocksMissing { call: id, blocks });
            }
            NodeRequest::BlockAudit { after, limit } => {
                let call = id;
                self.storage(super::event::StorageRequest::BlockAudit { call, after, limit });
            }
            NodeRequest::Traced { request } => self.begin_traced(id, *request),
            NodeRequest::BlockCompact => {
                self.storage(super::event::StorageRequest::BlockCompact { call: id });
            }
            NodeRequest::BlockDelete { blocks } => {
                self.storage(super::event::StorageRequest::BlockDelete { call: id, blocks });
            }
            NodeRequest::BlockPut { block, .. } if self.knows_fenced(block) => {
                let sentence = "the lease of the client's locks ran out";
                self.complete(id, Err(Failure::refused(Refusal::Fenced, sentence)));
            }
            NodeRequest::BlockPut {
                block,
                data,
                checksum,
                replicas,
                local_only: true,
            } => {
                let reader = first_reader(block, &replicas);
                let is_spare = reader.is_some_and(|reader| reader != self.config.node);
                self.count_space(data.len() as u64);
                self.storage(super::event::StorageRequest::BlockPut {
                    call: id,
                    block,
                    data,
                    checksum,
                    is_spare,
                });
            }
            NodeRequest::ClusterStatus if self.is_asked_by_sibling(id) => {
                let status = self.local_status();
                self.complete(id, Ok(Reply::Cluster(status)));
            }
            NodeRequest::Drain { drain } => {
                tracing::info!(drain, "told whether to lead");
                self.leaders.set_draining(drain);
                for to in (0..self.config.worker_count).filter(|to| *to != self.config.worker) {
                    let message = SiblingMessage::Drain(drain);
                    self.effects.push(Effect::Sibling { to, message });
                }
                self.complete(id, Ok(Reply::Done));
            }
            NodeRequest::Admit { node } => self.effects.push(Effect::Admit { call: id, node }),
            request => {
                let gateway = self.gateway_for(id);
                let done = self.completed_calls.clone();
                let local_status = matches!(request, NodeRequest::ClusterStatus).then(|| self.local_status());
                self.gateway.spawn(async move {
                    let result = request::node::carry_out(&gateway, request, local_status).await;
                    done.borrow_mut().push(Completion { call: id, result });
                });
            }
        }
    }

    /// Whether a block comes late from a client that is fenced, as far as this worker knows. It would be in no file, for
    /// its publication is refused; so nothing depends on every worker knowing. Copies of one that is published are welcome.
    fn knows_fenced(&self, block: BlockId) -> bool {
        let home = block.home().and_then(|home| self.partitions.get(&home));
        home.is_some_and(|partition| {
            let state = partition.state();
            state.is_fenced(block.client) && !state.is_referenced(block)
        })
    }

    fn is_asked_by_sibling(&self, id: CallId) -> bool {
        self.calls
            .get(id)
            .is_some_and(|call| matches!(call.waiter, Waiter::Sibling { .. }))
    }

    fn send_to_node(&mut self, id: CallId, node: NodeNumber) {
        if !self.gateway.reachable(node) {
            self.complete(id, Err(Failure::Busy(format!("{node} cannot be reached"))));
            return;
        }
        let now_us = self.gateway.now().monotonic_us;
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.place = Place::Node(node);
        call.maybe_applied = !matches!(call.request, Request::Query { .. });
        let deadline_ms = call.deadline_us.saturating_sub(now_us) / 1000;
        let bulk = is_bulk(&call.request);
        let message = PeerMessage::Request {
            id: id.0,
            deadline_ms: u32::try_from(deadline_ms).unwrap_or(u32::MAX),
            request: call.request.clone(),
        };
        self.effects.push(Effect::Send {
            to: node,
            bulk,
            message,
        });
    }

    fn send_to_sibling(&mut self, id: CallId, worker: u16) {
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.place = Place::Sibling(worker);
        call.maybe_applied = true;
        let message = SiblingMessage::Request {
            call: id,
            deadline_us: call.deadline_us,
            request: call.request.clone(),
        };
        self.effects.push(Effect::Sibling { to: worker, message });
    }

    fn hold(&mut self, id: CallId, partition: PartitionId) {
        let jitter = self.gateway.random();
        self.calls
            .hold(partition, id, self.gateway.now().monotonic_us, jitter);
    }

    /// A call was answered by a partition, a node, a sibling, the disk or a coroutine.
    pub(super) fn complete(&mut self, id: CallId, result: Result<Reply, Failure>) {
        if let Err(Failure::OverAllowance { quota, bytes, inodes }) = result {
            self.acquire_allowance(id, quota, bytes, inodes);
            return;
        }
        if let Err(Failure::Delegated { directory, client }) = result
            && self.await_directory(id, directory, client)
        {
            return;
        }
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        // What is behind an ordered change waits for it, so it waits here and not at its client; but not for this node
        // to become leader.
        let is_elsewhere = matches!(result, Err(Failure::NotLeader { .. }));
        let stays = call.reach == Reach::Cluster || (call.request.is_ordered() && !is_elsewhere);
        let retry = stays
            && !ends_attempt(&call.request, &result)
            && call.request.partition().is_some()
            && matches!(
                result,
                Err(Failure::NotLeader { .. }
                    | Failure::Busy(_)
                    | Failure::Locked { .. }
                    | Failure::Delegated { .. }
                    | Failure::Unknown(_))
            );
        if let (Some(partition), Err(Failure::NotLeader { leader: Some(leader) })) =
            (call.request.partition(), &result)
        {
            self.leader_hints.insert(partition, *leader);
        }
        if retry && self.gateway.now().monotonic_us < call.deadline_us {
            if matches!(result, Err(Failure::Unknown(_))) && !is_repeatable(&call.request) {
                self.end(id, result);
                return;
            }
            if matches!(result, Err(Failure::NotLeader { leader: None })) {
                let partition = call.request.partition();
                if let Some(partition) = partition {
                    self.leader_hints.remove(&partition);
                }
            }
            call.attempts += 1;
            if let Some(partition) = call.request.partition() {
                self.hold(id, partition);
            }
            return;
        }
        self.end(id, result);
    }

    fn end(&mut self, id: CallId, result: Result<Reply, Failure>) {
        let Some(call) = self.calls.remove(id) else { return };
        match call.waiter {
            Waiter::Traced { outer } => self.end_traced(id, outer, &call.request, result),
            waiter => self.finish(waiter, result),
        }
    }

    fn finish(&mut self, waiter: Waiter, result: Result<Reply, Failure>) {
        match waiter {
            Waiter::Future(slot) => slot.borrow_mut().fill(result),
            Waiter::Sink { sink, token } => sink.complete(token, result),
            Waiter::Traced { outer } => self.complete(outer, result),
            Waiter::KeySet { asker, partition, id } => {
                self.gateway.finish_request(partition, id);
                asker.sink.complete(asker.token, result);
            }
            Waiter::Peer { node, id } => {
                let bulk = result.as_ref().is_ok_and(is_bulk_reply);
                let message = PeerMessage::Reply { id, result };
                self.effects.push(Effect::Send {
                    to: node,
                    bulk,
                    message,
                });
            }
            Waiter::Sibling { worker, call } => {
                self.effects.push(Effect::Sibling {
                    to: worker,
                    message: SiblingMessage::Reply { call, result },
                });
            }
        }
    }

    /// Calls whose time is up end with what is certain about them.
    pub(super) fn expire_calls(&mut self) {
        let now_us = self.gateway.now().monotonic_us;
        for id in self.calls.expired(now_us) {
            let Some(call) = self.calls.get(id) else { continue };
            let changes = !matches!(call.request, Request::Query { .. });
            let failure = if changes && call.maybe_applied {
                Failure::Unknown("the deadline passed".to_string())
            } else {
                Failure::Busy("the deadline passed: the partition has no leader".to_string())
            };
            self.end(id, Err(failure));
        }
    }

    pub(super) fn release_held(&mut self) -> bool {
        let due = self.calls.take_due(self.gateway.now().monotonic_us);
        for id in &due {
            self.route(*id, true);
        }
        !due.is_empty()
    }

    /// Calls that wait for a node which no longer leads their partition go to the one that does.
    pub(super) fn follow_leaders(&mut self) {
        for (id, node) in self.calls.with_nodes() {
            let Some(partition) = self.calls.get(id).and_then(|call| call.request.partition()) else {
                continue;
            };
            let Some(local) = self.partitions.get(&partition) else {
                continue;
            };
            let moved = local.leader().is_some_and(|leader| leader != node);
            if moved
                && self
                    .calls
                    .get(id)
                    .is_some_and(|call| is_repeatable(&call.request))
            {
                self.route(id, false);
            }
        }
    }

    pub(super) fn node_is_gone(&mut self, node: NodeNumber) {
        self.leader_hints.retain(|_, leader| *leader != node);
        for id in self.calls.with_node(node) {
            let changes = self
                .calls
                .get(id)
                .is_some_and(|call| !matches!(call.request, Request::Query { .. }));
            let sentence = format!("the connection to {node} broke");
            let failure = if changes {
                Failure::Unknown(sentence)
            } else {
                Failure::Busy(sentence)
            };
            self.complete(id, Err(failure));
        }
    }
}

/// Repeating it cannot apply it twice: it reads, or it has a name in the exactly-once tables, or its effect
/// is the same the second time (the steps of transactions name themselves).
fn is_repeatable(request: &Request) -> bool {
    !matches!(request, Request::Node(_))
}

/// A transaction that met a lock, or was aborted, is given up at once: waiting for a lock while holding others
/// would let two transactions wait for each other.
fn ends_attempt(request: &Request, result: &Result<Reply, Failure>) -> bool {
    let Request::Command { command, .. } = request else {
        return false;
    };
    matches!(
        command,
        Command::Prepare { .. } | Command::Decide { commit: true, .. }
    ) && matches!(
        result,
        Err(Failure::Locked { .. } | Failure::Delegated { .. } | Failure::Busy(_))
    )
}

/// Large answers are kept out of the way of heartbeats. Answers have ids, so their order means nothing; requests of one
/// client to one partition keep theirs, and therefore their connection.
fn is_bulk_reply(reply: &Reply) -> bool {
    match reply {
        Reply::Block(_) => true,
        Reply::Value(Some(value)) => value.value.len() >= BULK_SIZE_MIN,
        Reply::Values(values) => values.iter().flatten().any(|value| value.len() >= BULK_SIZE_MIN),
        Reply::Set {
            previous: Some(previous),
            ..
        } => previous.len() >= BULK_SIZE_MIN,
        _ => false,
    }
}

fn is_bulk(request: &Request) -> bool {
    matches!(request, Request::Node(NodeRequest::BlockPut { .. }))
}
