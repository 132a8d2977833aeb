//! Requests: queries, commands, operations and steps.

use bark_schema::access_time::Access;
use bark_schema::delegation::DelegationCommand;
use bark_schema::ids::*;
use bark_schema::operation::*;
use bark_schema::quota::*;
use bark_schema::usage::*;

use super::Generator;

impl Generator {
    pub(super) fn request(&mut self) -> Request {
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

    pub(super) fn query(&mut self) -> Query {
        match self.choose("Query", 21) {
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
            18 => Query::Lock(self.lock_query()),
            15 => Query::Quota(match self.choose("QuotaQuery", 3) {
                0 => QuotaQuery::Of {
                    directory: self.inode(),
                },
                1 => QuotaQuery::Limits { quota: self.inode() },
                _ => QuotaQuery::Used { quota: self.inode() },
            }),
            19 => Query::Audit(self.audit_query()),
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
            16 => {
                let mut query = self.query();
                while matches!(query, Query::By { .. } | Query::AwaitRecall { .. }) {
                    query = self.query();
                }
                Query::By {
                    client: ClientId(self.number()),
                    query: Box::new(query),
                }
            }
            17 => Query::AwaitRecall {
                client: ClientId(self.number()),
            },
            _ => Query::TransactionOutcome {
                transaction: self.transaction(),
            },
        }
    }

    pub(super) fn command(&mut self) -> Command {
        match self.choose("Command", 28) {
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
            25 => Command::Lock(self.lock_command()),
            26 => Command::Repair(self.repair_command()),
            22 => Command::MoveAccessTimes {
                accesses: self.list(|values| Access {
                    inode: values.inode(),
                    at: values.i64(),
                }),
            },
            23 => {
                let (client, directories) = (ClientId(self.number()), self.list(Self::inode));
                Command::Delegation(match self.choose("DelegationCommand", 2) {
                    0 => DelegationCommand::Take {
                        client,
                        directories,
                        lease_ms: self.u32(),
                    },
                    _ => DelegationCommand::GiveBack { client, directories },
                })
            }
            24 => {
                let mut command = self.command();
                while matches!(command, Command::Ordered { .. }) {
                    command = self.command();
                }
                Command::Ordered {
                    after: self.number(),
                    time: self.i64(),
                    inode: self.option(Self::inode).filter(|inode| inode.0 != 0),
                    awaited: self.flag(),
                    command: Box::new(command),
                }
            }
            _ => Command::Forget {
                transaction: self.transaction(),
            },
        }
    }

    pub(super) fn namespace(&mut self) -> Namespace {
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

    pub(super) fn node_request(&mut self) -> NodeRequest {
        match self.choose("NodeRequest", 19) {
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
            14 => NodeRequest::BlockAudit {
                after: self.option(Self::block),
                limit: self.u32(),
            },
            15 => NodeRequest::Traced {
                request: Box::new(self.request()),
            },
            5 => NodeRequest::BlockCompact,
            7 => NodeRequest::SetQuota {
                directory: self.inode(),
                limits: self.limits(),
            },
            8 => NodeRequest::GetQuota {
                directory: self.inode(),
            },
            9 => NodeRequest::BlockVerify {
                block: self.block(),
                checksum: self.option(Self::u32),
            },
            17 => NodeRequest::Scrub { start: self.flag() },
            16 => NodeRequest::Orphans { give_up: self.flag() },
            10 => NodeRequest::BlocksMissing {
                blocks: self.list(Self::block),
            },
            11 => NodeRequest::BlockFetch {
                block: self.block(),
                size: self.u32(),
                checksum: self.u32(),
                from: self.list(Self::node),
            },
            12 => NodeRequest::Drain { drain: self.flag() },
            13 => NodeRequest::Admit { node: self.node() },
            6 => NodeRequest::DirectoryUsage {
                directory: self.inode(),
            },
            _ => NodeRequest::ClusterStatus,
        }
    }

    pub(super) fn step(&mut self) -> Step {
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
                born: self.i64(),
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
}
