use std::os::unix::fs::PermissionsExt as _;

use super::*;

const SAMPLE: &str = include_str!("../../../contrib/netmoat.toml");

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("netmoat.toml"), text, &Overrides::default()).map_err(|e| e.to_string())
}

#[test]
fn an_empty_config_with_an_interface_gets_the_defaults() {
    let config = parse("interfaces = [\"eth0\"]").unwrap();
    assert_eq!(config.interfaces, ["eth0"]);
    assert_eq!(config.mode, Mode::Enforce);
    assert_eq!(config.xdp_mode, XdpMode::Auto);
    assert_eq!(config.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.syn.default.mode, SynMode::Auto);
    assert_eq!(config.syn.default.budget.to_string(), "100/s");
    assert_eq!(config.syn.default.burst, 128);
    assert_eq!(config.syn.key_rotation, Duration::from_secs(3600));
    assert!(config.syn.overrides.is_empty());
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
    };
    let config = Config::parse(
        Path::new("f"),
        "interfaces = [\"eth0\", \"eth1\"]",
        &overrides,
    )
    .unwrap();
    assert_eq!(config.interfaces, ["eth7"]);
    assert_eq!(config.mode, Mode::Observe);
    assert_eq!(config.xdp_mode, XdpMode::Generic);
    assert_eq!(config.socket, Path::new("/tmp/other.sock"));
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
    assert_eq!(config.interfaces, ["eth0"]);
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
    assert_eq!(
        (uncommented.mode, uncommented.xdp_mode),
        (defaults.mode, defaults.xdp_mode)
    );
}
