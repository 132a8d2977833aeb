//! Any node serves; a leader that is gone is replaced.

use super::*;

#[test]
fn any_node_takes_writes_and_reads_them_back() {
    // Goal: forwarding, consensus and linearizable reads fit together. Method: write at one node, read at all.
    let mut cluster = Cluster::new(3);
    for partition in 0..PARTITIONS {
        for writer in 1..=3 {
            let text = format!("value-{partition}-{writer}");
            cluster
                .command(writer, partition, set("key", &text))
                .expect("a key is set");
            for reader in 1..=3 {
                let query = Query::KeyGet { key: bytes("key") };
                let read = cluster.ask(
                    reader,
                    Request::Query {
                        partition: PartitionId(partition),
                        query,
                    },
                );
                assert_eq!(value(read), Some(bytes(&text)));
            }
        }
    }
    (0..500).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn silent_leader_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("a", "1")).expect("set");
    cluster.node_1_leads();
    cluster.silent.insert(NodeNumber(1));
    let before = cluster.now.monotonic_us;
    cluster
        .command(2, 0, set("b", "2"))
        .expect("set without the first leader");
    assert!(
        cluster.now.monotonic_us - before < 2_000_000,
        "fail-over took too long"
    );
    let query = Query::KeyGet { key: bytes("a") };
    let read = cluster.ask(
        3,
        Request::Query {
            partition: PartitionId(0),
            query,
        },
    );
    assert_eq!(value(read), Some(bytes("1")));
    cluster.silent.clear();
    (0..2000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}
