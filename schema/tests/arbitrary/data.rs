//! What files, usage and quotas are asked and told.

use bark_schema::data::*;
use bark_schema::quota::*;
use bark_schema::upkeep::*;
use bark_schema::usage::*;

use super::Generator;

impl Generator {
    pub(super) fn data_command(&mut self) -> DataCommand {
        match self.choose("DataCommand", 9) {
            0 => DataCommand::Write {
                inode: self.inode(),
                offset: self.option(Self::number),
                data: self.data(),
            },
            1 => DataCommand::Allocate {
                inode: self.inode(),
                offset: self.number(),
                length: self.number(),
                how: match self.choose("Allocation", 3) {
                    0 => Allocation::Reserve,
                    1 => Allocation::PunchHole,
                    _ => Allocation::ZeroRange,
                },
                keep_size: self.flag(),
            },
            2 => DataCommand::CopyRange {
                from: self.inode(),
                from_offset: self.number(),
                to: self.inode(),
                to_offset: self.number(),
                length: self.number(),
            },
            3 => DataCommand::Repack {
                block: PackedBlock {
                    block: self.block(),
                    size: self.u32(),
                    checksum: self.u32(),
                    nodes: self.list(Self::node),
                },
                pieces: self.list(|generator| PackedPiece {
                    inode: generator.inode(),
                    offset: generator.number(),
                    length: generator.u32(),
                    block_offset: generator.u32(),
                    from: match generator.choose("PackedFrom", 2) {
                        0 => PackedFrom::Patch {
                            written: generator.number(),
                        },
                        _ => PackedFrom::Block {
                            block: generator.block(),
                            block_offset: generator.u32(),
                        },
                    },
                }),
            },
            4 => DataCommand::CondemnBlocks {
                node: self.node(),
                blocks: self.list(Self::block),
            },
            7 => DataCommand::AbandonBlocks {
                blocks: self.list(Self::block),
                nodes: self.list(Self::node),
            },
            6 => DataCommand::RecordCopies {
                changes: self.list(|generator| CopyChange {
                    block: generator.block(),
                    node: generator.node(),
                    has: generator.flag(),
                }),
            },
            5 => DataCommand::Update(Box::new(self.update())),
            _ => DataCommand::ForgetBlocks {
                blocks: self.list(Self::block),
            },
        }
    }

    pub(super) fn update(&mut self) -> FileUpdate {
        FileUpdate {
            inode: self.inode(),
            bytes: match self.choose("NewBytes", 3) {
                0 => NewBytes::Nothing,
                1 => NewBytes::Pieces(self.list(|arbitrary| NewPiece {
                    offset: arbitrary.number(),
                    data: arbitrary.data(),
                })),
                _ => NewBytes::Blocks {
                    extents: self.list(Self::extent),
                    size: self.number(),
                },
            },
            change: self.attribute_change(),
            drops_privileges: self.flag(),
            written: self.option(Self::i64),
            changed: self.option(Self::i64),
        }
    }

    pub(super) fn data_query(&mut self) -> DataQuery {
        match self.choose("DataQuery", 4) {
            0 => DataQuery::Seek {
                inode: self.inode(),
                offset: self.number(),
                target: match self.choose("SeekTarget", 2) {
                    0 => SeekTarget::Data,
                    _ => SeekTarget::Hole,
                },
            },
            1 => DataQuery::Ledger {
                after: self.option(Self::block),
                limit: self.u32(),
            },
            2 => DataQuery::BlockFiles {
                blocks: self.list(Self::block),
                from: (self.inode(), self.number()),
            },
            _ => DataQuery::UnknownBlocks {
                blocks: self.list(Self::block),
            },
        }
    }

    pub(super) fn scrub_status(&mut self) -> ScrubStatus {
        ScrubStatus {
            node: self.node(),
            cycle: self.number(),
            running: self.flag(),
            checked_blocks: self.number(),
            checked_bytes: self.number(),
            total_bytes: self.number(),
            bad_count: self.number(),
            bad: self.list(|generator| BadCopy {
                block: generator.block(),
                segment: generator.u32(),
                offset: generator.number(),
                inode: generator.option(Self::inode).filter(|inode| inode.0 != 0),
                health: match generator.choose("CopyHealth", 3) {
                    0 => CopyHealth::Waiting,
                    1 => CopyHealth::Healed,
                    _ => CopyHealth::Unneeded,
                },
            }),
        }
    }

    pub(super) fn orphans(&mut self) -> Orphans {
        Orphans {
            node: self.node(),
            count: self.number(),
            bytes: self.number(),
            given_up: self.number(),
            orphans: self.list(|generator| Orphan {
                block: generator.block(),
                size: generator.u32(),
                age_ms: generator.number(),
                is_old: generator.flag(),
            }),
        }
    }

    pub(super) fn ledger_row(&mut self) -> LedgerRow {
        LedgerRow {
            block: self.block(),
            size: self.u32(),
            since: self.i64(),
            condemned: self.flag(),
            nodes: self.list(Self::node),
        }
    }

    pub(super) fn usage(&mut self) -> Usage {
        Usage {
            bytes: self.number(),
            stored: self.number(),
            inodes: self.number(),
        }
    }

    pub(super) fn usage_report(&mut self) -> UsageReport {
        UsageReport {
            directory: self.inode(),
            contributor: self.inode(),
            usage: self.usage(),
            version: self.number(),
            quota: self.option(Self::inode),
        }
    }

    pub(super) fn usage_command(&mut self) -> UsageCommand {
        let reports = self.list(Self::usage_report);
        match self.choose("UsageCommand", 2) {
            0 => UsageCommand::Report { reports },
            _ => UsageCommand::Reported { reports },
        }
    }

    pub(super) fn limits(&mut self) -> QuotaLimits {
        QuotaLimits {
            bytes: self.number(),
            inodes: self.number(),
        }
    }

    pub(super) fn allowance(&mut self) -> Allowance {
        Allowance {
            bytes: self.number(),
            inodes: self.number(),
            epoch: self.number(),
        }
    }

    pub(super) fn phase(&mut self) -> QuotaPhase {
        match self.choose("QuotaPhase", 3) {
            0 => QuotaPhase::Begun,
            1 => QuotaPhase::Active,
            _ => QuotaPhase::Gone,
        }
    }

    pub(super) fn quota_command(&mut self) -> QuotaCommand {
        let quota = self.inode();
        match self.choose("QuotaCommand", 7) {
            0 => QuotaCommand::Set {
                quota,
                limits: self.limits(),
                phase: self.phase(),
            },
            1 => QuotaCommand::Tag {
                directory: quota,
                from: self.option(Self::inode),
                to: self.option(Self::inode),
                parent: self.option(Self::inode),
                after: self.inode(),
            },
            2 => QuotaCommand::Enforce {
                quota,
                on: self.flag(),
            },
            3 => QuotaCommand::Grant {
                quota,
                partition: self.partition(),
                held: self.allowance(),
                wanted: self.allowance(),
            },
            4 => QuotaCommand::Accept {
                quota,
                granted: self.allowance(),
            },
            5 => QuotaCommand::GiveBack { quota },
            _ => QuotaCommand::Settle {
                quota,
                partition: self.partition(),
                held: self.allowance(),
            },
        }
    }
}
