//! `netmoat run`

use std::panic::resume_unwind;

use super::{Code, Failure};
use crate::config::{Config, metrics::Listen};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat run -i eth0                 every fit listener on it, with defaults
  netmoat run -i eth0 --mode observe  drop and answer nothing, only count
  netmoat run -c netmoat.toml         as the file says";

/// The maps have one owner; the second worker serves sockets meanwhile.
const WORKERS: usize = 2;

pub(super) fn run(config: Config) -> Result<Code, Failure> {
    let mut prepared = crate::agent::prepare(&config).map_err(Failure::from_agent)?;
    let mut sockets = vec![config.socket.as_path()];
    if let Some(Listen::Unix(path)) = &config.metrics.listen {
        sockets.push(path);
    }
    // While there is no other thread.
    prepared.privileges = crate::privileges::give_up(&config.state_dir, &sockets);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .thread_name("netmoat")
        .enable_all()
        .build()?;
    // A worker that waits for a timer goes on itself with the task that waited; a thread that blocks here would have to be woken
    // by it, at each of the agent's looks.
    let ended = runtime.block_on(runtime.spawn(crate::agent::run(config, prepared)));
    ended
        .unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()))
        .map_err(Failure::from_agent)?;
    Ok(Code::Ok)
}
