//! Placement is frozen and even.
//!
//! `placement-vectors.json` holds results that must never change; other clients test against it too.
//! There is no way to regenerate it: a difference is a bug in the code.

use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::placement::{
    Hasher, NodeUse, Ring, map_digest, partition_of_inode, partition_of_key, partition_of_new_directory,
};
use serde_json::{Value, json};

const NODES: [(NodeNumber, &str, &str); 5] = [
    (NodeNumber(1), "node-1", "a"),
    (NodeNumber(2), "node-2", "a"),
    (NodeNumber(3), "node-3", "b"),
    (NodeNumber(4), "node-4", "b"),
    (NodeNumber(5), "node-5", "c"),
];
const KEYS: [&str; 8] = [
    "",
    "a",
    "b",
    "user:1",
    "{user:1}:name",
    "user:{}:1",
    "{open",
    "{a}{b}",
];

const DIRECTORIES: [&str; 3] = ["a", "b", "home"];

fn block(counter: u64) -> BlockId {
    BlockId {
        client: ClientId(0x0123_4567_89ab_cdef),
        counter,
    }
}

fn numbers(nodes: &[NodeNumber]) -> Vec<u16> {
    nodes.iter().map(|node| node.0).collect()
}

/// 64-bit numbers are hexadecimal text, since many JSON readers lose their lower bits.
fn vectors() -> Value {
    let ring = Ring::new(&NODES, 128);
    let hash = |text: &str| format!("{:016x}", Hasher::new(b'k').bytes(text.as_bytes()).finish());
    let key = |key: &&str| {
        json!({
            "key": key, "hash": hash(key),
            "partition_of_16": partition_of_key(key.as_bytes(), 16).0,
            "partition_of_65535": partition_of_key(key.as_bytes(), 65535).0,
        })
    };
    let directory = |name: &&str| {
        json!({
            "parent": 1, "name": name,
            "partition_of_16": partition_of_new_directory(InodeId::ROOT, name.as_bytes(), 16).0,
        })
    };
    json!({
        "keys": KEYS.iter().map(key).collect::<Vec<_>>(),
        "directories": DIRECTORIES.iter().map(directory).collect::<Vec<_>>(),
        "nodes": NODES.iter().map(|(number, id, zone)| json!([number.0, id, zone])).collect::<Vec<_>>(),
        "vnodes": 128,
        "partitions_of_3_replicas": (0..16)
            .map(|partition| numbers(&ring.partition_replicas(PartitionId(partition), 3)))
            .collect::<Vec<_>>(),
        "block_client": "0123456789abcdef",
        "blocks_of_3_replicas": (0..16)
            .map(|counter| numbers(&ring.block_replicas(block(counter), 3)))
            .collect::<Vec<_>>(),
        "map_digest_of_dev_3_16_128": format!("{:016x}", map_digest("dev", &NODES, 3, 16, 128)),
    })
}

#[test]
fn placement_never_changes() {
    // Goal: data stays where it is looked for. Method: compare with the committed results.
    let frozen: Value = serde_json::from_str(include_str!("../placement-vectors.json")).expect("valid JSON");
    let now = vectors();
    assert_eq!(now, frozen, "{now:#}");
}

#[test]
fn tagged_keys_stay_together() {
    // Goal: Redis's rule. Method: its documented cases.
    let partition = |key: &str| partition_of_key(key.as_bytes(), 65535);
    assert_eq!(partition("{user}.a"), partition("{user}.b"));
    assert_eq!(partition("x{user}"), partition("user"));
    assert_ne!(partition("{}a"), partition("{}b"));
    assert_ne!(partition("{a"), partition("{b"));
    assert_eq!(partition("{a}{b}"), partition("a"));
}

#[test]
fn leaders_and_keys_are_spread_evenly() {
    // Goal: no node has much more than its share. Method: count over the usual sizes of cluster.
    for node_count in 3..=5usize {
        let ring = Ring::new(&NODES.map(|(number, id, _)| (number, id, ""))[..node_count], 128);
        let mut leaders = vec![0; node_count];
        for partition in 0..16 {
            let replicas = ring.partition_replicas(PartitionId(partition), 3);
            leaders[usize::from(replicas[0].0) - 1] += 1;
        }
        let share = 16 / node_count;
        assert!(
            leaders.iter().all(|count| *count >= 1 && *count <= 2 * share),
            "{leaders:?}"
        );
        if node_count == 3 {
            assert!(leaders.iter().all(|count| (5..=6).contains(count)), "{leaders:?}");
        }
        let mut blocks = vec![0u32; node_count];
        for counter in 0..10_000 {
            blocks[usize::from(ring.block_replicas(block(counter), 1)[0].0) - 1] += 1;
        }
        let fair = 10_000 / node_count as u32;
        assert!(
            blocks
                .iter()
                .all(|count| *count > fair * 3 / 5 && *count < fair * 8 / 5),
            "{blocks:?}"
        );
    }
    let mut keys = [0u32; 16];
    for number in 0..16_000 {
        keys[usize::from(partition_of_key(format!("key:{number}").as_bytes(), 16).0)] += 1;
    }
    assert!(keys.iter().all(|count| (850..1150).contains(count)), "{keys:?}");
}

#[test]
fn replicas_are_distinct_and_prefer_other_zones() {
    // Goal: a zone may fail. Method: every partition and many blocks, for every number of replicas.
    let ring = Ring::new(&NODES, 128);
    let mut reversed = NODES;
    reversed.reverse();
    let same = Ring::new(&reversed, 128);
    let zone = |node: &NodeNumber| NODES[usize::from(node.0) - 1].2;
    for counter in 0..500u16 {
        for replicas in 0..=7usize {
            let partition = PartitionId(counter);
            let members = ring.partition_replicas(partition, replicas);
            assert_eq!(members, same.partition_replicas(partition, replicas));
            for nodes in [members, ring.block_replicas(block(u64::from(counter)), replicas)] {
                let distinct: std::collections::BTreeSet<_> = nodes.iter().collect();
                let zones: std::collections::BTreeSet<_> = nodes.iter().map(zone).collect();
                assert_eq!((nodes.len(), distinct.len()), (replicas.min(5), replicas.min(5)));
                assert_eq!(zones.len(), replicas.min(3));
            }
        }
    }
    assert!(
        Ring::new(&[], 128)
            .partition_replicas(PartitionId(0), 3)
            .is_empty()
    );
}

#[test]
fn the_first_of_all_nodes_are_the_replicas() {
    // Goal: more nodes to fall back on change nothing for the first choice. Method: all against each smaller number.
    let ring = Ring::new(&NODES, 128);
    for counter in 0..200 {
        let all = ring.block_replicas(block(counter), NODES.len());
        for replicas in 0..=NODES.len() {
            assert_eq!(ring.block_replicas(block(counter), replicas), all[..replicas]);
        }
    }
}

#[test]
fn nodes_in_turn_are_even_and_in_different_zones() {
    // Goal: round robin deals blocks out evenly. Method: count the first nodes of full rounds; zones of the first three.
    let ring = Ring::new(&NODES, 128);
    let mut firsts = [0; 5];
    for turn in u64::MAX - 9..=u64::MAX {
        let order = ring.in_turn(turn);
        firsts[usize::from(order[0].0) - 1] += 1;
        let zones: std::collections::BTreeSet<_> = order[..3]
            .iter()
            .map(|node| NODES[usize::from(node.0) - 1].2)
            .collect();
        assert_eq!((order.len(), zones.len()), (5, 3));
    }
    assert_eq!(firsts, [2; 5]);
    assert_eq!(
        numbers(&Ring::new(&NODES.map(|(number, id, _)| (number, id, "")), 128).in_turn(7)),
        [3, 4, 5, 1, 2]
    );
    assert!(Ring::new(&[], 128).in_turn(7).is_empty());
}

#[test]
fn the_least_used_nodes_come_first() {
    // Goal: room on disks counts, then blocks where disks are alike, and nodes nobody heard of come last. Method: one
    // table of five nodes in zones of their own, then one zone for all but the emptiest.
    const GIB: u64 = 1 << 30;
    let disk = |total, free, blocks| NodeUse {
        total_bytes: total * GIB,
        free_bytes: free * GIB,
        block_bytes: blocks * GIB,
    };
    let mut uses = std::collections::BTreeMap::from([
        (NodeNumber(1), disk(1000, 500, 7)),
        (NodeNumber(2), disk(100, 50, 3)),
        (NodeNumber(3), disk(1000, 400, 1)),
        (NodeNumber(4), disk(1000, 495, 2)),
    ]);
    let alone = NODES.map(|(number, id, _)| (number, id, ""));
    let ring = Ring::new(&alone, 128);
    for counter in 0..20 {
        assert_eq!(numbers(&ring.by_use(block(counter), &uses)), [4, 2, 1, 3, 5]);
    }
    uses.entry(NodeNumber(4)).and_modify(|known| known.add(2 * GIB));
    assert_eq!(numbers(&ring.by_use(block(1), &uses)), [2, 4, 1, 3, 5]);
    // Not measured yet is not empty.
    uses.insert(NodeNumber(5), NodeUse::default());
    assert_eq!(ring.by_use(block(1), &uses)[4], NodeNumber(5));
    let nothing = std::collections::BTreeMap::new();
    assert_eq!(ring.by_use(block(1), &nothing), ring.block_replicas(block(1), 5));
    let zones = NODES.map(|(number, id, _)| (number, id, if number.0 == 3 { "b" } else { "a" }));
    assert_eq!(
        numbers(&Ring::new(&zones, 128).by_use(block(1), &uses)),
        [2, 3, 4, 1, 5]
    );
}

#[test]
fn the_digest_sees_every_part_but_not_the_order() {
    // Goal: nodes with different maps never meet as peers. Method: change one thing at a time.
    let digest = map_digest("dev", &NODES, 3, 16, 128);
    let mut reversed = NODES;
    reversed.reverse();
    assert_eq!(map_digest("dev", &reversed, 3, 16, 128), digest);
    let mut rezoned = NODES;
    rezoned[4].2 = "b";
    let mut renamed = NODES;
    renamed[0].1 = "node-1a";
    for other in [
        map_digest("dew", &NODES, 3, 16, 128),
        map_digest("dev", &NODES[..4], 3, 16, 128),
        map_digest("dev", &rezoned, 3, 16, 128),
        map_digest("dev", &renamed, 3, 16, 128),
        map_digest("dev", &NODES, 2, 16, 128),
        map_digest("dev", &NODES, 3, 17, 128),
        map_digest("dev", &NODES, 3, 16, 129),
    ] {
        assert_ne!(other, digest);
    }
    assert_eq!(
        partition_of_inode(InodeId::new(PartitionId(7), 9)),
        PartitionId(7)
    );
}
