//! What directories take, and quotas.

use super::*;

#[test]
fn what_a_directory_takes_is_known_at_once_at_every_node() {
    // Goal: an answer holds everything acknowledged before it was asked for. Method: a deep tree through several
    // partitions; after each change the sums of all its directories at another node, without a pause.
    let mut cluster = Cluster::new(3);
    let mut chain = vec![InodeId::ROOT];
    for depth in 0..6 {
        let parent = chain[chain.len() - 1];
        let directory = cluster
            .make_directory(1, parent, &format!("d{depth}"))
            .expect("made");
        chain.push(directory);
    }
    let homes: BTreeSet<PartitionId> = chain.iter().map(|directory| directory.home()).collect();
    assert!(homes.len() > 2, "the tree is in several partitions");
    let (top, deep) = (chain[1], chain[6]);
    let create = Command::Create {
        directory: deep,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(2, deep.home().0, create).expect("created");
    for (depth, directory) in chain.clone().into_iter().enumerate() {
        assert_eq!(cluster.usage(3, directory), (5, 8 - depth as u64));
    }

    // The file goes up and its directory away, then the middle of the chain to the root.
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let rename = |from, to| Namespace::Rename {
        from,
        to,
        mode: RenameMode::Replace,
    };
    cluster
        .namespace(1, rename(entry(deep, "file"), entry(top, "moved")))
        .expect("moved");
    let (directory, name) = (chain[5], bytes("d5"));
    cluster
        .namespace(2, Namespace::RemoveDirectory { directory, name })
        .expect("removed");
    assert_eq!(cluster.usage(3, top), (5, 6));
    cluster
        .namespace(3, rename(entry(chain[2], "d2"), entry(InodeId::ROOT, "here")))
        .expect("moved");
    assert_eq!(cluster.usage(1, chain[3]), (0, 3));
    assert_eq!(cluster.usage(2, top), (5, 3));
    assert_eq!(cluster.usage(2, InodeId::ROOT), (5, 7));
}

#[test]
fn a_quota_limits_a_tree_in_several_partitions() {
    // Goal: exact limits, whoever asks and wherever the inodes live. Method: a quota on a tree that is there
    // already, filled to the last byte and inode from its directories in turn.
    let mut cluster = Cluster::new(3);
    let top = cluster.make_directory(1, InodeId::ROOT, "top").expect("made");
    let outside = cluster.make_directory(1, InodeId::ROOT, "outside").expect("made");
    let mut directories = vec![top];
    for number in 0..5 {
        let parent = directories[number];
        directories.push(cluster.make_directory(2, parent, "in").expect("made"));
    }
    cluster.create(directories[3], "before", 1_000).expect("created");
    assert_eq!(cluster.set_quota(top, 10_000, 20), Ok(Reply::Done));
    let quota = cluster.quota(directories[5]);
    assert_eq!(
        (quota.quota, quota.used_bytes, quota.used_inodes),
        (Some(top), 1_000, 7)
    );

    // 9,000 bytes are left: nine files, in all the directories.
    for number in 0..9 {
        let directory = directories[number % directories.len()];
        let created = cluster.create(directory, &format!("f{number}"), 1_000);
        assert!(created.is_ok(), "{number}: {created:?}");
    }
    let (deep, name) = (directories[5], bytes("f5"));
    assert!(is_used_up(&cluster.create(deep, "one more", 1)));
    assert!(is_used_up(&cluster.create(top, "one more", 1)));
    cluster
        .create(outside, "free", 5_000)
        .expect("not under the quota");

    // Overwriting takes nothing more; deleting makes room at once.
    let Ok(Reply::Entry { inode, .. }) = cluster.ask(
        1,
        Request::Query {
            partition: deep.home(),
            query: Query::Lookup {
                directory: deep,
                name: name.clone(),
            },
        },
    ) else {
        panic!("no file")
    };
    let write = |offset, size| Command::WriteInline {
        inode,
        offset,
        data: Bytes::from(vec![8; size]),
        truncate: false,
    };
    cluster
        .command(3, inode.home().0, write(0, 1_000))
        .expect("overwritten");
    assert!(is_used_up(&cluster.command(3, inode.home().0, write(500, 501))));
    let directory = deep;
    cluster
        .namespace(1, Namespace::Unlink { directory, name })
        .expect("unlinked");
    assert_eq!(cluster.quota(top).used_bytes, 9_000);

    // Five inodes are left; directories count.
    for directory in &directories[..5] {
        cluster.make_directory(3, *directory, "more").expect("made");
    }
    let refused = cluster.make_directory(1, directories[5], "more");
    assert!(
        matches!(refused, Err(Failure::Refused(Refusal::QuotaExceeded, _))),
        "{refused:?}"
    );
    assert!(is_used_up(&cluster.create(directories[4], "empty", 0)));

    // Nothing comes in by a rename or a link; a quota inside is refused; without limits all is free.
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let rename = Namespace::Rename {
        from: entry(outside, "free"),
        to: entry(top, "free"),
        mode: RenameMode::Replace,
    };
    let moved = cluster.namespace(2, rename);
    assert!(
        matches!(moved, Err(Failure::Refused(Refusal::CrossDevice, _))),
        "{moved:?}"
    );
    assert!(cluster.set_quota(directories[2], 5, 5).is_err());
    assert_eq!(cluster.set_quota(top, u64::MAX, u64::MAX), Ok(Reply::Done));
    assert_eq!(cluster.quota(directories[2]).quota, None);
    cluster
        .create(directories[4], "free again", 8_000)
        .expect("created");
}
