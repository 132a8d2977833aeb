//! Replies and failures.

use bark_schema::data::*;
use bark_schema::ids::ClientId;
use bark_schema::operation::*;
use bark_schema::quota::*;
use bark_schema::upkeep::*;

use super::Generator;

impl Generator {
    pub(super) fn reply(&mut self) -> Reply {
        match self.choose("Reply", 37) {
            0 => Reply::Done,
            1 => Reply::Value(self.option(|generator| KeyValue {
                value: generator.data(),
                version: generator.number(),
                expires: generator.option(Self::number),
            })),
            2 => Reply::Values(self.list(|generator| generator.option(Self::data))),
            3 => Reply::Count(self.number()),
            4 => Reply::Number(self.i64()),
            5 => Reply::Set {
                applied: self.flag(),
                version: self.number(),
                previous: self.option(Self::data),
            },
            6 => Reply::Keys {
                keys: self.list(Self::data),
                more: self.flag(),
            },
            7 => Reply::Entry {
                inode: self.inode(),
                kind: self.kind(),
                attributes: self.option(Self::attributes),
            },
            8 => Reply::Attributes(self.attributes()),
            9 => Reply::Created {
                attributes: self.attributes(),
                created: self.flag(),
            },
            10 => Reply::Directory {
                entries: self.list(|generator| DirectoryEntry {
                    name: generator.data(),
                    inode: generator.inode(),
                    kind: generator.kind(),
                    attributes: generator.option(Self::attributes),
                    cookie: generator.number(),
                }),
                more: self.flag(),
                parent: self.inode(),
            },
            11 => Reply::Link(self.data()),
            12 => Reply::Layout {
                attributes: self.attributes(),
                content: self.content(),
            },
            13 => Reply::Walked {
                attributes: self.attributes(),
                parent: self.inode(),
                content: self.content(),
            },
            14 => Reply::Stored {
                nodes: self.list(Self::node),
            },
            15 => Reply::Block(self.data()),
            16 => Reply::Partition(self.partition_status()),
            17 => Reply::Outcome(match self.choose("TransactionOutcome", 3) {
                0 => TransactionOutcome::Committed,
                1 => TransactionOutcome::Aborted,
                _ => TransactionOutcome::Undecided,
            }),
            18 => Reply::Cluster(ClusterStatus {
                cluster: self.text(),
                node: self.node(),
                nodes: self.list(Self::node_status),
                partitions: self.list(Self::partition_status),
                durability: self.text(),
                replicas: self.u32(),
                partition_count: self.u32(),
                disk_total_bytes: self.number(),
                disk_free_bytes: self.number(),
                block_bytes: self.number(),
            }),
            19 => Reply::Xattr(self.data()),
            20 => Reply::Xattrs(self.list(Self::data)),
            21 => Reply::Opens {
                missing: self.list(Self::inode),
                renewed: self.flag(),
            },
            22 => Reply::Copied(Copied {
                length: self.number(),
                attributes: self.attributes(),
            }),
            23 => Reply::Blocks(self.list(Self::block)),
            26 => Reply::Allowance(self.allowance()),
            27 => Reply::Quota(Quota {
                quota: self.option(Self::inode),
                limits: self.limits(),
                phase: self.phase(),
                used_bytes: self.number(),
                used_inodes: self.number(),
                allowed: self.option(Self::allowance),
            }),
            30 => Reply::Audit(Box::new(self.audit_page())),
            31 => Reply::Traced(Box::new(self.traced())),
            32 => Reply::Scrub(self.scrub_status()),
            33 => Reply::Orphans(self.orphans()),
            34 => Reply::Ledger {
                rows: self.list(Self::ledger_row),
                more: self.flag(),
            },
            35 => Reply::BlockFiles(BlockFiles {
                found: self.list(|generator| (generator.block(), generator.inode())),
                next: self.option(|generator| (generator.inode(), generator.number())),
            }),
            24 => Reply::Usage(self.usage()),
            29 => Reply::Lock(self.lock_answer()),
            25 => Reply::UsageReports {
                reports: self.list(Self::usage_report),
                next: self.list(Self::usage_report),
                transactions: self.list(Self::transaction),
                more: self.flag(),
            },
            28 => Reply::Delegated(self.list(Self::inode)),
            _ => Reply::Value(None),
        }
    }

    pub(super) fn disk_refusal(&mut self) -> Option<DiskRefusal> {
        match self.choose("DiskRefusal", 3) {
            0 => None,
            1 => Some(DiskRefusal::OtherDisk),
            _ => Some(DiskRefusal::OlderCopy),
        }
    }

    pub(super) fn node_status(&mut self) -> NodeStatus {
        NodeStatus {
            number: self.node(),
            id: self.text(),
            capnp: self.text(),
            resp: self.text(),
            http: self.text(),
            zone: self.text(),
            reachable: self.flag(),
            draining: self.flag(),
            disk_slow: self.flag(),
            refusal: self.disk_refusal(),
        }
    }

    pub(super) fn partition_status(&mut self) -> PartitionStatus {
        PartitionStatus {
            partition: self.partition(),
            leader: self.option(Self::node),
            term: self.number(),
            applied: self.number(),
            state_hash: self.number(),
            keys: self.number(),
            inodes: self.number(),
            file_bytes: self.number(),
            log_entries: self.number(),
            snapshot_index: self.number(),
            allocated_bytes: self.number(),
            orphans: self.number(),
            block_bytes: self.number(),
            garbage_bytes: self.number(),
            patch_bytes: self.number(),
        }
    }

    pub(super) fn failure(&mut self) -> Failure {
        match self.choose("Failure", 9) {
            0 => Failure::NotLeader {
                leader: self.option(Self::node),
            },
            1 => Failure::Busy(self.text()),
            2 => Failure::Locked {
                transaction: self.transaction(),
                primary: self.partition(),
            },
            3 => Failure::CrossPartition,
            6 => Failure::OverAllowance {
                quota: self.inode(),
                bytes: self.number(),
                inodes: self.number(),
            },
            4 => Failure::TooLargeForInline,
            5 => Failure::Unknown(self.text()),
            7 => Failure::Delegated {
                directory: self.inode(),
                client: ClientId(self.number()),
            },
            _ => Failure::Refused(self.refusal(), self.text()),
        }
    }

    pub(super) fn refusal(&mut self) -> Refusal {
        const ALL: [Refusal; 29] = [
            Refusal::NotFound,
            Refusal::Exists,
            Refusal::NotDirectory,
            Refusal::IsDirectory,
            Refusal::NotEmpty,
            Refusal::NameTooLong,
            Refusal::InvalidArgument,
            Refusal::TooManySymlinks,
            Refusal::FileTooLarge,
            Refusal::NoSpace,
            Refusal::TooManyLinks,
            Refusal::Conflict,
            Refusal::Corrupt,
            Refusal::NotInteger,
            Refusal::Overflow,
            Refusal::SessionExpired,
            Refusal::PermissionDenied,
            Refusal::Unsupported,
            Refusal::Internal,
            Refusal::NoData,
            Refusal::Range,
            Refusal::NotPermitted,
            Refusal::CrossDevice,
            Refusal::TooBig,
            Refusal::QuotaExceeded,
            Refusal::BeyondEnd,
            Refusal::NoLocks,
            Refusal::Deadlock,
            Refusal::Fenced,
        ];
        ALL[self.choose("Refusal", ALL.len() as u64) as usize]
    }

    pub(super) fn result(&mut self) -> Result<Reply, Failure> {
        if self.flag() {
            Ok(self.reply())
        } else {
            Err(self.failure())
        }
    }
}
