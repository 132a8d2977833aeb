//! The log thread's stand-in: everything that waits shares one append and one sync, and only then are the
//! workers told.
//!
//! Invariants:
//! - `LogPersisted` is given only after the sync that covers the batch, unless that bug is planted; at level
//!   `memory` after the write.

use bark_core::log;
use bark_core::open;
use bark_core::worker::Durability;
use bark_core::worker::event::Input;

use super::{Node, Stop};
use crate::Planted;
use crate::world::{Event, World};

/// Syncs that take longer are told, as the log thread does.
const SLOW_SYNC_TOLD_US: u64 = 100_000;
/// Between two attempts to append to a full disk.
const NO_SPACE_PAUSE_US: u64 = 50_000;

impl Node {
    pub(super) fn finish_rejoining(&mut self) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        if !running.rejoining || running.workers.iter().any(|cell| cell.worker.is_rejoining()) {
            return Ok(());
        }
        running.rejoining = false;
        self.counts.rejoined += u64::from(self.life > 1);
        let cleared = open::clear_rejoining(&mut self.log_disk);
        self.check_disks()?;
        cleared.map_err(|error| Stop::Defect(format!("node {}: {error}", self.number)))
    }

    /// Appends everything that waits; the sync ends later.
    pub(super) fn begin_log(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let is_idle = running.log_queue.is_empty() && running.log_refused.is_none();
        if running.log_busy.is_some() || is_idle {
            return Ok(());
        }
        let (mut newest, mut records) = running.log_refused.take().unwrap_or_default();
        for (worker, batch, batch_records) in running.log_queue.drain(..) {
            newest.insert(worker, batch);
            records.extend(batch_records);
        }
        let appended = running.log.append(&mut self.log_disk, &records);
        self.check_disks()?;
        if let Err(log::Error::NoSpace) = appended
            && self.is_full
        {
            // Nothing was written and nothing promised: everything waits until there is room.
            self.counts.full_disk_waits += 1;
            if let Some(running) = &mut self.running {
                running.log_refused = Some((newest, records));
            }
            let (node, life) = (self.number, self.life);
            world.after(NO_SPACE_PAUSE_US, Event::LogRetry { node, life });
            return Ok(());
        }
        if let Err(error) = appended {
            if self.is_full {
                self.counts.full_disk_stops += 1;
                return Err(Stop::Disk);
            }
            if self.sync_fails {
                return Err(Stop::Disk);
            }
            return Err(Stop::Defect(format!(
                "the log of node {} refused a batch: {error}",
                self.number
            )));
        }
        let duration = world.between(self.sync_us.0, self.sync_us.1);
        if let Some(running) = &mut self.running {
            running.log_busy_since_us = world.now_us;
        }
        world.after(
            duration,
            Event::LogDone {
                node: self.number,
                life: self.life,
            },
        );
        if planted == Planted::AckBeforeSync || self.durability == Durability::Memory {
            for (worker, batch) in &newest {
                self.input(world, *worker, Input::LogPersisted { batch: *batch });
            }
        }
        if let Some(running) = &mut self.running {
            running.log_busy = Some(newest);
        }
        Ok(())
    }

    pub fn log_retry(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        self.begin_log(world, planted)
    }

    pub fn log_done(&mut self, world: &mut World, planted: Planted) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        let Some(newest) = running.log_busy.take() else {
            return Ok(());
        };
        let synced = running.log.sync(&mut self.log_disk);
        let idle = running.log_queue.is_empty();
        let (began_us, workers) = (running.log_busy_since_us, running.workers.len() as u16);
        // An error here was injected: the log is fail-stop.
        if synced.is_err() {
            return Err(Stop::Disk);
        }
        self.check_disks()?;
        let took_us = world.now_us - began_us;
        if took_us >= SLOW_SYNC_TOLD_US {
            for worker in 0..workers {
                self.input(world, worker, Input::LogSynced { took_us });
            }
        }
        if planted != Planted::AckBeforeSync && self.durability == Durability::Disk {
            for (worker, batch) in newest {
                self.input(world, worker, Input::LogPersisted { batch });
            }
        }
        if idle && let Some(running) = &mut self.running {
            let tidied = running
                .log
                .collect_garbage(&mut self.log_disk)
                .and_then(|_| running.log.prepare(&mut self.log_disk));
            match tidied {
                Ok(_) => {}
                // The append that needs the next segment will say so.
                Err(log::Error::NoSpace) if self.is_full => {}
                Err(_) => return Err(Stop::Disk),
            }
            self.check_disks()?;
        }
        self.begin_log(world, planted)
    }
}
