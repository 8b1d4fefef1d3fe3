//! `netmoat reload` with the real agent: all of a config comes into force or nothing of it, programs stay attached, and
//! clients notice nothing.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    lists::{done, json, prefixes, refused},
    scene::{PATIENCE, PORT, Scene},
    server::{Server, visit},
    topology::Pair,
    wait,
};
use net_user::{
    config::{GuardMode, Mode},
    control::changes::{ConfigShown, Reloaded},
};
use nix::sys::signal::Signal;

const SOON: Duration = Duration::from_secs(5);

fn reload(agent: &Agent, options: &str) -> Reloaded {
    json(agent, &format!("reload {options}"))
}

fn shown(agent: &Agent) -> ConfigShown {
    json(agent, "config show")
}

/// The programs on each interface.
fn programs(agent: &Agent) -> Vec<(String, u32, u32)> {
    let interfaces = agent.status().unwrap().interfaces.into_iter();
    interfaces
        .map(|i| (i.name, i.xdp_program_id, i.tc_program_id))
        .collect()
}

/// The keys that a reload has changed, with what they are now.
fn changed(reloaded: &Reloaded) -> BTreeMap<&str, String> {
    let changes = reloaded.changes.iter();
    changes
        .map(|change| (change.key.as_str(), change.after.to_string()))
        .collect()
}

#[test]
fn a_reload_puts_all_of_a_config_in_force_and_attaches_nothing_anew() {
    let scene = Scene::new();
    let _server = Server::start(&scene.server.ns, scene.server.at(4, PORT)).unwrap();
    let agent = scene.protect("[syn]\nmode = \"off\"");
    agent.await_listener(PORT, false).unwrap();
    let before = (agent.pid(), programs(&agent));
    visit(&scene.client.ns, scene.server.at(4, PORT), SOON).unwrap();
    assert_eq!(agent.packets(Reason::CookieSent).unwrap(), 0);

    let beside = agent.config().with_file_name("conf.d");
    fs::create_dir(&beside).unwrap();
    fs::write(beside.join("10-icmp.toml"), "[icmp]\nmode = \"off\"\n").unwrap();
    let config = "[syn]\nmode = \"always\"\nkey_rotation = \"5m\"\n[arp]\nmode = \"enforce\"\n\
                  [lists]\nblock = [\"192.0.2.0/24 tests\"]\n[events]\nrate = \"5/s\"";
    agent.write_config(config).unwrap();
    let reloaded = reload(&agent, "");
    assert!(reloaded.applied);
    let changed = changed(&reloaded);
    for (key, after) in [
        ("syn.mode", "\"always\""),
        ("syn.key_rotation", "\"5m\""),
        ("arp.mode", "\"enforce\""),
        ("icmp.mode", "\"off\""),
        ("events.rate", "\"5/s\""),
        ("lists.block", "\"1 entries: +192.0.2.0/24\""),
    ] {
        assert_eq!(
            changed.get(key).map(String::as_str),
            Some(after),
            "{key}: {changed:?}"
        );
    }
    assert_eq!(changed.len(), 6, "{changed:?}");

    agent.await_listener(PORT, true).unwrap();
    visit(&scene.client.ns, scene.server.at(4, PORT), SOON).unwrap();
    assert!(agent.packets(Reason::CookieSent).unwrap() > 0);
    let after = agent.status().unwrap();
    assert_eq!((agent.pid(), programs(&agent)), before, "the same programs");
    assert_eq!(
        (after.guards.icmp, after.neighbors.arp),
        (GuardMode::Off, GuardMode::Enforce)
    );
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.0/24"]);
    let shown = shown(&agent);
    assert_eq!(shown.config["syn"]["mode"], "always");
    assert_eq!(shown.drop_ins.len(), 1);

    // And back: nothing of it stays.
    fs::remove_dir_all(&beside).unwrap();
    agent.write_config("[syn]\nmode = \"off\"").unwrap();
    assert_eq!(reload(&agent, "").changes.len(), 6);
    agent.await_listener(PORT, false).unwrap();
    assert!(prefixes(&agent, "block").is_empty());
    assert_eq!(agent.status().unwrap().guards.icmp, GuardMode::Enforce);
    assert!(reload(&agent, "").changes.is_empty());
    assert!(
        agent.log().contains("reload asked for by uid 0"),
        "{}",
        agent.log()
    );
}

#[test]
fn a_mistake_is_shown_with_its_line_and_nothing_comes_into_force() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let before = shown(&agent);
    agent
        .write_config("[icmp]\nmode = \"off\"\n[syn]\nbudget = \"lots\"")
        .unwrap();
    let said = refused(&agent, "reload");
    for part in [
        "netmoat.toml:8:10",
        "8 | budget = \"lots\"",
        "^^^^^^",
        "help:",
    ] {
        assert!(said.contains(part), "no {part} in {said}");
    }
    assert_eq!(shown(&agent), before);

    agent.write_config("[icmp]\nmode = \"off\"").unwrap();
    fs::remove_file(agent.config()).unwrap();
    assert!(refused(&agent, "reload").contains("cannot read the config file"));
    assert_eq!(shown(&agent), before);
    assert_eq!(agent.netmoat(&["status"]).unwrap().status.code(), Some(0));
}

#[test]
fn what_only_a_start_can_change_is_refused_by_name_with_nothing_applied() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let before = shown(&agent);
    agent
        .write_config("xdp_mode = \"generic\"\n[syn]\nburst = 7")
        .unwrap();
    let said = refused(&agent, "reload");
    assert!(
        said.contains("xdp_mode: auto → generic") && said.contains("restart"),
        "{said}"
    );
    assert!(!said.contains("burst"), "{said}");
    assert_eq!(shown(&agent), before);
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let before = shown(&agent);
    agent
        .write_config("[syn]\nburst = 7\n[lists]\nblock = [\"192.0.2.1\"]")
        .unwrap();
    let told = reload(&agent, "--dry-run");
    assert!(!told.applied);
    assert_eq!(told.changes.len(), 2, "{told:?}");
    assert_eq!(shown(&agent), before);
    assert!(prefixes(&agent, "block").is_empty());
}

#[test]
fn sighup_reloads_too() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    agent.write_config("[syn]\nburst = 7").unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    wait::until("the reload", SOON, || {
        shown(&agent).config["syn"]["burst"] == 7
    })
    .unwrap();
    agent.write_config("[syn]\nburst = 0").unwrap();
    agent.signal(Signal::SIGHUP).unwrap();
    wait::until("the refusal in the log", SOON, || {
        agent.log().contains("out of range")
    })
    .unwrap();
    assert_eq!(shown(&agent).config["syn"]["burst"], 7);
}

#[test]
fn the_mode_that_was_set_outlasts_a_reload_unless_the_file_says_another() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "mode = \"enforce\"").unwrap();
    done(&agent, "mode observe");
    assert_eq!(shown(&agent).mode_in_file, Some(Mode::Enforce));
    agent
        .write_config("mode = \"enforce\"\n[syn]\nburst = 7")
        .unwrap();
    let said = done(&agent, "reload");
    assert!(said.contains("the mode stays observe"), "{said}");
    assert_eq!(agent.status().unwrap().mode, Mode::Observe);
    agent.write_config("mode = \"observe\"").unwrap();
    done(&agent, "reload");
    agent.write_config("mode = \"enforce\"").unwrap();
    done(&agent, "reload");
    assert_eq!(agent.status().unwrap().mode, Mode::Enforce);
    assert_eq!(shown(&agent).mode_in_file, None);
}

#[test]
fn c_51_a_config_that_locks_out_who_must_get_through_is_refused() {
    let scene = Scene::new();
    let (gateway, own) = (scene.client.v4, scene.server.v4);
    scene
        .server
        .ns
        .ip(&format!("route add default via {gateway}"))
        .unwrap();
    // The kernel knows where the gateway is.
    scene.server.pin_neighbour(&scene.client).unwrap();
    let agent = scene.protect("");
    let before = shown(&agent);
    let enforced = format!(
        "[arp]\nmode = \"enforce\"\n[[neighbor]]\naddress = \"{gateway}\"\nmacs = [\"02:00:00:00:00:66\"]"
    );
    for (config, who) in [
        (
            format!("[lists]\nblock = [\"{gateway}\"]"),
            gateway.to_string(),
        ),
        (
            "[lists]\nblock = [\"198.18.0.0/24\"]".to_owned(),
            own.to_string(),
        ),
        (
            "[lists]\nblock = [\"0.0.0.0/0\"]".to_owned(),
            "much of IPv4".to_owned(),
        ),
        (enforced.clone(), format!("{gateway} on eth0")),
    ] {
        agent.write_config(&config).unwrap();
        let said = refused(&agent, "reload");
        assert!(
            said.contains(&who) && said.contains("--confirm-within"),
            "{config}: {said}"
        );
        assert_eq!(shown(&agent), before, "{config}");
        assert!(prefixes(&agent, "block").is_empty(), "{config}");
    }
    // What only observes locks nobody out, and who insists gets it.
    let observed = enforced.replace("enforce", "observe");
    agent.write_config(&observed).unwrap();
    done(&agent, "reload");
    agent.write_config(&enforced).unwrap();
    done(&agent, "reload --force");
    assert_eq!(shown(&agent).config["arp"]["mode"], "enforce");
}

#[test]
fn c_48_clients_notice_nothing_of_a_hundred_reloads() {
    let scene = Scene::new();
    let _server = Server::start(&scene.server.ns, scene.server.at(4, PORT)).unwrap();
    // One client comes as often as it can: far more often than the default allows one prefix.
    let syn = |mode: &str, rest: &str| {
        format!(
            "[syn]\nmode = \"{mode}\"\nsyn_ack_limit = \"1M/s\"\nsyn_ack_burst = 100000\n{rest}"
        )
    };
    let agent = scene.protect(&syn("always", ""));
    agent.await_listener(PORT, true).unwrap();
    let before = programs(&agent);
    let configs = [
        syn(
            "always",
            "[icmp]\nmode = \"off\"\n[lists]\nblock = [\"192.0.2.0/24\"]",
        ),
        syn(
            "auto",
            "[ip]\nmode = \"observe\"\n[arp]\nmode = \"enforce\"",
        ),
        syn(
            "always",
            "key_rotation = \"5m\"\n[neighbors]\nlimit = \"200/s\"",
        ),
    ];
    let over = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| {
        let stop = Arc::clone(&over);
        let (client, to) = (&scene.client.ns, scene.server.at(4, PORT));
        let visitor = scope.spawn(move || {
            let mut visits = 0;
            while !stop.load(Ordering::Relaxed) {
                // Far below what a lost packet costs: one second before it is sent again.
                visit(client, to, Duration::from_millis(900)).unwrap();
                visits += 1;
            }
            visits
        });
        for config in configs.iter().cycle().take(100) {
            agent.write_config(config).unwrap();
            assert!(!reload(&agent, "").changes.is_empty());
        }
        over.store(true, Ordering::Relaxed);
        let visits = visitor.join().unwrap();
        assert!(visits > 100, "{visits} visits");
    });
    assert_eq!(programs(&agent), before);
    wait::until("the agent to be healthy", PATIENCE, || {
        agent.netmoat(&["status"]).unwrap().status.code() == Some(0)
    })
    .unwrap();
}

#[test]
fn a_change_is_logged_though_its_client_does_not_wait_and_a_confirmation_says_of_what() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let mut client = UnixStream::connect(agent.socket()).unwrap();
    client
        .write_all(b"POST /v1/reload HTTP/1.1\r\nhost: netmoat\r\ncontent-length: 0\r\n\r\n")
        .unwrap();
    drop(client);
    wait::until("the line of the reload", PATIENCE, || {
        agent.log().contains("reload asked for by uid 0")
    })
    .unwrap();
    done(&agent, "mode observe --confirm-within 60s");
    done(&agent, "confirm");
    wait::until("the line of the confirmation", PATIENCE, || {
        let log = agent.log();
        log.lines().any(|line| {
            line.contains("confirm of")
                && line.contains("observe")
                && line.contains("asked for by uid 0")
        })
    })
    .unwrap();
}
