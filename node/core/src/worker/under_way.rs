//! Coroutines under way, by what they work on: at most one for each thing.
//!
//! Previous in the flow: the worker's clock, which finds the same thing to do again and again. Next: a coroutine.
//!
//! Invariant: what a coroutine works on is free again when it ends, however it ends.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::gateway::Gateway;

pub struct UnderWay<Thing>(Rc<RefCell<BTreeSet<Thing>>>);

impl<Thing> Default for UnderWay<Thing> {
    fn default() -> Self {
        UnderWay(Rc::default())
    }
}

impl<Thing: Ord + Clone + 'static> UnderWay<Thing> {
    pub fn has(&self, thing: &Thing) -> bool {
        self.0.borrow().contains(thing)
    }

    /// Runs `work` unless a coroutine already works on this.
    pub fn once(&self, gateway: &Gateway, thing: Thing, work: impl Future<Output = ()> + 'static) {
        if !self.0.borrow_mut().insert(thing.clone()) {
            return;
        }
        let mark = Mark {
            things: self.0.clone(),
            thing,
        };
        gateway.spawn(async move {
            let _mark = mark;
            work.await;
        });
    }
}

/// Taken away when it is dropped, so that a panic does not leave it behind.
struct Mark<Thing: Ord> {
    things: Rc<RefCell<BTreeSet<Thing>>>,
    thing: Thing,
}

impl<Thing: Ord> Drop for Mark<Thing> {
    fn drop(&mut self) {
        self.things.borrow_mut().remove(&self.thing);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use bark_schema::ids::NodeNumber;

    use super::*;
    use crate::partition::SnapshotConfig;
    use crate::random::Random;
    use crate::time::Now;
    use crate::worker::{CleaningConfig, Durability, WorkerConfig};

    fn gateway() -> Gateway {
        let config = WorkerConfig {
            cluster: "test".to_string(),
            node: NodeNumber(1),
            worker: 0,
            worker_count: 1,
            partition_count: 1,
            replicas: 1,
            durability: Durability::Disk,
            nodes: Arc::default(),
            placement: Arc::default(),
            ring: Arc::default(),
            cleaning: CleaningConfig::STANDARD,
            snapshots: SnapshotConfig::default(),
        };
        let now = Now {
            monotonic_us: 0,
            unix_ns: 0,
        };
        Gateway::new(config, now, Random::new(1))
    }

    #[test]
    fn one_coroutine_at_a_time_and_another_after_it_ended_or_panicked() {
        // Goal: nothing is worked on twice at once, and a panic does not keep it from being worked on ever again.
        let (gateway, under_way, ended) = (gateway(), UnderWay::default(), Rc::new(Cell::new(0)));
        let count = || {
            let ended = ended.clone();
            async move { ended.set(ended.get() + 1) }
        };
        let run = || while gateway.shared().executor.try_tick() {};
        under_way.once(&gateway, 7, count());
        under_way.once(&gateway, 7, count());
        under_way.once(&gateway, 8, async { panic!("a defect") });
        assert!(under_way.has(&7) && under_way.has(&8));
        run();
        assert_eq!(ended.get(), 1);
        assert!(!under_way.has(&7) && !under_way.has(&8));
        under_way.once(&gateway, 8, count());
        run();
        assert_eq!(ended.get(), 2);
    }
}
