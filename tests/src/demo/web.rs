//! The server: nginx, as Debian has it.

use std::{fs, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use crate::{process::Process, topology::Host, wait};

/// Where it listens.
pub const PORT: u16 = 80;
/// What it serves, over and over to the size of a small page.
const LINE: &str = "The moat holds: this answer came from nginx through a full TCP connection.\n";
const LINES: usize = 14;

/// nginx in a namespace; killed when dropped.
pub struct Web {
    process: Process,
    _directory: TempDir,
}

impl Web {
    /// Starts it on the calling thread's CPUs and waits until it listens.
    ///
    /// # Errors
    /// It is not installed, or ends; the error has what it said.
    pub fn start(host: &Host) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("netmoat-demo-").tempdir()?;
        let path = directory.path();
        fs::write(path.join("index.html"), page())?;
        let address = host.at(4, PORT);
        // One process: a worker would outlive a master that is killed. The backlog is nginx's own, 511.
        let config = format!(
            "daemon off;\nmaster_process off;\nworker_processes 1;\nuser root;\npid {pid};\n\
             error_log stderr warn;\nevents {{ worker_connections 1024; }}\n\
             http {{ access_log off; server {{ listen {address}; root {root}; }} }}\n",
            pid = path.join("nginx.pid").display(),
            root = path.display(),
        );
        let config_file = path.join("nginx.conf");
        fs::write(&config_file, config)?;
        let mut command = Command::new("nginx");
        command
            .arg("-p")
            .arg(path)
            .arg("-c")
            .arg(&config_file)
            .args(["-e", "stderr"]);
        let process =
            Process::start(&host.ns, &mut command).context("apt-get install nginx-light")?;
        let mut web = Self {
            process,
            _directory: directory,
        };
        let mut diag = host.ns.run(net_user::host::sock_diag::Diag::open)?;
        wait::until("nginx to listen", Duration::from_secs(10), || {
            web.process.ended().is_some()
                || diag
                    .listeners()
                    .is_ok_and(|all| all.iter().any(|l| l.port == PORT))
        })?;
        if web.process.ended().is_some() {
            bail!("nginx ended: {}", web.process.printed().trim_end());
        }
        Ok(web)
    }
}

/// The page that it serves.
pub fn page() -> String {
    LINE.repeat(LINES)
}

/// What `nginx -v` says, such as `nginx/1.22.1`.
pub fn version() -> Result<String> {
    let output = Command::new("nginx")
        .arg("-v")
        .output()
        .context("nginx cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    Ok(said
        .trim()
        .rsplit(' ')
        .next()
        .unwrap_or_default()
        .to_owned())
}
