//! `netmoat probe list`

use std::time::{SystemTime, UNIX_EPOCH};

use super::super::output::{Output, Tone, age, plural, table, time, tone};
use super::super::{Code, Failure, block_on};
use crate::{
    control::{
        client::Client,
        probes::{LastWalk, ProbeStatus, Probes},
    },
    probe::Outcome,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat probe list            each [[probe]] of the config, and its last walk
  netmoat probe list -o json    with the whole report of each

Exit code: 3 while one of them fails, 0 otherwise.";

/// Exit code 3 while one of them fails, 0 otherwise.
pub(super) fn list(client: &Client, out: &Output) -> Result<Code, Failure> {
    let probes = block_on(client.probes())?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |since| since.as_secs());
    out.print(&probes, |probes| human(probes, now))?;
    let failing = probes.probes.iter().any(fails);
    Ok(if failing { Code::Degraded } else { Code::Ok })
}

fn fails(probe: &ProbeStatus) -> bool {
    probe.state == Some(Outcome::Failed)
}

/// `now`: seconds since 1970.
pub(in super::super) fn human(probes: &Probes, now: u64) -> String {
    let all = &probes.probes;
    if all.is_empty() {
        return "No probes. A [[probe]] of the config has the agent walk a URL again and again:\n\n  \
                [[probe]]\n  url = \"https://www.example.org/\"\n"
            .to_owned();
    }
    let failing = all.iter().filter(|probe| fails(probe)).count() as u64;
    let count = plural(all.len() as u64, "probe");
    let mut text = match failing {
        0 => tone(&format!("{count}, none fails."), Tone::Good),
        failing => tone(&format!("{count}, {failing} failing."), Tone::Bad),
    };
    text += "\n\n";
    text += &table(
        &[
            "NAME",
            "STATE",
            "FOR",
            "LAST WALK",
            "ENDED",
            "AT",
            "TOOK",
            "SUCCESS",
            "WALKS",
        ],
        &[6, 7, 8],
        all.iter().map(|probe| row(probe, now)),
    );
    for (probe, last) in all.iter().filter_map(|p| Some((p, p.last.as_ref()?))) {
        text += &details(&probe.name, last);
    }
    text
}

fn row(probe: &ProbeStatus, now: u64) -> Vec<String> {
    let dash = || "-".to_owned();
    let last = probe.last.as_ref();
    vec![
        probe.name.escape_debug().to_string(),
        probe
            .state
            .map_or_else(|| "not known yet".to_owned(), coloured),
        probe
            .since
            .map_or_else(dash, |since| age(now.saturating_sub(since))),
        last.map_or_else(dash, |last| time(last.started_ms / 1000)),
        last.map_or_else(dash, |last| coloured(last.outcome)),
        last.and_then(|last| last.layer)
            .map_or_else(dash, |layer| layer.word().to_owned()),
        last.map_or_else(dash, |last| {
            format!("{}.{} ms", last.waited_us / 1000, last.waited_us / 100 % 10)
        }),
        probe
            .success_per_mille
            .map_or_else(dash, |share| format!("{}.{} %", share / 10, share % 10)),
        probe.walks.to_string(),
    ]
}

fn coloured(outcome: Outcome) -> String {
    let how = match outcome {
        Outcome::Ok => Tone::Plain,
        _ => Tone::Bad,
    };
    tone(outcome.word(), how)
}

/// Why the last walk was not well, and what to do; nothing when it was.
fn details(name: &str, last: &LastWalk) -> String {
    if last.outcome == Outcome::Ok {
        return String::new();
    }
    let code = last
        .code
        .as_ref()
        .map_or(String::new(), |code| format!(" ({code})"));
    let mut text = format!("\n{}: {}{code}\n", name.escape_debug(), line(&last.verdict));
    if let Some(next) = &last.next {
        text += &format!("  next: {}\n", line(next));
    }
    text
}

/// In one line, whatever a server has sent.
fn line(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{control::protocol::VERSION, probe::Layer};

    fn probe(name: &str) -> ProbeStatus {
        ProbeStatus {
            name: name.to_owned(),
            url: "http://192.0.2.1/".parse().unwrap(),
            interval_ms: 60_000,
            state: None,
            since: None,
            walking: false,
            walks: 0,
            failures: 0,
            failures_in_a_row: 0,
            success_per_mille: None,
            last: None,
        }
    }

    fn plain(probes: Vec<ProbeStatus>) -> String {
        let probes = Probes {
            version: VERSION,
            probes,
        };
        anstream::adapter::strip_str(&human(&probes, 1_000_120)).to_string()
    }

    #[test]
    fn without_probes_it_says_how_to_have_one() {
        assert!(plain(Vec::new()).contains("[[probe]]\n  url = "));
    }

    #[test]
    fn each_probe_has_a_line_and_what_is_wrong_a_sentence() {
        let failing = ProbeStatus {
            state: Some(Outcome::Failed),
            since: Some(1_000_000),
            walks: 9,
            success_per_mille: Some(777),
            last: Some(LastWalk {
                started_ms: 1_000_100_000,
                duration_us: 20_000,
                waited_us: 12_345,
                outcome: Outcome::Failed,
                layer: Some(Layer::Tcp),
                code: Some("tcp_refused".to_owned()),
                verdict: "192.0.2.1 refused\x1b[2J".to_owned(),
                next: Some("start the server".to_owned()),
                report: None,
            }),
            ..probe("shop")
        };
        let text = plain(vec![probe("new"), failing]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "2 probes, 1 failing.");
        let words = |line: &str| {
            line.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(
            words(lines[3]),
            [
                "new", "not", "known", "yet", "-", "-", "-", "-", "-", "-", "0"
            ]
        );
        assert_eq!(
            words(lines[4]),
            [
                "shop",
                "failed",
                "2m",
                "1970-01-12T13:48:20Z",
                "failed",
                "tcp",
                "12.3",
                "ms",
                "77.7",
                "%",
                "9"
            ]
        );
        assert!(
            text.ends_with(
                "\nshop: 192.0.2.1 refused [2J (tcp_refused)\n  next: start the server\n"
            ),
            "{text}"
        );
    }
}
