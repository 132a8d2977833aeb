//! Which disk of each other node this node follows: a node that comes back with another one, or with an older copy of
//! its own, may have forgotten what it promised, and does not know.
//!
//! Previous in the flow: the hello of another node. Next: its messages are taken, or its connection is refused and it
//! is told why; then it behaves as one that may have forgotten (`partition::rejoin`), and waits to be let in again.
//!
//! A node's incarnation is drawn when its disk is new, and lies beside the log. Its log position counts records and
//! never goes back on one disk; a node tells every second how far it is durable. So three things can be told apart: the
//! disk that is known, another one, and one that lacks what its node had told to be durable. A copy younger than
//! the last word of its node is not told from the disk itself, and has lost at most the promises of that second.
//!
//! An operator's word lets one disk in: the one that was refused, or if there was none yet, the next unknown one. It
//! lapses when the known disk comes back first. It is good only for a node that knows by itself that it may have
//! forgotten: a blank one does, and one with an old log learns it from the refusal, behaves so, and says so when it
//! tries again. So a word that was given before an old copy came does not make a voter of it. The price: two nodes that
//! refuse each other cannot tell each other, and one of them must come with an empty disk.
//!
//! Format of the file `members`, little-endian: `BARKMEMB`, format version (u32, 1), CRC-32C (u32) of all that
//! follows, count (u32), and for each node:
//!
//! | offset | bytes | field |
//! | --- | --- | --- |
//! | 0 | 2 | node number |
//! | 2 | 1 | refusal: 0 none, 1 other disk, 2 older copy |
//! | 3 | 1 | 1: an operator lets in the disk that was refused, or the next unknown one |
//! | 4 | 8 | incarnation that is known |
//! | 12 | 8 | log position told last |
//! | 20 | 8 | incarnation that was refused |
//!
//! Invariants:
//! - A refused disk stays refused until an operator lets it in, whatever it says.
//! - No disk but the known one is followed before its node behaves as one that may have forgotten.
//! - What lets a node in is the node's own hello and an operator's word, never a third node's.

use std::collections::BTreeMap;
use std::io;

use bark_schema::ids::NodeNumber;
use bark_schema::operation::DiskRefusal;

use crate::checksum::crc32c;
use crate::disk::Disk;

const MAGIC: &[u8; 8] = b"BARKMEMB";
const VERSION: u32 = 1;
const HEADER_SIZE_BYTES: usize = 20;
const ROW_SIZE_BYTES: usize = 28;
const NAME: &str = "members";
const TEMPORARY: &str = "members.new";
/// Far more nodes than a cluster file can have; a larger file is not ours.
const FILE_SIZE_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Member {
    incarnation: u64,
    log_position: u64,
    refusal: Option<DiskRefusal>,
    refused_incarnation: u64,
    admits_next: bool,
}

/// What a node says of its disk in its hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskClaim {
    pub incarnation: u64,
    pub log_position: u64,
    /// It knows that it may have forgotten, and behaves so.
    pub rejoining: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Members {
    nodes: BTreeMap<NodeNumber, Member>,
    /// Differs from what was stored last in a way that matters.
    is_changed: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the record of the other nodes' disks is damaged")]
    Damaged,
    #[error("the record of the other nodes' disks has format version {0}, which this program does not know")]
    UnknownVersion(u32),
    #[error("the record of the other nodes' disks: {0}")]
    Disk(#[from] io::Error),
}

impl Members {
    /// A node says hello. Errors: why it is refused.
    pub fn greet(&mut self, node: NodeNumber, claim: DiskClaim) -> Result<(), DiskRefusal> {
        let member = self.nodes.entry(node).or_default();
        let is_new = member.incarnation == 0;
        let is_known = member.incarnation == claim.incarnation;
        let lacks = is_known && claim.log_position < member.log_position && !claim.rejoining;
        let is_old = is_known && (lacks || member.refusal == Some(DiskRefusal::OlderCopy));
        let is_strange = is_old || !(is_new || is_known);
        if is_strange && !(member.admits_next && claim.rejoining) {
            let refusal = if is_known {
                DiskRefusal::OlderCopy
            } else {
                DiskRefusal::OtherDisk
            };
            self.is_changed |= member.refusal != Some(refusal);
            member.refusal = Some(refusal);
            member.refused_incarnation = claim.incarnation;
            return Err(refusal);
        }
        let follows = Member {
            incarnation: claim.incarnation,
            log_position: claim.log_position,
            ..Member::default()
        };
        if *member != follows {
            *member = follows;
            self.is_changed = true;
        }
        Ok(())
    }

    /// Whether the disk is the one that is followed, and said to be less far than it was told to be. Of a hello that another
    /// connection of the same node may have overtaken this means nothing: it has to come again.
    pub fn lags(&self, node: NodeNumber, claim: DiskClaim) -> bool {
        self.nodes.get(&node).is_some_and(|member| {
            member.refusal.is_none()
                && !member.admits_next
                && !claim.rejoining
                && claim.incarnation == member.incarnation
                && claim.log_position < member.log_position
        })
    }

    /// A node that is followed said how far its log is durable.
    pub fn told_position(&mut self, node: NodeNumber, log_position: u64) {
        if let Some(member) = self.nodes.get_mut(&node)
            && member.refusal.is_none()
        {
            member.log_position = member.log_position.max(log_position);
        }
    }

    /// An operator's word: the disk that was refused is the node's, or the next unknown one will be.
    pub fn admit(&mut self, node: NodeNumber) {
        let member = self.nodes.entry(node).or_default();
        member.admits_next = true;
        self.is_changed = true;
    }

    /// How far the log of a node that is followed was told to be durable.
    pub fn told(&self, node: NodeNumber) -> Option<u64> {
        self.nodes.get(&node).map(|member| member.log_position)
    }

    /// Why it is refused, and nobody let it in yet.
    pub fn refusal(&self, node: NodeNumber) -> Option<DiskRefusal> {
        let member = self.nodes.get(&node).filter(|member| !member.admits_next)?;
        member.refusal
    }

    /// Whether it should be stored at once; says so once.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// What was stored; nothing if nothing was.
    pub fn load<D: Disk>(disk: &mut D) -> Result<Members, Error> {
        let file = match disk.open(NAME, false) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Members::default()),
            Err(error) => return Err(error.into()),
        };
        let read = disk.size_bytes(file).and_then(|size_bytes| {
            let mut bytes = vec![0; size_bytes.min(FILE_SIZE_BYTES_MAX) as usize];
            disk.read_at(file, 0, &mut bytes)?;
            Ok(bytes)
        });
        disk.close(file);
        decode(&read?)
    }

    /// Durable when it returns.
    pub fn store<D: Disk>(&self, disk: &mut D) -> Result<(), Error> {
        let file = disk.open(TEMPORARY, true)?;
        let written = disk
            .truncate(file, 0)
            .and_then(|()| disk.write_at(file, 0, &self.encode()))
            .and_then(|()| disk.sync(file));
        disk.close(file);
        written?;
        disk.rename(TEMPORARY, NAME)?;
        disk.sync_directory("")?;
        Ok(())
    }

    fn encode(&self) -> Vec<u8> {
        let mut rows = Vec::with_capacity(4 + self.nodes.len() * ROW_SIZE_BYTES);
        // Nodes are numbered by u16.
        rows.extend_from_slice(&(self.nodes.len() as u32).to_le_bytes());
        for (node, member) in &self.nodes {
            rows.extend_from_slice(&node.0.to_le_bytes());
            let refusal = match member.refusal {
                None => 0,
                Some(DiskRefusal::OtherDisk) => 1,
                Some(DiskRefusal::OlderCopy) => 2,
            };
            rows.extend_from_slice(&[refusal, u8::from(member.admits_next)]);
            for number in [
                member.incarnation,
                member.log_position,
                member.refused_incarnation,
            ] {
                rows.extend_from_slice(&number.to_le_bytes());
            }
        }
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&crc32c(&[&rows]).to_le_bytes());
        bytes.extend_from_slice(&rows);
        bytes
    }
}

fn decode(bytes: &[u8]) -> Result<Members, Error> {
    let word = |offset: usize| -> Option<u32> {
        Some(u32::from_le_bytes(
            bytes.get(offset..offset + 4)?.try_into().ok()?,
        ))
    };
    let (Some(version), Some(checksum), Some(count)) = (word(8), word(12), word(16)) else {
        return Err(Error::Damaged);
    };
    if !bytes.starts_with(MAGIC) || crc32c(&[&bytes[16..]]) != checksum {
        return Err(Error::Damaged);
    }
    if version != VERSION {
        return Err(Error::UnknownVersion(version));
    }
    let rows = bytes[HEADER_SIZE_BYTES..].chunks_exact(ROW_SIZE_BYTES);
    if rows.len() != count as usize {
        return Err(Error::Damaged);
    }
    let nodes = rows
        .map(decode_row)
        .collect::<Option<_>>()
        .ok_or(Error::Damaged)?;
    Ok(Members {
        nodes,
        is_changed: false,
    })
}

fn decode_row(row: &[u8]) -> Option<(NodeNumber, Member)> {
    let number = |offset: usize| -> Option<u64> {
        Some(u64::from_le_bytes(row.get(offset..offset + 8)?.try_into().ok()?))
    };
    let node = NodeNumber(u16::from_le_bytes(row.get(..2)?.try_into().ok()?));
    let member = Member {
        incarnation: number(4)?,
        log_position: number(12)?,
        refused_incarnation: number(20)?,
        refusal: match row.get(2)? {
            0 => None,
            1 => Some(DiskRefusal::OtherDisk),
            2 => Some(DiskRefusal::OlderCopy),
            _ => return None,
        },
        admits_next: *row.get(3)? == 1,
    };
    Some((node, member))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::simulated::SimulatedDisk;
    use crate::random::Random;

    const NODE: NodeNumber = NodeNumber(2);

    fn claim(incarnation: u64, log_position: u64) -> DiskClaim {
        DiskClaim {
            incarnation,
            log_position,
            rejoining: false,
        }
    }

    fn blank(incarnation: u64) -> DiskClaim {
        DiskClaim {
            rejoining: true,
            ..claim(incarnation, 0)
        }
    }

    #[test]
    fn the_known_disk_comes_and_goes_and_another_one_is_refused_until_it_is_let_in() {
        // Goal: a wiped disk is not taken for the one it replaced, however often it tries.
        let mut members = Members::default();
        assert_eq!(members.greet(NODE, blank(7)), Ok(()), "a new cluster");
        members.told_position(NODE, 100);
        assert_eq!(members.greet(NODE, claim(7, 100)), Ok(()));
        assert_eq!(members.greet(NODE, blank(8)), Err(DiskRefusal::OtherDisk));
        assert_eq!(members.greet(NODE, blank(8)), Err(DiskRefusal::OtherDisk));
        assert_eq!(members.refusal(NODE), Some(DiskRefusal::OtherDisk));
        assert_eq!(
            members.greet(NODE, claim(7, 100)),
            Ok(()),
            "the known one is put back"
        );
        assert_eq!(members.greet(NODE, blank(8)), Err(DiskRefusal::OtherDisk));
        members.admit(NODE);
        assert_eq!(members.refusal(NODE), None);
        assert_eq!(members.greet(NODE, blank(8)), Ok(()));
        assert_eq!(
            members.greet(NODE, claim(7, 100)),
            Err(DiskRefusal::OtherDisk),
            "it was replaced"
        );
    }

    #[test]
    fn a_hello_that_was_overtaken_is_told_from_what_decides() {
        // Goal: a late hello of the followed disk has to come again; another disk, one that was let in and one that was
        // refused are not late, but decided by the greeting.
        let mut members = Members::default();
        assert!(!members.lags(NODE, claim(7, 0)), "a new node");
        assert_eq!(members.greet(NODE, claim(7, 0)), Ok(()));
        members.told_position(NODE, 100);
        assert!(members.lags(NODE, claim(7, 99)));
        assert!(!members.lags(NODE, claim(7, 100)));
        assert!(!members.lags(NODE, claim(8, 99)));
        assert_eq!(members.refusal(NODE), None, "asking changes nothing");
        assert_eq!(members.greet(NODE, claim(7, 99)), Err(DiskRefusal::OlderCopy));
        assert!(!members.lags(NODE, claim(7, 99)));
    }

    #[test]
    fn a_copy_that_lacks_what_was_told_is_refused_even_when_it_rejoins() {
        // Goal: an older copy of a disk is noticed, and stays out; a node that says by itself that it forgot does not.
        let mut members = Members::default();
        assert_eq!(members.greet(NODE, claim(7, 0)), Ok(()));
        members.told_position(NODE, 100);
        let forgot = DiskClaim {
            rejoining: true,
            ..claim(7, 50)
        };
        assert_eq!(
            members.greet(NODE, forgot),
            Ok(()),
            "its power went, and it knows"
        );
        members.told_position(NODE, 120);
        assert_eq!(members.greet(NODE, claim(7, 119)), Err(DiskRefusal::OlderCopy));
        let told = DiskClaim {
            rejoining: true,
            ..claim(7, 119)
        };
        assert_eq!(members.greet(NODE, told), Err(DiskRefusal::OlderCopy));
        members.told_position(NODE, 500);
        members.admit(NODE);
        assert_eq!(members.greet(NODE, told), Ok(()));
    }

    #[test]
    fn a_word_given_before_the_disk_comes_is_for_one_disk() {
        // Goal: it does not lie about for the next mistake. Method: the known disk comes back first; two new ones come.
        let mut members = Members::default();
        assert_eq!(members.greet(NODE, claim(7, 5)), Ok(()));
        members.admit(NODE);
        assert_eq!(
            members.greet(NODE, claim(7, 5)),
            Ok(()),
            "nothing was replaced after all"
        );
        assert_eq!(members.greet(NODE, blank(8)), Err(DiskRefusal::OtherDisk));
        members.admit(NODE);
        assert_eq!(members.greet(NODE, blank(8)), Ok(()));
        members.admit(NODE);
        assert_eq!(members.greet(NODE, blank(9)), Ok(()));
        assert_eq!(members.greet(NODE, blank(10)), Err(DiskRefusal::OtherDisk));
    }

    #[test]
    fn nobody_lets_in_a_disk_whose_node_does_not_know_that_it_may_have_forgotten() {
        // Goal: an old copy does not vote because a word was given for a blank disk, or before its node heard of the
        // refusal. Method: both kinds of strange disks, the word before they come and after; then they say that they know.
        let knowing = |claim| DiskClaim {
            rejoining: true,
            ..claim
        };
        for (strange, refusal) in [
            (claim(7, 50), DiskRefusal::OlderCopy),
            (claim(6, 500), DiskRefusal::OtherDisk),
        ] {
            for is_refused_first in [false, true] {
                let mut members = Members::default();
                assert_eq!(members.greet(NODE, claim(7, 100)), Ok(()));
                if is_refused_first {
                    assert_eq!(members.greet(NODE, strange), Err(refusal));
                }
                members.admit(NODE);
                assert_eq!(members.greet(NODE, strange), Err(refusal));
                assert_eq!(members.greet(NODE, strange), Err(refusal));
                assert_eq!(members.greet(NODE, knowing(strange)), Ok(()));
                assert_eq!(members.greet(NODE, strange), Ok(()), "after a restart");
                assert_eq!(members.greet(NODE, blank(9)), Err(DiskRefusal::OtherDisk));
            }
        }
    }

    #[test]
    fn what_was_stored_is_loaded_and_damage_is_noticed() {
        // Goal: a restart forgets nothing, a crash in between leaves one or the other, no bytes are taken for a record that are none.
        let mut disk = SimulatedDisk::new();
        assert_eq!(
            Members::load(&mut disk).expect("nothing there"),
            Members::default()
        );
        let mut members = Members::default();
        for node in 1..4 {
            assert_eq!(
                members.greet(NodeNumber(node), claim(70 + u64::from(node), 5)),
                Ok(())
            );
        }
        assert_eq!(members.greet(NODE, blank(8)), Err(DiskRefusal::OtherDisk));
        members.admit(NodeNumber(3));
        assert!(members.take_changed() && !members.take_changed());
        members.store(&mut disk).expect("stored");
        disk.crash(&mut Random::new(3));
        assert_eq!(Members::load(&mut disk).expect("loaded"), members);
        let bytes = members.encode();
        assert_eq!((bytes.len(), crc32c(&[&bytes])), (104, 0x9b29ff4c));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged).is_err(), "bit {bit}");
        }
        for size in 0..bytes.len() {
            assert!(decode(&bytes[..size]).is_err(), "{size} bytes");
        }
    }
}
