//! The task that answers one request of the kernel.
//!
//! It begins on the thread that took the request, so that what it asks of the cluster leaves from there, and goes
//! to the runtime when its answer is there. A request that needs no answer from elsewhere ends where it began.
//! Spawning it at once would wake a thread of the runtime twice: to begin, and for the answer.
//!
//! Invariants:
//! - A task never blocks the thread it begins on.
//! - A task that panics ends alone; its reply's drop answers the kernel.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::runtime::Handle as Runtime;

type Future = Pin<Box<dyn std::future::Future<Output = ()> + Send>>;

/// Runs `future` until it has to wait for the first time, and the rest on the runtime.
pub(crate) fn start(runtime: &Runtime, future: impl std::future::Future<Output = ()> + Send + 'static) {
    let _entered = runtime.enter();
    let mut future: Future = Box::pin(future);
    let begun = Arc::new(Begun {
        runtime: runtime.clone(),
        stage: Mutex::new(Stage::Begins { is_woken: false }),
    });
    let waker = Waker::from(begun.clone());
    let polled = catch_unwind(AssertUnwindSafe(|| {
        future.as_mut().poll(&mut Context::from_waker(&waker))
    }));
    match polled {
        Ok(Poll::Pending) => begun.set_down(future),
        Ok(Poll::Ready(())) => {}
        Err(_) => tracing::error!("a request of the kernel panicked"),
    }
}

struct Begun {
    runtime: Runtime,
    stage: Mutex<Stage>,
}

enum Stage {
    /// On the thread that took the request.
    Begins { is_woken: bool },
    /// Until it is woken for the first time.
    Waits(Future),
    /// On the runtime, which wakes it by itself.
    Moved,
}

impl Begun {
    fn set_down(&self, future: Future) {
        let mut stage = self.lock();
        match *stage {
            Stage::Begins { is_woken: true } => {
                *stage = Stage::Moved;
                self.runtime.spawn(future);
            }
            _ => *stage = Stage::Waits(future),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stage> {
        // Nothing panics while it is held.
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Begun {
    fn wake(self: Arc<Self>) {
        let mut stage = self.lock();
        match std::mem::replace(&mut *stage, Stage::Moved) {
            Stage::Begins { .. } => *stage = Stage::Begins { is_woken: true },
            Stage::Waits(future) => {
                self.runtime.spawn(future);
            }
            Stage::Moved => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[test]
    fn a_task_begins_here_and_ends_on_the_runtime() {
        // Goal: nothing is lost between the two threads. Method: tasks that are answered before, while and after
        // they wait, from another thread, many times.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        for round in 0..500 {
            let (answer, answered) = oneshot::channel();
            let (done, ended) = std::sync::mpsc::channel();
            let answering = (round % 2 == 0).then(|| std::thread::spawn(move || answer.send(round)));
            start(runtime.handle(), async move {
                let begun_on = std::thread::current().id();
                let answer = answered.await;
                done.send((begun_on, answer)).expect("somebody waits");
            });
            if let Some(answering) = answering {
                answering.join().expect("no panic").expect("somebody waits");
            }
            let (begun_on, answer) = ended.recv().expect("an end");
            assert_eq!(begun_on, std::thread::current().id());
            assert_eq!(answer.ok(), (round % 2 == 0).then_some(round));
        }
    }

    #[test]
    fn a_task_that_panics_ends_alone() {
        // Goal: the thread that takes requests survives. Method: a panic before the first wait.
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        start(runtime.handle(), async { panic!("on purpose") });
    }
}
