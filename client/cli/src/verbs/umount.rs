//! `bark umount`: takes a mount away.

use std::path::PathBuf;

use clap::Args;

use crate::problem::Problem;

#[derive(Debug, Args)]
pub struct Umount {
    directory: PathBuf,
    /// At once, even if the cluster is down or programs use it; what was not synced may be lost.
    #[arg(long)]
    force: bool,
}

impl Umount {
    pub fn run(self) -> Result<(), Problem> {
        bark_fuse::unmount(&self.directory, self.force).map_err(super::mount::problem)
    }
}
