//! One inode in the hands of a client.

use std::rc::Rc;

use bark_schema::codec;
use bark_schema::generated::client_capnp::{file, node};
use bark_schema::ids::InodeId;
use bark_schema::limits::{INLINE_SIZE_MAX, PAGE_ENTRIES_MAX};
use bark_schema::operation::{
    AttributeChange, Attributes, Command, Entry, Failure, FileKind, ListPosition, Namespace, NewContent,
    NewInode, Query, Refusal, RenameMode, Reply,
};
use bytes::Bytes;

use super::authority::{Authority, Held, exception, or_broken, unexpected};
use super::file::File;
use super::walk::{self, walk};

/// What an entry of a page may take in an answer: a name, attributes, pointers.
const ENTRY_SIZE_BYTES: usize = 512;

pub struct Node {
    authority: Authority,
    inode: InodeId,
    _held: Held,
}

impl Node {
    pub fn new_client(authority: &Authority, inode: InodeId) -> capnp::Result<node::Client> {
        let held = authority.connection.hold().map_err(exception)?;
        Ok(authority.connection.new_node(Node {
            authority: authority.clone(),
            inode,
            _held: held,
        }))
    }

    /// What a path leads to.
    pub async fn walk_from(
        authority: &Authority,
        start: InodeId,
        path: &[u8],
        follow_last: bool,
    ) -> capnp::Result<node::Client> {
        authority.check_read()?;
        let found = walk(authority, start, path, follow_last)
            .await
            .map_err(exception)?;
        Node::new_client(authority, found.inode)
    }

    async fn attributes(&self) -> capnp::Result<Attributes> {
        walk::attributes(&self.authority, self.inode)
            .await
            .map_err(exception)
    }

    async fn create_as(
        &self,
        name: &[u8],
        mode: u32,
        content: NewContent,
        exclusive: bool,
    ) -> capnp::Result<(Attributes, bool)> {
        let command = Command::Create {
            directory: self.inode,
            name: Bytes::copy_from_slice(name),
            attributes: NewInode {
                mode,
                ..NewInode::default()
            },
            content,
            exclusive,
        };
        match self
            .authority
            .command(self.inode.home(), command)
            .await
            .map_err(exception)?
        {
            Reply::Created { attributes, created } => Ok((attributes, created)),
            other => Err(exception(unexpected(&other))),
        }
    }

    async fn opened(&self, truncate: bool) -> capnp::Result<file::Client> {
        if truncate {
            self.authority.check_write()?;
        }
        self.authority.check_read()?;
        let attributes = self.attributes().await?;
        match attributes.kind {
            FileKind::Regular => {}
            FileKind::Directory => {
                return Err(exception(Failure::refused(
                    Refusal::IsDirectory,
                    "Is a directory",
                )));
            }
            FileKind::Symlink => {
                let sentence = "a symbolic link cannot be opened: walk with followLast";
                return Err(exception(Failure::refused(Refusal::TooManySymlinks, sentence)));
            }
            FileKind::Fifo | FileKind::Socket | FileKind::CharacterDevice | FileKind::BlockDevice => {
                let sentence = "special files have no content";
                return Err(exception(Failure::refused(Refusal::InvalidArgument, sentence)));
            }
        }
        if truncate {
            let change = AttributeChange {
                size: Some(0),
                ..AttributeChange::default()
            };
            let command = Command::SetAttributes {
                inode: self.inode,
                change,
            };
            self.authority
                .command(self.inode.home(), command)
                .await
                .map_err(exception)?;
        }
        File::new_client(&self.authority, &attributes)
    }

    async fn make_directory_as(&self, params: node::MakeDirectoryParams) -> capnp::Result<Attributes> {
        self.authority.check_write()?;
        let operation = {
            let params = params.get()?;
            let Entry { directory, name } = self.entry(params.get_entry_name()?);
            let attributes = NewInode {
                mode: params.get_mode(),
                ..NewInode::default()
            };
            Namespace::MakeDirectory {
                directory,
                name,
                attributes,
            }
        };
        match self.authority.namespace(operation).await.map_err(exception)? {
            Reply::Created { attributes, .. } => Ok(attributes),
            other => Err(exception(unexpected(&other))),
        }
    }

    async fn file_as(&self, params: node::CreateParams) -> capnp::Result<(Attributes, bool)> {
        self.authority.check_write()?;
        let params = params.get()?;
        let content = params.get_content()?;
        let is_inline = content.len() <= INLINE_SIZE_MAX;
        let inline = if is_inline {
            Bytes::copy_from_slice(content)
        } else {
            Bytes::new()
        };
        let (name, mode, exclusive) = (
            params.get_entry_name()?,
            params.get_mode(),
            params.get_exclusive(),
        );
        let (mut attributes, created) = self
            .create_as(name, mode, NewContent::Inline(inline), exclusive)
            .await?;
        if created && !is_inline {
            File::write_content(&self.authority, &attributes, content)
                .await
                .map_err(exception)?;
            attributes = walk::attributes(&self.authority, attributes.inode)
                .await
                .map_err(exception)?;
        }
        Ok((attributes, created))
    }

    async fn symlink_as(&self, params: node::SymlinkParams) -> capnp::Result<Attributes> {
        self.authority.check_write()?;
        let params = params.get()?;
        let content = NewContent::Symlink(Bytes::copy_from_slice(params.get_target()?));
        let (attributes, _) = self
            .create_as(params.get_entry_name()?, 0o777, content, true)
            .await?;
        Ok(attributes)
    }

    /// Puts a new inode, or why there is none, into an answer.
    fn answer_new(
        &self,
        made: capnp::Result<Attributes>,
        answer: impl FnOnce(node::Client, Option<&Attributes>),
    ) -> capnp::Result<()> {
        let node = match &made {
            Ok(attributes) => Node::new_client(&self.authority, attributes.inode),
            Err(error) => Err(error.clone()),
        };
        answer(or_broken(&node), made.as_ref().ok());
        node.map(drop)
    }

    fn entry(&self, name: &[u8]) -> Entry {
        Entry {
            directory: self.inode,
            name: Bytes::copy_from_slice(name),
        }
    }
}

impl node::Server for Node {
    async fn stat(self: Rc<Self>, _: node::StatParams, mut results: node::StatResults) -> capnp::Result<()> {
        self.authority.check_read()?;
        codec::write_attributes(&self.attributes().await?, results.get().init_attributes());
        Ok(())
    }

    async fn walk(
        self: Rc<Self>,
        params: node::WalkParams,
        mut results: node::WalkResults,
    ) -> capnp::Result<()> {
        let params = params.get()?;
        let (path, follow_last) = (params.get_path()?, params.get_follow_last());
        let made = Node::walk_from(&self.authority, self.inode, path, follow_last).await;
        results.get().set_node(or_broken(&made));
        made.map(drop)
    }

    async fn open(
        self: Rc<Self>,
        params: node::OpenParams,
        mut results: node::OpenResults,
    ) -> capnp::Result<()> {
        let made = self.opened(params.get()?.get_truncate()).await;
        results.get().set_file(or_broken(&made));
        made.map(drop)
    }

    async fn list(
        self: Rc<Self>,
        params: node::ListParams,
        mut results: node::ListResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let (after, limit) = {
            let params = params.get()?;
            (
                match params.get_after()? {
                    [] => ListPosition::Start,
                    name => ListPosition::AfterName(Bytes::copy_from_slice(name)),
                },
                params.get_limit().clamp(1, PAGE_ENTRIES_MAX),
            )
        };
        let _reservation = self
            .authority
            .connection
            .budget
            .reserve(limit as usize * ENTRY_SIZE_BYTES)
            .await;
        let query = Query::ReadDirectory {
            directory: self.inode,
            after,
            limit,
        };
        let (entries, more) = match self
            .authority
            .query(self.inode.home(), query)
            .await
            .map_err(exception)?
        {
            Reply::Directory { entries, more, .. } => (entries, more),
            other => return Err(exception(unexpected(&other))),
        };
        let mut results = results.get();
        results.set_more(more);
        // A page has at most PAGE_ENTRIES_MAX entries.
        let mut list = results.init_entries(entries.len() as u32);
        for (index, entry) in (0..).zip(&entries) {
            codec::write_directory_entry(entry, list.reborrow().get(index));
        }
        Ok(())
    }

    async fn make_directory(
        self: Rc<Self>,
        params: node::MakeDirectoryParams,
        mut results: node::MakeDirectoryResults,
    ) -> capnp::Result<()> {
        let made = self.make_directory_as(params).await;
        self.answer_new(made, |node, attributes| {
            let mut results = results.get();
            results.set_node(node);
            if let Some(attributes) = attributes {
                codec::write_attributes(attributes, results.init_attributes());
            }
        })
    }

    async fn create(
        self: Rc<Self>,
        params: node::CreateParams,
        mut results: node::CreateResults,
    ) -> capnp::Result<()> {
        let made = self.file_as(params).await;
        let file = match &made {
            Ok((attributes, _)) => File::new_client(&self.authority, attributes),
            Err(error) => Err(error.clone()),
        };
        results.get().set_file(or_broken(&file));
        results
            .get()
            .set_created(made.as_ref().is_ok_and(|(_, created)| *created));
        let made = file.and(made.map(|(attributes, _)| attributes));
        self.answer_new(made, |node, attributes| {
            let mut results = results.get();
            results.set_node(node);
            if let Some(attributes) = attributes {
                codec::write_attributes(attributes, results.init_attributes());
            }
        })
    }

    async fn remove(self: Rc<Self>, params: node::RemoveParams, _: node::RemoveResults) -> capnp::Result<()> {
        self.authority.check_write()?;
        let operation = {
            let params = params.get()?;
            let Entry { directory, name } = self.entry(params.get_entry_name()?);
            match params.get_directory() {
                true => Namespace::RemoveDirectory { directory, name },
                false => Namespace::Unlink { directory, name },
            }
        };
        self.authority.namespace(operation).await.map_err(exception)?;
        Ok(())
    }

    /// Both directories must be held, and writable, by the client.
    async fn rename(self: Rc<Self>, params: node::RenameParams, _: node::RenameResults) -> capnp::Result<()> {
        self.authority.check_write()?;
        let params = params.get()?;
        let to = self
            .authority
            .connection
            .our_node(params.get_to_directory()?)
            .await?;
        to.authority.check_write()?;
        let from = self.entry(params.get_entry_name()?);
        let to = to.entry(params.get_to_name()?);
        let operation = Namespace::Rename {
            from,
            to,
            mode: match params.get_replace() {
                true => RenameMode::Replace,
                false => RenameMode::NoReplace,
            },
        };
        self.authority.namespace(operation).await.map_err(exception)?;
        Ok(())
    }

    /// The target must be writable too: whoever links it could otherwise write it through the new name.
    async fn link(
        self: Rc<Self>,
        params: node::LinkParams,
        mut results: node::LinkResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let params = params.get()?;
        let target = self.authority.connection.our_node(params.get_target()?).await?;
        target.authority.check_write()?;
        let operation = Namespace::Link {
            inode: target.inode,
            to: self.entry(params.get_entry_name()?),
        };
        self.authority.namespace(operation).await.map_err(exception)?;
        codec::write_attributes(&target.attributes().await?, results.get().init_attributes());
        Ok(())
    }

    async fn symlink(
        self: Rc<Self>,
        params: node::SymlinkParams,
        mut results: node::SymlinkResults,
    ) -> capnp::Result<()> {
        let made = self.symlink_as(params).await;
        self.answer_new(made, |node, attributes| {
            let mut results = results.get();
            results.set_node(node);
            if let Some(attributes) = attributes {
                codec::write_attributes(attributes, results.init_attributes());
            }
        })
    }

    async fn read_link(
        self: Rc<Self>,
        _: node::ReadLinkParams,
        mut results: node::ReadLinkResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let query = Query::ReadLink { inode: self.inode };
        match self
            .authority
            .query(self.inode.home(), query)
            .await
            .map_err(exception)?
        {
            Reply::Link(target) => results.get().set_target(&target),
            other => return Err(exception(unexpected(&other))),
        }
        Ok(())
    }

    async fn set_attributes(
        self: Rc<Self>,
        params: node::SetAttributesParams,
        mut results: node::SetAttributesResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let change = codec::read_attribute_change(params.get()?.get_change()?)
            .map_err(|error| exception(Failure::refused(Refusal::InvalidArgument, error.to_string())))?;
        let command = Command::SetAttributes {
            inode: self.inode,
            change,
        };
        match self
            .authority
            .command(self.inode.home(), command)
            .await
            .map_err(exception)?
        {
            Reply::Attributes(attributes) => {
                codec::write_attributes(&attributes, results.get().init_attributes());
                Ok(())
            }
            other => Err(exception(unexpected(&other))),
        }
    }
}
