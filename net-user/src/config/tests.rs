use std::os::unix::fs::PermissionsExt as _;

use super::*;

const SAMPLE: &str = include_str!("../../../contrib/netmoat.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("netmoat.toml"), text, &Overrides::default()).map_err(|e| e.to_string())
}

#[test]
fn an_empty_config_with_an_interface_gets_the_defaults() {
    let config = parse("interfaces = [\"eth0\"]").unwrap();
    assert_eq!(interface::list(&config.interfaces), "eth0");
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.xdp_mode, XdpMode::Auto);
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.syn.default.mode, SynMode::Auto);
    assert_eq!(config.syn.default.budget.to_string(), "100/s");
    assert_eq!(config.syn.default.burst, 128);
    assert_eq!(config.syn.key_rotation, Duration::from_secs(3600));
    assert!(config.syn.overrides.is_empty());
    assert_eq!(config.neighbors, NeighborPolicy::default());
    assert!(!config.neighbors.ra_guard());
    assert_eq!(config.guards, GuardPolicy::default());
    assert_eq!(config.guards.icmp.mode, GuardMode::Enforce);
    assert_eq!(config.state_dir, Path::new(DEFAULT_STATE_DIR));
}

#[test]
fn guards_and_neighbours_are_read() {
    let config = parse(
        "interfaces = [\"eth0\", \"eth1\"]\nstate_dir = \"/tmp/state\"\n\
         [arp]\nmode = \"enforce\"\nvalidate = [\"ip\", \"src-mac\"]\n\
         [ndp]\nmode = \"off\"\nrouters = [\"fe80::1\", \"fe80::2\"]\n\
         [neighbors]\ngateway = \"off\"\nlimit = \"7/s\"\nannounce_burst = 8\nshare = \"9/m\"\n\
         [[neighbor]]\naddress = \"192.0.2.1\"\n\
         macs = [\"02:00:00:00:00:01\", \"03:bf:c0:00:02:01\"]\ninterface = \"eth1\"\nvlan = 100\n\
         [[neighbor]]\naddress = \"fe80::3\"\nmacs = [\"02:00:00:00:00:03\"]\nrouter = true\n",
    )
    .unwrap();
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    let policy = config.neighbors;
    let default = NeighborPolicy::default();
    let limit = |rate: &str, burst| RateLimit {
        rate: rate.parse().unwrap(),
        burst,
    };
    let expected = NeighborPolicy {
        arp: GuardMode::Enforce,
        ndp: GuardMode::Off,
        validate: ArpValidate {
            src_mac: true,
            dst_mac: false,
            ip: true,
        },
        routers: vec!["fe80::1".parse().unwrap(), "fe80::2".parse().unwrap()],
        learn_gateways: false,
        limit: limit("7/s", 200),
        announce_limit: limit("30/s", 8),
        share: limit("9/m", 100),
        bindings: vec![
            NeighborConfig {
                address: "192.0.2.1".parse().unwrap(),
                macs: vec![
                    Mac::new([2, 0, 0, 0, 0, 1]),
                    Mac::new([3, 0xbf, 0xc0, 0, 2, 1]),
                ],
                interface: Some("eth1".to_owned()),
                vlan: 100,
                router: false,
            },
            NeighborConfig {
                address: "fe80::3".parse().unwrap(),
                macs: vec![Mac::new([2, 0, 0, 0, 0, 3])],
                interface: None,
                vlan: 0,
                router: true,
            },
        ],
        ..default
    };
    assert_eq!(policy, expected);
}

#[test]
fn guards_of_ip_icmp_udp_and_tcp_are_read() {
    let config = parse(
        "interfaces = [\"eth0\"]\n\
         [ip]\nmode = \"observe\"\nreverse_path = \"strict\"\nfragments = { pool = \"off\" }\n\
         [icmp]\nmode = \"off\"\necho_request = { host = \"7/s\", pool = \"1k/s burst 5\" }\n\
         [icmp.redirect]\nsite = \"9/m\"\n\
         [udp]\nservers = [\"192.0.2.53\", \"2001:db8::53\"]\nresolv_conf = false\n\
         [tcp]\nnew_connections = \"50/s burst 200\"\nopen_connections = 400\nstray = { proven = \"3/h\" }\n",
    )
    .unwrap();
    let share = |text: &str| text.parse::<guards::Share>().unwrap().0;
    let default = GuardPolicy::default();
    let mut expected = default.clone();
    expected.ip.mode = GuardMode::Observe;
    expected.ip.reverse_path = guards::ReversePath::Strict;
    expected.ip.fragments.pool = None;
    expected.icmp.mode = GuardMode::Off;
    expected.icmp.echo_request.host = share("7/s");
    expected.icmp.echo_request.pool = share("1k/s burst 5");
    expected.icmp.redirect.site = share("9/m");
    expected.udp.servers = vec![
        "192.0.2.53".parse().unwrap(),
        "2001:db8::53".parse().unwrap(),
    ];
    expected.udp.resolv_conf = false;
    expected.tcp.new_connections = share("50/s burst 200");
    expected.tcp.open_connections = 400;
    expected.tcp.stray.proven = share("3/h");
    assert_eq!(config.guards, expected);
    assert_ne!(default, expected);
    let text = "interfaces = ['e']\n[icmp]\necho_request = 'off'\n[tcp]\nstray = \"off\"";
    let policy = parse(text).unwrap().guards;
    assert_eq!(policy.icmp.echo_request, guards::Shares::OFF);
    assert_eq!(policy.tcp.stray, guards::Shares::OFF);
    assert_eq!(policy.icmp.echo_reply, default.icmp.echo_reply);
}

#[test]
fn a_router_among_the_neighbours_turns_the_ra_guard_on() {
    let guarded = |text: &str| {
        let config = parse(&format!("interfaces = [\"eth0\"]\n{text}")).unwrap();
        config.neighbors.ra_guard()
    };
    let router = "[[neighbor]]\naddress = \"fe80::1\"\nmacs = [\"02:00:00:00:00:01\"]\nrouter = ";
    assert!(!guarded(&format!("{router}false")));
    assert!(guarded(&format!("{router}true")));
    assert!(guarded("[ndp]\nrouters = [\"fe80::1\"]"));
}

/// One address may be named once a place: an interface, or all of them, and a VLAN.
#[test]
fn a_neighbour_may_be_named_again_at_another_place() {
    let neighbor = |more: &str| {
        format!("[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\n{more}\n")
    };
    for (first, second, place) in [
        ("", "", Some("192.0.2.1 has")),
        ("vlan = 7", "", None),
        ("vlan = 7", "vlan = 7", Some("192.0.2.1 in VLAN 7 has")),
        ("interface = \"a\"", "interface = \"b\"", None),
        (
            "interface = \"a\"",
            "interface = \"a\"",
            Some("192.0.2.1 on a has"),
        ),
        ("interface = \"a\"", "", Some("192.0.2.1 on a has")),
        ("", "interface = \"b\"", Some("192.0.2.1 on b has")),
    ] {
        let text = format!(
            "interfaces = [\"a\", \"b\"]\n{}{}",
            neighbor(first),
            neighbor(second)
        );
        match (parse(&text), place) {
            (Ok(config), None) => assert_eq!(config.neighbors.bindings.len(), 2),
            (Err(error), Some(place)) => {
                assert!(error.contains(place), "{error}");
                assert!(
                    error.contains("already, on line 3; this is a second one, on line 7"),
                    "{error}"
                );
            }
            (result, _) => panic!("{first:?} {second:?}: {result:?}"),
        }
    }
}

#[test]
fn a_listener_takes_what_it_leaves_out_from_the_table_syn() {
    let config = parse(
        "interfaces = [\"eth0\"]\n\
         [syn]\nmode = \"off\"\nbudget = \"7/s\"\nexclude_ports = [8443, 8443]\n\
         [[listener]]\nport = 443\nmode = \"always\"\nburst = 5\n\
         [[listener]]\nport = 80\n",
    )
    .unwrap();
    let seven = "7/s".parse().unwrap();
    let off = ListenerPolicy {
        mode: SynMode::Off,
        budget: seven,
        burst: 128,
    };
    assert_eq!(
        *config.syn.for_port(443),
        ListenerPolicy {
            mode: SynMode::Always,
            budget: seven,
            burst: 5
        }
    );
    assert_eq!(*config.syn.for_port(80), off);
    assert_eq!(*config.syn.for_port(8443), off);
    assert_eq!(*config.syn.for_port(22), off);
    assert_eq!(
        config.syn.overrides.keys().copied().collect::<Vec<_>>(),
        [80, 443, 8443]
    );
}

#[test]
fn the_command_line_wins_over_the_file() {
    let overrides = Overrides {
        interfaces: vec!["eth7".to_owned()],
        mode: Some(Mode::Observe),
        xdp_mode: Some(XdpMode::Generic),
        socket: Some(PathBuf::from("/tmp/other.sock")),
        instance: Some("edge".to_owned()),
    };
    let config = Config::parse(
        Path::new("f"),
        "interfaces = [\"eth0\", \"eth1\"]",
        &overrides,
    )
    .unwrap();
    assert_eq!(interface::list(&config.interfaces), "eth7");
    assert_eq!(config.mode, Mode::Observe);
    assert_eq!(config.xdp_mode, XdpMode::Generic);
    assert_eq!(config.socket, Path::new("/tmp/other.sock"));
    assert_eq!(config.instance, "edge");
}

#[test]
fn an_instance_has_paths_of_its_own_unless_they_are_named() {
    let config = parse("interfaces = [\"eth0\"]").unwrap();
    assert_eq!(config.instance, "default");
    assert_eq!(config.socket, Path::new("/run/netmoat/control.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/netmoat"));
    let config = parse("interfaces = [\"eth0\"]\ninstance = \"edge\"\non_exit = \"keep\"").unwrap();
    assert_eq!(config.on_exit, OnExit::Keep);
    assert_eq!(config.socket, Path::new("/run/netmoat/edge/control.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/netmoat/edge"));
    let named =
        "interfaces = [\"eth0\"]\ninstance = \"edge\"\nsocket = \"/tmp/s\"\nstate_dir = \"/tmp/d\"";
    let config = parse(named).unwrap();
    assert_eq!(
        (config.socket.as_path(), config.state_dir.as_path()),
        (Path::new("/tmp/s"), Path::new("/tmp/d"))
    );
    for name in ["", "Edge", "-a", "a.b", "a/b", "..", &"a".repeat(33)] {
        let error = parse(&format!("interfaces = [\"eth0\"]\ninstance = {name:?}")).unwrap_err();
        assert!(
            error.to_string().contains("is no name of an instance"),
            "{name}: {error}"
        );
    }
}

/// Config after a valid `interfaces` line, then what the error must contain: the place, and the words.
#[test]
fn errors_name_the_place_and_the_remedy() {
    for (text, place, words) in [
        (
            "intefaces = [\"eth0\"]",
            "2:1",
            &["unknown key `intefaces`", "did you mean `interfaces`?"][..],
        ),
        (
            "quux = 1",
            "2:1",
            &["unknown key `quux`", "the keys known here are"],
        ),
        (
            "[syn]\nbudgt = \"1/s\"",
            "3:1",
            &["unknown key `budgt`", "did you mean `budget`?"],
        ),
        (
            "[syn]\nkey_rotaton = \"1h\"",
            "3:1",
            &["did you mean `key_rotation`?"],
        ),
        (
            "[[listener]]\nport = 80\nbirst = 1",
            "4:1",
            &["unknown key `birst`", "did you mean `burst`?"],
        ),
        (
            "[[listener]]\nmode = \"off\"",
            "2:1",
            &["the key `port` is missing", "add `port"],
        ),
        (
            "[sny]",
            "2:2",
            &["unknown key `sny`", "did you mean `syn`?"],
        ),
        (
            "mode = \"enforced\"",
            "2:8",
            &["unknown mode `enforced`", "did you mean \"enforce\"?"],
        ),
        (
            "mode = \"yes\"",
            "2:8",
            &["write one of \"observe\", \"enforce\""],
        ),
        (
            "xdp_mode = \"skb\"",
            "2:12",
            &["unknown XDP mode `skb`", "\"generic\""],
        ),
        (
            "[syn]\nmode = \"alway\"",
            "3:8",
            &["did you mean \"always\"?"],
        ),
        (
            "[syn]\nbudget = \"100\"",
            "3:10",
            &["`100` is no rate", "\"500/s\""],
        ),
        (
            "[syn]\nbudget = 100",
            "3:10",
            &["`100` is no rate", "\"500/s\""],
        ),
        (
            "[syn]\nbudget = [1]",
            "3:10",
            &["invalid type", "a text in quotes"],
        ),
        ("[syn]\nbudget = \"0/s\"", "3:10", &["is zero"]),
        ("[syn]\nsyn_ack_limit = \"20M/s\"", "3:17", &["above 10M/s"]),
        (
            "[syn]\nburst = 0",
            "3:9",
            &["a burst of 0 is out of range", "from 1 to 1000000"],
        ),
        (
            "[syn]\nsyn_ack_burst = 1000001",
            "3:17",
            &["a burst of 1000001 is out of range"],
        ),
        ("[syn]\nburst = \"5\"", "3:9", &["invalid type"]),
        (
            "[neighbor]\naddress = \"192.0.2.1\"",
            "2:1",
            &["several `[neighbor]`", "write `[[neighbor]]`"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = \"02:00:00:00:00:01\"",
            "4:8",
            &["a list is expected here", "put it in brackets"],
        ),
        (
            "neighbor = { address = \"192.0.2.1\" }",
            "2:12",
            &["a list is expected here", "put it in brackets"],
        ),
        (
            "[syn]\nkey_rotation = \"2m59s\"",
            "3:16",
            &["before its last cookies", "at least \"3m\""],
        ),
        (
            "[syn]\nkey_rotation = \"1 h\"",
            "3:16",
            &["`1 h` is no duration"],
        ),
        (
            "[syn]\nexclude_ports = [80, 0]",
            "3:22",
            &["0 is no TCP port", "from 1 to 65535"],
        ),
        (
            "[[listener]]\nport = 65536",
            "3:8",
            &["65536 is no TCP port"],
        ),
        ("[[listener]]\nport = -1", "3:8", &["-1 is no TCP port"]),
        (
            "[[listener]]\nport = 80\n[[listener]]\nport = 80",
            "5:8",
            &["port 80 has a [[listener]] already, on line 3; this is a second one, on line 5"],
        ),
        (
            "[syn]\nexclude_ports = [80]\n[[listener]]\nport = 80",
            "3:18",
            &["port 80 is excluded here and has a [[listener]] on line 5"],
        ),
        (
            "[neighbours]",
            "2:2",
            &["unknown key `neighbours`", "did you mean `neighbors`?"],
        ),
        (
            "[arp]\nmode = \"enforced\"",
            "3:8",
            &["unknown mode `enforced`", "did you mean \"enforce\"?"],
        ),
        (
            "[ndp]\nmode = \"always\"",
            "3:8",
            &["write one of \"off\", \"observe\", \"enforce\""],
        ),
        (
            "[arp]\nvalidate = [\"ip\", \"src_mac\"]",
            "3:19",
            &[
                "unknown check of ARP `src_mac`",
                "did you mean \"src-mac\"?",
            ],
        ),
        (
            "[neighbors]\ngateway = \"on\"",
            "3:11",
            &[
                "unknown way to learn gateways `on`",
                "did you mean \"off\"?",
            ],
        ),
        (
            "[neighbors]\nknown_limit = \"fast\"",
            "3:15",
            &["`fast` is no rate"],
        ),
        (
            "[neighbors]\nshare_burst = 0",
            "3:15",
            &["a burst of 0 is out of range"],
        ),
        (
            "[ndp]\nrouters = [\"2001:db8::1\"]",
            "3:12",
            &["2001:db8::1 cannot be a router's", "of fe80::/10"],
        ),
        (
            "[ndp]\nrouters = [\"192.0.2.1\"]",
            "3:12",
            &["`192.0.2.1` is no IPv6 address", "\"fe80::1\""],
        ),
        (
            "[ndp]\nrouters = [\"fe80::1%eth0\"]",
            "3:12",
            &["names an interface", "leave out `%`"],
        ),
        (
            "[ndp]\nrouters = [\"fe80::1\", \"fe80:0::1\"]",
            "3:23",
            &["router fe80::1 is named twice"],
        ),
        (
            "[ip]\nreverse_path = \"yes\"",
            "3:16",
            &[
                "unknown reverse-path check `yes`",
                "write one of \"off\", \"loose\", \"strict\"",
            ],
        ),
        (
            "[icmp]\nmode = \"drop\"",
            "3:8",
            &["unknown mode `drop`", "\"enforce\""],
        ),
        (
            "[icmp]\necho = { host = \"1/s\" }",
            "3:1",
            &["unknown key `echo`", "the keys known here are"],
        ),
        (
            "[icmp]\necho_request = { hst = \"1/s\" }",
            "3:18",
            &["unknown key `hst`", "did you mean `host`?"],
        ),
        (
            "[icmp]\necho_request = { host = \"1/s\", pool = \"fast\" }",
            "3:39",
            &["`fast` is no rate", "\"100/s burst 200\"", "\"off\""],
        ),
        (
            "[icmp.echo_reply]\nprefix = \"1/s burst 0\"",
            "3:10",
            &["a burst of `0` is out of range", "from 1 to 1000000"],
        ),
        (
            "[icmp]\necho_request = \"1/s\"",
            "3:16",
            &[
                "`1/s` stands in place of several shares",
                "write { host = \"100/s\", pool = \"1k/s\" }",
                "\"off\"",
            ],
        ),
        (
            "[ip]\nfragments = 100",
            "3:13",
            &["`100` stands in place of several shares"],
        ),
        (
            "[ip]\nfragments = true",
            "3:13",
            &["invalid type", "expected a table of shares, or \"off\""],
        ),
        (
            "icmp = 5",
            "2:8",
            &["a table is expected here, and this is integer `5`"],
        ),
        (
            "[udp]\nservers = \"192.0.2.53\"",
            "3:11",
            &["a list is expected here"],
        ),
        (
            "[udp]\nservers = [\"192.0.2.53\", \"dns.example\"]",
            "3:26",
            &["`dns.example` is no IP address", "names are not looked up"],
        ),
        (
            "[udp]\nservers = [\"127.0.0.53\"]",
            "3:12",
            &["127.0.0.53 is a loopback address", "those that it asks"],
        ),
        (
            "[udp]\nservers = [\"::1\", \"ff02::fb\"]",
            "3:19",
            &["ff02::fb is a multicast address"],
        ),
        (
            "[udp]\nservers = [\"2001:db8::53\", \"2001:db8:0::53\"]",
            "3:28",
            &["server 2001:db8::53 is named twice"],
        ),
        ("[udp]\nresolv_conf = \"yes\"", "3:15", &["invalid type"]),
        (
            "[tcp]\nnew_connections = 50",
            "3:19",
            &["`50` is no rate", "\"off\""],
        ),
        (
            "[tcp]\nopen_connections = -1",
            "3:20",
            &["-1 open connections cannot be a limit", "0 for no limit"],
        ),
        (
            "[tcp]\nstray_synack = {}",
            "3:1",
            &["did you mean `stray_syn_ack`?"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"",
            "2:1",
            &["the key `macs` is missing"],
        ),
        (
            "[[neighbor]]\naddress = \"gateway\"\nmacs = [\"02:00:00:00:00:01\"]",
            "3:11",
            &["`gateway` is no IP address"],
        ),
        (
            "[[neighbor]]\naddress = \"224.0.0.18\"\nmacs = [\"02:00:00:00:00:01\"]",
            "3:11",
            &["224.0.0.18 is a multicast address", "`ip neigh` lists"],
        ),
        (
            "[[neighbor]]\naddress = \"::\"\nmacs = [\"02:00:00:00:00:01\"]",
            "3:11",
            &[":: is the unspecified address"],
        ),
        (
            "[[neighbor]]\naddress = \"127.0.0.1\"\nmacs = [\"02:00:00:00:00:01\"]",
            "3:11",
            &["127.0.0.1 is a loopback address"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = []",
            "4:8",
            &["no link-layer address is named", "after `lladdr`"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\", \"02-00\"]",
            "4:30",
            &["`02-00` is no link-layer address", "two hexadecimal digits"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"00:00:00:00:00:00\"]",
            "4:9",
            &["is zero, which no host has"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:0a\", \"02:00:00:00:00:0A\"]",
            "4:30",
            &["02:00:00:00:00:0a is named twice", "name it once"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\", \"02:00:00:00:00:02\", \
             \"02:00:00:00:00:03\", \"02:00:00:00:00:04\", \"02:00:00:00:00:05\", \"02:00:00:00:00:06\", \
             \"02:00:00:00:00:07\", \"02:00:00:00:00:08\", \"02:00:00:00:00:09\"]",
            "4:8",
            &["9 link-layer addresses", "8 at most"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\ninterface = \"eth1\"",
            "5:13",
            &[
                "interface `eth1` is not among",
                "attach to: eth0",
                "name it in `interfaces`",
            ],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\nvlan = 4095",
            "5:8",
            &["4095 is no VLAN id", "0 for untagged"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\nvlan = -1",
            "5:8",
            &["-1 is no VLAN id"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\nrouter = true",
            "5:10",
            &["192.0.2.1 cannot be a router's", "of fe80::/10"],
        ),
        (
            "[[neighbor]]\naddress = \"192.0.2.1\"\nmacs = [\"02:00:00:00:00:01\"]\nruoter = true",
            "5:1",
            &["did you mean `router`?"],
        ),
        (
            "state_dir = \"state\"",
            "2:13",
            &["no absolute path", "/var/lib/netmoat"],
        ),
        ("state_dir = \"/\"", "2:13", &["no absolute path"]),
        ("socket = \"run/x.sock\"", "2:10", &["no absolute path"]),
        ("socket = \"/\"", "2:10", &["no absolute path"]),
        ("mode = enforce", "2:8", &["correct the TOML"]),
        ("mode = \"observe", "2:", &["correct the TOML"]),
        (
            "mode = \"observe\"\nmode = \"enforce\"",
            "3:1",
            &["duplicate key"],
        ),
    ] {
        let error = parse(&format!("interfaces = [\"eth0\"]\n{text}")).expect_err(text);
        assert!(
            error.contains(&format!("--> netmoat.toml:{place}")),
            "{text}\n{error}"
        );
        assert!(error.contains('^'), "{text}\n{error}");
        assert!(error.contains(" = help: "), "{text}\n{error}");
        for words in words {
            assert!(error.contains(words), "{text}\nwants: {words}\n{error}");
        }
    }
}

#[test]
fn the_caret_stands_under_the_value() {
    let error = parse("interfaces = [\"eth0\"]\n[syn]\n\tburst = 0 # ünicode\n").unwrap_err();
    assert_eq!(
        error,
        "a burst of 0 is out of range\n \
          --> netmoat.toml:3:10\n  \
           |\n\
         3 |  burst = 0 # ünicode\n  \
           |          ^\n  \
           = help: write a number from 1 to 1000000"
    );
}

#[test]
fn a_columns_number_counts_characters_and_not_octets() {
    let error = parse("interfaces = [\"äöü/\", \"a/b\"]").unwrap_err();
    assert!(error.contains("netmoat.toml:1:15"), "{error}");
    assert!(error.contains("netmoat.toml:1:23"), "{error}");
    assert!(error.contains("\n  |               ^^^^^^\n"), "{error}");
}

#[test]
fn all_wrong_values_are_reported_at_once() {
    let error = parse("mode = \"x\"\n[syn]\nburst = 0\nbudget = \"5\"\n").unwrap_err();
    for words in [
        "no interface to protect is named",
        "unknown mode `x`",
        "a burst of 0",
        "`5` is no rate",
    ] {
        assert!(error.contains(words), "wants: {words}\n{error}");
    }
}

#[test]
fn interface_names_are_checked_in_the_file_and_on_the_command_line() {
    for (name, fault) in [
        ("", "it is empty"),
        ("sixteen-octets-x", "longer than 15"),
        ("a/b", "not allowed"),
        ("eth0:1", "not allowed"),
        ("..", "not allowed"),
        ("eth 0", "white space"),
        ("eth\u{1b}[0m", "control characters"),
    ] {
        let toml = format!("interfaces = [{}]", serde_json::to_string(name).unwrap());
        let error = parse(&toml).unwrap_err();
        assert!(
            error.contains(fault) && error.contains("netmoat.toml:1:15"),
            "{name:?}: {error}"
        );
        let overrides = Overrides {
            interfaces: vec![name.to_owned()],
            ..Overrides::default()
        };
        let error = Config::parse(Path::new("f"), "", &overrides)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains(fault) && !error.contains("-->"),
            "{name:?}: {error}"
        );
        assert!(!error.contains('\u{1b}'), "{name:?}: {error}");
    }
    let error = parse("interfaces = [\"eth0\", \"eth0\"]").unwrap_err();
    assert!(
        error.contains("named twice") && error.contains(":1:23"),
        "{error}"
    );
    let error = parse("interfaces = []").unwrap_err();
    assert!(
        error.contains("give -i IFACE") && error.contains(":1:14"),
        "{error}"
    );
}

#[test]
fn an_explicit_file_must_exist() {
    let missing = Path::new("/nonexistent/netmoat.toml");
    let error = Config::load(Some(missing), &Overrides::default())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("cannot read the config file /nonexistent/netmoat.toml"),
        "{error}"
    );
    assert!(error.contains("check the path given with -c"), "{error}");
}

#[test]
fn what_is_no_regular_file_is_refused_and_does_not_hang() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [fifo.as_path(), dir.path()] {
        let error = Config::load(Some(path), &Overrides::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("not a regular file"), "{error}");
    }
}

/// Needs root, as the rule is root's.
#[test]
fn root_refuses_a_file_that_others_may_write() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "interfaces = [\"eth0\"]").unwrap();
    let load = || Config::load(Some(file.path()), &Overrides::default());
    assert!(load().is_ok());

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o646)).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(
        error.contains("mode 0646") && error.contains("chmod o-w"),
        "{error}"
    );

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(
        error.contains("uid 65534") && error.contains("chown root"),
        "{error}"
    );
}

#[test]
fn the_sample_config_is_valid_and_its_comments_are_too() {
    let config = parse(SAMPLE).unwrap();
    assert_eq!(interface::list(&config.interfaces), "eth0");
    // Every key that is commented out is shown with a valid value: uncomment all and read again.
    let all: String = SAMPLE
        .lines()
        .map(|line| format!("{}\n", line.strip_prefix("#= ").unwrap_or(line)))
        .collect();
    assert_ne!(all, SAMPLE, "the sample shows keys that are commented out");
    let uncommented = parse(&all).unwrap();
    assert_eq!(uncommented.syn.for_port(8443).mode, SynMode::Off);
    assert_eq!(uncommented.syn.for_port(443).mode, SynMode::Always);
    // What stands outside the overrides shows the defaults.
    let defaults = parse("interfaces = [\"eth0\"]").unwrap();
    assert_eq!(uncommented.syn.default, defaults.syn.default);
    assert_eq!(uncommented.syn.syn_ack_limit, defaults.syn.syn_ack_limit);
    assert_eq!(uncommented.syn.syn_ack_burst, defaults.syn.syn_ack_burst);
    assert_eq!(uncommented.syn.key_rotation, defaults.syn.key_rotation);
    assert_eq!(uncommented.socket, defaults.socket);
    assert_eq!(uncommented.state_dir, defaults.state_dir);
    assert_eq!(uncommented.neighbors.bindings.len(), 2);
    let policy = NeighborPolicy {
        bindings: vec![],
        ..uncommented.neighbors
    };
    assert_eq!(policy, defaults.neighbors);
    assert_eq!(uncommented.guards, defaults.guards);
    assert_eq!(uncommented.events, defaults.events);
    assert_eq!(
        (uncommented.mode, uncommented.xdp_mode),
        (defaults.mode, defaults.xdp_mode)
    );
}

#[test]
fn events_have_a_rate_that_the_agent_stands() {
    let config = parse("interfaces = [\"eth0\"]\n[events]\nrate = \"1k/s\"\nburst = 1000").unwrap();
    let gcra = config.events.gcra();
    assert_eq!(
        (gcra.interval_ns, gcra.tolerance_ns),
        (1_000_000, 1_000_000_000)
    );
    for (text, what) in [
        ("rate = \"1001/s\"", "busy"),
        ("burst = 1001", "write a number from 1 to 1000"),
        ("burst = 0", "write a number from 1 to 1000"),
        ("sample = 1", "unknown key"),
    ] {
        let error = parse(&format!("interfaces = [\"eth0\"]\n[events]\n{text}")).unwrap_err();
        assert!(error.to_string().contains(what), "{text}: {error}");
    }
}
