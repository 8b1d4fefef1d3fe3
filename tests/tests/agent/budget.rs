//! What the maps were to take, and what the kernel says they take.

use std::{collections::BTreeMap, fs, process::Command};

use net_tests::{agent::Agent, topology::Pair};
use net_user::datapath::budget::{Budget, ERROR_OCTETS};
use nix::unistd::Pid;
use serde_json::Value;

/// Ids of the maps that a process holds, with what the kernel accounts for each (`bpf_map_memory_usage`).
fn held(process: Pid) -> BTreeMap<u64, u64> {
    let entries = fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
    let texts = entries
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok());
    texts
        .filter_map(|text| {
            let field = |name: &str| -> Option<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(name))?;
                line.trim().parse().ok()
            };
            Some((field("map_id:")?, field("memlock:")?))
        })
        .collect()
}

/// Names of maps by id, as bpftool shows them: 15 octets are kept by the kernel.
fn names() -> BTreeMap<u64, String> {
    let output = Command::new("bpftool")
        .args(["--json", "map", "show"])
        .output()
        .unwrap();
    let maps: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    maps.iter()
        .filter_map(|map| Some((map["id"].as_u64()?, map["name"].as_str()?.to_owned())))
        .collect()
}

#[test]
fn the_budget_is_what_the_kernel_accounts_for() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let budget = Budget::read().unwrap();
    let (held, names) = (held(agent.pid()), names());
    let mut unseen: BTreeMap<String, u64> = budget
        .maps
        .iter()
        .map(|map| (map.name.chars().take(15).collect(), map.octets))
        .collect();
    assert_eq!(
        unseen.len(),
        budget.maps.len(),
        "no two maps share 15 letters"
    );
    let mut sum = 0;
    for (id, octets) in held {
        // The section of constants has the object's name before its own; pieces of lists have none.
        let Some(name) = names.get(&id) else { continue };
        let Some(foreseen) = unseen.remove(name) else {
            continue;
        };
        assert!(
            (foreseen..foreseen + ERROR_OCTETS).contains(&octets),
            "{name}: {foreseen} octets were foreseen, the kernel accounts for {octets}"
        );
        sum += octets;
    }
    unseen.retain(|name, _| !name.starts_with('.'));
    assert!(unseen.is_empty(), "not found in the agent: {unseen:?}");
    let error = sum.abs_diff(budget.octets) as f64 / sum as f64;
    assert!(
        error < 0.01,
        "{} octets were foreseen, and it is {sum}",
        budget.octets
    );
}

#[test]
fn check_prints_the_sum_the_largest_maps_and_what_happens_when_they_are_full() {
    let pair = Pair::new().unwrap();
    let agent = Agent::start(&pair.server, "").unwrap();
    let config = agent.config();
    let check = |format: &str| {
        let mut netmoat = agent.command(&["check", "-o", format, "-c", config.to_str().unwrap()]);
        let output = pair.server.ns.run(|| netmoat.output()).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        String::from_utf8(output.stdout).unwrap()
    };
    let report: Value = serde_json::from_str(&check("json")).unwrap();
    let budget = &report["budget"];
    let maps = budget["maps"].as_array().unwrap();
    let octets = |map: &Value| map["octets"].as_u64().unwrap();
    assert_eq!(budget["octets"], maps.iter().map(octets).sum::<u64>());
    assert!(
        budget["room"]["available"]
            .as_u64()
            .is_some_and(|room| room > 0)
    );
    assert!(
        budget["lists_at_most"]
            .as_u64()
            .is_some_and(|octets| octets > 1 << 20)
    );
    for map in maps {
        assert!(!map["when_full"].as_str().unwrap().is_empty(), "{map}");
    }
    let text = check("human");
    for map in &maps[..5] {
        let name = map["name"].as_str().unwrap();
        assert!(
            text.contains(&format!("\n{name} ")),
            "{name} is not in\n{text}"
        );
    }
    for words in ["WHEN FULL", "\nall maps ", "of the kernel's memory"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
}
