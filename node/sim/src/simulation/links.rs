//! Connections of one run: how they are made and lost, and what is done with the bytes that arrive.
//!
//! Previous in the flow: `network`, which lets bytes arrive. Next: `cluster` for nodes, `client` for scripts.
//!
//! Invariants:
//! - What arrives for an earlier life of a node, or behind the cut of a connection, is dropped.
//! - A frame that cannot be read is a failure of the run: both ends are ours.

use bark_core::worker::event::Input;
use bark_core::worker::gateway::Reach;
use bark_schema::codec;
use bark_schema::ids::NodeNumber;
use bark_schema::message::{ClientMessage, PeerMessage, ServerMessage};
use bark_schema::operation::Request;
use bytes::Bytes;

use super::{ADMIT_US, RECONNECT_US, Simulation};
use crate::client::{Link, Phase, Stage};
use crate::cluster::Asker;
use crate::counts::Counts;
use crate::network::{ClientLinkId, ConnectionId, Lane, PeerLinkId, client_place};
use crate::world::Event;

/// One change in so many is repeated after it was answered, ...
const COPY_ODDS: u64 = 25;
/// ... this late at most, ...
const LATE_US_MAX: u64 = 3_000_000;
/// ... in a frame of a number no session gives.
const COPY_BIT: u64 = 1 << 63;

fn counts_refused(stage: &Stage) {
    let mut counts = stage.counts.get();
    counts.disks_refused += 1;
    stage.counts.set(counts);
}

impl Simulation {
    pub(super) fn peer_connect(&mut self, link: PeerLinkId, life: u64) {
        if !self.is_alive(link.from, life) || self.network.peer_links.contains_key(&link) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            shape,
            stage,
            admitting,
            ..
        } = self;
        let to = &nodes[usize::from(link.to) - 1];
        let is_there = to.running.is_some() && to.paused_until_us <= world.now_us;
        if !is_there || !network.can_connect(link.from, link.to) {
            let pause = self.peer_pauses.entry(link).or_insert(RECONNECT_US.0);
            *pause = (*pause * 2).min(RECONNECT_US.1);
            world.after(*pause, Event::PeerConnect { link, life });
            return;
        }
        let to_worker = world.random.below(u64::from(shape.workers)) as u16;
        let Some(claim) = nodes[usize::from(link.from) - 1].disk_claim() else {
            return;
        };
        let from = NodeNumber(link.from);
        let to = &mut nodes[usize::from(link.to) - 1];
        let refusal = to.members.greet(from, claim).err();
        let is_news = to.members.take_changed();
        to.input(world, to_worker, Input::PeerGreeted { node: from, refusal });
        if let Some(refusal) = refusal {
            if is_news {
                world.say(|| format!("node {} refuses node {}: {refusal:?}", link.to, link.from));
                counts_refused(stage);
                if admitting.insert(link.from) {
                    let delay = world.between(ADMIT_US.0, ADMIT_US.1);
                    world.after(delay, Event::Admit { node: link.from });
                }
            }
            world.after(RECONNECT_US.1, Event::PeerConnect { link, life });
            return;
        }
        let to = &nodes[usize::from(link.to) - 1];
        self.peer_pauses.insert(link, RECONNECT_US.0);
        let to_life = to.life;
        network.open_peer(link, life, to_life, to_worker);
        let input = Input::PeerConnected {
            node: NodeNumber(link.to),
        };
        nodes[usize::from(link.from) - 1].input(world, link.worker, input);
    }

    pub(super) fn peer_lost(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.peers.get(&id) else {
            return;
        };
        let (link, life) = (connection.link, connection.from_life);
        if self.network.peer_links.get(&link) == Some(&id) {
            self.network.peer_links.remove(&link);
        }
        if self.is_alive(link.from, life) {
            let Simulation { nodes, world, .. } = self;
            let input = Input::PeerDisconnected {
                node: NodeNumber(link.to),
            };
            nodes[usize::from(link.from) - 1].input(world, link.worker, input);
            let pause = world.between(RECONNECT_US.0, 4 * RECONNECT_US.0);
            world.after(pause, Event::PeerConnect { link, life });
        }
    }

    pub(super) fn peer_bytes(&mut self, id: ConnectionId, lane: Lane, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            stage,
            ..
        } = self;
        let Some(connection) = network.peers.get_mut(&id) else {
            return;
        };
        let (link, life, worker) = (connection.link, connection.to_life, connection.to_worker);
        let node = &mut nodes[usize::from(link.to) - 1];
        if node.life != life || node.running.is_none() {
            return;
        }
        for frame in frames(&mut connection.lane(lane).decoder, bytes, stage) {
            match codec::decode_peer(&frame) {
                Ok(message) => {
                    if let PeerMessage::Standing(standing) = &message {
                        let from = NodeNumber(link.from);
                        node.members.told_position(from, standing.log_position);
                    }
                    node.input(
                        world,
                        worker,
                        Input::Peer {
                            from: NodeNumber(link.from),
                            message,
                        },
                    );
                }
                Err(error) => stage.fail(format!(
                    "node {} cannot read a frame of {}: {error}",
                    link.to, link.from
                )),
            }
        }
    }

    pub(super) fn client_connect(&mut self, link: ClientLinkId) {
        let node = NodeNumber(link.node);
        let now_ms = self.world.now_us / 1000;
        let Simulation {
            nodes,
            world,
            network,
            clients,
            shape,
            ..
        } = self;
        let client = &mut clients[link.client];
        let Some(Link::Connecting(waiting, frame_ids)) = client.links.remove(&node) else {
            return;
        };
        let there = &nodes[usize::from(link.node) - 1];
        if there.running.is_none() || !network.can_connect(client_place(link.client), link.node) {
            for frame_id in frame_ids {
                client.session.on_unsent(now_ms, node, frame_id);
            }
        } else {
            let worker = world.random.below(u64::from(shape.workers)) as u16;
            let id = network.open_client(link, there.life, worker);
            client.links.insert(node, Link::Up(id));
            for bytes in waiting {
                network.send_up(world, id, bytes);
            }
        }
        self.pump(link.client);
    }

    pub(super) fn client_bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let Simulation {
            nodes,
            world,
            network,
            stage,
            reaches,
            ..
        } = self;
        let Some(connection) = network.clients.get_mut(&id) else {
            return;
        };
        let (link, worker) = (connection.link, connection.worker);
        let node = &mut nodes[usize::from(link.node) - 1];
        if node.life != connection.life || node.running.is_none() {
            return;
        }
        for frame in frames(&mut connection.up.decoder, bytes, stage) {
            match codec::decode_client(&frame) {
                Ok(ClientMessage::Request {
                    id: frame_id,
                    deadline_ms,
                    request,
                }) => {
                    let reach = match request.partition() {
                        Some(_) => reaches[link.client],
                        None => Reach::Here,
                    };
                    let asker = Asker::Client(id, frame_id);
                    node.submit(world, worker, asker, deadline_ms, request, reach);
                }
                Ok(ClientMessage::Login { .. }) => {}
                Err(error) => stage.fail(format!(
                    "node {} cannot read a client's frame: {error}",
                    link.node
                )),
            }
        }
    }

    pub(super) fn server_bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        if self.network.is_cut(&self.world, id) {
            return;
        }
        let now_ms = self.world.now_us / 1000;
        let Simulation {
            world,
            network,
            clients,
            stage,
            ..
        } = self;
        let Some(connection) = network.clients.get_mut(&id) else {
            return;
        };
        let link = connection.link;
        let client = &mut clients[link.client];
        for frame in frames(&mut connection.down.decoder, bytes, stage) {
            match codec::decode_server(&frame) {
                Ok(ServerMessage::Reply { id, result }) => {
                    if let Some(bytes) = client.copies.remove(&id)
                        && result.is_ok()
                    {
                        let delay = world.between(1_000, LATE_US_MAX);
                        let client = link.client;
                        world.after(delay, Event::LateCopy { client, bytes });
                    }
                    client.session.on_reply(now_ms, NodeNumber(link.node), id, result);
                }
                Ok(ServerMessage::Welcome(_)) => {}
                Err(error) => stage.fail(format!(
                    "a client cannot read a frame of node {}: {error}",
                    link.node
                )),
            }
        }
        self.pump(link.client);
    }

    pub(super) fn client_lost(&mut self, id: ConnectionId) {
        let Some(connection) = self.network.clients.remove(&id) else {
            return;
        };
        let link = connection.link;
        let node = NodeNumber(link.node);
        let client = &mut self.clients[link.client];
        if matches!(client.links.get(&node), Some(Link::Up(up)) if *up == id) {
            client.links.remove(&node);
            client.session.on_disconnect(self.world.now_us / 1000, node);
            self.pump(link.client);
        }
    }

    /// Lets a client's scripts and session go on, and sends what they want sent.
    pub(super) fn pump(&mut self, number: usize) {
        let Simulation {
            world,
            network,
            clients,
            ..
        } = self;
        let client = &mut clients[number];
        loop {
            client.poll(world.now_us);
            let mut sent = false;
            while let Some(outgoing) = client.session.poll_send(world.now_us / 1000) {
                sent = true;
                let (id, node) = (outgoing.frame_id, outgoing.node);
                world.say(|| format!("client {number} -> {}: #{id} {:?}", node.0, outgoing.request));
                let (deadline_ms, request) = (outgoing.deadline_ms, outgoing.request);
                if matches!(request, Request::Command { .. } | Request::Namespace { .. })
                    && world.random.chance(COPY_ODDS)
                {
                    let copy = encode(id | COPY_BIT, deadline_ms, request.clone());
                    client.copies.insert(id, copy);
                }
                let bytes = encode(id, deadline_ms, request);
                world.trace.mix_bytes(&bytes);
                match client.links.get_mut(&node) {
                    Some(Link::Up(connection)) => network.send_up(world, *connection, bytes),
                    Some(Link::Connecting(waiting, ids)) => {
                        waiting.push(bytes);
                        ids.push(id);
                    }
                    None => {
                        client.links.insert(node, Link::Connecting(vec![bytes], vec![id]));
                        let delay = 2 * network.delay(world, client_place(number), node.0);
                        let link = ClientLinkId {
                            client: number,
                            node: node.0,
                        };
                        world.after(delay, Event::ClientConnect { link });
                    }
                }
            }
            if !sent {
                break;
            }
        }
        if let Some(wake_us) = client.next_wake_us() {
            let wake_us = wake_us.max(world.now_us + 1);
            if client.tick_at_us <= world.now_us || wake_us < client.tick_at_us {
                client.tick_at_us = wake_us;
                world.at(wake_us, Event::ClientTick { client: number });
            }
        }
    }

    /// A change that was answered arrives once more, as from a connection nobody has any more: nothing may come of it.
    pub(super) fn late_copy(&mut self, client: usize, bytes: Vec<u8>) {
        let up: Vec<ConnectionId> = self.clients[client]
            .links
            .values()
            .filter_map(|link| match link {
                Link::Up(connection) => Some(*connection),
                Link::Connecting(..) => None,
            })
            .collect();
        if self.stage.phase.get() != Phase::Work || up.is_empty() {
            return;
        }
        let connection = up[self.world.random.below(up.len() as u64) as usize];
        self.stage.count(Counts {
            late_copies: 1,
            ..Counts::default()
        });
        self.world.trace.mix_bytes(&bytes);
        self.network.send_up(&mut self.world, connection, bytes);
    }

    pub(super) fn pump_all(&mut self) {
        for client in 0..self.clients.len() {
            self.pump(client);
        }
    }
}

fn encode(id: u64, deadline_ms: u32, request: Request) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = ClientMessage::Request {
        id,
        deadline_ms,
        request,
    };
    codec::encode_client(&message, &mut bytes);
    bytes
}

fn frames(decoder: &mut bark_schema::frame::FrameDecoder, bytes: &[u8], stage: &Stage) -> Vec<Bytes> {
    decoder.push(bytes);
    let mut frames = Vec::new();
    loop {
        match decoder.next() {
            Ok(Some(frame)) => frames.push(frame),
            Ok(None) => return frames,
            Err(error) => {
                stage.fail(format!("a stream cannot be cut into frames: {error}"));
                return frames;
            }
        }
    }
}
