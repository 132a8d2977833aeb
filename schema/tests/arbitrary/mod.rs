//! Seeded random messages of every variant.

use std::collections::BTreeSet;

use bark_schema::access_time::Access;
use bark_schema::data::*;
use bark_schema::ids::*;
use bark_schema::message::*;
use bark_schema::operation::*;
use bark_schema::policy::*;
use bark_schema::quota::*;
use bark_schema::usage::*;
use bytes::Bytes;

pub struct Generator {
    state: u64,
    /// (type, variant) of every choice made, and how many variants each type has.
    seen: BTreeSet<(&'static str, u64)>,
    variants: BTreeSet<(&'static str, u64)>,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            state: seed,
            seen: BTreeSet::new(),
            variants: BTreeSet::new(),
        }
    }

    pub fn assert_all_variants_seen(&self) {
        for (name, count) in &self.variants {
            for variant in 0..*count {
                assert!(
                    self.seen.contains(&(*name, variant)),
                    "{name} {variant} was never made"
                );
            }
        }
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.state;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn choose(&mut self, name: &'static str, count: u64) -> u64 {
        let variant = self.next() % count;
        self.seen.insert((name, variant));
        self.variants.insert((name, count));
        variant
    }

    /// Often zero, the largest or small: the edges.
    fn number(&mut self) -> u64 {
        match self.next() % 4 {
            0 => 0,
            1 => u64::MAX,
            2 => self.next() % 100,
            _ => self.next(),
        }
    }

    fn u32(&mut self) -> u32 {
        self.number() as u32
    }

    fn i64(&mut self) -> i64 {
        self.number() as i64
    }

    fn flag(&mut self) -> bool {
        self.next().is_multiple_of(2)
    }

    fn data(&mut self) -> Bytes {
        let length = [0, 1, 7, 8, 9, 300][(self.next() % 6) as usize];
        (0..length).map(|_| self.next() as u8).collect()
    }

    fn text(&mut self) -> String {
        ["", "a", "node-1", "Zürich ☃ with a\0 zero"][(self.next() % 4) as usize].into()
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.next() % 4).map(|_| make(self)).collect()
    }

    fn option<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn partition(&mut self) -> PartitionId {
        PartitionId(self.number() as u16)
    }

    /// Never zero, which means none.
    fn node(&mut self) -> NodeNumber {
        NodeNumber((self.number() as u16).max(1))
    }

    fn inode(&mut self) -> InodeId {
        InodeId(self.number().max(1))
    }

    fn block(&mut self) -> BlockId {
        BlockId {
            client: ClientId(self.number()),
            counter: self.number(),
        }
    }

    fn transaction(&mut self) -> TransactionId {
        TransactionId {
            client: ClientId(self.number()),
            sequence: self.number(),
            attempt: self.number(),
        }
    }

    fn request_id(&mut self) -> RequestId {
        RequestId {
            client: ClientId(self.number()),
            sequence: self.number(),
            acknowledged_below: self.number(),
        }
    }

    fn entry(&mut self) -> Entry {
        Entry {
            directory: self.inode(),
            name: self.data(),
        }
    }

    fn kind(&mut self) -> FileKind {
        match self.choose("FileKind", 7) {
            0 => FileKind::Regular,
            1 => FileKind::Directory,
            2 => FileKind::Symlink,
            3 => FileKind::Fifo,
            4 => FileKind::Socket,
            5 => FileKind::CharacterDevice,
            _ => FileKind::BlockDevice,
        }
    }

    fn rename_mode(&mut self) -> RenameMode {
        match self.choose("RenameMode", 3) {
            0 => RenameMode::Replace,
            1 => RenameMode::NoReplace,
            _ => RenameMode::Exchange,
        }
    }

    fn set_time(&mut self) -> SetTime {
        match self.choose("SetTime", 2) {
            0 => SetTime::Now,
            _ => SetTime::At(self.i64()),
        }
    }

    fn xattr(&mut self) -> Xattr {
        Xattr {
            name: self.data(),
            value: self.data(),
        }
    }

    fn list_position(&mut self) -> ListPosition {
        match self.choose("ListPosition", 3) {
            0 => ListPosition::Start,
            1 => ListPosition::AfterName(Bytes::from(vec![b'n'; 1 + (self.next() % 255) as usize])),
            _ => ListPosition::AfterCookie(self.number().max(1)),
        }
    }

    fn new_inode(&mut self) -> NewInode {
        NewInode {
            mode: self.u32(),
            owner: self.u32(),
            group: self.u32(),
            policy: self.policy_change(),
            xattrs: self.list(Self::xattr),
        }
    }

    fn allocate(&mut self) -> Allocate {
        match self.choose("Allocate", 3) {
            0 => Allocate::Ring,
            1 => Allocate::RoundRobin,
            _ => Allocate::LeastUsed,
        }
    }

    fn policy(&mut self) -> Policy {
        Policy {
            block_size: self.u32(),
            replicas: self.u32(),
            allocate: self.allocate(),
        }
    }

    fn policy_change(&mut self) -> PolicyChange {
        PolicyChange {
            block_size: self.option(Self::u32).filter(|size| *size != 0),
            replicas: self.option(Self::u32),
            allocate: self.option(Self::allocate),
        }
    }

    fn attributes(&mut self) -> Attributes {
        Attributes {
            inode: self.inode(),
            kind: self.kind(),
            mode: self.u32(),
            owner: self.u32(),
            group: self.u32(),
            size: self.number(),
            link_count: self.u32(),
            accessed: self.i64(),
            modified: self.i64(),
            changed: self.i64(),
            version: self.number(),
            device: self.number(),
            blocks: self.number(),
            policy: self.policy(),
            xattr_count: self.u32(),
        }
    }

    fn extent(&mut self) -> Extent {
        Extent {
            offset: self.number(),
            length: self.u32(),
            block: self.block(),
            block_offset: self.u32(),
            block_size: self.u32(),
            checksum: self.u32(),
            nodes: self.list(Self::node),
        }
    }

    fn content(&mut self) -> Content {
        match self.choose("Content", 2) {
            0 => Content::Inline(self.data()),
            _ => Content::Mapped(FileMap {
                extents: self.list(Self::extent),
                patches: self.list(|generator| Patch {
                    offset: generator.number(),
                    data: generator.data(),
                }),
                known_until: self.number(),
            }),
        }
    }

    fn expiry(&mut self) -> Expiry {
        match self.choose("Expiry", 4) {
            0 => Expiry::Never,
            1 => Expiry::Keep,
            2 => Expiry::At(self.number()),
            _ => Expiry::After(self.number()),
        }
    }

    fn condition(&mut self) -> Condition {
        match self.choose("Condition", 4) {
            0 => Condition::Always,
            1 => Condition::IfAbsent,
            2 => Condition::IfPresent,
            _ => Condition::IfVersion(self.number()),
        }
    }

    fn request(&mut self) -> Request {
        match self.choose("Request", 4) {
            0 => Request::Query {
                partition: self.partition(),
                query: self.query(),
            },
            1 => Request::Command {
                partition: self.partition(),
                id: self.request_id(),
                command: self.command(),
            },
            2 => Request::Namespace {
                id: self.request_id(),
                operation: self.namespace(),
            },
            _ => Request::Node(self.node_request()),
        }
    }

    fn query(&mut self) -> Query {
        match self.choose("Query", 17) {
            0 => Query::KeyGet { key: self.data() },
            1 => Query::KeyGetMany {
                keys: self.list(Self::data),
            },
            2 => Query::KeyExists {
                keys: self.list(Self::data),
            },
            3 => Query::KeyScan {
                after: self.data(),
                prefix: self.data(),
                limit: self.u32(),
            },
            4 => Query::KeyCount,
            5 => Query::Lookup {
                directory: self.inode(),
                name: self.data(),
            },
            6 => Query::Attributes { inode: self.inode() },
            7 => Query::ReadDirectory {
                directory: self.inode(),
                after: self.list_position(),
                limit: self.u32(),
            },
            8 => Query::ReadLink { inode: self.inode() },
            9 => Query::Layout {
                inode: self.inode(),
                offset: self.number(),
                length: self.number(),
            },
            10 => Query::PartitionStatus,
            11 => Query::XattrGet {
                inode: self.inode(),
                name: self.data(),
            },
            12 => Query::XattrList { inode: self.inode() },
            13 => Query::Data(self.data_query()),
            15 => Query::Quota(match self.choose("QuotaQuery", 3) {
                0 => QuotaQuery::Of {
                    directory: self.inode(),
                },
                1 => QuotaQuery::Limits { quota: self.inode() },
                _ => QuotaQuery::Used { quota: self.inode() },
            }),
            14 => Query::Usage(match self.choose("UsageQuery", 3) {
                0 => UsageQuery::Total {
                    directory: self.inode(),
                },
                1 => UsageQuery::Elsewhere {
                    after: self.inode(),
                    limit: self.u32(),
                },
                _ => UsageQuery::Unreported {
                    after: self.inode(),
                    limit: self.u32(),
                },
            }),
            _ => Query::TransactionOutcome {
                transaction: self.transaction(),
            },
        }
    }

    fn command(&mut self) -> Command {
        match self.choose("Command", 24) {
            0 => Command::KeySet {
                key: self.data(),
                value: self.data(),
                expiry: self.expiry(),
                condition: self.condition(),
                return_previous: self.flag(),
            },
            1 => Command::KeyDelete {
                keys: self.list(Self::data),
                condition: self.condition(),
            },
            2 => Command::KeyIncrement {
                key: self.data(),
                by: self.i64(),
            },
            3 => Command::KeyExpireDue { limit: self.u32() },
            4 => Command::Create {
                directory: self.inode(),
                name: self.data(),
                attributes: self.new_inode(),
                content: match self.choose("NewContent", 3) {
                    0 => NewContent::Inline(self.data()),
                    1 => NewContent::Symlink(self.data()),
                    _ => NewContent::Special {
                        kind: self.kind(),
                        device: self.number(),
                    },
                },
                exclusive: self.flag(),
            },
            5 => Command::Unlink {
                directory: self.inode(),
                name: self.data(),
            },
            6 => Command::Rename {
                from: self.entry(),
                to: self.entry(),
                mode: self.rename_mode(),
            },
            7 => Command::SetAttributes {
                inode: self.inode(),
                change: self.attribute_change(),
            },
            8 => Command::WriteInline {
                inode: self.inode(),
                offset: self.number(),
                data: self.data(),
                truncate: self.flag(),
            },
            9 => Command::Publish {
                inode: self.inode(),
                extents: self.list(Self::extent),
                size: self.number(),
                replace_all: self.flag(),
                base_version: self.option(Self::number),
            },
            10 => Command::Prepare {
                transaction: self.transaction(),
                primary: self.partition(),
                steps: self.list(Self::step),
            },
            11 => Command::Decide {
                transaction: self.transaction(),
                commit: self.flag(),
                steps: self.list(Self::step),
                participants: self.list(Self::partition),
                reply: Box::new(self.reply()),
                acknowledged_below: self.number(),
            },
            12 => Command::Finish {
                transaction: self.transaction(),
                commit: self.flag(),
            },
            13 => Command::ReserveInodes { count: self.u32() },
            14 => Command::Link {
                inode: self.inode(),
                to: self.entry(),
            },
            15 => Command::XattrSet {
                inode: self.inode(),
                xattr: self.xattr(),
                condition: self.condition(),
                mode: self.option(Self::u32),
            },
            16 => Command::XattrRemove {
                inode: self.inode(),
                name: self.data(),
            },
            17 => Command::UpdateOpens {
                client: ClientId(self.number()),
                opened: self.list(Self::inode),
                closed: self.list(Self::inode),
                lease_ms: self.u32(),
            },
            18 => Command::ReapOrphans { limit: self.u32() },
            19 => Command::Data(self.data_command()),
            20 => Command::Usage(self.usage_command()),
            21 => Command::Quota(self.quota_command()),
            22 => Command::MoveAccessTimes {
                accesses: self.list(|values| Access {
                    inode: values.inode(),
                    at: values.i64(),
                }),
            },
            _ => Command::Forget {
                transaction: self.transaction(),
            },
        }
    }

    fn data_command(&mut self) -> DataCommand {
        match self.choose("DataCommand", 7) {
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
            5 => DataCommand::Update(Box::new(self.update())),
            _ => DataCommand::ForgetBlocks {
                blocks: self.list(Self::block),
            },
        }
    }

    fn update(&mut self) -> FileUpdate {
        FileUpdate {
            inode: self.inode(),
            bytes: match self.choose("NewBytes", 3) {
                0 => NewBytes::Nothing,
                1 => NewBytes::Bytes {
                    offset: self.number(),
                    data: self.data(),
                },
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

    fn attribute_change(&mut self) -> AttributeChange {
        AttributeChange {
            mode: self.option(Self::u32),
            owner: self.option(Self::u32),
            group: self.option(Self::u32),
            size: self.option(Self::number),
            accessed: self.option(Self::set_time),
            modified: self.option(Self::set_time),
            policy: self.policy_change(),
        }
    }

    fn usage(&mut self) -> Usage {
        Usage {
            bytes: self.number(),
            stored: self.number(),
            inodes: self.number(),
        }
    }

    fn usage_report(&mut self) -> UsageReport {
        UsageReport {
            directory: self.inode(),
            contributor: self.inode(),
            usage: self.usage(),
            version: self.number(),
            quota: self.option(Self::inode),
        }
    }

    fn limits(&mut self) -> QuotaLimits {
        QuotaLimits {
            bytes: self.number(),
            inodes: self.number(),
        }
    }

    fn allowance(&mut self) -> Allowance {
        Allowance {
            bytes: self.number(),
            inodes: self.number(),
            epoch: self.number(),
        }
    }

    fn phase(&mut self) -> QuotaPhase {
        match self.choose("QuotaPhase", 3) {
            0 => QuotaPhase::Begun,
            1 => QuotaPhase::Active,
            _ => QuotaPhase::Gone,
        }
    }

    fn quota_command(&mut self) -> QuotaCommand {
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

    fn usage_command(&mut self) -> UsageCommand {
        let reports = self.list(Self::usage_report);
        match self.choose("UsageCommand", 2) {
            0 => UsageCommand::Report { reports },
            _ => UsageCommand::Reported { reports },
        }
    }

    fn data_query(&mut self) -> DataQuery {
        match self.choose("DataQuery", 2) {
            0 => DataQuery::Seek {
                inode: self.inode(),
                offset: self.number(),
                target: match self.choose("SeekTarget", 2) {
                    0 => SeekTarget::Data,
                    _ => SeekTarget::Hole,
                },
            },
            _ => DataQuery::UnknownBlocks {
                blocks: self.list(Self::block),
            },
        }
    }

    fn step(&mut self) -> Step {
        match self.choose("Step", 10) {
            0 => Step::InsertEntry {
                entry: self.entry(),
                inode: self.inode(),
                kind: self.kind(),
                expected: self.option(Self::inode),
                quota: self.option(Self::inode),
                policy: self.option(Self::policy),
            },
            1 => Step::RemoveEntry {
                entry: self.entry(),
                inode: self.inode(),
            },
            2 => Step::CreateDirectory {
                inode: self.inode(),
                parent: self.inode(),
                attributes: self.new_inode(),
                quota: self.option(Self::inode),
            },
            3 => Step::RemoveDirectory { inode: self.inode() },
            4 => Step::SetParent {
                inode: self.inode(),
                parent: self.inode(),
                quota: self.option(Self::inode),
            },
            5 => Step::AddLinks {
                inode: self.inode(),
                count: self.number() as i32,
                added: self.option(Self::inode),
                removed: self.option(Self::inode),
                quota: self.option(Self::inode),
            },
            6 => Step::HoldRenameLease,
            8 => Step::ExchangeEntry {
                entry: self.entry(),
                inode: self.inode(),
                kind: self.kind(),
                expected: self.inode(),
                quota: self.option(Self::inode),
            },
            7 => Step::KeySet {
                key: self.data(),
                value: self.data(),
            },
            _ => Step::KeyDelete { key: self.data() },
        }
    }

    fn namespace(&mut self) -> Namespace {
        match self.choose("Namespace", 7) {
            0 => Namespace::MakeDirectory {
                directory: self.inode(),
                name: self.data(),
                attributes: self.new_inode(),
            },
            1 => Namespace::RemoveDirectory {
                directory: self.inode(),
                name: self.data(),
            },
            2 => Namespace::Unlink {
                directory: self.inode(),
                name: self.data(),
            },
            3 => Namespace::Rename {
                from: self.entry(),
                to: self.entry(),
                mode: self.rename_mode(),
            },
            4 => Namespace::Link {
                inode: self.inode(),
                to: self.entry(),
            },
            5 => Namespace::KeySetMany {
                partition: self.partition(),
                pairs: self.list(|generator| (generator.partition(), generator.data(), generator.data())),
            },
            _ => Namespace::KeyDeleteMany {
                partition: self.partition(),
                keys: self.list(|generator| (generator.partition(), generator.data())),
            },
        }
    }

    fn node_request(&mut self) -> NodeRequest {
        match self.choose("NodeRequest", 10) {
            0 => NodeRequest::Walk {
                start: self.inode(),
                path: self.data(),
                follow_last: self.flag(),
                first_bytes: self.u32(),
            },
            1 => NodeRequest::BlockPut {
                block: self.block(),
                data: self.data(),
                checksum: self.u32(),
                replicas: self.list(Self::node),
                local_only: self.flag(),
            },
            2 => NodeRequest::BlockGet {
                block: self.block(),
                offset: self.u32(),
                length: self.u32(),
            },
            3 => NodeRequest::BlockDelete {
                blocks: self.list(Self::block),
            },
            4 => NodeRequest::BlockList {
                after: self.option(Self::block),
                limit: self.u32(),
            },
            5 => NodeRequest::BlockCompact,
            7 => NodeRequest::SetQuota {
                directory: self.inode(),
                limits: self.limits(),
            },
            8 => NodeRequest::GetQuota {
                directory: self.inode(),
            },
            6 => NodeRequest::DirectoryUsage {
                directory: self.inode(),
            },
            _ => NodeRequest::ClusterStatus,
        }
    }

    fn reply(&mut self) -> Reply {
        match self.choose("Reply", 29) {
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
            24 => Reply::Usage(self.usage()),
            25 => Reply::UsageReports {
                reports: self.list(Self::usage_report),
                next: self.list(Self::usage_report),
                transactions: self.list(Self::transaction),
                more: self.flag(),
            },
            _ => Reply::Value(None),
        }
    }

    fn node_status(&mut self) -> NodeStatus {
        NodeStatus {
            number: self.node(),
            id: self.text(),
            capnp: self.text(),
            resp: self.text(),
            http: self.text(),
            zone: self.text(),
            reachable: self.flag(),
        }
    }

    fn partition_status(&mut self) -> PartitionStatus {
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

    fn failure(&mut self) -> Failure {
        match self.choose("Failure", 8) {
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
            _ => Failure::Refused(self.refusal(), self.text()),
        }
    }

    fn refusal(&mut self) -> Refusal {
        const ALL: [Refusal; 26] = [
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
        ];
        ALL[self.choose("Refusal", ALL.len() as u64) as usize]
    }

    fn raft_kind(&mut self) -> RaftKind {
        const ALL: [RaftKind; 15] = [
            RaftKind::Propose,
            RaftKind::Append,
            RaftKind::AppendResponse,
            RaftKind::RequestVote,
            RaftKind::RequestVoteResponse,
            RaftKind::Snapshot,
            RaftKind::TimeoutNow,
            RaftKind::ReadIndex,
            RaftKind::ReadIndexResponse,
            RaftKind::RequestPreVote,
            RaftKind::RequestPreVoteResponse,
            RaftKind::TransferLeader,
            RaftKind::Unreachable,
            RaftKind::RejoinQuestion,
            RaftKind::RejoinAnswer,
        ];
        ALL[self.choose("RaftKind", ALL.len() as u64) as usize]
    }

    fn result(&mut self) -> Result<Reply, Failure> {
        if self.flag() {
            Ok(self.reply())
        } else {
            Err(self.failure())
        }
    }

    fn snapshot(&mut self) -> SnapshotMetadata {
        SnapshotMetadata {
            index: self.number(),
            term: self.number(),
            voters: self.list(Self::node),
            learners: self.list(Self::node),
        }
    }

    fn raft(&mut self) -> RaftMessage {
        RaftMessage {
            partition: self.partition(),
            kind: self.raft_kind(),
            from: self.node(),
            to: self.node(),
            term: self.number(),
            log_term: self.number(),
            index: self.number(),
            entries: self.list(|generator| LogEntry {
                term: generator.number(),
                index: generator.number(),
                kind: generator.number() as u8,
                data: generator.data(),
                context: generator.data(),
            }),
            commit: self.number(),
            commit_term: self.number(),
            snapshot: self.option(Self::snapshot),
            request_snapshot: self.number(),
            reject: self.flag(),
            reject_hint: self.number(),
            context: self.data(),
            priority: self.i64(),
        }
    }

    fn heartbeat(&mut self) -> Heartbeat {
        Heartbeat {
            partition: self.partition(),
            from: self.node(),
            to: self.node(),
            response: self.flag(),
            term: self.number(),
            commit: self.number(),
            context: self.data(),
            hash_index: self.number(),
            state_hash: self.number(),
        }
    }

    pub fn peer(&mut self) -> PeerMessage {
        match self.choose("PeerMessage", 7) {
            0 => PeerMessage::Hello(PeerHello {
                version: self.u32(),
                cluster: self.text(),
                map_digest: self.number(),
                node: self.node(),
                incarnation: self.number(),
                bulk: self.flag(),
            }),
            1 => PeerMessage::Raft(self.list(Self::raft)),
            2 => PeerMessage::Heartbeats(self.list(Self::heartbeat)),
            3 => PeerMessage::Request {
                id: self.number(),
                deadline_ms: self.u32(),
                request: self.request(),
            },
            4 => PeerMessage::Reply {
                id: self.number(),
                result: self.result(),
            },
            5 => PeerMessage::SnapshotChunk(SnapshotChunk {
                partition: self.partition(),
                from: self.node(),
                term: self.number(),
                metadata: self.snapshot(),
                offset: self.number(),
                data: self.data(),
                last: self.flag(),
            }),
            _ => PeerMessage::SnapshotProgress {
                partition: self.partition(),
                index: self.number(),
                next_offset: self.number(),
                accepted: self.flag(),
            },
        }
    }

    pub fn client(&mut self) -> ClientMessage {
        match self.choose("ClientMessage", 2) {
            0 => ClientMessage::Login {
                version: self.u32(),
                token: self.data(),
            },
            _ => ClientMessage::Request {
                id: self.number(),
                deadline_ms: self.u32(),
                request: self.request(),
            },
        }
    }

    pub fn server(&mut self) -> ServerMessage {
        match self.choose("ServerMessage", 3) {
            0 => ServerMessage::Welcome(Ok(Welcome {
                version: self.u32(),
                cluster: self.text(),
                node: self.node(),
                partition_count: self.number() as u16,
                replicas: self.number() as u16,
                vnodes: self.u32(),
                nodes: self.list(|generator| WelcomeNode {
                    number: generator.node(),
                    id: generator.text(),
                    capnp: generator.text(),
                    zone: generator.text(),
                }),
                value_size_max: self.u32(),
            })),
            1 => ServerMessage::Welcome(Err(self.failure())),
            _ => ServerMessage::Reply {
                id: self.number(),
                result: self.result(),
            },
        }
    }

    pub fn proposal(&mut self) -> Proposal {
        Proposal {
            time: self.i64(),
            id: self.option(Self::request_id),
            command: self.command(),
        }
    }
}
