//! The thread that reads and writes blocks and snapshot files.
//!
//! Previous in the flow: workers' storage requests. Next: the same workers, with the answers.
//!
//! Invariants:
//! - Requests of one worker are carried out in the order it made them.
//! - A block that is answered as stored was synced.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bark_core::open;
use bark_core::storage::Storage;
use bark_core::worker::event::{Input, StorageEvent, StorageRequest};
use bark_schema::placement::NodeUse;

use crate::file_disk::FileDisk;
use crate::handover::{Finished, Handover, handover};
use crate::mailbox::{Mail, MailSender};

/// Requests the channel holds before a worker waits for the disk.
const REQUESTS_MAX: usize = 1024;
/// Requests that share one sync.
const GROUP_REQUESTS_MAX: usize = 64;
/// How often the free space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(2);

pub enum StorageJob {
    Request {
        worker: u16,
        request: StorageRequest,
    },
    /// Said once by each worker of a node that rejoins its cluster, when its partitions have.
    Rejoined,
}

/// Starts the thread. It ends when every sender is gone.
pub fn start(
    mut storage: Storage,
    mut disk: FileDisk,
    data: PathBuf,
    mut workers: Vec<MailSender>,
) -> std::io::Result<(Handover<StorageJob>, JoinHandle<()>)> {
    let (sender, jobs) = handover::<StorageJob>(REQUESTS_MAX);
    let thread = std::thread::Builder::new()
        .name("storage".to_string())
        .spawn(move || {
            let mut events = Vec::new();
            let mut space_told: Option<Instant> = None;
            let mut rejoining_workers = workers.len();
            loop {
                if space_told.is_none_or(|told| told.elapsed() >= SPACE_INTERVAL) {
                    space_told = Some(Instant::now());
                    tell_space(&data, &storage, &mut workers);
                }
                let first = match jobs.next(Some(SPACE_INTERVAL)) {
                    Ok(Some(job)) => job,
                    Ok(None) => continue,
                    Err(Finished) => break,
                };
                let mut requests = Vec::new();
                let mut next = Some(first);
                while let Some(job) = next {
                    match job {
                        StorageJob::Request { worker, request } => requests.push((worker, request)),
                        StorageJob::Rejoined => {
                            rejoining_workers = rejoining_workers.saturating_sub(1);
                            if rejoining_workers == 0 {
                                end_rejoining(&mut disk);
                            }
                        }
                    }
                    next = if requests.len() < GROUP_REQUESTS_MAX {
                        jobs.try_next().unwrap_or(None)
                    } else {
                        None
                    };
                }
                storage.execute(&mut disk, requests, &mut events);
                for (worker, event) in events.drain(..) {
                    if let Some(sender) = workers.get_mut(usize::from(worker)) {
                        sender.send(Mail::Input(Input::Storage(event)));
                    }
                }
                for worker in &mut workers {
                    worker.flush_rest();
                }
            }
        })?;
    Ok((sender, thread))
}

fn end_rejoining(disk: &mut FileDisk) {
    match open::clear_rejoining(disk) {
        Ok(()) => tracing::info!("all partitions of this node vote again"),
        Err(error) => tracing::warn!(%error, "this node will rejoin once more at its next start"),
    }
}

fn tell_space(data: &PathBuf, storage: &Storage, workers: &mut [MailSender]) {
    match rustix::fs::statvfs(data) {
        Ok(space) => {
            let (block_bytes, _) = storage.blocks().space();
            let known = NodeUse {
                total_bytes: space.f_blocks.saturating_mul(space.f_frsize),
                free_bytes: space.f_bavail.saturating_mul(space.f_frsize),
                block_bytes,
            };
            for worker in workers {
                worker.send(Mail::Input(Input::Storage(StorageEvent::Space(known))));
            }
        }
        Err(error) => tracing::warn!(%error, path = %data.display(), "the free space is not known"),
    }
}
