//! The thread that makes promises durable: one log, one fdatasync for everything that waits.
//!
//! Previous in the flow: workers, which hand over the records of a turn. Next: the same workers, which let
//! go what waited for them.
//!
//! While a sync runs, the next batches gather in the channel; all of them share the next sync. That is the
//! group commit: the busier the node, the more one sync carries.
//!
//! Invariants:
//! - Batches of one worker are appended in the order it made them.
//! - A failed write or sync is fatal: the process stops, and comes back through recovery. Retrying a failed
//!   fsync can report success for data that is lost.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bark_core::log::{Log, Record};
use bark_core::worker::Durability;
use bark_core::worker::event::Input;

use crate::file_disk::FileDisk;
use crate::handover::{Finished, Handover, Jobs, handover};
use crate::mailbox::{Mail, MailSender};
use crate::protocol::Settings;

/// With durability `memory`, nothing stays unsynced longer.
const MEMORY_SYNC_INTERVAL: Duration = Duration::from_millis(50);
/// Batches the channel holds before a worker waits for the disk: the disk is then far behind.
const BATCHES_MAX: usize = 4096;
/// Bytes of records gathered for one write.
const GROUP_BYTES_MAX: usize = 16 << 20;

/// Workers hear of syncs that take longer; whether that is too long is theirs to say.
const SLOW_SYNC_TOLD: Duration = Duration::from_millis(100);
/// Pause before a full mailbox is tried again.
const MAILS_PAUSE: Duration = Duration::from_millis(1);
/// Pause before a full disk is tried again.
const NO_SPACE_PAUSE: Duration = Duration::from_millis(500);

pub struct LogBatch {
    pub worker: u16,
    pub batch: u64,
    pub records: Vec<Record>,
}

/// Starts the thread. It ends when every sender is gone, after a last sync.
pub fn start(
    mut log: Log,
    mut disk: FileDisk,
    durability: Durability,
    mut workers: Vec<MailSender>,
    settings: Arc<Settings>,
) -> std::io::Result<(Handover<LogBatch>, JoinHandle<()>)> {
    let (sender, jobs) = handover(BATCHES_MAX);
    let thread = std::thread::Builder::new()
        .name("log".to_string())
        .spawn(move || {
            if let Err(error) = run(&mut log, &mut disk, durability, &mut workers, &jobs, &settings) {
                tracing::error!(%error, "the log failed; the node stops so that nothing is promised in vain");
                std::process::exit(1);
            }
        })?;
    Ok((sender, thread))
}

fn run(
    log: &mut Log,
    disk: &mut FileDisk,
    durability: Durability,
    workers: &mut [MailSender],
    jobs: &Jobs<LogBatch>,
    settings: &Settings,
) -> Result<(), bark_core::log::Error> {
    let mut last_sync = Instant::now();
    let mut mails_wait = false;
    loop {
        // What is written but not synced, at level `memory`, is not left lying; nor is an answer for a full mailbox.
        let wait_max = match (mails_wait, log.is_dirty()) {
            (true, _) => Some(MAILS_PAUSE),
            (false, is_dirty) => is_dirty.then_some(MEMORY_SYNC_INTERVAL),
        };
        let first = match jobs.next(wait_max) {
            Ok(batch) => batch,
            Err(Finished) => break,
        };
        let mut done: Vec<Option<u64>> = vec![None; workers.len()];
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut next = first;
        while let Some(batch) = next {
            if let Some(newest) = done.get_mut(usize::from(batch.worker)) {
                *newest = Some(batch.batch);
            }
            bytes += batch.records.iter().map(record_size_bytes).sum::<usize>();
            records.extend(batch.records);
            next = if bytes < GROUP_BYTES_MAX {
                jobs.try_next().unwrap_or(None)
            } else {
                None
            };
        }
        while !records.is_empty() {
            match log.append(disk, &records) {
                Ok(()) => break,
                Err(error @ bark_core::log::Error::NoSpace) => {
                    // Nothing was written and nothing promised: everything waits until somebody makes room.
                    tracing::error!(%error, "the disk is full: changes wait; free some space");
                    std::thread::sleep(NO_SPACE_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
        let sync_now = durability == Durability::Disk || last_sync.elapsed() >= MEMORY_SYNC_INTERVAL;
        if sync_now && log.is_dirty() {
            let begun = Instant::now();
            log.sync(disk)?;
            last_sync = Instant::now();
            let took = last_sync.duration_since(begun);
            settings
                .log_position
                .store(log.durable_position(), Ordering::Release);
            if took >= SLOW_SYNC_TOLD {
                tracing::debug!(?took, "a slow sync of the log");
                let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
                for worker in workers.iter_mut() {
                    worker.send(Mail::Input(Input::LogSynced { took_us }));
                }
            }
        }
        // At level `memory` it is in the page cache now: a process that dies does not forget it.
        for (worker, newest) in workers.iter_mut().zip(done) {
            if let Some(batch) = newest {
                worker.send(Mail::Input(Input::LogPersisted { batch }));
            }
        }
        if jobs.is_empty() {
            // Nobody waits: time for what keeps later syncs cheap.
            log.collect_garbage(disk)?;
            match log.prepare(disk) {
                // The append that needs the next segment waits for space.
                Ok(_) | Err(bark_core::log::Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        mails_wait = false;
        for worker in workers.iter_mut() {
            mails_wait |= !worker.flush_rest();
        }
    }
    log.sync(disk)
}

fn record_size_bytes(record: &Record) -> usize {
    match record {
        Record::Entry { data, .. } => data.len() + 64,
        _ => 64,
    }
}
