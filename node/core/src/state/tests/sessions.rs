//! Exactly-once: repeated, acknowledged and forgotten requests.

use super::*;
use crate::state::session::{REPLIES_PER_CLIENT_MAX, RETENTION};

#[test]
fn a_repeated_request_gets_its_recorded_answer() {
    // Goal: successes and decided refusals are answers and are not applied twice.
    let mut machine = Machine::new();
    let increment = Command::KeyIncrement {
        key: bytes("n"),
        by: 1,
    };
    assert_eq!(machine.request(1, increment.clone()), Ok(Reply::Number(1)));
    assert_eq!(machine.request(1, increment.clone()), Ok(Reply::Number(1)));
    let unlink = Command::Unlink {
        directory: InodeId::ROOT,
        name: bytes("f"),
    };
    assert_eq!(refusal(machine.request(2, unlink.clone())), Refusal::NotFound);
    machine.create(InodeId::ROOT, "f", b"");
    assert_eq!(refusal(machine.request(2, unlink)), Refusal::NotFound);
    assert_eq!(machine.state.recorded(&request_id(1)), Some(Ok(Reply::Number(1))));
    assert_eq!(machine.state.recorded(&request_id(3)), None);
}

#[test]
fn what_is_no_answer_is_not_recorded() {
    let mut machine = Machine::new();
    let large = create(InodeId::ROOT, "f", &[0; 9000]);
    assert_eq!(machine.request(1, large), Err(Failure::TooLargeForInline));
    assert_eq!(machine.state.sessions.len(), 0);
    assert!(machine.request(1, create(InodeId::ROOT, "f", b"")).is_ok());
}

#[test]
fn acknowledged_answers_go_and_are_not_given_again() {
    let mut machine = Machine::new();
    for sequence in 1..=3 {
        machine.request(sequence, set("k", "v")).unwrap();
    }
    let id = RequestId {
        client: ClientId(7),
        sequence: 4,
        acknowledged_below: 3,
    };
    machine.propose(Some(id), set("k", "v")).unwrap();
    assert_eq!(machine.state.replies.len(), 2);
    assert_eq!(
        refusal(machine.request(2, set("k", "v"))),
        Refusal::SessionExpired
    );
}

#[test]
fn a_client_that_acknowledges_nothing_is_held_back() {
    let mut machine = Machine::new();
    let count = u64::from(REPLIES_PER_CLIENT_MAX);
    for sequence in 1..=count {
        machine
            .request(
                sequence,
                Command::KeyDelete {
                    keys: vec![],
                    condition: Condition::Always,
                },
            )
            .unwrap();
    }
    assert!(matches!(
        machine.request(count + 1, set("k", "v")),
        Err(Failure::Busy(_))
    ));
    let id = RequestId {
        client: ClientId(7),
        sequence: count + 1,
        acknowledged_below: 9,
    };
    assert!(machine.propose(Some(id), set("k", "v")).is_ok());
}

#[test]
fn clients_unused_for_long_are_forgotten_bit_by_bit() {
    // Goal: nothing goes early, everything goes in the end, and half-forgotten requests are refused.
    let mut machine = Machine::new();
    for sequence in 1..=900 {
        machine.request(sequence, set("k", "v")).unwrap();
    }
    machine.time += RETENTION / 2;
    machine.request(901, set("k", "v")).unwrap();
    machine.time += RETENTION / 2;
    machine.apply(set("k", "v")).unwrap();
    assert_eq!(machine.state.replies.len(), 901, "used half the time ago");
    machine.time += RETENTION / 2;
    machine.apply(set("k", "v")).unwrap();
    assert!(machine.state.replies.len() < 901);
    assert_eq!(
        refusal(machine.request(1, set("k", "v"))),
        Refusal::SessionExpired
    );
    for _ in 0..8 {
        machine.apply(set("k", "v")).unwrap();
    }
    let state = &machine.state;
    assert_eq!(
        (state.replies.len(), state.sessions.len(), state.retirements.len()),
        (0, 0, 0)
    );
}

#[test]
fn a_run_does_and_remembers_what_its_proposals_would() {
    // Goal: rows, versions and recorded answers of a run are those of single SETs. Method: both, side by side.
    let name = |sequence, acknowledged_below| RequestId {
        client: ClientId(9),
        sequence,
        acknowledged_below,
    };
    let sets = [("a", "1"), ("b", "2"), ("a", "3")];
    let mut singly = State::new(PartitionId(1), 4);
    let mut run = State::new(PartitionId(1), 4);
    for (position, (key, value)) in (0..).zip(sets) {
        let proposal = Proposal {
            time: 50,
            id: Some(name(5 + position, 5)),
            command: crate::partition::plain_set(bytes(key), bytes(value)),
        };
        singly.apply(position + 1, &proposal).expect("a SET is applied");
    }
    assert!(run.begin_key_run(50, name(5, 5), 3));
    for (position, (key, value)) in (0..).zip(sets) {
        assert!(run.apply_key_set(position + 1, key.as_bytes(), value.as_bytes()));
    }
    run.end_key_run(name(5, 5), 3);
    assert_eq!(run.keys.digest(), singly.keys.digest());
    assert_eq!((run.applied(), run.time()), (singly.applied(), singly.time()));
    for sequence in 0..10 {
        let id = name(sequence, 0);
        assert_eq!(run.recorded(&id), singly.recorded(&id), "sequence {sequence}");
    }
    // A run that was applied, or a part of it, is no run any more.
    assert!(!run.begin_key_run(60, name(7, 5), 2));
    assert!(!run.begin_key_run(60, name(4, 4), 2));
    // Acknowledged up to its middle a row stays, up to its end it goes.
    assert!(run.begin_key_run(60, name(8, 7), 1));
    assert!(run.apply_key_set(4, b"c", b"4"));
    run.end_key_run(name(8, 7), 1);
    assert_eq!(run.replies.len(), 2);
    assert!(run.begin_key_run(70, name(9, 8), 1));
    assert!(run.apply_key_set(5, b"c", b"5"));
    run.end_key_run(name(9, 8), 1);
    assert_eq!(run.replies.len(), 2);
    let refused = Err(Failure::Refused(Refusal::SessionExpired, String::new()));
    let found = run.recorded(&name(5, 0)).expect("it is known that it was");
    assert_eq!(std::mem::discriminant(&found), std::mem::discriminant(&refused));
}
