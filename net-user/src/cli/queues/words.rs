//! Names and figures of listeners, short enough for a column.

use serde::{Serialize, de::DeserializeOwned};

use crate::control::queues::{Bucket, ListenerQueues, Verdict, VerdictKind};

/// What stands for a figure whose source is missing.
pub(in crate::cli) const MISSING: &str = "-";

/// The same with spaces in place of what a terminal could obey or be confused by: names of processes and units are
/// chosen by whoever runs them.
pub(in crate::cli) fn printable<T: Serialize + DeserializeOwned>(
    value: &T,
) -> serde_json::Result<T> {
    let mut json = serde_json::to_value(value)?;
    clean(&mut json, false);
    serde_json::from_value(json)
}

/// `lines`: it may have several, as the text of a config has.
fn clean(value: &mut serde_json::Value, lines: bool) {
    let is_odd = |c: char| is_unsafe(c) && !(lines && c == '\n');
    match value {
        serde_json::Value::String(text) if text.chars().any(is_odd) => {
            *text = text
                .chars()
                .map(|c| if is_odd(c) { ' ' } else { c })
                .collect();
        }
        serde_json::Value::Array(values) => {
            values.iter_mut().for_each(|value| clean(value, lines));
        }
        serde_json::Value::Object(fields) => fields
            .iter_mut()
            .for_each(|(name, value)| clean(value, name == "command")),
        _ => {}
    }
}

/// Control characters, and those that turn the direction of writing (UAX #9 section 2).
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// `0.0.0.0:443`, `[::]:443`, `0.0.0.0%eth0:443`, as `ss` writes them.
pub(in crate::cli) fn name(listener: &ListenerQueues) -> String {
    let interface = listener.interface.as_deref();
    let interface = interface.map_or(String::new(), |name| format!("%{name}"));
    let (address, port) = (&listener.address, listener.port);
    if listener.family == 6 {
        format!("[{address}]{interface}:{port}")
    } else {
        format!("{address}{interface}:{port}")
    }
}

/// The names of the processes that listen, each once; `None` when none is known.
pub(in crate::cli) fn processes(listener: &ListenerQueues) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    let owners = listener.sockets.iter().filter_map(|s| s.process.as_ref());
    for owner in owners {
        if !names.contains(&owner.name.as_str()) {
            names.push(&owner.name);
        }
    }
    (!names.is_empty()).then(|| names.join(","))
}

/// Segments dropped at its sockets.
pub(in crate::cli) fn drops(listener: &ListenerQueues) -> u64 {
    listener.sockets.iter().map(|s| u64::from(s.drops)).sum()
}

/// The gravest verdict; `None` from an agent that gives none.
pub(in crate::cli) fn gravest(listener: &ListenerQueues) -> Option<&Verdict> {
    listener.verdicts.first()
}

/// What is wrong, gravest first.
pub(in crate::cli) fn troubles(verdicts: &[Verdict]) -> impl Iterator<Item = &Verdict> {
    verdicts.iter().filter(|v| v.kind != VerdictKind::Healthy)
}

/// The name of the gravest verdict, and how many more there are: `syn_flood`, `syn_flood +1`.
pub(in crate::cli) fn standing(listener: &ListenerQueues) -> String {
    let more = troubles(&listener.verdicts).count().saturating_sub(1);
    match gravest(listener) {
        None => MISSING.to_owned(),
        Some(verdict) if more > 0 => format!("{} +{more}", verdict.kind.name()),
        Some(verdict) => verdict.kind.name().to_owned(),
    }
}

/// At most five characters: `9999`, `12k`, `1.2M`.
pub(in crate::cli) fn count(count: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (1_000_000_000_000, "T"),
        (1_000_000_000, "G"),
        (1_000_000, "M"),
        (1_000, "k"),
    ];
    if count < 10_000 {
        return count.to_string();
    }
    match UNITS.iter().find(|(unit, _)| count >= *unit) {
        Some((unit, name)) if count < unit * 10 => {
            format!("{}.{}{name}", count / unit, count % unit * 10 / unit)
        }
        Some((unit, name)) => format!("{}{name}", count / unit),
        None => count.to_string(),
    }
}

/// A figure whose source may be missing.
pub(in crate::cli) fn count_or_dash(figure: Option<u64>) -> String {
    figure.map_or_else(|| MISSING.to_owned(), count)
}

/// A time of microseconds: `850us`, `1.2ms`, `2ms`, `12ms`, `1.2s`, `90s`.
pub(in crate::cli) fn micros(us: u64) -> String {
    let (unit, name) = match us {
        0..1_000 => return format!("{us}us"),
        1_000..1_000_000 => (1_000, "ms"),
        _ => (1_000_000, "s"),
    };
    match (us / unit, us % unit * 10 / unit) {
        (whole @ ..10, tenths @ 1..) => format!("{whole}.{tenths}{name}"),
        (whole, _) => format!("{whole}{name}"),
    }
}

/// A time of milliseconds, likewise.
pub(in crate::cli) fn millis(ms: u64) -> String {
    micros(ms.saturating_mul(1_000))
}

/// A part of a whole, in words: `12 %`, `under 1 %`.
pub(in crate::cli) fn share(part: u64, whole: u64) -> String {
    match (part.saturating_mul(100) + whole / 2).checked_div(whole) {
        None => String::new(),
        Some(0) if part > 0 => "under 1 %".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}

/// How many of `width` cells a part of a whole takes; some is never none, and none is never some.
pub(in crate::cli) fn cells(part: u64, whole: u64, width: usize) -> usize {
    if part == 0 || whole == 0 || width == 0 {
        return 0;
    }
    let width_wide = width as u64;
    let cells = part.min(whole).saturating_mul(width_wide) / whole;
    usize::try_from(cells).unwrap_or(width).clamp(1, width)
}

/// The stages of a funnel, each with its figure and how far in it stands.
pub(in crate::cli) fn stages(
    listener: &ListenerQueues,
) -> [(&'static str, usize, Option<u64>); 10] {
    let f = &listener.funnel;
    [
        ("SYNs seen", 0, f.syns),
        ("answered with a cookie", 1, f.answered_cookie),
        ("left to the kernel", 1, f.left_to_kernel),
        ("not answered", 1, f.not_answered),
        ("completed", 0, f.proven),
        ("of these by a cookie", 1, f.proven_cookie),
        ("accepted", 0, f.accepted),
        ("closed in order", 1, f.closed),
        ("reset or timed out", 1, f.reset),
        ("still open", 1, f.open),
    ]
}

/// The largest stage, which the others are shown against.
pub(in crate::cli) fn widest(listener: &ListenerQueues) -> u64 {
    let figures = stages(listener).into_iter().filter_map(|stage| stage.2);
    figures.max().unwrap_or(0)
}

/// The largest bucket.
pub(in crate::cli) fn tallest(buckets: &[Bucket]) -> u64 {
    buckets.iter().map(|b| b.count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queues::{ListenerSocket, Owner};

    #[test]
    fn figures_are_short() {
        for (figure, text) in [
            (0, "0"),
            (9_999, "9999"),
            (10_000, "10k"),
            (999_999, "999k"),
            (1_000_000, "1.0M"),
            (12_345_678, "12M"),
            (9_900_000_000, "9.9G"),
            (u64::MAX, "18446744T"),
        ] {
            assert_eq!(count(figure), text);
        }
        for (us, text) in [
            (0, "0us"),
            (999, "999us"),
            (1_250, "1.2ms"),
            (2_000, "2ms"),
            (12_000, "12ms"),
            (1_290_000, "1.2s"),
            (63_000_000, "63s"),
        ] {
            assert_eq!(micros(us), text);
        }
        assert_eq!(millis(u64::MAX), micros(u64::MAX));
    }

    #[test]
    fn some_is_never_shown_as_none() {
        assert_eq!(
            (share(1, 1000), share(0, 9)),
            ("under 1 %".into(), "0 %".into())
        );
        assert_eq!((share(1, 3), share(1, 0)), ("33 %".into(), String::new()));
        assert_eq!(
            [cells(0, 9, 10), cells(1, 1000, 10), cells(9, 9, 10)],
            [0, 1, 10]
        );
        assert_eq!(
            [cells(20, 9, 10), cells(1, 0, 10), cells(u64::MAX, 9, 10)],
            [10, 0, 10]
        );
    }

    #[test]
    fn what_a_process_calls_itself_does_not_reach_the_terminal() {
        let listener = ListenerQueues {
            sockets: vec![ListenerSocket {
                process: Some(Owner {
                    name: "\u{1b}]0;x\u{7}\u{9b}2J\u{202e}\n".to_owned(),
                    ..Owner::default()
                }),
                ..ListenerSocket::default()
            }],
            ..ListenerQueues::default()
        };
        let clean = printable(&listener).unwrap();
        assert_eq!(processes(&clean).unwrap(), " ]0;x  2J  ");
        assert_eq!(clean.mode, listener.mode);
    }

    #[test]
    fn listeners_are_named_as_ss_does() {
        let mut listener = ListenerQueues {
            address: "::".to_owned(),
            port: 443,
            family: 6,
            ..ListenerQueues::default()
        };
        assert_eq!(name(&listener), "[::]:443");
        listener.interface = Some("eth0".to_owned());
        assert_eq!(name(&listener), "[::]%eth0:443");
        listener.family = 4;
        listener.address = "0.0.0.0".to_owned();
        assert_eq!(name(&listener), "0.0.0.0%eth0:443");
    }
}
