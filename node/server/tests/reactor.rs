//! What the event loop promises, with real sockets and pipes.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bark_node::reactor::{Error, EventWatcher, Interest, WatcherHandle};

const PATIENCE: Duration = Duration::from_secs(10);

/// The state of the test loops: whatever callbacks want to report.
type Report = Sender<String>;

struct Loop {
    handle: WatcherHandle<Report>,
    reports: Receiver<String>,
    thread: Option<JoinHandle<()>>,
}

impl Loop {
    fn start() -> Self {
        let mut watcher = EventWatcher::open().expect("event loop");
        let handle = watcher.handle();
        let (mut report, reports) = channel();
        let thread = Some(thread::spawn(move || watcher.run(&mut report).expect("loop")));
        Self {
            handle,
            reports,
            thread,
        }
    }

    fn next(&self) -> String {
        self.reports.recv_timeout(PATIENCE).expect("a report in time")
    }

    /// Everything posted before has run when this returns; what was ready in the kernel has been seen as well.
    fn settle(&self) {
        for _ in 0..2 {
            let (done, is_done) = channel();
            self.handle
                .run_in_loop(move |_| done.send(()).expect("test waits"));
            is_done.recv_timeout(PATIENCE).expect("the loop is alive");
        }
    }

    fn is_silent(&self) -> bool {
        self.settle();
        self.reports.try_recv().is_err()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        self.handle.stop();
        if let Some(thread) = self.thread.take() {
            thread.join().expect("loop thread");
        }
    }
}

fn pair() -> (UnixStream, UnixStream) {
    let (near, far) = UnixStream::pair().expect("socketpair");
    near.set_nonblocking(true).expect("nonblocking");
    (near, far)
}

fn drain(mut stream: &UnixStream) -> usize {
    let mut total = 0;
    let mut buffer = [0; 256];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return total,
            Ok(count) => total += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return total,
            Err(error) => panic!("read: {error}"),
        }
    }
}

/// Reports `name count` for each event, after draining a clone of `stream`.
fn report_reads(on: &Loop, stream: &UnixStream, name: &'static str) -> Result<RawFd, Error> {
    let clone = stream.try_clone().expect("clone");
    let descriptor = stream.as_raw_fd();
    on.handle
        .watch(descriptor, Interest::Read, move |report: &mut Report, _| {
            report.send(format!("{name} {}", drain(&clone))).expect("report");
        })?;
    Ok(descriptor)
}

#[test]
fn watch_takes_effect_while_the_loop_sleeps() {
    // Goal: a watch from another thread needs no other event, for bytes that are there and for those that come.
    let on = Loop::start();
    on.settle();
    let (near, mut far) = pair();
    far.write_all(b"early").expect("write");
    report_reads(&on, &near, "read").expect("watch");
    assert_eq!(on.next(), "read 5");
    far.write_all(b"late").expect("write");
    assert_eq!(on.next(), "read 4");
}

#[test]
fn pipes_report_their_end() {
    // Goal: a pipe works as well as a socket, and its closed end is told to the callback.
    let on = Loop::start();
    let (reader, writer) = io::pipe().expect("pipe");
    let descriptor = reader.as_raw_fd();
    on.handle
        .watch(descriptor, Interest::Read, move |report: &mut Report, ready| {
            report
                .send(format!("closed {}", ready.is_closed))
                .expect("report");
        })
        .expect("watch");
    drop(writer);
    assert_eq!(on.next(), "closed true");
    on.handle.unwatch_all(descriptor);
}

#[test]
fn duplicate_watch_is_refused_and_the_first_stays() {
    // Goal: the second watch of the same interest is an error and changes nothing.
    let on = Loop::start();
    let (near, mut far) = pair();
    report_reads(&on, &near, "first").expect("watch");
    assert!(matches!(
        report_reads(&on, &near, "second"),
        Err(Error::AlreadyWatched { .. })
    ));
    far.write_all(b"x").expect("write");
    assert_eq!(on.next(), "first 1");
    assert_eq!(on.handle.watched_count(), 1);
}

#[test]
fn unwatching_one_interest_keeps_the_other() {
    // Goal: both interests live on one descriptor, and each ends alone, in both orders.
    for (ended, kept) in [
        (Interest::Write, Interest::Read),
        (Interest::Read, Interest::Write),
    ] {
        let on = Loop::start();
        let (near, mut far) = pair();
        let descriptor = report_reads(&on, &near, "read").expect("watch");
        let watch_write = |on: &Loop| {
            on.handle
                .watch(descriptor, Interest::Write, |report: &mut Report, _| {
                    report.send("write".to_owned()).expect("report");
                })
        };
        watch_write(&on).expect("watch");
        assert_eq!(on.next(), "write");
        on.settle();
        while on.reports.try_recv().is_ok() {}
        on.handle.unwatch(descriptor, ended).expect("unwatch");
        assert!(matches!(
            on.handle.unwatch(descriptor, ended),
            Err(Error::NotWatched { .. })
        ));
        on.settle();
        while on.reports.try_recv().is_ok() {}
        far.write_all(b"x").expect("write");
        if kept == Interest::Read {
            assert_eq!(on.next(), "read 1");
        }
        assert!(
            on.reports
                .try_iter()
                .all(|report| !(ended == Interest::Write && report == "write"))
        );
        on.handle.unwatch(descriptor, kept).expect("unwatch");
        assert_eq!(on.handle.watched_count(), 0);
        on.settle();
        while on.reports.try_recv().is_ok() {}
        far.write_all(b"y").expect("write");
        assert!(on.is_silent());
    }
}

#[test]
fn both_interests_on_one_descriptor_are_called() {
    // Goal: one event that is readable and writable reaches both callbacks.
    let on = Loop::start();
    let (near, mut far) = pair();
    far.write_all(b"x").expect("write");
    report_reads(&on, &near, "read").expect("watch");
    on.handle
        .watch(near.as_raw_fd(), Interest::Write, |report: &mut Report, _| {
            report.send("write".to_owned()).expect("report");
        })
        .expect("watch");
    on.settle();
    let reports: Vec<_> = on.reports.try_iter().collect();
    assert!(
        reports.iter().any(|report| report.starts_with("read")),
        "{reports:?}"
    );
    assert!(reports.iter().any(|report| report == "write"), "{reports:?}");
}

#[test]
fn rapid_watch_and_unwatch_leaves_the_last_word() {
    // Goal: 10,000 changes while bytes keep coming end in exactly the last state, with no stale call after it.
    let on = Loop::start();
    let (near, mut far) = pair();
    for _ in 0..10_000 {
        let descriptor = report_reads(&on, &near, "read").expect("watch");
        far.write_all(b"x").expect("write");
        on.handle.unwatch(descriptor, Interest::Read).expect("unwatch");
        if far.write(b"x").is_err() {
            drain(&near);
        }
        drain(&near);
    }
    on.settle();
    while on.reports.try_recv().is_ok() {}
    far.write_all(b"nobody").expect("write");
    assert!(on.is_silent());
    report_reads(&on, &near, "last").expect("watch");
    assert_eq!(on.next(), "last 6");
    assert_eq!(on.handle.watched_count(), 1);
}

#[test]
fn unwatch_and_watch_re_arm_an_undrained_descriptor() {
    // Goal: a callback that did not drain gets the same bytes reported again after a re-arm, and not before.
    let on = Loop::start();
    let (near, mut far) = pair();
    let lazy = |report: &mut Report, _| report.send("lazy".to_owned()).expect("report");
    on.handle
        .watch(near.as_raw_fd(), Interest::Read, lazy)
        .expect("watch");
    far.write_all(b"x").expect("write");
    assert_eq!(on.next(), "lazy");
    assert!(on.is_silent());
    on.handle
        .unwatch(near.as_raw_fd(), Interest::Read)
        .expect("unwatch");
    on.handle
        .watch(near.as_raw_fd(), Interest::Read, lazy)
        .expect("watch");
    assert_eq!(on.next(), "lazy");
}

#[test]
fn callbacks_may_watch_and_unwatch_themselves() {
    // Goal: inside its own callback a watch can end itself and begin another one on the same descriptor.
    let on = Loop::start();
    let (near, mut far) = pair();
    let descriptor = near.as_raw_fd();
    let handle = on.handle.clone();
    let clone = near.try_clone().expect("clone");
    on.handle
        .watch(descriptor, Interest::Read, move |report: &mut Report, _| {
            drain(&clone);
            report.send("old".to_owned()).expect("report");
            handle.unwatch(descriptor, Interest::Read).expect("unwatch");
            let again = clone.try_clone().expect("clone");
            handle
                .watch(descriptor, Interest::Read, move |report: &mut Report, _| {
                    report.send(format!("new {}", drain(&again))).expect("report");
                })
                .expect("watch");
        })
        .expect("watch");
    far.write_all(b"x").expect("write");
    assert_eq!(on.next(), "old");
    far.write_all(b"xyz").expect("write");
    assert_eq!(on.next(), "new 3");
}

#[test]
fn panicking_callback_loses_its_watch_and_the_loop_goes_on() {
    // Goal: a panic ends one watch, never the loop; panics of tasks are survived too.
    let on = Loop::start();
    let (near, mut far) = pair();
    on.handle
        .watch(near.as_raw_fd(), Interest::Read, |_, _| panic!("on purpose"))
        .expect("watch");
    far.write_all(b"x").expect("write");
    on.handle.run_in_loop(|_| panic!("on purpose"));
    let (other, mut other_far) = pair();
    report_reads(&on, &other, "other").expect("watch");
    other_far.write_all(b"xy").expect("write");
    assert_eq!(on.next(), "other 2");
    on.settle();
    assert_eq!(on.handle.panics_count(), 2);
    assert_eq!(on.handle.watched_count(), 1);
    assert!(matches!(
        on.handle.unwatch(near.as_raw_fd(), Interest::Read),
        Err(Error::NotWatched { .. })
    ));
    report_reads(&on, &near, "again").expect("watch after the panic");
    assert_eq!(on.next(), "again 1");
}

#[test]
fn unwatchable_descriptors_are_errors() {
    // Goal: a regular file, a closed and a negative descriptor are refused at once, and leave nothing behind.
    let on = Loop::start();
    let file = std::fs::File::open("Cargo.toml").expect("file");
    for descriptor in [file.as_raw_fd(), 65_000, -1] {
        let result = on.handle.watch(descriptor, Interest::Read, |_, _| {});
        assert!(
            matches!(result, Err(Error::Register { .. })),
            "{descriptor}: {result:?}"
        );
    }
    assert_eq!(on.handle.watched_count(), 0);
}

#[test]
fn idle_loop_sleeps() {
    // Goal: with a watched but silent socket, 500 ms cost fewer than 5 polls.
    let on = Loop::start();
    let (near, _far) = pair();
    report_reads(&on, &near, "read").expect("watch");
    on.settle();
    let before = on.handle.polls_count();
    on.handle.run_after(Duration::from_millis(500), |report| {
        report.send("over".to_owned()).expect("report")
    });
    assert_eq!(on.next(), "over");
    let polls = on.handle.polls_count() - before;
    assert!(polls < 5, "{polls} polls");
}

#[test]
fn timers_run_in_the_order_of_their_deadlines() {
    // Goal: a timer set later with an earlier deadline runs first, though the loop already sleeps for the other.
    let on = Loop::start();
    for (name, milliseconds) in [("third", 60), ("first", 5), ("second", 30)] {
        on.handle
            .run_after(Duration::from_millis(milliseconds), move |report| {
                report.send(name.to_owned()).expect("report");
            });
    }
    assert_eq!([on.next(), on.next(), on.next()], ["first", "second", "third"]);
}

#[test]
fn tasks_of_one_thread_run_in_order() {
    // Goal: tasks posted from another thread and from tasks all run, in order.
    let on = Loop::start();
    let handle = on.handle.clone();
    on.handle.run_in_loop(move |report| {
        report.send("1".to_owned()).expect("report");
        handle.run_in_loop(|report| report.send("2".to_owned()).expect("report"));
    });
    assert_eq!([on.next(), on.next()], ["1", "2"]);
}
