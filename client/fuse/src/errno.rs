//! What a program is told when the cluster says no.
//!
//! Invariant: a refusal keeps the errno the schema names for it; everything that is not a decision of the
//! cluster is EIO, and is logged once, here.

use bark_client::Error;
use bark_schema::operation::{Failure, Refusal};
use fuser::Errno;

/// The errno of a failed request.
pub(crate) fn errno(failure: Failure) -> Errno {
    match failure {
        Failure::Refused(refusal, sentence) => of_refusal(refusal, &sentence),
        // The coordinator answers these only for requests of another form than the mount sends.
        other => {
            tracing::warn!(failure = %other, "request failed");
            Errno::EIO
        }
    }
}

/// The errno of a failed operation of the client library.
pub(crate) fn errno_of_error(error: &Error) -> Errno {
    match error {
        Error::Refused {
            refusal, sentence, ..
        } => of_refusal(*refusal, sentence),
        other => {
            tracing::warn!(failure = %other, "operation failed");
            Errno::EIO
        }
    }
}

fn of_refusal(refusal: Refusal, sentence: &str) -> Errno {
    match refusal.errno_name() {
        "ENOENT" => Errno::ENOENT,
        "EEXIST" => Errno::EEXIST,
        "ENOTDIR" => Errno::ENOTDIR,
        "EISDIR" => Errno::EISDIR,
        "ENOTEMPTY" => Errno::ENOTEMPTY,
        "ENAMETOOLONG" => Errno::ENAMETOOLONG,
        "EINVAL" => Errno::EINVAL,
        "ELOOP" => Errno::ELOOP,
        "EFBIG" => Errno::EFBIG,
        "ENOSPC" => Errno::ENOSPC,
        "EMLINK" => Errno::EMLINK,
        "ESTALE" => Errno::ESTALE,
        "EOVERFLOW" => Errno::EOVERFLOW,
        "EACCES" => Errno::EACCES,
        "EPERM" => Errno::EPERM,
        "EXDEV" => Errno::EXDEV,
        "E2BIG" => Errno::E2BIG,
        "ERANGE" => Errno::ERANGE,
        "ENODATA" => Errno::from_i32(libc::ENODATA),
        "ENXIO" => Errno::ENXIO,
        "ENOLCK" => Errno::from_i32(libc::ENOLCK),
        "EDEADLK" => Errno::from_i32(libc::EDEADLK),
        "EDQUOT" => Errno::from_i32(libc::EDQUOT),
        "EOPNOTSUPP" => Errno::EOPNOTSUPP,
        name => {
            tracing::warn!(errno = name, sentence, "request refused");
            Errno::EIO
        }
    }
}
