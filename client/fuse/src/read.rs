//! Reading a file that is open: the cluster's bytes below, what is not published yet above.
//!
//! The kernel reads ahead and asks for several ranges at once, so blocks are fetched in parallel, and its page cache is the
//! cache; [`crate::block_cache`] is only for what is read in small pieces.
//!
//! Invariants:
//! - A read shows all that was written by this mount before it began, wherever that is by then.
//! - However often a file changes, each read of it ends and finds some content of that time.

use std::sync::Arc;

use bark_schema::operation::{Attributes, Content, Extent, Refusal};
use bytes::{Bytes, BytesMut};
use fuser::Errno;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use crate::errno::{errno, errno_of_error};
use crate::layout::{Layout, Place};
use crate::lock_table::Standing;
use crate::open_file::{OpenFile, State};
use crate::range_buffer::Piece;
use crate::volume::Volume;

/// Extents are asked for this much of the file at a time: about a thousand of them.
const LAYOUT_SIZE: u64 = 1 << 30;
/// How often a read starts over because the file changed meanwhile.
const READ_ATTEMPTS_MAX: u32 = 8;

/// Whose bytes a read sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Those of the cluster as this mount knows them, and what was written here since.
    Mount,
    /// Those of the cluster as they are now.
    Cluster,
}

/// What is known of a range at one moment.
struct View {
    length: usize,
    /// None where the cluster has to be asked.
    place: Option<Place>,
    stored: Vec<Extent>,
    newer: Vec<Piece>,
}

impl Volume {
    pub(crate) async fn read(&self, file: &Arc<OpenFile>, offset: u64, size: u32) -> Result<Bytes, Errno> {
        if self.cluster.locks().standing(file.inode) == Standing::Doubtful {
            // What is lost can be read all the same, as it is now: others read it too.
            let _ = self.settle_locks(file).await;
        }
        file.read(offset, size, self.sight()).await
    }

    /// Whose bytes programs read.
    pub(crate) fn sight(&self) -> Sight {
        match self.is_strict {
            true => Sight::Cluster,
            false => Sight::Mount,
        }
    }
}

impl OpenFile {
    /// Bytes from `offset` on, fewer than `size` at the end of the file.
    pub(crate) async fn read(self: &Arc<Self>, offset: u64, size: u32, sight: Sight) -> Result<Bytes, Errno> {
        let first = self.read_known(offset, size, sight).await?;
        if first.is_empty() || first.len() == size as usize {
            return Ok(first);
        }
        let mut bytes = BytesMut::from(first);
        while bytes.len() < size as usize {
            let done = bytes.len() as u32;
            let next = self
                .read_known(offset + u64::from(done), size - done, sight)
                .await?;
            if next.is_empty() {
                break;
            }
            bytes.extend_from_slice(&next);
        }
        Ok(bytes.freeze())
    }

    /// Bytes from `offset` on, as far as one answer tells where they are; none at the end of the file.
    async fn read_known(self: &Arc<Self>, offset: u64, size: u32, sight: Sight) -> Result<Bytes, Errno> {
        for _ in 0..READ_ATTEMPTS_MAX {
            let view = match sight {
                Sight::Cluster => self.ask_published(offset, size).await?,
                Sight::Mount => self.view(offset, size).await?,
            };
            if view.length == 0 {
                return Ok(Bytes::new());
            }
            if let Some(piece) = view.covering(offset) {
                return Ok(piece.data.clone());
            }
            match self.assemble(offset, view).await? {
                Some(bytes) => return Ok(bytes),
                // Blocks are gone because the file was changed by somebody else: look where it is now.
                None => self.lock().layout.forget(),
            }
        }
        tracing::warn!(inode = self.inode.0, "blocks of the file cannot be read");
        Err(Errno::EIO)
    }

    /// What this mount sees of a range; the cluster is asked for what is not known.
    async fn view(self: &Arc<Self>, offset: u64, size: u32) -> Result<View, Errno> {
        let view = self.lock().view(offset, size);
        if view.is_known(offset) {
            return Ok(view);
        }
        // The first question is for the file from its start, so that the answer serves most later reads.
        if !self.lock().layout.is_known() && offset < LAYOUT_SIZE / 2 {
            let view = self.ask_view(0, offset, size).await?;
            // Of a file in many pieces an answer tells the first ones only.
            if view.is_known(offset) {
                return Ok(view);
            }
        }
        let view = self.ask_view(offset, offset, size).await?;
        if view.is_known(offset) {
            return Ok(view);
        }
        self.ask_view_held(offset, size).await
    }

    /// What the answer to a question about the bytes from `from` on shows, unless something newer is known when it comes.
    async fn ask_view(&self, from: u64, offset: u64, size: u32) -> Result<View, Errno> {
        let (attributes, content) = self.ask(from, LAYOUT_SIZE).await?;
        let mut state = self.lock();
        state.take_layout(from, &attributes, content);
        Ok(state.view(offset, size))
    }

    /// The same where programs of this mount publish so often that each answer is old when it comes: they wait for this
    /// one, which therefore shows all that is not to be laid over it.
    async fn ask_view_held(self: &Arc<Self>, offset: u64, size: u32) -> Result<View, Errno> {
        let _hold = self.hold().await;
        let (attributes, content) = self.ask(offset, LAYOUT_SIZE).await?;
        let layout = Layout::from_answer(offset, content.clone());
        let mut state = self.lock();
        state.take_layout(offset, &attributes, content);
        let end = attributes.size.max(state.unpublished_end());
        let view = View::new(&layout, attributes.size, end, (offset, size));
        Ok(state.lay_over(view, offset))
    }

    /// What the cluster has of a range now.
    async fn ask_published(&self, offset: u64, size: u32) -> Result<View, Errno> {
        let (attributes, content) = self.ask(offset, u64::from(size)).await?;
        self.lock().learn(&attributes);
        let layout = Layout::from_answer(offset, content);
        Ok(View::new(
            &layout,
            attributes.size,
            attributes.size,
            (offset, size),
        ))
    }

    async fn ask(&self, offset: u64, length: u64) -> Result<(Attributes, Content), Errno> {
        let answer = self.cluster.layout(self.inode, offset, length).await;
        answer.map_err(errno)
    }

    /// Takes what the cluster told of the bytes from `from` on.
    pub(crate) fn take_layout(&self, from: u64, attributes: &Attributes, content: Content) {
        self.lock().take_layout(from, attributes, content);
    }

    /// None if the blocks are not where they were thought to be.
    async fn assemble(&self, offset: u64, view: View) -> Result<Option<Bytes>, Errno> {
        let mut bytes = vec![0; view.length];
        let (extents, patches) = match view.place {
            None => return Ok(None),
            Some(Place::Inline(piece)) => (Vec::new(), vec![piece]),
            Some(Place::Mapped { extents, patches }) => (extents, patches),
        };
        if let ([], [], [], [extent]) = (&view.newer[..], &view.stored[..], &patches[..], &extents[..])
            && extent.offset <= offset
            && extent.end() >= offset + view.length as u64
        {
            let fetched = self.fetch(extent.clone(), offset, view.length as u64).await;
            return gone_as_none(fetched.map(|piece| piece.data));
        }
        for piece in patches {
            piece.copy_onto(offset, &mut bytes);
        }
        for extents in [extents, view.stored] {
            let mut on_the_way: FuturesUnordered<_> = extents
                .into_iter()
                .map(|extent| self.fetch(extent, offset, view.length as u64))
                .collect();
            while let Some(fetched) = on_the_way.next().await {
                match gone_as_none(fetched)? {
                    Some(piece) => piece.copy_onto(offset, &mut bytes),
                    None => return Ok(None),
                }
            }
        }
        for piece in view.newer {
            piece.copy_onto(offset, &mut bytes);
        }
        Ok(Some(bytes.into()))
    }

    /// The part of an extent that lies in `offset .. offset + length`.
    async fn fetch(&self, extent: Extent, offset: u64, length: u64) -> Result<Piece, bark_client::Error> {
        let low = extent.offset.max(offset);
        let high = extent.end().min(offset + length);
        let skip = (low - extent.offset) as u32;
        let length = high.saturating_sub(low) as u32;
        let data = self.cluster.read_block(self.inode, extent, skip, length).await?;
        Ok(Piece { offset: low, data })
    }
}

impl View {
    /// The part of `offset .. offset + size` whose place `layout` tells, of a file with so many bytes published, and so
    /// many in all.
    fn new(layout: &Layout, published: u64, all: u64, (offset, size): (u64, u32)) -> View {
        let mut end = offset.saturating_add(u64::from(size)).min(all);
        let published_end = end.min(published);
        let place = match published_end > offset {
            true => {
                let known_end = layout.known_end(offset);
                end = known_end.map_or(end, |known_end| match known_end < published_end {
                    true => known_end,
                    false => end,
                });
                layout.place(offset, end.min(published_end))
            }
            false => Some(Place::Mapped {
                extents: Vec::new(),
                patches: Vec::new(),
            }),
        };
        View {
            length: end.saturating_sub(offset) as usize,
            place,
            stored: Vec::new(),
            newer: Vec::new(),
        }
    }

    /// The cluster need not be asked.
    fn is_known(&self, offset: u64) -> bool {
        self.place.is_some() || self.covering(offset).is_some()
    }

    /// What was written here and is all that is to be seen.
    fn covering(&self, offset: u64) -> Option<&Piece> {
        match &self.newer[..] {
            [piece] if piece.offset == offset && piece.data.len() == self.length => Some(piece),
            _ => None,
        }
    }
}

impl State {
    fn view(&self, offset: u64, size: u32) -> View {
        let view = View::new(&self.layout, self.attributes.size, self.size, (offset, size));
        self.lay_over(view, offset)
    }

    /// Lays what is not published over a view from `offset` on.
    fn lay_over(&self, view: View, offset: u64) -> View {
        let end = offset + view.length as u64;
        let sending = self.sending.iter().map(|sending| sending.piece.clone());
        let newer = sending
            .filter(|piece| piece.offset < end && piece.end() > offset)
            .chain(self.dirty.overlapping(offset, end))
            .collect();
        View {
            stored: self.stored.overlapping(offset, end),
            newer,
            ..view
        }
    }

    fn take_layout(&mut self, from: u64, attributes: &Attributes, content: Content) {
        self.learn(attributes);
        if attributes.version == self.attributes.version {
            self.layout = Layout::from_answer(from, content);
        }
    }
}

/// A block nobody has may be one that was replaced; anything else is an error.
fn gone_as_none<T>(fetched: Result<T, bark_client::Error>) -> Result<Option<T>, Errno> {
    match fetched {
        Ok(fetched) => Ok(Some(fetched)),
        Err(error) if matches!(error.refusal(), Some(Refusal::NotFound | Refusal::Corrupt)) => Ok(None),
        Err(error) => Err(errno_of_error(&error)),
    }
}
