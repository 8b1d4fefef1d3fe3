//! Changes that go back unless they are confirmed, whatever becomes of the agent meanwhile.

use std::time::{Duration, Instant};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    lists::{done, json, prefixes, refused},
    scene::{PATIENCE, PORT, Scene},
    server::{Server, visit},
    topology::{Host, Pair},
    wait,
};
use net_user::{
    config::Mode,
    control::changes::{ConfigShown, Confirmed},
};
use nix::sys::signal::Signal;

/// What a visit takes at most that nothing hinders.
const AT_ONCE: Duration = Duration::from_millis(900);

fn gets_through(from: &Host, to: &Host) -> bool {
    visit(&from.ns, to.at(4, PORT), AT_ONCE).is_ok()
}

/// How the agent is.
fn exit_code(agent: &Agent) -> Option<i32> {
    agent.netmoat(&["status"]).unwrap().status.code()
}

fn burst(agent: &Agent) -> u64 {
    let shown: ConfigShown = json(agent, "config show");
    shown.config["syn"]["burst"].as_u64().unwrap()
}

#[test]
fn c_51_who_locks_himself_out_and_cannot_confirm_is_let_in_again() {
    let scene = Scene::new();
    let _server = Server::start(&scene.server.ns, scene.server.at(4, PORT)).unwrap();
    let agent = scene.protect("");
    let client = scene.client.v4;
    assert!(gets_through(&scene.client, &scene.server));
    let said = done(&agent, &format!("block add {client} --confirm-within 3s"));
    assert!(said.contains("netmoat confirm"), "{said}");
    assert!(!gets_through(&scene.client, &scene.server));
    let pending = agent.status().unwrap().pending.unwrap();
    assert!(
        pending.what.contains(&client.to_string()) && pending.left_s <= 3,
        "{pending:?}"
    );
    wait::until("the client to be let in again", PATIENCE, || {
        gets_through(&scene.client, &scene.server)
    })
    .unwrap();
    wait::until("the list to be as before", PATIENCE, || {
        prefixes(&agent, "block").is_empty() && agent.status().unwrap().pending.is_none()
    })
    .unwrap();
    assert!(refused(&agent, "confirm").contains("nothing waits"));
    assert!(
        agent.log().contains("was not confirmed, and is undone"),
        "{}",
        agent.log()
    );
}

#[test]
fn what_is_confirmed_stays_with_its_own_end_and_reason() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "block add 192.0.2.1 --for 1h --reason before");
    done(
        &agent,
        "block add 192.0.2.1 192.0.2.2 --reason now --confirm-within 2s",
    );
    let confirmed: Confirmed = json(&agent, "confirm");
    assert!(
        confirmed.what.contains("192.0.2.1 and 1 more"),
        "{confirmed:?}"
    );
    assert_eq!(confirmed.warnings, [""; 0]);
    let over = Instant::now() + Duration::from_secs(3);
    wait::until("the time that it would have had", PATIENCE, || {
        Instant::now() > over
    })
    .unwrap();
    let page = net_tests::lists::page(&agent, "block", "");
    let entries: Vec<_> = page
        .entries
        .iter()
        .map(|e| (e.prefix.as_str(), e.reason.as_str(), e.left_s))
        .collect();
    assert_eq!(
        entries,
        [("192.0.2.1", "now", None), ("192.0.2.2", "now", None)]
    );
}

#[test]
fn an_entry_that_was_there_before_goes_back_to_what_it_was() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "allow add 192.0.2.1 --reason before");
    done(&agent, "allow add 192.0.2.9 --for 1h --reason before");
    done(&agent, "allow del 192.0.2.1 --confirm-within 1s");
    assert!(refused(&agent, "allow add 192.0.2.7").contains("waits for its confirmation"));
    // Another list is no affair of it, and another change that waits is.
    done(&agent, "block add 203.0.113.1");
    assert!(refused(&agent, "block add 203.0.113.2 --confirm-within 9s").contains("waits"));
    wait::until("the entry to be back", PATIENCE, || {
        prefixes(&agent, "allow").len() == 2
    })
    .unwrap();
    wait::until("the change to be over", PATIENCE, || {
        agent.status().unwrap().pending.is_none()
    })
    .unwrap();
    done(
        &agent,
        "allow add 192.0.2.9 --for 1m --reason now --confirm-within 1s",
    );
    wait::until("the reason to be back", PATIENCE, || {
        let page = net_tests::lists::page(&agent, "allow", "");
        let entry = &page.entries[1];
        entry.reason == "before" && entry.left_s.is_some_and(|left| left > 3500)
    })
    .unwrap();
    assert_eq!(prefixes(&agent, "block"), ["203.0.113.1"]);
}

#[test]
fn an_import_that_is_not_confirmed_gives_way_to_the_list_before() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let import = |text: &str, options: &[&str]| {
        let args = [&["block", "import", "-", "--list", "feed"], options].concat();
        let output = agent.netmoat_with(&args, text, &[]).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    import("192.0.2.1 1h old\n192.0.2.2\n", &[]);
    import("203.0.113.0/24\n", &["--confirm-within", "1s"]);
    assert_eq!(prefixes(&agent, "block"), ["203.0.113.0/24"]);
    wait::until("the list before", PATIENCE, || {
        prefixes(&agent, "block") == ["192.0.2.1", "192.0.2.2"]
    })
    .unwrap();
    wait::until("the change to be over", PATIENCE, || {
        agent.status().unwrap().pending.is_none()
    })
    .unwrap();
    import("203.0.113.0/24\n", &["--confirm-within", "1m"]);
    done(&agent, "confirm");
    assert_eq!(
        net_tests::lists::page(&agent, "block", "").entries[0].left_s,
        None
    );
}

#[test]
fn a_mode_goes_back_in_time_and_stays_when_it_is_confirmed() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "mode observe --confirm-within 1s");
    assert_eq!(agent.status().unwrap().mode, Mode::Observe);
    assert!(refused(&agent, "mode enforce").contains("waits for its confirmation"));
    wait::until("the mode before", PATIENCE, || {
        agent.status().unwrap().mode == Mode::Enforce
    })
    .unwrap();
    assert_eq!(exit_code(&agent), Some(0));
    done(&agent, "mode observe --confirm-within 1s");
    done(&agent, "confirm");
    let over = Instant::now() + Duration::from_secs(2);
    wait::until("the time that it would have had", PATIENCE, || {
        Instant::now() > over
    })
    .unwrap();
    assert_eq!(agent.status().unwrap().mode, Mode::Observe);
}

#[test]
fn a_reload_goes_back_in_time_and_says_that_the_file_differs() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "[syn]\nburst = 5").unwrap();
    agent
        .write_config("[syn]\nburst = 7\n[lists]\nblock = [\"192.0.2.1\"]")
        .unwrap();
    done(&agent, "reload --confirm-within 1s");
    assert_eq!(burst(&agent), 7);
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
    assert!(refused(&agent, "reload").contains("waits for its confirmation"));
    wait::until("the config before", PATIENCE, || burst(&agent) == 5).unwrap();
    assert!(prefixes(&agent, "block").is_empty());
    assert_eq!(exit_code(&agent), Some(3), "the file says something else");
    // Its record must not give way to that of another change.
    for other in ["mode observe", "block add 192.0.2.9"] {
        let why = refused(&agent, &format!("{other} --confirm-within 1m"));
        assert!(why.contains("was not confirmed"), "{why}");
    }
    // Either way out.
    done(&agent, "reload --confirm-within 1m");
    done(&agent, "confirm");
    assert_eq!((burst(&agent), exit_code(&agent)), (7, Some(0)));
}

#[test]
fn c_51_an_agent_that_dies_meanwhile_starts_with_the_former_config() {
    let pair = Pair::new().unwrap();
    let state = tempfile::tempdir().unwrap();
    let (old, new) = (
        "[syn]\nburst = 5\n[lists]\nblock = [\"192.0.2.1\"]",
        "[syn]\nburst = 7",
    );
    let mut agent = Agent::start_in(state.path(), &pair.server, old).unwrap();
    // The mode of the moment is not the file's, which is as it was when nobody confirmed.
    done(&agent, "mode observe");
    agent.write_config(new).unwrap();
    done(&agent, "reload --confirm-within 5m");
    assert_eq!(burst(&agent), 7);
    for _ in 0..2 {
        // The file says still what was not confirmed.
        agent.kill().unwrap();
        agent.restart(&pair.server).unwrap();
        assert_eq!(burst(&agent), 5);
        assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
        assert_eq!(exit_code(&agent), Some(3));
    }
    // By a reload it comes into force, and so it does by a start after that.
    done(&agent, "reload");
    assert_eq!((burst(&agent), exit_code(&agent)), (7, Some(0)));
    agent.kill().unwrap();
    agent.restart(&pair.server).unwrap();
    assert_eq!((burst(&agent), exit_code(&agent)), (7, Some(0)));
    assert!(prefixes(&agent, "block").is_empty());
}

#[test]
fn c_51_an_agent_that_dies_meanwhile_starts_with_the_former_list_and_mode() {
    let pair = Pair::new().unwrap();
    let mut agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "block add 192.0.2.1 --reason before");
    done(&agent, "block del 192.0.2.1 --confirm-within 5m");
    assert!(prefixes(&agent, "block").is_empty());
    agent.kill().unwrap();
    agent.restart(&pair.server).unwrap();
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
    assert!(agent.status().unwrap().pending.is_none());
    done(&agent, "mode observe");
    done(&agent, "mode enforce --confirm-within 5m");
    agent.kill().unwrap();
    agent.restart(&pair.server).unwrap();
    assert_eq!(agent.status().unwrap().mode, Mode::Observe);
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
}

#[test]
fn c_51_without_an_agent_the_data_path_itself_goes_back() {
    let scene = Scene::new();
    let _server = Server::start(&scene.server.ns, scene.server.at(4, PORT)).unwrap();
    let agent = scene.protect("");
    let client = scene.client.v4;
    // An agent that is stopped does no more than one that is dead; its programs stay where they are.
    done(&agent, &format!("block add {client} --confirm-within 3s"));
    agent.signal(Signal::SIGSTOP).unwrap();
    assert!(!gets_through(&scene.client, &scene.server));
    wait::until("the entry to end in the kernel", PATIENCE, || {
        gets_through(&scene.client, &scene.server)
    })
    .unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    wait::until("the agent to follow", PATIENCE, || {
        prefixes(&agent, "block").is_empty() && agent.status().unwrap().pending.is_none()
    })
    .unwrap();

    let config = format!("[lists]\nblock = [\"{client} a slip\"]");
    agent.write_config(&config).unwrap();
    done(&agent, "reload --confirm-within 3s");
    agent.signal(Signal::SIGSTOP).unwrap();
    assert!(!gets_through(&scene.client, &scene.server));
    wait::until("the data path to observe only", PATIENCE, || {
        gets_through(&scene.client, &scene.server)
    })
    .unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    wait::until("the config before", PATIENCE, || {
        prefixes(&agent, "block").is_empty()
    })
    .unwrap();
    wait::until("the former state", PATIENCE, || {
        agent.status().unwrap().pending.is_none()
    })
    .unwrap();
    // And it enforces again.
    done(&agent, &format!("block add {client}"));
    assert!(!gets_through(&scene.client, &scene.server));
    assert!(agent.packets(Reason::Blocked).unwrap() > 0);
}

#[test]
fn a_change_that_could_not_go_back_is_not_made() {
    let pair = Pair::new().unwrap();
    let state = tempfile::tempdir().unwrap();
    let gone = state.path().join("gone");
    std::fs::create_dir(&gone).unwrap();
    let agent = Agent::start_in(&gone, &pair.server, "").unwrap();
    std::fs::remove_dir_all(&gone).unwrap();
    for command in [
        "mode observe --confirm-within 1m",
        "block add 192.0.2.1 --confirm-within 1m",
    ] {
        let said = refused(&agent, command);
        assert!(said.contains("is not made"), "{command}: {said}");
        assert!(agent.status().unwrap().pending.is_none(), "{command}");
    }
    assert_eq!(agent.status().unwrap().mode, Mode::Enforce);
    assert!(prefixes(&agent, "block").is_empty());
}
