//! The policy of an inode in one byte: there are millions of them.
//!
//! | bits | what |
//! | ---: | --- |
//! | 0-2 | logarithm of the block size, less that of the smallest |
//! | 3-5 | copies of a block; 0: as many as the cluster keeps |
//! | 6-7 | how nodes are chosen: 0 ring, 1 round robin, 2 least used |
//!
//! Invariant: a byte in a state is one of a policy that was checked.

use bark_schema::ids::{BlockId, InodeId};
use bark_schema::limits::{BLOCK_SIZE_MAX, BLOCK_SIZE_MIN, POLICY_REPLICAS_MAX};
use bark_schema::operation::{Failure, Refusal};
use bark_schema::policy::{Allocate, Policy, PolicyChange};

use super::codec::{Reader, Row, Sink, row_struct};
use super::extent::ExtentRow;
use super::{Error, State};

// In steps and recorded answers.
row_struct!(Policy {
    block_size,
    replicas,
    allocate
});
row_struct!(PolicyChange {
    block_size,
    replicas,
    allocate
});

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PolicyByte(u8);

const SIZE_BITS: u32 = 3;
const REPLICAS_BITS: u32 = 3;
const SIZE_LOG2_MIN: u32 = BLOCK_SIZE_MIN.ilog2();
const SIZE_LOG2_MAX: u32 = BLOCK_SIZE_MAX.ilog2();

const _: () = assert!(SIZE_LOG2_MAX - SIZE_LOG2_MIN < 1 << SIZE_BITS);
const _: () = assert!(POLICY_REPLICAS_MAX < 1 << REPLICAS_BITS);

impl PolicyByte {
    /// Panics: if the policy was not checked (a bug, never input).
    pub(crate) fn new(policy: Policy) -> PolicyByte {
        let size_log2 = policy.block_size.checked_ilog2().unwrap_or(0);
        assert!(
            (SIZE_LOG2_MIN..=SIZE_LOG2_MAX).contains(&size_log2) && policy.replicas <= POLICY_REPLICAS_MAX,
            "a policy is checked before it is kept"
        );
        let allocate = u32::from(number_of(policy.allocate));
        let size = size_log2 - SIZE_LOG2_MIN;
        PolicyByte((allocate << (SIZE_BITS + REPLICAS_BITS) | policy.replicas << SIZE_BITS | size) as u8)
    }

    pub(crate) fn policy(self) -> Policy {
        let bits = u32::from(self.0);
        Policy {
            block_size: 1 << (SIZE_LOG2_MIN + (bits & ((1 << SIZE_BITS) - 1))),
            replicas: bits >> SIZE_BITS & ((1 << REPLICAS_BITS) - 1),
            allocate: match bits >> (SIZE_BITS + REPLICAS_BITS) {
                0 => Allocate::Ring,
                1 => Allocate::RoundRobin,
                // No byte with 3 is read.
                _ => Allocate::LeastUsed,
            },
        }
    }
}

impl Row for PolicyByte {
    fn encode<S: Sink>(&self, sink: &mut S) {
        self.0.encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        let byte = PolicyByte(u8::decode(reader)?);
        let is_known = u32::from(byte.0) >> (SIZE_BITS + REPLICAS_BITS) <= 2;
        let policy = byte.policy();
        if !is_known || policy.block_size as usize > BLOCK_SIZE_MAX {
            return Err(Error::Corrupt("an inode with a policy nobody can set"));
        }
        Ok(byte)
    }
}

fn number_of(allocate: Allocate) -> u8 {
    match allocate {
        Allocate::Ring => 0,
        Allocate::RoundRobin => 1,
        Allocate::LeastUsed => 2,
    }
}

impl Row for Allocate {
    fn encode<S: Sink>(&self, sink: &mut S) {
        number_of(*self).encode(sink);
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, Error> {
        match u8::decode(reader)? {
            0 => Ok(Allocate::Ring),
            1 => Ok(Allocate::RoundRobin),
            2 => Ok(Allocate::LeastUsed),
            _ => Err(Error::Corrupt("an allocation of unknown kind")),
        }
    }
}

impl State {
    /// Errors: `Conflict` if the directory's policy is another one by now.
    pub(super) fn check_policy_is(&self, directory: InodeId, policy: Policy) -> Result<(), Failure> {
        match self.policy_of(directory)? == policy {
            true => Ok(()),
            false => Err(Failure::refused(
                Refusal::Conflict,
                "the directory's policy changed meanwhile",
            )),
        }
    }

    /// Blocks in use with the policies of the files that point into them; some more than once.
    pub fn block_policies(&self) -> impl Iterator<Item = (BlockId, Policy)> {
        self.extents.iter().filter_map(|((inode, _), row)| match row {
            ExtentRow::Block { block, .. } => Some((*block, self.policy_of(*inode).ok()?)),
            ExtentRow::Patch { .. } => None,
        })
    }

    pub(super) fn policy_of(&self, inode: InodeId) -> Result<Policy, Failure> {
        Ok(self.inode(inode)?.policy.policy())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_fits_its_byte_and_no_other_byte_is_read() {
        // Goal: nothing is lost in the packing, and damaged bytes are found. Method: every policy there is, every byte.
        let mut known = std::collections::BTreeSet::new();
        for size_log2 in SIZE_LOG2_MIN..=SIZE_LOG2_MAX {
            for replicas in 0..=POLICY_REPLICAS_MAX {
                for allocate in [Allocate::Ring, Allocate::RoundRobin, Allocate::LeastUsed] {
                    let policy = Policy {
                        block_size: 1 << size_log2,
                        replicas,
                        allocate,
                    };
                    let byte = PolicyByte::new(policy);
                    assert_eq!(byte.policy(), policy);
                    known.insert(byte.0);
                }
            }
        }
        assert_eq!(known.len(), 7 * 8 * 3);
        for byte in 0..=u8::MAX {
            let read = PolicyByte::decode(&mut Reader::new(&[byte]));
            assert_eq!(read.is_ok(), known.contains(&byte), "{byte:08b}");
        }
    }
}
