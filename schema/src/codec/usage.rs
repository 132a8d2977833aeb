//! What directories take: reports, the commands that carry them and questions about them.

use super::Result;
use super::read;
use crate::generated::common_capnp as wire;
use crate::ids::InodeId;
use crate::usage::{Usage, UsageCommand, UsageQuery, UsageReport};

type ReportList<'a> = capnp::struct_list::Builder<'a, wire::usage_report::Owned>;
type ReportListReader<'a> = capnp::struct_list::Reader<'a, wire::usage_report::Owned>;

pub fn write_usage_command(command: &UsageCommand, builder: wire::usage_command::Builder<'_>) {
    match command {
        UsageCommand::Report { reports } => {
            write_reports(reports, builder.init_report(reports.len() as u32));
        }
        UsageCommand::Reported { reports } => {
            write_reports(reports, builder.init_reported(reports.len() as u32));
        }
    }
}

pub fn read_usage_command(reader: wire::usage_command::Reader<'_>) -> Result<UsageCommand> {
    Ok(match reader.which()? {
        wire::usage_command::Report(reports) => UsageCommand::Report {
            reports: read_reports(reports)?,
        },
        wire::usage_command::Reported(reports) => UsageCommand::Reported {
            reports: read_reports(reports)?,
        },
    })
}

pub fn write_usage_query(query: &UsageQuery, mut builder: wire::usage_query::Builder<'_>) {
    match query {
        UsageQuery::Total { directory } => builder.set_total(directory.0),
        UsageQuery::Unreported { after, limit } => {
            let mut group = builder.reborrow().init_unreported();
            group.set_after(after.0);
            group.set_limit(*limit);
        }
        UsageQuery::Elsewhere { after, limit } => {
            let mut group = builder.init_elsewhere();
            group.set_after(after.0);
            group.set_limit(*limit);
        }
    }
}

pub fn read_usage_query(reader: wire::usage_query::Reader<'_>) -> Result<UsageQuery> {
    Ok(match reader.which()? {
        wire::usage_query::Total(directory) => UsageQuery::Total {
            directory: InodeId(directory),
        },
        wire::usage_query::Unreported(group) => UsageQuery::Unreported {
            after: InodeId(group.get_after()),
            limit: group.get_limit(),
        },
        wire::usage_query::Elsewhere(group) => UsageQuery::Elsewhere {
            after: InodeId(group.get_after()),
            limit: group.get_limit(),
        },
    })
}

pub(super) fn write_reports(reports: &[UsageReport], mut list: ReportList<'_>) {
    for (index, report) in reports.iter().enumerate() {
        let mut builder = list.reborrow().get(index as u32);
        builder.set_directory(report.directory.0);
        builder.set_contributor(report.contributor.0);
        builder.set_bytes(report.usage.bytes);
        builder.set_stored(report.usage.stored);
        builder.set_inodes(report.usage.inodes);
        builder.set_version(report.version);
        builder.set_quota(report.quota.map_or(0, |inode| inode.0));
    }
}

pub(super) fn read_reports(list: capnp::Result<ReportListReader<'_>>) -> Result<Vec<UsageReport>> {
    read::list(list, |report| {
        Ok(UsageReport {
            directory: InodeId(report.get_directory()),
            contributor: InodeId(report.get_contributor()),
            usage: Usage {
                bytes: report.get_bytes(),
                stored: report.get_stored(),
                inodes: report.get_inodes(),
            },
            version: report.get_version(),
            quota: read::inode_or_none(report.get_quota()),
        })
    })
}

pub(super) fn write_usage(usage: &Usage, mut builder: wire::usage::Builder<'_>) {
    builder.set_bytes(usage.bytes);
    builder.set_stored(usage.stored);
    builder.set_inodes(usage.inodes);
}

pub(super) fn read_usage(reader: wire::usage::Reader<'_>) -> Usage {
    Usage {
        bytes: reader.get_bytes(),
        stored: reader.get_stored(),
        inodes: reader.get_inodes(),
    }
}
