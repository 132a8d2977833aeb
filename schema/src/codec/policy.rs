//! Policies, and what is said of them.

use super::Result;
use crate::generated::common_capnp as wire;
use crate::policy::{Allocate, Policy};

pub(super) fn write_allocate(allocate: Option<Allocate>) -> wire::Allocate {
    match allocate {
        None => wire::Allocate::Unsaid,
        Some(Allocate::Ring) => wire::Allocate::Ring,
        Some(Allocate::RoundRobin) => wire::Allocate::RoundRobin,
        Some(Allocate::LeastUsed) => wire::Allocate::LeastUsed,
    }
}

pub(super) fn read_allocate(
    allocate: std::result::Result<wire::Allocate, capnp::NotInSchema>,
) -> Result<Option<Allocate>> {
    Ok(match allocate? {
        wire::Allocate::Unsaid => None,
        wire::Allocate::Ring => Some(Allocate::Ring),
        wire::Allocate::RoundRobin => Some(Allocate::RoundRobin),
        wire::Allocate::LeastUsed => Some(Allocate::LeastUsed),
    })
}

pub(super) fn write_policy(policy: &Policy, mut builder: wire::policy::Builder<'_>) {
    builder.set_block_size(policy.block_size);
    builder.set_replicas(policy.replicas);
    builder.set_allocate(write_allocate(Some(policy.allocate)));
}

pub(super) fn read_policy(reader: wire::policy::Reader<'_>) -> Result<Policy> {
    Ok(Policy {
        block_size: reader.get_block_size(),
        replicas: reader.get_replicas(),
        allocate: read_allocate(reader.get_allocate())?.unwrap_or_default(),
    })
}

/// A value that 0 says nothing of.
pub(super) fn said(value: u32) -> Option<u32> {
    (value != 0).then_some(value)
}
