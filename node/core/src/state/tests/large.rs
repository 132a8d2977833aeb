//! Files with more rows than one entry takes away.

use super::*;
use crate::state::unfinished::ROWS_CUT_MAX;
use bark_schema::data::{Allocation, DataCommand};
use bark_schema::limits::EXTENTS_PER_COMMAND_MAX;
use bark_schema::operation::AttributeChange;

const BLOCK: u32 = 65_536;
/// Two entries take not all of them.
const BLOCKS: u64 = 2 * ROWS_CUT_MAX as u64 + 500;

/// A file of so many blocks, which are named from `first_block` on.
fn write_blocks(machine: &mut Machine, name: &str, first_block: u64) -> InodeId {
    let inode = machine.create(InodeId::ROOT, name, b"");
    let numbers: Vec<u64> = (0..BLOCKS).collect();
    for part in numbers.chunks(EXTENTS_PER_COMMAND_MAX) {
        let extents: Vec<Extent> = part
            .iter()
            .map(|number| extent(number * u64::from(BLOCK), BLOCK, first_block + number))
            .collect();
        let size = extents.last().map_or(0, Extent::end);
        machine
            .apply(Command::Publish {
                inode,
                extents,
                size,
                replace_all: false,
                base_version: None,
            })
            .expect("published");
    }
    assert_eq!(machine.state.extents.len(), BLOCKS);
    inode
}

/// Applies a command as its leader does: again until it is finished. Answers the reply and the number of entries.
fn finish(machine: &mut Machine, sequence: u64, command: &Command) -> (Result<Reply, Failure>, u32) {
    for entries in 1.. {
        let rows = machine.state.extents.len();
        let result = machine.request(sequence, command.clone());
        assert!(rows - machine.state.extents.len() <= ROWS_CUT_MAX as u64);
        machine.check_sums();
        if !machine.state.take_unfinished() {
            return (result, entries);
        }
        assert!(matches!(result, Err(Failure::Busy(_))));
        assert!(machine.state.recorded(&request_id(sequence)).is_none());
    }
    unreachable!("it ends")
}

impl Machine {
    /// Counters are what counting anew makes of the rows.
    fn check_sums(&mut self) {
        let space = self.state.space();
        self.state.recount();
        assert_eq!(self.state.space(), space);
    }
}

fn truncate(inode: InodeId, size: u64) -> Command {
    let change = AttributeChange {
        size: Some(size),
        ..Default::default()
    };
    Command::SetAttributes { inode, change }
}

#[test]
fn a_large_file_is_truncated_by_several_entries() {
    // Goal: no entry takes more rows than it may, each leaves a shorter file that is whole, the last one answers,
    // and a repetition of the request gets that answer.
    let mut machine = Machine::new();
    let inode = write_blocks(&mut machine, "large", 1);
    let kept = 100 * u64::from(BLOCK) + 7;
    let (result, entries) = finish(&mut machine, 1, &truncate(inode, kept));
    assert_eq!(entries, 3);
    let Ok(Reply::Attributes(attributes)) = result else {
        panic!("not truncated: {result:?}");
    };
    assert_eq!(attributes.size, kept);
    assert_eq!(machine.state.extents.len(), 101);
    assert_eq!(machine.state.blocks.len(), 101);
    assert_eq!(machine.state.garbage.len(), BLOCKS - 101);
    let version = machine.attributes(inode).version;
    let again = machine.request(1, truncate(inode, kept));
    assert_eq!(again, Ok(Reply::Attributes(attributes)));
    assert_eq!(machine.attributes(inode).version, version);
}

#[test]
fn a_truncation_is_as_large_as_the_file_between_its_entries() {
    // Goal: who reads while a truncation is under way sees a file that ends where its blocks do.
    let mut machine = Machine::new();
    let inode = write_blocks(&mut machine, "large", 1);
    let result = machine.request(1, truncate(inode, 0));
    assert!(matches!(result, Err(Failure::Busy(_))) && machine.state.take_unfinished());
    let rows = BLOCKS - ROWS_CUT_MAX as u64;
    let attributes = machine.attributes(inode);
    assert_eq!(attributes.size, rows * u64::from(BLOCK));
    assert_eq!(attributes.blocks * 512, rows * u64::from(BLOCK));
}

#[test]
fn a_large_hole_is_punched_by_several_entries() {
    // Goal: as truncating; the size stays, and bytes outside the hole do.
    let mut machine = Machine::new();
    let inode = write_blocks(&mut machine, "large", 1);
    let (block, size) = (u64::from(BLOCK), machine.attributes(inode).size);
    let command = Command::Data(DataCommand::Allocate {
        inode,
        offset: block + 5,
        length: size - 2 * block - 10,
        how: Allocation::PunchHole,
        keep_size: true,
    });
    let (result, entries) = finish(&mut machine, 1, &command);
    assert!(result.is_ok() && entries == 3);
    assert_eq!(machine.attributes(inode).size, size);
    assert_eq!(
        machine.attributes(inode).blocks * 512,
        (2 * block + 10).next_multiple_of(512)
    );
    assert_eq!(machine.state.blocks.len(), 4);
}

#[test]
fn writing_a_small_file_over_a_large_one_takes_several_entries() {
    // Goal: what is cut first is the large file's end, then the small content takes the place of the rest.
    let mut machine = Machine::new();
    let inode = write_blocks(&mut machine, "large", 1);
    let command = Command::WriteInline {
        inode,
        offset: 0,
        data: bytes("small"),
        truncate: true,
    };
    let (result, entries) = finish(&mut machine, 1, &command);
    assert!(result.is_ok() && entries == 3);
    assert_eq!(machine.layout(inode, 0, 100), Content::Inline(bytes("small")));
    assert_eq!(machine.state.extents.len(), 0);
}
