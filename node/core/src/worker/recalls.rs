//! Getting directories back from the clients that have them for themselves.
//!
//! Previous in the flow: the state of a partition led here refused a call because of a delegation. Next: the holder
//! is told in the answer to the question it keeps waiting here; when the delegation is gone from the state, because
//! it was given back or because its holder's lease ran out, the call is carried out.
//!
//! What is remembered here is lost with the leadership. The calls come again, to the next leader, and so do the
//! questions of the holders.
//!
//! Invariants:
//! - A call waits here only while the directory is delegated to the holder that refused it.
//! - The holder of a directory somebody waits for is told again and again, once a second.
//! - A directory that was wanted back twice within a while is not delegated again at once: clients that share one do not
//!   hand it to and fro. The first time whoever comes may have it.

use std::collections::BTreeMap;

use bark_schema::delegation::DelegationCommand;
use bark_schema::ids::{ClientId, InodeId, PartitionId};
use bark_schema::operation::{Command, Failure, Query, Reply, Request};

use super::Worker;
use super::calls::Place;
use crate::partition::event::CallId;

/// A holder that was told and has not given back is told again after this.
const TELL_AGAIN_US: u64 = 1_000_000;
/// Wanted back twice within this, a directory is one that several clients use.
const SHARED_US: u64 = 5_000_000;
/// For so long after it was wanted back such a directory is not delegated.
const COOLING_US: u64 = 1_000_000;
/// Directories remembered as cooling; more are forgotten early.
const COOLING_MAX: usize = 1 << 16;

#[derive(Default)]
pub struct Recalls {
    wanted: BTreeMap<InodeId, Wanted>,
    /// Holders that wait to be told, and until when.
    awaiting: BTreeMap<(PartitionId, ClientId), Awaiting>,
    cooling: BTreeMap<InodeId, Cooling>,
}

/// When a directory was last wanted back, and from when on it may be delegated again.
struct Cooling {
    wanted_us: u64,
    until_us: u64,
}

/// A directory somebody wants, and who waits for it.
struct Wanted {
    holder: ClientId,
    told_us: Option<u64>,
    calls: Vec<CallId>,
}

struct Awaiting {
    call: CallId,
    until_us: u64,
}

impl Recalls {
    /// A directory is wanted back.
    fn cool(&mut self, directory: InodeId, now_us: u64) {
        let earlier = self.cooling.get(&directory);
        let is_shared = earlier.is_some_and(|earlier| now_us < earlier.wanted_us + SHARED_US);
        let cooling = Cooling {
            wanted_us: now_us,
            until_us: if is_shared { now_us + COOLING_US } else { now_us },
        };
        self.cooling.insert(directory, cooling);
    }

    fn is_cooling(&self, directory: &InodeId, now_us: u64) -> bool {
        let cooling = self.cooling.get(directory);
        cooling.is_some_and(|cooling| now_us < cooling.until_us)
    }
}

impl Worker {
    /// A call was refused because `holder` has the directory for itself. Says whether the call waits here now.
    pub(super) fn await_directory(&mut self, id: CallId, directory: InodeId, holder: ClientId) -> bool {
        let is_here = self.partitions.get(&directory.home()).is_some_and(|partition| {
            partition.is_leader() && partition.state().holder(directory) == Some(holder)
        });
        if !is_here {
            return false;
        }
        let now_us = self.gateway.now().monotonic_us;
        if !self.recalls.wanted.contains_key(&directory) {
            self.recalls.cool(directory, now_us);
        }
        let wanted = self.recalls.wanted.entry(directory).or_insert(Wanted {
            holder,
            told_us: None,
            calls: Vec::new(),
        });
        wanted.holder = holder;
        let waits = match self.calls.get_mut(id) {
            Some(call) if !is_part_of_transaction(&call.request) => {
                call.place = Place::Held;
                wanted.calls.push(id);
                true
            }
            _ => false,
        };
        self.tell_holder(directory.home(), holder);
        waits
    }

    /// A holder waits to be told.
    pub(super) fn await_recall(&mut self, id: CallId, partition: PartitionId, client: ClientId) {
        let now_us = self.gateway.now().monotonic_us;
        let Some(call) = self.calls.get_mut(id) else {
            return;
        };
        call.place = Place::Held;
        // In time for the answer to arrive before the asker gives up.
        let until_us = now_us + call.deadline_us.saturating_sub(now_us) / 4 * 3;
        let awaiting = Awaiting { call: id, until_us };
        if let Some(earlier) = self.recalls.awaiting.insert((partition, client), awaiting) {
            self.complete(earlier.call, Ok(Reply::Delegated(Vec::new())));
        }
        self.tell_holder(partition, client);
    }

    fn tell_holder(&mut self, partition: PartitionId, holder: ClientId) {
        let now_us = self.gateway.now().monotonic_us;
        let key = (partition, holder);
        if !self.recalls.awaiting.contains_key(&key) {
            return;
        }
        let mut told = Vec::new();
        for (directory, wanted) in &mut self.recalls.wanted {
            let is_due = wanted.told_us.is_none_or(|at| now_us >= at + TELL_AGAIN_US);
            if wanted.holder == holder && directory.home() == partition && is_due {
                wanted.told_us = Some(now_us);
                told.push(*directory);
            }
        }
        if !told.is_empty()
            && let Some(awaiting) = self.recalls.awaiting.remove(&key)
        {
            self.complete(awaiting.call, Ok(Reply::Delegated(told)));
        }
    }

    /// Carries out what waited for directories that came back. True if anything did.
    pub(super) fn release_recalled(&mut self) -> bool {
        if self.recalls.wanted.is_empty() {
            return false;
        }
        let partitions = &self.partitions;
        let mut released = Vec::new();
        self.recalls.wanted.retain(|directory, wanted| {
            let is_held = partitions.get(&directory.home()).is_some_and(|partition| {
                partition.is_leader() && partition.state().holder(*directory) == Some(wanted.holder)
            });
            if !is_held {
                released.append(&mut wanted.calls);
            }
            is_held
        });
        for id in &released {
            self.route(*id, true);
        }
        !released.is_empty()
    }

    /// Tells again, and ends questions whose time is up or whose partition is led elsewhere.
    pub(super) fn tend_recalls(&mut self) {
        let now_us = self.gateway.now().monotonic_us;
        let cooling = &mut self.recalls.cooling;
        cooling.retain(|_, cooling| now_us < cooling.wanted_us + SHARED_US);
        while cooling.len() > COOLING_MAX {
            cooling.pop_first();
        }
        let calls = &self.calls;
        for wanted in self.recalls.wanted.values_mut() {
            wanted.calls.retain(|id| calls.get(*id).is_some());
        }
        let holders: Vec<(PartitionId, ClientId)> = self.recalls.awaiting.keys().copied().collect();
        for (partition, client) in holders {
            let leads = self
                .partitions
                .get(&partition)
                .is_some_and(|local| local.is_leader());
            let Some(awaiting) = self.recalls.awaiting.get(&(partition, client)) else {
                continue;
            };
            if leads && now_us < awaiting.until_us {
                self.tell_holder(partition, client);
                continue;
            }
            let call = awaiting.call;
            self.recalls.awaiting.remove(&(partition, client));
            let leader = self.partitions.get(&partition).and_then(|local| local.leader());
            let result = match leads {
                true => Ok(Reply::Delegated(Vec::new())),
                false => Err(Failure::NotLeader { leader }),
            };
            self.complete(call, result);
        }
    }

    /// The answer to a command that takes directories, if others asked for one of them a moment ago: it gets none.
    pub(super) fn refusal_for_cooling(&self, request: &Request) -> Option<Reply> {
        let Request::Command {
            command: Command::Delegation(DelegationCommand::Take { directories, .. }),
            ..
        } = request
        else {
            return None;
        };
        let now_us = self.gateway.now().monotonic_us;
        let is_cooling = |directory| self.recalls.is_cooling(directory, now_us);
        directories.iter().any(is_cooling).then(|| Reply::Opens {
            missing: directories.clone(),
            renewed: true,
        })
    }
}

/// A transaction holds locks elsewhere, which the holder may need before it can give anything back. So it is given
/// up, and begins anew when the directory is there.
fn is_part_of_transaction(request: &Request) -> bool {
    matches!(
        request,
        Request::Command {
            command: Command::Prepare { .. } | Command::Decide { .. },
            ..
        }
    )
}

/// Who waits to be told of what is wanted back, if the query is that.
pub(super) fn awaits_recall(query: &Query) -> Option<ClientId> {
    match query {
        Query::AwaitRecall { client } => Some(*client),
        _ => None,
    }
}
