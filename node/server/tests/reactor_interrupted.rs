//! The event loop and signals. Alone in its process, because it stops the process for a moment.

use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bark_node::reactor::EventWatcher;

#[test]
fn interrupted_wait_is_counted_and_the_loop_goes_on() {
    // Goal: stop and continue interrupt a sleeping epoll_wait with EINTR; the loop still answers afterwards.
    let mut watcher = EventWatcher::<()>::open().expect("event loop");
    let handle = watcher.handle();
    let thread = thread::spawn(move || watcher.run(&mut ()).expect("loop"));
    let process = std::process::id();
    for _ in 0..20 {
        let signals = format!("kill -STOP {process}; kill -CONT {process}");
        assert!(
            Command::new("sh")
                .args(["-c", &signals])
                .status()
                .expect("sh")
                .success()
        );
        if handle.interrupted_polls_count() > 0 {
            break;
        }
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
