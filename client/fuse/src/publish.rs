//! Making what was written part of the file.
//!
//! Long runs are stored as blocks, all at once, and one command lays them over the file. Short runs travel in
//! log entries, as many in each as it takes, all at once too; but those the file grows by together with a neighbour
//! become blocks as well, so that a file which was written from its beginning to its end has no hole in it,
//! whatever dies half-way.
//!
//! Attributes that were kept here travel with the bytes if one command takes all of these, and after them otherwise.
//! Every command says when the file was written, so that the times shown here meanwhile stay true.
//!
//! Invariants:
//! - Other clients see the file before a publication or after it.
//! - What could not be published stays, and is tried again by the next publication.

use std::collections::HashSet;
use std::sync::Arc;

use bark_schema::data::{FileUpdate, NewBytes, NewPiece};
use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, PIECES_PER_UPDATE_MAX, WRITE_SIZE_MAX};
use bark_schema::operation::{Attributes, Extent, Failure, Refusal};
use fuser::Errno;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::append::Batch;
use crate::delegations::Haste;
use crate::errno::{errno, errno_of_error};
use crate::kept_attributes::KeptAttributes;
use crate::open_file::{OpenFile, State};
use crate::range_buffer::Piece;

/// Log entries of one file on their way at once.
const WRITES_AT_ONCE: usize = 16;
/// Blocks of one file on their way at once; all files together have a limit of their own.
const STORES_AT_ONCE: usize = 16;

/// Why bytes were not published.
#[derive(Clone, Copy)]
pub(crate) struct Unpublished {
    error: Errno,
    /// The cluster has decided so.
    is_refusal: bool,
}

impl From<Failure> for Unpublished {
    fn from(failure: Failure) -> Unpublished {
        Unpublished {
            is_refusal: matches!(failure, Failure::Refused(..)),
            error: errno(failure),
        }
    }
}

impl From<bark_client::Error> for Unpublished {
    fn from(error: bark_client::Error) -> Unpublished {
        Unpublished {
            is_refusal: error.refusal().is_some(),
            error: errno_of_error(&error),
        }
    }
}

/// What is on its way to be published.
struct Sent {
    small: Vec<(u64, Piece)>,
    large: Vec<(u64, Piece)>,
    appended: Option<Batch>,
}

impl State {
    /// Takes all that is dirty: what was appended, what travels in log entries, and what becomes blocks.
    fn send_all(&mut self) -> Sent {
        self.send_attributes();
        let appended = self.send_appended();
        let pieces = self.dirty.take_all();
        // Blocks that were stored while the program went on are older, so the order of the two does not count.
        for piece in &pieces {
            self.stored.cut(piece.offset, piece.end());
        }
        let size = self.attributes.size;
        let stored = self.stored.overlapping(size, u64::MAX);
        let stored = stored.iter().map(|extent| (extent.offset, extent.end()));
        let written = pieces.iter().map(|piece| (piece.offset, piece.end()));
        let growth: Vec<(u64, u64)> = stored.chain(written).filter(|(_, end)| *end > size).collect();
        let starts: HashSet<u64> = growth.iter().map(|(start, _)| *start).collect();
        let ends: HashSet<u64> = growth.iter().map(|(_, end)| *end).collect();
        let mut sent = Sent {
            small: Vec::new(),
            large: Vec::new(),
            appended,
        };
        for piece in pieces {
            let grows = piece.end() > size;
            let has_neighbour = starts.contains(&piece.end()) || ends.contains(&piece.offset);
            let is_large = piece.data.len() > WRITE_SIZE_MAX || (grows && has_neighbour);
            let id = self.send(piece.clone());
            match is_large {
                true => sent.large.push((id, piece)),
                false => sent.small.push((id, piece)),
            }
        }
        sent
    }
}

impl OpenFile {
    /// Publishes everything that was written before the call.
    pub(crate) async fn publish(self: &Arc<Self>, haste: Haste) -> Result<(), Errno> {
        if !self.is_dirty() {
            return Ok(());
        }
        let _hold = self.hold().await;
        self.publish_held(haste).await
    }

    /// The same for one who holds the file already.
    pub(crate) async fn publish_held(&self, haste: Haste) -> Result<(), Errno> {
        let published = self.publish_all(haste).await;
        let mut state = self.lock();
        state.end_publication(published.is_ok());
        match published {
            Ok(()) => state.succeeded(),
            Err(Unpublished { error, is_refusal }) => {
                state.is_in_doubt |= !is_refusal;
                state.failed(error, is_refusal);
            }
        }
        self.account(&mut state);
        published.map_err(|unpublished| unpublished.error)
    }

    async fn publish_all(&self, haste: Haste) -> Result<(), Unpublished> {
        let Sent {
            small,
            large,
            appended,
        } = self.lock().send_all();
        // Storing blocks shows nothing to anybody; one command makes all of them part of the file.
        let mut published = self.store_all(large).await;
        if published.is_ok() {
            published = self.publish_stored(small.is_empty(), haste).await;
        }
        match published {
            Ok(()) => published = self.write_all(small, haste).await,
            Err(_) => self.take_back(&small),
        }
        match (published, appended) {
            (Ok(()), Some(batch)) => self.publish_appended(batch).await?,
            (Err(error), Some(batch)) => {
                self.take_back_appended(batch);
                return Err(error);
            }
            (published, None) => published?,
        }
        self.publish_attributes(haste).await
    }

    /// The attributes on their way, if no bytes took them along.
    async fn publish_attributes(&self, haste: Haste) -> Result<(), Unpublished> {
        if self.lock().leaving.is_empty() {
            return Ok(());
        }
        let update = self.update(NewBytes::Nothing, true);
        match self.cluster.update(update, haste).await {
            Ok(attributes) => {
                let mut state = self.lock();
                state.leaving = KeptAttributes::default();
                state.learn_own(&attributes, 0);
                Ok(())
            }
            Err(Failure::Refused(Refusal::NotFound, _)) => self.discard(),
            Err(failure) => Err(failure.into()),
        }
    }

    fn update(&self, bytes: NewBytes, with_attributes: bool) -> FileUpdate {
        let state = self.lock();
        let mut update = FileUpdate::of(self.inode);
        if bytes != NewBytes::Nothing {
            update.written = state.written;
            update.changed = state.written;
            update.drops_privileges = state.unprivileged;
        }
        update.bytes = bytes;
        if with_attributes {
            state.leaving.clone().put_into(&mut update);
        }
        update
    }

    async fn write_all(&self, sent: Vec<(u64, Piece)>, haste: Haste) -> Result<(), Unpublished> {
        let entries = share_entries(sent);
        let takes_attributes = entries.len() == 1;
        let writes = entries.into_iter().map(|sent| async move {
            let pieces = sent.iter().map(|(_, piece)| NewPiece {
                offset: piece.offset,
                data: piece.data.clone(),
            });
            let update = self.update(NewBytes::Pieces(pieces.collect()), takes_attributes);
            let result = self.cluster.update(update, haste).await;
            if result.is_err() {
                self.take_back(&sent);
            }
            (sent, result)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        let mut done = Vec::new();
        let mut failure = None;
        // Answers come in any order; the newest attributes count.
        let mut newest: Option<Attributes> = None;
        while let Some((sent, result)) = writes.next().await {
            match result {
                Ok(attributes) => {
                    done.extend(sent.iter().map(|(id, _)| *id));
                    if newest
                        .as_ref()
                        .is_none_or(|known| known.version < attributes.version)
                    {
                        newest = Some(attributes);
                    }
                }
                Err(error) => failure = Some(error),
            }
        }
        if let Some(attributes) = newest {
            self.wrote(&done, &attributes, takes_attributes);
        }
        match failure {
            None => Ok(()),
            Some(Failure::Refused(Refusal::NotFound, _)) => self.discard(),
            Some(failure) => Err(failure.into()),
        }
    }

    fn wrote(&self, done: &[u64], attributes: &Attributes, took_attributes: bool) {
        let mut state = self.lock();
        if took_attributes {
            state.leaving = KeptAttributes::default();
        }
        state.sending.retain(|sending| !done.contains(&sending.id));
        state.layout.forget();
        state.learn_own(attributes, done.len() as u64);
        state.forget_written();
        self.account(&mut state);
    }

    /// Pieces that did not leave are dirty again.
    pub(crate) fn take_back(&self, sent: &[(u64, Piece)]) {
        let mut state = self.lock();
        for (id, piece) in sent {
            state.sending.retain(|sending| sending.id != *id);
            state.dirty.insert_beneath(piece);
        }
        self.account(&mut state);
    }

    async fn store_all(&self, sent: Vec<(u64, Piece)>) -> Result<(), Unpublished> {
        // After a failure one goes ahead to see whether the others have a chance.
        let at_once = match self.failure() {
            Some(_) => 1,
            None => STORES_AT_ONCE,
        };
        let mut left = sent.into_iter();
        let mut on_the_way = FuturesUnordered::new();
        let mut result = Ok(());
        loop {
            while result.is_ok() && on_the_way.len() < at_once {
                let Some((id, piece)) = left.next() else {
                    break;
                };
                on_the_way.push(self.store_piece(id, piece));
            }
            match on_the_way.next().await {
                Some(Ok(())) => {}
                Some(Err(error)) => result = Err(error.into()),
                None => break,
            }
        }
        self.take_back(left.as_slice());
        result
    }

    async fn publish_stored(&self, are_all: bool, haste: Haste) -> Result<(), Unpublished> {
        let extents = self.lock().stored.overlapping(0, u64::MAX);
        let mut chunks = extents.chunks(EXTENTS_PER_COMMAND_MAX).peekable();
        while let Some(extents) = chunks.next() {
            let takes_attributes = are_all && chunks.peek().is_none();
            match self.publish_extents(extents, takes_attributes, haste).await {
                Ok(()) => {}
                Err(Failure::Refused(Refusal::NotFound, _)) => return self.discard(),
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }

    async fn publish_extents(
        &self,
        extents: &[Extent],
        takes_attributes: bool,
        haste: Haste,
    ) -> Result<(), Failure> {
        let blocks = NewBytes::Blocks {
            size: extents.last().map_or(0, Extent::end),
            extents: extents.to_vec(),
        };
        let update = self.update(blocks, takes_attributes);
        let attributes = self.cluster.update(update, haste).await?;
        self.published(extents, &attributes, takes_attributes);
        Ok(())
    }

    fn published(&self, extents: &[Extent], attributes: &Attributes, took_attributes: bool) {
        let mut state = self.lock();
        if took_attributes {
            state.leaving = KeptAttributes::default();
        }
        for extent in extents {
            state.stored.take_published(extent.offset, extent.end());
        }
        match state.learn_own(attributes, 1) {
            true => state.layout.lay_over(extents),
            false => state.layout.forget(),
        }
        state.forget_written();
        self.account(&mut state);
    }

    /// The file is gone, and with it whatever was to be written to it.
    pub(crate) fn discard(&self) -> Result<(), Unpublished> {
        let mut state = self.lock();
        state.discard();
        self.account(&mut state);
        Ok(())
    }
}

/// Which pieces, in order and apart, go into one log entry each.
fn share_entries(pieces: Vec<(u64, Piece)>) -> Vec<Vec<(u64, Piece)>> {
    let mut entries: Vec<Vec<(u64, Piece)>> = Vec::new();
    let mut room = 0;
    for (id, piece) in pieces {
        let size = piece.data.len();
        match entries.last_mut() {
            Some(entry) if size <= room && entry.len() < PIECES_PER_UPDATE_MAX => {
                room -= size;
                entry.push((id, piece));
            }
            _ => {
                room = WRITE_SIZE_MAX.saturating_sub(size);
                entries.push(vec![(id, piece)]);
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn entries_are_filled_and_not_beyond_what_one_takes() {
        // Goal: as few entries as there can be in order, none that would be refused. Method: pieces of some sizes.
        let entries = |sizes: &[usize]| -> Vec<usize> {
            let pieces = sizes.iter().map(|size| Piece {
                offset: 0,
                data: Bytes::from(vec![0; *size]),
            });
            let entries = share_entries(pieces.map(|piece| (0, piece)).collect());
            entries.iter().map(Vec::len).collect()
        };
        assert_eq!(entries(&[]), [0; 0]);
        assert_eq!(entries(&[4096; 40]), [16, 16, 8]);
        assert_eq!(
            entries(&[WRITE_SIZE_MAX, 1, WRITE_SIZE_MAX, WRITE_SIZE_MAX - 1, 1]),
            [1, 1, 1, 2]
        );
        assert_eq!(entries(&[1; 300]), [128, 128, 44]);
    }
}
