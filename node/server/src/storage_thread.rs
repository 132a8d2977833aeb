//! The thread that reads and writes blocks and snapshot files.
//!
//! Previous in the flow: workers' storage requests. Next: the same workers, with the answers.
//!
//! Invariants:
//! - Requests of one worker are carried out in the order it made them.
//! - A block that is answered as stored was synced.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bark_core::members::{self, Members};
use bark_core::open;
use bark_core::partition::event::CallId;
use bark_core::storage::Storage;
use bark_core::worker::event::{Input, StorageEvent, StorageRequest};
use bark_schema::ids::NodeNumber;
use bark_schema::operation::{Failure, Refusal, Reply};
use bark_schema::placement::NodeUse;

use crate::file_disk::FileDisk;
use crate::handover::{Finished, Handover, handover};
use crate::mailbox::{Mail, MailSender};
use crate::protocol::Settings;

/// Requests the channel holds before a worker waits for the disk.
const REQUESTS_MAX: usize = 1024;
/// Requests that share one sync.
const GROUP_REQUESTS_MAX: usize = 64;
/// How often the free space is looked at.
const SPACE_INTERVAL: Duration = Duration::from_secs(2);
/// How often it is stored how far other nodes' logs are.
const MEMBERS_INTERVAL: Duration = Duration::from_secs(60);

pub enum StorageJob {
    Request {
        worker: u16,
        request: StorageRequest,
    },
    /// The partitions of the worker have rejoined their cluster.
    Rejoined {
        worker: u16,
    },
    /// They have to, from now on.
    MarkRejoining {
        worker: u16,
    },
    /// What is known of other nodes' disks changed.
    StoreMembers,
    /// An operator lets a node in with another disk.
    Admit {
        worker: u16,
        call: CallId,
        node: NodeNumber,
    },
}

/// Starts the thread. It ends when every sender is gone.
pub fn start(
    mut storage: Storage,
    mut disk: FileDisk,
    data: PathBuf,
    mut workers: Vec<MailSender>,
    settings: Arc<Settings>,
) -> std::io::Result<(Handover<StorageJob>, JoinHandle<()>)> {
    let (sender, jobs) = handover::<StorageJob>(REQUESTS_MAX);
    let thread = std::thread::Builder::new()
        .name("storage".to_string())
        .spawn(move || {
            let mut events = Vec::new();
            let mut space_told: Option<Instant> = None;
            let members = &settings.members;
            let mut rejoined: BTreeSet<u16> = BTreeSet::new();
            // Those whose partitions behave as ones that may have forgotten.
            let mut marked: BTreeSet<u16> = BTreeSet::new();
            let mut members_stored = Instant::now();
            loop {
                if space_told.is_none_or(|told| told.elapsed() >= SPACE_INTERVAL) {
                    space_told = Some(Instant::now());
                    tell_space(&data, &storage, &mut workers);
                    if members_stored.elapsed() >= MEMBERS_INTERVAL {
                        members_stored = Instant::now();
                        if let Err(error) = store_members(members, &mut disk) {
                            tracing::warn!(%error, "how far other nodes' logs are is not stored");
                        }
                    }
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
                        StorageJob::Rejoined { worker } => {
                            rejoined.insert(worker);
                            if rejoined.len() == workers.len() {
                                end_rejoining(&mut disk);
                            }
                        }
                        StorageJob::MarkRejoining { worker } => {
                            rejoined.remove(&worker);
                            if let Err(error) = open::mark_rejoining(&mut disk) {
                                tracing::error!(%error, "it cannot be noted that this node may have forgotten; it stops");
                                std::process::exit(1);
                            }
                            marked.insert(worker);
                            if marked.len() == workers.len() {
                                settings.rejoining.store(true, Ordering::Release);
                            }
                        }
                        StorageJob::StoreMembers => {
                            members_stored = Instant::now();
                            if let Err(error) = store_members(members, &mut disk) {
                                tracing::warn!(%error, "which disks other nodes have is not stored");
                            }
                        }
                        StorageJob::Admit { worker, call, node } => {
                            let result = admit(members, &mut disk, node);
                            events.push((worker, StorageEvent::Block { call, result }));
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

fn store_members(members: &Mutex<Members>, disk: &mut FileDisk) -> Result<(), members::Error> {
    let known = members.lock().unwrap_or_else(PoisonError::into_inner).clone();
    known.store(disk)
}

fn admit(members: &Mutex<Members>, disk: &mut FileDisk, node: NodeNumber) -> Result<Reply, Failure> {
    tracing::info!(node = node.0, "an operator lets the node in with another disk");
    members.lock().unwrap_or_else(PoisonError::into_inner).admit(node);
    match store_members(members, disk) {
        Ok(()) => Ok(Reply::Done),
        Err(error) => Err(Failure::refused(Refusal::Internal, error.to_string())),
    }
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
