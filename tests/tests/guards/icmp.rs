//! ICMP at rates (R-ICMP-1, R-ICMP-4 to R-ICMP-7): floods of pings, with pings, path MTU discovery, traceroute and mtr
//! beside them; requests to all, deprecated types, timestamps. C-42, C-43, C-45.

use std::time::Instant;

use net_common::verdict::Reason;
use net_tests::{
    guards::{
        Pings, Route, Wire, beside, counted, default_route, echo_request, ping, stranger, tool,
    },
    neighbors::report::observed,
    scene::{PATIENCE, Scene, assert_sound, await_count, say},
    topology::Host,
    wait,
};

/// What one host may ask for, few enough for a slow machine's flood to be more.
const FEW: &str = "[icmp]\necho_request = { host = \"20/s burst 40\" }";
/// The same for all unseen sources together.
const FEW_UNSEEN: &str = "[icmp]\necho_request = { pool = \"50/s\" }";

/// Waits until the server's kernel has counted so many.
fn await_counted(server: &Host, name: &str, at_least: u64) {
    let what = format!("{at_least} of {name}");
    wait::until(&what, PATIENCE, || counted(server, name) >= at_least).unwrap();
}

/// Echo requests that the server's kernel has received.
fn received(server: &Host, family: u8) -> u64 {
    counted(
        server,
        if family == 4 {
            "IcmpInEchos"
        } else {
            "Icmp6InEchos"
        },
    )
}

/// A ping every 100 ms, all answered; enough that a source that was unseen becomes known.
fn ping_in_peace(from: &Host, to: &Host, family: u8) {
    let to = to.ip(family).to_string();
    let pings = ping(from, &["-c", "25", "-i", "0.1", &to]);
    assert_eq!(pings.received, pings.sent, "IPv{family}");
}

#[test]
fn c_42_a_ping_flood_gets_its_hosts_share_while_another_host_is_answered_r_icmp_4() {
    let scene = Scene::new();
    for family in [4, 6] {
        let to = scene.server.ip(family).to_string();
        let flood = || ping(&scene.attacker, &["-f", "-c", "2000", "-w", "4", &to]);
        let before = flood();
        assert!(before.received > 1000, "without netmoat: {before:?}");

        let agent = scene.protect(FEW);
        let start = Instant::now();
        let (flood, ()) = std::thread::scope(|scope| {
            let flood = scope.spawn(flood);
            ping_in_peace(&scene.client, &scene.server, family);
            (flood.join().unwrap(), ())
        });
        let seconds = start.elapsed().as_secs() as u32 + 1;
        // Burst 40 conforms 41 times from rest, and a source that becomes known begins anew.
        let most = 2 * 41 + 20 * seconds;
        assert!(flood.received <= most, "{flood:?}, at most {most}");
        let dropped = agent.packets(Reason::EchoRequestLimit).unwrap();
        assert!(dropped >= u64::from(flood.sent - most), "{dropped} dropped");
        assert!(agent.packets(Reason::LimitHost).unwrap() >= dropped);
        assert_sound(&agent);
    }
}

#[test]
fn c_42_hping3_from_one_host_is_limited_and_path_mtu_discovery_completes_r_icmp_1() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let agent = scene.protect(FEW);
    let to = scene.server.v4.to_string();
    let flood = [
        "hping3",
        "--icmp",
        "--interval",
        "u100",
        "--count",
        "10000",
        "--quiet",
        &to,
    ];
    for family in [4, 6] {
        let (mut here, mut there) = route.connect(&scene.server, family);
        say(&mut here, &mut there, &[1; 1 << 15]);
        let before = agent.packets(Reason::EchoRequestLimit).unwrap();
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| tool(&scene.attacker, &flood));
            await_count(&agent, Reason::EchoRequestLimit, before + 500);
            route.narrow(1400 - u32::from(family));
            say(&mut here, &mut there, &[2; 1 << 15]);
            flood.join().unwrap();
        });
        assert_eq!(
            route.path_mtu(&scene.server, family),
            Some(1400 - u32::from(family))
        );
    }
    assert_eq!(agent.packets(Reason::PathMtuLimit).unwrap(), 0);
    assert_sound(&agent);
}

#[test]
fn a_flood_from_random_sources_spends_the_pool_and_no_known_source_notices_r_icmp_7() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let server = scene.server.ip(family);
        let flood = |n| wire.send(&echo_request(stranger(family, n), server));
        let before = received(&scene.server, family);
        (0..1000).for_each(flood);
        wait::until("a flood without netmoat", PATIENCE, || {
            received(&scene.server, family) >= before + 950
        })
        .unwrap();

        let agent = scene.protect(FEW_UNSEEN);
        // Known from before.
        ping_in_peace(&scene.client, &scene.server, family);
        let (mut here, mut there) = route.connect(&scene.server, family);
        say(&mut here, &mut there, &[1; 1 << 15]);
        let before = received(&scene.server, family);
        let start = Instant::now();
        let ((), sent) = beside(3000, flood, || {
            await_count(&agent, Reason::EchoRequestLimit, 500);
            ping_in_peace(&scene.client, &scene.server, family);
            route.narrow(1400 - u32::from(family));
            say(&mut here, &mut there, &[2; 1 << 15]);
        });
        assert_eq!(
            route.path_mtu(&scene.server, family),
            Some(1400 - u32::from(family))
        );
        let reached = received(&scene.server, family) - before;
        let most = 25 + 51 + 50 * (start.elapsed().as_secs() + 1);
        assert!(reached <= most, "{reached} of {sent}, at most {most}");
        assert!(agent.packets(Reason::LimitPool).unwrap() >= u64::from(sent) / 2);
        assert_sound(&agent);
        drop(agent);
        route.narrow(1500);
    }
}

#[test]
fn hping3_from_random_sources_is_limited_while_a_known_host_is_answered_r_icmp_7() {
    let scene = Scene::new();
    default_route(&scene.server, &scene.attacker);
    let agent = scene.protect(FEW_UNSEEN);
    ping_in_peace(&scene.client, &scene.server, 4);
    let to = scene.server.v4.to_string();
    let flood = [
        "hping3",
        "--icmp",
        "--rand-source",
        "--interval",
        "u50",
        "--count",
        "10000",
        "--quiet",
        &to,
    ];
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| tool(&scene.attacker, &flood));
        await_count(&agent, Reason::EchoRequestLimit, 500);
        ping_in_peace(&scene.client, &scene.server, 4);
        flood.join().unwrap();
    });
    // Some of them are multicast, loopback or 0.0.0.0.
    assert!(agent.packets(Reason::SourceMartian).unwrap() > 0);
    assert_sound(&agent);
}

/// That each hop is in what a tool printed.
#[track_caller]
fn assert_hops(what: &str, printed: &str, hops: &[String]) {
    for hop in hops {
        let found = printed
            .split(|c: char| c.is_whitespace() || c == '"')
            .any(|word| word == hop);
        assert!(found, "{what}: no {hop} in\n{printed}");
    }
}

/// Runs traceroute in all its ways, and mtr.
fn trace(from: &Host, family: u8, to: &Host, hops: &[String]) {
    let (version, target) = (format!("-{family}"), to.ip(family).to_string());
    for kind in ["-U", "-I", "-T"] {
        let words = [
            "traceroute",
            &version,
            "-n",
            kind,
            "-w",
            "5,0,0",
            "-m",
            "6",
            &target,
        ];
        // The default, UDP to high ports, has no letter.
        let words: Vec<_> = words.into_iter().filter(|word| *word != "-U").collect();
        assert_hops(kind, &tool(from, &words), hops);
    }
    let mtr = [
        "mtr", &version, "-n", "-r", "-c", "3", "-i", "0.2", "-G", "1", "-m", "6", &target,
    ];
    assert_hops("mtr", &tool(from, &mtr), hops);
}

#[test]
fn traceroute_and_mtr_complete_both_ways_also_beside_a_flood_r_icmp_6() {
    let scene = Scene::new();
    let route = Route::new(&scene);
    let agent = scene.protect(FEW_UNSEEN);
    let wire = Wire::new(&scene.attacker, &scene.server);
    for family in [4, 6] {
        let out = route.hops(family);
        let back = [
            if family == 4 {
                "198.18.2.1"
            } else {
                "2001:2:0:2::1"
            }
            .to_owned(),
            if family == 4 {
                "198.18.1.1"
            } else {
                "2001:2:0:1::1"
            }
            .to_owned(),
            scene.server.ip(family).to_string(),
        ];
        trace(&scene.server, family, &route.far, &out);
        // Who asks from outside is known by what it asked for in peace.
        ping_in_peace(&route.far, &scene.server, family);
        trace(&route.far, family, &scene.server, &back);
        let before = agent.packets(Reason::EchoRequestLimit).unwrap();
        let flood = |n| wire.send(&echo_request(stranger(family, n), scene.server.ip(family)));
        beside(2000, flood, || {
            await_count(&agent, Reason::EchoRequestLimit, before + 200);
            trace(&scene.server, family, &route.far, &out);
            trace(&route.far, family, &scene.server, &back);
        });
    }
    for reason in [Reason::TimeExceededLimit, Reason::UnreachableLimit] {
        assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
    }
    assert_sound(&agent);
}

#[test]
fn c_43_a_ping_to_the_broadcast_address_gets_no_answer_r_icmp_4() {
    let scene = Scene::new();
    for host in [&scene.server, &scene.client] {
        host.ns
            .sysctl("net.ipv4.icmp_echo_ignore_broadcasts", "0")
            .unwrap();
    }
    let smurf = || {
        let before = counted(&scene.server, "IcmpOutEchoReps");
        let words = ["-b", "-c", "5", "-i", "0.05", "-w", "3", "198.18.0.255"];
        let pings = ping(&scene.attacker, &words);
        assert_eq!(pings.sent, pings.received, "the client answers");
        counted(&scene.server, "IcmpOutEchoReps") - before
    };
    assert!(smurf() > 0, "without netmoat");
    let agent = scene.protect("");
    assert_eq!(smurf(), 0);
    assert!(agent.packets(Reason::IcmpBroadcast).unwrap() >= 5);
    assert_sound(&agent);
    drop(agent);
    assert!(smurf() > 0, "lifted again");
}

/// nping with one type of ICMP, five times.
fn nping(scene: &Scene, kind: u8) {
    let (kind, to) = (kind.to_string(), scene.server.v4.to_string());
    let words = [
        "nping",
        "--icmp",
        "--icmp-type",
        &kind,
        "-c",
        "5",
        "--delay",
        "10ms",
        "-N",
        &to,
    ];
    let printed = tool(&scene.attacker, &words);
    assert!(printed.contains("SENT"), "{printed}");
}

#[test]
fn c_45_deprecated_types_and_redirects_are_dropped_and_timestamps_limited_r_icmp_5() {
    let scene = Scene::new();
    for name in ["all", "eth0"] {
        let name = format!("net.ipv4.conf.{name}.accept_redirects");
        scene.server.ns.sysctl(&name, "0").unwrap();
    }
    // Without netmoat.
    let before = counted(&scene.server, "IcmpInMsgs");
    nping(&scene, 15);
    await_counted(&scene.server, "IcmpInMsgs", before + 5);
    nping(&scene, 13);
    // Linux counts what it sends as echo replies.
    await_counted(&scene.attacker, "IcmpInTimestampReps", 5);

    let agent = scene.protect("[icmp]\ninformational = { host = \"1/h burst 1\" }");
    let before = counted(&scene.server, "IcmpInMsgs");
    let answered = counted(&scene.attacker, "IcmpInTimestampReps");
    let mut expected = 0;
    for kind in [4, 15, 16, 17, 18, 30, 37] {
        nping(&scene, kind);
        expected += 5;
        await_count(&agent, Reason::IcmpDeprecated, expected);
    }
    nping(&scene, 5);
    await_count(&agent, Reason::IcmpRedirect, 5);
    assert_eq!(counted(&scene.server, "IcmpInMsgs"), before);
    nping(&scene, 13);
    await_count(&agent, Reason::InformationalLimit, 3);
    let answered = counted(&scene.attacker, "IcmpInTimestampReps") - answered;
    assert!((1..=2).contains(&answered), "{answered} timestamps");
    assert_sound(&agent);
}

#[test]
fn modes_observe_and_off_let_a_flood_pass_and_count_it_or_not() {
    let scene = Scene::new();
    let to = scene.server.v4.to_string();
    let flood = || {
        let pings = ping(&scene.attacker, &["-f", "-c", "500", "-w", "5", &to]);
        // A busy machine may lose one.
        assert!(pings.received >= 480, "{pings:?}");
    };
    let limited = |mode: &str| {
        format!("[icmp]\nmode = \"{mode}\"\necho_request = {{ host = \"1/h burst 1\" }}")
    };
    let agent = scene.protect(&limited("observe"));
    flood();
    assert!(observed(&agent, Reason::EchoRequestLimit) >= 450);
    assert_eq!(agent.packets(Reason::EchoRequestLimit).unwrap(), 0);
    assert_sound(&agent);
    drop(agent);

    let agent = scene.protect(&limited("off"));
    flood();
    assert_eq!(observed(&agent, Reason::EchoRequestLimit), 0);
    for reason in [Reason::EchoRequestLimit, Reason::IcmpPass] {
        assert_eq!(agent.packets(reason).unwrap(), 0);
    }
    drop(agent);

    // All guards at once, at run time.
    let agent = scene.protect(&limited("enforce"));
    let Pings { received, .. } = ping(&scene.attacker, &["-c", "10", "-i", "0.05", "-w", "2", &to]);
    assert!(received <= 2, "{received} answers");
    let mode = |mode| assert!(agent.netmoat(&["mode", mode]).unwrap().status.success());
    mode("observe");
    let before = agent.packets(Reason::EchoRequestLimit).unwrap();
    flood();
    assert!(observed(&agent, Reason::EchoRequestLimit) >= 450);
    assert_eq!(agent.packets(Reason::EchoRequestLimit).unwrap(), before);
    mode("enforce");
    let pings = ping(&scene.attacker, &["-c", "10", "-i", "0.05", "-w", "2", &to]);
    assert_eq!(pings.received, 0);
    await_count(&agent, Reason::EchoRequestLimit, before + 5);
}
