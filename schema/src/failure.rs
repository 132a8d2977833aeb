//! Why a request did not succeed, and what that says about its outcome.
//!
//! Invariant: every failure is of one of three outcomes, applied, not applied or unknown.

use crate::ids::{ClientId, InodeId, NodeNumber, PartitionId, TransactionId};

/// Why a request did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// Ask `leader`, or any replica if none is known.
    #[error("this node does not lead the partition")]
    NotLeader { leader: Option<NodeNumber> },
    /// A limit was reached; the same request may succeed later.
    #[error("busy: {0}")]
    Busy(String),
    /// A transaction in progress holds what the request needs.
    #[error("held by a transaction in progress")]
    Locked {
        transaction: TransactionId,
        primary: PartitionId,
    },
    /// The command touches other partitions: use the namespace operation.
    #[error("touches several partitions")]
    CrossPartition,
    /// The file no longer fits inline: write blocks and publish them.
    #[error("too large to be stored inline")]
    TooLargeForInline,
    /// The partition may use no more of a quota until it is granted, which its leader sees to.
    #[error("the partition's part of the quota is used up")]
    OverAllowance { quota: InodeId, bytes: u64, inodes: u64 },
    /// A client has the directory for itself, until the leader has it back.
    #[error("held by another client")]
    Delegated { directory: InodeId, client: ClientId },
    /// It may or may not have been applied; repeat it under the same id to find out.
    #[error("outcome not known: {0}")]
    Unknown(String),
    /// Decided and final.
    #[error("{1}")]
    Refused(Refusal, String),
}

/// Decided refusals, with the name of the errno a file system would give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    NotFound,
    Exists,
    NotDirectory,
    IsDirectory,
    NotEmpty,
    NameTooLong,
    InvalidArgument,
    TooManySymlinks,
    FileTooLarge,
    NoSpace,
    TooManyLinks,
    /// The object went away or the content changed under the writer.
    Conflict,
    /// Bytes that do not match their checksum, or a block no replica has.
    Corrupt,
    NotInteger,
    Overflow,
    /// The client's exactly-once record was dropped: the outcome of so old a request cannot be told.
    SessionExpired,
    PermissionDenied,
    Unsupported,
    Internal,
    /// No such extended attribute.
    NoData,
    /// The caller's buffer or a name is of a wrong size.
    Range,
    NotPermitted,
    CrossDevice,
    TooBig,
    QuotaExceeded,
    /// There is no data at or after the offset.
    BeyondEnd,
    /// A client or a file has as many locks as are allowed.
    NoLocks,
    /// Waiting for the lock would never end.
    Deadlock,
    /// The lease of the client's locks ran out, and this change may rest on them.
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Applied,
    NotApplied,
    Unknown,
}

impl Failure {
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::Unknown(_) => Outcome::Unknown,
            _ => Outcome::NotApplied,
        }
    }

    pub fn refused(refusal: Refusal, sentence: impl Into<String>) -> Failure {
        Failure::Refused(refusal, sentence.into())
    }
}

impl Refusal {
    /// The errno name, for people and for REST.
    pub fn errno_name(self) -> &'static str {
        match self {
            Refusal::NotFound => "ENOENT",
            Refusal::Exists => "EEXIST",
            Refusal::NotDirectory => "ENOTDIR",
            Refusal::IsDirectory => "EISDIR",
            Refusal::NotEmpty => "ENOTEMPTY",
            Refusal::NameTooLong => "ENAMETOOLONG",
            Refusal::InvalidArgument => "EINVAL",
            Refusal::TooManySymlinks => "ELOOP",
            Refusal::FileTooLarge => "EFBIG",
            Refusal::NoSpace => "ENOSPC",
            Refusal::TooManyLinks => "EMLINK",
            Refusal::Conflict => "ESTALE",
            Refusal::Corrupt => "EIO",
            Refusal::NotInteger => "EINVAL",
            Refusal::Overflow => "EOVERFLOW",
            Refusal::SessionExpired => "ESTALE",
            Refusal::PermissionDenied => "EACCES",
            Refusal::Unsupported => "EOPNOTSUPP",
            Refusal::Internal => "EIO",
            Refusal::NoData => "ENODATA",
            Refusal::Range => "ERANGE",
            Refusal::NotPermitted => "EPERM",
            Refusal::CrossDevice => "EXDEV",
            Refusal::TooBig => "E2BIG",
            Refusal::QuotaExceeded => "EDQUOT",
            Refusal::BeyondEnd => "ENXIO",
            Refusal::NoLocks => "ENOLCK",
            Refusal::Deadlock => "EDEADLK",
            Refusal::Fenced => "ESTALE",
        }
    }
}
