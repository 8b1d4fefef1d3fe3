//! `netmoat run`

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
    runtime
        .block_on(crate::agent::run(config, prepared))
        .map_err(Failure::from_agent)?;
    Ok(Code::Ok)
}
