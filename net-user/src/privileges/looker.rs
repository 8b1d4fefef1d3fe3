//! A thread that may look into other processes.
//!
//! The links in `/proc/PID/fd`, by which sockets get their process, may be read by whoever may trace that process. Landlock
//! denies that to everybody it confines, whatever capabilities they have (security/landlock/ptrace.c, Linux 6.18). So one
//! thread is made before, and left alone by Landlock; it has nothing but the two capabilities to look, and the seccomp filter.
//! Threads share their memory: this keeps mistakes apart, not who has taken the agent over.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        OnceLock,
        mpsc::{Sender, channel},
    },
    thread,
};

type Job = Box<dyn FnOnce() + Send>;

static LOOKER: OnceLock<Sender<Job>> = OnceLock::new();

/// Starts the thread, which runs `first` and then what [`look`] is given; gives what `first` gave.
pub(super) fn start<T: Send + 'static>(
    first: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (jobs, inbox) = channel::<Job>();
    let (done, outcome) = channel();
    thread::Builder::new()
        .name("netmoat-look".into())
        .spawn(move || {
            let _ = done.send(first());
            for job in inbox {
                job();
            }
        })?;
    let outcome = outcome.recv().map_err(io::Error::other)?;
    // A second agent in one process does not happen; its jobs would go to the first one's thread.
    let _ = LOOKER.set(jobs);
    Ok(outcome)
}

/// Does what looks into other processes, on the thread that may; on the caller's own where the agent does not run, as in
/// `netmoat check`. Blocking.
pub fn look<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let Some(jobs) = LOOKER.get() else {
        return work();
    };
    let (done, outcome) = channel();
    let job: Job = Box::new(move || {
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    });
    // It lives as long as the process, and goes on after a panic, which is the caller's.
    let _ = jobs.send(job);
    match outcome.recv() {
        Ok(Ok(value)) => value,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(gone) => resume_unwind(Box::new(gone)),
    }
}
