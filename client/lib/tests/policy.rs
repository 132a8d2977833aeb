//! Files are cut and placed as their policies say, also while nodes are away.

mod fake;

use std::collections::BTreeSet;
use std::time::Duration;

use bark_client::{Client, ClientConfig, ClusterPath, Source};
use bark_schema::ids::NodeNumber;
use bark_schema::limits::KIB;
use bark_schema::operation::{Content, Extent, Failure, NodeRequest, Refusal, Request};
use bark_schema::policy::{Allocate, PolicyChange};
use bytes::Bytes;

use crate::fake::{FakeCluster, Fault};

async fn connected(cluster: &FakeCluster) -> Client {
    let nodes = Source::Nodes(cluster.addresses.clone());
    Client::connect(ClientConfig::new(nodes))
        .await
        .expect("connected")
}

fn path(text: &str) -> ClusterPath {
    text.parse().expect("a path")
}

fn pattern(size: usize) -> Bytes {
    (0..size).map(|index| ((index / 251) ^ index) as u8).collect()
}

fn policy(allocate: Allocate, replicas: u32) -> PolicyChange {
    PolicyChange {
        block_size: Some(64 * KIB as u32),
        replicas: Some(replicas),
        allocate: Some(allocate),
    }
}

/// A directory `/d` with a policy.
async fn directory(client: &Client, change: PolicyChange) {
    let files = client.files();
    files.make_directory(&path("/d"), 0o755).await.unwrap();
    files.set_policy(&path("/d"), change).await.unwrap();
}

async fn extents(client: &Client, file: &str) -> Vec<Extent> {
    let (_, content) = client.files().layout(&path(file), 0, u64::MAX).await.unwrap();
    match content {
        Content::Mapped(map) => map.extents,
        Content::Inline(bytes) => panic!("{file} is inline: {} bytes", bytes.len()),
    }
}

/// A node that neither stores nor gives out blocks.
fn without(cluster: &FakeCluster, away: NodeNumber) {
    cluster.script(move |node, request| match request {
        Request::Node(NodeRequest::BlockPut { replicas, .. }) if node == away || replicas.contains(&away) => {
            Fault::Fail(Failure::Busy(format!("{away} cannot be reached")))
        }
        Request::Node(NodeRequest::BlockGet { .. }) if node == away => {
            Fault::Fail(Failure::Busy(format!("{away} cannot be reached")))
        }
        _ => Fault::None,
    });
}

#[tokio::test]
async fn files_are_cut_and_placed_as_their_directory_says() {
    // Goal: block size, copies and allocation reach the blocks, of files written at once and in pieces. Method: six
    // blocks in turn on three nodes; and two copies of each.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    let files = client.files();
    directory(&client, policy(Allocate::RoundRobin, 1)).await;
    let content = pattern(350 * KIB);
    files.write(&path("/d/single"), content.clone()).await.unwrap();
    let found = extents(&client, "/d/single").await;
    let lengths: Vec<u32> = found.iter().map(|extent| extent.length).collect();
    assert_eq!(lengths, [65_536, 65_536, 65_536, 65_536, 65_536, 30_720]);
    for three in found.chunks(3) {
        let nodes: BTreeSet<NodeNumber> = three.iter().flat_map(|extent| extent.nodes.clone()).collect();
        assert_eq!(nodes.len(), 3, "{three:?}");
    }
    assert!(files.read_to_end(&path("/d/single")).await.unwrap() == content);

    files
        .set_policy(&path("/d"), policy(Allocate::RoundRobin, 2))
        .await
        .unwrap();
    let mut reader = std::io::Cursor::new(content.clone());
    files
        .write_from(&path("/d/double"), 0o644, &mut reader)
        .await
        .unwrap();
    for extent in extents(&client, "/d/double").await {
        assert_eq!(
            (extent.nodes.len(), extent.block_size.min(65_536)),
            (2, extent.block_size)
        );
    }
    assert!(files.read_to_end(&path("/d/double")).await.unwrap() == content);

    // What is there keeps its own, also when its content is replaced or added to.
    files.write(&path("/d/single"), pattern(100 * KIB)).await.unwrap();
    files
        .append(&path("/d/single"), pattern(100 * KIB))
        .await
        .unwrap();
    assert!(
        extents(&client, "/d/single")
            .await
            .iter()
            .all(|extent| extent.nodes.len() == 1)
    );
}

#[tokio::test]
async fn the_emptiest_nodes_get_blocks_of_least_used() {
    // Goal: what nodes tell of themselves decides. Method: two nodes have blocks, the third gets those that follow.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    directory(&client, policy(Allocate::Ring, 2)).await;
    without(&cluster, NodeNumber(3));
    client
        .files()
        .write(&path("/d/before"), pattern(640 * KIB))
        .await
        .unwrap();
    cluster.script(|_, _| Fault::None);
    client
        .files()
        .set_policy(&path("/d"), policy(Allocate::LeastUsed, 1))
        .await
        .unwrap();
    client
        .files()
        .write(&path("/d/after"), pattern(320 * KIB))
        .await
        .unwrap();
    for extent in extents(&client, "/d/after").await {
        assert_eq!(extent.nodes, [NodeNumber(3)]);
    }
}

#[tokio::test]
async fn a_node_that_is_away_keeps_nobody_from_writing() {
    // Goal: few copies need not be on the node that is away. Method: each number of copies with one node of three away.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    directory(&client, policy(Allocate::Ring, 1)).await;
    without(&cluster, NodeNumber(2));
    for (replicas, allocate) in [
        (1, Allocate::Ring),
        (2, Allocate::Ring),
        (1, Allocate::RoundRobin),
        (2, Allocate::LeastUsed),
    ] {
        client
            .files()
            .set_policy(&path("/d"), policy(allocate, replicas))
            .await
            .unwrap();
        let file = format!("/d/{replicas}-{allocate:?}");
        let content = pattern(400 * KIB);
        client.files().write(&path(&file), content.clone()).await.unwrap();
        for extent in extents(&client, &file).await {
            assert_eq!(extent.nodes.len(), replicas as usize);
            assert!(!extent.nodes.contains(&NodeNumber(2)));
        }
        assert!(client.files().read_to_end(&path(&file)).await.unwrap() == content);
    }
}

#[tokio::test]
async fn the_only_copy_is_waited_for_while_its_node_is_away() {
    // Goal: nobody takes "not here" of nodes that never had a block for "it is gone". Method: the node with the only copy
    // fails twice and is back.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    directory(&client, policy(Allocate::Ring, 1)).await;
    let content = pattern(60 * KIB);
    client
        .files()
        .write(&path("/d/f"), content.clone())
        .await
        .unwrap();
    let holder = extents(&client, "/d/f").await[0].nodes[0];
    let mut failures = 2;
    cluster.script(move |node, request| match request {
        Request::Node(NodeRequest::BlockGet { .. }) if node == holder && failures > 0 => {
            failures -= 1;
            Fault::Fail(Failure::Busy(format!("{holder} cannot be reached")))
        }
        _ => Fault::None,
    });
    assert!(client.files().read_to_end(&path("/d/f")).await.unwrap() == content);
}

#[tokio::test]
async fn a_node_that_lets_readers_wait_gets_company() {
    // Goal: a stalled disk holds nobody up for long. Method: each of three nodes in turn answers everything but reads of
    // blocks; many read at once.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    let content = pattern(60 * KIB);
    client.files().write(&path("/f"), content.clone()).await.unwrap();
    for stalled in (1..=3).map(NodeNumber) {
        cluster.script(move |node, request| match request {
            Request::Node(NodeRequest::BlockGet { .. }) if node == stalled => Fault::Never,
            _ => Fault::None,
        });
        let target = path("/f");
        let files = client.files();
        let reads = (0..50).map(|_| files.read_to_end(&target));
        let read = tokio::time::timeout(Duration::from_secs(5), futures::future::join_all(reads));
        for read in read.await.expect("from another node") {
            assert!(read.unwrap() == content);
        }
    }
}

#[tokio::test]
async fn wrong_policies_are_refused_with_what_is_allowed() {
    // Goal: clear errors. Method: a size that is none, a file, a missing path.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    let files = client.files();
    files.write(&path("/f"), Bytes::new()).await.unwrap();
    let size = |size| PolicyChange {
        block_size: Some(size),
        ..PolicyChange::default()
    };
    for wrong in [0, 100_000] {
        let refused = files.set_policy(&path("/"), size(wrong)).await.unwrap_err();
        assert!(refused.to_string().contains("from 65536 to 4194304"), "{refused}");
    }
    let refused = files.set_policy(&path("/f"), size(65_536)).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Refusal::NotDirectory));
    let missing = files
        .set_policy(&path("/missing"), size(65_536))
        .await
        .unwrap_err();
    assert!(missing.is_not_found());
}
