//! Any node serves; a leader that is gone is replaced.

use super::*;

#[test]
fn any_node_takes_writes_and_reads_them_back() {
    // Goal: forwarding, consensus and linearizable reads fit together. Method: write at one node, read at all.
    let mut cluster = Cluster::new(3);
    for partition in 0..PARTITIONS {
        for writer in 1..=3 {
            let text = format!("value-{partition}-{writer}");
            cluster
                .command(writer, partition, set("key", &text))
                .expect("a key is set");
            for reader in 1..=3 {
                let query = Query::KeyGet { key: bytes("key") };
                let read = cluster.ask(
                    reader,
                    Request::Query {
                        partition: PartitionId(partition),
                        query,
                    },
                );
                assert_eq!(value(read), Some(bytes(&text)));
            }
        }
    }
    (0..500).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn silent_leader_is_replaced_and_nothing_is_lost() {
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("a", "1")).expect("set");
    cluster.node_1_leads();
    cluster.silent.insert(NodeNumber(1));
    let before = cluster.now.monotonic_us;
    cluster
        .command(2, 0, set("b", "2"))
        .expect("set without the first leader");
    assert!(
        cluster.now.monotonic_us - before < 2_000_000,
        "fail-over took too long"
    );
    let query = Query::KeyGet { key: bytes("a") };
    let read = cluster.ask(
        3,
        Request::Query {
            partition: PartitionId(0),
            query,
        },
    );
    assert_eq!(value(read), Some(bytes("1")));
    cluster.silent.clear();
    (0..2000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

impl Cluster {
    fn leads(&self, node: u16) -> usize {
        let worker = &self.members[&NodeNumber(node)].worker;
        worker
            .partitions()
            .filter(|partition| partition.is_leader())
            .count()
    }

    fn drain(&mut self, node: u16, drain: bool) {
        let reply = self.ask(node, Request::Node(NodeRequest::Drain { drain }));
        assert_eq!(reply, Ok(Reply::Done));
    }

    /// Waits up to so many simulated seconds.
    fn until(&mut self, seconds: u64, what: &str, holds: impl Fn(&Cluster) -> bool) {
        for _ in 0..seconds * 1000 {
            if holds(self) {
                return;
            }
            self.step();
        }
        panic!("not within {seconds} s: {what}");
    }
}

#[test]
fn leaders_are_spread_evenly() {
    // Goal: four partitions on three nodes: nobody leads more than two, nobody none.
    let mut cluster = Cluster::new(3);
    cluster.until(60, "every node leads one or two", |cluster| {
        (1..=3).all(|node| (1..=2).contains(&cluster.leads(node)))
    });
}

#[test]
fn a_drained_node_leads_nothing_until_that_is_undone() {
    // Goal: leaders leave at once, stay away, and come back slowly. Method: drain under writes, look, undo.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    cluster.drain(1, true);
    cluster.until(3, "node 1 leads nothing", |cluster| cluster.leads(1) == 0);
    for count in 0..200 {
        let partition = count % PARTITIONS;
        let before = cluster.now.monotonic_us;
        cluster
            .command(1, partition, set("key", "value"))
            .expect("a key is set");
        assert!(
            cluster.now.monotonic_us - before < 500_000,
            "a write waited for long"
        );
        assert_eq!(cluster.leads(1), 0);
        (0..100).for_each(|_| cluster.step());
    }
    cluster.drain(1, false);
    cluster.node_1_leads();
}

#[test]
fn no_request_fails_while_leadership_moves() {
    // Goal: requests are held, not refused or left unknown. Method: many requests in flight at the leader while it drains.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let answers: Rc<RefCell<Vec<Result<Reply, Failure>>>> = Rc::default();
    let mut asked = 0;
    for round in 0..60 {
        if round == 20 {
            cluster.drain(1, true);
        }
        for node in 1..=3 {
            let (answers, gateway) = (
                answers.clone(),
                cluster.members[&NodeNumber(node)].worker.gateway(),
            );
            let request = Request::Command {
                partition: PartitionId(0),
                id: RequestId {
                    client: ClientId(1000 + asked),
                    sequence: 1,
                    acknowledged_below: 1,
                },
                command: set("key", "value"),
            };
            asked += 1;
            let deadline_us = cluster.now.monotonic_us + 2_000_000;
            gateway.clone().spawn(async move {
                let answer = gateway.call(request, Reach::Cluster, deadline_us).await;
                answers.borrow_mut().push(answer);
            });
        }
        cluster.step();
    }
    cluster.until(3, "node 1 leads nothing", |cluster| cluster.leads(1) == 0);
    let all = answers.clone();
    cluster.until(3, "all are answered", move |_| all.borrow().len() as u64 == asked);
    let failed: Vec<_> = answers
        .borrow()
        .iter()
        .filter(|answer| answer.is_err())
        .cloned()
        .collect();
    assert_eq!(failed, [], "of {asked}");
}

#[test]
fn a_leader_whose_disk_stalls_hands_over_within_three_seconds() {
    // Goal: slow syncs are enough, and so is a log that does not answer. Method: both at the node that leads, under writes.
    for is_stuck in [false, true] {
        let mut cluster = Cluster::new(3);
        cluster.node_1_leads();
        let began_us = cluster.now.monotonic_us;
        if is_stuck {
            cluster.stuck_disks.insert(NodeNumber(1));
        }
        while cluster.leads(1) > 0 {
            if !is_stuck {
                let member = cluster.members.get_mut(&NodeNumber(1)).expect("a member");
                member.inputs.push(Input::LogSynced { took_us: 300_000 });
            }
            cluster.command(2, 0, set("key", "value")).expect("a key is set");
            (0..300).for_each(|_| cluster.step());
            assert!(
                cluster.now.monotonic_us - began_us < 3_000_000,
                "stuck: {is_stuck}"
            );
        }
        for _ in 0..100 {
            cluster.command(3, 0, set("key", "value")).expect("a key is set");
            (0..100).for_each(|_| cluster.step());
            assert_eq!(cluster.leads(1), 0, "it comes back too soon");
        }
        cluster.heal_disk(NodeNumber(1));
        cluster.node_1_leads_within(60);
    }
}

#[test]
fn leaders_stay_where_they_are_when_all_disks_stall() {
    // Goal: nobody hands over to somebody who is no better.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    for _ in 0..20 {
        for member in cluster.members.values_mut() {
            member.inputs.push(Input::LogSynced { took_us: 300_000 });
        }
        (0..300).for_each(|_| cluster.step());
    }
    cluster.command(2, 0, set("key", "value")).expect("a key is set");
    assert_eq!(
        (1..=3).map(|node| cluster.leads(node)).sum::<usize>(),
        usize::from(PARTITIONS)
    );
}

#[test]
fn a_node_that_comes_and_goes_is_trusted_later_each_time() {
    // Goal: leaders do not run after a jittery node. Method: its connections break four times; count how long it waits.
    let mut cluster = Cluster::new(3);
    cluster.node_1_leads();
    let mut waited_us = Vec::new();
    for _ in 0..3 {
        for (node, member) in &mut cluster.members {
            let others = (1..=3).map(NodeNumber).filter(|other| other != node);
            for other in others.filter(|other| node.0 == 1 || other.0 == 1) {
                member.inputs.push(Input::PeerDisconnected { node: other });
            }
        }
        cluster.cut.insert(NodeNumber(1));
        cluster.until(5, "another leads", |cluster| {
            cluster.leads(2) + cluster.leads(3) == usize::from(PARTITIONS)
        });
        cluster.cut.clear();
        for (node, member) in &mut cluster.members {
            let others = (1..=3).map(NodeNumber).filter(|other| other != node);
            for other in others.filter(|other| node.0 == 1 || other.0 == 1) {
                member.inputs.push(Input::PeerConnected { node: other });
            }
        }
        let since_us = cluster.now.monotonic_us;
        cluster.node_1_leads_within(300);
        waited_us.push(cluster.now.monotonic_us - since_us);
    }
    assert!(waited_us[0] >= 15_000_000, "{waited_us:?}");
    assert!(
        waited_us[1] >= waited_us[0] * 3 / 2 && waited_us[2] >= waited_us[1] * 3 / 2,
        "{waited_us:?}"
    );
}
