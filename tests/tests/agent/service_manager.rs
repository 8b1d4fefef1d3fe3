//! systemd: what the agent tells it, and the units that it reads.

use std::{
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use net_tests::{
    lab::Pass,
    process::{Process, workspace_binary},
    scene::PATIENCE,
    topology::Pair,
    wait,
};
use net_user::control::protocol::{Health, Status};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Time after which the watchdog would act.
const WATCHDOG: Duration = Duration::from_millis(1500);

/// An agent whose service manager is this test.
struct Served {
    process: Process,
    manager: UnixDatagram,
    directory: TempDir,
}

/// A name that no other test has, from that of a temporary directory.
fn instance(directory: &Path) -> String {
    let name = directory.file_name().unwrap().to_string_lossy();
    let name = name.trim_start_matches('.').to_lowercase();
    format!("test-{name}-{}", std::process::id())
}

impl Served {
    fn start(pair: &Pair) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let manager = UnixDatagram::bind(at("notify")).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        // The host's own agent, or another test's, may have the default one.
        let instance = instance(directory.path());
        let config = format!(
            "instance = {instance:?}\ninterfaces = [\"eth0\"]\nsocket = {:?}\nstate_dir = {:?}\non_exit = \"detach\"\n",
            at("control.sock"),
            at("state")
        );
        fs::write(at("netmoat.toml"), config).unwrap();
        let mut command = Command::new(workspace_binary("netmoat").unwrap());
        command
            .args(["run", "--config"])
            .arg(at("netmoat.toml"))
            .env("NOTIFY_SOCKET", at("notify"))
            .env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string())
            .env_remove("WATCHDOG_PID");
        let process = Process::start(&pair.server.ns, &mut command).unwrap();
        Self {
            process,
            manager,
            directory,
        }
    }

    /// The next message; none when there is none for `within`.
    fn told(&self, within: Duration) -> Option<String> {
        self.manager.set_read_timeout(Some(within)).unwrap();
        let mut octets = [0; 4096];
        let length = self.manager.recv(&mut octets).ok()?;
        Some(
            String::from_utf8_lossy(&octets[..length])
                .trim_end()
                .to_owned(),
        )
    }

    /// Reads on to a message that begins so.
    fn await_message(&self, beginning: &str) -> String {
        wait::until_some(beginning, PATIENCE, || {
            self.told(PATIENCE)
                .filter(|told| told.starts_with(beginning))
        })
        .unwrap_or_else(|error| panic!("{error:#}\n{}", self.process.printed()))
    }

    fn netmoat(&self, verb: &str) -> String {
        let output = Command::new(workspace_binary("netmoat").unwrap())
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .args(["-o", "json", verb])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

#[test]
fn the_service_manager_hears_of_the_start_of_life_and_of_the_end() {
    let pair = Pair::new().unwrap();
    let mut agent = Served::start(&pair);
    // The first message is that it protects, and by then the control socket answers.
    assert_eq!(agent.told(PATIENCE).as_deref(), Some("READY=1"));
    let status: Status = serde_json::from_str(&agent.netmoat("status")).unwrap();
    assert_eq!(status.health, Health::Ok);
    let status = agent.await_message("STATUS=");
    assert!(status.contains("on eth0 ("), "{status}");
    for _ in 0..3 {
        agent.await_message("WATCHDOG=1");
        // In time for the next one.
        let next = agent.told(WATCHDOG);
        assert!(next.is_some(), "no sign of life for {WATCHDOG:?}");
    }
    agent.process.signal(Signal::SIGTERM).unwrap();
    agent.await_message("STOPPING=1");
    assert!(agent.process.wait(PATIENCE).unwrap().success());
}

/// Takes the XDP program off by its link, as root may.
fn take_off(program: u32) {
    let bpftool = |args: &[&str]| {
        let output = Command::new("bpftool").args(args).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let links: Vec<serde_json::Value> =
        serde_json::from_slice(&bpftool(&["--json", "link", "list"])).unwrap();
    let link = links.iter().find(|link| link["prog_id"] == program);
    let id = link.unwrap()["id"].to_string();
    bpftool(&["link", "detach", "id", &id]);
}

#[test]
fn signs_of_life_end_while_packets_do_not_meet_the_programs() {
    let pair = Pair::new().unwrap();
    let agent = Served::start(&pair);
    agent.await_message("WATCHDOG=1");
    let status: Status = serde_json::from_str(&agent.netmoat("status")).unwrap();
    // Somebody puts another one there, so that netmoat's cannot be put back.
    let mut pass = Pass::load().unwrap();
    take_off(status.interfaces[0].xdp_program_id);
    pass.attach(&pair.server.ns, &pair.server.link).unwrap();
    let degraded = agent.await_message("STATUS=degraded");
    assert!(degraded.contains("eth0"), "{degraded}");
    // What was sent before is read; then there is silence, while the agent lives.
    wait::until("silence", PATIENCE, || agent.told(2 * WATCHDOG).is_none()).unwrap();
    assert!(agent.netmoat("status").contains("degraded"));

    drop(pass);
    agent.await_message("WATCHDOG=1");
}

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../contrib/systemd")
        .join(name)
}

/// The exposure level that the documents state.
fn documented() -> f64 {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/privileges.md");
    let text = fs::read_to_string(path).unwrap();
    let words = text.split_once("Overall exposure level: ").unwrap().1;
    words.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_units_expose_no_more_than_the_documents_say() {
    for unit in ["netmoat.service", "netmoat@.service"] {
        let output = Command::new("systemd-analyze")
            .args(["security", "--offline=true", "--no-pager"])
            .arg(contrib(unit))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let level = text.lines().find_map(|line| {
            line.split_once("Overall exposure level for ")?
                .1
                .split_once(": ")
        });
        let level = level.unwrap_or_else(|| panic!("{text}")).1;
        let level: f64 = level.split_whitespace().next().unwrap().parse().unwrap();
        assert!(level <= documented(), "{unit}: {level}\n{text}");
    }
}

#[test]
fn systemd_understands_the_units() {
    let directory = tempfile::tempdir().unwrap();
    let binary = workspace_binary("netmoat").unwrap();
    let mut units = Vec::new();
    for name in ["netmoat.service", "netmoat@.service", "netmoat.socket"] {
        let text = fs::read_to_string(contrib(name)).unwrap();
        // The program and its page are there once it is installed.
        let text = text
            .replace("/usr/sbin/netmoat", &binary.display().to_string())
            .replace("Documentation=man:netmoat(8)\n", "");
        let path = directory.path().join(name);
        fs::write(&path, text).unwrap();
        units.push(path);
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&units)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    // Of a key that it does not know it only warns.
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_units_of_the_host_and_of_an_instance_differ_in_names_alone() {
    let service = |name: &str| {
        let text = fs::read_to_string(contrib(name)).unwrap();
        let (_, service) = text.split_once("\n[Service]\n").unwrap();
        service
            .replace("--instance %i ", "")
            .replace("netmoat/%i\n", "netmoat\n")
            .replace("/%i.toml", "/netmoat.toml")
    };
    assert_eq!(service("netmoat.service"), service("netmoat@.service"));
}
