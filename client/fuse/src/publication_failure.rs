//! Why written bytes could not be published, and when the background tries again.

use std::time::{Duration, Instant};

use fuser::Errno;

/// After a failure the background waits this long, and twice as long after each refusal that follows.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(32);

#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicationFailure {
    pub(crate) error: Errno,
    /// The cluster has decided; asking again without a change of anything will not help.
    pub(crate) is_refusal: bool,
    pause: Duration,
    again_at: Instant,
}

impl PublicationFailure {
    /// One that came now, after what failed before.
    pub(crate) fn after(
        before: Option<PublicationFailure>,
        error: Errno,
        is_refusal: bool,
    ) -> PublicationFailure {
        let pause = match before {
            Some(before) if is_refusal => (before.pause * 2).min(PAUSE_MAX),
            _ => PAUSE_MIN,
        };
        PublicationFailure {
            error,
            is_refusal,
            pause,
            again_at: Instant::now() + pause,
        }
    }

    /// The background does not try yet.
    pub(crate) fn waits(self) -> bool {
        Instant::now() < self.again_at
    }
}
