//! Figures of listeners, added up by port.

use std::{collections::BTreeMap, fmt};

use prometheus_client::registry::Unit;

use super::{exposition::Page, page::flag};
use crate::control::queues::{ListenerQueues, Queues, States, VerdictKind};

/// Ports with figures of their own, lowest first, so that nobody who may only open high ports can displace the others;
/// those beyond them are added up as port `other`.
pub(super) const PORTS: usize = 128;

/// The listeners of a port, with its label.
type Port<'a> = (String, Vec<&'a ListenerQueues>);

pub(super) fn write(page: &mut Page<'_>, queues: &Queues) -> fmt::Result {
    let listeners = &queues.listeners;
    let protected = listeners.iter().filter(|l| l.protected).count();
    page.gauges(
        "listeners",
        None,
        "TCP listeners, by whether they get SYN cookies when they need them",
        [("true", protected), ("false", listeners.len() - protected)]
            .map(|(protected, count)| ([("protected", protected.to_owned())], count)),
    )?;
    let ports = by_port(listeners);
    lengths(page, &ports)?;
    packets(page, &ports)?;
    connections(page, &ports)?;
    page.gauges(
        "listener_verdict",
        None,
        "1 for each verdict about a port that holds; healthy stands for none other (netmoat queues PORT says what to do)",
        ports.iter().flat_map(|(port, of)| {
            let kinds = verdicts(of).into_iter();
            kinds.map(|kind| {
                let labels = [("port", port.clone()), ("verdict", kind.name().to_owned())];
                (labels, 1)
            })
        }),
    )
}

fn by_port(listeners: &[ListenerQueues]) -> Vec<Port<'_>> {
    let mut of: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for listener in listeners {
        of.entry(listener.port).or_default().push(listener);
    }
    let (mut ports, mut others): (Vec<Port<'_>>, Vec<_>) = (Vec::new(), Vec::new());
    for (port, listeners) in of {
        if ports.len() < PORTS {
            ports.push((port.to_string(), listeners));
        } else {
            others.extend(listeners);
        }
    }
    if !others.is_empty() {
        ports.push(("other".to_owned(), others));
    }
    ports
}

/// What holds of any listener; healthy only when nothing else does.
fn verdicts(listeners: &[&ListenerQueues]) -> Vec<VerdictKind> {
    let all = listeners.iter().flat_map(|listener| &listener.verdicts);
    let mut kinds: Vec<_> = all.map(|verdict| verdict.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.len() > 1 {
        kinds.retain(|kind| *kind != VerdictKind::Healthy);
    }
    kinds
}

fn sum(listeners: &[&ListenerQueues], of: impl Fn(&ListenerQueues) -> u64) -> u64 {
    listeners.iter().map(|listener| of(listener)).sum()
}

fn lengths(page: &mut Page<'_>, ports: &[Port<'_>]) -> fmt::Result {
    type Figure = fn(&ListenerQueues) -> u64;
    let figures: [(&str, &str, Figure); 5] = [
        (
            "listener_syn_queue",
            "Handshakes that wait for the client's ACK",
            |l| l.syn_queue.into(),
        ),
        (
            "listener_syn_queue_limit",
            "Most handshakes that may wait for the client's ACK",
            |l| l.syn_queue_limit.into(),
        ),
        (
            "listener_accept_queue",
            "Connections that wait for accept()",
            |l| l.accept_queue.into(),
        ),
        (
            "listener_accept_queue_limit",
            "Most connections that may wait for accept() (the listen backlog)",
            |l| l.accept_queue_limit.into(),
        ),
        (
            "listener_cookies_active",
            "Listeners of the port whose SYNs are answered with cookies at present",
            |l| flag(l.cookies_now).into(),
        ),
    ];
    for (name, help, figure) in figures {
        page.gauges(name, None, help, rows(ports, figure))?;
    }
    page.gauges(
        "listener_accept_wait_oldest",
        Some(Unit::Seconds),
        "Lower bound of how long the first connection in the accept queue has waited",
        ports.iter().filter_map(|(port, of)| {
            let waits = of.iter().filter_map(|l| l.accept_wait.as_ref());
            let oldest_ms = waits.map(|wait| wait.oldest_ms).max()?;
            Some(([("port", port.clone())], oldest_ms as f64 / 1000.0))
        }),
    )
}

fn rows<'a>(
    ports: &'a [Port<'_>],
    figure: impl Fn(&ListenerQueues) -> u64 + Copy + 'a,
) -> impl Iterator<Item = ([(&'static str, String); 1], u64)> + 'a {
    ports
        .iter()
        .map(move |(port, of)| ([("port", port.clone())], sum(of, figure)))
}

fn packets(page: &mut Page<'_>, ports: &[Port<'_>]) -> fmt::Result {
    page.counters(
        "listener_syns",
        None,
        "SYNs to a protected port, by what became of them: cookie, left to the kernel, not answered as the accept queue \
         was full or as the prefix had its share of SYN-ACKs",
        labelled(ports, "fate", |l| {
            [
                ("cookie", l.cookies_sent),
                ("kernel", l.syns_passed),
                ("accept_full", l.accept_full_drops),
                ("syn_ack_limited", l.syn_ack_limited),
            ]
        }),
    )?;
    page.counters(
        "listener_cookies",
        None,
        "ACKs that claimed a cookie, by whether they proved one",
        labelled(ports, "outcome", |l| {
            [("proven", l.cookies_proven), ("false", l.cookies_failed)]
        }),
    )?;
    page.counters(
        "listener_handshakes",
        None,
        "Proven ACKs, by whether the kernel made a connection of them",
        labelled(ports, "outcome", |l| {
            [("made", l.handshakes), ("refused", l.handshakes_refused)]
        }),
    )
}

fn connections(page: &mut Page<'_>, ports: &[Port<'_>]) -> fmt::Result {
    page.counters(
        "listener_connections",
        None,
        "Connections by the stage that they came to, since netmoat knows the listener",
        labelled(ports, "stage", |l| {
            let funnel = &l.funnel;
            [
                ("completed", funnel.proven.unwrap_or_default()),
                ("accepted", funnel.accepted.unwrap_or_default()),
                ("closed", funnel.closed.unwrap_or_default()),
                ("reset", funnel.reset.unwrap_or_default()),
            ]
        }),
    )?;
    page.gauges(
        "listener_sockets",
        None,
        "Connections by TCP state, at the last walk of the kernel's table",
        labelled(ports, "state", |l| states(l.states.unwrap_or_default())),
    )?;
    page.counters(
        "listener_dropped_segments",
        None,
        "Segments dropped at the sockets of a port since they listen (sk_drops)",
        rows(ports, |l| {
            l.sockets.iter().map(|socket| u64::from(socket.drops)).sum()
        }),
    )
}

fn states(states: States) -> [(&'static str, u64); 8] {
    [
        ("syn_recv", states.syn_recv),
        ("established", states.established),
        ("fin_wait_1", states.fin_wait_1),
        ("fin_wait_2", states.fin_wait_2),
        ("close_wait", states.close_wait),
        ("last_ack", states.last_ack),
        ("closing", states.closing),
        ("time_wait", states.time_wait),
    ]
    .map(|(state, count)| (state, count.into()))
}

/// A row for each port and value of a second label.
fn labelled<'a, const N: usize>(
    ports: &'a [Port<'_>],
    label: &'static str,
    figures: impl Fn(&ListenerQueues) -> [(&'static str, u64); N] + 'a,
) -> impl Iterator<Item = ([(&'static str, String); 2], u64)> + 'a {
    ports.iter().flat_map(move |(port, of)| {
        let mut sums = figures(&ListenerQueues::default());
        for listener in of {
            for (sum, (_, figure)) in sums.iter_mut().zip(figures(listener)) {
                sum.1 += figure;
            }
        }
        sums.map(|(value, sum)| ([("port", port.clone()), (label, value.to_owned())], sum))
    })
}
