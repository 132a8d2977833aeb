//! Writing files: small ones in one commit, large ones as blocks first and one publishing commit last.
//!
//! A file that fits its inode is created with its content. A larger one is cut into blocks that go out
//! BLOCKS_IN_FLIGHT at a time while more is read. When all are stored, an existing file gets the new extents
//! in one command; a new one is made under a temporary name, published and renamed into place. A file of
//! more extents than one command holds always takes the temporary name. Blocks are cut as the policy of the file
//! says, or of the directory if there is no file yet; it is looked up when the content outgrows the inode.
//!
//! Invariants:
//! - Readers see the old content or the new, never a part or a mix.
//! - A crash leaves the old content, and at most a `.bark-tmp-` file beside it.
//! - Memory stays flat: at most BLOCKS_IN_FLIGHT blocks, and extents for one command.

use std::fmt;

use bark_schema::data::DataCommand;
use bark_schema::ids::InodeId;
use bark_schema::limits::{EXTENTS_PER_COMMAND_MAX, FILE_SIZE_MAX, INLINE_SIZE_MAX, KIB, WRITE_SIZE_MAX};
use bark_schema::operation::{
    AttributeChange, Attributes, Command, Extent, Failure, FileKind, NewContent, NewInode, Refusal,
    RenameMode, Reply,
};
use bark_schema::policy::Policy;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::FuturesOrdered;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::block::OnTheWay;
use super::{Entry, Files, Namespace, block};
use crate::{Client, ClusterPath, Error};

/// Blocks on their way to their replicas at once.
const BLOCKS_IN_FLIGHT: usize = 6;
const READ_SIZE_MIN: usize = 64 * KIB;
const MODE_DEFAULT: u32 = 0o644;
/// Appends that lost a race start over this often.
const APPEND_ATTEMPTS_MAX: u32 = 8;

impl Files {
    /// Replaces a file's content, making the file if it is not there.
    pub async fn write(&self, path: &ClusterPath, content: Bytes) -> Result<(), Error> {
        let mut writer = self.writer(path, MODE_DEFAULT).await?;
        let written = writer.write(content).await;
        self.end(writer, written).await
    }

    /// Replaces a file's content by all that `reader` gives, making the file if it is not there.
    pub async fn write_from(
        &self,
        path: &ClusterPath,
        mode: u32,
        reader: &mut (impl AsyncRead + Unpin),
    ) -> Result<(), Error> {
        let mut writer = self.writer(path, mode).await?;
        let written = writer.write_from(reader).await;
        self.end(writer, written).await
    }

    /// Starts replacing a file's content. Nothing is seen of it before [`FileWriter::finish`].
    pub async fn writer(&self, path: &ClusterPath, mode: u32) -> Result<FileWriter, Error> {
        let Some((directory, name)) = self.parent(path).await? else {
            return Err(Error::refused(path.to_string(), Refusal::IsDirectory));
        };
        Ok(FileWriter {
            client: self.client.clone(),
            path: path.clone(),
            entry: Entry { directory, name },
            attributes: self.new_inode(mode),
            policy: None,
            buffer: BytesMut::new(),
            offset: 0,
            on_the_way: FuturesOrdered::new(),
            extents: Vec::new(),
            temporary: None,
            only_if: None,
        })
    }

    async fn end(&self, mut writer: FileWriter, written: Result<(), Error>) -> Result<(), Error> {
        let result = match written {
            Ok(()) => writer.commit().await,
            Err(error) => Err(error),
        };
        if result.is_err() {
            writer.abort().await;
        }
        result.map(|_| ())
    }

    /// Writes at the end of a file that exists; in one step if it fits a log entry.
    pub async fn append(&self, path: &ClusterPath, content: Bytes) -> Result<(), Error> {
        for _ in 0..APPEND_ATTEMPTS_MAX {
            let walked = self.walk(path, true, 0).await?;
            if walked.attributes.kind == FileKind::Directory {
                return Err(Error::refused(path.to_string(), Refusal::IsDirectory));
            }
            if content.len() <= WRITE_SIZE_MAX {
                return self.append_small(path, walked.attributes.inode, content).await;
            }
            match self.append_once(path, walked.attributes, &content).await {
                Err(error) if error.refusal() == Some(Refusal::Conflict) => {}
                result => return result,
            }
        }
        Err(Error::refused(path.to_string(), Refusal::Conflict))
    }

    /// In one log entry, wherever the end is by then.
    async fn append_small(&self, path: &ClusterPath, inode: InodeId, data: Bytes) -> Result<(), Error> {
        let command = DataCommand::Write {
            inode,
            offset: None,
            data,
        };
        let result = self.client.command(inode.home(), Command::Data(command)).await;
        result
            .map(|_| ())
            .map_err(|failure| Error::new(path.to_string(), failure))
    }

    async fn append_once(
        &self,
        path: &ClusterPath,
        attributes: Attributes,
        added: &Bytes,
    ) -> Result<(), Error> {
        let Attributes { inode, size, .. } = attributes;
        let new_size = size.saturating_add(added.len() as u64);
        if new_size > FILE_SIZE_MAX {
            return Err(Error::refused(path.to_string(), Refusal::FileTooLarge));
        }
        let mut extents = Vec::new();
        if let Err(error) = self.store_added(path, &attributes, added, &mut extents).await {
            self.abandon_blocks(&extents);
            return Err(error);
        }
        let command = Command::Publish {
            inode,
            extents: extents.clone(),
            size: new_size,
            replace_all: false,
            base_version: Some(attributes.version),
        };
        match self.client.command(inode.home(), command).await {
            Ok(_) => Ok(()),
            Err(failure) => {
                if matches!(failure, Failure::Refused(..)) {
                    self.abandon_blocks(&extents);
                }
                Err(Error::new(path.to_string(), failure))
            }
        }
    }

    /// Stores `added` in blocks behind the end of the file; `extents` has what was stored, also after an error.
    async fn store_added(
        &self,
        path: &ClusterPath,
        attributes: &Attributes,
        added: &Bytes,
        extents: &mut Vec<Extent>,
    ) -> Result<(), Error> {
        let (mut offset, mut rest) = (attributes.size, added.clone());
        let policy = attributes.policy;
        let mut on_the_way = FuturesOrdered::new();
        while !rest.is_empty() || !on_the_way.is_empty() {
            while !rest.is_empty() && on_the_way.len() < BLOCKS_IN_FLIGHT {
                let data = rest.split_to(rest.len().min(policy.cut_size()));
                let size = data.len() as u64;
                let (client, subject) = (self.client.clone(), path.to_string());
                let home = attributes.inode.home();
                on_the_way.push_back(block::put(client, subject, home, policy, offset, data));
                offset += size;
            }
            if let Some(stored) = on_the_way.next().await {
                extents.push(stored?);
            }
        }
        if extents.len() > EXTENTS_PER_COMMAND_MAX {
            return Err(Error::refused(path.to_string(), Refusal::FileTooLarge));
        }
        Ok(())
    }
}

/// What must hold of a path for a writer's content to become its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnlyIf {
    /// There is nothing; `Exists` otherwise.
    Absent,
    /// It is this file with this content; `Conflict` otherwise.
    Unchanged { inode: InodeId, version: u64 },
}

/// A file being replaced. Made by [`Files::writer`].
pub struct FileWriter {
    client: Client,
    path: ClusterPath,
    entry: Entry,
    attributes: NewInode,
    /// Known as soon as a block is to be cut.
    policy: Option<Policy>,
    buffer: BytesMut,
    /// Where in the file the buffer starts.
    offset: u64,
    on_the_way: FuturesOrdered<OnTheWay<Extent>>,
    /// Stored and not yet published.
    extents: Vec<Extent>,
    temporary: Option<Temporary>,
    only_if: Option<OnlyIf>,
}

struct Temporary {
    entry: Entry,
    inode: InodeId,
    published: bool,
}

impl fmt::Debug for FileWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FileWriter")
            .field("path", &self.path)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}

impl FileWriter {
    /// Lets [`FileWriter::finish`] succeed only if this holds, in one step with the change. Of a file that
    /// takes more than one publishing command it is checked just before instead.
    pub fn only_if(mut self, condition: OnlyIf) -> FileWriter {
        self.only_if = Some(condition);
        self
    }

    /// Adds bytes. Waits while enough blocks are on their way.
    pub async fn write(&mut self, mut content: Bytes) -> Result<(), Error> {
        while !content.is_empty() {
            let cut_size = self.cut_size(self.buffer.len() + content.len()).await?;
            let piece = content.split_to(content.len().min(self.room(cut_size)));
            if self.buffer.is_empty() && Some(piece.len()) == cut_size {
                self.cut(piece).await?;
                continue;
            }
            self.buffer.extend_from_slice(&piece);
            if Some(self.buffer.len()) == cut_size {
                let block = self.buffer.split().freeze();
                self.cut(block).await?;
            }
        }
        Ok(())
    }

    /// Adds all that `reader` gives.
    pub async fn write_from(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> Result<(), Error> {
        loop {
            let cut_size = self.cut_size(self.buffer.len() + 1).await?;
            let room = self.room(cut_size);
            self.buffer
                .reserve(room.min(READ_SIZE_MIN.max(self.buffer.len())));
            let mut limited = (&mut *reader).take(room as u64);
            let read = limited.read_buf(&mut self.buffer).await;
            if read.map_err(|error| Error::local(self.path.to_string(), error))? == 0 {
                return Ok(());
            }
            if Some(self.buffer.len()) == cut_size {
                let block = self.buffer.split().freeze();
                self.cut(block).await?;
            }
        }
    }

    /// How much gathers before a block is cut. None while what is there may fit the inode, and nobody needs to know.
    async fn cut_size(&mut self, gathered: usize) -> Result<Option<usize>, Error> {
        match gathered <= INLINE_SIZE_MAX && self.policy.is_none() {
            true => Ok(None),
            false => Ok(Some(self.policy().await?.cut_size())),
        }
    }

    /// What may be added to the buffer now.
    fn room(&self, cut_size: Option<usize>) -> usize {
        cut_size.unwrap_or(INLINE_SIZE_MAX + 1) - self.buffer.len()
    }

    async fn policy(&mut self) -> Result<Policy, Error> {
        if let Some(policy) = self.policy {
            return Ok(policy);
        }
        let attributes = match self.existing().await? {
            Some(existing) => existing,
            None => self.client.files().attributes(self.entry.directory).await?,
        };
        Ok(*self.policy.insert(attributes.policy))
    }

    /// Makes the new content the file's content.
    /// Answers the file's inode.
    pub async fn finish(mut self) -> Result<InodeId, Error> {
        let result = self.commit().await;
        if result.is_err() {
            self.abort().await;
        }
        result
    }

    /// Gives up: the file stays as it is.
    pub async fn abort(&mut self) {
        while let Some(stored) = self.on_the_way.next().await {
            self.extents.extend(stored);
        }
        // Those that some command published, or tried to, are not among them.
        self.client
            .files()
            .abandon_blocks(&std::mem::take(&mut self.extents));
        let Some(temporary) = self.temporary.take() else {
            return;
        };
        let Entry { directory, name } = temporary.entry;
        if let Err(failure) = self.client.namespace(Namespace::Unlink { directory, name }).await {
            tracing::debug!(path = %self.path, %failure, "temporary file left behind");
        }
    }

    async fn cut(&mut self, data: Bytes) -> Result<(), Error> {
        let size = data.len() as u64;
        if self.offset + size > FILE_SIZE_MAX {
            return Err(Error::refused(self.path.to_string(), Refusal::FileTooLarge));
        }
        let policy = self.policy().await?;
        while self.on_the_way.len() >= BLOCKS_IN_FLIGHT {
            self.collect().await?;
        }
        self.on_the_way.push_back(Box::pin(block::put(
            self.client.clone(),
            self.path.to_string(),
            self.entry.directory.home(),
            policy,
            self.offset,
            data,
        )));
        self.offset += size;
        Ok(())
    }

    /// Takes the oldest block that is on its way. A full command's worth of them is published at once.
    async fn collect(&mut self) -> Result<(), Error> {
        let Some(stored) = self.on_the_way.next().await else {
            return Ok(());
        };
        if self.extents.len() == EXTENTS_PER_COMMAND_MAX {
            self.publish_to_temporary().await?;
        }
        self.extents.push(stored?);
        Ok(())
    }

    async fn commit(&mut self) -> Result<InodeId, Error> {
        // Only publishing knows of versions, so even the smallest conditional change goes by a block.
        let inline = !matches!(self.only_if, Some(OnlyIf::Unchanged { .. }));
        if inline && self.offset == 0 && self.buffer.len() <= INLINE_SIZE_MAX {
            let data = self.buffer.split().freeze();
            return self.commit_inline(data).await;
        }
        if !self.buffer.is_empty() {
            let block = self.buffer.split().freeze();
            self.cut(block).await?;
        }
        while !self.on_the_way.is_empty() {
            self.collect().await?;
        }
        let existing = self.existing().await?;
        let base_version = self.check(existing.as_ref())?;
        // Blocks are for one partition: a file that was linked here from another directory's is replaced by
        // a new one of this name instead.
        let home = self.entry.directory.home();
        if let (Some(existing), None) = (&existing, &self.temporary)
            && existing.inode.home() == home
        {
            let extents = std::mem::take(&mut self.extents);
            self.publish(existing.inode, extents, true, base_version).await?;
            return Ok(existing.inode);
        }
        self.publish_to_temporary().await?;
        self.put_in_place(existing).await
    }

    /// Whether what is there now is what the caller wants there, and the version to insist on.
    fn check(&self, existing: Option<&Attributes>) -> Result<Option<u64>, Error> {
        let refused = |refusal| Err(Error::refused(self.path.to_string(), refusal));
        match (self.only_if, existing) {
            (None, _) | (Some(OnlyIf::Absent), None) => Ok(None),
            (Some(OnlyIf::Absent), Some(_)) => refused(Refusal::Exists),
            (Some(OnlyIf::Unchanged { inode, version }), Some(found))
                if (inode, version) == (found.inode, found.version) =>
            {
                Ok(Some(version))
            }
            (Some(OnlyIf::Unchanged { .. }), _) => refused(Refusal::Conflict),
        }
    }

    /// The regular file the path leads to now, if there is one.
    async fn existing(&self) -> Result<Option<Attributes>, Error> {
        match self.client.files().stat(&self.path).await {
            Ok(attributes) if attributes.kind == FileKind::Directory => {
                Err(Error::refused(self.path.to_string(), Refusal::IsDirectory))
            }
            Ok(attributes) => Ok(Some(attributes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn commit_inline(&mut self, data: Bytes) -> Result<InodeId, Error> {
        let command = Command::Create {
            directory: self.entry.directory,
            name: self.entry.name.clone(),
            attributes: self.attributes.clone(),
            content: NewContent::Inline(data.clone()),
            exclusive: self.only_if == Some(OnlyIf::Absent),
        };
        let inode = match self.client.command(self.entry.directory.home(), command).await {
            Ok(Reply::Created {
                attributes,
                created: true,
            }) => return Ok(attributes.inode),
            Ok(Reply::Created { attributes, .. }) => attributes.inode,
            Err(Failure::Refused(Refusal::Exists, _)) if self.only_if.is_some() => {
                return Err(Error::refused(self.path.to_string(), Refusal::Exists));
            }
            // A symbolic link, a directory, or a file whose inode lives elsewhere.
            Err(Failure::Refused(Refusal::Exists, _) | Failure::CrossPartition) => {
                match self.existing().await? {
                    Some(existing) => existing.inode,
                    None => return Err(Error::refused(self.path.to_string(), Refusal::Exists)),
                }
            }
            Ok(other) => return Err(Error::protocol(self.path.to_string(), &other)),
            Err(failure) => return Err(Error::new(self.path.to_string(), failure)),
        };
        let command = Command::WriteInline {
            inode,
            offset: 0,
            data: data.clone(),
            truncate: true,
        };
        match self.client.command(inode.home(), command).await {
            Ok(_) => Ok(inode),
            Err(Failure::TooLargeForInline) => {
                let size = data.len() as u64;
                let (client, subject) = (self.client.clone(), self.path.to_string());
                let policy = self.policy().await?;
                let extent = block::put(client, subject, inode.home(), policy, 0, data).await?;
                self.offset = size;
                self.publish(inode, vec![extent], true, None).await?;
                Ok(inode)
            }
            Err(failure) => Err(Error::new(self.path.to_string(), failure)),
        }
    }

    async fn publish_to_temporary(&mut self) -> Result<(), Error> {
        let (inode, first) = match &self.temporary {
            Some(temporary) => (temporary.inode, !temporary.published),
            None => (self.make_temporary().await?, true),
        };
        let extents = std::mem::take(&mut self.extents);
        self.publish(inode, extents, first, None).await?;
        if let Some(temporary) = &mut self.temporary {
            temporary.published = true;
        }
        Ok(())
    }

    async fn make_temporary(&mut self) -> Result<InodeId, Error> {
        let block = self.client.new_block(self.entry.directory.home());
        let name = format!(".bark-tmp-{:016x}-{:x}", block.client.0, block.counter);
        let entry = Entry {
            directory: self.entry.directory,
            name: name.into(),
        };
        // Of the file it replaces, if there is one; blocks may be cut already.
        let policy = self.policy().await?;
        let attributes = NewInode {
            policy: policy.in_full(),
            ..self.attributes.clone()
        };
        let command = Command::Create {
            directory: entry.directory,
            name: entry.name.clone(),
            attributes,
            content: NewContent::Inline(Bytes::new()),
            exclusive: true,
        };
        match self.client.command(entry.directory.home(), command).await {
            Ok(Reply::Created { attributes, .. }) => {
                let inode = attributes.inode;
                self.temporary = Some(Temporary {
                    entry,
                    inode,
                    published: false,
                });
                Ok(inode)
            }
            Ok(other) => Err(Error::protocol(self.path.to_string(), &other)),
            Err(failure) => Err(Error::new(self.path.to_string(), failure)),
        }
    }

    /// One publishing command: everything up to the end of the last extent becomes part of the inode.
    async fn publish(
        &self,
        inode: InodeId,
        extents: Vec<Extent>,
        replace_all: bool,
        base_version: Option<u64>,
    ) -> Result<(), Error> {
        let size = match extents.last() {
            Some(last) => last.offset + u64::from(last.length),
            None => self.offset,
        };
        let command = Command::Publish {
            inode,
            extents,
            size,
            replace_all,
            base_version,
        };
        match self.client.command(inode.home(), command).await {
            Ok(_) => Ok(()),
            Err(failure) => Err(Error::new(self.path.to_string(), failure)),
        }
    }

    async fn put_in_place(&mut self, existing: Option<Attributes>) -> Result<InodeId, Error> {
        let Some(temporary) = &self.temporary else {
            return Err(Error::refused(self.path.to_string(), Refusal::Internal));
        };
        let inode = temporary.inode;
        if let Some(existing) = existing {
            let change = AttributeChange {
                mode: Some(existing.mode),
                owner: Some(existing.owner),
                group: Some(existing.group),
                ..AttributeChange::default()
            };
            let files = self.client.files();
            files.set_inode_attributes(&self.path, inode, change).await?;
        }
        let operation = Namespace::Rename {
            from: temporary.entry.clone(),
            to: self.entry.clone(),
            mode: match self.only_if {
                Some(OnlyIf::Absent) => RenameMode::NoReplace,
                _ => RenameMode::Replace,
            },
        };
        match self.client.namespace(operation).await {
            Ok(_) => {
                self.temporary = None;
                Ok(inode)
            }
            Err(failure) => Err(Error::new(self.path.to_string(), failure)),
        }
    }
}
