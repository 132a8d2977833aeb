//! Updates: bytes and attributes in one entry, with the times of what was done before it.

use bark_schema::policy::PolicyChange;

use super::*;
use bark_schema::data::{DataCommand, FileUpdate, NewBytes, NewPiece};
use bark_schema::limits::{FILE_SIZE_MAX, PIECES_PER_UPDATE_MAX, WRITE_SIZE_MAX};
use bark_schema::operation::{AttributeChange, SetTime};

const ROOT: InodeId = InodeId::ROOT;

fn update(update: FileUpdate) -> Command {
    Command::Data(DataCommand::Update(Box::new(update)))
}

fn written(inode: InodeId, data: &'static [u8]) -> FileUpdate {
    FileUpdate {
        bytes: NewBytes::at(0, Bytes::from_static(data)),
        ..FileUpdate::of(inode)
    }
}

fn mode(mode: u32) -> AttributeChange {
    AttributeChange {
        mode: Some(mode),
        ..AttributeChange::default()
    }
}

#[test]
fn bytes_and_attributes_arrive_together() {
    // Goal: what a program does between making a file and closing it is one entry. Method: all of it, then look.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let before = machine.attributes(file);
    machine.time += SECOND;
    let all = FileUpdate {
        change: AttributeChange {
            mode: Some(0o640),
            owner: Some(7),
            group: Some(8),
            accessed: Some(SetTime::At(-5)),
            modified: Some(SetTime::At(5)),
            ..AttributeChange::default()
        },
        ..written(file, b"bytes")
    };
    machine.apply(update(all)).unwrap();
    let after = machine.attributes(file);
    assert_eq!((after.mode, after.owner, after.group), (0o640, 7, 8));
    assert_eq!((after.accessed, after.modified), (-5, 5));
    assert_eq!((after.size, after.version), (5, before.version + 1));
    assert_eq!(
        machine.layout(file, 0, 9),
        Content::Inline(Bytes::from_static(b"bytes"))
    );

    let block = FileUpdate {
        bytes: NewBytes::Blocks {
            extents: vec![extent(0, 20_000, 1)],
            size: 20_000,
        },
        change: mode(0o600),
        ..FileUpdate::of(file)
    };
    machine.apply(update(block)).unwrap();
    let after = machine.attributes(file);
    assert_eq!(
        (after.mode, after.size, after.modified),
        (0o600, 20_000, machine.time)
    );
}

#[test]
fn times_of_an_update_are_those_the_client_showed_as_far_as_they_can_be_true() {
    // Goal: no clock of a client moves a file's times behind its last change or ahead of the log. Method: claims
    // before, between and after.
    let mut machine = Machine::new();
    for (claimed, shown) in [(-1, 0), (5, 5), (2 * SECOND, SECOND)] {
        let made = machine.time;
        let file = machine.create(ROOT, &claimed.to_string(), b"");
        machine.time += SECOND;
        let (claimed, shown) = (made + claimed, made + shown);
        let claim = FileUpdate {
            written: Some(claimed),
            changed: Some(claimed),
            ..written(file, b"x")
        };
        machine.apply(update(claim)).unwrap();
        let attributes = machine.attributes(file);
        assert_eq!(
            (attributes.modified, attributes.changed),
            (shown, shown),
            "{claimed}"
        );
    }
    let file = machine.create(ROOT, "f", b"");
    machine.time += SECOND;
    machine.apply(update(written(file, b"y"))).unwrap();
    let attributes = machine.attributes(file);
    assert_eq!(
        (attributes.modified, attributes.changed),
        (machine.time, machine.time)
    );
}

#[test]
fn the_bits_of_a_privileged_program_go_before_a_mode_is_set() {
    // Goal: a new owner never gets a set-user program. Method: modes with and without the group's permission to
    // execute, and a mode that was set afterwards.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    for (had, set, left) in [
        (0o6755, None, 0o755),
        (0o6745, None, 0o2745),
        (0o755, None, 0o755),
        (0o6755, Some(0o4711), 0o4711),
    ] {
        let change = mode(had);
        machine
            .apply(Command::SetAttributes { inode: file, change })
            .unwrap();
        let drops = FileUpdate {
            drops_privileges: true,
            change: set.map(mode).unwrap_or_default(),
            ..FileUpdate::of(file)
        };
        let version = machine.attributes(file).version;
        machine.apply(update(drops)).unwrap();
        let attributes = machine.attributes(file);
        assert_eq!((attributes.mode, attributes.version), (left, version), "{had:o}");
    }
    let change = mode(0o2755);
    machine
        .apply(Command::SetAttributes { inode: ROOT, change })
        .unwrap();
    let drops = FileUpdate {
        drops_privileges: true,
        ..FileUpdate::of(ROOT)
    };
    machine.apply(update(drops)).unwrap();
    assert_eq!(machine.attributes(ROOT).mode, 0o2755, "a directory keeps it");
}

#[test]
fn an_update_that_is_refused_changes_nothing() {
    // Goal: whole or not at all. Method: bytes that cannot be written, together with a mode.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let before = machine.attributes(file);
    let too_far = FileUpdate {
        bytes: NewBytes::at(u64::MAX, Bytes::from_static(b"x")),
        change: mode(0),
        ..FileUpdate::of(file)
    };
    assert_eq!(refusal(machine.apply(update(too_far))), Refusal::FileTooLarge);
    let sized = FileUpdate {
        change: AttributeChange {
            size: Some(1),
            ..mode(0)
        },
        ..FileUpdate::of(file)
    };
    assert_eq!(refusal(machine.apply(update(sized))), Refusal::InvalidArgument);
    let copies = FileUpdate {
        change: AttributeChange {
            policy: PolicyChange {
                replicas: Some(99),
                ..PolicyChange::default()
            },
            ..mode(0)
        },
        ..FileUpdate::of(file)
    };
    assert_eq!(refusal(machine.apply(update(copies))), Refusal::InvalidArgument);
    let directory = FileUpdate {
        change: mode(0),
        ..written(ROOT, b"x")
    };
    assert_eq!(refusal(machine.apply(update(directory))), Refusal::IsDirectory);
    assert_eq!(machine.attributes(file), before);
}

#[test]
fn pieces_are_written_all_or_none_of_them() {
    // Goal: an update of several pieces is atomic. Method: some of each kind that is refused, behind one that alone would not be.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"content");
    let of_sizes = |pieces: &[(u64, usize)]| {
        let piece = |(offset, size): &(u64, usize)| NewPiece {
            offset: *offset,
            data: Bytes::from(vec![7; *size]),
        };
        update(FileUpdate {
            bytes: NewBytes::Pieces(pieces.iter().map(piece).collect()),
            ..FileUpdate::of(file)
        })
    };
    let before = (machine.attributes(file), machine.layout(file, 0, 100));
    let many: Vec<(u64, usize)> = (0..=PIECES_PER_UPDATE_MAX as u64).map(|at| (at * 2, 1)).collect();
    for (pieces, expected) in [
        (&[][..], Refusal::InvalidArgument),
        (&[(0, 3), (2, 1)], Refusal::InvalidArgument),
        (&[(5, 1), (0, 1)], Refusal::InvalidArgument),
        (&[(0, 1), (5, 0)], Refusal::InvalidArgument),
        (&[(0, 1), (10, WRITE_SIZE_MAX)], Refusal::InvalidArgument),
        (&[(0, 1), (FILE_SIZE_MAX, 1)], Refusal::FileTooLarge),
        (&[(0, 1), (u64::MAX, 1)], Refusal::FileTooLarge),
        (&many, Refusal::InvalidArgument),
    ] {
        assert_eq!(refusal(machine.apply(of_sizes(pieces))), expected, "{pieces:?}");
        assert_eq!((machine.attributes(file), machine.layout(file, 0, 100)), before);
    }
    machine.apply(of_sizes(&[(1, 2), (3, 1), (5, 1)])).unwrap();
    let content = Content::Inline(Bytes::from_static(b"c\x07\x07\x07e\x07t"));
    assert_eq!(machine.layout(file, 0, 9), content);
    assert_eq!(machine.attributes(file).version, before.0.version + 3);
}
