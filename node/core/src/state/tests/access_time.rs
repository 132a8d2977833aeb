//! Reads move the time of access, and nothing else.

use super::*;
use bark_schema::access_time::Access;
use bark_schema::limits::ACCESSES_PER_COMMAND_MAX;
use bark_schema::operation::{AttributeChange, SetTime, UnixNanos};

const ROOT: InodeId = InodeId::ROOT;

#[test]
fn a_read_moves_the_time_of_access_alone() {
    // Goal: relatime. Method: read, read again, write and read, and compare everything else.
    let mut machine = Machine::new();
    let file = machine.create(ROOT, "f", b"");
    let born = machine.attributes(file);
    let read = |inode, at| Command::MoveAccessTimes {
        accesses: vec![Access { inode, at }],
    };
    machine.time += 10 * SECOND;
    let at = machine.time - SECOND;
    machine.apply(read(file, at)).unwrap();
    let mut expected = born.clone();
    expected.accessed = at;
    assert_eq!(machine.attributes(file), expected);
    machine.apply(read(file, at + 1)).unwrap();
    assert_eq!(
        machine.attributes(file),
        expected,
        "one tells nothing after another"
    );

    machine.time += SECOND;
    let set = AttributeChange {
        accessed: Some(SetTime::At(7)),
        ..AttributeChange::default()
    };
    let change = set;
    machine
        .apply(Command::SetAttributes { inode: file, change })
        .unwrap();
    machine.apply(read(file, machine.time - 1)).unwrap();
    assert_eq!(
        machine.attributes(file).accessed,
        7,
        "it was read before the time was set"
    );
    machine.time += SECOND;
    machine.apply(read(file, UnixNanos::MAX)).unwrap();
    assert_eq!(machine.attributes(file).accessed, machine.time, "never after now");
    machine.apply(read(ROOT, machine.time)).unwrap();
    assert_eq!(
        machine.attributes(ROOT).accessed,
        machine.time,
        "a directory that was listed"
    );
}

#[test]
fn what_is_gone_is_passed_over_and_too_many_are_refused() {
    // Goal: a batch that is late, or too long, harms nobody. Method: both.
    let mut machine = Machine::new();
    let access = Access {
        inode: InodeId(1 << 40),
        at: 5,
    };
    let batch = |count| Command::MoveAccessTimes {
        accesses: vec![access; count],
    };
    assert_eq!(machine.apply(batch(ACCESSES_PER_COMMAND_MAX)), Ok(Reply::Done));
    assert!(machine.apply(batch(ACCESSES_PER_COMMAND_MAX + 1)).is_err());
}
