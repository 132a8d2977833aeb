//! The sending half of the connections to other nodes: two to each, one for control and one for bulk.
//!
//! Heartbeats and votes never queue behind blocks and snapshots. A node counts as connected when both
//! are open. A broken link is opened again after a pause that doubles up to a second.
//!
//! Invariants:
//! - A message for a node that is not connected is dropped: consensus repeats, and requests were told. So is one that
//!   is larger than a frame may be.
//! - The first frame on each connection is the hello.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bark_core::worker::event::Input;
use bark_schema::codec;
use bark_schema::ids::NodeNumber;
use bark_schema::limits::FRAME_SIZE_PEER_MAX;
use bark_schema::message::{PREAMBLE_PEER, PROTOCOL_VERSION, PeerHello, PeerMessage};

use crate::pipeline::{ConnectionId, ConnectionKind, FromWorker, WorkerPort};
use crate::protocol::Settings;

const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

pub struct PeerLinks {
    nodes: BTreeMap<NodeNumber, Links>,
    by_connection: BTreeMap<ConnectionId, (NodeNumber, Lane)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lane {
    Control,
    Bulk,
}

struct Links {
    address: SocketAddr,
    control: Link,
    bulk: Link,
    announced: bool,
}

struct Link {
    state: LinkState,
    pause: Duration,
    out: Vec<u8>,
}

enum LinkState {
    /// Tried again at this time.
    Down(Instant),
    Connecting,
    Up(ConnectionId),
}

impl PeerLinks {
    pub fn new(peers: impl Iterator<Item = (NodeNumber, SocketAddr)>, now: Instant) -> PeerLinks {
        let link = || Link {
            state: LinkState::Down(now),
            pause: PAUSE_MIN,
            out: Vec::new(),
        };
        let links = |address| Links {
            address,
            control: link(),
            bulk: link(),
            announced: false,
        };
        PeerLinks {
            nodes: peers.map(|(node, address)| (node, links(address))).collect(),
            by_connection: BTreeMap::new(),
        }
    }

    /// Opens the links whose pause is over.
    pub fn connect_due(&mut self, now: Instant, port: &mut WorkerPort) {
        for (node, links) in &mut self.nodes {
            for (lane, link) in [(Lane::Control, &mut links.control), (Lane::Bulk, &mut links.bulk)] {
                if let LinkState::Down(until) = link.state
                    && until <= now
                {
                    link.state = LinkState::Connecting;
                    let token = token(*node, lane);
                    let (address, kind) = (links.address, ConnectionKind::Capnp);
                    port.send(FromWorker::Connect {
                        network_thread: 0,
                        address,
                        kind,
                        token,
                    });
                }
            }
        }
    }

    /// When [`PeerLinks::connect_due`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let down = |link: &Link| match link.state {
            LinkState::Down(until) => Some(until),
            _ => None,
        };
        self.nodes
            .values()
            .flat_map(|links| [down(&links.control), down(&links.bulk)])
            .flatten()
            .min()
    }

    /// A link this worker asked for is open.
    pub fn opened(
        &mut self,
        connection: ConnectionId,
        opened: u64,
        settings: &Settings,
        inputs: &mut Vec<Input>,
    ) {
        let Some((node, lane)) = self.find(opened) else {
            return;
        };
        let Some(links) = self.nodes.get_mut(&node) else {
            return;
        };
        let link = links.lane(lane);
        link.state = LinkState::Up(connection);
        link.out.clear();
        link.out.extend_from_slice(&PREAMBLE_PEER);
        let hello = PeerHello {
            version: PROTOCOL_VERSION,
            cluster: settings.cluster.name.clone(),
            map_digest: settings.map_digest,
            node: settings.node,
            incarnation: settings.incarnation,
            bulk: lane == Lane::Bulk,
            log_position: settings.log_position.load(Ordering::Acquire),
            rejoining: settings.rejoining.load(Ordering::Acquire),
        };
        codec::encode_peer(&PeerMessage::Hello(hello), &mut link.out);
        self.by_connection.insert(connection, (node, lane));
        if links.is_up() && !links.announced {
            links.announced = true;
            inputs.push(Input::PeerConnected { node });
        }
    }

    pub fn connect_failed(&mut self, failed: u64, now: Instant) {
        if let Some((node, lane)) = self.find(failed)
            && let Some(links) = self.nodes.get_mut(&node)
        {
            links.lane(lane).went_down(now);
        }
    }

    /// True if the connection was one of ours.
    pub fn closed(
        &mut self,
        connection: ConnectionId,
        now: Instant,
        port: &mut WorkerPort,
        inputs: &mut Vec<Input>,
    ) -> bool {
        let Some((node, lane)) = self.by_connection.remove(&connection) else {
            return false;
        };
        let Some(links) = self.nodes.get_mut(&node) else {
            return true;
        };
        links.lane(lane).went_down(now);
        let other = links.lane(lane.other());
        if let LinkState::Up(connection) = other.state {
            port.send(FromWorker::Close {
                connection,
                flush: false,
            });
        }
        if std::mem::take(&mut links.announced) {
            inputs.push(Input::PeerDisconnected { node });
        }
        true
    }

    /// Bytes of ours on these connections come from a node that has nothing to say there.
    pub fn is_ours(&self, connection: ConnectionId) -> bool {
        self.by_connection.contains_key(&connection)
    }

    pub fn send(&mut self, to: NodeNumber, bulk: bool, message: &PeerMessage) {
        let Some(links) = self.nodes.get_mut(&to) else {
            return;
        };
        if !links.announced {
            return;
        }
        let out = &mut links.lane(if bulk { Lane::Bulk } else { Lane::Control }).out;
        let before = out.len();
        codec::encode_peer(message, out);
        // Whoever makes a message bounds it; one that slips through must not cost the connection to the node.
        if out.len() - before > FRAME_SIZE_PEER_MAX {
            out.truncate(before);
            tracing::error!(to = to.0, "a message too large for a frame was dropped");
        }
    }

    /// Hands everything gathered this turn to the network thread, one write a connection.
    pub fn flush(&mut self, port: &mut WorkerPort) {
        for links in self.nodes.values_mut() {
            for link in [&mut links.control, &mut links.bulk] {
                if let LinkState::Up(connection) = link.state
                    && !link.out.is_empty()
                {
                    link.pause = PAUSE_MIN;
                    port.send(FromWorker::Write {
                        connection,
                        bytes: std::mem::take(&mut link.out),
                    });
                }
            }
        }
    }

    fn find(&self, wanted: u64) -> Option<(NodeNumber, Lane)> {
        let node = NodeNumber(u16::try_from(wanted >> 1).ok()?);
        self.nodes.contains_key(&node).then_some((
            node,
            if wanted & 1 == 1 {
                Lane::Bulk
            } else {
                Lane::Control
            },
        ))
    }
}

fn token(node: NodeNumber, lane: Lane) -> u64 {
    u64::from(node.0) << 1 | u64::from(lane == Lane::Bulk)
}

impl Lane {
    fn other(self) -> Lane {
        match self {
            Lane::Control => Lane::Bulk,
            Lane::Bulk => Lane::Control,
        }
    }
}

impl Links {
    fn lane(&mut self, lane: Lane) -> &mut Link {
        match lane {
            Lane::Control => &mut self.control,
            Lane::Bulk => &mut self.bulk,
        }
    }

    fn is_up(&self) -> bool {
        matches!(
            (&self.control.state, &self.bulk.state),
            (LinkState::Up(_), LinkState::Up(_))
        )
    }
}

impl Link {
    fn went_down(&mut self, now: Instant) {
        self.out = Vec::new();
        self.state = LinkState::Down(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
