//! All there is to know of a listener.

use super::list::{name_and_owner, told};
use super::words::{
    MISSING, cells, count_or_dash, gravest, micros, millis, share, stages, tallest, troubles,
    widest,
};
use crate::cli::output::{Tone, age, plural, table, tone};
use crate::config::SynMode;
use crate::control::queues::{
    CLOSE_WAIT_OLD_S, Histogram, ListenerQueues, ListenerSocket, States, VerdictKind,
};

/// Characters of the longest bar.
const BAR: usize = 40;
/// How far the values stand from the left.
const LABEL: usize = 17;

pub(super) fn human(listener: &ListenerQueues) -> String {
    let mut text = headline(listener);
    for verdict in troubles(&listener.verdicts) {
        text += &format!("\n{}", told("Verdict", verdict));
    }
    text += &sockets(&listener.sockets);
    text += &queues(listener);
    text += &funnel(listener);
    text += &data_path(listener);
    text += &listener
        .states
        .as_ref()
        .map_or_else(|| "\nTCP states: not walked yet\n".to_owned(), states);
    text += &times("Handshake, SYN-ACK to ACK", listener.handshake.as_ref());
    let waits = listener.accept_wait.as_ref().map(|wait| &wait.histogram);
    text += &times("Wait for accept()", waits);
    text + &settings(listener)
}

fn line(label: &str, value: &str) -> String {
    format!("{label:LABEL$}{value}\n")
}

fn headline(listener: &ListenerQueues) -> String {
    let verdict = gravest(listener);
    let kind = verdict.map_or(MISSING, |v| v.kind.name());
    let how = match verdict.map(|v| v.kind) {
        Some(VerdictKind::Healthy) => Tone::Good,
        Some(_) => Tone::Bad,
        None => Tone::Plain,
    };
    let mut text = format!("{}: {}", name_and_owner(listener), tone(kind, how));
    if let Some(verdict) = verdict.filter(|v| v.kind == VerdictKind::Healthy) {
        text += &format!(". {}", verdict.sentence);
    }
    let family = match (listener.family, listener.dual_stack) {
        (4, _) => "IPv4",
        (_, true) => "IPv6 and IPv4",
        (_, false) => "IPv6",
    };
    let mode = match listener.mode {
        SynMode::Off => "off",
        SynMode::Auto => "auto",
        SynMode::Always => "always",
    };
    let cookies = match (&listener.why_not, listener.protected, listener.cookies_now) {
        (_, true, true) => "SYN cookies at present".to_owned(),
        (_, true, false) => "SYN cookies when needed".to_owned(),
        (why, false, _) => format!(
            "left to the kernel: {}",
            why.as_deref().unwrap_or("no reason known")
        ),
    };
    format!("{text}\n{family}, mode {mode}, {cookies}\n")
}

fn sockets(sockets: &[ListenerSocket]) -> String {
    if sockets.is_empty() {
        return String::new();
    }
    let rows = sockets.iter().map(|socket| {
        let owner = socket.process.as_ref();
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| MISSING.to_owned());
        vec![
            socket.inode.to_string(),
            or_dash(owner.map(|owner| owner.pid.to_string())),
            or_dash(owner.map(|owner| owner.name.clone())),
            or_dash(owner.and_then(|owner| owner.unit.clone())),
            format!("{}/{}", socket.accept_queue, socket.accept_queue_limit),
            socket.drops.to_string(),
        ]
    });
    let heads = ["INODE", "PID", "PROCESS", "UNIT", "ACCEPT QUEUE", "DROPS"];
    let group = match sockets.len() {
        1 => String::new(),
        many => format!("{many} sockets in a reuseport group:\n"),
    };
    format!("\n{group}{}", table(&heads, &[0, 1, 4, 5], rows))
}

fn queues(listener: &ListenerQueues) -> String {
    let mut syn = format!("{}/{}", listener.syn_queue, listener.syn_queue_limit);
    if let Some(oldest) = listener.syn_queue_oldest_ms {
        syn += &format!(", the oldest waits {}", millis(oldest));
    }
    if listener.syn_queue_acked > 0 {
        syn += &format!(
            "; {} answered already and wait for data or for room (TCP_DEFER_ACCEPT, full accept queue)",
            listener.syn_queue_acked
        );
    }
    let mut accept = format!("{}/{}", listener.accept_queue, listener.accept_queue_limit);
    if listener.accept_full {
        accept += ", accept queue full: the application does not keep up";
    }
    if let Some(wait) = &listener.accept_wait {
        if wait.oldest_ms > 0 {
            accept += &format!(", the first waits {} at least", millis(wait.oldest_ms));
        }
        if let Some(mean) = wait.mean_us {
            accept += &format!(", mean wait {}", micros(mean));
        }
    }
    let rates = &listener.rates;
    let funnel = &listener.funnel;
    // A rate whose source is missing stands at 0.
    let of = |source: Option<u64>, rate: u64| count_or_dash(source.map(|_| rate));
    format!("\n{}", line("SYN queue", &syn))
        + &line("Accept queue", &accept)
        + &line(
            "A second",
            &format!(
                "{} SYNs, {} cookies, {} completed, {} accepted, {} reset, {} dropped, {} SYN-ACKs again",
                of(funnel.syns, rates.syns),
                of(funnel.answered_cookie, rates.cookies),
                of(funnel.proven, rates.connections),
                of(funnel.accepted, rates.accepted),
                of(funnel.reset, rates.resets),
                rates.drops,
                of(listener.syn_ack_retransmits, rates.syn_ack_retransmits)
            ),
        )
}

fn funnel(listener: &ListenerQueues) -> String {
    let whole = widest(listener);
    let mut text = format!(
        "\nFrom the first SYN to the end, in {}\n",
        age(listener.funnel.since_s)
    );
    for (name, inset, figure) in stages(listener) {
        let label = format!("{:1$}{name}", "", inset * 2);
        let shown = figure.map_or_else(|| MISSING.to_owned(), |n| n.to_string());
        let bar = "#".repeat(cells(figure.unwrap_or(0), whole, BAR));
        let part = figure.map_or(String::new(), |n| share(n, whole));
        text += format!("  {label:24}  {shown:>12}  {part:>9}  {bar}").trim_end();
        text.push('\n');
    }
    text
}

/// What netmoat did for it.
fn data_path(listener: &ListenerQueues) -> String {
    let mut text = String::from("\n");
    if listener.protected {
        text += &line(
            "Cookies",
            &format!(
                "{} sent, {} proven, {} false",
                listener.cookies_sent, listener.cookies_proven, listener.cookies_failed
            ),
        );
        let mut rest = format!(
            "{} by cookie, {} SYNs left to the kernel",
            plural(listener.handshakes, "connection"),
            listener.syns_passed
        );
        for (count, what) in [
            (listener.handshakes_refused, "refused by the kernel"),
            (
                listener.accept_full_drops,
                "SYNs not answered: accept queue full",
            ),
            (
                listener.syn_ack_limited,
                "SYNs not answered: their prefix had its share",
            ),
        ] {
            if count > 0 {
                rest += &format!(", {count} {what}");
            }
        }
        text += &line("Handshakes", &rest);
    }
    if let Some(budget) = &listener.budget {
        text += &line(
            "Budget",
            &format!(
                "{} plain handshakes a second, configured {}; {} half-open when it was set",
                thousandths(budget.milli_per_second),
                thousandths(budget.configured_milli_per_second),
                budget.estimated_syn_queue
            ),
        );
    }
    text += &line(
        "SYN-ACKs again",
        &format!(
            "{}, {} connections late, {} resets from peers",
            count_or_dash(listener.syn_ack_retransmits),
            count_or_dash(listener.established_late),
            count_or_dash(listener.resets_received)
        ),
    );
    text + &sources(listener)
}

/// `100`, `12.5`, `0.002`.
fn thousandths(milli: u64) -> String {
    let text = format!("{}.{:03}", milli / 1000, milli % 1000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn sources(listener: &ListenerQueues) -> String {
    let distinct = listener.distinct_sources.map_or_else(
        || MISSING.to_owned(),
        |n| format!("about {n} different in ten seconds"),
    );
    let mut text = line("Sources of SYNs", &distinct);
    for source in &listener.top_sources {
        let share = format!("{}.{} %", source.per_mille / 10, source.per_mille % 10);
        text += &line("", &format!("{share:>7}  {}", source.address));
    }
    text
}

/// Those there are, leaks marked.
fn states(states: &States) -> String {
    let marks = |count: u32, words: &str| {
        if count == 0 {
            String::new()
        } else {
            format!("{count} {words}")
        }
    };
    let rows = [
        ("SYN_SENT", states.syn_sent, String::new()),
        ("SYN_RECV", states.syn_recv, String::new()),
        ("ESTABLISHED", states.established, String::new()),
        (
            "FIN_WAIT_1",
            states.fin_wait_1,
            marks(states.fin_wait_1_retransmitting, "send their FIN again"),
        ),
        (
            "FIN_WAIT_2",
            states.fin_wait_2,
            marks(
                states.fin_wait_2_orphaned,
                "without a process, until tcp_fin_timeout",
            ),
        ),
        ("CLOSING", states.closing, String::new()),
        (
            "CLOSE_WAIT",
            states.close_wait,
            marks(
                states.close_wait_old,
                &format!("not closed by the application for over {CLOSE_WAIT_OLD_S} s"),
            ),
        ),
        (
            "LAST_ACK",
            states.last_ack,
            marks(states.last_ack_retransmitting, "send their FIN again"),
        ),
        ("TIME_WAIT", states.time_wait, String::new()),
    ];
    let rows: Vec<_> = rows
        .into_iter()
        .filter(|row| row.1 > 0)
        .map(|(name, count, mark)| vec![name.to_owned(), count.to_string(), mark])
        .collect();
    if rows.is_empty() {
        return "\nTCP states: no connection\n".to_owned();
    }
    format!("\n{}", table(&["STATE", "CONNECTIONS", ""], &[1], rows))
}

fn times(what: &str, histogram: Option<&Histogram>) -> String {
    let Some(histogram) = histogram else {
        return format!("\n{what}: {MISSING}\n");
    };
    let (Some(p50), Some(p90), Some(p99)) = (histogram.p50_us, histogram.p90_us, histogram.p99_us)
    else {
        return format!("\n{what}: none measured yet\n");
    };
    let mut text = format!(
        "\n{what}: {} measured, p50 under {}, p90 under {}, p99 under {}\n",
        histogram.count,
        micros(p50),
        micros(p90),
        micros(p99)
    );
    let whole = tallest(&histogram.buckets);
    for bucket in &histogram.buckets {
        text += &format!(
            "  under {:>6}  {:>10}  {}\n",
            micros(bucket.below_us),
            bucket.count,
            "#".repeat(cells(bucket.count, whole, BAR))
        );
    }
    text
}

/// Kernel settings with their effect here, and how long a half-open connection lives.
fn settings(listener: &ListenerQueues) -> String {
    let mut text = String::new();
    if listener.half_open_life_ms > 0 {
        let again: Vec<_> = listener
            .syn_ack_schedule_ms
            .iter()
            .map(|&ms| millis(ms))
            .collect();
        let again = if again.is_empty() {
            "an unanswered SYN-ACK is not sent again".to_owned()
        } else {
            format!(
                "an unanswered SYN-ACK is sent again after {}",
                again.join(", ")
            )
        };
        text += &format!(
            "\nHalf-open: {again}; given up after {}\n",
            millis(listener.half_open_life_ms)
        );
    }
    if listener.settings.is_empty() {
        return text;
    }
    text += "\nSettings of the kernel, and what they do here:\n";
    for setting in &listener.settings {
        text += &format!(
            "  {} = {}\n      {}\n",
            setting.name, setting.value, setting.effect
        );
    }
    text
}
