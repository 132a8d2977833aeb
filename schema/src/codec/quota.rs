//! Quotas: what is said between partitions about them, and what is told of them.

use super::{Result, read};
use crate::generated::common_capnp as wire;
use crate::ids::{InodeId, PartitionId};
use crate::quota::{Allowance, Quota, QuotaCommand, QuotaLimits, QuotaPhase, QuotaQuery};

pub fn write_quota_command(command: &QuotaCommand, mut builder: wire::quota_command::Builder<'_>) {
    match command {
        QuotaCommand::Set { quota, limits, phase } => {
            let mut group = builder.init_set();
            group.set_quota(quota.0);
            group.set_bytes(limits.bytes);
            group.set_inodes(limits.inodes);
            group.set_phase(write_phase(*phase));
        }
        QuotaCommand::Tag {
            directory,
            from,
            to,
            parent,
            after,
        } => {
            let mut group = builder.init_tag();
            group.set_directory(directory.0);
            group.set_from(from.map_or(0, |inode| inode.0));
            group.set_to(to.map_or(0, |inode| inode.0));
            group.set_parent(parent.map_or(0, |inode| inode.0));
            group.set_after(after.0);
        }
        QuotaCommand::Enforce { quota, on } => {
            let mut group = builder.init_enforce();
            group.set_quota(quota.0);
            group.set_on(*on);
        }
        QuotaCommand::Grant {
            quota,
            partition,
            held,
            wanted,
        } => {
            let mut group = builder.init_grant();
            group.set_quota(quota.0);
            group.set_partition(partition.0);
            write_allowance(held, group.reborrow().init_held());
            write_allowance(wanted, group.init_wanted());
        }
        QuotaCommand::Accept { quota, granted } => {
            let mut group = builder.init_accept();
            group.set_quota(quota.0);
            write_allowance(granted, group.init_granted());
        }
        QuotaCommand::GiveBack { quota } => builder.set_give_back(quota.0),
        QuotaCommand::Settle {
            quota,
            partition,
            held,
        } => {
            let mut group = builder.init_settle();
            group.set_quota(quota.0);
            group.set_partition(partition.0);
            write_allowance(held, group.init_held());
        }
    }
}

pub fn read_quota_command(reader: wire::quota_command::Reader<'_>) -> Result<QuotaCommand> {
    Ok(match reader.which()? {
        wire::quota_command::Set(group) => QuotaCommand::Set {
            quota: InodeId(group.get_quota()),
            limits: QuotaLimits {
                bytes: group.get_bytes(),
                inodes: group.get_inodes(),
            },
            phase: read_phase(group.get_phase()?),
        },
        wire::quota_command::Tag(group) => QuotaCommand::Tag {
            directory: InodeId(group.get_directory()),
            from: read::inode_or_none(group.get_from()),
            to: read::inode_or_none(group.get_to()),
            parent: read::inode_or_none(group.get_parent()),
            after: InodeId(group.get_after()),
        },
        wire::quota_command::Enforce(group) => QuotaCommand::Enforce {
            quota: InodeId(group.get_quota()),
            on: group.get_on(),
        },
        wire::quota_command::Grant(group) => QuotaCommand::Grant {
            quota: InodeId(group.get_quota()),
            partition: PartitionId(group.get_partition()),
            held: read_allowance(group.get_held()?),
            wanted: read_allowance(group.get_wanted()?),
        },
        wire::quota_command::Accept(group) => QuotaCommand::Accept {
            quota: InodeId(group.get_quota()),
            granted: read_allowance(group.get_granted()?),
        },
        wire::quota_command::GiveBack(quota) => QuotaCommand::GiveBack {
            quota: InodeId(quota),
        },
        wire::quota_command::Settle(group) => QuotaCommand::Settle {
            quota: InodeId(group.get_quota()),
            partition: PartitionId(group.get_partition()),
            held: read_allowance(group.get_held()?),
        },
    })
}

pub fn write_quota_query(query: &QuotaQuery, mut builder: wire::quota_query::Builder<'_>) {
    match query {
        QuotaQuery::Of { directory } => builder.set_of(directory.0),
        QuotaQuery::Limits { quota } => builder.set_limits(quota.0),
        QuotaQuery::Used { quota } => builder.set_used(quota.0),
    }
}

pub fn read_quota_query(reader: wire::quota_query::Reader<'_>) -> Result<QuotaQuery> {
    Ok(match reader.which()? {
        wire::quota_query::Of(directory) => QuotaQuery::Of {
            directory: InodeId(directory),
        },
        wire::quota_query::Limits(quota) => QuotaQuery::Limits {
            quota: InodeId(quota),
        },
        wire::quota_query::Used(quota) => QuotaQuery::Used {
            quota: InodeId(quota),
        },
    })
}

pub(super) fn write_allowance(allowance: &Allowance, mut builder: wire::allowance::Builder<'_>) {
    builder.set_bytes(allowance.bytes);
    builder.set_inodes(allowance.inodes);
    builder.set_epoch(allowance.epoch);
}

pub(super) fn read_allowance(reader: wire::allowance::Reader<'_>) -> Allowance {
    Allowance {
        bytes: reader.get_bytes(),
        inodes: reader.get_inodes(),
        epoch: reader.get_epoch(),
    }
}

pub(super) fn write_quota(quota: &Quota, mut builder: wire::quota::Builder<'_>) {
    builder.set_quota(quota.quota.map_or(0, |inode| inode.0));
    builder.set_bytes(quota.limits.bytes);
    builder.set_inodes(quota.limits.inodes);
    builder.set_phase(write_phase(quota.phase));
    builder.set_used_bytes(quota.used_bytes);
    builder.set_used_inodes(quota.used_inodes);
    if let Some(allowed) = &quota.allowed {
        write_allowance(allowed, builder.init_allowed());
    }
}

pub(super) fn read_quota(reader: wire::quota::Reader<'_>) -> Result<Quota> {
    Ok(Quota {
        quota: read::inode_or_none(reader.get_quota()),
        limits: QuotaLimits {
            bytes: reader.get_bytes(),
            inodes: reader.get_inodes(),
        },
        phase: read_phase(reader.get_phase()?),
        used_bytes: reader.get_used_bytes(),
        used_inodes: reader.get_used_inodes(),
        allowed: match reader.has_allowed() {
            true => Some(read_allowance(reader.get_allowed()?)),
            false => None,
        },
    })
}

fn write_phase(phase: QuotaPhase) -> wire::QuotaPhase {
    match phase {
        QuotaPhase::Begun => wire::QuotaPhase::Begun,
        QuotaPhase::Active => wire::QuotaPhase::Active,
        QuotaPhase::Gone => wire::QuotaPhase::Gone,
    }
}

fn read_phase(phase: wire::QuotaPhase) -> QuotaPhase {
    match phase {
        wire::QuotaPhase::Begun => QuotaPhase::Begun,
        wire::QuotaPhase::Active => QuotaPhase::Active,
        wire::QuotaPhase::Gone => QuotaPhase::Gone,
    }
}
