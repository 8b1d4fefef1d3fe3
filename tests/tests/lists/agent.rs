//! Block and allow lists with the real agent: a client is blocked and let in again, entries end, and what would lock
//! the operator out is refused.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::Duration,
};

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    lists::{done, found, names, page, prefixes, refused},
    scene::{PATIENCE, PORT, Scene, assert_sound, await_count, dial, listener, talk},
    topology::{Host, Pair},
    wait,
};
use net_user::control::lists::ListVerdict;
use nix::sys::signal::{Signal, kill};

/// Whether a new connection gets through at once.
fn connects(from: &Host, to: &Host, family: u8) -> bool {
    let to = to.at(family, PORT);
    from.ns
        .run(|| TcpStream::connect_timeout(&to, Duration::from_millis(300)))
        .is_ok()
}

/// Nothing arrives although it was sent.
fn is_silent(from: &mut TcpStream, to: &mut TcpStream) {
    from.write_all(b"held").unwrap();
    to.set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let error = to.read(&mut [0; 4]).unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    to.set_read_timeout(Some(PATIENCE)).unwrap();
}

/// What was held back arrives by retransmission.
fn resumes(to: &mut TcpStream) {
    let mut held = [0; 4];
    to.read_exact(&mut held).unwrap();
    assert_eq!(&held, b"held");
}

fn a_client_is_blocked_and_let_in_again(family: u8) {
    let scene = Scene::new();
    let listener = scene.listen(family);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    let client = scene.client.ip(family);

    let (mut out, mut in_) = scene.connect(&listener, family);
    talk(&mut out, &mut in_);
    let said = done(&agent, &format!("block add {client} --reason noisy"));
    assert!(said.contains("added to block list manual"), "{said}");
    is_silent(&mut out, &mut in_);
    assert!(!connects(&scene.client, &scene.server, family));
    assert!(
        connects(&scene.attacker, &scene.server, family),
        "others are not concerned"
    );
    await_count(&agent, Reason::Blocked, 2);
    // The hits are counted within a second or so, and the reason is told.
    wait::until("hits to be counted", PATIENCE, || {
        page(&agent, "block", "").entries[0].hits >= 2
    })
    .unwrap();
    assert_eq!(page(&agent, "block", "").entries[0].reason, "noisy");
    assert_eq!(
        found(&agent, &client.to_string()).verdict,
        ListVerdict::Blocked
    );

    let said = done(&agent, &format!("block add {client} --reason noisy"));
    assert!(said.contains("already there"), "{said}");
    let said = done(&agent, &format!("block add {client} --reason still"));
    assert!(said.contains("updated"), "{said}");

    let said = done(&agent, &format!("block del {client}"));
    assert!(said.contains("deleted from"), "{said}");
    resumes(&mut in_);
    talk(&mut out, &mut in_);
    assert!(connects(&scene.client, &scene.server, family));
    assert_eq!(page(&agent, "block", "").entries, []);

    // It is told, and changes nothing, unless scripts want it otherwise.
    let said = refused(&agent, &format!("block del {client}"));
    assert!(said.contains("is not on the block list `manual`"), "{said}");
    done(&agent, &format!("block del {client} --ignore-missing"));

    // Allow over block, whatever the lengths and the order.
    let wide = if family == 4 {
        "198.18.0.0/25"
    } else {
        "2001:2::/64"
    };
    done(&agent, &format!("block add {wide} --force"));
    is_silent(&mut out, &mut in_);
    done(&agent, &format!("allow add {client} --list office"));
    resumes(&mut in_);
    talk(&mut out, &mut in_);
    assert!(!connects(&scene.attacker, &scene.server, family));
    let told = found(&agent, &client.to_string());
    assert_eq!(told.verdict, ListVerdict::Allowed);
    let shown: Vec<_> = told.entries.iter().map(|e| e.prefix.as_str()).collect();
    assert_eq!(shown, [client.to_string().as_str(), wide]);
    // The server's own address lies in there too.
    await_locked_out(&agent, &[&scene.server.ip(family).to_string()]);
    done(&agent, &format!("block del {wide}"));
    await_locked_out(&agent, &[]);
    assert_sound(&agent);
}

/// Waits until `status` tells of exactly one problem with all these words; of none if there are no words.
fn await_locked_out(agent: &Agent, parts: &[&str]) {
    wait::until("who is locked out to be told", PATIENCE, || {
        agent
            .status()
            .is_ok_and(|status| match status.problems.as_slice() {
                [] => parts.is_empty(),
                [problem] => !parts.is_empty() && parts.iter().all(|part| problem.contains(part)),
                _ => false,
            })
    })
    .unwrap();
}

#[test]
fn a_gateway_that_moves_into_a_blocked_range_is_told_until_it_is_over() {
    let scene = Scene::new();
    let (server, gateway) = (&scene.server, scene.attacker.v4);
    let agent = scene.protect("");
    done(&agent, &format!("block add {gateway}"));
    await_locked_out(&agent, &[]);
    server
        .ns
        .ip(&format!("route add default via {gateway} dev eth0"))
        .unwrap();
    let parts = [
        &gateway.to_string(),
        "the default gateway",
        "list manual",
        "allow add",
    ];
    await_locked_out(&agent, &parts);
    let status = agent.netmoat(&["status"]).unwrap();
    assert_eq!(status.status.code(), Some(3));
    let events = done(&agent, "events");
    assert_eq!(events.matches("locked_out").count(), 1, "{events}");
    done(&agent, &format!("allow add {gateway}"));
    await_locked_out(&agent, &[]);
    done(&agent, &format!("allow del {gateway} --force"));
    await_locked_out(&agent, &["the default gateway"]);
    server.ns.ip("route del default").unwrap();
    await_locked_out(&agent, &[]);
}

#[test]
fn an_ipv4_client_with_an_open_connection_is_blocked_and_let_in_again() {
    a_client_is_blocked_and_let_in_again(4);
}

#[test]
fn an_ipv6_client_with_an_open_connection_is_blocked_and_let_in_again() {
    a_client_is_blocked_and_let_in_again(6);
}

#[test]
fn entries_end_by_the_kernels_clock_while_the_agent_stands_still() {
    let scene = Scene::new();
    let _listener = scene.listen(4);
    let agent = scene.protect("");
    agent.await_listener(PORT, true).unwrap();
    done(&agent, &format!("block add {} --for 2s", scene.client.v4));
    kill(agent.pid(), Signal::SIGSTOP).unwrap();
    assert!(
        !connects(&scene.client, &scene.server, 4),
        "the data path goes on"
    );
    wait::until("the entry to be over", PATIENCE, || {
        connects(&scene.client, &scene.server, 4)
    })
    .unwrap();
    kill(agent.pid(), Signal::SIGCONT).unwrap();
    assert_eq!(
        page(&agent, "block", "").entries,
        [],
        "what is over is not shown"
    );
    wait::until("the entry to be taken out", PATIENCE, || {
        agent.status().is_ok_and(|status| status.lists.blocked == 0)
    })
    .unwrap();
}

#[test]
fn a_change_of_several_entries_is_made_as_a_whole_or_not_at_all() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "block add 192.0.2.1 2001:db8::/32 192.0.2.1");
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1", "2001:db8::/32"]);
    let own = pair.server.v4;
    refused(&agent, &format!("block add 192.0.2.2 {own}"));
    refused(&agent, "block del 192.0.2.1 192.0.2.9");
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1", "2001:db8::/32"]);
    // An entry is of the list that it was added to.
    done(&agent, "block add 192.0.2.1 --list feed");
    let said = refused(&agent, "block del 192.0.2.1 --list other");
    assert!(said.contains("feed") && said.contains("manual"), "{said}");
    let said = refused(&agent, "block add 192.0.2.3 --list config");
    assert!(said.contains("config"), "{said}");
    done(&agent, "block del 192.0.2.1 --list feed");
    assert_eq!(found(&agent, "192.0.2.1").verdict, ListVerdict::Blocked);
    let said = done(&agent, "block list --names");
    assert!(said.contains("manual"), "{said}");
    assert_eq!(names(&agent, "block").lists.len(), 1);
}

#[test]
fn c_51_what_would_lock_the_operator_out_is_refused_unless_forced() {
    let scene = Scene::new();
    let (server, gateway, operator) = (&scene.server, &scene.attacker, &scene.client);
    server
        .ns
        .ip(&format!("route add default via {} dev eth0", gateway.v4))
        .unwrap();
    server
        .ns
        .ip(&format!("-6 route add default via {} dev eth0", gateway.v6))
        .or_else(|_| {
            server
                .ns
                .ip(&format!("route add ::/0 via {} dev eth0", gateway.v6))
        })
        .unwrap();
    let agent = scene.protect("");
    // An operator by SSH.
    let sshd = server.ns.run(|| listener(server.at(4, 22), 8, false));
    let _session = dial(operator, server.at(4, 22));
    let _accepted = net_tests::scene::accept(&sshd);
    let (own, gateway4, gateway6, peer) = (server.v4, gateway.v4, gateway.v6, operator.v4);
    wait::until("the gateways to be known", PATIENCE, || {
        let said = agent
            .netmoat(&["block", "add", &gateway4.to_string()])
            .unwrap();
        !said.status.success() || {
            done(&agent, &format!("block del {gateway4}"));
            false
        }
    })
    .unwrap();
    for (what, parts) in [
        ("0.0.0.0/0".to_owned(), ["much of IPv4", "0.0.0.0/0"]),
        ("::/0".to_owned(), ["much of IPv6", "::/0"]),
        ("16.0.0.0/7".to_owned(), ["much of IPv4", "/8"]),
        ("2c00::/15".to_owned(), ["much of IPv6", "/16"]),
        (own.to_string(), ["an address of this host", "198.18.0.1"]),
        (gateway4.to_string(), ["the default gateway", "198.18.0.3"]),
        (gateway6.to_string(), ["the default gateway", "2001:2::3"]),
        (peer.to_string(), ["connected by SSH", "198.18.0.2"]),
        ("198.18.0.2/31".to_owned(), ["198.18.0.2/31", "--force"]),
        ("2001:2::/64".to_owned(), ["2001:2::/64", "--force"]),
    ] {
        let said = refused(&agent, &format!("block add 192.0.2.1 {what}"));
        for part in parts {
            assert!(said.contains(part), "{what}: no {part} in {said}");
        }
        assert!(said.contains("--force"), "{said}");
        let line = format!("192.0.2.1\n{what}\n");
        let output = agent
            .netmoat_with(&["block", "import", "-"], &line, &[])
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert_eq!(prefixes(&agent, "block"), Vec::<String>::new());
    }
    // What the shell knows counts too: a peer behind a jump host, for instance.
    let from = [("SSH_CONNECTION", "192.0.2.77 50000 198.18.0.1 2222")];
    let add = |force: &[&str]| {
        let words = [&["block", "add", "192.0.2.0/24"], force].concat();
        agent.netmoat_with(&words, "", &from).unwrap()
    };
    let output = add(&[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("192.0.2.77"), "{said}");
    assert!(add(&["--force"]).status.success());
    done(&agent, "block del 192.0.2.0/24");

    // Who is allowed is not locked out; and then stays allowed.
    done(&agent, &format!("allow add {peer}"));
    done(&agent, &format!("block add {peer}"));
    let said = refused(&agent, &format!("allow del {peer}"));
    assert!(
        said.contains("would be locked out by the block entry"),
        "{said}"
    );
    let said = refused(&agent, &format!("allow add {peer} --for 1h"));
    assert!(said.contains("--force"), "{said}");
    let output = agent
        .netmoat_with(
            &["allow", "import", "-", "--list", "manual"],
            "192.0.2.9\n",
            &[],
        )
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    done(&agent, &format!("block del {peer}"));
    done(&agent, &format!("allow del {peer}"));

    // With force it is done, and what asks for the link-layer address goes on all the same.
    done(&agent, "block add 198.18.0.0/24 2001:2::/64 --force");
    for family in [4, 6] {
        let gateway = gateway.ip(family);
        server
            .ns
            .ip(&format!("neigh flush dev eth0 to {gateway}"))
            .or_else(|_| server.ns.ip("neigh flush all"))
            .unwrap();
        assert!(!connects(server, &scene.attacker, family));
        wait::until("the gateway to answer ARP or NDP", PATIENCE, || {
            let _ = connects(server, &scene.attacker, family);
            let shown = server
                .ns
                .succeed(std::process::Command::new("ip").args([
                    "neigh",
                    "show",
                    &gateway.to_string(),
                ]))
                .unwrap();
            shown.contains("lladdr") && !shown.contains("FAILED")
        })
        .unwrap();
    }
    let own = own.to_string();
    await_locked_out(&agent, &["the default gateway", &own, "more"]);
    done(&agent, "block del 198.18.0.0/24 2001:2::/64");
    await_locked_out(&agent, &[]);
    assert_sound(&agent);
}

#[test]
fn in_observe_mode_it_is_said_that_blocked_packets_pass() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    done(&agent, "mode observe");
    let said = done(&agent, "block add 192.0.2.1 --for 1h");
    assert!(said.contains("(observe mode: they pass)"), "{said}");
    let said = done(&agent, "block list 192.0.2.1");
    assert!(said.contains("blocked (observe mode: they pass)"), "{said}");
    assert!(found(&agent, "192.0.2.1").observe);
    done(&agent, "mode enforce");
    let said = done(&agent, "block add 192.0.2.1");
    assert!(
        said.contains("now for good") && !said.contains("observe"),
        "{said}"
    );
}

#[test]
fn a_list_is_deleted_as_a_whole_and_one_that_is_not_there_is_told() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let own = pair.server.v4;
    done(&agent, "block add 192.0.2.1 192.0.2.2 --list feed");
    done(&agent, "block add 192.0.2.1");
    for command in [
        "block list --list fed",
        "block list 192.0.2.1 --list fed",
        "block del --all --list fed",
    ] {
        let said = refused(&agent, command);
        assert!(
            said.contains("no block list `fed`; there are feed, manual"),
            "{said}"
        );
    }
    let said = done(&agent, "block del --all --list feed");
    assert!(
        said.contains("block list feed is deleted, with 2 entries"),
        "{said}"
    );
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
    done(&agent, "block del --all --list feed --ignore-missing");
    let usage = agent.netmoat(&["block", "del", "--all"]).unwrap();
    assert_eq!(usage.status.code(), Some(2), "the name is to be said");
    // Nobody loses the allow entry that he needs.
    done(&agent, &format!("allow add {own} --list office"));
    done(&agent, &format!("block add {own}"));
    let said = refused(&agent, "allow del --all --list office");
    assert!(said.contains("would be locked out"), "{said}");
    done(&agent, "allow del --all --list office --force");
    assert_eq!(prefixes(&agent, "allow"), Vec::<String>::new());
}

#[test]
fn lists_survive_a_restart_with_their_ends_and_what_is_damaged_is_told() {
    let pair = Pair::new().unwrap();
    let state = tempfile::tempdir().unwrap();
    let mut agent = Agent::start_in(state.path(), &pair.server, "").unwrap();
    let own = pair.server.v4;
    done(&agent, "block add 192.0.2.1 2001:db8::/32 --reason scan");
    done(&agent, "block add 192.0.2.2 --for 1h");
    done(&agent, "block add 192.0.2.3 --for 1s");
    done(&agent, "allow add 192.0.2.0/24 --list office");
    done(&agent, &format!("block add {own} --list forced --force"));
    let before = page(&agent, "block", "").entries;
    // Nothing needs an orderly end.
    agent.kill().unwrap();
    let mut agent = Agent::start_in(state.path(), &pair.server, "").unwrap();
    wait::until("192.0.2.3 to be over", PATIENCE, || {
        page(&agent, "block", "").entries.len() == 4
    })
    .unwrap();
    let after = page(&agent, "block", "").entries;
    for entry in &after {
        let old = before
            .iter()
            .find(|old| old.prefix == entry.prefix)
            .unwrap();
        assert_eq!((&old.name, &old.reason), (&entry.name, &entry.reason));
        let left = entry.left_s.map(|left| old.left_s.unwrap().abs_diff(left));
        assert!(left.is_none_or(|left| left < 60), "{old:?} {entry:?}");
        assert_eq!(old.left_s.is_some(), entry.left_s.is_some());
    }
    assert_eq!(prefixes(&agent, "allow"), ["192.0.2.0/24"]);
    // A list without entries leaves no file; one that is damaged is put aside and told.
    done(&agent, "allow del 192.0.2.0/24 --list office");
    assert!(!state.path().join("lists/allow/office.list").exists());
    assert!(agent.terminate().unwrap().success());
    let file = state.path().join("lists/block/manual.list");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("192.0.2.1", "192.0.2.x")).unwrap();
    let agent = Agent::start_in(state.path(), &pair.server, "").unwrap();
    let status = agent.status().unwrap();
    let told = status
        .problems
        .iter()
        .any(|p| p.contains("manual.list is damaged"));
    assert!(told, "{:?}", status.problems);
    assert!(
        state
            .path()
            .join("lists/block/manual.list.damaged")
            .exists()
    );
    // The lines that are in order are listed, and outlive this agent.
    let kept = ["192.0.2.2", &own.to_string(), "2001:db8::/32"].map(str::to_owned);
    assert_eq!(prefixes(&agent, "block"), kept);
    let saved = fs::read_to_string(&file).unwrap();
    assert!(
        saved.contains("192.0.2.2 @") && !saved.contains("192.0.2.x"),
        "{saved}"
    );
}

#[test]
fn the_config_has_lists_of_its_own_and_is_refused_where_they_would_lock_out() {
    let pair = Pair::new().unwrap();
    let lists = "[lists]\nallow = [\"192.0.2.7 the office\"]\nblock = [\"192.0.2.0/24 scans\", \"2001:db8::/32\"]";
    let agent = Agent::start(&pair.server, lists).unwrap();
    let entry = &page(&agent, "block", "").entries[0];
    assert_eq!(
        (entry.name.as_str(), entry.reason.as_str()),
        ("config", "scans")
    );
    assert_eq!(found(&agent, "192.0.2.7").verdict, ListVerdict::Allowed);
    assert_eq!(found(&agent, "192.0.2.8").verdict, ListVerdict::Blocked);
    let said = refused(&agent, "block del 192.0.2.0/24 --list config");
    assert!(said.contains("[lists] in the config"), "{said}");
    drop(agent);
    let own = pair.server.v4;
    for (lists, part) in [
        (
            format!("block = [\"{own}/30\"]").replace(&own.to_string(), "198.18.0.0"),
            "an address of this host",
        ),
        ("block = [\"0.0.0.0/0\"]".to_owned(), "much of IPv4"),
    ] {
        let config = format!("[lists]\n{lists}");
        let refusing = Agent::launch(&pair.server.ns, &["eth0"], &config).unwrap();
        let checked = pair
            .server
            .ns
            .run(|| refusing.netmoat(&["check", "-c", refusing.config().to_str().unwrap()]))
            .unwrap();
        assert_eq!(checked.status.code(), Some(1));
        let (code, log) = refusing.refusal().unwrap();
        assert_eq!(code, 1, "{log}");
        for said in [&log, &String::from_utf8_lossy(&checked.stdout).into_owned()] {
            assert!(
                said.contains(part) && said.contains("name who must get through in `allow`"),
                "{said}"
            );
        }
    }
    let allowed = format!("[lists]\nallow = [\"{own}\"]\nblock = [\"198.18.0.0/30\"]");
    Agent::start(&pair.server, &allowed).unwrap();
}

#[test]
fn a_change_that_cannot_be_saved_is_made_and_is_an_error() {
    let pair = Pair::new().unwrap();
    let state = tempfile::tempdir().unwrap();
    fs::set_permissions(state.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let agent = Agent::start_in(state.path(), &pair.server, "").unwrap();
    let output = agent.netmoat(&["block", "add", "192.0.2.1"]).unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("added to") && said.contains("another as `state_dir`"),
        "{said}"
    );
    assert_eq!(prefixes(&agent, "block"), ["192.0.2.1"]);
}
