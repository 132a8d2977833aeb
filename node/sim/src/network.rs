//! The network: connections that keep order, break, stall and come back, as TCP's do.
//!
//! Nodes open two lanes to each other (control and bulk), one pair for each worker that sends; clients open one
//! connection to each node they speak to. Bytes of one lane arrive in order. Nothing is lost from the middle of
//! a connection: a reset ends it after some prefix of what was under way. What an old connection still
//! delivers may arrive beside what the next one delivers: that is where messages overtake each other.
//!
//! A blocked direction holds bytes back until it is open again; connections across it may also be reset.
//!
//! Invariants:
//! - Bytes of a lane are delivered in the order they were sent, without a gap.
//! - A client that lost a connection gets nothing from it any more.

use std::collections::{BTreeMap, BTreeSet};

use bark_schema::frame::FrameDecoder;
use bark_schema::limits;

use crate::world::{Event, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// The sending half between one worker and another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PeerLinkId {
    pub from: u16,
    pub worker: u16,
    pub to: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientLinkId {
    pub client: usize,
    pub node: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Control,
    Bulk,
}

/// Where clients are on the map of blocked directions.
const CLIENT_PLACE: u16 = 1000;

pub fn client_place(client: usize) -> u16 {
    CLIENT_PLACE + client as u16
}

/// One direction of a connection.
pub struct Stream {
    from: u16,
    to: u16,
    last_arrival_us: u64,
    held: Vec<Vec<u8>>,
    pub decoder: FrameDecoder,
}

pub struct PeerConnection {
    pub link: PeerLinkId,
    pub from_life: u64,
    pub to_life: u64,
    pub to_worker: u16,
    /// After a reset: what would arrive later is lost.
    cut_at_us: Option<u64>,
    pub control: Stream,
    pub bulk: Stream,
}

pub struct ClientConnection {
    pub link: ClientLinkId,
    pub life: u64,
    pub worker: u16,
    cut_at_us: Option<u64>,
    pub up: Stream,
    pub down: Stream,
}

#[derive(Default)]
pub struct Network {
    next_connection: u64,
    pub peers: BTreeMap<ConnectionId, PeerConnection>,
    /// Links that are up.
    pub peer_links: BTreeMap<PeerLinkId, ConnectionId>,
    pub clients: BTreeMap<ConnectionId, ClientConnection>,
    blocked: BTreeSet<(u16, u16)>,
    /// Added to every delay, by node, while it is slow.
    pub slow_us: BTreeMap<u16, u64>,
    pub delay_us: (u64, u64),
}

impl Network {
    pub fn is_blocked(&self, from: u16, to: u16) -> bool {
        self.blocked.contains(&(from, to))
    }

    /// A handshake needs both directions.
    pub fn can_connect(&self, one: u16, other: u16) -> bool {
        !self.is_blocked(one, other) && !self.is_blocked(other, one)
    }

    pub fn delay(&self, world: &mut World, from: u16, to: u16) -> u64 {
        let slow = |place: u16| self.slow_us.get(&place).copied().unwrap_or(0);
        let spread = slow(from) + slow(to);
        let mut delay = world.between(self.delay_us.0, self.delay_us.1);
        if spread > 0 {
            delay += world.random.below(spread);
        }
        delay
    }

    pub fn open_peer(&mut self, link: PeerLinkId, from_life: u64, to_life: u64, to_worker: u16) {
        let id = self.next_id();
        let stream = || Stream::new(link.from, link.to, limits::FRAME_SIZE_PEER_MAX);
        let connection = PeerConnection {
            link,
            from_life,
            to_life,
            to_worker,
            cut_at_us: None,
            control: stream(),
            bulk: stream(),
        };
        self.peers.insert(id, connection);
        self.peer_links.insert(link, id);
    }

    pub fn open_client(&mut self, link: ClientLinkId, life: u64, worker: u16) -> ConnectionId {
        let id = self.next_id();
        let place = client_place(link.client);
        let connection = ClientConnection {
            link,
            life,
            worker,
            cut_at_us: None,
            up: Stream::new(place, link.node, limits::FRAME_SIZE_MAX),
            down: Stream::new(link.node, place, limits::FRAME_SIZE_MAX),
        };
        self.clients.insert(id, connection);
        id
    }

    fn next_id(&mut self) -> ConnectionId {
        self.next_connection += 1;
        ConnectionId(self.next_connection)
    }

    pub fn send_peer(&mut self, world: &mut World, link: PeerLinkId, lane: Lane, bytes: Vec<u8>) {
        let Some(&id) = self.peer_links.get(&link) else {
            return;
        };
        let delay = self.delay(world, link.from, link.to);
        let blocked = self.is_blocked(link.from, link.to);
        let Some(connection) = self.peers.get_mut(&id) else {
            return;
        };
        let stream = connection.lane(lane);
        if let Some((at_us, bytes)) = stream.send(world.now_us + delay, blocked, bytes) {
            world.at(
                at_us,
                Event::PeerBytes {
                    connection: id,
                    lane,
                    bytes,
                },
            );
        }
    }

    pub fn send_up(&mut self, world: &mut World, id: ConnectionId, bytes: Vec<u8>) {
        let Some(connection) = self.clients.get(&id) else {
            return;
        };
        let (from, to) = (connection.up.from, connection.up.to);
        let delay = self.delay(world, from, to);
        let blocked = self.is_blocked(from, to);
        let Some(connection) = self.clients.get_mut(&id) else {
            return;
        };
        if let Some((at_us, bytes)) = connection.up.send(world.now_us + delay, blocked, bytes) {
            world.at(
                at_us,
                Event::ClientBytes {
                    connection: id,
                    bytes,
                },
            );
        }
    }

    pub fn send_down(&mut self, world: &mut World, id: ConnectionId, bytes: Vec<u8>) {
        let Some(connection) = self.clients.get(&id) else {
            return;
        };
        let (from, to) = (connection.down.from, connection.down.to);
        let delay = self.delay(world, from, to);
        let blocked = self.is_blocked(from, to);
        let Some(connection) = self.clients.get_mut(&id) else {
            return;
        };
        if let Some((at_us, bytes)) = connection.down.send(world.now_us + delay, blocked, bytes) {
            world.at(
                at_us,
                Event::ServerBytes {
                    connection: id,
                    bytes,
                },
            );
        }
    }

    /// Ends a connection after some prefix of what is under way; the sender hears of it a little later.
    pub fn reset_peer(&mut self, world: &mut World, id: ConnectionId, notice_us_max: u64) {
        let Some(connection) = self.peers.get_mut(&id) else {
            return;
        };
        if connection.cut_at_us.is_some() {
            return;
        }
        connection.cut_at_us = Some(world.now_us + world.random.below(2_000));
        connection.control.held.clear();
        connection.bulk.held.clear();
        let notice = world.random.below(notice_us_max + 1);
        world.after(notice, Event::PeerLost { connection: id });
    }

    pub fn reset_client(&mut self, world: &mut World, id: ConnectionId) {
        let Some(connection) = self.clients.get_mut(&id) else {
            return;
        };
        if connection.cut_at_us.is_some() {
            return;
        }
        connection.cut_at_us = Some(world.now_us + world.random.below(2_000));
        connection.up.held.clear();
        connection.down.held.clear();
        let notice = world.between(2_000, 50_000);
        world.after(notice, Event::ClientLost { connection: id });
    }

    /// Whether bytes that arrive now were still delivered.
    pub fn is_cut(&self, world: &World, id: ConnectionId) -> bool {
        let cut = match (self.peers.get(&id), self.clients.get(&id)) {
            (Some(peer), _) => peer.cut_at_us,
            (_, Some(client)) => client.cut_at_us,
            _ => return true,
        };
        cut.is_some_and(|cut| world.now_us > cut)
    }

    pub fn block(&mut self, from: u16, to: u16) {
        self.blocked.insert((from, to));
    }

    /// Opens a direction; what was held back follows.
    pub fn unblock(&mut self, world: &mut World, from: u16, to: u16) {
        if !self.blocked.remove(&(from, to)) {
            return;
        }
        let mut events = Vec::new();
        let crosses = |stream: &Stream| stream.from == from && stream.to == to;
        for (id, connection) in &mut self.peers {
            for lane in [Lane::Control, Lane::Bulk] {
                let stream = connection.lane(lane);
                if crosses(stream) {
                    for (at_us, bytes) in stream.let_go(world.now_us + self.delay_us.1) {
                        events.push((
                            at_us,
                            Event::PeerBytes {
                                connection: *id,
                                lane,
                                bytes,
                            },
                        ));
                    }
                }
            }
        }
        for (id, connection) in &mut self.clients {
            if crosses(&connection.up) {
                for (at_us, bytes) in connection.up.let_go(world.now_us + self.delay_us.1) {
                    events.push((
                        at_us,
                        Event::ClientBytes {
                            connection: *id,
                            bytes,
                        },
                    ));
                }
            }
            if crosses(&connection.down) {
                for (at_us, bytes) in connection.down.let_go(world.now_us + self.delay_us.1) {
                    events.push((
                        at_us,
                        Event::ServerBytes {
                            connection: *id,
                            bytes,
                        },
                    ));
                }
            }
        }
        for (at_us, event) in events {
            world.at(at_us, event);
        }
    }

    pub fn unblock_all(&mut self, world: &mut World) {
        for (from, to) in self.blocked.clone() {
            self.unblock(world, from, to);
        }
    }

    /// Connections between nodes or with clients that touch `node`.
    pub fn connections_of(&self, node: u16) -> (Vec<ConnectionId>, Vec<ConnectionId>) {
        let peers = self
            .peers
            .iter()
            .filter(|(_, it)| it.link.from == node || it.link.to == node);
        let clients = self.clients.iter().filter(|(_, it)| it.link.node == node);
        (
            peers.map(|(id, _)| *id).collect(),
            clients.map(|(id, _)| *id).collect(),
        )
    }
}

impl PeerConnection {
    pub fn lane(&mut self, lane: Lane) -> &mut Stream {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Bulk => &mut self.bulk,
        }
    }
}

impl Stream {
    fn new(from: u16, to: u16, frame_size_max_bytes: usize) -> Stream {
        Stream {
            from,
            to,
            last_arrival_us: 0,
            held: Vec::new(),
            decoder: FrameDecoder::new(frame_size_max_bytes),
        }
    }

    /// When the bytes arrive; none while they are held back.
    fn send(&mut self, arrival_us: u64, blocked: bool, bytes: Vec<u8>) -> Option<(u64, Vec<u8>)> {
        if blocked || !self.held.is_empty() {
            self.held.push(bytes);
            return None;
        }
        self.last_arrival_us = self.last_arrival_us.max(arrival_us);
        Some((self.last_arrival_us, bytes))
    }

    fn let_go(&mut self, arrival_us: u64) -> Vec<(u64, Vec<u8>)> {
        self.last_arrival_us = self.last_arrival_us.max(arrival_us);
        let at_us = self.last_arrival_us;
        std::mem::take(&mut self.held)
            .into_iter()
            .map(|bytes| (at_us, bytes))
            .collect()
    }
}
