//! The disk threads' stand-in: batches of block and snapshot requests, carried out in order.

use bark_core::partition::event::SnapshotEvent;
use bark_core::worker::event::{Input, StorageEvent};
use bark_schema::operation::{Failure, Refusal};

use super::{Node, Stop};
use crate::world::{Event, World};

/// Requests that share one sync, as in the server.
const STORAGE_GROUP_MAX: usize = 64;

impl Node {
    pub(super) fn begin_storage(&mut self, world: &mut World) {
        let (node, life) = (self.number, self.life);
        let Some(running) = &mut self.running else { return };
        if !running.storage_busy && !running.storage_queue.is_empty() {
            running.storage_busy = true;
            let duration = world.between(self.sync_us.0, self.sync_us.1);
            world.after(duration, Event::StorageDone { node, life });
        }
    }

    pub fn storage_done(&mut self, world: &mut World) -> Result<(), Stop> {
        let Some(running) = &mut self.running else {
            return Ok(());
        };
        running.storage_busy = false;
        let count = running.storage_queue.len().min(STORAGE_GROUP_MAX);
        let requests: Vec<_> = running.storage_queue.drain(..count).collect();
        let mut events = Vec::new();
        running
            .storage
            .execute(&mut self.data_disk, requests, &mut events);
        self.check_disks()?;
        for (worker, event) in events {
            if self.is_full && is_refused_for_space(&event) {
                self.counts.full_disk_refusals += 1;
            }
            self.input(world, worker, Input::Storage(event));
        }
        self.begin_storage(world);
        Ok(())
    }
}

/// A block that was not stored, or a snapshot that was not written: with the disk full, for want of space.
fn is_refused_for_space(event: &StorageEvent) -> bool {
    match event {
        StorageEvent::Block { result, .. } => {
            matches!(result, Err(Failure::Refused(Refusal::NoSpace, _)))
        }
        StorageEvent::Snapshot { event, .. } => matches!(event, SnapshotEvent::Failed { .. }),
        StorageEvent::Space(_) | StorageEvent::BadCopies(_) => false,
    }
}
