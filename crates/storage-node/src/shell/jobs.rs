//! A queue of jobs for several threads.
//!
//! Threads that share the end of a channel wait for each other's lock: each job then wakes the one that takes it, and another to
//! wait in its place. Here a job wakes one thread, if any waits.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Where jobs are put in. When it is dropped, the threads do what is there, and end.
pub(super) struct Jobs<J>(Arc<Shared<J>>);

/// Where a thread takes jobs out.
pub(super) struct JobsOut<J>(Arc<Shared<J>>);

struct Shared<J> {
    queue: Mutex<Queue<J>>,
    changed: Condvar,
}

struct Queue<J> {
    jobs: VecDeque<J>,
    /// Threads that wait.
    waiting: usize,
    closed: bool,
}

impl<J> Shared<J> {
    fn lock(&self) -> MutexGuard<'_, Queue<J>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> Jobs<J> {
    pub(super) fn new() -> Self {
        let queue = Mutex::new(Queue { jobs: VecDeque::new(), waiting: 0, closed: false });
        Self(Arc::new(Shared { queue, changed: Condvar::new() }))
    }

    /// An end for one more thread.
    pub(super) fn out(&self) -> JobsOut<J> {
        JobsOut(self.0.clone())
    }

    pub(super) fn push(&self, job: J) {
        let mut queue = self.0.lock();
        queue.jobs.push_back(job);
        let somebody_waits = queue.waiting > 0;
        drop(queue);
        if somebody_waits {
            self.0.changed.notify_one();
        }
    }
}

impl<J> Drop for Jobs<J> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

impl<J> JobsOut<J> {
    /// Waits for a job; `None` when no more will come.
    pub(super) fn pop(&self) -> Option<J> {
        let mut queue = self.0.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.waiting += 1;
            queue = self.0.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.waiting -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;
    use std::thread;

    #[test]
    fn each_job_is_done_once_and_all_before_the_end() {
        let jobs = Jobs::new();
        let (done, done_in) = channel();
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let (jobs, done) = (jobs.out(), done.clone());
                thread::spawn(move || {
                    while let Some(job) = jobs.pop() {
                        done.send(job).unwrap();
                    }
                })
            })
            .collect();
        for job in 0..1000 {
            jobs.push(job);
        }
        // All of them wait now and then, and are woken.
        let mut seen: Vec<i32> = done_in.iter().take(1000).collect();
        for job in 1000..2000 {
            jobs.push(job);
        }
        drop(jobs);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(done);
        seen.extend(done_in);
        seen.sort_unstable();
        assert_eq!(seen, (0..2000).collect::<Vec<_>>());
    }
}
