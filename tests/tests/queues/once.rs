//! Reading without root, and without an agent.

use std::{
    fs::{self, Permissions},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        process::CommandExt as _,
    },
    path::PathBuf,
    process::{Command, Output},
};

use net_tests::{
    process::workspace_binary,
    queues::{OFF, OTHER, app::Application, both, truth, watch},
    scene::{PATIENCE, PORT, Scene, dial},
    wait,
};
use net_user::control::queues::{Queues, VerdictKind};
use tempfile::TempDir;

/// Nobody's user and group.
const NOBODY: u32 = 65534;

/// Exit code for want of a privilege.
const PERMISSION: i32 = 4;

/// A copy of netmoat that everyone may run.
struct Copy {
    directory: TempDir,
}

impl Copy {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let copy = Self { directory };
        fs::set_permissions(copy.directory.path(), Permissions::from_mode(0o755)).unwrap();
        fs::copy(workspace_binary("netmoat").unwrap(), copy.binary()).unwrap();
        copy
    }

    fn binary(&self) -> PathBuf {
        self.directory.path().join("netmoat")
    }

    /// `netmoat ARGS` in the server's namespace, as a user and group.
    fn run(&self, scene: &Scene, id: u32, args: &[&str]) -> Output {
        let mut command = Command::new(self.binary());
        command.args(args).uid(id).gid(id).current_dir("/");
        scene.server.ns.run(|| command.output()).unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> Queues {
    assert!(
        matches!(output.status.code(), Some(0 | 3)),
        "{}",
        said(output)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn once_needs_no_agent_and_says_of_nobody_what_it_cannot_see() {
    let scene = Scene::new();
    let [stuck_at, other_at] = both(&scene, 4);
    let ns = &scene.server.ns;
    let stuck = Application::start(ns, "shop", stuck_at, "--backlog 4 --stuck");
    let _other = Application::start(ns, "till", other_at, "");
    let clients: Vec<_> = (0..5).map(|_| dial(&scene.client, stuck_at)).collect();
    wait::until("a full queue", PATIENCE, || {
        truth::listener(&scene.server, PORT).accept_queue == 5
    })
    .unwrap();
    let copy = Copy::new();

    let queues = json(&copy.run(&scene, 0, &["-o", "json", "queues", "--once"]));
    let listener = watch::listener(&queues, PORT);
    assert_eq!((listener.accept_queue, listener.accept_queue_limit), (5, 4));
    assert_eq!(listener.verdicts[0].kind, VerdictKind::AcceptFull);
    let owner = listener.sockets[0].process.clone().unwrap();
    assert_eq!((owner.pid, &owner.name[..]), (stuck.pid(), "shop"));
    let other = watch::listener(&queues, OTHER);
    assert_eq!(other.verdicts[0].kind, VerdictKind::Healthy);

    // What the kernel tells only root is missing, and says why.
    let queues = json(&copy.run(&scene, NOBODY, &["-o", "json", "queues", "--once"]));
    let listener = watch::listener(&queues, PORT);
    assert_eq!((listener.accept_queue, listener.accept_queue_limit), (5, 4));
    assert_eq!(listener.verdicts[0].kind, VerdictKind::AcceptFull);
    assert_eq!(listener.sockets[0].process, None);
    assert!(!listener.verdicts[0].sentence.contains("shop"));
    let source = queues
        .sources
        .iter()
        .find(|s| s.name == "processes")
        .unwrap();
    assert!(
        source.missing.as_ref().is_some_and(|why| !why.is_empty()),
        "{source:?}"
    );

    // One listener, or an error.
    let one = json(&copy.run(&scene, 0, &["-o", "json", "queues", "--once", "8081"]));
    assert_eq!(
        one.listeners.iter().map(|l| l.port).collect::<Vec<_>>(),
        [OTHER]
    );
    let none = copy.run(&scene, 0, &["queues", "--once", "8082"]);
    assert_eq!(none.status.code(), Some(1), "{}", said(&none));
    assert!(said(&none).contains("no such"), "{}", said(&none));
    let table = copy.run(&scene, NOBODY, &["queues", "--once"]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.contains("8080") && table.contains("8081"), "{table}");
    drop(clients);
}

#[test]
fn a_user_of_the_sockets_group_reads_queues_and_changes_nothing() {
    let scene = Scene::new();
    let at = scene.server.at(6, PORT);
    let app = Application::start(&scene.server.ns, "shop", at, "");
    let agent = scene.protect(OFF);
    agent.await_listener(PORT, false).unwrap();
    let copy = Copy::new();
    let socket = agent.socket();
    let shown = socket.to_str().unwrap();
    let read = |options: &[&str]| {
        let args = ["--socket", shown, "-o", "json"];
        copy.run(&scene, NOBODY, &[&args[..], options].concat())
    };
    // The laboratory's directory is root's own; a package's is the group's.
    fs::set_permissions(socket.parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let refused = read(&["queues"]);
    assert_eq!(
        refused.status.code(),
        Some(PERMISSION),
        "{}",
        said(&refused)
    );

    chown(&socket, None, Some(NOBODY)).unwrap();
    let owner = wait::until_some("the owner", PATIENCE, || {
        let queues = json(&read(&["queues"]));
        watch::listener(&queues, PORT).sockets[0].process.clone()
    })
    .unwrap();
    assert_eq!((owner.pid, &owner.name[..]), (app.pid(), "shop"));
    let one = json(&read(&["queues", ":8080"]));
    assert_eq!(one.listeners.len(), 1);
    let named = json(&read(&["queues", "shop"]));
    assert_eq!(named.listeners[0].sockets, one.listeners[0].sockets);
    let unknown = read(&["queues", "198.18.0.250:8080"]);
    assert_eq!(unknown.status.code(), Some(1), "{}", said(&unknown));
    assert!(said(&unknown).contains("no such"), "{}", said(&unknown));

    // Proposals are for all who read, changes are not.
    let proposed = read(&["tune"]);
    assert_eq!(proposed.status.code(), Some(0), "{}", said(&proposed));
    for change in ["--apply", "--revert"] {
        let refused = read(&["tune", change]);
        assert_eq!(refused.status.code(), Some(PERMISSION), "{change}");
        assert!(said(&refused).contains("root"), "{}", said(&refused));
    }
}
