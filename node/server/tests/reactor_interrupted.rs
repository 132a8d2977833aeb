//! The event loop and signals. Alone in its process, because it stops the process for a moment.

use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use bark_node::reactor::EventWatcher;

#[test]
fn interrupted_wait_is_counted_and_the_loop_goes_on() {
    // Goal: stop and continue interrupt a sleeping epoll_wait with EINTR; the loop still answers afterwards.
    let mut watcher = EventWatcher::<()>::open().expect("event loop");
    let handle = watcher.handle();
    let thread = thread::spawn(move || watcher.run(&mut ()).expect("loop"));
    let process = std::process::id();
    // A stop that is taken back before it took effect interrupts nothing: each attempt waits until it did.
    let signals = format!(
        "kill -STOP {process}; until grep -q '^State:.*stopped' /proc/{process}/status; do :; done; kill -CONT {process}"
    );
    let deadline = Instant::now() + Duration::from_secs(20);
    while handle.interrupted_polls_count() == 0 && Instant::now() < deadline {
        let stopped = Command::new("sh").args(["-c", &signals]).status().expect("sh");
        assert!(stopped.success());
    }
    assert!(handle.interrupted_polls_count() > 0);
    let (done, is_done) = channel();
    handle.run_in_loop(move |()| done.send(()).expect("test waits"));
    is_done
        .recv_timeout(Duration::from_secs(10))
        .expect("the loop is alive");
    handle.stop();
    thread.join().expect("loop thread");
}
