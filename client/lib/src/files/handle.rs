//! The bytes of one open file, by inode: what a mount needs.
//!
//! Reads look at the file's map, which is kept while nothing changes it, and fetch blocks side by side from
//! whichever node has them. Small writes travel in a log entry, one round trip. Large ones are cut into
//! blocks, sent to their replicas, and published: at once by [`FileHandle::write_at`], or, staged, by the
//! next flush, so that a long sequential write needs one commit for many blocks.
//!
//! What is known of the file is as old as the last answer: [`FileHandle::revalidate`] asks again (open, in
//! close-to-open terms). Changes made through the handle are seen through it at once.
//!
//! Today every change is answered at level disk: a quorum has synced it. `flush` and `sync` are separate so
//! that a weaker promise between syncs changes no caller.
//!
//! Invariants:
//! - A range is read from one version of the map; where blocks of an old map are gone, a newer one is read.
//! - Staged blocks never overwrite what was written after them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bark_schema::data::{Allocation, Copied, DataCommand, DataQuery, FileMap, Patch, Place, SeekTarget};
use bark_schema::ids::InodeId;
use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, MIB, WRITE_SIZE_MAX};
use bark_schema::operation::{AttributeChange, Attributes, Command, Content, Extent, Query, Refusal, Reply};
use bark_schema::policy::Policy;
use bytes::{Bytes, BytesMut};
use futures::stream::{StreamExt, TryStreamExt};

use super::staged::{Staged, with_patch};
use super::{Files, block};
use crate::{Client, Error};

/// Blocks on their way at once, in either direction.
const BLOCKS_IN_FLIGHT: usize = 8;
/// The map is asked for this much of the file at a time.
const MAP_WINDOW: u64 = 256 * MIB as u64;
/// The same for a file that is written here: what is asked for is old with the next write.
const MAP_WINDOW_WRITTEN: u64 = MIB as u64;
/// A map whose blocks are gone is asked for again this often.
const READ_ATTEMPTS_MAX: u32 = 4;
/// Bytes of own writes kept with a map before it is asked for anew.
const PATCHES_KEPT_SIZE_MAX: usize = 2 * MIB;

/// The bytes of one file. Made by [`Files::handle`]; may be shared between tasks.
#[derive(Debug)]
pub struct FileHandle {
    client: Client,
    inode: InodeId,
    policy: Policy,
    state: Mutex<State>,
    /// One publisher at a time, so that what is staged is published in the order it was staged.
    publishing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<Known>,
    staged: Staged,
    /// Counts changes made here, so that an answer from before one is not kept.
    changes: u64,
}

/// A part of the file's map and the attributes that came with it.
#[derive(Clone, Debug)]
struct Known {
    attributes: Attributes,
    from: u64,
    content: Content,
}

impl Known {
    /// Up to where the bytes from `from` on can be told.
    fn until(&self, from: u64) -> u64 {
        if from >= self.attributes.size {
            return u64::MAX;
        }
        if from < self.from {
            return from;
        }
        let until = match &self.content {
            Content::Inline(bytes) => self.from + bytes.len() as u64,
            Content::Mapped(map) => map.known_until,
        };
        if until >= self.attributes.size {
            u64::MAX
        } else {
            until
        }
    }

    /// What is known after the next version was made by one write of this client; nothing if others
    /// wrote between, or too much was written to keep it.
    fn after_write(&self, attributes: &Attributes, patch: Patch) -> Option<Known> {
        let Content::Mapped(map) = &self.content else {
            return None;
        };
        let is_next = self.attributes.version + 1 == attributes.version;
        let held: usize = map.patches.iter().map(|patch| patch.data.len()).sum();
        let is_outside = patch.end() <= self.from || patch.offset >= map.known_until;
        let is_inside = patch.offset >= self.from && patch.end() <= map.known_until;
        let content = match () {
            () if !is_next || held > PATCHES_KEPT_SIZE_MAX => return None,
            () if is_inside => Content::Mapped(with_patch(map, patch)),
            () if is_outside => self.content.clone(),
            () => return None,
        };
        Some(Known {
            attributes: attributes.clone(),
            from: self.from,
            content,
        })
    }
}

impl Files {
    /// The bytes of a regular file. `policy`: of its new blocks, as its attributes say.
    pub fn handle(&self, inode: InodeId, policy: Policy) -> FileHandle {
        FileHandle {
            client: self.client.clone(),
            inode,
            policy,
            state: Mutex::default(),
            publishing: tokio::sync::Mutex::default(),
        }
    }
}

impl FileHandle {
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// The version of the content this handle knows, if it knows any.
    pub fn version(&self) -> Option<u64> {
        self.lock().known.as_ref().map(|known| known.attributes.version)
    }

    /// Asks for the attributes; what is known of the content is dropped if it changed.
    pub async fn revalidate(&self) -> Result<Attributes, Error> {
        let inode = self.inode;
        let reply = self.query(Query::Attributes { inode }).await?;
        let Reply::Attributes(attributes) = reply else {
            return Err(self.unexpected(&reply));
        };
        self.observe(&attributes);
        Ok(attributes)
    }

    /// Takes attributes that came another way (a lookup, a listing, a notice).
    pub fn observe(&self, attributes: &Attributes) {
        let mut state = self.lock();
        if let Some(known) = &state.known
            && known.attributes.version != attributes.version
        {
            state.known = None;
        }
    }

    /// Forgets what is known, staged blocks excepted.
    pub fn invalidate(&self) {
        self.lock().known = None;
    }

    /// The size, staged bytes included.
    pub async fn size(&self) -> Result<u64, Error> {
        let known = self.lock().known.as_ref().map(|known| known.attributes.size);
        let published = match known {
            Some(size) => size,
            None => self.revalidate().await?.size,
        };
        Ok(published.max(self.lock().staged.end()))
    }

    /// The bytes from `offset`, at most `length`; fewer only at the end of the file.
    pub async fn read_at(&self, offset: u64, length: usize) -> Result<Bytes, Error> {
        let (first, is_end) = self.read_known(offset, length).await?;
        if is_end || first.len() == length {
            return Ok(first);
        }
        // A range in very many pieces takes more than one answer.
        let mut bytes = BytesMut::from(&first[..]);
        while bytes.len() < length {
            let (more, is_end) = self
                .read_known(offset + bytes.len() as u64, length - bytes.len())
                .await?;
            bytes.extend_from_slice(&more);
            if is_end {
                break;
            }
        }
        Ok(bytes.freeze())
    }

    /// What one answer about the map tells of a range, and whether the file ends there.
    async fn read_known(&self, offset: u64, length: usize) -> Result<(Bytes, bool), Error> {
        let mut attempt = 1;
        loop {
            match self.read_once(offset, length).await {
                Err(error) if attempt < READ_ATTEMPTS_MAX && is_stale(&error) => {
                    tracing::debug!(inode = self.inode.0, %error, "the map is old");
                    self.invalidate();
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    async fn read_once(&self, offset: u64, length: usize) -> Result<(Bytes, bool), Error> {
        let wanted = offset.saturating_add(length as u64);
        let (known, staged) = self.known(offset, wanted).await?;
        let size = known.attributes.size.max(staged.end());
        let end = wanted.min(size).min(known.until(offset));
        let is_end = end == size || offset >= size;
        if offset >= end {
            return Ok((Bytes::new(), is_end));
        }
        let map = match known.content {
            Content::Inline(bytes) if staged.is_empty() && end <= known.from + bytes.len() as u64 => {
                let (from, to) = (offset - known.from, end - known.from);
                return Ok((bytes.slice(from as usize..to as usize), is_end));
            }
            Content::Inline(bytes) => inline_map(known.from, bytes),
            Content::Mapped(map) => map,
        };
        let map = FileMap {
            known_until: u64::MAX,
            ..map
        };
        let bytes = self.fetch(&staged.over(&map, offset, end), offset, end).await?;
        Ok((bytes, is_end))
    }

    /// Fetches the pieces of a range side by side.
    async fn fetch(&self, map: &FileMap, from: u64, to: u64) -> Result<Bytes, Error> {
        let mut gets = Vec::new();
        let mut filled = Vec::new();
        for piece in map.pieces(from, to) {
            let at = (piece.offset - from) as usize;
            match piece.place {
                Place::Hole => {}
                Place::Bytes(bytes) => filled.push((at, bytes)),
                Place::Block { extent, skip } => {
                    let (client, path, extent) = (self.client.clone(), self.subject(), extent.clone());
                    let length = piece.length as u32;
                    gets.push(async move {
                        let bytes = block::get(client, path, extent, skip, length).await?;
                        Ok::<_, Error>((at, bytes))
                    });
                }
            }
        }
        let size = (to - from) as usize;
        let fetched: Vec<(usize, Bytes)> = futures::stream::iter(gets)
            .buffer_unordered(BLOCKS_IN_FLIGHT)
            .try_collect()
            .await?;
        filled.extend(fetched);
        if let [(0, whole)] = filled.as_slice()
            && whole.len() == size
        {
            return Ok(whole.clone());
        }
        let mut bytes = BytesMut::zeroed(size);
        for (at, part) in filled {
            bytes[at..at + part.len()].copy_from_slice(&part);
        }
        Ok(bytes.freeze())
    }

    /// What is known of a range, asked for if it is not.
    async fn known(&self, from: u64, to: u64) -> Result<(Known, Staged), Error> {
        let changes = {
            let state = self.lock();
            if let Some(known) = &state.known
                && known.until(from) >= to
            {
                return Ok((known.clone(), state.staged.part(from, to)));
            }
            state.changes
        };
        let window = if changes == 0 {
            MAP_WINDOW
        } else {
            MAP_WINDOW_WRITTEN
        };
        let query = Query::Layout {
            inode: self.inode,
            offset: from,
            length: (to - from).max(window),
        };
        let reply = self.query(query).await?;
        let Reply::Layout { attributes, content } = reply else {
            return Err(self.unexpected(&reply));
        };
        let known = Known {
            attributes,
            from,
            content,
        };
        let mut state = self.lock();
        if state.changes == changes {
            state.known = Some(known.clone());
        }
        if known.until(from) <= from && from < to {
            return Err(Error::protocol(
                self.subject(),
                &"a map that ends where it starts",
            ));
        }
        Ok((known, state.staged.part(from, to)))
    }

    /// Writes bytes, through the log if they are few and as blocks otherwise. Done: a quorum has them on disk.
    pub async fn write_at(&self, offset: u64, data: Bytes) -> Result<Attributes, Error> {
        if data.len() <= WRITE_SIZE_MAX {
            let end = offset.saturating_add(data.len() as u64);
            if self.lock().staged.overlaps(offset, end) {
                self.flush().await?;
            }
            return self.write_small(offset, data).await;
        }
        self.stage_at(offset, data).await?;
        match self.publish_staged().await? {
            Some(attributes) => Ok(attributes),
            None => self.revalidate().await,
        }
    }

    async fn write_small(&self, offset: u64, data: Bytes) -> Result<Attributes, Error> {
        let inode = self.inode;
        let command = DataCommand::Write {
            inode,
            offset: Some(offset),
            data: data.clone(),
        };
        let (changes, known) = {
            let state = self.lock();
            (state.changes, state.known.clone())
        };
        let attributes = self.change(Command::Data(command)).await?;
        let patch = Patch { offset, data };
        let mut state = self.lock();
        if state.changes == changes + 1
            && let Some(known) = known
        {
            state.known = known.after_write(&attributes, patch);
        }
        Ok(attributes)
    }

    /// Writes at the end of the file, wherever that is. Answers where the bytes begin.
    pub async fn append(&self, data: Bytes) -> Result<(u64, Attributes), Error> {
        self.flush().await?;
        let size = data.len() as u64;
        if data.len() <= WRITE_SIZE_MAX {
            let inode = self.inode;
            let command = DataCommand::Write {
                inode,
                offset: None,
                data,
            };
            let attributes = self.change(Command::Data(command)).await?;
            return Ok((attributes.size.saturating_sub(size), attributes));
        }
        // Too much for one entry: two clients that append this much at the same time may overlap.
        let offset = self.revalidate().await?.size;
        let attributes = self.write_at(offset, data).await?;
        Ok((offset, attributes))
    }

    /// Stores bytes as blocks that become part of the file with the next flush. Seen through this handle
    /// at once, by others after the flush.
    pub async fn stage_at(&self, offset: u64, data: Bytes) -> Result<(), Error> {
        let mut puts = Vec::new();
        let (mut offset, mut rest) = (offset, data);
        while !rest.is_empty() {
            let cut_size = self.policy.cut_size();
            let room = cut_size - (offset % cut_size as u64) as usize;
            let data = rest.split_to(room.min(rest.len()));
            let size = data.len() as u64;
            let (client, home) = (self.client.clone(), self.inode.home());
            puts.push(block::put(
                client,
                self.subject(),
                home,
                self.policy,
                offset,
                data,
            ));
            offset += size;
        }
        let stored: Vec<Extent> = futures::stream::iter(puts)
            .buffered(BLOCKS_IN_FLIGHT)
            .try_collect()
            .await?;
        let mut state = self.lock();
        state.changes += 1;
        for extent in stored {
            state.staged.lay(extent);
        }
        Ok(())
    }

    /// Makes staged blocks part of the file.
    pub async fn flush(&self) -> Result<(), Error> {
        self.publish_staged().await.map(|_| ())
    }

    /// As [`FileHandle::flush`], and a quorum has everything on disk.
    pub async fn sync(&self) -> Result<(), Error> {
        self.flush().await
    }

    /// Publishes what is staged now. What fails stays staged.
    async fn publish_staged(&self) -> Result<Option<Attributes>, Error> {
        let _one_at_a_time = self.publishing.lock().await;
        let mut last = None;
        loop {
            let extents = self.lock().staged.first(EXTENTS_PER_COMMAND_MAX);
            let Some(end) = extents.last().map(Extent::end) else {
                return Ok(last);
            };
            let command = Command::Publish {
                inode: self.inode,
                extents: extents.clone(),
                size: end,
                replace_all: false,
                base_version: None,
            };
            last = Some(self.change(command).await?);
            self.lock().staged.remove(&extents);
        }
    }

    pub async fn truncate(&self, size: u64) -> Result<Attributes, Error> {
        self.flush().await?;
        let inode = self.inode;
        let change = AttributeChange {
            size: Some(size),
            ..AttributeChange::default()
        };
        self.change(Command::SetAttributes { inode, change }).await
    }

    /// fallocate.
    pub async fn allocate(
        &self,
        offset: u64,
        length: u64,
        how: Allocation,
        keep_size: bool,
    ) -> Result<Attributes, Error> {
        self.flush().await?;
        let command = DataCommand::Allocate {
            inode: self.inode,
            offset,
            length,
            how,
            keep_size,
        };
        self.change(Command::Data(command)).await
    }

    /// The next data or hole at or after `offset`; none if there is no such place in the file.
    pub async fn seek(&self, offset: u64, target: SeekTarget) -> Result<Option<u64>, Error> {
        self.flush().await?;
        let inode = self.inode;
        let query = DataQuery::Seek {
            inode,
            offset,
            target,
        };
        match self.query(Query::Data(query)).await {
            Ok(Reply::Count(found)) => Ok(Some(found)),
            Ok(other) => Err(self.unexpected(&other)),
            Err(error) if error.refusal() == Some(Refusal::BeyondEnd) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Copies bytes of this file into another (or this) one, on the servers where both have the same
    /// home and as many copies, through this client otherwise. Answers how many, fewer only at the end of this file.
    pub async fn copy_range(
        &self,
        offset: u64,
        target: &FileHandle,
        target_offset: u64,
        length: u64,
    ) -> Result<u64, Error> {
        self.flush().await?;
        target.flush().await?;
        let mut copied = 0;
        while copied < length {
            let (from, to, rest) = (offset + copied, target_offset + copied, length - copied);
            // Shared blocks have as many copies as the policy of the file they were cut for says.
            let is_shareable =
                self.inode.home() == target.inode.home() && self.policy.replicas == target.policy.replicas;
            let step = match is_shareable {
                true => self.copy_on_servers(from, target, to, rest).await?,
                false => self.copy_through(from, target, to, rest).await?,
            };
            if step == 0 {
                break;
            }
            copied += step;
        }
        Ok(copied)
    }

    async fn copy_on_servers(
        &self,
        from_offset: u64,
        target: &FileHandle,
        to_offset: u64,
        length: u64,
    ) -> Result<u64, Error> {
        let command = DataCommand::CopyRange {
            from: self.inode,
            from_offset,
            to: target.inode,
            to_offset,
            length,
        };
        let reply = target.command(Command::Data(command)).await?;
        let Reply::Copied(Copied {
            length,
            attributes: _,
        }) = reply
        else {
            return Err(self.unexpected(&reply));
        };
        Ok(length)
    }

    async fn copy_through(
        &self,
        from_offset: u64,
        target: &FileHandle,
        to_offset: u64,
        length: u64,
    ) -> Result<u64, Error> {
        let size = length.min((self.policy.cut_size() * BLOCKS_IN_FLIGHT) as u64) as usize;
        let data = self.read_at(from_offset, size).await?;
        let size = data.len() as u64;
        if size > 0 {
            target.write_at(to_offset, data).await?;
        }
        Ok(size)
    }

    /// Makes a change that answers the attributes.
    async fn change(&self, command: Command) -> Result<Attributes, Error> {
        match self.command(command).await? {
            Reply::Attributes(attributes) => Ok(attributes),
            other => Err(self.unexpected(&other)),
        }
    }

    async fn command(&self, command: Command) -> Result<Reply, Error> {
        let result = self.client.command(self.inode.home(), command).await;
        // Whatever became of it, what was known may be old.
        let mut state = self.lock();
        state.changes += 1;
        state.known = None;
        drop(state);
        result.map_err(|failure| Error::new(self.subject(), failure))
    }

    async fn query(&self, query: Query) -> Result<Reply, Error> {
        let result = self.client.query(self.inode.home(), query).await;
        result.map_err(|failure| Error::new(self.subject(), failure))
    }

    fn unexpected(&self, reply: &Reply) -> Error {
        Error::protocol(self.subject(), reply)
    }

    /// What errors call the file: paths may change while it is open.
    fn subject(&self) -> String {
        self.inode.to_string()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere does not make the state wrong: it is changed by whole assignments.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks that are gone, or a map that did not reach: a newer map may do.
fn is_stale(error: &Error) -> bool {
    matches!(error.refusal(), Some(Refusal::NotFound | Refusal::Corrupt))
}

/// An inline file's bytes as a map, to lay staged blocks over it.
fn inline_map(from: u64, data: Bytes) -> FileMap {
    let patch = Patch { offset: from, data };
    FileMap {
        extents: Vec::new(),
        patches: vec![patch],
        known_until: u64::MAX,
    }
}
