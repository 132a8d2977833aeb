//! Blocks: stored for what was written, read for what is asked for, given up when nobody will publish them.
//!
//! Next in the flow: the client library, which sends them to their replicas and asks the node that keeps one in memory first.
//! Small reads at random go through [`crate::block_cache`].

use bark_schema::ids::InodeId;
use bark_schema::operation::{Extent, Refusal};
use bark_schema::policy::Policy;
use bytes::Bytes;

use super::Cluster;

impl Cluster {
    /// Stores bytes as a block for a file.
    pub(crate) async fn store_block(
        &self,
        inode: InodeId,
        policy: Policy,
        offset: u64,
        data: Bytes,
    ) -> Result<Extent, bark_client::Error> {
        loop {
            let files = self.client.files();
            let stored = files.store_block(inode, policy, offset, data.clone()).await;
            match stored {
                Err(error) if error.refusal() == Some(Refusal::Fenced) => {
                    if !self.may_ask_again(Some(inode.home()), Some(inode)).await {
                        return Err(error);
                    }
                }
                stored => return stored,
            }
        }
    }

    /// `length` bytes of an extent of a file, from `skip` on.
    pub(crate) async fn read_block(
        &self,
        inode: InodeId,
        extent: Extent,
        skip: u32,
        length: u32,
    ) -> Result<Bytes, bark_client::Error> {
        let files = self.client.files();
        let (block, size) = (extent.block, extent.block_size);
        let start = u64::from(extent.block_offset) + u64::from(skip);
        let is_within = start + u64::from(length) <= u64::from(size);
        let whole = is_within.then(|| self.blocks.whole(block, size, length));
        let Some(whole) = whole.flatten() else {
            return files.read_block(inode, extent, skip, length).await;
        };
        let fetched = whole.get_or_try_init(async || {
            let whole = Extent {
                block_offset: 0,
                length: size,
                ..extent.clone()
            };
            let found = files.read_block(inode, whole, 0, size).await?;
            // What came lies in a buffer that may be much larger, and would be kept as long as this.
            Ok::<_, bark_client::Error>(Bytes::copy_from_slice(&found))
        });
        match fetched.await {
            Ok(bytes) => {
                let start = start as usize;
                Ok(bytes.slice(start..start + length as usize))
            }
            // It may be bad elsewhere than where it is asked for.
            Err(_) => {
                self.blocks.forget(block);
                files.read_block(inode, extent, skip, length).await
            }
        }
    }

    /// Gives up blocks that were stored and never published.
    pub(crate) fn abandon_blocks(&self, extents: &[Extent]) {
        self.client.files().abandon_blocks(extents);
    }
}
