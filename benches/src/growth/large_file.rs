//! A file of a terabyte: what its map costs, and how long the entries that truncate or remove it take.

use std::time::Instant;

use anyhow::bail;
use bark_core::state::State;
use bark_schema::ids::{BlockId, ClientId, InodeId, NodeNumber, PartitionId};
use bark_schema::limits::{BLOCK_SIZE_DEFAULT, EXTENTS_PER_COMMAND_MAX, ORPHAN_GRACE_MS};
use bark_schema::operation::{
    AttributeChange, Command, Extent, Failure, NewContent, NewInode, Proposal, Reply,
};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{milliseconds, resident_bytes};

struct Machine {
    state: State,
    time: i64,
    /// Blocks published so far.
    blocks: u64,
    entries: u64,
    longest_ms: f64,
}

impl Machine {
    fn apply(&mut self, command: &Command) -> Result<Reply, Failure> {
        let proposal = Proposal {
            time: self.time,
            id: None,
            command: command.clone(),
        };
        let start = Instant::now();
        let result = self.state.apply(self.state.applied() + 1, &proposal);
        self.entries += 1;
        self.longest_ms = self.longest_ms.max(milliseconds(start));
        result
    }

    fn write(&mut self, name: &str, blocks: u64) -> anyhow::Result<InodeId> {
        let command = Command::Create {
            directory: InodeId::ROOT,
            name: Bytes::copy_from_slice(name.as_bytes()),
            attributes: NewInode::default(),
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        let Ok(Reply::Created { attributes, .. }) = self.apply(&command) else {
            bail!("{name}: not created");
        };
        let inode = attributes.inode;
        let size = BLOCK_SIZE_DEFAULT as u32;
        let mut offset = 0;
        while offset < blocks * u64::from(size) {
            let mut extents = Vec::new();
            while extents.len() < EXTENTS_PER_COMMAND_MAX && offset < blocks * u64::from(size) {
                self.blocks += 1;
                let block = BlockId {
                    client: ClientId(1),
                    counter: self.blocks,
                };
                extents.push(Extent {
                    offset,
                    length: size,
                    block,
                    block_offset: 0,
                    block_size: size,
                    checksum: 1,
                    nodes: (1..=3).map(NodeNumber).collect(),
                });
                offset += u64::from(size);
            }
            let command = Command::Publish {
                inode,
                extents,
                size: offset,
                replace_all: false,
                base_version: None,
            };
            if let Err(failure) = self.apply(&command) {
                bail!("{name}: {failure:?}");
            }
        }
        Ok(inode)
    }

    /// Entries since the last call, the longest of them and all of them together, in milliseconds.
    fn taken(&mut self, start: Instant) -> (u64, f64, f64) {
        let taken = (self.entries, self.longest_ms, milliseconds(start));
        (self.entries, self.longest_ms) = (0, 0.0);
        taken
    }
}

pub fn measure(blocks: u64) -> anyhow::Result<Value> {
    let mut machine = Machine {
        state: State::new(PartitionId(0), 1),
        time: 1,
        blocks: 0,
        entries: 0,
        longest_ms: 0.0,
    };
    let memory = resident_bytes();
    let start = Instant::now();
    let truncated = machine.write("truncated", blocks)?;
    let published = machine.taken(start);
    let bytes_per_block = (resident_bytes().saturating_sub(memory)) as f64 / blocks as f64;

    let start = Instant::now();
    let change = AttributeChange {
        size: Some(0),
        ..Default::default()
    };
    let command = Command::SetAttributes {
        inode: truncated,
        change,
    };
    let mut result = machine.apply(&command);
    while machine.state.take_unfinished() {
        result = machine.apply(&command);
    }
    anyhow::ensure!(result.is_ok(), "{result:?}");
    let truncate = machine.taken(start);

    machine.write("removed", blocks)?;
    let name = Bytes::from_static(b"removed");
    let directory = InodeId::ROOT;
    machine.taken(start);
    let start = Instant::now();
    let unlinked = machine.apply(&Command::Unlink { directory, name });
    anyhow::ensure!(unlinked.is_ok(), "{unlinked:?}");
    machine.time += ORPHAN_GRACE_MS as i64 * 1_000_000;
    while machine.state.has_due_orphans(machine.time) {
        let reaped = machine.apply(&Command::ReapOrphans { limit: 1024 });
        anyhow::ensure!(reaped.is_ok(), "{reaped:?}");
    }
    let remove = machine.taken(start);
    Ok(
        json!({"case": "large", "blocks": blocks, "bytes_per_block": bytes_per_block,
        "publish_entries": published.0, "publish_longest_ms": published.1, "publish_ms": published.2,
        "truncate_entries": truncate.0, "truncate_longest_ms": truncate.1, "truncate_ms": truncate.2,
        "remove_entries": remove.0, "remove_longest_ms": remove.1, "remove_ms": remove.2}),
    )
}

pub fn print(rows: &[Value]) {
    for row in rows.iter().filter(|row| row["case"] == "large") {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        println!(
            "\none file of {} blocks of 1 MiB: {:.0} B of memory a block",
            number("blocks"),
            number("bytes_per_block")
        );
        println!("{:10} {:>8} {:>12} {:>8}", "", "entries", "longest ms", "all ms");
        for step in ["publish", "truncate", "remove"] {
            println!(
                "{step:10} {:>8} {:>12.1} {:>8.0}",
                number(&format!("{step}_entries")),
                number(&format!("{step}_longest_ms")),
                number(&format!("{step}_ms"))
            );
        }
    }
}
