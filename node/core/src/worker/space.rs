//! What a worker still takes when the disk of its node runs full.
//!
//! A reserve is kept, so that the log can go on: deletions, the ends of transactions and snapshots need a little
//! space to make more. Changes that make the state larger are refused with a clear answer while the reserve is
//! touched, before they are proposed: nothing of them is done.
//!
//! Invariants:
//! - What was proposed is never refused here, nor what ends a transaction or makes the state smaller.
//! - The disk is measured seconds apart, and can be filled in less: between two measurements, what this worker hands to
//!   it counts as gone.

use bark_schema::data::{DataCommand, NewBytes};
use bark_schema::operation::{Command, Failure, NodeRequest, Refusal, Request};
use bark_schema::placement::NodeUse;

use super::Worker;
use crate::log::Record;

/// Free space that only clean-up may use: eight log segments, or a quarter of a small disk.
const RESERVE_BYTES_MAX: u64 = 256 << 20;
const RESERVE_SHARE: u64 = 4;

impl Worker {
    /// Why a request that arrived here must not be carried out for want of space.
    pub(super) fn refusal_for_space(&self, request: &Request) -> Option<Failure> {
        if !self.lacks_space() || !grows(request) {
            return None;
        }
        let sentence = format!(
            "the disk of {} is full: {} bytes are left",
            self.config.node, self.disk.free_bytes
        );
        Some(Failure::refused(Refusal::NoSpace, sentence))
    }

    /// Until the next measurement: what goes into the log now goes into a snapshot later.
    pub(super) fn count_space_for_records(&mut self, records: &[Record]) {
        let bytes: usize = records
            .iter()
            .map(|record| match record {
                Record::Entry { data, .. } => data.len(),
                _ => 0,
            })
            .sum();
        self.count_space(2 * bytes as u64);
    }

    pub(super) fn count_space(&mut self, bytes: u64) {
        self.disk.free_bytes = self.disk.free_bytes.saturating_sub(bytes);
    }

    /// Whether the reserve is touched.
    pub(super) fn lacks_space(&self) -> bool {
        let NodeUse {
            total_bytes,
            free_bytes,
            ..
        } = self.disk;
        free_bytes < RESERVE_BYTES_MAX.min(total_bytes / RESERVE_SHARE)
    }
}

fn grows(request: &Request) -> bool {
    match request {
        Request::Command { command, .. } => {
            let command = command.inner();
            matches!(
                command,
                Command::KeySet { .. }
                    | Command::KeyIncrement { .. }
                    | Command::Create { .. }
                    | Command::XattrSet { .. }
                    | Command::Data(DataCommand::Write { .. } | DataCommand::CopyRange { .. })
                    | Command::WriteInline { .. }
                    | Command::Publish { .. }
                    | Command::Prepare { .. }
            ) || matches!(
                command,
                Command::Data(DataCommand::Update(update)) if update.bytes != NewBytes::Nothing
            )
        }
        Request::Node(NodeRequest::BlockPut { local_only, .. }) => *local_only,
        Request::Namespace { .. } | Request::Query { .. } | Request::Node(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use bark_schema::ids::{InodeId, PartitionId};
    use bytes::Bytes;

    use super::*;
    use crate::worker::gateway::NO_SESSION;

    #[test]
    fn what_frees_space_is_taken_when_the_disk_is_full() {
        // Goal: a full disk can be emptied by its users.
        let command = |command| Request::Command {
            partition: PartitionId(0),
            id: NO_SESSION,
            command,
        };
        assert!(grows(&command(Command::KeyIncrement {
            key: Bytes::new(),
            by: 1
        })));
        assert!(!grows(&command(Command::KeyDelete {
            keys: Vec::new(),
            condition: bark_schema::operation::Condition::Always
        })));
        assert!(!grows(&command(Command::Unlink {
            directory: InodeId::ROOT,
            name: Bytes::new()
        })));
    }
}
