//! Policies: how the blocks of files are cut and where their copies go, said of a directory.
//!
//! Every inode has one. It is born with its directory's, and keeps it wherever it is moved; a directory's may be
//! changed, and then counts for what is made in it from that moment on. Policies are about blocks alone: names,
//! attributes, small files and small writes are in the log of their partition, on as many nodes as the cluster keeps.
//!
//! Invariant: no policy that was checked has a block size or a number of copies outside the limits.

use crate::failure::{Failure, Refusal};
use crate::limits::{BLOCK_SIZE_DEFAULT, BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, POLICY_REPLICAS_MAX};

/// How the nodes for a block are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allocate {
    /// By the block's place on the ring: even over many blocks, and the same whoever asks.
    #[default]
    Ring,
    /// The next ones in turn: what one client writes is even from block to block.
    RoundRobin,
    /// Those that have used the smallest part of their disks.
    LeastUsed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Policy {
    /// A power of two from BLOCK_SIZE_MIN to BLOCK_SIZE_MAX.
    pub block_size: u32,
    /// Copies of each block; 0: as many as the cluster keeps.
    pub replicas: u32,
    pub allocate: Allocate,
}

/// What is said of a policy: the rest stays as it is, or as the directory has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// Not 0.
    pub block_size: Option<u32>,
    pub replicas: Option<u32>,
    pub allocate: Option<Allocate>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            block_size: BLOCK_SIZE_DEFAULT as u32,
            replicas: 0,
            allocate: Allocate::Ring,
        }
    }
}

impl Policy {
    #[must_use]
    pub fn changed(self, change: &PolicyChange) -> Policy {
        Policy {
            block_size: change.block_size.unwrap_or(self.block_size),
            replicas: change.replicas.unwrap_or(self.replicas),
            allocate: change.allocate.unwrap_or(self.allocate),
        }
    }

    /// The change that makes any policy this one.
    pub fn in_full(self) -> PolicyChange {
        PolicyChange {
            block_size: Some(self.block_size),
            replicas: Some(self.replicas),
            allocate: Some(self.allocate),
        }
    }

    /// What blocks are cut to. Whatever a node told, it is a size blocks can have.
    pub fn cut_size(&self) -> usize {
        match is_block_size(self.block_size) {
            true => self.block_size as usize,
            false => BLOCK_SIZE_DEFAULT,
        }
    }

    /// Copies of a block in a cluster that keeps so many of what has no policy.
    pub fn copies(&self, replicas: usize) -> usize {
        match self.replicas {
            0 => replicas,
            copies => copies.min(POLICY_REPLICAS_MAX) as usize,
        }
    }
}

impl PolicyChange {
    pub fn is_empty(&self) -> bool {
        *self == PolicyChange::default()
    }

    /// Errors: `InvalidArgument` with what is allowed.
    pub fn check(&self) -> Result<(), Failure> {
        if let Some(size) = self.block_size.filter(|size| !is_block_size(*size)) {
            return invalid(format!(
                "block size {size} is not a power of two from {BLOCK_SIZE_MIN} to {BLOCK_SIZE_MAX}"
            ));
        }
        if let Some(replicas) = self.replicas.filter(|replicas| *replicas > POLICY_REPLICAS_MAX) {
            return invalid(format!(
                "{replicas} copies are too many: 1 to {POLICY_REPLICAS_MAX}, or 0 for as many as the cluster keeps"
            ));
        }
        Ok(())
    }

    /// The same, for a cluster of so many nodes.
    pub fn check_nodes(&self, nodes: usize) -> Result<(), Failure> {
        self.check()?;
        match self.replicas {
            Some(replicas) if replicas as usize > nodes => invalid(format!(
                "{replicas} copies need as many nodes and there are {nodes}: 1 to {nodes}, or 0 for as many as the cluster keeps"
            )),
            _ => Ok(()),
        }
    }
}

fn is_block_size(size: u32) -> bool {
    size.is_power_of_two() && (BLOCK_SIZE_MIN as u32..=BLOCK_SIZE_MAX as u32).contains(&size)
}

fn invalid(sentence: String) -> Result<(), Failure> {
    Err(Failure::refused(Refusal::InvalidArgument, sentence))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_outside_the_limits_are_refused_with_what_is_allowed() {
        // Goal: a wrong number never gets further, and the answer helps. Method: a table of both sides of each limit.
        let size = |size| PolicyChange {
            block_size: Some(size),
            ..PolicyChange::default()
        };
        let copies = |replicas| PolicyChange {
            replicas: Some(replicas),
            ..PolicyChange::default()
        };
        for sound in [size(65_536), size(1 << 22), copies(0), copies(1), copies(3)] {
            assert_eq!(sound.check_nodes(3), Ok(()), "{sound:?}");
        }
        for (faulty, allowed) in [
            (size(0), "from 65536 to 4194304"),
            (size(32_768), "from 65536 to 4194304"),
            (size(100_000), "power of two"),
            (size(1 << 23), "from 65536 to 4194304"),
            (copies(4), "1 to 3"),
            (copies(8), "1 to 7"),
            (copies(u32::MAX), "1 to 7"),
        ] {
            match faulty.check_nodes(3) {
                Err(Failure::Refused(Refusal::InvalidArgument, sentence)) => {
                    assert!(sentence.contains(allowed), "{faulty:?}: {sentence}");
                }
                other => panic!("{faulty:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_is_not_said_stays() {
        // Goal: setting one thing leaves the others alone. Method: one change after the other.
        let small = PolicyChange {
            block_size: Some(65_536),
            ..PolicyChange::default()
        };
        let single = PolicyChange {
            replicas: Some(1),
            ..PolicyChange::default()
        };
        let policy = Policy::default().changed(&small).changed(&single);
        assert_eq!((policy.cut_size(), policy.copies(3)), (65_536, 1));
        assert_eq!(Policy::default().changed(&policy.in_full()), policy);
        assert_eq!(Policy::default().copies(3), 3);
    }
}
