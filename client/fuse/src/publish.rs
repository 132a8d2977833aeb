//! Making what was written part of the file.
//!
//! Long runs are stored as blocks, all at once, and one command lays them over the file. Short runs travel in
//! log entries, one round trip each, all at once too; but those the file grows by together with a neighbour
//! become blocks as well, so that a file which was written from its beginning to its end has no hole in it,
//! whatever dies half-way.
//!
//! Invariants:
//! - Other clients see the file before a publication or after it.
//! - What could not be published stays, and is tried again by the next publication.

use std::collections::HashSet;
use std::sync::Arc;

use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, WRITE_SIZE_MAX};
use bark_schema::operation::{Attributes, Extent, Failure, Refusal};
use fuser::Errno;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::errno::{errno, errno_of_error};
use crate::open_file::{OpenFile, State};
use crate::range_buffer::Piece;

/// Log entries of one file on their way at once.
const WRITES_AT_ONCE: usize = 16;

/// What is on its way to be published.
struct Sent {
    small: Vec<(u64, Piece)>,
    large: Vec<(u64, Piece)>,
}

impl State {
    /// Takes all that is dirty: what travels in log entries, and what becomes blocks.
    fn send_all(&mut self) -> Sent {
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
    pub(crate) async fn publish(self: &Arc<Self>) -> Result<(), Errno> {
        if !self.is_dirty() {
            return Ok(());
        }
        let _hold = self.hold().await;
        self.publish_held().await
    }

    /// The same for one who holds the file already.
    pub(crate) async fn publish_held(&self) -> Result<(), Errno> {
        let Sent { small, large } = self.lock().send_all();
        // Storing blocks shows nothing to anybody; one command makes all of them part of the file.
        let mut published = self.store_all(large).await;
        if published.is_ok() {
            published = self.publish_stored().await;
        }
        match published {
            Ok(()) => self.write_all(small).await,
            Err(error) => {
                self.take_back(&small);
                Err(error)
            }
        }
    }

    async fn write_all(&self, sent: Vec<(u64, Piece)>) -> Result<(), Errno> {
        let writes = sent.into_iter().map(|(id, piece)| async move {
            let data = piece.data.clone();
            let result = self.cluster.write(self.inode, piece.offset, data).await;
            if result.is_err() {
                self.take_back(&[(id, piece)]);
            }
            (id, result)
        });
        let mut writes = futures::stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
        let mut done = Vec::new();
        let mut failure = None;
        // Answers come in any order; the newest attributes count.
        let mut newest: Option<Attributes> = None;
        while let Some((id, result)) = writes.next().await {
            match result {
                Ok(attributes) => {
                    done.push(id);
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
            self.wrote(&done, &attributes);
        }
        match failure {
            None => Ok(()),
            Some(Failure::Refused(Refusal::NotFound, _)) => self.discard(),
            Some(failure) => Err(errno(failure)),
        }
    }

    fn wrote(&self, done: &[u64], attributes: &Attributes) {
        let mut state = self.lock();
        state.sending.retain(|sending| !done.contains(&sending.id));
        state.layout.forget();
        state.learn_own(attributes, done.len() as u64);
        if !state.is_dirty() {
            state.written = None;
        }
        self.account(&mut state);
    }

    /// Pieces that did not leave are dirty again.
    fn take_back(&self, sent: &[(u64, Piece)]) {
        let mut state = self.lock();
        for (id, piece) in sent {
            state.sending.retain(|sending| sending.id != *id);
            state.dirty.insert_beneath(piece);
        }
        self.account(&mut state);
    }

    async fn store_all(&self, sent: Vec<(u64, Piece)>) -> Result<(), Errno> {
        let mut on_the_way: FuturesUnordered<_> = sent
            .into_iter()
            .map(|(id, piece)| self.store_piece(id, piece))
            .collect();
        let mut result = Ok(());
        while let Some(stored) = on_the_way.next().await {
            if let Err(error) = stored {
                result = Err(errno_of_error(&error));
            }
        }
        result
    }

    async fn publish_stored(&self) -> Result<(), Errno> {
        let extents = self.lock().stored.overlapping(0, u64::MAX);
        for extents in extents.chunks(EXTENTS_PER_COMMAND_MAX) {
            match self.publish_extents(extents).await {
                Ok(()) => {}
                Err(Failure::Refused(Refusal::NotFound, _)) => return self.discard(),
                Err(failure) => return Err(errno(failure)),
            }
        }
        Ok(())
    }

    async fn publish_extents(&self, extents: &[Extent]) -> Result<(), Failure> {
        let size = extents.last().map_or(0, Extent::end);
        let attributes = self.cluster.publish(self.inode, extents.to_vec(), size).await?;
        self.published(extents, &attributes);
        Ok(())
    }

    fn published(&self, extents: &[Extent], attributes: &Attributes) {
        let mut state = self.lock();
        for extent in extents {
            state.stored.cut(extent.offset, extent.end());
        }
        match state.learn_own(attributes, 1) {
            true => state.layout.lay_over(extents),
            false => state.layout.forget(),
        }
        if !state.is_dirty() {
            state.written = None;
        }
        self.account(&mut state);
    }

    /// The file is gone, and with it whatever was to be written to it.
    fn discard(&self) -> Result<(), Errno> {
        let mut state = self.lock();
        state.dirty.take_all();
        state.sending.clear();
        state.stored.take_all();
        state.written = None;
        self.account(&mut state);
        Ok(())
    }
}
