//! Policies across partitions and nodes.

use bark_schema::data::{DataCommand, FileMap};
use bark_schema::policy::{Allocate, Policy, PolicyChange};

use super::*;

const SINGLE: Policy = Policy {
    block_size: 256 << 10,
    replicas: 1,
    allocate: Allocate::RoundRobin,
};

fn set_policy(cluster: &mut Cluster, directory: InodeId, policy: PolicyChange) -> Result<Reply, Failure> {
    let change = AttributeChange {
        policy,
        ..AttributeChange::default()
    };
    let inode = directory;
    cluster.command(2, directory.home().0, Command::SetAttributes { inode, change })
}

#[test]
fn directories_inherit_across_partitions() {
    // Goal: a directory's directories are like it, wherever they are at home. Method: a chain of them, a change on the
    // way, and what the cluster answers and shows.
    let mut cluster = Cluster::new(3);
    let mut above = cluster.make_directory(1, InodeId::ROOT, "d").expect("mkdir");
    set_policy(&mut cluster, above, SINGLE.in_full()).expect("set");
    for depth in 0..4 {
        let operation = Namespace::MakeDirectory {
            directory: above,
            name: bytes("below"),
            attributes: new_inode(),
        };
        let node = 1 + depth % 3;
        match cluster.namespace(node, operation) {
            Ok(Reply::Created { attributes, .. }) => {
                assert_eq!(attributes.policy, SINGLE);
                let seen = stat(&mut cluster, above, "below").expect("there");
                assert_eq!(seen.policy, SINGLE);
                above = attributes.inode;
            }
            other => panic!("{other:?}"),
        }
    }
    let outside = stat(&mut cluster, InodeId::ROOT, "d").expect("there");
    assert_eq!(outside.policy, SINGLE);
    let beside = cluster.make_directory(1, InodeId::ROOT, "beside").expect("mkdir");
    assert_eq!(
        stat(&mut cluster, InodeId::ROOT, "beside").expect("there").policy,
        Policy::default(),
        "{beside} is not below"
    );
}

#[test]
fn more_copies_than_nodes_are_refused_before_anything_happens() {
    // Goal: the answer says how many there can be. Method: set, create and mkdir with four copies on three nodes.
    let mut cluster = Cluster::new(3);
    let four = PolicyChange {
        replicas: Some(4),
        ..PolicyChange::default()
    };
    let attributes = NewInode {
        policy: four,
        ..new_inode()
    };
    let create = Command::Create {
        directory: InodeId::ROOT,
        name: bytes("f"),
        attributes: attributes.clone(),
        content: NewContent::Inline(Bytes::new()),
        exclusive: true,
    };
    let mkdir = Namespace::MakeDirectory {
        directory: InodeId::ROOT,
        name: bytes("d"),
        attributes,
    };
    let refused = [
        set_policy(&mut cluster, InodeId::ROOT, four),
        cluster.command(3, 0, create),
        cluster.namespace(2, mkdir),
    ];
    for result in refused {
        match result {
            Err(Failure::Refused(Refusal::InvalidArgument, sentence)) => {
                assert!(sentence.contains("1 to 3"), "{sentence}");
            }
            other => panic!("{other:?}"),
        }
    }
    let three = PolicyChange {
        replicas: Some(3),
        ..PolicyChange::default()
    };
    set_policy(&mut cluster, InodeId::ROOT, three).expect("as many as there are");
}

#[test]
fn small_writes_are_packed_into_as_many_copies_as_their_files_ask_for() {
    // Goal: what came through the log ends in blocks as the policy says, whatever else is packed with it. Method: files of
    // one copy and of the cluster's in one directory; wait until nothing is left in the log's state.
    let mut cluster = Cluster::new(3);
    let mut files = Vec::new();
    for (name, policy, copies) in [
        ("single", SINGLE, 1),
        ("usual", Policy::default(), 3),
        (
            "double",
            Policy {
                replicas: 2,
                ..SINGLE
            },
            2,
        ),
        ("another", SINGLE, 1),
    ] {
        set_policy(&mut cluster, InodeId::ROOT, policy.in_full()).expect("set");
        let inode = match cluster.create(InodeId::ROOT, name, 0) {
            Ok(Reply::Created { attributes, .. }) => attributes.inode,
            other => panic!("{other:?}"),
        };
        let write = DataCommand::Write {
            inode,
            offset: Some(20_000),
            data: Bytes::from(vec![7; 10_000]),
        };
        cluster.command(1, 0, Command::Data(write)).expect("written");
        files.push((inode, copies));
    }
    for (inode, copies) in files {
        let map = packed(&mut cluster, inode);
        assert_eq!(map.extents.len(), 1);
        assert_eq!(map.extents[0].nodes.len(), copies, "{:?}", map.extents[0]);
    }
}

/// The map of a file, once nothing of it is left to be packed.
fn packed(cluster: &mut Cluster, inode: InodeId) -> FileMap {
    for _ in 0..40_000 {
        cluster.step();
        let query = Query::Layout {
            inode,
            offset: 0,
            length: 1 << 20,
        };
        let partition = inode.home();
        match cluster.ask(1, Request::Query { partition, query }) {
            Ok(Reply::Layout {
                content: Content::Mapped(map),
                ..
            }) if map.patches.is_empty() => return map,
            Ok(Reply::Layout { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    panic!("nothing was packed within forty seconds");
}
