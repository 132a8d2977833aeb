//! Files and their attributes.

use super::*;

#[test]
fn a_file_has_names_in_directories_of_different_partitions() {
    // Goal: links across partitions are counted; renaming one onto the other does nothing; the last one
    // makes an orphan.
    let mut cluster = Cluster::new(3);
    let a = cluster.make_directory(1, InodeId::ROOT, "a").expect("mkdir /a");
    let b = cluster.make_directory(2, InodeId::ROOT, "b").expect("mkdir /b");
    assert_ne!(a.home(), b.home());
    let entry = |directory, name: &str| Entry {
        directory,
        name: bytes(name),
    };
    let create = Command::Create {
        directory: a,
        name: bytes("one"),
        attributes: new_inode(),
        content: NewContent::Inline(bytes("hello")),
        exclusive: true,
    };
    cluster.command(1, a.home().0, create).expect("create");
    let before = stat(&mut cluster, a, "one").expect("the file");
    let link = |to| Namespace::Link {
        inode: before.inode,
        to,
    };
    cluster.namespace(3, link(entry(b, "two"))).expect("ln across");
    match cluster.namespace(3, link(entry(a, "three"))) {
        Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, 3),
        other => panic!("unexpected {other:?}"),
    }
    let onto_itself = Namespace::Rename {
        from: entry(a, "one"),
        to: entry(b, "two"),
        mode: RenameMode::Replace,
    };
    assert_eq!(cluster.namespace(1, onto_itself), Ok(Reply::Done));
    assert_eq!(stat(&mut cluster, a, "one").expect("stays").link_count, 3);
    let moved = Namespace::Rename {
        from: entry(b, "two"),
        to: entry(b, "moved"),
        mode: RenameMode::NoReplace,
    };
    cluster.namespace(1, moved).expect("mv");
    let after = stat(&mut cluster, b, "moved").expect("moved");
    assert!(after.changed > before.changed, "a rename changes the inode");
    let parent = stat(&mut cluster, InodeId::ROOT, "b").expect("/b");
    assert!(parent.modified > before.changed);
    for (directory, name) in [(a, "one"), (b, "moved"), (a, "three")] {
        let name = bytes(name);
        cluster
            .namespace(2, Namespace::Unlink { directory, name })
            .expect("rm");
    }
    let query = Query::Attributes { inode: before.inode };
    let partition = a.home();
    match cluster.ask(1, Request::Query { partition, query }) {
        Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, 0),
        other => panic!("unexpected {other:?}"),
    }
}
