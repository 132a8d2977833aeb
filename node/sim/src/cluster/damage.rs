//! Disks that lie, lose what they kept, or have no room, and what a node says to that.
//!
//! Invariants:
//! - A node that does not start says so for a reason some fault explains; anything else is a defect.
//! - What is not known to be torn is never cut: damage is done where a reader can tell.

use bark_core::disk::simulated::SimulatedDisk;
use bark_core::members::Members;

use super::{Node, Stop};
use crate::fault::Damage;
use crate::world::World;

/// Many, since few blocks are ever read again.
const BLOCK_BITS_FLIPPED: u32 = 40;

/// Of both disks, from one moment.
pub struct Copy {
    log_disk: SimulatedDisk,
    data_disk: SimulatedDisk,
    incarnation: u64,
    members: Members,
    log_position: u64,
}

impl Node {
    /// Somebody copies the disks while the node runs.
    pub fn copy_disks(&mut self) {
        let Some(running) = &self.running else { return };
        self.copy = Some(Copy {
            log_disk: self.log_disk.clone(),
            data_disk: self.data_disk.clone(),
            incarnation: self.incarnation,
            members: self.members.clone(),
            log_position: running.log_position(),
        });
    }

    /// How far the log was durable when the disks were copied, if they were since they are the node's.
    pub fn copied_position(&self) -> Option<u64> {
        let copy = self.copy.as_ref()?;
        (copy.incarnation == self.incarnation).then_some(copy.log_position)
    }

    /// Whether a fault explains that it does not start.
    pub(super) fn refused_start(&mut self, reason: String) -> Stop {
        if self.is_full {
            self.counts.full_disk_stops += 1;
            return Stop::Disk;
        }
        match self.damage {
            Some(Damage::Log | Damage::Snapshot) => {
                self.counts.damaged_starts_refused += 1;
                self.lose_disks();
                Stop::Replaced(reason)
            }
            Some(Damage::LogLost | Damage::DisksLost | Damage::Blocks | Damage::OlderCopy) | None => {
                Stop::Defect(format!("node {} cannot start: {reason}", self.number))
            }
        }
    }

    /// Its disk does harm; true if there was something to harm. The node is down.
    pub fn do_damage(&mut self, world: &mut World, what: Damage) -> bool {
        let segment = |path: &String| path.ends_with(".log");
        let disk = match what {
            Damage::LogLost => {
                self.log_disk = SimulatedDisk::new();
                self.incarnation += 1;
                self.members = Members::default();
                self.damage = Some(what);
                return true;
            }
            Damage::OlderCopy => {
                let Some(copy) = self.copy.take() else {
                    return false;
                };
                (self.log_disk, self.data_disk) = (copy.log_disk, copy.data_disk);
                self.log_disk.crash(&mut world.random);
                self.data_disk.crash(&mut world.random);
                self.members = copy.members;
                self.damage = Some(what);
                return true;
            }
            Damage::DisksLost => {
                self.lose_disks();
                return true;
            }
            Damage::Log => &mut self.log_disk,
            Damage::Snapshot | Damage::Blocks => &mut self.data_disk,
        };
        let mut paths: Vec<String> = match what {
            Damage::Snapshot => disk
                .paths()
                .into_iter()
                .filter(|path| path.ends_with(".snap"))
                .collect(),
            Damage::Blocks => disk
                .paths()
                .into_iter()
                .filter(|path| path.starts_with("blocks/"))
                .collect(),
            _ => disk.paths().into_iter().filter(segment).collect(),
        };
        if what == Damage::Log {
            // What was synced last looks like a torn tail: a single file cannot tell.
            paths.pop();
        }
        if paths.is_empty() {
            return false;
        }
        // Blocks have other copies, whatever happens to these; of the rest one bit must be enough to be noticed.
        let bits = if what == Damage::Blocks {
            BLOCK_BITS_FLIPPED
        } else {
            1
        };
        for _ in 0..bits {
            let path = &paths[world.random.below(paths.len() as u64) as usize];
            let size = disk.contents(path).map_or(0, |bytes| bytes.len() as u64);
            if size > 0 {
                let (offset, bit) = (world.random.below(size), world.random.below(8) as u8);
                world.say(|| format!("bit {bit} of byte {offset} of {path} turns over"));
                disk.flip_bit(path, offset, bit);
            }
        }
        self.damage = Some(what);
        true
    }

    pub fn fail_sync(&mut self) {
        self.sync_fails = true;
        self.log_disk.fail_sync(1);
    }

    fn lose_disks(&mut self) {
        self.log_disk = SimulatedDisk::new();
        self.data_disk = SimulatedDisk::new();
        self.incarnation += 1;
        self.members = Members::default();
        self.damage = Some(Damage::DisksLost);
    }

    pub fn fill_disk(&mut self, data_disk: bool, spare_bytes: u64) {
        self.is_full = true;
        let disk = if data_disk {
            &mut self.data_disk
        } else {
            &mut self.log_disk
        };
        disk.set_capacity(Some(disk.used_bytes() + spare_bytes));
    }

    pub fn free_disks(&mut self) {
        self.is_full = false;
        self.log_disk.set_capacity(None);
        self.data_disk.set_capacity(None);
    }
}
