//! The rules of the session one by one, scripted, and all together under a hostile random cluster.

use bark_schema::ids::{ClientId, NodeNumber, PartitionId};
use bark_schema::operation::{Command, Failure, NodeRequest, Query, Refusal, Reply, Request, RequestId};
use bytes::Bytes;

use super::pace::Random;
use super::*;

const ONE: NodeNumber = NodeNumber(1);
const TWO: NodeNumber = NodeNumber(2);
const THREE: NodeNumber = NodeNumber(3);
const PARTITION: PartitionId = PartitionId(0);

fn session() -> Session {
    let topology = Topology {
        nodes: vec![ONE, TWO, THREE],
        replicas: vec![vec![TWO, THREE, ONE], vec![THREE, ONE, TWO]],
    };
    Session::new(SessionConfig::new(ClientId(7), 1), topology)
}

fn increment() -> Call {
    Call::Command {
        partition: PARTITION,
        command: Command::KeyIncrement {
            key: Bytes::from_static(b"counter"),
            by: 1,
        },
    }
}

fn count() -> Call {
    Call::Query {
        partition: PARTITION,
        query: Query::KeyCount,
    }
}

fn id_of(request: &Request) -> RequestId {
    match request {
        Request::Command { id, .. } | Request::Namespace { id, .. } => *id,
        other => panic!("{other:?} has no id"),
    }
}

/// Whether a node is only asked whether it is there.
fn is_question(outgoing: &Outgoing) -> bool {
    outgoing.request == Request::Node(NodeRequest::ClusterStatus)
}

/// Lets time pass to the next timer and polls what is sent then, questions apart.
fn next_send(session: &mut Session, now: &mut u64) -> Outgoing {
    loop {
        let outgoing = next_outgoing(session, now);
        if !is_question(&outgoing) {
            return outgoing;
        }
    }
}

/// The same, whatever it is.
fn next_outgoing(session: &mut Session, now: &mut u64) -> Outgoing {
    for _ in 0..16 {
        if let Some(outgoing) = session.poll_send(*now) {
            return outgoing;
        }
        *now = (*now).max(session.next_wake().expect("a timer"));
        session.on_tick(*now);
    }
    panic!("nothing was sent");
}

#[test]
fn first_attempt_goes_to_the_first_replica() {
    // Goal: without knowledge the ring decides. Method: one query, look where it goes.
    let mut session = session();
    session.begin(0, count(), 1000);
    assert_eq!(session.poll_send(0).map(|outgoing| outgoing.node), Some(TWO));
    assert_eq!(session.poll_send(0), None);
}

#[test]
fn redirect_is_followed_at_once_and_remembered() {
    // Goal: a hint costs one round trip, once. Method: answer NotLeader with a hint, then begin another call.
    let mut session = session();
    let first = session.begin(0, increment(), 1000);
    let sent = session.poll_send(0).unwrap();
    let hint = Failure::NotLeader { leader: Some(ONE) };
    session.on_reply(1, sent.node, sent.frame_id, Err(hint));
    let again = session.poll_send(1).unwrap();
    assert_eq!(again.node, ONE);
    assert_eq!(id_of(&again.request), id_of(&sent.request));
    session.on_reply(2, ONE, again.frame_id, Ok(Reply::Number(1)));
    assert_eq!(session.take_completed(), Some((first, Ok(Reply::Number(1)))));
    session.begin(2, count(), 1000);
    assert_eq!(session.poll_send(2).unwrap().node, ONE);
}

#[test]
fn redirect_without_a_hint_backs_off_to_the_next_replica() {
    // Goal: during an election the replicas are asked in turn, with pauses. Method: NotLeader{None} twice.
    let mut session = session();
    session.begin(0, count(), 5000);
    let mut now = 0;
    let mut asked = Vec::new();
    for _ in 0..3 {
        let sent = next_send(&mut session, &mut now);
        asked.push(sent.node);
        let failure = Failure::NotLeader { leader: None };
        session.on_reply(now, sent.node, sent.frame_id, Err(failure));
        assert_eq!(session.poll_send(now), None, "no pause before the next attempt");
    }
    assert_eq!(asked, [TWO, THREE, ONE]);
}

#[test]
fn circular_hints_do_not_spin() {
    // Goal: replicas that point at each other cost bounded traffic. Method: follow hints without time passing.
    let mut session = session();
    session.begin(0, count(), 5000);
    let mut sent_count = 0;
    while let Some(sent) = session.poll_send(0) {
        sent_count += 1;
        let other = if sent.node == TWO { THREE } else { TWO };
        let hint = Failure::NotLeader { leader: Some(other) };
        session.on_reply(0, sent.node, sent.frame_id, Err(hint));
    }
    assert!(
        sent_count <= 1 + REDIRECTS_MAX,
        "{sent_count} attempts at one instant"
    );
}

#[test]
fn busy_change_keeps_its_id_and_ends_busy() {
    // Goal: refused for load, a change surely did not happen. Method: Busy until the deadline.
    let mut session = session();
    let call = session.begin(0, increment(), 300);
    let mut now = 0;
    let mut ids = Vec::new();
    while session.outstanding_count() > 0 {
        match session.poll_send(now) {
            Some(sent) => {
                ids.push(id_of(&sent.request));
                session.on_reply(now, sent.node, sent.frame_id, Err(Failure::Busy("full".into())));
            }
            None => {
                now = session.next_wake().unwrap();
                session.on_tick(now);
            }
        }
    }
    assert!(ids.len() > 2);
    assert!(ids.iter().all(|id| *id == ids[0]));
    let (ended, result) = session.take_completed().unwrap();
    assert_eq!(ended, call);
    assert!(matches!(result, Err(Failure::Busy(_))), "{result:?}");
    assert_eq!(now, 300);
}

#[test]
fn silent_node_leaves_a_change_unknown_and_a_read_busy() {
    // Goal: three outcomes, never two. Method: nobody answers until the deadline.
    for (call, unknown) in [(increment(), true), (count(), false)] {
        let mut session = session();
        session.begin(0, call, 5000);
        let mut now = 0;
        while session.outstanding_count() > 0 {
            while session.poll_send(now).is_some() {}
            now = session.next_wake().unwrap();
            session.on_tick(now);
        }
        let (_, result) = session.take_completed().unwrap();
        assert_eq!(matches!(result, Err(Failure::Unknown(_))), unknown, "{result:?}");
        assert_eq!(matches!(result, Err(Failure::Busy(_))), !unknown, "{result:?}");
    }
}

#[test]
fn unsent_change_ends_busy() {
    // Goal: what never left was surely not applied. Method: every connection refuses the frame.
    let mut session = session();
    session.begin(0, increment(), 400);
    let mut now = 0;
    while session.outstanding_count() > 0 {
        while let Some(sent) = session.poll_send(now) {
            session.on_unsent(now, sent.node, sent.frame_id);
        }
        if let Some(wake) = session.next_wake() {
            now = now.max(wake);
            session.on_tick(now);
        }
    }
    let (_, result) = session.take_completed().unwrap();
    assert!(matches!(result, Err(Failure::Busy(_))), "{result:?}");
}

#[test]
fn disconnect_repeats_the_same_id_elsewhere() {
    // Goal: a broken connection moves the change, unchanged, to another replica. Method: break the first one.
    let mut session = session();
    let call = session.begin(0, increment(), 5000);
    let sent = session.poll_send(0).unwrap();
    session.on_disconnect(1, sent.node);
    let mut now = 1;
    let again = next_send(&mut session, &mut now);
    assert_ne!(again.node, sent.node);
    assert_eq!(id_of(&again.request), id_of(&sent.request));
    session.on_reply(now, again.node, again.frame_id, Ok(Reply::Number(1)));
    assert_eq!(session.take_completed(), Some((call, Ok(Reply::Number(1)))));
}

#[test]
fn busy_after_a_lost_attempt_still_ends_unknown() {
    // Goal: a later Busy does not hide an earlier attempt that may have been applied. Method: disconnect, then Busy.
    let mut session = session();
    session.begin(0, increment(), 300);
    let sent = session.poll_send(0).unwrap();
    session.on_disconnect(1, sent.node);
    let mut now = 1;
    while session.outstanding_count() > 0 {
        match session.poll_send(now) {
            Some(sent) => {
                session.on_reply(now, sent.node, sent.frame_id, Err(Failure::Busy("full".into())));
            }
            None => {
                now = session.next_wake().unwrap();
                session.on_tick(now);
            }
        }
    }
    let (_, result) = session.take_completed().unwrap();
    assert!(matches!(result, Err(Failure::Unknown(_))), "{result:?}");
}

#[test]
fn late_answer_of_an_earlier_attempt_counts() {
    // Goal: any attempt's decision ends the call, once. Method: answer attempt 1 after attempt 2 left, then both again.
    let mut session = session();
    let call = session.begin(0, increment(), 10_000);
    let first = session.poll_send(0).unwrap();
    let mut now = 0;
    let second = next_send(&mut session, &mut now);
    session.on_reply(now, first.node, first.frame_id, Ok(Reply::Number(1)));
    session.on_reply(now, second.node, second.frame_id, Ok(Reply::Number(1)));
    session.on_reply(now, first.node, first.frame_id, Ok(Reply::Number(1)));
    assert_eq!(session.take_completed(), Some((call, Ok(Reply::Number(1)))));
    assert_eq!(session.take_completed(), None);
    assert_eq!(session.next_wake(), None, "a timer outlived its call");
}

#[test]
fn expired_record_after_a_lost_attempt_is_unknown() {
    // Goal: a node that forgot us cannot prove the change did not happen. Method: disconnect, then SessionExpired.
    let mut session = session();
    session.begin(0, increment(), 10_000);
    let first = session.poll_send(0).unwrap();
    session.on_disconnect(0, first.node);
    let mut now = 0;
    let second = next_send(&mut session, &mut now);
    let expired = Failure::refused(Refusal::SessionExpired, "record dropped");
    session.on_reply(now, second.node, second.frame_id, Err(expired));
    let (_, result) = session.take_completed().unwrap();
    assert!(matches!(result, Err(Failure::Unknown(_))), "{result:?}");
}

#[test]
fn refusals_are_final() {
    // Goal: a decided answer is not asked again. Method: NotFound once.
    let mut session = session();
    let call = session.begin(0, count(), 1000);
    let sent = session.poll_send(0).unwrap();
    let refused = Failure::refused(Refusal::NotFound, "no such key");
    session.on_reply(1, sent.node, sent.frame_id, Err(refused.clone()));
    assert_eq!(session.take_completed(), Some((call, Err(refused))));
    assert_eq!(session.poll_send(1), None);
}

#[test]
fn changes_stop_within_retention_whatever_the_deadline() {
    // Goal: no change is repeated after the nodes may have forgotten it. Method: an endless deadline, silence.
    let mut session = session();
    session.begin(0, increment(), u64::MAX);
    let mut now = 0;
    let mut last_sent = 0;
    while session.outstanding_count() > 0 {
        while session.poll_send(now).is_some() {
            last_sent = now;
        }
        now = session.next_wake().unwrap();
        session.on_tick(now);
    }
    assert!(last_sent < 480_000, "sent at {last_sent}");
    assert!(matches!(
        session.take_completed(),
        Some((_, Err(Failure::Unknown(_))))
    ));
}

#[test]
fn named_node_is_the_only_one_asked() {
    // Goal: block requests go where the caller says or fail. Method: disconnect ends the call.
    let mut session = session();
    let request = NodeRequest::ClusterStatus;
    let call = session.begin(0, Call::NamedNode(THREE, request), 1000);
    assert_eq!(session.poll_send(0).unwrap().node, THREE);
    session.on_disconnect(1, THREE);
    let (ended, result) = session.take_completed().unwrap();
    assert_eq!(ended, call);
    assert!(matches!(result, Err(Failure::Busy(_))), "{result:?}");
}

#[test]
fn acknowledged_below_follows_the_oldest_unanswered() {
    // Goal: nodes may drop only replies the client has. Method: three changes, answered out of order.
    let mut session = session();
    let sent: Vec<Outgoing> = (0..3)
        .map(|_| {
            session.begin(0, increment(), 1000);
            session.poll_send(0).unwrap()
        })
        .collect();
    assert!(
        sent.iter()
            .all(|sent| id_of(&sent.request).acknowledged_below == 1)
    );
    for index in [1, 0] {
        session.on_reply(1, TWO, sent[index].frame_id, Ok(Reply::Number(1)));
    }
    session.begin(1, increment(), 1000);
    let next = session.poll_send(1).unwrap();
    assert_eq!(id_of(&next.request).acknowledged_below, 3);
    assert_eq!(id_of(&next.request).sequence, 4);
}

type Answer = (NodeNumber, u64, Result<Reply, Failure>);

/// A counter behind an exactly-once table, and a network that loses, repeats and delays.
struct HostileCluster {
    random: Random,
    leader: NodeNumber,
    value: i64,
    table: BTreeMap<u64, i64>,
    /// By arrival time and a tie-breaker: requests on their way and replies on theirs.
    requests: BTreeMap<(u64, u64), Outgoing>,
    replies: BTreeMap<(u64, u64), Answer>,
    order: u64,
}

impl HostileCluster {
    fn carry(&mut self, now: u64, outgoing: Outgoing) {
        for _ in 0..self.copies() {
            let at = now + 1 + self.random.below(60);
            self.order += 1;
            self.requests.insert((at, self.order), outgoing.clone());
        }
    }

    fn copies(&mut self) -> u64 {
        match self.random.below(10) {
            0 | 1 => 0,
            2 => 2,
            _ => 1,
        }
    }

    fn serve(&mut self, now: u64) {
        while let Some(entry) = self.requests.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let outgoing = entry.remove();
            let result = self.answer(&outgoing);
            for _ in 0..self.copies() {
                let at = now + 1 + self.random.below(60);
                self.order += 1;
                let reply = (outgoing.node, outgoing.frame_id, result.clone());
                self.replies.insert((at, self.order), reply);
            }
        }
    }

    fn answer(&mut self, outgoing: &Outgoing) -> Result<Reply, Failure> {
        if outgoing.node != self.leader {
            let leader = (self.random.below(2) == 0).then_some(self.leader);
            return Err(Failure::NotLeader { leader });
        }
        let id = id_of(&outgoing.request);
        match self.random.below(10) {
            0 => return Err(Failure::Busy("full".into())),
            1 => self.leader = NodeNumber(1 + self.random.below(3) as u16),
            _ => {}
        }
        if !self.table.contains_key(&id.sequence) {
            self.value += 1;
            self.table.insert(id.sequence, self.value);
        }
        match self.random.below(10) {
            0 => Err(Failure::Unknown("lost leadership".into())),
            _ => Ok(Reply::Number(self.table[&id.sequence])),
        }
    }
}

#[test]
fn exactly_once_holds_under_loss_repetition_and_delay() {
    // Goal: every acknowledged increment happened once, every Busy one never, whatever the network does.
    // Method: 40 seeds, 30 concurrent increments each, hostile cluster, compare with the table.
    for seed in 0..40 {
        let mut session = session();
        let mut cluster = HostileCluster {
            random: Random::new(seed),
            leader: ONE,
            value: 0,
            table: BTreeMap::new(),
            requests: BTreeMap::new(),
            replies: BTreeMap::new(),
            order: 0,
        };
        let mut now = 0;
        let deadline = if seed % 2 == 0 { 100_000 } else { 400 };
        for _ in 0..30 {
            session.begin(now, increment(), deadline);
        }
        let (mut done, mut unknown, mut refused) = (BTreeSet::new(), 0, 0);
        while session.outstanding_count() > 0 {
            while let Some(outgoing) = session.poll_send(now) {
                if !is_question(&outgoing) {
                    cluster.carry(now, outgoing);
                } else if cluster.random.below(2) == 0 {
                    session.on_reply(now, outgoing.node, outgoing.frame_id, Ok(Reply::Done));
                }
            }
            if cluster.random.below(200) == 0 {
                let node = NodeNumber(1 + cluster.random.below(3) as u16);
                session.on_disconnect(now, node);
                cluster.replies.retain(|_, (from, _, _)| *from != node);
            }
            now += 1;
            cluster.serve(now);
            while let Some(entry) = cluster.replies.first_entry() {
                if entry.key().0 > now {
                    break;
                }
                let (node, frame_id, result) = entry.remove();
                session.on_reply(now, node, frame_id, result);
            }
            session.on_tick(now);
            while let Some((_, result)) = session.take_completed() {
                match result {
                    Ok(Reply::Number(number)) => assert!(done.insert(number), "{number} twice, seed {seed}"),
                    Err(Failure::Unknown(_)) => unknown += 1,
                    Err(Failure::Busy(_)) => refused += 1,
                    other => panic!("{other:?}"),
                }
            }
        }
        let applied = cluster.value as usize;
        assert_eq!(done.len() + unknown + refused, 30, "seed {seed}");
        assert!(
            applied >= done.len() && applied <= done.len() + unknown,
            "seed {seed}"
        );
        if seed % 2 == 0 {
            assert_eq!(
                done.len(),
                30,
                "seed {seed}: time enough, yet not all were applied"
            );
        }
    }
}

#[test]
fn large_changes_get_the_time_their_bytes_need() {
    // Goal: a value of 64 MiB is not sent again while it is on its way. Method: look for the first attempt's end.
    let mut session = session();
    let command = Command::KeySet {
        key: Bytes::from_static(b"k"),
        value: Bytes::from(vec![0; 64 << 20]),
        expiry: bark_schema::operation::Expiry::Never,
        condition: bark_schema::operation::Condition::Always,
        return_previous: false,
    };
    let partition = PARTITION;
    session.begin(0, Call::Command { partition, command }, 60_000);
    session.poll_send(0).expect("sent");
    let mut now = 0;
    next_send(&mut session, &mut now);
    assert!(now > 8_388 + 1_000, "sent again at {now}");
}

#[test]
fn a_node_that_stands_still_is_asked_and_passed_over_until_it_is_heard() {
    // Goal: a frozen node costs calls a second, once, and one that holds a question back costs nothing. Method: one call is
    // held back by a node that answers questions, then nothing comes from it any more, then it lives again.
    let mut session = session();
    session.begin(0, count(), 60_000);
    let held = session.poll_send(0).expect("sent");
    let mut now = 0;
    let first = next_outgoing(&mut session, &mut now);
    let first_at = now;
    assert!(is_question(&first) && first.node == held.node && first_at < 1_000);
    session.on_reply(first_at, first.node, first.frame_id, Ok(Reply::Done));
    let second = next_outgoing(&mut session, &mut now);
    let second_at = now;
    assert!(is_question(&second) && second_at > first_at);
    let elsewhere = next_send(&mut session, &mut now);
    assert!(
        elsewhere.node != held.node && now <= second_at + 1_000,
        "at {now}"
    );
    // Another call does not go there either, although it would be its turn.
    session.begin(now, count(), 70_000);
    assert_ne!(next_send(&mut session, &mut now).node, held.node);
    // It is heard, and is as good as any.
    session.on_reply(now, held.node, second.frame_id, Ok(Reply::Done));
    session.begin(now, count(), 70_000);
    assert_eq!(next_send(&mut session, &mut now).node, held.node);
}

#[test]
fn an_attempt_whose_reply_is_arriving_is_not_given_up() {
    // Goal: large replies over slow lines arrive. Method: progress before each end of time, then silence.
    let mut session = session();
    session.begin(0, count(), 60_000);
    let sent = session.poll_send(0).expect("sent");
    for now in [1_500, 3_000, 4_500] {
        session.on_progress(now, sent.node);
        session.on_tick(now);
        assert!(session.poll_send(now).is_none(), "at {now}");
    }
    let mut now = 6_500;
    session.on_tick(now);
    assert_ne!(next_send(&mut session, &mut now).node, sent.node);
}
