//! What goes wrong, and when: drawn from the seed before and while the cluster runs.

use crate::world::World;

#[derive(Clone, Debug)]
pub enum Fault {
    /// The power of a node goes: unsynced writes survive by the fall of the dice.
    PowerOff {
        node: u16,
        down_us: u64,
    },
    /// The process dies, the machine lives: what was written is still there.
    Kill {
        node: u16,
        down_us: u64,
    },
    /// The power goes in the middle of the `changes`th change of a disk from now.
    PowerOffAtChange {
        node: u16,
        data_disk: bool,
        changes: u64,
    },
    /// The next sync of the log fails: the node must stop by itself.
    FailSync {
        node: u16,
    },
    PowerOffAll {
        down_us: u64,
    },
    /// A leader is cut off; the next one too, as soon as it is elected, and its voter loses power.
    VoteStorm {
        partition: u16,
    },
    Isolate {
        node: u16,
        one_way: Option<bool>,
        for_us: u64,
    },
    /// Splits nodes by the bits of `sides`.
    Split {
        sides: u64,
        for_us: u64,
    },
    BlockPair {
        from: u16,
        to: u16,
        both: bool,
        for_us: u64,
    },
    Open {
        directions: Vec<(u16, u16)>,
    },
    ResetConnections {
        one_in: u64,
    },
    /// The process is stopped and goes on later.
    Pause {
        node: u16,
        for_us: u64,
    },
    /// Everything stands still for longer than a snapshot interval.
    SuspendAll {
        for_us: u64,
    },
    SlowDisk {
        node: u16,
        sync_us: u64,
        for_us: u64,
    },
    /// An operator has the node lead nothing for a while.
    Drain {
        node: u16,
        for_us: u64,
    },
    Undrain {
        node: u16,
    },
    FastDisk {
        node: u16,
    },
    SlowNetwork {
        node: u16,
        delay_us: u64,
        for_us: u64,
    },
    FastNetwork {
        node: u16,
    },
    JumpClock {
        node: u16,
        by_ms: i64,
    },
    /// A disk does harm to what it keeps while the node is down. One node a run: more is beyond any promise.
    Damage {
        node: u16,
        what: Damage,
        down_us: u64,
    },
    /// Somebody copies the disks of a running node.
    CopyDisks {
        node: u16,
    },
    /// A disk has room for little more.
    FillDisk {
        node: u16,
        data_disk: bool,
        spare_bytes: u64,
        for_us: u64,
    },
    FreeDisks {
        node: u16,
    },
    /// Everything is repaired; from here on the cluster must come to rest by itself.
    Heal,
    Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    /// The disk of the log is empty, ...
    LogLost,
    /// ... both are.
    DisksLost,
    /// They are replaced by a copy made earlier; whoever puts it there waits until it can be told from them.
    OlderCopy,
    /// A bit turned over, in a log segment that has a successor, ...
    Log,
    /// ... in a snapshot, ...
    Snapshot,
    /// ... in a block segment.
    Blocks,
}

/// Which kinds a seed draws from: focused seeds find what evenly mixed ones hide.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    pub crashes: bool,
    pub disks: bool,
    pub partitions: bool,
    pub pauses: bool,
    pub clocks: bool,
    pub votes: bool,
    pub damage: bool,
    pub space: bool,
}

impl Mix {
    pub fn draw(world: &mut World) -> Mix {
        let bits = world.random.next_u64();
        if bits & 0x700 == 0 {
            // A quiet seed: what fails here fails without any fault.
            return Mix {
                crashes: false,
                disks: false,
                partitions: false,
                pauses: false,
                clocks: false,
                votes: false,
                damage: false,
                space: false,
            };
        }
        Mix {
            crashes: bits & 3 != 0,
            disks: bits & 4 != 0,
            partitions: bits & 0x18 != 0,
            pauses: bits & 0x20 != 0,
            clocks: bits & 0x40 != 0,
            votes: bits & 0x80 != 0,
            damage: bits & 0x1800 == 0,
            space: bits & 0x6000 == 0,
        }
    }

    pub fn fault(self, world: &mut World, nodes: u16, partitions: u16) -> Option<Fault> {
        let node = 1 + world.random.below(u64::from(nodes)) as u16;
        let down_us = match world.random.below(3) {
            0 => world.between(1_000, 100_000),
            _ => world.between(50_000, 3_000_000),
        };
        let for_us = match world.random.below(3) {
            0 => world.between(10_000, 400_000),
            _ => world.between(300_000, 4_000_000),
        };
        Some(match world.random.below(28) {
            0..=2 if self.crashes => Fault::PowerOff { node, down_us },
            3 if self.crashes => Fault::Kill { node, down_us },
            4..=5 if self.crashes => {
                let changes = 1 + world.random.below(40);
                Fault::PowerOffAtChange {
                    node,
                    data_disk: world.random.chance(4),
                    changes,
                }
            }
            6 if self.crashes => Fault::PowerOffAll { down_us },
            7 if self.disks => Fault::FailSync { node },
            8..=9 if self.disks => Fault::SlowDisk {
                node,
                sync_us: world.between(5_000, 300_000),
                for_us,
            },
            10..=11 if self.partitions => {
                let one_way = if world.random.chance(3) {
                    Some(world.random.chance(2))
                } else {
                    None
                };
                Fault::Isolate {
                    node,
                    one_way,
                    for_us,
                }
            }
            12 if self.partitions => Fault::Split {
                sides: world.random.next_u64(),
                for_us,
            },
            13 if self.partitions => {
                let to = 1 + world.random.below(u64::from(nodes)) as u16;
                Fault::BlockPair {
                    from: node,
                    to,
                    both: world.random.chance(2),
                    for_us,
                }
            }
            14 if self.partitions => Fault::ResetConnections {
                one_in: world.between(1, 6),
            },
            15 if self.partitions => Fault::SlowNetwork {
                node,
                delay_us: world.between(5_000, 400_000),
                for_us,
            },
            16 if self.pauses => Fault::Pause {
                node,
                for_us: for_us / 2,
            },
            17 if self.clocks => {
                let by_ms = world.random.below(40_000) as i64 - 20_000;
                Fault::JumpClock { node, by_ms }
            }
            18..=19 if self.votes => Fault::VoteStorm {
                partition: world.random.below(u64::from(partitions)) as u16,
            },
            20..=22 if self.damage => Fault::Damage {
                node,
                what: match world.random.below(11) {
                    8..=10 => Damage::OlderCopy,
                    0 => Damage::LogLost,
                    1 => Damage::DisksLost,
                    2 => Damage::Log,
                    3 => Damage::Snapshot,
                    _ => Damage::Blocks,
                },
                down_us,
            },
            23..=24 if self.space => Fault::FillDisk {
                node,
                data_disk: world.random.chance(2),
                spare_bytes: world.random.below(3) * world.random.below(20_000),
                for_us: 2 * for_us,
            },
            27 if self.damage => Fault::CopyDisks { node },
            25 => Fault::Drain { node, for_us },
            26 if self.disks => Fault::SlowDisk {
                node,
                // Slower than a leader may be; the longer ones look stuck.
                sync_us: world.between(300_000, 3_000_000),
                for_us: 2 * for_us,
            },
            _ => return None,
        })
    }
}
