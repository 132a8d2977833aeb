//! Bytes written with O_APPEND, whose place the cluster decides.
//!
//! They are kept like other written bytes, where the file ends as far as this mount knows, and are published behind
//! wherever it ends then, all of them by one command: in a log entry if they are few, otherwise as blocks, laid
//! where the file ended when it was last looked at, provided it has not changed since. So the writes of several
//! mounts interleave as wholes. The price: until they are published they are seen at the place that was assumed.
//!
//! Invariants:
//! - Of what waits to be published, all from `from` on was appended; nothing else is taken there meanwhile.
//! - Appended bytes whose publication may have happened are never published again.

use bark_schema::data::FileUpdate;
use bark_schema::limits::{MIB, WRITE_SIZE_MAX};
use bark_schema::operation::{Attributes, Extent, Failure, Refusal};
use bytes::BytesMut;
use fuser::Errno;
use futures::StreamExt;

use crate::delegations::Haste;
use crate::kept_attributes::without_privileges;
use crate::open_file::{OpenFile, State};
use crate::publish::Unpublished;
use crate::range_buffer::Piece;

/// So many are published at the latest: enough to keep the way to the replicas busy.
const APPENDED_MAX: u64 = 16 * MIB as u64;
const STORES_AT_ONCE: usize = 8;
/// How often others may come first before a program is told.
const ATTEMPTS_MAX: u32 = 1000;

/// The part of the written bytes that was appended: `from .. end`, as far as this mount knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Appended {
    from: u64,
    end: u64,
}

/// What is published at once.
pub(crate) struct Batch {
    appended: Appended,
    pieces: Vec<(u64, Piece)>,
}

/// Why a batch was not published.
enum NotAppended {
    Surely(Unpublished),
    /// Or it was.
    Perhaps(Failure),
    /// The file is no more.
    Gone,
}

impl From<Failure> for NotAppended {
    fn from(failure: Failure) -> NotAppended {
        match failure {
            Failure::Refused(Refusal::NotFound, _) => NotAppended::Gone,
            Failure::Unknown(_) => NotAppended::Perhaps(failure),
            failure => NotAppended::Surely(failure.into()),
        }
    }
}

impl State {
    /// Where bytes go that a program appends, or writes to `offset`; none if what was written before must be
    /// published first.
    pub(crate) fn place(&mut self, offset: u64, length: u64, appends: bool) -> Option<u64> {
        if !appends {
            let is_before = |appended: Appended| offset + length <= appended.from;
            return self.appended.is_none_or(is_before).then_some(offset);
        }
        let before = self.appended.unwrap_or(Appended {
            from: self.size,
            end: self.size,
        });
        let end = before.end + length;
        if end - before.from > APPENDED_MAX && before.end > before.from {
            return None;
        }
        self.appended = Some(Appended { end, ..before });
        // The kernel has put them where it believes the end to be.
        self.are_pages_wrong |= before.end != offset;
        Some(before.end)
    }

    /// Whether anything before `end` was appended.
    pub(crate) fn is_appended(&self, end: u64) -> bool {
        self.appended.is_some_and(|appended| appended.from < end)
    }

    /// What was written from `size` on is forgotten.
    pub(crate) fn cut_appended(&mut self, size: u64) {
        self.appended = self.appended.filter(|appended| appended.from < size);
        if let Some(appended) = &mut self.appended {
            appended.end = appended.end.min(size);
        }
    }

    /// Takes out what was appended.
    pub(crate) fn send_appended(&mut self) -> Option<Batch> {
        let appended = self.appended.take()?;
        let pieces = self.dirty.overlapping(appended.from, u64::MAX);
        self.dirty.cut(appended.from, u64::MAX);
        let pieces = pieces.into_iter().map(|piece| (self.send(piece.clone()), piece));
        Some(Batch {
            appended,
            pieces: pieces.collect(),
        })
    }
}

impl OpenFile {
    /// Makes a batch part of the file, or takes it back.
    pub(crate) async fn publish_appended(&self, batch: Batch) -> Result<(), Unpublished> {
        let published = match self.drop_privileges().await {
            Ok(()) => match batch.length() {
                0 => return Ok(()),
                1..=WRITE_SIZE_MAX => self.append_in_entry(&batch).await,
                _ => self.append_in_blocks(&batch).await,
            },
            Err(Failure::Refused(Refusal::NotFound, _)) => Err(NotAppended::Gone),
            Err(failure) => Err(NotAppended::Surely(failure.into())),
        };
        match published {
            Ok(attributes) => {
                self.appended(&batch, &attributes);
                Ok(())
            }
            Err(NotAppended::Surely(unpublished)) => {
                self.take_back_appended(batch);
                Err(unpublished)
            }
            Err(NotAppended::Perhaps(failure)) => {
                tracing::warn!(inode = self.inode.0, %failure, "appended bytes may be lost");
                let mut state = self.lock();
                state.forget_sending(&batch.pieces);
                state.give_up_with(Errno::EIO);
                self.account(&mut state);
                Err(failure.into())
            }
            Err(NotAppended::Gone) => self.discard(),
        }
    }

    /// The batch is as if it had never left.
    pub(crate) fn take_back_appended(&self, batch: Batch) {
        self.take_back(&batch.pieces);
        let mut state = self.lock();
        let end = state.appended.map_or(batch.appended.end, |newer| newer.end);
        state.appended = Some(Appended {
            end,
            ..batch.appended
        });
    }

    /// The bits of a privileged program go before bytes come from somebody without privileges.
    async fn drop_privileges(&self) -> Result<(), Failure> {
        {
            let state = self.lock();
            let mode = state.attributes.mode;
            if !state.unprivileged || mode == without_privileges(mode) {
                return Ok(());
            }
        }
        let mut update = FileUpdate::of(self.inode);
        update.drops_privileges = true;
        let attributes = self.cluster.update(update, Haste::Relaxed).await?;
        self.lock().learn_own(&attributes, 0);
        Ok(())
    }

    async fn append_in_entry(&self, batch: &Batch) -> Result<Attributes, NotAppended> {
        let mut data = BytesMut::with_capacity(batch.length());
        for (_, piece) in &batch.pieces {
            data.extend_from_slice(&piece.data);
        }
        Ok(self.cluster.append(self.inode, data.freeze()).await?)
    }

    async fn append_in_blocks(&self, batch: &Batch) -> Result<Attributes, NotAppended> {
        let extents = self.store_appended(batch).await?;
        let known = self.lock().attributes.clone();
        let (mut version, mut size) = (known.version, known.size);
        for _ in 0..ATTEMPTS_MAX {
            let moved = extents.iter().map(|extent| Extent {
                offset: extent.offset - batch.appended.from + size,
                ..extent.clone()
            });
            let end = size + batch.length() as u64;
            let published = self
                .cluster
                .publish(self.inode, moved.collect(), end, Some(version));
            match published.await {
                Err(Failure::Refused(Refusal::Conflict, _)) => {}
                Err(failure @ Failure::Refused(..)) => {
                    self.cluster.abandon_blocks(&extents);
                    return Err(failure.into());
                }
                published => return Ok(published?),
            }
            let now = self.cluster.attributes(self.inode).await?;
            (version, size) = (now.version, now.size);
        }
        self.cluster.abandon_blocks(&extents);
        Err(Failure::Busy("others append all the time".to_owned()).into())
    }

    async fn store_appended(&self, batch: &Batch) -> Result<Vec<Extent>, NotAppended> {
        let pieces = batch.pieces.clone().into_iter();
        let stores = pieces.map(|(_, piece)| async move {
            // It is never closed.
            let _permit = self.memory.uploads.acquire().await;
            self.cluster
                .store_block(self.inode, self.policy, piece.offset, piece.data)
                .await
        });
        let mut stored = futures::stream::iter(stores).buffered(STORES_AT_ONCE);
        let (mut extents, mut failed) = (Vec::new(), None);
        while let Some(stored) = stored.next().await {
            match stored {
                Ok(extent) => extents.push(extent),
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            None => Ok(extents),
            Some(error) => {
                self.cluster.abandon_blocks(&extents);
                Err(NotAppended::Surely(error.into()))
            }
        }
    }

    fn appended(&self, batch: &Batch, attributes: &Attributes) {
        let mut state = self.lock();
        state.forget_sending(&batch.pieces);
        state.layout.forget();
        let alone = state.learn_own(attributes, 1);
        let is_elsewhere = attributes.size != batch.appended.end;
        state.are_pages_wrong |= !alone || is_elsewhere;
        state.forget_written();
        self.account(&mut state);
        self.renew_wrong_pages(&mut state);
    }
}

impl Batch {
    fn length(&self) -> usize {
        self.pieces.iter().map(|(_, piece)| piece.data.len()).sum()
    }
}
