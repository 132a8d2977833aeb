//! Where things live: which partition, on which nodes.
//!
//! Every node and every client computes this by itself, so all must compute the same, for ever: a changed
//! function would look for old data in the wrong place. `placement-vectors.json` pins the results.
//!
//! The hash is FNV-1a with 64 bits (offset basis 0xcbf29ce484222325, prime 0x100000001b3), followed by the
//! finaliser of SplitMix64, because FNV alone leaves the upper bits of short inputs nearly constant and
//! the ring is ordered by them. A number is reduced to a range by the upper half of a 128-bit product.
//! Numbers enter a hash little-endian, and a one-byte tag in front keeps the uses of the hash apart.
//!
//! A node has `vnodes` points on the ring, derived from its id and not from its number or address. The
//! replicas of something are the first nodes clockwise from its point: first one for each zone, then the
//! rest in ring order. Partitions are few, so leaders are not left to chance: see [`Ring::partition_replicas`].
//!
//! Blocks of files with a policy ([`crate::policy`]) may go elsewhere: next in turn, or where there is most room. Those
//! places are chosen once and recorded with the block, never computed again, so they may be chosen otherwise tomorrow.
//!
//! Invariants:
//! - No result depends on the order of nodes in the input, on time or on the platform.
//! - The replicas of one thing are distinct nodes, and distinct zones while there are enough.
//! - The order of a partition's replicas is the order in which they are preferred as leader.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{BlockId, InodeId, NodeNumber, PartitionId};
use crate::mix::mix;

const TAG_KEY: u8 = b'k';
const TAG_DIRECTORY: u8 = b'd';
const TAG_VNODE: u8 = b'v';
const TAG_PARTITION: u8 = b'p';
const TAG_BLOCK: u8 = b'b';
const TAG_MAP: u8 = b'm';
const TAG_READ: u8 = b'r';

/// The node among `nodes` that whoever reads the block asks first. The nodes with its other copies need not keep it in
/// memory. Blocks spread evenly, and when a node goes the others keep theirs.
pub fn first_reader(block: BlockId, nodes: &[NodeNumber]) -> Option<NodeNumber> {
    let block = Hasher::new(TAG_READ).number(block.client.0).number(block.counter);
    let weight = |node: &NodeNumber| (block.number(u64::from(node.0)).finish(), *node);
    nodes.iter().copied().max_by_key(weight)
}

/// The frozen hash, fed in pieces: what counts is the concatenation.
#[derive(Clone, Copy, Debug)]
pub struct Hasher(u64);

impl Hasher {
    pub fn new(tag: u8) -> Hasher {
        Hasher(0xcbf2_9ce4_8422_2325).bytes(&[tag])
    }

    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Hasher {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        self
    }

    #[must_use]
    pub fn number(self, number: u64) -> Hasher {
        self.bytes(&number.to_le_bytes())
    }

    /// Bytes whose end must be told from what follows.
    #[must_use]
    pub fn text(self, text: &str) -> Hasher {
        self.number(text.len() as u64).bytes(text.as_bytes())
    }

    pub fn finish(self) -> u64 {
        mix(self.0)
    }
}

/// Reduces a hash to `0..count`. `count` is at least 1.
fn reduce(hash: u64, count: u16) -> u16 {
    ((u128::from(hash) * u128::from(count)) >> 64) as u16
}

/// The partition of a key. As with Redis, of a key with a `{tag}` that is not empty only the tag counts,
/// so that users can keep keys together.
pub fn partition_of_key(key: &[u8], partition_count: u16) -> PartitionId {
    let hash = Hasher::new(TAG_KEY).bytes(hash_tag(key)).finish();
    PartitionId(reduce(hash, partition_count))
}

fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|byte| *byte == b'{') else {
        return key;
    };
    let inside = &key[open + 1..];
    match inside.iter().position(|byte| *byte == b'}') {
        Some(length) if length > 0 => &inside[..length],
        _ => key,
    }
}

pub fn partition_of_inode(inode: InodeId) -> PartitionId {
    inode.home()
}

/// Where a new directory is born: spread by parent and name.
pub fn partition_of_new_directory(parent: InodeId, name: &[u8], partition_count: u16) -> PartitionId {
    let hash = Hasher::new(TAG_DIRECTORY).number(parent.0).bytes(name).finish();
    PartitionId(reduce(hash, partition_count))
}

/// What a node has room for, as it told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeUse {
    /// 0: not known.
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Of the blocks it stores.
    pub block_bytes: u64,
}

/// Parts of ten thousand by which the use of two disks may differ without meaning anything: one percent.
const DISK_SHARES_ALIKE: u64 = 100;

impl NodeUse {
    /// Parts of ten thousand of its disk that are in use.
    fn share(&self) -> u64 {
        let used = self.total_bytes.saturating_sub(self.free_bytes);
        (u128::from(used) * 10_000 / u128::from(self.total_bytes.max(1))) as u64
    }

    /// Bytes of a block went there since.
    pub fn add(&mut self, bytes: u64) {
        self.block_bytes = self.block_bytes.saturating_add(bytes);
        self.free_bytes = self.free_bytes.saturating_sub(bytes);
    }
}

/// The nodes on a circle of hashes.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Points with the index of their node, in order.
    points: Vec<(u64, u16)>,
    nodes: Vec<RingNode>,
}

#[derive(Clone, Debug)]
struct RingNode {
    number: NodeNumber,
    zone: String,
}

impl Ring {
    /// Nodes as (number, id, zone). An empty zone is a zone of the node's own.
    pub fn new(nodes: &[(NodeNumber, &str, &str)], vnodes: u32) -> Ring {
        let mut sorted = nodes.to_vec();
        sorted.sort_by_key(|(number, _, _)| *number);
        let mut points = Vec::with_capacity(sorted.len() * vnodes as usize);
        for (index, (_, id, _)) in sorted.iter().enumerate() {
            for vnode in 0..u64::from(vnodes) {
                let hash = Hasher::new(TAG_VNODE).text(id).number(vnode).finish();
                points.push((hash, index as u16));
            }
        }
        points.sort_unstable();
        let nodes = sorted.iter().map(|(number, id, zone)| RingNode {
            number: *number,
            zone: if zone.is_empty() {
                format!("node {id}")
            } else {
                format!("zone {zone}")
            },
        });
        Ring {
            points,
            nodes: nodes.collect(),
        }
    }

    /// The members of a partition's Raft group, the preferred leader first. Fewer than `replicas` only if
    /// there are fewer nodes.
    ///
    /// The members come off the ring; then the first place rotates through them, by number, with the
    /// partition's number. That needs no knowledge of the other partitions and is even to one when every
    /// node holds every partition, which chance would not be with 16 partitions.
    pub fn partition_replicas(&self, partition: PartitionId, replicas: usize) -> Vec<NodeNumber> {
        let hash = Hasher::new(TAG_PARTITION).number(u64::from(partition.0)).finish();
        let mut members = self.clockwise(hash, replicas);
        members.sort_unstable();
        if !members.is_empty() {
            let first = usize::from(partition.0) % members.len();
            members.rotate_left(first);
        }
        members
    }

    /// Where a block's copies go, in the order in which they are tried. The first of more are the same.
    pub fn block_replicas(&self, block: BlockId, replicas: usize) -> Vec<NodeNumber> {
        let hash = Hasher::new(TAG_BLOCK)
            .number(block.client.0)
            .number(block.counter)
            .finish();
        self.clockwise(hash, replicas)
    }

    /// All nodes from the one whose turn it is: one further with every turn, zones apart as far as they go.
    pub fn in_turn(&self, turn: u64) -> Vec<NodeNumber> {
        let count = self.nodes.len();
        let first = turn.checked_rem(count as u64).unwrap_or(0) as usize;
        self.apart((first..count).chain(0..first), count)
    }

    /// All nodes, those with the smallest part of their disk in use first. Where disks are alike, which is within
    /// DISK_SHARES_ALIKE, it is the node with the fewest bytes of blocks, as on nodes that share a disk. Nodes nothing is
    /// known of come last, and what is still undecided is left to the ring.
    pub fn by_use(&self, block: BlockId, uses: &BTreeMap<NodeNumber, NodeUse>) -> Vec<NodeNumber> {
        let count = self.nodes.len();
        let known = |number: &NodeNumber| uses.get(number).filter(|known| known.total_bytes > 0);
        let least = uses.values().filter(|known| known.total_bytes > 0);
        let alike = least.map(NodeUse::share).min().unwrap_or(0) + DISK_SHARES_ALIKE;
        let mut order = self.block_replicas(block, count);
        // Stable: what is equal stays as the ring has it.
        order.sort_by_key(|number| match known(number) {
            Some(known) if known.share() <= alike => (0, known.block_bytes),
            Some(known) => (1, known.share()),
            None => (2, 0),
        });
        let index = |number: &NodeNumber| self.nodes.iter().position(|node| node.number == *number);
        self.apart(order.iter().filter_map(index), count)
    }

    fn clockwise(&self, hash: u64, replicas: usize) -> Vec<NodeNumber> {
        let start = self.points.partition_point(|(point, _)| *point < hash);
        let (before, after) = self.points.split_at(start);
        let indexes = after.iter().chain(before).map(|(_, index)| usize::from(*index));
        self.apart(indexes, replicas)
    }

    /// The first nodes of an order: first one for each zone, then the rest.
    fn apart(&self, order: impl Iterator<Item = usize>, replicas: usize) -> Vec<NodeNumber> {
        let wanted = replicas.min(self.nodes.len());
        let mut seen = BTreeSet::new();
        let mut zones = BTreeSet::new();
        let (mut chosen, mut spare) = (Vec::new(), Vec::new());
        for index in order {
            if chosen.len() == wanted || seen.len() == self.nodes.len() {
                break;
            }
            if seen.insert(index) {
                let node = &self.nodes[index];
                let list = if zones.insert(&node.zone) {
                    &mut chosen
                } else {
                    &mut spare
                };
                list.push(node.number);
            }
        }
        chosen.extend(spare);
        chosen.truncate(wanted);
        chosen
    }
}

/// What all members must agree on, in one number: compared when two nodes meet.
/// Addresses are not part of it: a node may move.
pub fn map_digest(
    cluster: &str,
    nodes: &[(NodeNumber, &str, &str)],
    replicas: u16,
    partition_count: u16,
    vnodes: u32,
) -> u64 {
    let by_number: BTreeMap<_, _> = nodes
        .iter()
        .map(|(number, id, zone)| (*number, (*id, *zone)))
        .collect();
    let mut hasher = Hasher::new(TAG_MAP)
        .text(cluster)
        .number(u64::from(replicas))
        .number(u64::from(partition_count))
        .number(u64::from(vnodes))
        .number(by_number.len() as u64);
    for (number, (id, zone)) in by_number {
        hasher = hasher.number(u64::from(number.0)).text(id).text(zone);
    }
    hasher.finish()
}
