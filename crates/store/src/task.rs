//! A piece of work that any thread may do, and that its owner can do or wait for when it can wait no longer.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Work without access to the engine.
pub(crate) trait Work {
    /// What it comes to.
    type Outcome;

    /// Does it. May wait for the device.
    fn run(self) -> Self::Outcome;
}

/// Work that is done once, by whoever comes first. Clones are the same work.
pub(crate) struct Task<W: Work>(Arc<Mutex<Progress<W>>>);

enum Progress<W: Work> {
    Ready(W),
    Done(W::Outcome),
    Harvested,
}

impl<W: Work> Clone for Task<W> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<W: Work> Task<W> {
    pub(crate) fn new(work: W) -> Self {
        Self(Arc::new(Mutex::new(Progress::Ready(work))))
    }

    /// Does the work, or waits for whoever does it.
    pub(crate) fn run(&self) {
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *progress = match std::mem::replace(&mut *progress, Progress::Harvested) {
            Progress::Ready(work) => Progress::Done(work.run()),
            other => other,
        };
    }

    /// Does the work, or waits for whoever does it, and looks at what it came to; `None` if that was harvested.
    pub(crate) fn run_and<T>(&self, look: impl FnOnce(Option<&W::Outcome>) -> T) -> T {
        self.run();
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Progress::Done(outcome) => look(Some(outcome)),
            Progress::Ready(_) | Progress::Harvested => look(None),
        }
    }

    /// What the work came to, having done it if nobody did; `None` if that was asked before.
    pub(crate) fn harvest(&self) -> Option<W::Outcome> {
        self.run();
        let mut progress = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *progress, Progress::Harvested) {
            Progress::Done(outcome) => Some(outcome),
            _ => None,
        }
    }
}

impl<W: Work<Outcome = io::Result<()>>> Task<W> {
    /// Does the work, or waits for whoever does it, and says whether it failed. Who harvests it finds the cause.
    pub(crate) fn fails(&self) -> bool {
        self.run_and(|outcome| outcome.is_some_and(Result::is_err))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Count(Arc<Mutex<u32>>);

    impl Work for Count {
        type Outcome = u32;

        fn run(self) -> u32 {
            *self.0.lock().unwrap() += 1;
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn work_is_done_once() {
        let count = Arc::new(Mutex::new(0));
        let task = Task::new(Count(count.clone()));
        task.run();
        task.run();
        assert_eq!(task.run_and(|outcome| outcome.copied()), Some(1));
        assert_eq!((task.harvest(), task.harvest(), *count.lock().unwrap()), (Some(1), None, 1));
        assert_eq!(task.run_and(|outcome| outcome.copied()), None);
    }
}
