//! What did not fit when pages were put side by side is looked at again, until it fits or stands still.
//!
//! All are looked at in rounds with one pause between two, because on a busy cluster most fit at the first look.

use bark_schema::ids::PartitionId;
use bark_schema::operation::Failure;

use super::{Examination, LOOKS_MAX, SUSPECTS_MAX, Source};

/// What one look at a suspect saw.
pub(super) enum Look<V> {
    Fits,
    /// One side moved while the other was read.
    Moves,
    Differs(V),
}

impl<S: Source> Examination<'_, S> {
    /// Those that twice in a row differed in the same way. `place` says who is asked about a suspect.
    pub(super) async fn settle<K, V: PartialEq>(
        &mut self,
        mut suspects: Vec<K>,
        place: impl Fn(&K) -> PartitionId,
        look: impl AsyncFn(&Self, &K) -> Result<Look<V>, Failure>,
    ) -> Vec<(K, V)> {
        self.report.more += suspects.len().saturating_sub(SUSPECTS_MAX) as u64;
        suspects.truncate(SUSPECTS_MAX);
        let mut open: Vec<(K, Option<V>)> = suspects.into_iter().map(|suspect| (suspect, None)).collect();
        let mut standing = Vec::new();
        for _ in 0..LOOKS_MAX {
            let mut left = Vec::new();
            for (suspect, before) in open {
                match look(self, &suspect).await {
                    Ok(Look::Fits) => {}
                    Ok(Look::Moves) => left.push((suspect, None)),
                    Ok(Look::Differs(seen)) if before.as_ref() == Some(&seen) => {
                        standing.push((suspect, seen));
                    }
                    Ok(Look::Differs(seen)) => left.push((suspect, Some(seen))),
                    Err(failure) => {
                        let place = place(&suspect).to_string();
                        self.report.unanswered(place, &failure);
                    }
                }
            }
            open = left;
            if open.is_empty() {
                return standing;
            }
            self.source.pause().await;
        }
        let count = open.len();
        self.report.note(format!(
            "{count} things did not stand still long enough to be compared"
        ));
        standing
    }
}
