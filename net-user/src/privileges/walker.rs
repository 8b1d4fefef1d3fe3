//! A thread that may connect to others, and may do nothing else: the agent's own probes walk on it.
//!
//! Landlock keeps the agent's threads from making TCP connections, so this one is made before, with a Landlock of its own: it
//! writes no file, executes nothing, binds no port and signals nobody. It has no capability at all, and the seccomp filter. It
//! reads what servers send, which is the most exposed work of all. Threads share their memory: this keeps mistakes apart, not
//! who has taken the agent over.

use std::{
    future::pending,
    io,
    sync::{Mutex, OnceLock, PoisonError, mpsc::channel},
    thread,
    time::Duration,
};

use tokio::{
    runtime,
    sync::{mpsc, oneshot},
    task::LocalSet,
    time::timeout,
};

use crate::{
    canaries::{AT_ONCE, Walked},
    probe::{self, Plan},
};

/// A walk that is to be made.
struct Job {
    plan: Plan,
    patience: Duration,
    done: oneshot::Sender<Walked>,
}

/// What a walk may take beyond its patience before it is ended from outside.
const LATE: Duration = Duration::from_secs(2);
/// And before it is given up with its thread, as on a machine that is very busy.
const GRACE: Duration = Duration::from_secs(5);
/// Look-ups that block have threads of their own, made by this one.
const HELPERS: usize = 8;

static WALKER: OnceLock<mpsc::Sender<Job>> = OnceLock::new();

/// Starts the thread, which runs `first` and then walks; gives what `first` gave.
pub(super) fn start<T: Send + 'static>(
    first: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    let (jobs, inbox) = mpsc::channel(AT_ONCE);
    let (done, outcome) = channel();
    thread::Builder::new()
        .name("netmoat-walk".into())
        .spawn(move || {
            let _ = done.send(first());
            serve(inbox);
        })?;
    let outcome = outcome.recv().map_err(io::Error::other)?;
    // A second agent in one process does not happen; its jobs would go to the first one's thread.
    let _ = WALKER.set(jobs);
    Ok(outcome)
}

/// Walks on that thread, and for `patience` at most. Whatever goes wrong is told as the walk's end.
pub async fn walk(plan: Plan, patience: Duration) -> Walked {
    let (done, walked) = oneshot::channel();
    let job = Job {
        plan,
        patience,
        done,
    };
    let Some(jobs) = WALKER.get() else {
        return Walked::Lost("there is no thread that may connect".to_owned());
    };
    // What waits for a thread that is stuck is no walk of now.
    match jobs.try_send(job) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => {
            return Walked::Lost("its thread takes no more".to_owned());
        }
        Err(mpsc::error::TrySendError::Closed(_)) => {
            return Walked::Lost("its thread has ended".to_owned());
        }
    }
    match timeout(patience + GRACE, walked).await {
        Ok(Ok(walked)) => walked,
        Ok(Err(_)) => Walked::Lost("its thread has ended".to_owned()),
        Err(_) => Walked::Lost("its thread does not come back".to_owned()),
    }
}

/// Walks what comes, several at one time, until the agent ends.
fn serve(mut inbox: mpsc::Receiver<Job>) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(HELPERS)
        .thread_name("netmoat-walk")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return tracing::error!("probes cannot walk: {error}"),
    };
    LocalSet::new().block_on(&runtime, async {
        while let Some(job) = inbox.recv().await {
            // Its asker has given up, as this thread was stuck: nobody wants to know any more.
            if !job.done.is_closed() {
                tokio::task::spawn_local(make(job));
            }
        }
        // The sender is never dropped.
        pending::<()>().await;
    });
}

async fn make(job: Job) {
    let Job {
        plan,
        patience,
        done,
    } = job;
    let walked = apart(async move {
        let doing = Mutex::new(String::new());
        let progress = |text: &str| {
            let mut doing = doing.lock().unwrap_or_else(PoisonError::into_inner);
            text.clone_into(&mut doing);
        };
        // A walk ends by itself when its time is over; this is for one that does not.
        match timeout(patience + LATE, probe::walk(&plan, None, &progress)).await {
            Ok(report) => Walked::Report(Box::new(report)),
            Err(_) => Walked::Ended {
                patience,
                doing: doing.into_inner().unwrap_or_else(PoisonError::into_inner),
            },
        }
    })
    .await;
    // The probe may be gone by now.
    let _ = done.send(walked);
}

/// As a task of its own, so that a panic is told.
async fn apart(walk: impl Future<Output = Walked> + 'static) -> Walked {
    let walked = tokio::task::spawn_local(walk).await;
    walked.unwrap_or_else(|error| Walked::Lost(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::probe::{Layer, Outcome};

    fn on_the_thread(url: &str, patience: Duration) -> Walked {
        start(|| ()).unwrap();
        let plan = Plan {
            timeout: Duration::from_secs(60),
            patience: Some(patience),
            ..Plan::new(url.parse().unwrap())
        };
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.unwrap().block_on(walk(plan, patience))
    }

    #[test]
    fn a_walk_is_made_on_the_thread_and_its_report_comes_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let walked = on_the_thread(&format!("http://{address}/"), Duration::from_secs(60));
        let Walked::Report(report) = walked else {
            panic!("{walked:?}");
        };
        assert_eq!(
            (report.outcome, report.layer),
            (Outcome::Failed, Some(Layer::Tcp))
        );
    }

    #[test]
    fn a_walk_that_takes_longer_than_it_may_is_ended() {
        // The kernel takes the connection, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", silent.local_addr().unwrap());
        let patience = Duration::from_millis(200);
        let walked = on_the_thread(&url, patience);
        let Walked::Report(report) = walked else {
            panic!("{walked:?}");
        };
        assert_eq!(
            (report.layer, report.code.as_deref()),
            (Some(Layer::Http), Some("walk_timeout"))
        );
    }

    #[test]
    fn a_job_whose_asker_has_gone_is_not_walked() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (jobs, inbox) = mpsc::channel(AT_ONCE);
        let job = |done| Job {
            plan: Plan::new(url.parse().unwrap()),
            patience: Duration::from_millis(500),
            done,
        };
        let (gone, _) = oneshot::channel();
        assert!(jobs.try_send(job(gone)).is_ok());
        let (other, walked) = oneshot::channel();
        let nowhere = Plan::new("http://127.0.0.1:1/".parse().unwrap());
        let after = Job {
            plan: nowhere,
            ..job(other)
        };
        assert!(jobs.try_send(after).is_ok());
        thread::spawn(move || serve(inbox));
        assert!(matches!(walked.blocking_recv().unwrap(), Walked::Report(_)));
        let error = listener.accept().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "nobody came");
    }

    #[test]
    fn a_panic_is_the_end_of_one_walk() {
        let runtime = runtime::Builder::new_current_thread().build().unwrap();
        let lost = LocalSet::new().block_on(&runtime, apart(async { panic!("a fault of ours") }));
        let Walked::Lost(why) = lost else {
            panic!("{lost:?}");
        };
        assert!(why.contains("a fault of ours"), "{why}");
    }
}
