//! What programs expect of POSIX metadata: kinds, times, links, renames, extended attributes, listings.

use std::collections::BTreeSet;

use super::*;
use bark_schema::limits::{XATTR_SIZE_MAX, XATTRS_MAX};
use bark_schema::operation::{AttributeChange, Entry, ListPosition, RenameMode, SetTime, Xattr};
use bark_schema::policy::PolicyChange;

const ROOT: InodeId = InodeId::ROOT;

fn entry(name: &str) -> Entry {
    Entry {
        directory: ROOT,
        name: bytes(name),
    }
}

fn rename(from: &str, to: &str, mode: RenameMode) -> Command {
    Command::Rename {
        from: entry(from),
        to: entry(to),
        mode,
    }
}

fn special(name: &str, kind: FileKind, device: u64) -> Command {
    Command::Create {
        directory: ROOT,
        name: bytes(name),
        attributes: NewInode {
            mode: 0o7777,
            ..new_inode()
        },
        content: NewContent::Special { kind, device },
        exclusive: true,
    }
}

fn xattr(name: &str, value: &[u8]) -> Xattr {
    Xattr {
        name: bytes(name),
        value: Bytes::copy_from_slice(value),
    }
}

fn xattr_set(inode: InodeId, xattr: Xattr, condition: Condition) -> Command {
    Command::XattrSet {
        inode,
        xattr,
        condition,
        mode: None,
    }
}

#[test]
fn special_files_have_a_kind_and_only_devices_a_number() {
    let mut machine = Machine::new();
    let cases = [
        (FileKind::Fifo, 0),
        (FileKind::Socket, 0),
        (FileKind::CharacterDevice, 0x1_0003),
        (FileKind::BlockDevice, 0x1_0003),
    ];
    for (kind, device) in cases {
        let name = format!("{kind:?}");
        let Ok(Reply::Created { attributes, .. }) = machine.apply(special(&name, kind, 0x1_0003)) else {
            panic!("{kind:?} was not made");
        };
        assert_eq!(
            (attributes.kind, attributes.device, attributes.mode),
            (kind, device, 0o7777)
        );
        assert_eq!(machine.lookup(ROOT, &name), Ok((attributes.inode, kind)));
        let layout = Query::Layout {
            inode: attributes.inode,
            offset: 0,
            length: 1,
        };
        assert_eq!(refusal(machine.query(layout)), Refusal::InvalidArgument);
    }
    let directory = special("d", FileKind::Directory, 0);
    assert_eq!(refusal(machine.apply(directory)), Refusal::InvalidArgument);
}

#[test]
fn times_are_set_to_the_nanosecond_or_to_the_entry_s_time() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let set = |accessed, modified| Command::SetAttributes {
        inode: file,
        change: AttributeChange {
            accessed,
            modified,
            ..Default::default()
        },
    };
    machine.time += SECOND;
    machine
        .apply(set(Some(SetTime::At(-1)), Some(SetTime::At(2_000_000_001))))
        .unwrap();
    let attributes = machine.attributes(file);
    assert_eq!(
        (attributes.accessed, attributes.modified, attributes.changed),
        (-1, 2_000_000_001, machine.time)
    );
    machine.time += SECOND;
    machine.apply(set(Some(SetTime::Now), None)).unwrap();
    let attributes = machine.attributes(file);
    assert_eq!(
        (attributes.accessed, attributes.modified),
        (machine.time, 2_000_000_001)
    );
}

#[test]
fn every_change_of_an_entry_moves_the_times_of_its_directory() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let link = Command::Link {
        inode: file,
        to: entry("g"),
    };
    let unlink = Command::Unlink {
        directory: ROOT,
        name: bytes("g"),
    };
    let moved = rename("f", "h", RenameMode::Replace);
    let swapped = rename("h", "i", RenameMode::Exchange);
    for command in [create(ROOT, "i", b""), link, moved, swapped, unlink] {
        machine.time += SECOND;
        let version = machine.attributes(ROOT).version;
        machine.apply(command).unwrap();
        let root = machine.attributes(ROOT);
        assert_eq!((root.modified, root.changed), (machine.time, machine.time));
        assert!(root.version > version);
    }
    assert_eq!(machine.attributes(file).changed, machine.time);
}

#[test]
fn a_file_has_as_many_names_as_it_is_given() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let link = |inode, name| Command::Link {
        inode,
        to: entry(name),
    };
    match machine.apply(link(file, "g")) {
        Ok(Reply::Attributes(attributes)) => assert_eq!(attributes.link_count, 2),
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(machine.apply(link(file, "g"))), Refusal::Exists);
    assert_eq!(refusal(machine.apply(link(ROOT, "r"))), Refusal::NotPermitted);
    let elsewhere = InodeId::new(PartitionId(2), 7);
    assert_eq!(machine.apply(link(elsewhere, "e")), Err(Failure::CrossPartition));
    assert_eq!(
        machine.apply(rename("f", "g", RenameMode::Replace)),
        Ok(Reply::Done)
    );
    assert_eq!(machine.lookup(ROOT, "f"), Ok((file, FileKind::Regular)));
    assert_eq!(
        refusal(machine.apply(rename("f", "g", RenameMode::NoReplace))),
        Refusal::Exists
    );
}

#[test]
fn exchange_swaps_two_names_and_needs_both() {
    let mut machine = Machine::new();
    let one = machine.create(ROOT, "one", b"1");
    let two = machine.create(ROOT, "two", b"22");
    machine.time += SECOND;
    assert_eq!(
        machine.apply(rename("one", "two", RenameMode::Exchange)),
        Ok(Reply::Done)
    );
    assert_eq!(machine.lookup(ROOT, "one"), Ok((two, FileKind::Regular)));
    assert_eq!(machine.lookup(ROOT, "two"), Ok((one, FileKind::Regular)));
    for inode in [one, two] {
        let attributes = machine.attributes(inode);
        assert_eq!((attributes.link_count, attributes.changed), (1, machine.time));
    }
    for pair in [("one", "three"), ("three", "one")] {
        assert_eq!(
            refusal(machine.apply(rename(pair.0, pair.1, RenameMode::Exchange))),
            Refusal::NotFound
        );
    }
    assert_eq!(machine.state.orphan_count, 0);
}

#[test]
fn extended_attributes_are_set_read_listed_and_removed() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let get = |machine: &Machine, name| {
        machine.query(Query::XattrGet {
            inode: file,
            name: bytes(name),
        })
    };
    let set = |value, condition| xattr_set(file, xattr("user.a", value), condition);
    assert_eq!(refusal(get(&machine, "user.a")), Refusal::NoData);
    assert_eq!(
        refusal(machine.apply(set(b"1", Condition::IfPresent))),
        Refusal::NoData
    );
    machine.apply(set(b"1", Condition::IfAbsent)).unwrap();
    assert_eq!(
        refusal(machine.apply(set(b"2", Condition::IfAbsent))),
        Refusal::Exists
    );
    machine.apply(set(b"two", Condition::IfPresent)).unwrap();
    assert_eq!(get(&machine, "user.a"), Ok(Reply::Xattr(bytes("two"))));
    let with_mode = Command::XattrSet {
        inode: file,
        xattr: xattr("security.capability", b""),
        condition: Condition::Always,
        mode: Some(0o100_640),
    };
    match machine.apply(with_mode) {
        Ok(Reply::Attributes(attributes)) => {
            assert_eq!((attributes.mode, attributes.xattr_count), (0o640, 2));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        machine.query(Query::XattrList { inode: file }),
        Ok(Reply::Xattrs(vec![bytes("security.capability"), bytes("user.a")]))
    );
    let remove = Command::XattrRemove {
        inode: file,
        name: bytes("user.a"),
    };
    machine.apply(remove.clone()).unwrap();
    assert_eq!(refusal(machine.apply(remove)), Refusal::NoData);
    machine
        .apply(Command::Unlink {
            directory: ROOT,
            name: bytes("f"),
        })
        .unwrap();
    machine.reap();
    assert_eq!(machine.state.xattrs.len(), 0, "they go with their inode");
}

/// A list with one user named, whose mask is `mask`.
fn access_list(mask: u8) -> Vec<u8> {
    let entries: [(u8, u8, u32); 5] = [
        (0x01, 6, u32::MAX),
        (0x02, 7, 1000),
        (0x04, 4, u32::MAX),
        (0x10, mask, u32::MAX),
        (0x20, 0, u32::MAX),
    ];
    let mut list = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        list.extend_from_slice(&[tag, 0, permissions, 0]);
        list.extend_from_slice(&id.to_le_bytes());
    }
    list
}

#[test]
fn access_list_and_permission_bits_say_the_same() {
    // Goal: whichever is set, the other follows, whoever sets it. Method: a list, a chmod, a list that is none.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let set = |value: &[u8]| xattr_set(file, xattr("system.posix_acl_access", value), Condition::Always);
    let chmod = |mode| Command::SetAttributes {
        inode: file,
        change: AttributeChange {
            mode: Some(mode),
            ..AttributeChange::default()
        },
    };
    let list = |machine: &Machine| {
        machine.query(Query::XattrGet {
            inode: file,
            name: bytes("system.posix_acl_access"),
        })
    };
    let shows = |reply, mode, count| match reply {
        Ok(Reply::Attributes(attributes)) => {
            assert_eq!((attributes.mode, attributes.xattr_count), (mode, count))
        }
        other => panic!("{other:?}"),
    };
    shows(machine.apply(chmod(0o4755)), 0o4755, 0);
    shows(machine.apply(set(&access_list(5))), 0o4650, 1);
    shows(machine.apply(chmod(0o610)), 0o610, 1);
    assert_eq!(list(&machine), Ok(Reply::Xattr(Bytes::from(access_list(1)))));
    assert_eq!(
        refusal(machine.apply(set(&access_list(9)))),
        Refusal::InvalidArgument
    );
    let minimal = [
        2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255,
        255, 255,
    ];
    shows(machine.apply(set(&minimal)), 0o754, 0);
    assert_eq!(refusal(list(&machine)), Refusal::NoData);
}

#[test]
fn inodes_are_born_with_lists_that_fit_their_permission_bits() {
    // Goal: no inode whose list and bits differ. Method: one that fits and one that does not.
    let mut machine = Machine::new();
    let mut born = |name: &str, mode| {
        machine.apply(Command::Create {
            directory: ROOT,
            name: bytes(name),
            attributes: NewInode {
                mode,
                xattrs: vec![
                    xattr("system.posix_acl_access", &access_list(4)),
                    xattr("system.posix_acl_default", &access_list(7)),
                ],
                ..new_inode()
            },
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        })
    };
    match born("fits", 0o1640) {
        Ok(Reply::Created { attributes, .. }) => {
            assert_eq!((attributes.mode, attributes.xattr_count), (0o1640, 2))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(refusal(born("differs", 0o660)), Refusal::InvalidArgument);
}

#[test]
fn extended_attributes_have_limits() {
    // Goal: size of a name, of a value, of all; replacing within the limit always works.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let set = |name: &str, size| xattr_set(file, xattr(name, &vec![1; size]), Condition::Always);
    assert_eq!(refusal(machine.apply(set("", 1))), Refusal::Range);
    assert_eq!(refusal(machine.apply(set(&"n".repeat(256), 1))), Refusal::Range);
    assert_eq!(
        refusal(machine.apply(set("user.a", XATTR_SIZE_MAX + 1))),
        Refusal::TooBig
    );
    machine.apply(set("user.a", XATTR_SIZE_MAX)).unwrap();
    machine.apply(set("user.b", XATTR_SIZE_MAX - 12)).unwrap();
    assert_eq!(refusal(machine.apply(set("user.c", 1))), Refusal::NoSpace);
    machine.apply(set("user.a", 10)).unwrap();
    machine.apply(set("user.c", 1)).unwrap();
    let many = machine.create(ROOT, "many", b"");
    for number in 0..XATTRS_MAX {
        let one = xattr(&format!("user.{number}"), b"");
        machine.apply(xattr_set(many, one, Condition::Always)).unwrap();
    }
    let more = xattr_set(many, xattr("user.more", b""), Condition::Always);
    assert_eq!(refusal(machine.apply(more)), Refusal::NoSpace);
}

#[test]
fn a_file_is_born_with_attributes_and_a_block_size() {
    let mut machine = Machine::new();
    let born = |block_size, xattrs| Command::Create {
        directory: ROOT,
        name: bytes("f"),
        attributes: NewInode {
            policy: PolicyChange {
                block_size,
                ..PolicyChange::default()
            },
            xattrs,
            ..new_inode()
        },
        content: NewContent::Inline(bytes("abc")),
        exclusive: true,
    };
    let twice = vec![xattr("user.a", b"1"), xattr("user.a", b"2")];
    assert_eq!(
        refusal(machine.apply(born(None, twice))),
        Refusal::InvalidArgument
    );
    for size in [1, 100_000, 1 << 15, 1 << 23] {
        assert_eq!(
            refusal(machine.apply(born(Some(size), Vec::new()))),
            Refusal::InvalidArgument
        );
    }
    match machine.apply(born(Some(1 << 16), vec![xattr("user.a", b"1")])) {
        Ok(Reply::Created { attributes, .. }) => assert_eq!(
            (
                attributes.policy.block_size,
                attributes.xattr_count,
                attributes.blocks
            ),
            (1 << 16, 1, 1)
        ),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sparse_file_takes_only_the_blocks_it_has() {
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let resize = Command::SetAttributes {
        inode: file,
        change: AttributeChange {
            size: Some(1 << 40),
            ..Default::default()
        },
    };
    machine.apply(resize).unwrap();
    assert_eq!(machine.attributes(file).blocks, 0);
    let publish = Command::Publish {
        inode: file,
        extents: vec![extent(1 << 30, 4096, 1)],
        size: 0,
        replace_all: false,
        base_version: None,
    };
    machine.apply(publish).unwrap();
    let attributes = machine.attributes(file);
    assert_eq!((attributes.size, attributes.blocks), (1 << 40, 8));
    assert_eq!(machine.state.allocated_bytes, 4096);
}

fn page(machine: &Machine, after: ListPosition, limit: u32) -> (Vec<(u64, Bytes)>, bool) {
    match machine.query(Query::ReadDirectory {
        directory: ROOT,
        after,
        limit,
    }) {
        Ok(Reply::Directory { entries, more, .. }) => {
            let entries = entries.into_iter().map(|entry| (entry.cookie, entry.name));
            (entries.collect(), more)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_listing_goes_on_where_it_was_though_entries_come_and_go() {
    // Goal: what was there all the time is seen exactly once, by cookie, while everything listed is removed.
    let mut machine = Machine::new();
    for number in 0..500 {
        machine.create(ROOT, &format!("file{number}"), b"");
    }
    let mut seen = BTreeSet::new();
    let mut after = ListPosition::Start;
    loop {
        let (entries, more) = page(&machine, after, 7);
        for (cookie, name) in &entries {
            assert!(*cookie >= 16 && *cookie < 1 << 63);
            assert!(seen.insert(name.clone()), "{name:?} came twice");
            let unlink = Command::Unlink {
                directory: ROOT,
                name: name.clone(),
            };
            machine.apply(unlink).unwrap();
        }
        after = ListPosition::AfterCookie(entries.last().unwrap().0);
        if !more {
            break;
        }
    }
    assert_eq!(seen.len(), 500);
    assert_eq!(page(&machine, ListPosition::Start, 9), (vec![], false));
}

#[test]
fn positions_by_name_and_by_cookie_are_the_same() {
    let mut machine = Machine::new();
    for number in 0..50 {
        machine.create(ROOT, &format!("file{number}"), b"");
    }
    let (all, _) = page(&machine, ListPosition::Start, 100);
    for (index, (cookie, name)) in all.iter().enumerate() {
        for position in [
            ListPosition::AfterCookie(*cookie),
            ListPosition::AfterName(name.clone()),
        ] {
            assert_eq!(page(&machine, position, 100).0, all[index + 1..]);
        }
    }
}
