//! Directory operations in several partitions, repeated and refused.

use super::*;

#[test]
fn directories_are_made_moved_and_removed_across_partitions() {
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    let inner = cluster.make_directory(3, a, "inner").expect("mkdir /a/inner");
    assert!(
        cluster.make_directory(1, InodeId::ROOT, "a").is_err(),
        "the name is taken"
    );
    let create = Command::Create {
        directory: inner,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, inner.home().0, create).expect("create");
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
        .namespace(2, rename(entry(a, "inner"), entry(b, "moved")))
        .expect("mv /a/inner /b/moved");
    let below_itself = cluster.namespace(1, rename(entry(InodeId::ROOT, "b"), entry(inner, "loop")));
    assert!(
        matches!(below_itself, Err(Failure::Refused(Refusal::InvalidArgument, _))),
        "a directory went below itself: {below_itself:?}"
    );
    let walk = NodeRequest::Walk {
        start: InodeId::ROOT,
        path: bytes("/b/moved/file"),
        follow_last: true,
        first_bytes: 100,
    };
    match cluster.ask(3, Request::Node(walk)).expect("walk") {
        Reply::Walked {
            content: Content::Inline(content),
            parent,
            ..
        } => {
            assert_eq!(content, bytes("hello"));
            assert_eq!(parent, inner);
        }
        other => panic!("unexpected {other:?}"),
    }
    let remove = Namespace::RemoveDirectory {
        directory: b,
        name: bytes("moved"),
    };
    assert!(matches!(
        cluster.namespace(1, remove.clone()),
        Err(Failure::Refused(Refusal::NotEmpty, _))
    ));
    cluster
        .namespace(1, rename(entry(inner, "file"), entry(a, "file")))
        .expect("mv of a file across");
    cluster.namespace(2, remove).expect("rmdir");
    cluster
        .namespace(
            2,
            Namespace::Unlink {
                directory: a,
                name: bytes("file"),
            },
        )
        .expect("unlink");
    cluster
        .namespace(
            2,
            Namespace::RemoveDirectory {
                directory: InodeId::ROOT,
                name: bytes("a"),
            },
        )
        .expect("rmdir /a");
    (0..1000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn directories_of_different_partitions_change_places() {
    // Goal: an exchange across partitions moves both, parents and link counts included, and ties no loop.
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    let x = cluster.make_directory(3, a, "x").expect("mkdir /a/x");
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let create = Command::Create {
        directory: b,
        name: bytes("file"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, b.home().0, create).expect("create");
    let file = stat(&mut cluster, b, "file").expect("the file").inode;
    let exchange = |from, to| Namespace::Rename {
        from,
        to,
        mode: RenameMode::Exchange,
    };
    cluster
        .namespace(1, exchange(entry(a, "x"), entry(b, "file")))
        .expect("a directory and a file change places");
    assert_eq!(stat(&mut cluster, b, "file").expect("moved").inode, x);
    assert_eq!(stat(&mut cluster, a, "x").expect("moved").inode, file);
    assert_eq!(stat(&mut cluster, x, "..").expect("its parent").inode, b);
    assert_eq!(stat(&mut cluster, InodeId::ROOT, "a").expect("/a").link_count, 2);
    assert_eq!(stat(&mut cluster, InodeId::ROOT, "b").expect("/b").link_count, 3);
    let with_its_child = cluster.namespace(2, exchange(entry(InodeId::ROOT, "b"), entry(b, "file")));
    assert!(
        matches!(with_its_child, Err(Failure::Refused(Refusal::InvalidArgument, _))),
        "{with_its_child:?}"
    );
    let nothing = cluster.namespace(2, exchange(entry(a, "x"), entry(b, "nothing")));
    assert!(matches!(nothing, Err(Failure::Refused(Refusal::NotFound, _))));
    let keeps = Namespace::Rename {
        from: entry(a, "x"),
        to: entry(b, "file"),
        mode: RenameMode::NoReplace,
    };
    assert!(matches!(
        cluster.namespace(3, keeps),
        Err(Failure::Refused(Refusal::Exists, _))
    ));
}

#[test]
fn a_repeated_namespace_request_joins_its_coordinator() {
    // Goal: two copies of one mkdir under one id, both under way at once, are carried out by one coordinator,
    // and both get its answer.
    let mut cluster = Cluster::new(3);
    cluster
        .command(
            1,
            0,
            Command::KeyDelete {
                keys: Vec::new(),
                condition: Condition::Always,
            },
        )
        .expect("leads");
    let id = cluster.id();
    let request = Request::Namespace {
        id,
        operation: Namespace::MakeDirectory {
            directory: InodeId::ROOT,
            name: bytes("twice"),
            attributes: new_inode(),
        },
    };
    let answers: Rc<RefCell<Vec<Result<Reply, Failure>>>> = Rc::default();
    for node in [1, 2] {
        let asking = cluster.members[&NodeNumber(node)].worker.gateway();
        let (filled, request) = (answers.clone(), request.clone());
        let deadline_us = cluster.now.monotonic_us + 10_000_000;
        let gateway = asking.clone();
        gateway.spawn(async move {
            let result = asking.call(request, Reach::Cluster, deadline_us).await;
            filled.borrow_mut().push(result);
        });
    }
    for _ in 0..11_000 {
        cluster.step();
        if answers.borrow().len() == 2 {
            break;
        }
    }
    let answers = answers.borrow();
    assert!(
        matches!(&answers[..], [Ok(Reply::Created { .. }), other] if other == &answers[0]),
        "{answers:?}"
    );
    let joined: u64 = cluster
        .members
        .values()
        .map(|member| member.worker.requests_joined())
        .sum();
    assert_eq!(joined, 1);
}

#[test]
fn a_refused_request_stays_refused_when_its_reason_is_gone() {
    // Goal: a copy of a refused mkdir that comes late, when the name is free again, makes nothing.
    let mut cluster = Cluster::new(3);
    cluster.make_directory(1, InodeId::ROOT, "taken").expect("made");
    let id = cluster.id();
    let operation = Namespace::MakeDirectory {
        directory: InodeId::ROOT,
        name: bytes("taken"),
        attributes: new_inode(),
    };
    let request = Request::Namespace { id, operation };
    let first = cluster.ask(1, request.clone());
    assert!(
        matches!(first, Err(Failure::Refused(Refusal::Exists, _))),
        "{first:?}"
    );
    // Another client frees the name.
    let remove = Request::Namespace {
        id: RequestId {
            client: ClientId(78),
            sequence: 1,
            acknowledged_below: 1,
        },
        operation: Namespace::RemoveDirectory {
            directory: InodeId::ROOT,
            name: bytes("taken"),
        },
    };
    assert_eq!(cluster.ask(2, remove), Ok(Reply::Done));
    assert_eq!(cluster.ask(3, request), first);
}
