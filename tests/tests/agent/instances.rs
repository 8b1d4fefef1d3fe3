//! Several agents, one for each network namespace, started from outside with `--netns`.

use std::{path::PathBuf, process::Command, time::Duration};

use net_tests::{
    bpftool::Map,
    netns::Namespace,
    process::{Process, workspace_binary},
    server::{Server, visit},
    topology::{Host, Lan},
    wait,
};
use net_user::control::protocol::{Queues, Status};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;
use tempfile::TempDir;

const PORT: u16 = 8080;
const START: Duration = Duration::from_secs(30);
const SOON: Duration = Duration::from_secs(8);

/// An agent that was started outside the namespace it protects.
struct Instance {
    process: Process,
    directory: TempDir,
    binary: PathBuf,
}

impl Instance {
    /// `netns` is a name or a path.
    fn start(outside: &Namespace, netns: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("netmoat.toml");
        let state = directory.path().join("state");
        let text =
            format!("interfaces = [\"eth*\"]\nstate_dir = {state:?}\n[syn]\nmode = \"always\"\n");
        std::fs::write(&config, text).unwrap();
        let binary = workspace_binary("netmoat").unwrap();
        let mut command = Command::new(&binary);
        command
            .arg("--socket")
            .arg(directory.path().join("control.sock"))
            .args(["run", "--netns", netns, "--config"])
            .arg(&config);
        let mut instance = Self {
            process: Process::start(outside, &mut command).unwrap(),
            directory,
            binary,
        };
        let answers = wait::until("the agent's first answer", START, || {
            assert!(
                instance.process.ended().is_none(),
                "{}",
                instance.process.printed()
            );
            instance.ask::<Status>("status").is_some()
        });
        answers.unwrap_or_else(|error| panic!("{error:#}\n{}", instance.process.printed()));
        instance
    }

    fn ask<T: DeserializeOwned>(&self, verb: &str) -> Option<T> {
        let output = Command::new(&self.binary)
            .arg("--socket")
            .arg(self.directory.path().join("control.sock"))
            .args(["-o", "json", verb])
            .output()
            .unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    fn handshakes(&self) -> u64 {
        let queues: Queues = self.ask("queues").unwrap();
        queues.listeners.iter().map(|l| l.handshakes).sum()
    }

    fn await_listener(&self) {
        wait::until("a protected listener", SOON, || {
            let queues: Option<Queues> = self.ask("queues");
            queues.is_some_and(|queues| {
                queues
                    .listeners
                    .iter()
                    .any(|l| l.port == PORT && l.protected)
            })
        })
        .unwrap();
    }
}

#[test]
fn two_instances_protect_two_namespaces_and_know_nothing_of_one_another() {
    let lan = Lan::new().unwrap();
    let [red, blue, client] = ["red", "blue", "client"].map(|role| lan.host(role).unwrap());
    let outside = Namespace::new("outside").unwrap();
    // By name, and by path.
    let first = Instance::start(&outside, red.ns.name());
    let mut second = Instance::start(&outside, &blue.ns.path().display().to_string());
    let serve =
        |host: &Host| Server::start(&host.ns, (std::net::Ipv6Addr::UNSPECIFIED, PORT).into());
    let _servers = [serve(&red).unwrap(), serve(&blue).unwrap()];
    first.await_listener();
    second.await_listener();

    visit(&client.ns, red.at(4, PORT), SOON).unwrap();
    assert_eq!((first.handshakes(), second.handshakes()), (1, 0));
    visit(&client.ns, blue.at(6, PORT), SOON).unwrap();
    assert_eq!((first.handshakes(), second.handshakes()), (1, 1));

    // What is done to the maps of one is not seen by the other.
    let listeners = Map::of(first.process.pid(), "LISTENERS").unwrap();
    let entries = listeners.dump().unwrap();
    listeners.delete(entries.keys().next().unwrap()).unwrap();
    let repaired = |instance: &Instance| instance.ask::<Status>("status").unwrap().drift.repaired;
    wait::until("the repair", SOON, || repaired(&first) == 1).unwrap();
    assert_eq!(listeners.dump().unwrap(), entries);
    assert_eq!(repaired(&second), 0);

    second.process.signal(Signal::SIGTERM).unwrap();
    assert!(second.process.wait(SOON).unwrap().success());
    visit(&client.ns, red.at(4, PORT), SOON).unwrap();
    assert_eq!(first.handshakes(), 2);
}
