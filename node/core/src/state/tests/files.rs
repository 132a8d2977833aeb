//! Inodes, entries, extents: create, unlink, rename, sizes, publishing.

use super::*;
use bark_schema::operation::{AttributeChange, Entry, ListPosition, RenameMode};

const ROOT: InodeId = InodeId::ROOT;

fn entry(name: &str) -> Entry {
    Entry {
        directory: ROOT,
        name: bytes(name),
    }
}

fn rename(from: &str, to: &str) -> Command {
    Command::Rename {
        from: entry(from),
        to: entry(to),
        mode: RenameMode::Replace,
    }
}

fn resize(inode: InodeId, size: u64) -> Command {
    Command::SetAttributes {
        inode,
        change: AttributeChange {
            size: Some(size),
            ..Default::default()
        },
    }
}

fn publish(inode: InodeId, extents: Vec<Extent>, size: u64) -> Command {
    Command::Publish {
        inode,
        extents,
        size,
        replace_all: false,
        base_version: None,
    }
}

fn runs(content: Content) -> Vec<(u64, u32, u64, u32)> {
    match content {
        Content::Mapped(map) => map
            .extents
            .iter()
            .map(|run| (run.offset, run.length, run.block.counter, run.block_offset))
            .collect(),
        Content::Inline(bytes) => panic!("inline: {bytes:?}"),
    }
}

#[test]
fn a_created_file_is_found_listed_and_unlinked() {
    // Goal: the life of an inline file; counters end where they began.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"hello");
    assert_eq!(machine.lookup(ROOT, "f"), Ok((file, FileKind::Regular)));
    assert_eq!(machine.attributes(file).mode, 0o644);
    assert_eq!(machine.layout(file, 1, 100), Content::Inline(bytes("ello")));
    assert_eq!(machine.state.file_bytes, 5);
    assert_eq!(refusal(machine.apply(create(ROOT, "f", b""))), Refusal::Exists);
    assert_eq!(
        machine.apply(Command::Unlink {
            directory: ROOT,
            name: bytes("f")
        }),
        Ok(Reply::Done)
    );
    assert_eq!(refusal(machine.lookup(ROOT, "f")), Refusal::NotFound);
    assert_eq!((machine.state.file_bytes, machine.state.orphan_count), (0, 1));
    machine.reap();
    assert_eq!((machine.state.orphan_count, machine.state.inodes.len()), (0, 1));
    assert!(machine.create(ROOT, "f", b"") > file, "ids are never reused");
}

#[test]
fn names_no_entry_can_have_are_refused() {
    let mut machine = Machine::new();
    let long = "x".repeat(256);
    let cases = [
        ("", Refusal::NotFound),
        (".", Refusal::InvalidArgument),
        ("..", Refusal::InvalidArgument),
        ("a/b", Refusal::InvalidArgument),
        ("a\0", Refusal::InvalidArgument),
        (&long, Refusal::NameTooLong),
    ];
    for (name, expected) in cases {
        assert_eq!(
            refusal(machine.apply(create(ROOT, name, b""))),
            expected,
            "{name:?}"
        );
    }
    let file = machine.create(ROOT, "f", b"");
    assert_eq!(
        refusal(machine.apply(create(file, "g", b""))),
        Refusal::NotDirectory
    );
    assert_eq!(
        refusal(machine.apply(create(InodeId(99), "g", b""))),
        Refusal::NotFound
    );
}

#[test]
fn rename_replaces_a_file_and_keeps_the_moved_one() {
    // Goal: the target's inode goes, the source's stays; renaming onto itself changes nothing.
    let mut machine = Machine::new();
    let source = machine.create(ROOT, "a", b"source");
    let target = machine.create(ROOT, "b", b"target!");
    let kept = Command::Rename {
        from: entry("a"),
        to: entry("b"),
        mode: RenameMode::NoReplace,
    };
    assert_eq!(refusal(machine.apply(kept)), Refusal::Exists);
    assert_eq!(machine.apply(rename("b", "b")), Ok(Reply::Done));
    assert_eq!(machine.apply(rename("a", "b")), Ok(Reply::Done));
    assert_eq!(machine.lookup(ROOT, "b"), Ok((source, FileKind::Regular)));
    assert_eq!(machine.attributes(target).link_count, 0);
    machine.reap();
    assert_eq!(
        refusal(machine.query(Query::Attributes { inode: target })),
        Refusal::NotFound
    );
    assert_eq!(machine.state.file_bytes, 6);
    assert_eq!(refusal(machine.apply(rename("a", "c"))), Refusal::NotFound);
    let to = Entry {
        directory: InodeId::new(PartitionId(1), 5),
        name: bytes("x"),
    };
    let away = Command::Rename {
        from: entry("b"),
        to,
        mode: RenameMode::Replace,
    };
    assert_eq!(machine.apply(away), Err(Failure::CrossPartition));
}

#[test]
fn inline_writes_fill_holes_and_stop_at_the_limit() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"ab");
    let write = |offset, data: &'static [u8], truncate| Command::WriteInline {
        inode: file,
        offset,
        data: Bytes::from_static(data),
        truncate,
    };
    machine.apply(write(4, b"c", false)).unwrap();
    assert_eq!(machine.layout(file, 0, 9), Content::Inline(bytes("ab\0\0c")));
    assert_eq!(machine.attributes(file).version, 2);
    assert_eq!(
        machine.apply(write(8192, b"x", false)),
        Err(Failure::TooLargeForInline)
    );
    machine.apply(write(0, b"new", true)).unwrap();
    assert_eq!(machine.layout(file, 0, 9), Content::Inline(bytes("new")));
    machine.apply(resize(file, 1)).unwrap();
    machine.apply(resize(file, 3)).unwrap();
    assert_eq!(
        machine.layout(file, 0, 9),
        Content::Inline(bytes("n\0\0")),
        "what was cut stays cut"
    );
    machine.apply(resize(file, 1 << 40)).unwrap();
    assert_eq!(machine.state.file_bytes, 1 << 40);
    assert_eq!(runs(machine.layout(file, 1 << 30, 4096)), []);
}

#[test]
fn publishing_overlays_and_drops_blocks_nobody_uses() {
    // Goal: splitting, replacing and truncating extents; a block is garbage when its last extent goes.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    machine
        .apply(publish(file, vec![extent(0, 100, 1)], 100))
        .unwrap();
    machine.apply(publish(file, vec![extent(40, 20, 2)], 0)).unwrap();
    assert_eq!(
        runs(machine.layout(file, 0, 100)),
        [(0, 40, 1, 0), (40, 20, 2, 0), (60, 40, 1, 60)]
    );
    assert_eq!(runs(machine.layout(file, 50, 5)), [(40, 20, 2, 0)]);
    machine.apply(resize(file, 70)).unwrap();
    machine.apply(publish(file, vec![extent(0, 40, 3)], 0)).unwrap();
    assert_eq!(
        runs(machine.layout(file, 0, 100)),
        [(0, 40, 3, 0), (40, 20, 2, 0), (60, 10, 1, 60)]
    );
    assert_eq!(machine.state.garbage.len(), 0);
    machine.apply(publish(file, vec![extent(30, 60, 4)], 90)).unwrap();
    assert_eq!(
        runs(machine.layout(file, 0, 100)),
        [(0, 30, 3, 0), (30, 60, 4, 0)]
    );
    assert_eq!(machine.state.garbage.len(), 2);
    assert_eq!(
        refusal(machine.apply(publish(file, vec![extent(0, 100, 1)], 100))),
        Refusal::Conflict
    );
    machine
        .apply(Command::Unlink {
            directory: ROOT,
            name: bytes("f"),
        })
        .unwrap();
    assert_eq!((machine.state.garbage.len(), machine.state.blocks.len()), (2, 2));
    let before = machine.time;
    machine.reap();
    assert_eq!((machine.state.garbage.len(), machine.state.blocks.len()), (4, 0));
    let nodes = [NodeNumber(1), NodeNumber(2)];
    assert!(
        machine
            .state
            .garbage()
            .all(|(_, since, on)| (since == before || since == machine.time) && on == nodes)
    );
}

#[test]
fn publishing_again_or_on_a_stale_base_is_told_apart() {
    // Goal: the same extents twice keep their block; a stale base conflicts.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"inline");
    machine.apply(publish(file, vec![extent(0, 12, 1)], 12)).unwrap();
    machine.apply(publish(file, vec![extent(0, 12, 1)], 12)).unwrap();
    assert_eq!(machine.state.garbage.len(), 0);
    let stale = Command::Publish {
        inode: file,
        extents: vec![extent(0, 5, 2)],
        size: 5,
        replace_all: true,
        base_version: Some(1),
    };
    assert_eq!(refusal(machine.apply(stale)), Refusal::Conflict);
    assert_eq!(
        refusal(machine.apply(publish(file, vec![extent(0, 13, 2)], 12))),
        Refusal::InvalidArgument
    );
    assert_eq!(machine.attributes(file).version, 3);
}

#[test]
fn a_directory_is_listed_in_pages() {
    let mut machine = Machine::new();
    for name in ["c", "a", "b"] {
        machine.create(ROOT, name, b"");
    }
    let page = |after: &str| match machine.query(Query::ReadDirectory {
        directory: ROOT,
        after: match after {
            "" => ListPosition::Start,
            name => ListPosition::AfterName(bytes(name)),
        },
        limit: 2,
    }) {
        Ok(Reply::Directory { entries, more, .. }) => (
            entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>(),
            more,
        ),
        other => panic!("{other:?}"),
    };
    let (mut names, more) = page("");
    assert!(more && names.len() == 2);
    let (rest, more) = page(std::str::from_utf8(&names[1]).unwrap());
    assert!(!more);
    names.extend(rest);
    names.sort();
    assert_eq!(names, [bytes("a"), bytes("b"), bytes("c")]);
}
