//! A line a listener, and below what is wrong.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::words::{
    MISSING, count, count_or_dash, drops, gravest, micros, name, processes, standing, troubles,
};
use crate::cli::output::{Tone, plural, table, time, tone};
use crate::control::queues::{ListenerQueues, Queues, Verdict, VerdictKind};

/// The head of the last column.
pub(in crate::cli) const VERDICT: &str = "VERDICT";

/// A column: its head, whether it holds figures, and what it says of a listener.
struct Column {
    head: &'static str,
    figures: bool,
    cell: fn(&ListenerQueues) -> String,
}

const fn column(head: &'static str, figures: bool, cell: fn(&ListenerQueues) -> String) -> Column {
    Column {
        head,
        figures,
        cell,
    }
}

const COLUMNS: [Column; 11] = [
    column("LISTENER", false, name),
    column("PROCESS", false, |l| or_dash(processes(l))),
    column("SYN QUEUE", true, |l| {
        format!("{}/{}", l.syn_queue, l.syn_queue_limit)
    }),
    column("ACCEPT QUEUE", true, |l| {
        format!("{}/{}", l.accept_queue, l.accept_queue_limit)
    }),
    column("CONN/S", true, |l| {
        count_or_dash(l.funnel.proven.map(|_| l.rates.connections))
    }),
    column("RESET/S", true, |l| {
        count_or_dash(l.funnel.reset.map(|_| l.rates.resets))
    }),
    column("HANDSHAKE", true, handshake),
    column("WAIT", true, wait),
    column("COOKIES", true, cookies),
    column("DROPS", true, |l| {
        if l.sockets.is_empty() {
            MISSING.to_owned()
        } else {
            count(drops(l))
        }
    }),
    column(VERDICT, false, standing),
];

/// How many listeners are named in a sentence.
const NAMED: usize = 8;

/// What a narrow terminal loses, first to last; the others always stay.
const DISPENSABLE: [&str; 7] = [
    "COOKIES",
    "HANDSHAKE",
    "RESET/S",
    "WAIT",
    "DROPS",
    "PROCESS",
    "CONN/S",
];

pub(super) fn human(queues: &Queues, width: Option<usize>) -> String {
    let mut listeners: Vec<_> = queues.listeners.iter().collect();
    // Stable: alike ones stand as the agent has them.
    listeners.sort_by_key(|l| Reverse(gravest(l).map(|v| v.kind)));
    let mut text = sentence(queues);
    if !listeners.is_empty() {
        text += &format!("\n{}", fitted(&listeners, width));
        text += &cookies_now(&listeners);
        text += &left_to_kernel(&listeners);
    }
    text += &missing_sources(queues);
    for listener in listeners {
        for verdict in troubles(&listener.verdicts) {
            text += &format!("\n{}", told(&name_and_owner(listener), verdict));
        }
    }
    for verdict in troubles(&queues.host.verdicts) {
        text += &format!("\n{}", told("This host", verdict));
    }
    text
}

/// How many there are, and what is wrong.
fn sentence(queues: &Queues) -> String {
    let listeners = &queues.listeners;
    let mut parts = Vec::new();
    let mut wrong: BTreeMap<Reverse<VerdictKind>, u64> = BTreeMap::new();
    for kind in listeners.iter().filter_map(|l| Some(gravest(l)?.kind)) {
        *wrong.entry(Reverse(kind)).or_default() += 1;
    }
    wrong.remove(&Reverse(VerdictKind::Healthy));
    for (Reverse(kind), at) in &wrong {
        parts.push(format!("{} at {at}", kind.name()));
    }
    let with = |test: fn(&ListenerQueues) -> bool| listeners.iter().filter(|l| test(l)).count();
    // What a verdict tells is not told twice.
    let full = with(|l| l.accept_full && troubles(&l.verdicts).next().is_none());
    if full > 0 {
        parts.push(format!("accept queue full at {full} at this moment"));
    }
    for verdict in troubles(&queues.host.verdicts) {
        parts.push(format!("{} on this host", verdict.kind.name()));
    }
    let is_well = parts.is_empty();
    if is_well && !listeners.is_empty() {
        let judged = listeners.iter().all(|l| !l.verdicts.is_empty());
        parts.push(
            if judged {
                "all is healthy"
            } else {
                "queues are in order"
            }
            .to_owned(),
        );
    }
    let with_cookies = with(|l| l.cookies_now);
    if with_cookies > 0 {
        parts.push(format!("SYN cookies for {with_cookies}"));
    }
    let mut text = if listeners.is_empty() {
        "No TCP listener in this network namespace".to_owned()
    } else {
        plural(listeners.len() as u64, "listener")
    };
    for part in parts {
        text += &format!("; {part}");
    }
    let how = if is_well { Tone::Plain } else { Tone::Bad };
    tone(&(text + "."), how) + "\n"
}

/// The table as text, without what does not fit into `width`.
fn fitted(listeners: &[&ListenerQueues], width: Option<usize>) -> String {
    let columns = fit(listeners, width);
    let figures: Vec<_> = (0..columns.heads.len())
        .filter(|&i| columns.figures[i])
        .collect();
    let mut text = table(&columns.heads, &figures, columns.rows);
    if !columns.left_out.is_empty() {
        text += &format!(
            "\nToo narrow for {}; a wider terminal or `-o json` has them.\n",
            columns.left_out.join(", ")
        );
    }
    text
}

/// A table; every row, and each of the others, is as long as `heads`.
pub(in crate::cli) struct Fitted {
    pub heads: Vec<&'static str>,
    /// Whether a column holds figures.
    pub figures: Vec<bool>,
    /// Characters of the widest cell, the head too.
    pub widths: Vec<usize>,
    pub rows: Vec<Vec<String>>,
    /// Heads of the columns that did not fit.
    pub left_out: Vec<&'static str>,
}

/// What fits into `width` characters, with two between columns; everything without one.
pub(in crate::cli) fn fit(listeners: &[&ListenerQueues], width: Option<usize>) -> Fitted {
    let mut columns: Vec<_> = COLUMNS
        .iter()
        .map(|column| {
            let cells: Vec<_> = listeners.iter().map(|l| (column.cell)(l)).collect();
            let widest = cells.iter().map(|cell| cell.chars().count()).max();
            let width = widest.unwrap_or(0).max(column.head.len());
            (column, cells, width)
        })
        .collect();
    let mut left_out = Vec::new();
    for head in DISPENSABLE {
        let total: usize = columns.iter().map(|(.., width)| width + 2).sum();
        if width.is_none_or(|width| total <= width + 2) {
            break;
        }
        columns.retain(|(column, ..)| column.head != head);
        left_out.push(head);
    }
    let rows = (0..listeners.len())
        .map(|row| {
            columns
                .iter()
                .map(|(_, cells, _)| cells[row].clone())
                .collect()
        })
        .collect();
    Fitted {
        heads: columns.iter().map(|(column, ..)| column.head).collect(),
        figures: columns.iter().map(|(column, ..)| column.figures).collect(),
        widths: columns.iter().map(|(.., width)| *width).collect(),
        rows,
        left_out,
    }
}

fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| MISSING.to_owned())
}

/// Nothing where nothing was measured.
fn handshake(listener: &ListenerQueues) -> String {
    let Some(handshake) = &listener.handshake else {
        return MISSING.to_owned();
    };
    match (handshake.p50_us, handshake.p99_us) {
        (Some(p50), Some(p99)) => format!("{}/{}", micros(p50), micros(p99)),
        _ => String::new(),
    }
}

fn wait(listener: &ListenerQueues) -> String {
    match &listener.accept_wait {
        None => MISSING.to_owned(),
        Some(wait) => wait.mean_us.map_or(String::new(), micros),
    }
}

fn cookies(listener: &ListenerQueues) -> String {
    if !listener.protected {
        return MISSING.to_owned();
    }
    format!(
        "{}/{}/{}",
        count(listener.cookies_sent),
        count(listener.cookies_proven),
        count(listener.cookies_failed)
    )
}

pub(super) fn name_and_owner(listener: &ListenerQueues) -> String {
    match processes(listener) {
        Some(owner) => format!("{} ({owner})", name(listener)),
        None => name(listener),
    }
}

fn cookies_now(listeners: &[&ListenerQueues]) -> String {
    let names: Vec<_> = listeners
        .iter()
        .filter(|l| l.cookies_now)
        .map(|l| name(l))
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!("\nSYN cookies at present: {}\n", some(&names))
}

/// Those without cookies, by reason.
fn left_to_kernel(listeners: &[&ListenerQueues]) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for listener in listeners.iter().filter(|l| !l.protected) {
        let why = listener.why_not.as_deref().unwrap_or("no reason known");
        reasons.entry(why).or_default().push(name(listener));
    }
    let mut text = String::new();
    for (why, names) in reasons {
        // All alike, as without an agent: no need to name them.
        let names = if names.len() > NAMED && names.len() == listeners.len() {
            "all".to_owned()
        } else {
            some(&names)
        };
        text += &format!("\nleft to the kernel: {names}: {why}\n");
    }
    text
}

/// The first names of a list that may be long.
pub(super) fn some(names: &[String]) -> String {
    match names.len().saturating_sub(NAMED) {
        0 => names.join(", "),
        more => format!("{} and {more} more", names[..NAMED].join(", ")),
    }
}

/// Which figures cannot be told, and why; a line for each reason.
pub(super) fn missing_sources(queues: &Queues) -> String {
    let mut reasons: Vec<(&str, Vec<String>)> = Vec::new();
    for source in &queues.sources {
        let Some(why) = source.missing.as_deref() else {
            continue;
        };
        let what = format!("{} ({})", source.tells, source.name);
        match reasons.iter_mut().find(|reason| reason.0 == why) {
            Some((_, all)) => all.push(what),
            None => reasons.push((why, vec![what])),
        }
    }
    let lines = reasons
        .into_iter()
        .map(|(why, what)| format!("Missing: {}: {why}\n", what.join("; ")));
    match lines.collect::<String>() {
        none if none.is_empty() => none,
        lines => format!("\n{lines}"),
    }
}

/// A verdict in full; `of`: what it is about.
pub(super) fn told(of: &str, verdict: &Verdict) -> String {
    let mut text = tone(&format!("{of}: {}", verdict.kind.name()), Tone::Bad);
    text += &format!(
        " since {}, {} confidence\n  {}\n",
        time(verdict.since),
        verdict.confidence.name(),
        verdict.sentence
    );
    for evidence in &verdict.evidence {
        text += &format!("  - {evidence}\n");
    }
    for fix in &verdict.fixes {
        text += &format!("  Fix: {}\n", fix.what);
        if let Some(command) = &fix.command {
            for line in command.lines() {
                text += &format!("       {line}\n");
            }
        }
    }
    text
}
