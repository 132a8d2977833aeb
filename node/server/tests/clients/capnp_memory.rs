//! What hostile or careless clients cost in memory. A program of its own: it measures the whole process.

mod single_node;

use std::sync::Mutex;

use bark_schema::limits::MIB;
use single_node::SingleNode;

/// One measurement at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .expect("a number");
    pages * 4096
}

#[test]
fn announced_gigabytes_cost_nothing() {
    // Goal: sixteen bytes must not commit 64 MiB. Method: 200 connections, each announcing what the library
    // would allocate at once, half of them within the frame limit.
    let _alone = ALONE.lock();
    let mut node = SingleNode::start();
    let before = resident_bytes();
    for number in 0..200_u32 {
        let words: u32 = if number % 2 == 0 {
            16 << 20
        } else {
            (4 * MIB / 8) as u32
        };
        let end = node.connect();
        end.send(&0_u32.to_le_bytes());
        end.send(&words.to_le_bytes());
        end.send(&[0; 8]);
        node.settle();
        assert_eq!(
            end.is_closed(),
            number % 2 == 0,
            "only what is above the limit is refused"
        );
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 16 * MIB, "memory grew by {grown} bytes");
}

#[test]
fn unread_large_answers_stay_bounded() {
    // Goal: a client that asks and does not read costs a bounded amount, and is served when it reads.
    // Method: 1,500 pipelined gets of 1 MiB into a pipe nobody empties, then emptied.
    let _alone = ALONE.lock();
    let mut node = SingleNode::start();
    let (end, bark) = node.rpc_client();
    let keys = node.run(async move {
        let session = bark.login_request().send().pipeline.get_session();
        let keys = session.key_value_request().send().pipeline.get_key_value();
        let mut set = keys.set_request();
        set.get().set_key(b"large");
        set.get().set_value(&vec![7; MIB]);
        set.send().promise.await.expect("set");
        keys
    });
    end.stall();
    let before = resident_bytes();
    node.context.gateway.spawn(async move {
        let asked = (0..1500).map(|_| {
            let mut get = keys.get_request();
            get.get().set_key(b"large");
            get.send().promise
        });
        futures::future::join_all(asked).await;
    });
    node.settle();
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        end.received_bytes() < 32 * MIB,
        "{} bytes were sent to nobody",
        end.received_bytes()
    );
    assert!(grown < 128 * MIB, "memory grew by {grown} bytes");
    let mut taken = 0;
    for _ in 0..100_000 {
        taken += end.receive().len();
        if taken >= 1500 * MIB {
            break;
        }
        node.step();
    }
    assert!(taken >= 1500 * MIB, "only {taken} bytes came");
}
