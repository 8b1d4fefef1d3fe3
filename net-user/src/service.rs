//! The service manager: sd_notify(3) and the watchdog of systemd. Without one (no `NOTIFY_SOCKET`) nothing is sent. That a
//! message could not be sent is logged and changes nothing: who protects a host does not stop over it.

use std::{
    env, io,
    os::fd::RawFd,
    time::{Duration, Instant},
};

use sd_notify::NotifyState;
use tracing::{debug, warn};

/// A pause between two signs of life is this share of the time after which the watchdog acts (sd_watchdog_enabled(3) has 2; one
/// more may be late).
const SIGNS: u32 = 3;

/// The data path is attached and the control socket answers: also at the end of a reload.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A new config is being read. [`ready`] ends it, also when the config was refused.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => {
            debug!("no time for the service manager: {error}");
            send(&[NotifyState::Reloading]);
        }
    }
}

/// The agent ends.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// A line for `systemctl status`.
pub fn status(text: &str) {
    // A message has a variable a line.
    send(&[NotifyState::Status(&text.replace('\n', " "))]);
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        warn!("the service manager cannot be told: {error}");
    }
}

/// Signs of life for `WatchdogSec=`.
#[derive(Debug)]
pub struct Watchdog {
    /// None when nobody waits for them.
    every: Option<Duration>,
    last: Option<Instant>,
}

impl Watchdog {
    /// As the environment says: `WATCHDOG_USEC`, if `WATCHDOG_PID` is ours or not there.
    pub fn from_env() -> Self {
        Self {
            every: sd_notify::watchdog_enabled().map(|limit| limit / SIGNS),
            last: None,
        }
    }

    /// Gives a sign of life when one is due, and the data path is alive: else the service manager is to do what the agent
    /// cannot, and starts it anew. To be called more often than signs are due.
    pub fn tell(&mut self, alive: bool) {
        if self.due(alive, Instant::now()) {
            send(&[NotifyState::Watchdog]);
        }
    }

    fn due(&mut self, alive: bool, now: Instant) -> bool {
        let Some(every) = self.every.filter(|_| alive) else {
            return false;
        };
        let due = self
            .last
            .is_none_or(|last| now.duration_since(last) >= every);
        if due {
            self.last = Some(now);
        }
        due
    }
}

/// The one socket that the service manager has handed over (`LISTEN_FDS`); none when it has not.
///
/// # Errors
/// It has handed over several, and which of them is meant is not known.
pub(crate) fn listen_fd() -> io::Result<Option<RawFd>> {
    let mut handed = sd_notify::listen_fds()?;
    let first = handed.next();
    if handed.next().is_some() {
        let count = env::var("LISTEN_FDS").unwrap_or_default();
        return Err(io::Error::other(format!(
            "the service manager has handed over {count} sockets, and netmoat wants its control socket alone"
        )));
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::net::UnixDatagram, process::Command};

    use super::*;

    #[test]
    fn signs_of_life_come_in_time_and_only_from_the_living() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut dog = Watchdog {
            every: Some(Duration::from_secs(10)),
            last: None,
        };
        for (seconds, alive, expected) in [
            (0, true, true),
            (9, true, false),
            (10, true, true),
            (11, true, false),
            (20, false, false),
            (60, false, false),
            (61, true, true),
            (70, true, false),
        ] {
            assert_eq!(dog.due(alive, at(seconds)), expected, "after {seconds} s");
        }
        let mut unwatched = Watchdog {
            every: None,
            last: None,
        };
        assert!(!unwatched.due(true, start));
    }

    /// The environment is of the whole process: a child, this very test again, does the talking.
    #[test]
    fn the_service_manager_is_told_in_its_own_words() {
        const AGAIN: &str = "NETMOAT_TEST_TALKS";
        if env::var_os(AGAIN).is_some() {
            ready();
            reloading();
            ready();
            status("protecting 2 of 3 listeners\non eth0");
            let mut dog = Watchdog::from_env();
            dog.tell(false);
            dog.tell(true);
            dog.tell(true);
            stopping();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let name = "service::tests::the_service_manager_is_told_in_its_own_words";
        let output = Command::new(env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1"])
            .env(AGAIN, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let mut told = Vec::new();
        let mut octets = [0; 512];
        while let Ok(length) = socket.recv(&mut octets) {
            told.push(
                String::from_utf8_lossy(&octets[..length])
                    .trim_end()
                    .to_owned(),
            );
        }
        let reloading = told.remove(1);
        let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(time.unwrap().parse::<u64>().unwrap() > 0, "{reloading}");
        let expected = [
            "READY=1",
            "READY=1",
            "STATUS=protecting 2 of 3 listeners on eth0",
            "WATCHDOG=1",
            "STOPPING=1",
        ];
        assert_eq!(told, expected);
    }
}
