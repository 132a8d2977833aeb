//! Whole trees: removing and copying.
//!
//! Invariant: neither is atomic. Both go on where they are repeated after an error.

use bark_schema::operation::{FileKind, Namespace, Refusal};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::Files;
use crate::{ClusterPath, Error};

/// Entries removed at the same time.
const REMOVALS_AT_ONCE: usize = 16;

impl Files {
    /// Removes a file, a symbolic link or a directory with everything below it.
    pub async fn remove_tree(&self, path: &ClusterPath) -> Result<(), Error> {
        if self.stat_link(path).await?.kind != FileKind::Directory {
            return self.remove_file(path).await;
        }
        let mut unvisited = vec![path.clone()];
        let mut emptied = Vec::new();
        while let Some(directory) = unvisited.pop() {
            self.remove_entries(&directory, &mut unvisited).await?;
            emptied.push(directory);
        }
        // Parents were visited before their children.
        while let Some(directory) = emptied.pop() {
            match self.remove_directory(&directory).await {
                Err(error) if error.is_not_found() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Removes what is not a directory and names what is.
    async fn remove_entries(
        &self,
        path: &ClusterPath,
        directories: &mut Vec<ClusterPath>,
    ) -> Result<(), Error> {
        let mut listing = self.list(path).await?;
        let directory = listing.directory();
        let mut removals = FuturesUnordered::new();
        while let Some(entry) = listing.next_entry().await? {
            let child = path.join(&entry.name);
            if entry.kind == FileKind::Directory {
                directories.push(child);
                continue;
            }
            if removals.len() >= REMOVALS_AT_ONCE
                && let Some(removed) = removals.next().await
            {
                gone(removed)?;
            }
            let name = entry.name;
            removals.push(async move {
                let operation = Namespace::Unlink { directory, name };
                self.namespace(&child, operation).await
            });
        }
        while let Some(removed) = removals.next().await {
            gone(removed)?;
        }
        Ok(())
    }

    /// Copies a file's content and permission bits, replacing what is there.
    pub async fn copy(&self, from: &ClusterPath, to: &ClusterPath) -> Result<(), Error> {
        let mut reader = self.read(from, ..).await?;
        if let Ok(target) = self.stat(to).await
            && target.inode == reader.attributes().inode
        {
            return Err(Error::refused(to.to_string(), Refusal::InvalidArgument));
        }
        let mut writer = self.writer(to, reader.attributes().mode).await?;
        loop {
            let copied = match reader.next_chunk().await {
                Ok(Some(chunk)) => writer.write(chunk).await,
                Ok(None) => return writer.finish().await.map(|_| ()),
                Err(error) => Err(error),
            };
            if let Err(error) = copied {
                writer.abort().await;
                return Err(error);
            }
        }
    }
}

/// Someone else removed it first: that will do.
fn gone(removed: Result<(), Error>) -> Result<(), Error> {
    match removed {
        Err(error) if error.is_not_found() => Ok(()),
        result => result,
    }
}
