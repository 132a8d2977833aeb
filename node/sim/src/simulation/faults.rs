//! Carrying out what goes wrong, and the repair at the end of the work.
//!
//! Previous in the flow: `fault`, which draws it from the seed. Next: `network`, `cluster`.
//!
//! Invariants:
//! - Nothing goes wrong after the repair.

use bark_schema::ids::{NodeNumber, PartitionId};

use super::{ADMIT_US, Simulation, Storm};
use crate::client::Phase;
use crate::cluster::{Asker, Node};
use crate::fault::{Damage, Fault};
use crate::network::{ConnectionId, PeerLinkId, client_place};
use crate::world::Event;
use bark_core::worker::gateway::Reach;
use bark_schema::operation::{NodeRequest, Request};

/// One operator in so many says that a node has another disk before the node is back.
const EARLY_ODDS: u64 = 3;

impl Simulation {
    pub(super) fn fault(&mut self, fault: Fault) {
        let working = self.stage.phase.get() == Phase::Work;
        if !matches!(fault, Fault::Next | Fault::Heal) {
            self.world.say(|| format!("fault: {fault:?}"));
        }
        match fault {
            Fault::Next => {
                if working {
                    self.next_fault();
                }
            }
            Fault::Heal => self.heal(),
            _ if !working && !matches!(fault, Fault::Open { .. }) => {}
            Fault::PowerOff { node, down_us } => self.stop(node, true, down_us),
            Fault::Kill { node, down_us } => self.stop(node, false, down_us),
            Fault::PowerOffAtChange {
                node,
                data_disk,
                changes,
            } => {
                if self.node(node).running.is_some() {
                    self.node(node).stop_disk_after(data_disk, changes);
                }
            }
            Fault::FailSync { node } => {
                if self.node(node).running.is_some() {
                    self.node(node).fail_sync();
                }
            }
            Fault::PowerOffAll { down_us } => {
                for node in 1..=self.shape.nodes {
                    let down_us = down_us + self.world.random.below(200_000);
                    self.stop(node, true, down_us);
                }
            }
            Fault::VoteStorm { partition } => self.vote_storm(PartitionId(partition)),
            Fault::Isolate {
                node,
                one_way,
                for_us,
            } => {
                let clients = (0..self.clients.len()).map(client_place);
                let others: Vec<u16> = (1..=self.shape.nodes)
                    .filter(|other| *other != node)
                    .chain(clients)
                    .collect();
                let out = others.iter().map(|other| (node, *other));
                let into = others.iter().map(|other| (*other, node));
                let directions = match one_way {
                    Some(true) => out.collect(),
                    Some(false) => into.collect(),
                    None => out.chain(into).collect(),
                };
                self.block(directions, for_us);
            }
            Fault::Split { sides, for_us } => {
                let places = (1..=self.shape.nodes).chain((0..self.clients.len()).map(client_place));
                let places: Vec<(u16, bool)> = places
                    .enumerate()
                    .map(|(bit, place)| (place, sides >> bit & 1 == 1))
                    .collect();
                let mut directions = Vec::new();
                for (one, its_side) in &places {
                    for (other, side) in &places {
                        if its_side != side {
                            directions.push((*one, *other));
                        }
                    }
                }
                self.block(directions, for_us);
            }
            Fault::BlockPair {
                from,
                to,
                both,
                for_us,
            } => {
                let directions = if both {
                    vec![(from, to), (to, from)]
                } else {
                    vec![(from, to)]
                };
                self.block(directions, for_us);
            }
            Fault::Open { directions } => {
                for (from, to) in directions {
                    self.network.unblock(&mut self.world, from, to);
                }
            }
            Fault::ResetConnections { one_in } => {
                let peers: Vec<ConnectionId> = self.network.peer_links.values().copied().collect();
                let clients: Vec<ConnectionId> = self.network.clients.keys().copied().collect();
                for id in peers {
                    if self.world.random.chance(one_in) {
                        self.network.reset_peer(&mut self.world, id, 5_000);
                    }
                }
                for id in clients {
                    if self.world.random.chance(one_in) {
                        self.network.reset_client(&mut self.world, id);
                    }
                }
            }
            Fault::Pause { node, for_us } => self.node(node).paused_until_us = self.world.now_us + for_us,
            Fault::SuspendAll { for_us } => self.world.now_us += for_us,
            Fault::SlowDisk {
                node,
                sync_us,
                for_us,
            } => {
                self.node(node).sync_us = (sync_us / 2, sync_us);
                self.world.after(for_us, Event::Fault(Fault::FastDisk { node }));
            }
            Fault::Drain { node, for_us } => {
                self.drain(node, true);
                self.world.after(for_us, Event::Fault(Fault::Undrain { node }));
            }
            Fault::Undrain { node } => self.drain(node, false),
            Fault::FastDisk { node } => self.node(node).sync_us = (50, 4_000),
            Fault::SlowNetwork {
                node,
                delay_us,
                for_us,
            } => {
                self.network.slow_us.insert(node, delay_us);
                self.world
                    .after(for_us, Event::Fault(Fault::FastNetwork { node }));
            }
            Fault::FastNetwork { node } => {
                self.network.slow_us.remove(&node);
            }
            Fault::CopyDisks { node } => self.node(node).copy_disks(),
            Fault::Damage { node, what, down_us } => self.damage(node, what, down_us),
            Fault::FillDisk {
                node,
                data_disk,
                spare_bytes,
                for_us,
            } => {
                self.node(node).fill_disk(data_disk, spare_bytes);
                self.world.after(for_us, Event::Fault(Fault::FreeDisks { node }));
            }
            Fault::FreeDisks { node } => self.node(node).free_disks(),
            Fault::JumpClock { node, by_ms } => {
                self.node(node).skew_ns += by_ms * 1_000_000;
                self.skew_ns_max = self.skew_ns_max.max(self.node(node).skew_ns);
            }
        }
    }

    fn next_fault(&mut self) {
        let pause = match self.world.random.below(3) {
            0 => self.world.between(10_000, 200_000),
            _ => self.world.between(200_000, 1_500_000),
        };
        self.world.after(pause, Event::Fault(Fault::Next));
        if self.suspends > 0 && self.world.random.chance(8) {
            self.suspends -= 1;
            self.work_until_us += 61_000_000;
            return self.fault(Fault::SuspendAll { for_us: 61_000_000 });
        }
        if let Some(fault) = self
            .mix
            .fault(&mut self.world, self.shape.nodes, self.shape.partitions)
        {
            self.fault(fault);
        }
    }

    /// The first node it happens to is the only one: two damaged copies of three are beyond any promise.
    fn damage(&mut self, node: u16, what: Damage, down_us: u64) {
        if self.stage.damaged.get().is_some_and(|other| other != node) {
            return;
        }
        if what == Damage::OlderCopy && !self.is_copy_told_apart(node) {
            return;
        }
        self.stop(node, true, down_us);
        let Simulation { nodes, world, .. } = self;
        if nodes[usize::from(node) - 1].running.is_none()
            && nodes[usize::from(node) - 1].damage.is_none()
            && nodes[usize::from(node) - 1].do_damage(world, what)
        {
            self.stage.damaged.set(Some(node));
            if self.world.random.chance(EARLY_ODDS) {
                self.let_in(node, |_| true);
            }
        }
    }

    /// Every other node was told more of the log than the copy of this one's disks has.
    fn is_copy_told_apart(&self, node: u16) -> bool {
        let Some(copied) = self.nodes[usize::from(node) - 1].copied_position() else {
            return false;
        };
        let mut others = self.nodes.iter().filter(|other| other.number != node);
        others.all(|other| {
            other
                .members
                .told(NodeNumber(node))
                .is_some_and(|told| told > copied)
        })
    }

    /// An operator lets the node in wherever it is refused, and looks again: those that were down have not heard it.
    pub(super) fn admit(&mut self, node: u16) {
        let Simulation {
            nodes,
            world,
            admitting,
            ..
        } = self;
        admitting.remove(&node);
        let refuses = |other: &Node| other.members.refusal(NodeNumber(node)).is_some();
        if nodes.iter().any(refuses) {
            admitting.insert(node);
            let delay = world.between(ADMIT_US.0, ADMIT_US.1);
            world.after(delay, Event::Admit { node });
            self.let_in(node, refuses);
        }
    }

    /// An operator tells these of the others, if they are up.
    fn let_in(&mut self, node: u16, who: impl Fn(&Node) -> bool) {
        let Simulation { nodes, world, .. } = self;
        for other in nodes {
            if other.number != node && who(other) {
                let request = Request::Node(NodeRequest::Admit {
                    node: NodeNumber(node),
                });
                other.submit(world, 0, Asker::Operator, 1_000, request, Reach::Cluster);
            }
        }
    }

    fn block(&mut self, directions: Vec<(u16, u16)>, for_us: u64) {
        for (from, to) in &directions {
            self.network.block(*from, *to);
        }
        // Some connections time out while nothing gets through.
        let resets = self.world.random.chance(2);
        let crossing =
            |from: u16, to: u16| directions.contains(&(from, to)) || directions.contains(&(to, from));
        let peers: Vec<ConnectionId> = self
            .network
            .peers
            .iter()
            .filter(|(_, it)| resets && crossing(it.link.from, it.link.to))
            .map(|(id, _)| *id)
            .collect();
        for id in peers {
            self.network.reset_peer(&mut self.world, id, for_us);
        }
        self.world.after(for_us, Event::Fault(Fault::Open { directions }));
    }

    /// An operator's word to one node.
    fn drain(&mut self, node: u16, drain: bool) {
        let Simulation { nodes, world, .. } = self;
        let request = Request::Node(NodeRequest::Drain { drain });
        nodes[usize::from(node) - 1].submit(world, 0, Asker::Operator, 1_000, request, Reach::Cluster);
    }

    /// Cuts the leader off. What follows when another is elected is in [`Simulation::election_was_won`].
    fn vote_storm(&mut self, partition: PartitionId) {
        let replicas = self.shape.placement[usize::from(partition.0)].clone();
        for replica in &replicas {
            let old_leader = replica.0;
            let Some(term) = self.term_led(old_leader, partition) else {
                continue;
            };
            let around = replicas.iter().filter(|other| *other != replica);
            let directions = around
                .flat_map(|other| [(old_leader, other.0), (other.0, old_leader)])
                .collect();
            self.storm = Some(Storm {
                partition,
                old_leader,
                term,
            });
            return self.block(directions, 2_500_000);
        }
    }

    /// The term in which the node leads the partition, if it does.
    fn term_led(&self, node: u16, partition: PartitionId) -> Option<u64> {
        let running = self.nodes[usize::from(node) - 1].running.as_ref()?;
        let mut partitions = running.workers.iter().flat_map(|cell| cell.worker.partitions());
        partitions
            .find(|it| it.id() == partition && it.is_leader())
            .map(|it| it.term())
    }

    /// The moment after an election, while another was cut off: the winner is cut off before its first entry
    /// gets anywhere, its voter loses power and comes back, and the one that knows of nothing asks for votes
    /// in the same term. What the voter promised must come from its disk.
    pub(super) fn election_was_won(&mut self, winner: u16, partition: PartitionId, term: u64) {
        let is_ours =
            |storm: &Storm| storm.partition == partition && storm.old_leader != winner && storm.term < term;
        if !self.storm.as_ref().is_some_and(is_ours) {
            return;
        }
        let Some(storm) = self.storm.take() else { return };
        self.world
            .say(|| format!("node {winner} won the election of {partition} in term {term}"));
        let replicas = self.shape.placement[usize::from(partition.0)].clone();
        let others = replicas
            .iter()
            .map(|replica| replica.0)
            .filter(|other| *other != winner);
        for other in others.clone().filter(|other| *other != storm.old_leader) {
            self.network.unblock(&mut self.world, storm.old_leader, other);
            self.network.unblock(&mut self.world, other, storm.old_leader);
            let down_us = self.world.between(1_000, 5_000);
            self.stop(other, true, down_us);
        }
        let directions = others
            .flat_map(|other| [(winner, other), (other, winner)])
            .collect();
        self.block(directions, 2_000_000);
    }

    pub(super) fn heal(&mut self) {
        if self.world.now_us < self.work_until_us {
            // Work went on for longer because everything was suspended meanwhile.
            self.world.at(self.work_until_us, Event::Fault(Fault::Heal));
            return;
        }
        self.world.say(|| "everything is repaired".to_string());
        self.healed_at_us = self.world.now_us;
        self.stage.phase.set(Phase::Drain);
        self.storm = None;
        self.network.unblock_all(&mut self.world);
        self.network.slow_us.clear();
        let skew_ns = self.skew_ns_max;
        for number in 1..=self.shape.nodes {
            let node = self.node(number);
            node.sync_us = (50, 4_000);
            // All clocks agree again. Log time never goes back, so they agree on the latest there was.
            node.skew_ns = skew_ns;
            node.paused_until_us = 0;
            node.free_disks();
            self.start(number);
        }
        let peers: Vec<PeerLinkId> = self.peer_pauses.keys().copied().collect();
        for link in peers {
            let life = self.node(link.from).life;
            self.world.after(1_000, Event::PeerConnect { link, life });
        }
        self.pump_all();
    }
}
