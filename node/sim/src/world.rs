//! Virtual time: what will happen, in one order, and the dice everything is decided with.
//!
//! Previous in the flow: everything that makes something happen later. Next: `simulation`, which takes the
//! next event and carries it out.
//!
//! Invariants:
//! - Events happen in the order of (time, sequence); nothing is scheduled in the past.
//! - Every decision of a run comes from `random`, and every event is mixed into `trace`: two runs of one
//!   seed with equal traces did the same.

use std::collections::BTreeMap;

use bark_core::random::Random;

use crate::fault::Fault;
use crate::network::{ClientLinkId, ConnectionId, Lane, PeerLinkId};

/// Something that will happen. `life` counts a node's starts: what was meant for an earlier life is dropped.
#[derive(Debug)]
pub enum Event {
    Turn {
        node: u16,
        worker: u16,
        life: u64,
    },
    Timer {
        node: u16,
        worker: u16,
        life: u64,
    },
    LogDone {
        node: u16,
        life: u64,
    },
    LogRetry {
        node: u16,
        life: u64,
    },
    StorageDone {
        node: u16,
        life: u64,
    },
    Start {
        node: u16,
    },
    PeerConnect {
        link: PeerLinkId,
        life: u64,
    },
    PeerBytes {
        connection: ConnectionId,
        lane: Lane,
        bytes: Vec<u8>,
    },
    PeerLost {
        connection: ConnectionId,
    },
    ClientConnect {
        link: ClientLinkId,
    },
    ClientBytes {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    ServerBytes {
        connection: ConnectionId,
        bytes: Vec<u8>,
    },
    ClientLost {
        connection: ConnectionId,
    },
    ClientTick {
        client: usize,
    },
    /// A copy of a change that was answered comes late.
    LateCopy {
        client: usize,
        bytes: Vec<u8>,
    },
    Plain {
        connection: usize,
    },
    /// An operator noticed that the node is refused.
    Admit {
        node: u16,
    },
    Fault(Fault),
    Audit,
}

pub struct World {
    pub now_us: u64,
    pub random: Random,
    pub trace: Trace,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
}

impl World {
    pub fn new(seed: u64, print: bool) -> World {
        World {
            now_us: 0,
            random: Random::new(seed),
            trace: Trace {
                hash: seed,
                events: 0,
                print,
            },
            sequence: 0,
            queue: BTreeMap::new(),
        }
    }

    /// Lets `event` happen at `at_us`, or now if that is past.
    pub fn at(&mut self, at_us: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_us.max(self.now_us), self.sequence), event);
    }

    pub fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    /// Moves to the next event.
    pub fn next_event(&mut self) -> Option<Event> {
        let ((at_us, sequence), event) = self.queue.pop_first()?;
        // The clock may have been moved past it: everything was suspended meanwhile.
        self.now_us = self.now_us.max(at_us);
        self.trace.mix(at_us ^ sequence.rotate_left(32));
        Some(event)
    }

    /// A number in `from ..= to`.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.random.below(to - from + 1)
    }

    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if self.trace.print {
            println!("{:>12.6} {}", self.now_us as f64 / 1e6, line());
        }
    }
}

/// Digest of everything that happened, and optionally its text.
pub struct Trace {
    pub hash: u64,
    pub events: u64,
    pub print: bool,
}

impl Trace {
    pub fn mix(&mut self, value: u64) {
        self.events += 1;
        self.hash = (self.hash ^ value)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix((bytes.len() as u64) << 32 | u64::from(bark_core::checksum::crc32c(&[bytes])));
    }
}
