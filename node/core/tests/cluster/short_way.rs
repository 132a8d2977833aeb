//! GETs and SETs past the table of calls.

use bark_core::worker::gateway::{CompletionSink, FoundKey, KeyAsker, KeySink};

use super::*;

/// Notes what came back for each token: the value read, or "stored"; and which way it came.
#[derive(Default)]
struct Noted {
    answers: RefCell<BTreeMap<u64, String>>,
    as_calls: RefCell<BTreeSet<u64>>,
}

impl Noted {
    fn note(&self, token: u64, text: String) {
        let before = self.answers.borrow_mut().insert(token, text);
        assert_eq!(before, None, "answered twice");
    }
}

impl CompletionSink for Noted {
    fn complete(&self, token: u64, result: Result<Reply, Failure>) {
        self.as_calls.borrow_mut().insert(token);
        match result {
            Ok(Reply::Set { applied: true, .. }) => self.note(token, "stored".to_string()),
            Ok(Reply::Value(value)) => self.note(token, text(value.as_ref().map(|value| &value.value))),
            other => self.note(token, format!("{other:?}")),
        }
    }
}

impl KeySink for Noted {
    fn found(&self, token: u64, found: Option<FoundKey<'_>>) {
        self.note(token, text(found.map(|found| found.value)));
    }

    fn stored(&self, token: u64) {
        self.note(token, "stored".to_string());
    }
}

fn text(value: Option<&Bytes>) -> String {
    value.map_or("nothing".to_string(), |value| {
        String::from_utf8_lossy(value).into_owned()
    })
}

impl Cluster {
    /// Reads (`value` None) or sets a key the short way; the answer is noted under `token`.
    fn submit(&self, node: u16, noted: &Rc<Noted>, token: u64, key: &str, value: Option<&str>) {
        let asker = KeyAsker {
            sink: noted.clone(),
            token,
        };
        let gateway = self.members[&NodeNumber(node)].worker.gateway();
        gateway.submit_key(PartitionId(0), key.as_bytes(), value.map(str::as_bytes), asker);
    }

    fn step_until_answered(&mut self, noted: &Noted, count: usize) {
        for _ in 0..11_000 {
            if noted.answers.borrow().len() == count {
                return;
            }
            self.step();
        }
        panic!("only {:?} was answered", noted.answers.borrow());
    }
}

#[test]
fn short_way_keeps_the_order_of_reads_sets_and_calls() {
    // Goal: a read sees exactly the SETs before it, also between calls of the long way. Method: one turn's mixture,
    // asked of the leader and of a follower.
    for node in [1, 2] {
        let mut cluster = Cluster::new(3);
        cluster.command(1, 0, set("k", "0")).expect("a leader");
        cluster.node_1_leads();
        let noted = Rc::new(Noted::default());
        cluster.submit(node, &noted, 0, "k", None);
        cluster.submit(node, &noted, 1, "k", Some("1"));
        cluster.submit(node, &noted, 2, "k", None);
        cluster.submit(node, &noted, 3, "k", Some("2"));
        let gateway = cluster.members[&NodeNumber(node)].worker.gateway();
        let id = gateway.begin_request(PartitionId(0));
        let request = Request::Command {
            partition: PartitionId(0),
            id,
            command: set("k", "3"),
        };
        let deadline_us = cluster.now.monotonic_us + 10_000_000;
        gateway.submit(request, Reach::Cluster, deadline_us, noted.clone(), 4);
        cluster.submit(node, &noted, 5, "k", None);
        cluster.submit(node, &noted, 6, "other", Some(""));
        cluster.submit(node, &noted, 7, "other", None);
        cluster.submit(node, &noted, 8, "missing", None);
        cluster.step_until_answered(&noted, 9);
        let answers: Vec<String> = noted.answers.borrow().values().cloned().collect();
        let expected = [
            "0", "stored", "1", "stored", "stored", "3", "stored", "", "nothing",
        ];
        assert_eq!(answers, expected, "asked of node {node}");
        assert_eq!(noted.as_calls.borrow().len(), if node == 1 { 1 } else { 9 });
    }
}

#[test]
fn short_way_becomes_calls_when_the_leader_is_cut_off() {
    // Goal: what was proposed by a leader that loses its place is applied once and answered, under its own names.
    // Method: cut the leader off with a run in its log, let another take over and write, heal.
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("k", "0")).expect("a leader");
    cluster.node_1_leads();
    cluster.cut.insert(NodeNumber(1));
    let noted = Rc::new(Noted::default());
    for token in 0..10 {
        cluster.submit(1, &noted, token, "k", Some(&format!("late {token}")));
    }
    cluster.submit(1, &noted, 10, "k", None);
    cluster.step();
    cluster
        .command(2, 0, set("k", "between"))
        .expect("another leader");
    assert!(
        noted.answers.borrow().is_empty(),
        "a leader without a quorum answers nothing"
    );
    cluster.cut.clear();
    cluster.step_until_answered(&noted, 11);
    assert_eq!(noted.as_calls.borrow().len(), 11);
    assert!((0..10).all(|token| noted.answers.borrow()[&token] == "stored"));
    assert_eq!(noted.answers.borrow()[&10], "late 9");
    (0..2000).for_each(|_| cluster.step());
    let hashes = cluster.hashes();
    assert!(
        hashes.iter().all(|node| *node == hashes[0]),
        "replicas differ: {hashes:?}"
    );
}

#[test]
fn short_way_ends_at_its_deadline_without_a_quorum() {
    // Goal: every operation ends, a SET as unknown, a read as not done. Method: cut the leader off for good.
    let mut cluster = Cluster::new(3);
    cluster.command(1, 0, set("k", "0")).expect("a leader");
    cluster.node_1_leads();
    cluster.cut.insert(NodeNumber(1));
    let noted = Rc::new(Noted::default());
    cluster.submit(1, &noted, 0, "k", Some("1"));
    cluster.submit(1, &noted, 1, "k", None);
    cluster.step_until_answered(&noted, 2);
    assert!(
        noted.answers.borrow()[&0].contains("Unknown"),
        "{:?}",
        noted.answers
    );
    assert!(noted.answers.borrow()[&1].contains("Busy"), "{:?}", noted.answers);
}
