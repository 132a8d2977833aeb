//! Who this node is: the record that lies beside the log and stops a disk from playing the wrong part.
//!
//! Previous in the flow: nothing, it is read before anything else. Next: the log is opened.
//!
//! Design: one file of two slots, 4096 bytes apart. A store writes the slot that does not hold the latest
//! record, with the next generation, and syncs; then it does the same to the other slot. So at every
//! moment one slot is whole, and once a store has returned both say the same: damage to either one can
//! not bring back an older record, which might claim a clean shutdown that is long past.
//! Loading takes the valid slot of the higher generation.
//!
//! Format, little-endian; slot 0 at byte 0, slot 1 at byte 4096, each:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 8 | `BARKNODE` |
//! | 8 | 4 | format version, 1 |
//! | 12 | 4 | CRC-32C of bytes 0-11 and 16 to the end of the record |
//! | 16 | 8 | generation of this record |
//! | 24 | 8 | map digest |
//! | 32 | 8 | incarnation |
//! | 40 | 2 | node number |
//! | 42 | 1 | 1 after a clean shutdown, else 0 |
//! | 43 | 1 | zero |
//! | 44 | 2, 2, 2 | sizes of cluster name, node id and boot id |
//! | 50 | | cluster name, node id, boot id, UTF-8 |
//!
//! Invariants:
//! - `store` never touches the slot that holds the latest record.
//! - A file that exists and has no valid slot is an error, never a new node.

use std::io;

use bark_schema::cluster_file::Durability;
use bark_schema::ids::NodeNumber;

use crate::checksum::crc32c;
use crate::disk::{Disk, FileId};

const MAGIC: &[u8; 8] = b"BARKNODE";
const VERSION: u32 = 1;
const SLOT_SIZE_BYTES: usize = 4096;
const STRINGS_OFFSET: usize = 50;
const NAME: &str = "identity";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    pub cluster: String,
    pub node: String,
    pub number: NodeNumber,
    /// Digest of what the cluster file fixes for ever; see the cluster map.
    pub map_digest: u64,
    /// Drawn when the disk is new; others know the node's disk by it (`members`).
    pub incarnation: u64,
    /// The machine's boot id (on Linux /proc/sys/kernel/random/boot_id) when this was written.
    pub boot_id: String,
    /// Everything acknowledged was synced before the process ended.
    pub clean_shutdown: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("this data directory belongs to cluster {found:?}, the configuration says {expected:?}")]
    OtherCluster { found: String, expected: String },
    #[error("this data directory belongs to node {found:?}, this process was started as {expected:?}")]
    OtherNode { found: String, expected: String },
    #[error(
        "the identity record is damaged; do not start this node from this data, replace it with `bark node replace`"
    )]
    Damaged,
    #[error("the identity record has format version {found}, which this program does not know")]
    UnknownVersion { found: u32 },
    #[error("the names of the cluster, the node and the boot id have together more than {max} bytes")]
    TooLong { max: usize },
    #[error("identity record: cannot {action}")]
    Disk { action: &'static str, source: io::Error },
}

impl Identity {
    /// The latest record in the data directory; `None` if this node never ran here.
    pub fn load<D: Disk>(disk: &mut D) -> Result<Option<Identity>, Error> {
        let file = match disk.open(NAME, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(Error::Disk {
                    action: "open",
                    source,
                });
            }
        };
        let slots = read_slots(disk, file);
        disk.close(file);
        match slots?
            .into_iter()
            .flatten()
            .max_by_key(|(generation, _)| *generation)
        {
            Some((_, identity)) => Ok(Some(identity)),
            None => Err(Error::Damaged),
        }
    }

    /// Makes this the latest record; durable when it returns. The caller does not retry a failure.
    pub fn store<D: Disk>(&self, disk: &mut D) -> Result<(), Error> {
        let failed = |source| Error::Disk {
            action: "write",
            source,
        };
        let exists = disk.list("").map_err(failed)?.iter().any(|name| name == NAME);
        if !exists {
            return self.create(disk);
        }
        let file = disk.open(NAME, false).map_err(failed)?;
        let stored = self
            .store_beside(disk, file)
            .and_then(|()| self.store_beside(disk, file));
        disk.close(file);
        stored
    }

    /// Refuses data of another cluster or node.
    pub fn expect(&self, cluster: &str, node: &str) -> Result<(), Error> {
        if self.cluster != cluster {
            return Err(Error::OtherCluster {
                found: self.cluster.clone(),
                expected: cluster.to_owned(),
            });
        }
        if self.node != node {
            return Err(Error::OtherNode {
                found: self.node.clone(),
                expected: node.to_owned(),
            });
        }
        Ok(())
    }

    /// Whether this node may have forgotten what it acknowledged, and so must rejoin before it votes: it acknowledged from memory and the machine went down under it. After a
    /// mere process crash (same boot id) the page cache still holds what was written.
    pub fn must_rejoin(&self, durability: Durability, current_boot_id: &str) -> bool {
        durability == Durability::Memory && !self.clean_shutdown && self.boot_id != current_boot_id
    }

    /// The first record goes through a rename, so that an identity file is never without a valid slot.
    fn create<D: Disk>(&self, disk: &mut D) -> Result<(), Error> {
        let failed = |source| Error::Disk {
            action: "create",
            source,
        };
        let temporary = "identity.new";
        let mut slots = self.encode(1)?;
        slots.resize(SLOT_SIZE_BYTES, 0);
        slots.extend_from_slice(&self.encode(2)?);
        let file = disk.open(temporary, true).map_err(failed)?;
        let written = disk.write_at(file, 0, &slots).and_then(|()| disk.sync(file));
        disk.close(file);
        written.map_err(failed)?;
        disk.rename(temporary, NAME).map_err(failed)?;
        disk.sync_directory("").map_err(failed)
    }

    fn store_beside<D: Disk>(&self, disk: &mut D, file: FileId) -> Result<(), Error> {
        let generations = read_slots(disk, file)?.map(|slot| slot.map_or(0, |(generation, _)| generation));
        let [first, second] = generations;
        if first == 0 && second == 0 {
            return Err(Error::Damaged);
        }
        let offset = if first < second { 0 } else { SLOT_SIZE_BYTES as u64 };
        let slot = self.encode(first.max(second).saturating_add(1))?;
        let failed = |source| Error::Disk {
            action: "write",
            source,
        };
        disk.write_at(file, offset, &slot).map_err(failed)?;
        disk.sync(file).map_err(failed)
    }

    fn encode(&self, generation: u64) -> Result<Vec<u8>, Error> {
        let strings = [&self.cluster, &self.node, &self.boot_id];
        let max = SLOT_SIZE_BYTES - STRINGS_OFFSET;
        if strings.iter().map(|string| string.len()).sum::<usize>() > max {
            return Err(Error::TooLong { max });
        }
        let mut bytes = Vec::with_capacity(SLOT_SIZE_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for number in [generation, self.map_digest, self.incarnation] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.number.0.to_le_bytes());
        bytes.extend_from_slice(&[u8::from(self.clean_shutdown), 0]);
        for string in strings {
            // Each is shorter than a slot.
            bytes.extend_from_slice(&(string.len() as u16).to_le_bytes());
        }
        for string in strings {
            bytes.extend_from_slice(string.as_bytes());
        }
        let checksum = crc32c(&[&bytes[..12], &bytes[16..]]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        Ok(bytes)
    }
}

/// Both slots, each with its generation if it is valid.
fn read_slots<D: Disk>(disk: &mut D, file: FileId) -> Result<[Option<(u64, Identity)>; 2], Error> {
    let failed = |source| Error::Disk {
        action: "read",
        source,
    };
    let size_bytes = disk.size_bytes(file).map_err(failed)?;
    let mut bytes = vec![0; 2 * SLOT_SIZE_BYTES];
    let present = size_bytes.min(bytes.len() as u64) as usize;
    disk.read_at(file, 0, &mut bytes[..present]).map_err(failed)?;
    let (first, second) = bytes.split_at(SLOT_SIZE_BYTES);
    Ok([decode(first)?, decode(second)?])
}

fn decode(slot: &[u8]) -> Result<Option<(u64, Identity)>, Error> {
    if !slot.starts_with(MAGIC) {
        return Ok(None);
    }
    let Some((version, record)) = verified(slot) else {
        return Ok(None);
    };
    if version != VERSION {
        return Err(Error::UnknownVersion { found: version });
    }
    Ok(decode_record(record))
}

/// The version and the bytes of the record, if the checksum holds.
fn verified(slot: &[u8]) -> Option<(u32, &[u8])> {
    let version = u32::from_le_bytes(slot.get(8..12)?.try_into().ok()?);
    let checksum = u32::from_le_bytes(slot.get(12..16)?.try_into().ok()?);
    let strings_size: usize = [44, 46, 48]
        .into_iter()
        .filter_map(|offset| u16_at(slot, offset))
        .map(usize::from)
        .sum();
    let record = slot.get(..STRINGS_OFFSET + strings_size)?;
    (crc32c(&[&record[..12], &record[16..]]) == checksum).then_some((version, record))
}

fn decode_record(record: &[u8]) -> Option<(u64, Identity)> {
    let mut start = STRINGS_OFFSET;
    let mut string = |size_offset| {
        let end = start + usize::from(u16_at(record, size_offset)?);
        let string = String::from_utf8(record.get(start..end)?.to_vec()).ok()?;
        start = end;
        Some(string)
    };
    let (cluster, node, boot_id) = (string(44)?, string(46)?, string(48)?);
    let identity = Identity {
        cluster,
        node,
        boot_id,
        number: NodeNumber(u16_at(record, 40)?),
        map_digest: u64_at(record, 24)?,
        incarnation: u64_at(record, 32)?,
        clean_shutdown: *record.get(42)? == 1,
    };
    Some((u64_at(record, 16)?, identity))
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(
        bytes.get(offset..offset + 2)?.try_into().ok()?,
    ))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(
        bytes.get(offset..offset + 8)?.try_into().ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::random::Random;

    fn identity(incarnation: u64) -> Identity {
        Identity {
            cluster: "dev".to_owned(),
            node: "node-1".to_owned(),
            number: NodeNumber(1),
            map_digest: 77,
            incarnation,
            boot_id: "boot-a".to_owned(),
            clean_shutdown: false,
        }
    }

    fn load(disk: &mut SimulatedDisk) -> Option<Identity> {
        Identity::load(disk).expect("load")
    }

    #[test]
    fn the_last_stored_record_survives_any_crash_during_the_next_store() {
        // Goal: one slot is whole at every moment; crashes at every disk operation of a row of stores.
        for seed in 0..300 {
            let mut random = Random::new(seed);
            let mut disk = SimulatedDisk::new();
            let mut stored = 0;
            for life in 1..12 {
                disk.stop_after(random.below(12));
                let result = identity(life).store(&mut disk);
                disk.crash(&mut random);
                let found = load(&mut disk).map_or(0, |identity| identity.incarnation);
                match result {
                    Ok(()) => assert_eq!(found, life, "seed {seed}"),
                    Err(_) => assert!(found == stored || found == life, "seed {seed}"),
                }
                stored = found;
            }
        }
    }

    #[test]
    fn the_format_is_frozen() {
        // Goal: a change of the bytes on disk is noticed; computed by another implementation of the table.
        let slot = identity(2).encode(5).expect("short");
        assert_eq!((slot.len(), crc32c(&[&slot])), (65, 0xe2f3e4a9));
    }

    #[test]
    fn damage_to_one_slot_is_survived_and_to_both_is_refused() {
        // Goal: a damaged record is never taken for a new node, nor replaced by an older one.
        let mut disk = SimulatedDisk::new();
        assert_eq!(load(&mut disk), None);
        identity(1).store(&mut disk).expect("store");
        identity(2).store(&mut disk).expect("store");
        assert_eq!(load(&mut disk), Some(identity(2)));
        assert!(disk.flip_bit("identity", SLOT_SIZE_BYTES as u64 + 33, 0));
        assert_eq!(load(&mut disk), Some(identity(2)));
        assert!(disk.flip_bit("identity", 33, 0));
        assert!(matches!(Identity::load(&mut disk), Err(Error::Damaged)));
        assert!(matches!(identity(3).store(&mut disk), Err(Error::Damaged)));
    }

    #[test]
    fn data_of_another_cluster_or_node_is_refused_by_name() {
        // Goal: the message tells both names.
        assert!(identity(1).expect("dev", "node-1").is_ok());
        let cluster = identity(1).expect("live", "node-1").expect_err("other cluster");
        assert!(cluster.to_string().contains("dev") && cluster.to_string().contains("live"));
        assert!(matches!(
            identity(1).expect("dev", "node-2"),
            Err(Error::OtherNode { .. })
        ));
    }

    #[test]
    fn only_an_unclean_power_loss_at_durability_memory_makes_a_node_rejoin() {
        // Goal: the rule of when a node may have forgotten what it acknowledged, as a table.
        for (durability, clean_shutdown, boot_id, rejoins) in [
            (Durability::Memory, false, "boot-b", true),
            (Durability::Memory, false, "boot-a", false),
            (Durability::Memory, true, "boot-b", false),
            (Durability::Disk, false, "boot-b", false),
            (Durability::None, false, "boot-b", false),
        ] {
            let identity = Identity {
                clean_shutdown,
                ..identity(1)
            };
            assert_eq!(identity.must_rejoin(durability, boot_id), rejoins);
        }
    }
}
