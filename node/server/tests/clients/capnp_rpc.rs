//! The capnp-rpc face against a real worker: what clients see, and what hostile ones cannot do.

mod single_node;

use std::sync::Arc;

use bark_schema::generated::client_capnp::{file_system, key_value, session};
use bark_schema::limits::MIB;
use single_node::SingleNode;

async fn log_in(bark: bark_schema::generated::client_capnp::bark::Client) -> session::Client {
    let answer = bark.login_request().send().promise.await.expect("login");
    answer.get().expect("results").get_session().expect("session")
}

fn file_system_of(session: &session::Client) -> file_system::Client {
    session.file_system_request().send().pipeline.get_file_system()
}

fn key_value_of(session: &session::Client) -> key_value::Client {
    session.key_value_request().send().pipeline.get_key_value()
}

/// Makes a file below the root of `tree`.
async fn put(tree: &file_system::Client, name: &str, content: &[u8]) -> capnp::Result<()> {
    let root = tree.root_request().send().pipeline.get_node();
    let mut create = root.create_request();
    create.get().set_entry_name(name.as_bytes());
    create.get().set_content(content);
    create.send().promise.await.map(drop)
}

async fn make_directory(tree: &file_system::Client, name: &str) {
    let mut make = tree
        .root_request()
        .send()
        .pipeline
        .get_node()
        .make_directory_request();
    make.get().set_entry_name(name.as_bytes());
    make.send().promise.await.expect("directory");
}

/// Walk, open and first read in one go: nothing is awaited before the last answer.
async fn read(tree: &file_system::Client, path: &str, offset: u64, length: u32) -> capnp::Result<Vec<u8>> {
    let mut walk = tree.walk_request();
    walk.get().set_path(path.as_bytes());
    let file = walk
        .send()
        .pipeline
        .get_node()
        .open_request()
        .send()
        .pipeline
        .get_file();
    let mut read = file.read_request();
    read.get().set_offset(offset);
    read.get().set_length(length);
    let answer = read.send().promise.await?;
    Ok(answer.get()?.get_data()?.to_vec())
}

fn errno(result: capnp::Result<impl Sized>) -> String {
    let error = result.err().expect("a failure").extra;
    error
        .trim_start_matches("remote exception: ")
        .split(':')
        .next()
        .unwrap_or_default()
        .to_string()
}

fn pattern(count: usize) -> Vec<u8> {
    (0..count).map(|place| (place * 31 % 251) as u8).collect()
}

#[test]
fn walk_open_and_first_read_are_pipelined() {
    // Goal: one round trip. Method: all requests are sent before the node gets a turn.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    let content = node.run(async move {
        let tree = file_system_of(&log_in(bark).await);
        put(&tree, "hello", b"hello, world").await.expect("file");
        read(&tree, "/hello", 7, 100).await.expect("read")
    });
    assert_eq!(content, b"world");
}

#[test]
fn a_streamed_file_is_whole_after_done() {
    // Goal: blocks, holes and the inline beginning end up in place. Method: a small file, streamed over.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    let bytes = pattern(3 * MIB + 12_345);
    let sent = bytes.clone();
    let (size, found, hole) = node.run(async move {
        let tree = file_system_of(&log_in(bark).await);
        put(&tree, "large", b"inline bytes").await.expect("file");
        let mut walk = tree.walk_request();
        walk.get().set_path(b"large");
        let file = walk
            .send()
            .pipeline
            .get_node()
            .open_request()
            .send()
            .pipeline
            .get_file();
        let start = 1000;
        for (index, chunk) in sent.chunks(100_000).enumerate() {
            let mut write = file.write_stream_request();
            write.get().set_offset(start + index as u64 * 100_000);
            write.get().set_data(chunk);
            write.send().await.expect("stream");
        }
        let done = file.done_request().send().promise.await.expect("done");
        let size = done.get().expect("results").get_size();
        let found = read(&tree, "large", start, 4 * MIB as u32).await.expect("read");
        let hole = read(&tree, "large", 0, 1000).await.expect("read");
        (size, found, hole)
    });
    assert_eq!(size, 1000 + bytes.len() as u64);
    assert!(found == bytes, "the streamed bytes differ");
    assert_eq!(&hole[..12], b"inline bytes");
    assert!(hole[12..].iter().all(|byte| *byte == 0));
}

#[test]
fn writes_and_appends_land_where_they_say() {
    // Goal: inline, overwrites across blocks, appends. Method: compare with a vector after every step.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    node.run(async move {
        let tree = file_system_of(&log_in(bark).await);
        put(&tree, "f", &pattern(MIB + 5)).await.expect("file");
        let mut expected = pattern(MIB + 5);
        let mut walk = tree.walk_request();
        walk.get().set_path(b"f");
        let file = walk
            .send()
            .pipeline
            .get_node()
            .open_request()
            .send()
            .pipeline
            .get_file();
        for (offset, data) in [
            (10_usize, vec![1; 20]),
            (MIB - 3, vec![2; 6]),
            (MIB + 4, vec![3; 9000]),
        ] {
            let mut write = file.write_request();
            write.get().set_offset(offset as u64);
            write.get().set_data(&data);
            write.send().promise.await.expect("write");
            expected.resize(expected.len().max(offset + data.len()), 0);
            expected[offset..offset + data.len()].copy_from_slice(&data);
        }
        let mut append = file.append_request();
        append.get().set_data(b"the end");
        let answer = append.send().promise.await.expect("append");
        assert_eq!(answer.get().expect("results").get_offset(), expected.len() as u64);
        expected.extend(b"the end");
        let found = read(&tree, "f", 0, 4 * MIB as u32).await.expect("read");
        assert!(found == expected, "the file differs");
        let mut truncate = file.truncate_request();
        truncate.get().set_size(15);
        truncate.send().promise.await.expect("truncate");
        assert_eq!(read(&tree, "f", 0, 100).await.expect("read"), &expected[..15]);
    });
}

#[test]
fn names_can_be_moved_linked_listed_and_removed() {
    // Goal: every verb of a directory reaches the tree. Method: one life of a few names.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    node.run(async move {
        let tree = file_system_of(&log_in(bark).await);
        make_directory(&tree, "a").await;
        make_directory(&tree, "b").await;
        put(&tree, "one", b"1").await.expect("file");
        let root = tree.root_request().send().pipeline.get_node();
        let walk = |path: &str| {
            let mut walk = tree.walk_request();
            walk.get().set_path(path.as_bytes());
            walk.send().pipeline.get_node()
        };
        let mut rename = root.rename_request();
        rename.get().set_entry_name(b"one");
        rename.get().set_to_directory(walk("a"));
        rename.get().set_to_name(b"uno");
        rename.send().promise.await.expect("rename");
        let mut link = root.link_request();
        link.get().set_entry_name(b"again");
        link.get().set_target(walk("a/uno"));
        let linked = link.send().promise.await.expect("link");
        assert_eq!(
            linked
                .get()
                .expect("results")
                .get_attributes()
                .expect("attributes")
                .get_link_count(),
            2
        );
        let mut symlink = root.symlink_request();
        symlink.get().set_entry_name(b"soft");
        symlink.get().set_target(b"a/uno");
        symlink.send().promise.await.expect("symlink");
        assert_eq!(read(&tree, "soft", 0, 10).await.expect("read"), b"1");
        let mut remove = root.remove_request();
        remove.get().set_entry_name(b"b");
        remove.get().set_directory(true);
        remove.send().promise.await.expect("remove");
        let answer = root.list_request().send().promise.await.expect("list");
        let entries = answer.get().expect("results").get_entries().expect("entries");
        let mut names: Vec<Vec<u8>> = entries
            .iter()
            .map(|entry| entry.get_name().expect("name").to_vec())
            .collect();
        names.sort();
        assert_eq!(names, [b"a".to_vec(), b"again".to_vec(), b"soft".to_vec()]);
        assert_eq!(errno(read(&tree, "/a", 0, 1).await), "EISDIR");
        assert_eq!(errno(read(&tree, "/nothing", 0, 1).await), "ENOENT");
    });
}

#[test]
fn keys_are_set_read_counted_and_scanned_in_order() {
    // Goal: every verb of KeyValue across partitions. Method: a hundred keys in four partitions.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    node.run(async move {
        let keys = key_value_of(&log_in(bark).await);
        let names: Vec<String> = (0..100).map(|number| format!("k{number:03}")).collect();
        let mut many = keys.set_many_request();
        let mut pairs = many.get().init_pairs(100);
        for (index, name) in names.iter().enumerate() {
            let mut pair = pairs.reborrow().get(index as u32);
            pair.set_key(name.as_bytes());
            pair.set_value(name.as_bytes());
        }
        many.send().promise.await.expect("set many");
        let mut seen: Vec<String> = Vec::new();
        loop {
            let mut scan = keys.scan_request();
            scan.get().set_prefix(b"k");
            scan.get()
                .set_after(seen.last().map_or(&b""[..], |last| last.as_bytes()));
            scan.get().set_limit(7);
            let answer = scan.send().promise.await.expect("scan");
            let page = answer.get().expect("results");
            for key in page.get_keys().expect("keys") {
                seen.push(String::from_utf8(key.expect("key").to_vec()).expect("text"));
            }
            if !page.get_more() {
                break;
            }
        }
        assert_eq!(seen, names);
        let mut delete = keys.delete_request();
        let mut list = delete.get().init_keys(3);
        for (index, name) in ["k001", "k002", "absent"].iter().enumerate() {
            list.set(index as u32, name.as_bytes());
        }
        let deleted = delete.send().promise.await.expect("delete");
        assert_eq!(deleted.get().expect("results").get_count(), 2);
        let mut increment = keys.increment_request();
        increment.get().set_key(b"n");
        increment.get().set_by(5);
        let answer = increment.send().promise.await.expect("increment");
        assert_eq!(answer.get().expect("results").get_value(), 5);
        let mut get = keys.get_request();
        get.get().set_key(b"k050");
        let answer = get.send().promise.await.expect("get");
        assert_eq!(
            answer.get().expect("results").get_value().expect("value"),
            b"k050"
        );
    });
}

fn restricted(session: &session::Client, read_only: bool, directory: &str, until_ms: u64) -> session::Client {
    let mut restrict = session.restrict_request();
    restrict.get().set_read_only(read_only);
    restrict.get().set_directory(directory.as_bytes());
    restrict.get().set_until_ms(until_ms);
    restrict.send().pipeline.get_session()
}

#[test]
fn a_restricted_session_can_only_do_less() {
    // Goal: no way out of what was granted. Method: each restriction against what it forbids.
    let mut node = SingleNode::start();
    let now_ms = node.context.gateway.now().unix_ms();
    let (_end, bark) = node.rpc_client();
    let (session, expiring) = node.run(async move {
        let session = log_in(bark).await;
        let tree = file_system_of(&session);
        make_directory(&tree, "jail").await;
        put(&tree, "secret", b"outside").await.expect("file");
        let jail = file_system_of(&restricted(&session, false, "/jail", 0));
        put(&jail, "inside", b"inside").await.expect("file");
        let root = jail.root_request().send().pipeline.get_node();
        for (name, target) in [
            ("absolute", "/secret"),
            ("climbing", "../../secret"),
            ("fine", "/inside"),
        ] {
            let mut symlink = root.symlink_request();
            symlink.get().set_entry_name(name.as_bytes());
            symlink.get().set_target(target.as_bytes());
            symlink.send().promise.await.expect("symlink");
        }
        for path in ["/secret", "../secret", "../../secret", "absolute", "climbing"] {
            assert_eq!(errno(read(&jail, path, 0, 10).await), "ENOENT", "{path}");
        }
        assert_eq!(read(&jail, "fine", 0, 10).await.expect("read"), b"inside");
        assert_eq!(read(&jail, "../inside", 0, 10).await.expect("read"), b"inside");
        let keys = restricted(&session, false, "/jail", 0)
            .key_value_request()
            .send()
            .promise
            .await;
        assert_eq!(errno(keys), "EACCES");

        let reader = restricted(&session, true, "", 0);
        assert_eq!(
            read(&file_system_of(&reader), "secret", 0, 10)
                .await
                .expect("read"),
            b"outside"
        );
        assert_eq!(errno(put(&file_system_of(&reader), "new", b"").await), "EACCES");
        let wider = restricted(&reader, false, "", 0);
        assert_eq!(errno(put(&file_system_of(&wider), "new", b"").await), "EACCES");

        let expiring = file_system_of(&restricted(&session, false, "", now_ms + 60_000));
        assert_eq!(read(&expiring, "secret", 0, 10).await.expect("read"), b"outside");
        (session, expiring)
    });
    node.advance(61_000_000);
    node.run(async move {
        assert_eq!(errno(read(&expiring, "secret", 0, 10).await), "EACCES");
        assert!(read(&file_system_of(&session), "secret", 0, 10).await.is_ok());
    });
}

#[test]
fn garbage_ends_its_connection_only() {
    // Goal: no bytes harm the node or another client. Method: seeded noise behind plausible headers.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    let mut random = bark_core::random::Random::new(99);
    for round in 0..200 {
        let end = node.connect();
        let words = 1 + random.below(64) as u32;
        if round % 2 == 0 {
            end.send(&0_u32.to_le_bytes());
            end.send(&words.to_le_bytes());
        }
        let noise: Vec<u8> = (0..8 * words as usize)
            .map(|_| (random.next_u64() >> (round % 60)) as u8)
            .collect();
        end.send(&noise);
        node.settle();
        node.disconnect(&end);
        node.settle();
    }
    let found = node.run(async move {
        let tree = file_system_of(&log_in(bark).await);
        put(&tree, "alive", b"yes").await.expect("file");
        read(&tree, "alive", 0, 10).await.expect("read")
    });
    assert_eq!(found, b"yes");
}

#[test]
fn hanging_up_at_any_moment_leaves_nothing_behind() {
    // Goal: a connection's objects go with it. Method: hang up after every number of turns of a session
    // that writes, and count who still holds the settings.
    let mut node = SingleNode::start();
    let before = Arc::strong_count(&node.context.settings);
    for turns in 0..60 {
        let (end, bark) = node.rpc_client();
        node.context.gateway.spawn(async move {
            let Ok(answer) = bark.login_request().send().promise.await else {
                return;
            };
            let Ok(session) = answer.get().and_then(|results| results.get_session()) else {
                return;
            };
            let tree = file_system_of(&session);
            // Whatever it answers, if it answers.
            let _ = put(&tree, "torn", &pattern(2 * MIB)).await;
            let _ = read(&tree, "torn", 0, 2 * MIB as u32).await;
            let mut remove = tree.root_request().send().pipeline.get_node().remove_request();
            remove.get().set_entry_name(b"torn");
            let _ = remove.send().promise.await;
        });
        for _ in 0..turns {
            node.step();
        }
        node.disconnect(&end);
        for _ in 0..20 {
            node.settle();
            node.advance(1_000_000);
        }
        assert_eq!(
            Arc::strong_count(&node.context.settings),
            before,
            "after {turns} turns"
        );
    }
}

#[test]
fn large_values_pass_and_larger_ones_are_refused() {
    // Goal: this face takes what the cluster file allows and says what it does not. Method: 20 MiB there and back,
    // then one byte more than the limit, then a small one on the same connection.
    let mut node = SingleNode::start();
    let (_end, bark) = node.rpc_client();
    let (found, refused, after) = node.run(async move {
        let keys = key_value_of(&log_in(bark).await);
        let set = async |key: &[u8], value: &[u8]| {
            let mut set = keys.set_request();
            set.get().set_key(key);
            set.get().set_value(value);
            set.send().promise.await.map(drop)
        };
        set(b"large", &pattern(20 * MIB)).await.expect("20 MiB");
        let mut get = keys.get_request();
        get.get().set_key(b"large");
        let answer = get.send().promise.await.expect("get");
        let found = answer.get().expect("results").get_value().expect("value") == pattern(20 * MIB);
        let refused = set(b"larger", &vec![1; 64 * MIB + 1]).await;
        (found, errno(refused), set(b"small", b"1").await.is_ok())
    });
    assert!(found);
    assert_eq!(refused, "EFBIG");
    assert!(after);
}
