//! Quotas: limits of what a directory and everything below it may take.
//!
//! How they are kept across partitions is told in `node/core/src/state/quota.rs`; here is what travels.
//!
//! Invariant: commands may be repeated and may come late; what is out of date changes nothing.

use crate::ids::{InodeId, PartitionId};

/// `u64::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaLimits {
    /// Of bytes stored: holes are free.
    pub bytes: u64,
    /// Of files, links and directories, the one with the quota included.
    pub inodes: u64,
}

impl Default for QuotaLimits {
    fn default() -> QuotaLimits {
        QuotaLimits {
            bytes: u64::MAX,
            inodes: u64::MAX,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuotaPhase {
    /// Set, and not everywhere in force yet; or about to go.
    Begun,
    Active,
    /// There is none.
    #[default]
    Gone,
}

/// The part of a quota that one partition may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    pub bytes: u64,
    pub inodes: u64,
    /// Begins anew whenever its holder takes less.
    pub epoch: u64,
}

/// What is known of a quota; each answer has the part that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// The directory that has the quota; none if there is no quota.
    pub quota: Option<InodeId>,
    pub limits: QuotaLimits,
    pub phase: QuotaPhase,
    pub used_bytes: u64,
    pub used_inodes: u64,
    /// What a partition may use, while the quota is in force there.
    pub allowed: Option<Allowance>,
}

/// A step of keeping quotas, by one log entry; `quota` is the directory that has it. Proposed by nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaCommand {
    /// At the directory's home: what the limits are, and how far setting them is.
    Set {
        quota: InodeId,
        limits: QuotaLimits,
        phase: QuotaPhase,
    },
    /// At any partition with something in `directory`: it is under `to` instead of `from`, if it is in
    /// `parent` still (none: wherever it is). Answers, as
    /// `UsageReports`, the directories in it behind `after`.
    Tag {
        directory: InodeId,
        from: Option<InodeId>,
        to: Option<InodeId>,
        parent: Option<InodeId>,
        after: InodeId,
    },
    /// Nothing more than allowed from now on, and what is used is allowed; or no limits any more. Answers `Allowance`.
    Enforce {
        quota: InodeId,
        on: bool,
    },
    /// At the directory's home: `partition`, which holds `held`, wants at least `wanted`. Answers `Allowance`,
    /// or `QuotaExceeded` if so much is not left.
    Grant {
        quota: InodeId,
        partition: PartitionId,
        held: Allowance,
        wanted: Allowance,
    },
    Accept {
        quota: InodeId,
        granted: Allowance,
    },
    /// Keeps what is used. Answers `Allowance`.
    GiveBack {
        quota: InodeId,
    },
    /// At the directory's home: what a partition holds.
    Settle {
        quota: InodeId,
        partition: PartitionId,
        held: Allowance,
    },
}

/// A question to one partition about quotas. Answers `Quota`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum QuotaQuery {
    /// Which quota an inode at home there is under.
    Of { directory: InodeId },
    /// At the directory's home.
    Limits { quota: InodeId },
    /// What the partition uses of it, and may.
    Used { quota: InodeId },
}
