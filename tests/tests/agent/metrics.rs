//! Metrics of the real agent, read as Prometheus reads them, and what contrib/ makes of them.

use std::{
    fs::{self, File},
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use net_tests::{
    agent::Agent,
    server::{Server, visit},
    topology::{Host, Lan, Pair},
    wait,
};

const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);
const LISTEN: &str = "[metrics]\nlisten = \"127.0.0.1:9123\"";
const URL: &str = "http://127.0.0.1:9123/metrics";

fn contrib(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../contrib")
        .join(file)
}

/// What curl prints inside the host's namespace.
fn curl(host: &Host, args: &[&str]) -> String {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "10"])
        .args(args);
    host.ns.succeed(&mut curl).unwrap()
}

/// The value of a series on a page.
fn value(page: &str, series: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

/// Runs promtool with a text on its standard input; true for success, and all that it said.
fn promtool(args: &[&str], input: &str) -> (bool, String) {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(input.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let output = Command::new("promtool")
        .args(args)
        .stdin(file)
        .output()
        .expect("promtool is installed (package prometheus)");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn a_port_that_is_taken_keeps_metrics_away_until_it_is_free_and_nothing_else() {
    let pair = Pair::new().unwrap();
    let address = "127.0.0.1:9123";
    let taken = pair.server.ns.run(|| TcpListener::bind(address).unwrap());
    let agent = Agent::start(&pair.server, LISTEN).unwrap();
    let problems = agent.status().unwrap().problems;
    assert!(
        problems.iter().any(|problem| problem.contains(address)),
        "{problems:?}"
    );
    drop(taken);
    wait::until("metrics to be served", SOON, || {
        agent.status().unwrap().problems.is_empty()
    })
    .unwrap();
    assert!(curl(&pair.server, &[URL]).contains("netmoat_"));
}

#[test]
fn prometheus_reads_what_the_agent_serves_and_finds_nothing_to_mend() {
    let lan = Lan::new().unwrap();
    let [server, client] = ["server", "client"].map(|role| lan.host(role).unwrap());
    let _web = Server::start(&server.ns, server.at(4, PORT)).unwrap();
    let config = format!("[syn]\nmode = \"always\"\n{LISTEN}");
    let agent = Agent::start(&server, &config).unwrap();
    agent.await_listener(PORT, true).unwrap();

    let page = curl(&server, &[URL]);
    for (series, wanted) in [
        ("netmoat_healthy", 1.0),
        ("netmoat_enforcing", 1.0),
        ("netmoat_data_path_alive", 1.0),
        ("netmoat_interface_attached{interface=\"eth0\"}", 1.0),
        ("netmoat_drift_repairs_total", 0.0),
        (
            "netmoat_interface_info{interface=\"eth0\",xdp_mode=\"native\"}",
            1.0,
        ),
        (
            "netmoat_listener_syns_total{port=\"8080\",fate=\"cookie\"}",
            0.0,
        ),
        (
            "netmoat_packets_total{reason=\"cookie_proven\",action=\"pass\",enforced=\"true\"}",
            0.0,
        ),
    ] {
        assert_eq!(value(&page, series), Some(wanted), "{series}\n{page}");
    }
    let (sound, said) = promtool(&["check", "metrics"], &page);
    assert!(sound && said.is_empty(), "{said}");

    // A second client, a second page: what happened is on it.
    visit(&client.ns, server.at(4, PORT), SOON).unwrap();
    let proven = "netmoat_listener_cookies_total{port=\"8080\",outcome=\"proven\"}";
    wait::until("the page to tell of the connection", SOON, || {
        value(&curl(&server, &[URL]), proven) == Some(1.0)
    })
    .unwrap();
    let page = curl(&server, &[URL]);
    let sent = "netmoat_packets_total{reason=\"cookie_sent\",action=\"reply\",enforced=\"true\"}";
    assert_eq!(value(&page, sent), Some(1.0), "{page}");
    let listeners = value(&page, "netmoat_map_entries{map=\"LISTENERS\"}").unwrap();
    assert!(listeners >= 1.0, "{page}");
    let memory = value(&page, "netmoat_map_memory_bytes").unwrap();
    assert!(memory > 1e6, "{page}");
    for host in [&server, &client] {
        for address in [host.v4.to_string(), host.v6.to_string()] {
            assert!(
                !page.contains(&address),
                "{address} is on the page:\n{page}"
            );
        }
    }
}

#[test]
fn metrics_are_not_served_to_other_hosts() {
    let pair = Pair::new().unwrap();
    let _agent = Agent::start(&pair.server, LISTEN).unwrap();
    curl(&pair.server, &[URL]);
    for host in [&pair.server, &pair.attacker] {
        let mut curl = Command::new("curl");
        let url = format!("http://{}:9123/metrics", pair.server.v4);
        curl.args(["--silent", "--show-error", "--max-time", "10", &url]);
        let refused = format!("{:#}", host.ns.succeed(&mut curl).unwrap_err());
        assert!(
            refused.contains("refused") || refused.contains("connect"),
            "{refused}"
        );
    }
    let refusing = Agent::launch(
        &pair.attacker.ns,
        &["eth0"],
        &format!("[metrics]\nlisten = \"{}:9123\"", pair.attacker.v4),
    );
    let (code, log) = refusing.unwrap().refusal().unwrap();
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("no loopback address"), "{log}");
}

#[test]
fn a_socket_of_metrics_goes_with_the_agent() {
    let pair = Pair::new().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("metrics.sock");
    let config = format!("[metrics]\nlisten = \"unix:{}\"", socket.display());
    let mut agent = Agent::start(&pair.server, &config).unwrap();
    let path = socket.to_str().unwrap();
    let page = curl(
        &pair.server,
        &["--unix-socket", path, "http://netmoat/metrics"],
    );
    assert_eq!(value(&page, "netmoat_healthy"), Some(1.0), "{page}");
    assert!(agent.terminate().unwrap().success());
    assert!(!socket.exists());
}

#[test]
fn alerts_are_sound_and_come_and_go_with_their_causes() {
    let rules = contrib("prometheus/netmoat.rules.yml");
    let (sound, said) = promtool(&["check", "rules", rules.to_str().unwrap()], "");
    assert!(sound, "{said}");
    let tests = contrib("prometheus/netmoat.rules.test.yml");
    let (sound, said) = promtool(&["test", "rules", tests.to_str().unwrap()], "");
    assert!(sound, "{said}");
    // Each alert has a test that raises it.
    let (rules, tests) = (
        fs::read_to_string(rules).unwrap(),
        fs::read_to_string(tests).unwrap(),
    );
    let alerts: Vec<_> = rules
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect();
    assert!(alerts.len() >= 10);
    for alert in alerts {
        let raised =
            format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(
            tests.contains(&raised),
            "{alert} has no test that raises it"
        );
    }
}

#[test]
fn a_page_that_breaks_the_rules_is_told() {
    // That the check above can fail.
    let (sound, said) = promtool(&["check", "metrics"], "netmoat_things 1\n");
    assert!(!sound && said.contains("no help text"), "{said}");
    let broken = tempfile::NamedTempFile::new().unwrap();
    let mut file: &File = broken.as_file();
    file.write_all(b"groups: [{ name: a, rules: [{ alert: A, expr: 'netmoat_up ==' }] }]")
        .unwrap();
    let (sound, _) = promtool(&["check", "rules", broken.path().to_str().unwrap()], "");
    assert!(!sound);
}
