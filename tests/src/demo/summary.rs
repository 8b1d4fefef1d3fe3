//! The closing words: a table, what it means, and the criteria.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use owo_colors::OwoColorize as _;

use super::{
    acts,
    client::{INTERVAL, TIMEOUT, WORKERS},
    echo,
    figures::{Results, find, percent},
    live::milliseconds,
    machine::Machine,
    spoof,
    watch::Fate,
};

/// Share of the CPU that may be busy without a flood; client and server take a few hundredths.
const BUSY: f64 = 0.3;

/// What is about to be played.
pub fn scene(machine: &Machine, rate: u32) -> String {
    format!(
        "Three hosts on a bridge: a server ({nginx}), a client, an attacker.\n\
         Client: {WORKERS} workers, each connects, fetches a page and closes every {interval} ms; gives up after \
         {timeout} s.\nAttacker: {rate} SYN/s from random addresses of 10.0.0.0/8.\n\
         Linux {kernel}, {cpus}, {model}.",
        nginx = machine.nginx,
        interval = INTERVAL.as_millis(),
        timeout = TIMEOUT.as_secs(),
        kernel = machine.kernel,
        cpus = match machine.cpus {
            1 => "1 CPU".to_owned(),
            n => format!("{n} CPUs"),
        },
        model = machine.cpu_model,
    )
}

/// The columns of the table, in terminal and report.
pub const COLUMNS: [&str; 10] = [
    "act",
    "SYN/s\nsent",
    "handshakes\n/s",
    "success",
    "connect\np50, ms",
    "connect\np99, ms",
    "page\np99, ms",
    "SYN-ACK\n/s",
    "SYN queue,\nlongest",
    "CPU",
];

/// The rows of the table, in terminal and report.
pub fn rows(results: &Results) -> Vec<Vec<String>> {
    let rows = results.acts.iter().map(|played| {
        let (total, seen) = (&played.total, &played.total.client);
        vec![
            played.act.title.to_owned(),
            thousands(total.rates.syns_per_s),
            format!("{:.1}", total.handshakes_per_s),
            percent(seen.success),
            milliseconds(seen, seen.connect_p50_ms),
            milliseconds(seen, seen.connect_p99_ms),
            milliseconds(seen, seen.page_p99_ms),
            thousands(total.rates.syn_acks_per_s),
            format!("{} of {}", total.longest.syn, total.longest.limit),
            format!("{:.0} %", total.rates.cpu * 100.0),
        ]
    });
    rows.collect()
}

/// What the table says, in plain words, a sentence an act.
pub fn verdict(results: &Results) -> Vec<String> {
    let idle = find(&results.acts, acts::IDLE).and_then(|idle| idle.client.connect_p99_ms);
    let got_through = |who: &str, which| {
        let total = find(&results.acts, which)?;
        let success = percent(total.client.success);
        let mut text = match total.client.success {
            Some(1.0) => format!("{who} the client got through every time"),
            Some(0.0) => format!("{who} the client never got through"),
            _ => format!("{who} the client got through {success} of the time"),
        };
        let ratio = total.client.connect_p99_ms.zip(idle);
        if let Some((p99, idle)) = ratio {
            let _ = write!(
                text,
                "; connecting took {p99:.2} ms at the 99th percentile, {:.1} times the {idle:.2} ms without a flood",
                p99 / idle
            );
        }
        let _ = write!(text, "; CPU {:.0} %.", total.rates.cpu * 100.0);
        Some(text)
    };
    let said = results.acts.iter().filter_map(|played| {
        let said = played.said.as_ref().filter(|_| played.act.flood)?;
        Some(format!("netmoat said of the listener: {}", said.sentence))
    });
    let busy =
        [acts::IDLE, acts::AFTER].map(|act| find(&results.acts, act).map_or(0.0, |t| t.rates.cpu));
    let busy = busy[0].max(busy[1]);
    let caveat = (busy > BUSY).then(|| {
        format!(
            "Something else kept the machine busy (CPU {:.0} % without a flood): these figures say little.",
            busy * 100.0
        )
    });
    [
        got_through("The kernel alone, without SYN cookies:", acts::KERNEL),
        got_through(
            "The kernel alone, with its SYN cookies:",
            acts::KERNEL_COOKIES,
        ),
        got_through("Behind netmoat:", acts::NETMOAT),
    ]
    .into_iter()
    .flatten()
    .chain(said)
    .chain(caveat)
    .collect()
}

/// Everything that is said at the end.
pub fn closing(results: &Results) -> String {
    let mut text = String::from("\n");
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(COLUMNS)
        .add_rows(rows(results));
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    let _ = writeln!(text, "{table}\n");
    for played in results.acts.iter().filter(|played| played.act.flood) {
        let _ = writeln!(text, "{}: what became of packets", played.act.title.bold());
        for Fate {
            by,
            name,
            meaning,
            packets,
        } in &played.fates
        {
            let _ = writeln!(text, "  {packets:>10}  {by:<8} {name:<27} {meaning}");
        }
    }
    text.push('\n');
    for sentence in verdict(results) {
        let _ = writeln!(text, "{sentence}");
    }
    text.push('\n');
    for criterion in &results.criteria {
        let word = if criterion.passed {
            "PASS".green().to_string()
        } else {
            "FAIL".red().bold().to_string()
        };
        let _ = writeln!(
            text,
            "{word}  {} (found: {})",
            criterion.what, criterion.found
        );
    }
    text
}

/// What the act of the ping flood is about.
pub fn echo_announcement(number: usize, of: usize) -> String {
    format!(
        "\nAct {number} of {of}: {}\n    hping3 sends echo requests from random addresses to a host that a monitor pings 20 times a \
         second.\n    First without netmoat, then behind it with its default configuration.",
        "a ping flood".bold()
    )
}

/// What came of it.
pub fn echo(halves: &[echo::Half]) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(echo::COLUMNS)
        .add_rows(echo::rows(halves));
    format!("{table}\n")
}

/// What the last act is about.
pub fn spoof_announcement(number: usize) -> String {
    format!(
        "\nAct {number} of {number}: {}\n    A victim sends data over its gateway; arpspoof claims the gateway's address. First \
         without netmoat,\n    then behind it with `[arp] mode = \"enforce\"` and a gateway that it learned by itself.",
        "a neighbour that lies".bold()
    )
}

/// What came of it.
pub fn spoof(halves: &[spoof::Half]) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(spoof::COLUMNS)
        .add_rows(spoof::rows(halves));
    let mut text = format!("{table}\n");
    for words in halves.iter().filter_map(|half| half.alert.as_ref()) {
        let _ = writeln!(text, "netmoat: {words}");
    }
    text
}

/// A rate for people.
pub fn thousands(rate: f64) -> String {
    if rate < 9_950.0 {
        format!("{rate:.0}")
    } else {
        format!("{:.0}k", rate / 1e3)
    }
}
