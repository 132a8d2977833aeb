//! The client against a cluster that answers wrongly, late, twice and not at all.

mod fake;

use std::time::Duration;

use bark_client::{Client, ClientConfig, ClusterPath, Error, Source};
use bark_schema::limits::{INLINE_SIZE_MAX, MIB};
use bark_schema::operation::{Command, Failure, NodeRequest, Refusal, Request};
use bark_schema::policy::Policy;
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

/// Bytes that differ from block to block.
fn pattern(size: usize) -> Bytes {
    (0..size)
        .map(|index| ((index / 251) ^ index) as u8)
        .collect::<Vec<u8>>()
        .into()
}

#[tokio::test]
async fn one_answering_node_is_enough_to_connect() {
    // Goal: a cluster with nodes down can be used. Method: a dead address before a live one.
    let cluster = FakeCluster::start(1, 4).await;
    let dead = "127.0.0.1:1".to_string();
    let nodes = Source::Nodes(vec![dead.clone(), cluster.addresses[0].clone()]);
    let client = Client::connect(ClientConfig::new(nodes))
        .await
        .expect("connected");
    assert_eq!(client.welcome().cluster, "fake");
    let alone = Client::connect(ClientConfig::new(Source::Nodes(vec![dead]))).await;
    let sentence = alone.expect_err("nobody is there").to_string();
    assert!(sentence.contains("127.0.0.1:1"), "{sentence}");
}

#[tokio::test]
async fn nodes_of_another_cluster_are_not_taken_for_ours() {
    // Goal: a cluster file whose addresses another cluster has now opens nothing. Method: the same addresses under
    // the right name and under another.
    let cluster = FakeCluster::start(1, 4).await;
    let connect = async |name: &str| {
        let text = format!(
            "[cluster]\nname = \"{name}\"\nreplicas = 1\npartitions = 4\n\n[[node]]\nid = \"node-1\"\ncapnp = \"{}\"\nresp = \"127.0.0.1:1\"\nhttp = \"127.0.0.1:2\"\n",
            cluster.addresses[0]
        );
        let file = std::env::temp_dir().join(format!("bark-cluster-{name}-{}.toml", std::process::id()));
        std::fs::write(&file, text).expect("a cluster file");
        let connected = Client::connect(ClientConfig::new(Source::File(file.clone()))).await;
        std::fs::remove_file(file).expect("removed");
        connected
    };
    connect("fake").await.expect("connected");
    let sentence = connect("other").await.expect_err("another cluster").to_string();
    assert!(
        sentence.contains("a node of the cluster \"fake\", not of \"other\""),
        "{sentence}"
    );
}

#[tokio::test]
async fn keys_are_found_whichever_partition_they_live_in() {
    // Goal: every key operation reaches its partitions. Method: thirty keys over eight partitions and three nodes.
    let cluster = FakeCluster::start(3, 8).await;
    let keys = connected(&cluster).await.keys();
    let names: Vec<Bytes> = (0..30).map(|number| format!("key-{number:02}").into()).collect();
    for name in &names {
        assert!(keys.put(name, name.clone()).await.unwrap().applied);
    }
    assert_eq!(keys.get(b"key-07").await.unwrap().unwrap().value, "key-07");
    assert_eq!(keys.get(b"absent").await.unwrap(), None);
    assert_eq!(
        keys.exists(&[names[1].clone(), "absent".into()]).await.unwrap(),
        1
    );
    let values = keys.get_many(&names).await.unwrap();
    assert_eq!(values.into_iter().flatten().collect::<Vec<_>>(), names);
    assert_eq!(keys.increment(b"count", 5).await.unwrap(), 5);
    assert_eq!(keys.delete(&names[..10]).await.unwrap(), 10);
    let refused = keys.increment(b"key-20", 1).await.unwrap_err();
    assert_eq!(refused.refusal(), Some(Refusal::NotInteger));
}

#[tokio::test]
async fn increments_happen_exactly_once_under_faults() {
    // Goal: the sum is the number of acknowledged increments. Method: a third of the requests goes wrong in
    // every way a node can go wrong, 200 increments from eight tasks.
    let cluster = FakeCluster::start(3, 4).await;
    let mut turn = 0_u32;
    cluster.script(move |_, request| {
        turn = turn.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if !matches!(request, Request::Command { .. }) {
            return Fault::None;
        }
        match turn >> 16 & 31 {
            0 => Fault::Fail(Failure::NotLeader { leader: None }),
            1 => Fault::Fail(Failure::Busy("full".into())),
            2 => Fault::FailAfter(Failure::Unknown("lost leadership".into())),
            3 => Fault::DropAfter,
            4 => Fault::DropBefore,
            5 | 6 => Fault::AnswerTwice,
            7 => Fault::Delay(Duration::from_millis(2)),
            _ => Fault::None,
        }
    });
    let client = connected(&cluster).await;
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let keys = client.keys();
            tokio::spawn(async move {
                for _ in 0..25 {
                    keys.increment(b"counter", 1).await.expect("within the deadline");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
    cluster.script(|_, _| Fault::None);
    assert_eq!(client.keys().increment(b"counter", 0).await.unwrap(), 200);
}

#[tokio::test]
async fn silence_ends_unknown_for_changes_and_unavailable_for_reads() {
    // Goal: three outcomes reach the caller. Method: the node answers nothing but the login.
    let cluster = FakeCluster::start(1, 1).await;
    cluster.script(|_, _| Fault::Delay(Duration::from_secs(3600)));
    let mut config = ClientConfig::new(Source::Nodes(cluster.addresses.clone()));
    config.deadline = Duration::from_millis(200);
    let client = Client::connect(config).await.unwrap();
    let change = client.keys().put(b"key", "value").await;
    assert!(matches!(change, Err(Error::Unknown { .. })), "{change:?}");
    let read = client.keys().get(b"key").await;
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
}

#[tokio::test]
async fn files_of_every_size_come_back_as_written() {
    // Goal: inline, block and many-block files round-trip, new and over each other. Method: sizes round every edge.
    let cluster = FakeCluster::start(3, 8).await;
    let files = connected(&cluster).await.files();
    files.make_directories(&path("/a/b"), 0o755).await.unwrap();
    let file = path("/a/b/file");
    let sizes = [
        0,
        1,
        INLINE_SIZE_MAX,
        INLINE_SIZE_MAX + 1,
        MIB,
        MIB + 1,
        9 * MIB + 17,
        5,
        3 * MIB,
    ];
    for size in sizes {
        let content = pattern(size);
        files.write(&file, content.clone()).await.unwrap();
        assert_eq!(files.stat(&file).await.unwrap().size, size as u64);
        assert_eq!(files.read_to_end(&file).await.unwrap(), content, "size {size}");
    }
    let mut part = files.read(&file, MIB as u64 - 3..MIB as u64 + 4).await.unwrap();
    let mut bytes = Vec::new();
    part.copy_to(&mut bytes).await.unwrap();
    assert_eq!(bytes, pattern(3 * MIB)[MIB - 3..MIB + 4]);
    let left: Vec<String> = cluster.state.lock().unwrap().names();
    assert!(!left.iter().any(|name| name.starts_with(".bark-tmp")), "{left:?}");
}

#[tokio::test]
async fn truncated_and_extended_files_read_as_zeros_beyond_their_bytes() {
    // Goal: holes are zeros and ranges of inline files start where asked. Method: extend both kinds, read parts.
    let cluster = FakeCluster::start(3, 8).await;
    let files = connected(&cluster).await.files();
    for size in [100, 2 * MIB] {
        let file = path(&format!("/file-{size}"));
        files.write(&file, pattern(size)).await.unwrap();
        files.truncate(&file, 5 * MIB as u64).await.unwrap();
        let mut expected = pattern(size).to_vec();
        expected.resize(5 * MIB, 0);
        assert!(files.read_to_end(&file).await.unwrap() == expected, "size {size}");
        let mut part = files.read(&file, 50..=149).await.unwrap();
        let mut bytes = Vec::new();
        part.copy_to(&mut bytes).await.unwrap();
        assert_eq!(bytes, expected[50..150], "size {size}");
    }
}

#[tokio::test]
async fn streamed_writes_equal_writes_from_memory() {
    // Goal: reading a source in odd pieces cuts the same file. Method: a reader that gives a few bytes at a time.
    let cluster = FakeCluster::start(3, 8).await;
    let files = connected(&cluster).await.files();
    let content = pattern(2 * MIB + 12_345);
    let mut reader = &content[..];
    files
        .write_from(&path("/streamed"), 0o600, &mut reader)
        .await
        .unwrap();
    assert_eq!(files.read_to_end(&path("/streamed")).await.unwrap(), content);
    assert_eq!(files.stat(&path("/streamed")).await.unwrap().mode, 0o600);
    files.copy(&path("/streamed"), &path("/copy")).await.unwrap();
    assert_eq!(files.read_to_end(&path("/copy")).await.unwrap(), content);
}

#[tokio::test]
async fn failed_write_leaves_the_old_content_and_no_temporary() {
    // Goal: old or new, never torn. Method: publishing is refused while a big file is replaced or made.
    let cluster = FakeCluster::start(3, 4).await;
    let files = connected(&cluster).await.files();
    files.write(&path("/file"), "old".into()).await.unwrap();
    cluster.script(|_, request| match request {
        Request::Command {
            command: Command::Publish { .. },
            ..
        } => Fault::Fail(Failure::refused(Refusal::NoSpace, "full")),
        _ => Fault::None,
    });
    for name in ["/file", "/new"] {
        let failed = files.write(&path(name), pattern(2 * MIB)).await.unwrap_err();
        assert_eq!(
            failed.to_string(),
            format!("{name}: No space left on device: full")
        );
    }
    assert_eq!(files.read_to_end(&path("/file")).await.unwrap(), "old");
    assert_eq!(cluster.state.lock().unwrap().names(), ["file"]);
}

#[tokio::test]
async fn lying_replica_is_passed_over() {
    // Goal: whole blocks are checked end to end. Method: flip the bytes one node keeps, for each node in turn.
    let cluster = FakeCluster::start(3, 4).await;
    let files = connected(&cluster).await.files();
    let content = pattern(2 * MIB);
    files.write(&path("/file"), content.clone()).await.unwrap();
    let sound = cluster.state.lock().unwrap().blocks.clone();
    for liar in 1..=3 {
        {
            let mut state = cluster.state.lock().unwrap();
            state.blocks = sound.clone();
            for ((node, _), data) in &mut state.blocks {
                if node.0 == liar {
                    *data = vec![0xee; data.len()].into();
                }
            }
        }
        assert_eq!(files.read_to_end(&path("/file")).await.unwrap(), content);
    }
    for data in cluster.state.lock().unwrap().blocks.values_mut() {
        *data = vec![0xee; data.len()].into();
    }
    let failed = files.read_to_end(&path("/file")).await.unwrap_err();
    assert_eq!(failed.refusal(), Some(Refusal::Corrupt));
}

#[tokio::test]
async fn unreachable_first_replica_is_replaced_by_the_next() {
    // Goal: a block finds another way in. Method: node 1 drops every connection a block comes by.
    let cluster = FakeCluster::start(3, 4).await;
    cluster.script(|node, request| match request {
        Request::Node(NodeRequest::BlockPut { .. }) if node.0 == 1 => Fault::DropBefore,
        _ => Fault::None,
    });
    let files = connected(&cluster).await.files();
    let content = pattern(6 * MIB);
    files.write(&path("/file"), content.clone()).await.unwrap();
    assert_eq!(files.read_to_end(&path("/file")).await.unwrap(), content);
}

#[tokio::test]
async fn appends_cross_from_inline_to_blocks() {
    // Goal: appended bytes follow what was there. Method: grow a file over the inline limit and on.
    let cluster = FakeCluster::start(1, 2).await;
    let files = connected(&cluster).await.files();
    let content = pattern(3 * MIB);
    let file = path("/log");
    files.write(&file, content.slice(..10)).await.unwrap();
    for (from, to) in [(10, 5000), (5000, 9000), (9000, 9001), (9001, 3 * MIB)] {
        files.append(&file, content.slice(from..to)).await.unwrap();
        assert_eq!(files.read_to_end(&file).await.unwrap(), content[..to], "to {to}");
    }
}

#[tokio::test]
async fn trees_are_made_listed_renamed_and_removed() {
    // Goal: the path operations together. Method: a small tree, pages of three entries.
    let cluster = FakeCluster::start(3, 8).await;
    let files = connected(&cluster).await.files();
    files
        .make_directories(&path("/top/sub/deep"), 0o755)
        .await
        .unwrap();
    files.make_directories(&path("/top/sub"), 0o755).await.unwrap();
    for number in 0..10 {
        let name = format!("/top/sub/{number}");
        files.create(&path(&name), 0o644).await.unwrap();
    }
    files.symlink("sub/3", &path("/top/link")).await.unwrap();
    assert_eq!(files.read_link(&path("/top/link")).await.unwrap(), "sub/3");
    files.write(&path("/top/link"), "through".into()).await.unwrap();
    assert_eq!(files.read_to_end(&path("/top/sub/3")).await.unwrap(), "through");
    let mut listing = files.list(&path("/top/sub")).await.unwrap();
    let mut count = 0;
    loop {
        let page = listing.next_page_with_attributes().await.unwrap();
        if page.is_empty() {
            break;
        }
        count += page.len();
    }
    assert_eq!(count, 11);
    files
        .rename(&path("/top/sub"), &path("/top/moved"))
        .await
        .unwrap();
    assert!(files.stat(&path("/top/sub")).await.unwrap_err().is_not_found());
    let error = files.remove_directory(&path("/top")).await.unwrap_err();
    assert_eq!(error.to_string(), "/top: Directory not empty");
    files.remove_tree(&path("/top")).await.unwrap();
    assert!(cluster.state.lock().unwrap().names().is_empty());
    let error = files.read(&path("/no/such"), ..).await.unwrap_err();
    assert_eq!(error.to_string(), "/no/such: No such file or directory");
}

#[tokio::test]
async fn values_go_up_to_the_limit_the_cluster_says() {
    // Goal: one limit everywhere, and no node is sent what it would end the connection on. Method: a value of exactly
    // the limit there and back, one of a byte more, several that are too much together.
    let cluster = FakeCluster::start(3, 4).await;
    let client = connected(&cluster).await;
    let keys = client.keys();
    assert_eq!(keys.value_size_max(), fake::VALUE_SIZE_MAX);
    let value = Bytes::from(vec![7; fake::VALUE_SIZE_MAX]);
    assert!(keys.put(b"large", value.clone()).await.unwrap().applied);
    assert_eq!(keys.get(b"large").await.unwrap().unwrap().value, value);
    let refused = keys.put(b"larger", vec![7; fake::VALUE_SIZE_MAX + 1]).await;
    let error = refused.expect_err("too large");
    assert_eq!(error.refusal(), Some(Refusal::FileTooLarge));
    assert!(error.to_string().contains("33554432"), "{error}");
    let pairs = (0..3).map(|number| (format!("k{number}").into(), value.slice(..12 * MIB)));
    let refused = keys
        .set_many(pairs.collect())
        .await
        .expect_err("too much together");
    assert_eq!(refused.refusal(), Some(Refusal::FileTooLarge));
    assert_eq!(keys.increment(b"n", 1).await.unwrap(), 1, "the connections live");
}

#[tokio::test]
async fn staged_blocks_are_seen_here_at_once_and_elsewhere_after_a_flush() {
    // Goal: one commit for many blocks, and no reader behind the writer's back. Method: two handles on one file.
    let cluster = FakeCluster::start(3, 4).await;
    let files = connected(&cluster).await.files();
    files.create(&path("/f"), 0o644).await.unwrap();
    let inode = files.stat(&path("/f")).await.unwrap().inode;
    let policy = Policy {
        block_size: 64 << 10,
        ..Policy::default()
    };
    let (writer, reader) = (files.handle(inode, policy), files.handle(inode, policy));
    let content = pattern(3 * MIB);
    writer.stage_at(0, content.slice(..2 * MIB)).await.unwrap();
    writer
        .stage_at(2 * MIB as u64, content.slice(2 * MIB..))
        .await
        .unwrap();
    assert_eq!(writer.read_at(MIB as u64, 2 * MIB).await.unwrap(), content[MIB..]);
    assert_eq!(writer.size().await.unwrap(), 3 * MIB as u64);
    assert_eq!(reader.read_at(0, 10).await.unwrap(), "");
    writer.sync().await.unwrap();
    reader.revalidate().await.unwrap();
    let read = reader.read_at(5, 4 * MIB).await.unwrap();
    assert!(read == content[5..], "read back {} bytes", read.len());
    assert_eq!(reader.read_at(3 * MIB as u64, 1).await.unwrap(), "");
}

#[tokio::test]
async fn a_handle_sees_its_own_small_writes_without_asking_again() {
    // Goal: what a handle wrote is what it reads, from a map it knew before. Method: writes into a mapped file.
    let cluster = FakeCluster::start(1, 2).await;
    let files = connected(&cluster).await.files();
    files.write(&path("/f"), pattern(MIB)).await.unwrap();
    let inode = files.stat(&path("/f")).await.unwrap().inode;
    let handle = files.handle(inode, Policy::default());
    assert_eq!(handle.read_at(0, MIB).await.unwrap(), pattern(MIB));
    for number in 0..4 {
        let (at, _) = handle.append(format!("line {number}\n").into()).await.unwrap();
        assert_eq!(at, (MIB + 7 * number) as u64);
    }
    let tail = handle.read_at(MIB as u64 - 1, 100).await.unwrap();
    assert_eq!(tail[1..], b"line 0\nline 1\nline 2\nline 3\n"[..]);
}
