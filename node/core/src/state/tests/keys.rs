//! Keys: conditions, expiry, increments, listing.

use super::*;

fn get(machine: &Machine, key: &str) -> Option<String> {
    match machine.query(Query::KeyGet { key: bytes(key) }) {
        Ok(Reply::Value(value)) => value.map(|found| String::from_utf8(found.value.to_vec()).unwrap()),
        other => panic!("not a value: {other:?}"),
    }
}

#[test]
fn conditions_decide_whether_a_key_is_set() {
    // Goal: each condition holds exactly when it says; the version is the entry's index.
    let mut machine = Machine::new();
    let mut applied = |condition| match machine.apply(set_with("k", "v", Expiry::Never, condition)) {
        Ok(Reply::Set { applied, .. }) => applied,
        other => panic!("{other:?}"),
    };
    assert!(!applied(Condition::IfPresent));
    assert!(applied(Condition::IfAbsent));
    assert!(!applied(Condition::IfAbsent));
    assert!(applied(Condition::IfPresent));
    assert!(!applied(Condition::IfVersion(2)));
    assert!(applied(Condition::IfVersion(4)));
    let reply = machine.apply(set("k", "w"));
    assert_eq!(
        reply,
        Ok(Reply::Set {
            applied: true,
            version: 7,
            previous: Some(bytes("v"))
        })
    );
}

#[test]
fn a_key_is_absent_from_the_moment_it_expires() {
    // Goal: reads, writes and listings agree on expiry before and after KeyExpireDue.
    let mut machine = Machine::new();
    machine
        .apply(set_with("k", "1", Expiry::After(1_000), Condition::Always))
        .unwrap();
    machine
        .apply(Command::KeyIncrement {
            key: bytes("k"),
            by: 1,
        })
        .unwrap();
    assert_eq!(get(&machine, "k").as_deref(), Some("2"));
    assert!(!machine.state.has_due_keys(machine.now_ms()));
    machine.time += SECOND;
    let query = Query::KeyGet { key: bytes("k") };
    assert!(
        machine.state.query_meets_expired(machine.now_ms(), &query),
        "increment keeps the expiry"
    );
    assert_eq!(get(&machine, "k"), None);
    let reply = machine.apply(set_with("k", "3", Expiry::Keep, Condition::IfPresent));
    assert!(matches!(reply, Ok(Reply::Set { applied: false, .. })));
    assert_eq!(
        machine.apply(Command::KeyExpireDue { limit: 8 }),
        Ok(Reply::Count(1))
    );
    assert!(!machine.state.has_due_keys(machine.now_ms()));
    assert_eq!(machine.query(Query::KeyCount), Ok(Reply::Count(0)));
    assert_eq!(machine.state.expiries.len(), 0);
}

#[test]
fn increment_refuses_what_is_no_integer() {
    // Goal: Redis' rules and wording for increments.
    let mut machine = Machine::new();
    let increment = |by| Command::KeyIncrement { key: bytes("n"), by };
    assert_eq!(machine.apply(increment(-5)), Ok(Reply::Number(-5)));
    machine.apply(set("n", &i64::MAX.to_string())).unwrap();
    let failure = machine.apply(increment(1)).unwrap_err();
    assert_eq!(failure.to_string(), "increment or decrement would overflow");
    for text in ["", "x", " 1", "+1", "01", "9223372036854775808"] {
        machine.apply(set("n", text)).unwrap();
        let failure = machine.apply(increment(1)).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "value is not an integer or out of range",
            "{text}"
        );
    }
}

#[test]
fn scan_pages_through_a_prefix_in_order() {
    // Goal: every key of the prefix once, across pages, and none other.
    let mut machine = Machine::new();
    for key in ["", "a", "b1", "b2", "b3", "c"] {
        machine.apply(set(key, "v")).unwrap();
    }
    let scan = |after: &str, prefix: &str, limit| {
        machine
            .query(Query::KeyScan {
                after: bytes(after),
                prefix: bytes(prefix),
                limit,
            })
            .unwrap()
    };
    let page = |keys: &[&str], more| Reply::Keys {
        keys: keys.iter().map(|key| bytes(key)).collect(),
        more,
    };
    assert_eq!(scan("", "b", 2), page(&["b1", "b2"], true));
    assert_eq!(scan("b2", "b", 2), page(&["b3"], false));
    assert_eq!(scan("", "", 10), page(&["", "a", "b1", "b2", "b3", "c"], false));
    assert_eq!(scan("b", "b", 10), page(&["b1", "b2", "b3"], false));
    assert_eq!(scan("c", "b", 10), page(&[], false));
}

#[test]
fn nothing_kept_holds_the_frame_it_came_in() {
    // Goal: one key of a frame with a hundred does not keep the whole frame in memory. Method: apply commands whose
    // bytes are slices of one megabyte, keep the state, and see that nobody else refers to the megabyte.
    let mut machine = Machine::new();
    let frame = Bytes::from(vec![b'x'; 1 << 20]);
    let slice = |from: usize, length: usize| frame.slice(from..from + length);
    for number in 0..100 {
        machine
            .apply(Command::KeySet {
                key: slice(0, number + 1),
                value: slice(number, 60 << 10),
                expiry: Expiry::At(u64::MAX / 2),
                condition: Condition::Always,
                return_previous: false,
            })
            .expect("a key is set");
    }
    let attributes = NewInode {
        mode: 0o644,
        owner: 0,
        group: 0,
        ..NewInode::default()
    };
    for (name, content) in [
        (slice(0, 255), NewContent::Inline(slice(0, 8000))),
        (slice(0, 100), NewContent::Symlink(slice(0, 4096))),
    ] {
        machine
            .apply(Command::Create {
                directory: InodeId::ROOT,
                name,
                attributes: attributes.clone(),
                content,
                exclusive: true,
            })
            .expect("a file is created");
    }
    assert!(frame.is_unique(), "something keeps a slice of the frame");
}
