//! Pins: whose they are, who may take them, and that all of them can be taken off.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    path::Path,
    process::Command,
    time::Duration,
};

use net_tests::{
    agent::Instance,
    topology::{Host, Pair},
    wait,
};

const SOON: Duration = Duration::from_secs(5);

fn has_xdp(host: &Host) -> bool {
    let shown = host
        .ns
        .succeed(Command::new("ip").args(["link", "show", &host.link.name]));
    shown.unwrap().contains("prog/xdp")
}

fn refusal(instance: &Instance, host: &Host) -> String {
    let (code, log) = instance.launch(host, "").unwrap().refusal().unwrap();
    assert_eq!(code, 1, "{log}");
    log
}

#[test]
fn pins_are_roots_alone_and_two_agents_do_not_share_an_instance() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let _agent = instance.start(&pair.server, "").unwrap();
    for dir in ["", "maps", "links"] {
        let found = fs::metadata(instance.pins().join(dir)).unwrap();
        assert_eq!((found.uid(), found.mode() & 0o7777), (0, 0o700), "{dir}");
    }
    let log = refusal(&instance, &pair.attacker);
    assert!(log.contains("an agent of the instance"), "{log}");
    let output = instance.detach().unwrap();
    assert!(
        !output.status.success(),
        "its agent runs, and was not asked"
    );
    assert!(has_xdp(&pair.server));
}

#[test]
fn a_directory_of_somebody_else_or_open_to_others_is_refused() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    let dir = instance.pins();
    chown(&dir, Some(65_534), None).unwrap();
    let log = refusal(&instance, &pair.server);
    assert!(log.contains("belongs to uid 65534, not to root"), "{log}");
    chown(&dir, Some(0), None).unwrap();
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    let log = refusal(&instance, &pair.server);
    assert!(log.contains("is open to others (mode 0755"), "{log}");
    assert!(log.contains("chmod 0700"), "{log}");
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
    assert!(has_xdp(&pair.server), "refused before anything was touched");
    drop(instance.start(&pair.server, "").unwrap());
}

#[test]
fn a_pin_that_holds_something_else_is_refused_by_name() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    let map = instance.pins().join("maps/SETTINGS-1");
    let aside = instance.pins().join("links/aside");
    fs::rename(&map, &aside).unwrap();
    let link = instance.pins().join("links/retrans");
    fs::rename(&link, &map).unwrap();
    let log = refusal(&instance, &pair.server);
    assert!(log.contains("maps/SETTINGS-1 is not netmoat's"), "{log}");
    assert!(log.contains("wanted bpf-map"), "{log}");
    assert!(has_xdp(&pair.server));
}

#[test]
fn another_namespace_needs_an_instance_of_its_own() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    let log = refusal(&instance, &pair.attacker);
    assert!(log.contains("belongs to the network namespace"), "{log}");
    assert!(log.contains("--instance"), "{log}");
}

#[test]
fn a_map_whose_size_changed_begins_anew_and_that_is_said_before() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    // As of a build with more or smaller places.
    let maps = instance.pins().join("maps");
    fs::remove_file(maps.join("SOURCES-1")).unwrap();
    fs::rename(maps.join("SOURCE_STATE-1"), maps.join("SOURCES-1")).unwrap();
    let agent = instance.start(&pair.server, "").unwrap();
    let log = agent.log();
    let said = log
        .find("known sources begin anew: SOURCES, whose")
        .expect(&log);
    let loaded = log.find("protecting 0 of 0 listeners").expect(&log);
    assert!(said < loaded);
    assert!(maps.join("SOURCE_STATE-1").exists(), "whole again");
}

#[test]
fn detach_asks_the_agent_and_leaves_other_instances_alone() {
    let pair = Pair::new().unwrap();
    let (instance, other) = (Instance::new().unwrap(), Instance::new().unwrap());
    let mut agent = instance.start(&pair.server, "").unwrap();
    let _other = other.start(&pair.attacker, "").unwrap();
    let output = agent
        .netmoat(&["--instance", instance.name(), "detach"])
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!has_xdp(&pair.server));
    assert!(!instance.pins().exists());
    wait::until("the agent to end", SOON, || agent.ended().is_some()).unwrap();
    assert!(agent.ended().unwrap().success(), "{}", agent.log());
    assert!(has_xdp(&pair.attacker) && other.pins().exists());
}

#[test]
fn detach_works_without_an_agent_when_half_of_it_is_missing() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    for gone in ["abi", "links/sock", "maps/SETTINGS-1"] {
        fs::remove_file(instance.pins().join(gone)).unwrap();
    }
    let output = instance.detach().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(!instance.pins().exists());
    wait::until("the programs to go", SOON, || !has_xdp(&pair.server)).unwrap();
    let output = instance.detach().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("nothing of the instance"),
        "{told}"
    );
}

#[test]
fn an_agent_in_the_foreground_takes_over_and_pins_no_more() {
    let pair = Pair::new().unwrap();
    let instance = Instance::new().unwrap();
    let mut agent = instance.start(&pair.server, "").unwrap();
    agent.kill().unwrap();
    let mut agent = instance
        .start(&pair.server, "on_exit = \"detach\"")
        .unwrap();
    assert!(agent.log().contains("pinned no more"), "{}", agent.log());
    assert!(has_xdp(&pair.server) && !instance.pins().exists());
    agent.kill().unwrap();
    wait::until("the programs to go", SOON, || !has_xdp(&pair.server)).unwrap();
    assert!(
        !Path::new("/sys/fs/bpf/netmoat")
            .join(instance.name())
            .exists()
    );
}
