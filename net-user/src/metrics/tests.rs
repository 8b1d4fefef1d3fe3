//! The page as a whole, and what contrib/ makes of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use net_common::{
    abi::MAX_LISTENER_KEYS,
    verdict::{COUNTERS, Reason},
};
use serde_json::{Value, json};

use super::{Reading, exposition::classic, listeners::PORTS, own::Own, text};
use crate::control::{
    protocol::{Counters, Queues, Status, VERSION},
    queues::{
        AcceptWait, Confidence, HostCounter, HostQueues, InterfaceLoss, ListenerQueues, Loss,
        NamedCount, Verdict, VerdictKind,
    },
};

fn verdict(kind: VerdictKind) -> Verdict {
    Verdict {
        kind,
        since: 0,
        sentence: String::new(),
        evidence: vec![],
        confidence: Confidence::High,
        fixes: vec![],
    }
}

fn listener(address: &str, port: u16, kind: VerdictKind) -> ListenerQueues {
    ListenerQueues {
        address: address.to_owned(),
        port,
        protected: true,
        cookies_now: true,
        syn_queue: 3,
        cookies_sent: 40,
        accept_wait: Some(AcceptWait {
            oldest_ms: 1500,
            ..AcceptWait::default()
        }),
        verdicts: vec![verdict(kind)],
        ..ListenerQueues::default()
    }
}

fn status() -> Status {
    let status = serde_json::from_value(json!({
        "version": VERSION, "netmoat_version": "0.1.0", "pid": 7, "uptime_s": 61, "mode": "enforce",
        "health": "degraded", "problems": ["eth1 is gone"],
        "interfaces": [{ "name": "eth\"0", "ifindex": 2, "xdp_mode": "native", "xdp_program_id": 31,
                         "tc_program_id": 32, "mtu": 1500 }],
        "listeners_protected": 3, "listeners_left_to_kernel": 0, "cookies_active": true, "keys_age_s": 60,
        "neighbors": { "arp": "enforce", "ndp": "observe", "ra_guard": false, "protected": 2, "learning": 0,
                       "contested": 0, "alerts": 1, "last_alert": "192.0.2.1 is claimed" },
        "interfaces_missing": [{ "name": "eth1", "why": "eth1 is gone" }],
        "drift": { "repaired": 3, "last": "LISTENERS: 3 removed", "last_s": 9 }, "data_path_alive": true,
        "maps": [{ "name": "LISTENERS", "used": 2, "capacity": MAX_LISTENER_KEYS }]
    }));
    status.unwrap()
}

/// A busy host, with something of everything.
fn reading() -> Reading {
    let mut cells = vec![0; COUNTERS as usize];
    cells[Reason::TcpFlags as usize] = 7;
    cells[Reason::ALL.len() + Reason::TcpFlags as usize] = 2;
    Reading {
        status: status(),
        counters: Counters::from_cells(&cells),
        queues: Queues {
            version: VERSION,
            listeners: vec![
                listener("192.0.2.1", 443, VerdictKind::Healthy),
                listener("2001:db8::1", 443, VerdictKind::SynFlood),
                listener("192.0.2.1", 22, VerdictKind::Healthy),
            ],
            host: HostQueues {
                counters: vec![HostCounter {
                    name: "TcpExtListenDrops".to_owned(),
                    total: 9,
                    ..HostCounter::default()
                }],
                loss: Loss {
                    interfaces: vec![InterfaceLoss {
                        name: "eth0".to_owned(),
                        packets: 100,
                        lost: vec![NamedCount {
                            name: "rx_dropped".to_owned(),
                            count: 1,
                        }],
                        ..InterfaceLoss::default()
                    }],
                    ..Loss::default()
                },
                verdicts: vec![verdict(VerdictKind::PortExhaustion)],
                ..HostQueues::default()
            },
            ..Queues::default()
        },
        probes: serde_json::from_value(json!({ "version": VERSION, "probes": [{
            "name": "shop", "url": "http://www.example.org/", "interval_ms": 60_000, "state": "failed", "since": 7,
            "walking": false, "walks": 12, "failures": 5, "failures_in_a_row": 2, "success_per_mille": 583,
            "last": { "started_ms": 8_500, "duration_us": 15_000, "waited_us": 12_000, "outcome": "failed", "layer": "http",
                      "code": "http_timeout", "verdict": "nothing came", "next": null, "report": report() } }] }))
        .unwrap(),
        own: Some(Own {
            cpu_s: 1.5,
            resident: 4096,
            descriptors: 9,
        }),
        maps_octets: 1 << 20,
    }
}

/// A walk over one redirect.
fn report() -> Value {
    let stage = |layer: &str, facts: Value, duration_us: u64| {
        json!({ "layer": layer, "outcome": "ok", "start_us": 0, "duration_us": duration_us, "summary": "",
                "findings": [], "facts": { layer: facts } })
    };
    let fetch = |us| {
        let stages = [stage(
            "tcp",
            json!(crate::probe::tcp::TcpFacts::default()),
            us,
        )];
        json!({ "url": "http://www.example.org/", "stages": stages, "agent": null })
    };
    json!({ "version": 1, "url": "http://www.example.org/", "started_ms": 8_500, "duration_us": 15_000, "waited_us": 12_000, "outcome": "failed",
            "layer": "http", "code": "http_timeout", "verdict": "nothing came", "next": null,
            "fetches": [fetch(2_000), fetch(1_500)] })
}

/// Values by name with labels.
fn values(page: &str) -> BTreeMap<String, f64> {
    page.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (series, value) = line.rsplit_once(' ').unwrap();
            (series.to_owned(), value.parse().unwrap())
        })
        .collect()
}

/// Names of samples, without labels.
fn names(page: &str) -> BTreeSet<String> {
    let series = values(page).into_keys();
    series
        .map(|series| series.split('{').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn what_the_agent_says_is_on_the_page() {
    let page = text(reading()).unwrap();
    let values = values(&page);
    for (series, value) in [
        ("netmoat_build_info{version=\"0.1.0\",abi=\"ABI\"}", 1.0),
        ("netmoat_uptime_seconds", 61.0),
        ("netmoat_healthy", 0.0),
        ("netmoat_problems", 1.0),
        ("netmoat_enforcing", 1.0),
        (
            "netmoat_interface_info{interface=\"eth\\\"0\",xdp_mode=\"native\"}",
            1.0,
        ),
        ("netmoat_interface_attached{interface=\"eth\\\"0\"}", 1.0),
        ("netmoat_interface_attached{interface=\"eth1\"}", 0.0),
        ("netmoat_data_path_alive", 1.0),
        ("netmoat_drift_repairs_total", 3.0),
        ("netmoat_process_cpu_seconds_total", 1.5),
        ("netmoat_process_resident_memory_bytes", 4096.0),
        (
            "netmoat_packets_total{reason=\"tcp_flags\",action=\"drop\",enforced=\"true\"}",
            7.0,
        ),
        (
            "netmoat_packets_total{reason=\"tcp_flags\",action=\"drop\",enforced=\"false\"}",
            2.0,
        ),
        (
            "netmoat_packets_total{reason=\"tcp_pass\",action=\"pass\",enforced=\"true\"}",
            0.0,
        ),
        ("netmoat_guard_mode{guard=\"arp\"}", 2.0),
        ("netmoat_guard_mode{guard=\"icmp\"}", 1.0),
        ("netmoat_map_entries{map=\"LISTENERS\"}", 2.0),
        ("netmoat_map_entries_limit{map=\"LISTENERS\"}", 65_536.0),
        ("netmoat_map_memory_bytes", 1_048_576.0),
        ("netmoat_listeners{protected=\"true\"}", 3.0),
        // Both listeners of the port together.
        ("netmoat_listener_syn_queue{port=\"443\"}", 6.0),
        (
            "netmoat_listener_syns_total{port=\"443\",fate=\"cookie\"}",
            80.0,
        ),
        (
            "netmoat_listener_verdict{port=\"443\",verdict=\"syn_flood\"}",
            1.0,
        ),
        (
            "netmoat_listener_verdict{port=\"22\",verdict=\"healthy\"}",
            1.0,
        ),
        (
            "netmoat_listener_accept_wait_oldest_seconds{port=\"22\"}",
            1.5,
        ),
        ("netmoat_host_verdict{verdict=\"port_exhaustion\"}", 1.0),
        (
            "netmoat_kernel_events_total{name=\"TcpExtListenDrops\"}",
            9.0,
        ),
        ("netmoat_probe_up{probe=\"shop\"}", 0.0),
        ("netmoat_probe_outcome{probe=\"shop\"}", 3.0),
        ("netmoat_probe_duration_seconds{probe=\"shop\"}", 0.012),
        (
            "netmoat_probe_stage_seconds{probe=\"shop\",layer=\"tcp\"}",
            0.0035,
        ),
        (
            "netmoat_probe_last_walk_timestamp_seconds{probe=\"shop\"}",
            8.5,
        ),
        ("netmoat_probe_walks_total{probe=\"shop\"}", 12.0),
        ("netmoat_probe_failures_total{probe=\"shop\"}", 5.0),
        (
            "netmoat_interface_lost_packets_total{interface=\"eth0\",counter=\"rx_dropped\"}",
            1.0,
        ),
    ] {
        let series = series.replace("ABI", &net_common::abi::ABI_VERSION.to_string());
        assert_eq!(values.get(&series), Some(&value), "{series}\n{page}");
    }
    let healthy = "netmoat_listener_verdict{port=\"443\",verdict=\"healthy\"}";
    assert!(
        !values.contains_key(healthy),
        "a port is as ill as its worst listener"
    );
}

#[test]
fn every_family_has_help_a_type_and_the_prefix_and_no_address_is_told() {
    let page = text(reading()).unwrap();
    let described = |what: &str| -> BTreeSet<String> {
        let lines = page.lines().filter_map(|line| line.strip_prefix(what));
        let words = lines.map(|line| line.split_once(' ').unwrap());
        words
            .inspect(|(name, rest)| assert!(!rest.trim().is_empty(), "{name}"))
            .map(|(name, _)| name.to_owned())
            .collect()
    };
    let (helped, typed) = (described("# HELP "), described("# TYPE "));
    assert_eq!(helped, typed);
    for name in names(&page) {
        assert!(name.starts_with("netmoat_"), "{name}");
        let family = name.strip_suffix("_total").unwrap_or(&name);
        assert!(helped.contains(family), "{name}");
    }
    for address in ["192.0.2.", "2001:db8"] {
        assert!(!page.contains(address), "{address}\n{page}");
    }
    assert!(page.ends_with("# EOF\n"));
}

#[test]
fn counters_keep_their_name_in_the_older_format() {
    let open = text(reading()).unwrap();
    let classic = classic(&open);
    assert_eq!(values(&open), values(&classic));
    assert!(
        classic.contains("\n# TYPE netmoat_packets_total counter\nnetmoat_packets_total{"),
        "{classic}"
    );
    assert!(
        classic.contains("\n# HELP netmoat_packets_total Packets by reason"),
        "{classic}"
    );
    assert!(
        classic.contains("# TYPE netmoat_uptime_seconds gauge\n"),
        "{classic}"
    );
    assert!(
        !classic.contains("# UNIT") && !classic.contains("# EOF"),
        "{classic}"
    );
}

#[test]
fn whoever_opens_many_ports_makes_no_more_series() {
    let mut reading = reading();
    let ports = 1..=5000u16;
    reading.queues.listeners = ports
        .map(|port| listener("192.0.2.1", 60_000 - port, VerdictKind::Healthy))
        .chain([listener("192.0.2.1", 22, VerdictKind::Healthy)])
        .collect();
    let page = text(reading).unwrap();
    let queues: Vec<_> = values(&page)
        .into_iter()
        .filter(|(series, _)| series.starts_with("netmoat_listener_syn_queue{"))
        .collect();
    assert_eq!(queues.len(), PORTS + 1);
    let total: f64 = queues.iter().map(|(_, value)| value).sum();
    assert_eq!(total, 3.0 * 5001.0, "those beyond are added up");
    assert!(
        queues
            .iter()
            .any(|(series, _)| series.contains("port=\"22\""))
    );
    assert!(
        queues
            .iter()
            .any(|(series, _)| series.contains("port=\"other\""))
    );
}

/// Names of ours in a text of PromQL.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words
        .filter(|word| word.starts_with("netmoat_"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_metric_that_contrib_asks_for_is_served() {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib");
    let served = names(&text(reading()).unwrap());
    for file in [
        "grafana/netmoat.json",
        "prometheus/netmoat.rules.yml",
        "prometheus/netmoat.rules.test.yml",
    ] {
        let text = std::fs::read_to_string(contrib.join(file)).unwrap();
        let asked = named(&text);
        assert!(asked.len() >= 10, "{file} asks for {asked:?}");
        let unknown: Vec<_> = asked.difference(&served).collect();
        assert!(unknown.is_empty(), "{file}: {unknown:?}");
    }
}

#[test]
fn the_dashboard_says_of_every_panel_what_it_shows() {
    let contrib = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/grafana/netmoat.json");
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(contrib).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 10);
    let (mut ids, mut places) = (BTreeSet::new(), Vec::new());
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let at = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let place = (at("x"), at("y"), at("x") + at("w"), at("y") + at("h"));
        assert!(place.2 <= 24, "{title}");
        let apart = |other: &(u64, u64, u64, u64)| {
            place.2 <= other.0 || other.2 <= place.0 || place.3 <= other.1 || other.3 <= place.1
        };
        assert!(places.iter().all(apart), "{title} lies over another panel");
        places.push(place);
        if panel["type"] == "row" {
            continue;
        }
        assert!(
            !panel["description"].as_str().unwrap().is_empty(),
            "{title}"
        );
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            assert!(expr.contains("instance=~\"$instance\""), "{title}: {expr}");
        }
    }
}

#[test]
fn a_probe_that_fails_is_no_sign_that_what_is_configured_is_not_in_force() {
    let mut status = status();
    assert!(!status.is_in_force(), "eth1 is gone");
    status.probes.failed = 1;
    assert!(status.is_in_force(), "the one problem is the probe");
    status.problems.push("eth1 is gone".to_owned());
    assert!(!status.is_in_force());
}
