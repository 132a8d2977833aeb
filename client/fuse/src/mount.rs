//! Mounting, waiting for the end, unmounting.
//!
//! Invariants:
//! - A mount that failed leaves nothing behind.
//! - What was written is published before the process ends, as far as the cluster answers in time.
//! - A forced unmount asks nothing of the daemon or the cluster.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bark_client::{Client, ClusterPath};
use bark_schema::operation::FileKind;
use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount_remount, unmount as unmount_now};
use tokio::runtime::Handle as Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::{Cluster, Patience};
use crate::filesystem::Filesystem;
use crate::mount_table::{self, MountEntry, SUBTYPE, shown};
use crate::notices::Notices;
use crate::volume::{Settings, Volume};

/// The kernel asks for so much more than a program reads: four blocks on their way at once.
const READ_AHEAD_KIB: u32 = 4096;
/// Programs are told to stop within five seconds; this leaves one for the rest.
const PUBLISH_AT_END: Duration = Duration::from_secs(4);

/// Why something was not mounted or unmounted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{directory}: {sentence}")]
    Directory { directory: String, sentence: String },
    #[error("{0}")]
    Cluster(#[from] bark_client::Error),
    #[error("{directory}: {source}")]
    Kernel {
        directory: String,
        #[source]
        source: io::Error,
    },
}

/// What to mount where, and how.
#[derive(Clone, Debug)]
pub struct MountOptions {
    pub directory: PathBuf,
    /// The directory of the cluster that becomes the root.
    pub subdirectory: ClusterPath,
    /// The name in the table of mounts.
    pub name: String,
    pub read_only: bool,
    /// Every write is published before it is answered.
    pub synchronous: bool,
    pub consistency: Consistency,
    /// Reads move the times of access, by the rules of relatime.
    pub access_times: bool,
    /// Programs of other users may use the mount.
    pub allow_other: bool,
    pub trust: Trust,
    /// The directory may have files, which are hidden as long as the mount lasts.
    pub allow_non_empty: bool,
    pub patience: Patience,
    /// Threads that take requests from the kernel.
    pub threads: usize,
}

/// What the mount sees of what other clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// An open sees what was closed or synced before it began.
    CloseToOpen,
    /// Every system call sees what was answered before it began. Mapped memory sees what there was when it was mapped.
    Strict,
}

/// What files of the mount may do, beyond being read and written.
#[derive(Clone, Copy, Debug)]
pub struct Trust {
    /// Set-user and set-group bits of programs count.
    pub set_user: bool,
    /// Device nodes can be opened.
    pub devices: bool,
    pub execution: bool,
}

impl Default for Trust {
    /// As for other file systems in user space: whoever runs the cluster is not root of this machine.
    fn default() -> Trust {
        Trust {
            set_user: false,
            devices: false,
            execution: true,
        }
    }
}

/// A file system that is mounted.
#[derive(Debug)]
pub struct Mount {
    directory: PathBuf,
    session: BackgroundSession,
    volume: Arc<Volume>,
}

impl Mount {
    /// Mounts. Must be called on the runtime that drives the client.
    pub async fn open(client: Client, options: MountOptions) -> Result<Mount, Error> {
        let directory = check_directory(&options)?;
        let root = client.files().stat(&options.subdirectory).await?;
        if root.kind != FileKind::Directory {
            return Err(Error::Directory {
                directory: options.subdirectory.to_string(),
                sentence: "Not a directory".into(),
            });
        }
        let (notices, queue) = Notices::new();
        let is_strict = options.consistency == Consistency::Strict;
        let is_synchronous = options.synchronous || is_strict;
        let cluster = Cluster::new(client, options.patience, !is_synchronous);
        let settings = Settings {
            is_synchronous,
            is_strict,
            moves_access_times: options.access_times && !options.read_only,
        };
        let volume = Arc::new(Volume::new(cluster, notices.clone(), root.inode, settings));
        let filesystem = Filesystem::new(volume.clone(), notices, Runtime::current());
        let config = config(&options);
        let place = directory.clone();
        let kernel = |source: io::Error| Error::Kernel {
            directory: shown(&options.directory),
            source,
        };
        // The handshake with the kernel blocks, on a thread that may.
        let session = tokio::task::spawn_blocking(move || {
            let session = Session::new(filesystem, &place, &config)?;
            queue.deliver(session.notifier())?;
            session.spawn()
        });
        let session = session
            .await
            .map_err(io::Error::other)
            .and_then(|session| session);
        let session = session.map_err(kernel)?;
        if let Ok(Some(entry)) = mount_table::find(&directory) {
            mount_table::set_read_ahead(&entry, READ_AHEAD_KIB);
        }
        let publisher = volume.clone();
        tokio::spawn(async move { publisher.files.publish_due().await });
        let teller = volume.clone();
        tokio::spawn(async move { teller.tell_opens().await });
        tokio::spawn(volume.clone().keep_locks());
        let teller = volume.clone();
        tokio::spawn(async move { teller.tell_access_times().await });
        Ok(Mount {
            directory,
            session,
            volume,
        })
    }

    /// Serves until somebody unmounts it or the process is told to end.
    pub async fn serve(self) -> Result<(), Error> {
        let kernel = |source: io::Error| Error::Kernel {
            directory: shown(&self.directory),
            source,
        };
        let mut terminate = signal(SignalKind::terminate()).map_err(kernel)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(kernel)?;
        let session = self.session;
        let mut ended = tokio::task::spawn_blocking(move || session.join());
        tokio::select! {
            _ = &mut ended => {}
            _ = terminate.recv() => detach(&self.directory),
            _ = interrupt.recv() => detach(&self.directory),
        }
        if tokio::time::timeout(PUBLISH_AT_END, self.volume.end())
            .await
            .is_err()
        {
            tracing::error!("the cluster did not take everything that was written before the end");
        }
        Ok(())
    }
}

/// Takes the mount away from where it is; programs that use it keep what they have until the process ends.
fn detach(directory: &Path) {
    let result = match unmount_now(directory, UnmountFlags::empty()) {
        Err(Errno::BUSY) => unmount_now(directory, UnmountFlags::DETACH),
        result => result,
    };
    if let Err(error) = result {
        tracing::warn!(directory = %directory.display(), %error, "not unmounted");
    }
}

/// Changes what can be changed of a mount as it is: read-only, synchronous and trust; times of access stay. Busy while a program has a
/// file open for writing, or one that was removed, if it is to become read-only.
pub fn remount(options: &MountOptions) -> Result<(), Error> {
    let mounted = bark_mount(&options.directory)?;
    if !options.access_times && !mounted.has_noatime {
        return Err(Error::Directory {
            directory: shown(&options.directory),
            sentence: "noatime cannot be changed by a remount: unmount, and mount again".into(),
        });
    }
    if options.consistency == Consistency::Strict {
        return Err(Error::Directory {
            directory: shown(&options.directory),
            sentence: "consistency cannot be changed by a remount: unmount, and mount again".into(),
        });
    }
    let flags = [
        (options.read_only, MountFlags::RDONLY),
        (options.synchronous, MountFlags::SYNCHRONOUS),
        (!options.trust.set_user, MountFlags::NOSUID),
        (!options.trust.devices, MountFlags::NODEV),
        (!options.trust.execution, MountFlags::NOEXEC),
        (!mounted.has_noatime, MountFlags::RELATIME),
        (mounted.has_noatime, MountFlags::NOATIME),
    ];
    let wanted = flags.into_iter().filter(|(wanted, _)| *wanted);
    let flags = wanted.fold(MountFlags::empty(), |all, (_, flag)| all | flag);
    mount_remount(&mounted.directory, flags, "").map_err(|error| Error::Kernel {
        directory: shown(&options.directory),
        source: error.into(),
    })
}

/// What the kernel knows of a directory where BarkFS is mounted.
fn bark_mount(directory: &Path) -> Result<MountEntry, Error> {
    let named = |sentence: &str| Error::Directory {
        directory: shown(directory),
        sentence: sentence.into(),
    };
    let kernel = |source: io::Error| Error::Kernel {
        directory: shown(directory),
        source,
    };
    let place = mount_table::absolute(directory).map_err(kernel)?;
    match mount_table::find(&place).map_err(kernel)? {
        None => Err(named("Not mounted")),
        Some(entry) if !entry.is_bark() => Err(named("Not a BarkFS mount")),
        Some(entry) => Ok(entry),
    }
}

/// Unmounts. By force: at once, whatever hangs, and what was not published is lost.
pub fn unmount(directory: &Path, force: bool) -> Result<(), Error> {
    let named = |sentence: &str| Error::Directory {
        directory: shown(directory),
        sentence: sentence.into(),
    };
    let kernel = |source: io::Error| Error::Kernel {
        directory: shown(directory),
        source,
    };
    let place = bark_mount(directory)?.directory;
    if force {
        return match unmount_now(&place, UnmountFlags::FORCE) {
            Err(Errno::BUSY) => unmount_now(&place, UnmountFlags::DETACH),
            result => result,
        }
        .map_err(|error| kernel(error.into()));
    }
    // Asks the daemon to publish everything, so that the cluster has it when this command has ended.
    if let Err(error) = File::open(&place).and_then(|root| root.sync_all()) {
        tracing::warn!(directory = %place.display(), %error, "not written out before unmounting");
    }
    match unmount_now(&place, UnmountFlags::empty()) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(named(
            "Device or resource busy: a program uses it; --force takes it away",
        )),
        Err(error) => Err(kernel(error.into())),
    }
}

fn check_directory(options: &MountOptions) -> Result<PathBuf, Error> {
    let refused = |sentence: String| Error::Directory {
        directory: shown(&options.directory),
        sentence,
    };
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => refused("No such directory".into()),
        _ => refused(error.to_string()),
    };
    let place = mount_table::absolute(&options.directory).map_err(missing)?;
    let mounted = mount_table::find(&place).map_err(|error| refused(error.to_string()))?;
    if let Some(entry) = mounted.filter(|_| !options.allow_non_empty) {
        return Err(refused(format!(
            "Something of type {} is mounted here already",
            entry.kind
        )));
    }
    let directory = options.directory.canonicalize().map_err(missing)?;
    let mut entries = std::fs::read_dir(&directory).map_err(missing)?;
    if entries.next().is_some() && !options.allow_non_empty {
        return Err(refused(
            "Directory not empty: mounting would hide its files; -o nonempty does it anyway".into(),
        ));
    }
    Ok(directory)
}

fn config(options: &MountOptions) -> Config {
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::FSName(options.name.clone()),
        // The kernel takes it from here; fuser would hand it to fusermount only.
        MountOption::CUSTOM(format!("subtype={SUBTYPE}")),
        MountOption::DefaultPermissions,
        match options.read_only {
            true => MountOption::RO,
            false => MountOption::RW,
        },
    ];
    let flags = [
        (options.synchronous, MountOption::Sync),
        (!options.access_times, MountOption::NoAtime),
        (options.trust.set_user, MountOption::Suid),
        (options.trust.devices, MountOption::Dev),
        (!options.trust.execution, MountOption::NoExec),
    ];
    let wanted = flags.into_iter().filter(|(wanted, _)| *wanted);
    config.mount_options.extend(wanted.map(|(_, flag)| flag));
    config.acl = match options.allow_other {
        true => SessionACL::All,
        false => SessionACL::Owner,
    };
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    config
}
