//! Time as an argument: the machine never reads a clock.

use bark_schema::operation::{UnixMillis, UnixNanos};

/// What the caller's clocks say at the start of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Now {
    /// Microseconds of a clock that never goes back; only differences mean something.
    pub monotonic_us: u64,
    /// Wall clock, nanoseconds since the Unix epoch.
    pub unix_ns: UnixNanos,
}

impl Now {
    pub fn unix_ms(self) -> UnixMillis {
        u64::try_from(self.unix_ns / 1_000_000).unwrap_or(0)
    }
}
