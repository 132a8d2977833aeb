//! An open regular file.

use std::rc::Rc;

use bark_schema::generated::client_capnp::file;
use bark_schema::ids::InodeId;
use bark_schema::limits::MIB;
use bark_schema::operation::{AttributeChange, Attributes, Command, Failure, Refusal};

use super::authority::{Authority, Held, exception};
use super::read::read;
use super::turns::Turns;
use super::walk;
use super::write::Writer;

/// Bytes one read answers; a longer one is answered in part.
const READ_SIZE_MAX: u32 = 4 * MIB as u32;

pub struct File {
    authority: Authority,
    inode: InodeId,
    writer: Turns<Writer>,
    _held: Held,
}

impl File {
    /// As the attributes of the file say.
    pub fn new_client(authority: &Authority, attributes: &Attributes) -> capnp::Result<file::Client> {
        let inode = attributes.inode;
        let held = authority.connection.hold().map_err(exception)?;
        let writer = Turns::new(Writer::new(authority.clone(), inode, attributes.policy));
        Ok(capnp_rpc::new_client(File {
            authority: authority.clone(),
            inode,
            writer,
            _held: held,
        }))
    }

    /// Writes by whoever may: the content a new file is made with.
    pub async fn write_content(
        authority: &Authority,
        attributes: &Attributes,
        content: &[u8],
    ) -> Result<(), Failure> {
        let mut writer = Writer::new(authority.clone(), attributes.inode, attributes.policy);
        writer.write(0, content).await?;
        writer.publish().await
    }

    /// Waits for the writes before, and makes them part of the file.
    async fn publish(&self) -> capnp::Result<()> {
        let mut writer = self.writer.enter().await;
        if writer.is_clean() {
            return Ok(());
        }
        writer.publish().await.map_err(exception)
    }

    async fn attributes(&self) -> capnp::Result<Attributes> {
        walk::attributes(&self.authority, self.inode)
            .await
            .map_err(exception)
    }
}

impl file::Server for File {
    async fn read(
        self: Rc<Self>,
        params: file::ReadParams,
        mut results: file::ReadResults,
    ) -> capnp::Result<()> {
        self.authority.check_read()?;
        let (offset, length) = {
            let params = params.get()?;
            (params.get_offset(), params.get_length().min(READ_SIZE_MAX))
        };
        if offset.checked_add(u64::from(length)).is_none() {
            return Err(exception(Failure::refused(
                Refusal::InvalidArgument,
                "the offset is too large",
            )));
        }
        self.publish().await?;
        let _reservation = self.authority.connection.budget.reserve(length as usize).await;
        let (data, size) = read(&self.authority, self.inode, offset, length)
            .await
            .map_err(exception)?;
        let mut results = results.get();
        results.set_data(&data);
        results.set_end_of_file(offset + data.len() as u64 >= size);
        Ok(())
    }

    async fn write(
        self: Rc<Self>,
        params: file::WriteParams,
        mut results: file::WriteResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let mut writer = self.writer.enter().await;
        let params = params.get()?;
        let (offset, data) = (params.get_offset(), params.get_data()?);
        let inline = writer.is_clean() && writer.write_inline(offset, data).await.map_err(exception)?;
        if !inline {
            writer.write(offset, data).await.map_err(exception)?;
            writer.publish().await.map_err(exception)?;
        }
        // A frame, and so the data, is far below 4 GiB.
        results.get().set_written(data.len() as u32);
        Ok(())
    }

    async fn append(
        self: Rc<Self>,
        params: file::AppendParams,
        mut results: file::AppendResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let mut writer = self.writer.enter().await;
        let offset = writer
            .append(params.get()?.get_data()?)
            .await
            .map_err(exception)?;
        results.get().set_offset(offset);
        Ok(())
    }

    async fn truncate(
        self: Rc<Self>,
        params: file::TruncateParams,
        _: file::TruncateResults,
    ) -> capnp::Result<()> {
        self.authority.check_write()?;
        let mut writer = self.writer.enter().await;
        writer.publish().await.map_err(exception)?;
        let change = AttributeChange {
            size: Some(params.get()?.get_size()),
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
        Ok(())
    }

    async fn size(self: Rc<Self>, _: file::SizeParams, mut results: file::SizeResults) -> capnp::Result<()> {
        self.authority.check_read()?;
        self.publish().await?;
        results.get().set_size(self.attributes().await?.size);
        Ok(())
    }

    /// A failure shows at the next `done`: an exception here would end the stream without saying where.
    async fn write_stream(self: Rc<Self>, params: file::WriteStreamParams) -> capnp::Result<()> {
        self.authority.check_write()?;
        let mut writer = self.writer.enter().await;
        let params = params.get()?;
        if let Err(failure) = writer.write(params.get_offset(), params.get_data()?).await {
            writer.fail(failure);
        }
        Ok(())
    }

    async fn done(self: Rc<Self>, _: file::DoneParams, mut results: file::DoneResults) -> capnp::Result<()> {
        self.authority.check_read()?;
        self.publish().await?;
        let attributes = self.attributes().await?;
        let mut results = results.get();
        results.set_size(attributes.size);
        results.set_version(attributes.version);
        Ok(())
    }

    /// Publishing waits for the promise the cluster was configured with; on `disk` that is a quorum of disks.
    async fn sync(self: Rc<Self>, _: file::SyncParams, _: file::SyncResults) -> capnp::Result<()> {
        self.authority.check_read()?;
        self.publish().await
    }
}
