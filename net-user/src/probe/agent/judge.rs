//! Which layer it was, by what the agent saw: what the connection's own end cannot know.

use net_common::verdict::Reason;

use super::{AgentView, ListenerView, Syn, outcome, stage_mut};
use crate::{
    probe::{Finding, Layer, Outcome, Stage, tcp::accept_queue_full},
    reasons::stage_of,
};

/// Adds what follows from a view to the stages.
pub(super) fn judge(view: &mut AgentView, stages: &mut [Stage], connected: bool) {
    let tcp = outcome(stages, Layer::Tcp);
    let later = match stages.iter().any(is_broken_off) {
        true => Outcome::Failed,
        false => Outcome::Ok,
    };
    let refused = stages
        .iter()
        .filter(|stage| stage.layer == Layer::Tcp)
        .flat_map(|stage| &stage.findings)
        .any(|finding| finding.code == "tcp_refused");
    let Some(stage) = stage_mut(stages, Layer::Tcp) else {
        return;
    };
    let failed = !connected && tcp == Outcome::Failed;
    let unanswered = failed && !refused && view.server;
    let full = view.listener.as_ref().filter(|l| l.accept_full);
    if let Some(finding) = dropped(view, failed, later) {
        view.lines.push(finding.what.clone());
        stage.add_first(finding);
    } else if let Some(listener) = full.filter(|_| unanswered || later == Outcome::Failed) {
        // On one host both ends may know it.
        if !stage.findings.iter().any(|f| f.code == "accept_queue_full") {
            stage.add_first(accept_full(listener));
        }
    } else if unanswered && view.syn == Syn::Cookie {
        stage.add_first(cookie_lost(view));
    } else if unanswered && view.syn == Syn::Passed {
        stage.add_first(left_alone(view));
    } else if unanswered && view.syn == Syn::NotSeen && !view.loopback && !view.partial {
        // What the connection's own end says may be more precise.
        stage.add(never_came(view));
    }
    if connected && view.syn == Syn::Cookie {
        stage.add(by_cookie(view));
    }
    if let Some(listener) = view.listener.as_ref().filter(|l| l.flooded()) {
        let what = format!(
            "the listener is under attack meanwhile: {}",
            listener.sentence.trim_end_matches('.')
        );
        let finding = Finding::new("listener_flooded", Outcome::Ok, what).next(format!(
            "`netmoat queues {}` has the evidence and what to do",
            listener.port
        ));
        stage.add(finding);
    }
}

/// Whether TLS or HTTP failed since the connection did. A bad certificate, or a 502, came over one that works.
fn is_broken_off(stage: &Stage) -> bool {
    const CODES: [&str; 12] = [
        "tls_timeout",
        "tls_reset",
        "tls_closed",
        "http_timeout",
        "http_body_timeout",
        "http_reset",
        "http_reset_before_answer",
        "http_closed_before_answer",
        "http_connection_lost",
        "http_cut",
        "http_failed",
        "tls_failed",
    ];
    stage.outcome == Outcome::Failed
        && matches!(stage.layer, Layer::Tls | Layer::Http)
        && stage
            .findings
            .iter()
            .any(|f| CODES.contains(&f.code.as_str()))
}

/// Of what netmoat has dropped.
fn dropped(view: &AgentView, failed: bool, later: Outcome) -> Option<Finding> {
    let first = view.drops.first()?;
    let reason = Reason::from_number(first.code)?;
    if reason == Reason::AcceptFull
        && let Some(listener) = &view.listener
        && failed
    {
        return Some(accept_full(listener));
    }
    let bad = if failed || later == Outcome::Failed {
        Outcome::Failed
    } else {
        Outcome::Slow
    };
    let by = view
        .blocked_by
        .as_ref()
        .map_or(String::new(), |entry| format!(", by {entry}"));
    let what = format!(
        "netmoat on {} dropped {} from {} to {}, {}{} in all: {} ({}){by}",
        first.interface,
        match first.flags.as_str() {
            "SYN" => "the SYN",
            _ => "a segment",
        },
        first.from,
        first.to,
        if view.partial { "at least " } else { "" },
        view.drops.len(),
        first.reason,
        first.code,
    );
    Some(Finding::new("dropped_by_netmoat", bad, what).next(stage_of(reason).remedy))
}

fn accept_full(listener: &ListenerView) -> Finding {
    let place = format!("{} port {}", listener.address, listener.port);
    let queue = (listener.accept_queue, listener.accept_queue_limit);
    accept_queue_full(&place, listener.port, queue)
}

fn cookie_lost(view: &AgentView) -> Finding {
    let place = view.interfaces.join(", ");
    let what = if view.proven {
        "netmoat answered the SYN with a cookie and its ACK came back, but no connection came of it"
            .to_owned()
    } else if view.partial {
        format!("netmoat on {place} answered the SYN with a cookie, and no connection came of it")
    } else {
        format!("netmoat on {place} answered the SYN with a cookie, and no ACK to it came back")
    };
    Finding::new("cookie_unanswered", Outcome::Failed, what).next(
        "look for what filters or loses the SYN-ACK on the way back to the client: a firewall that saw no SYN, or a way \
         back by another router",
    )
}

fn left_alone(view: &AgentView) -> Finding {
    let flooded = view.listener.as_ref().filter(|l| l.flooded());
    if let Some(listener) = flooded {
        let what = format!(
            "netmoat let the SYN pass, and no answer reached the client: {}",
            listener.sentence.trim_end_matches('.')
        );
        return Finding::new("listener_overwhelmed", Outcome::Failed, what).next(format!(
            "`netmoat queues {}` has the evidence and what to do; a listener without cookies is not protected",
            listener.port
        ));
    }
    let what = format!(
        "the SYN arrived on {} and netmoat let it pass, and no answer reached the client",
        view.interfaces.join(", ")
    );
    let next = if view.listener.is_some() {
        "look for rules on the host that drop it (`nft list ruleset`), and whether the SYN-ACK leaves it (`tcpdump`): if it \
         does, it is lost on the way back"
    } else {
        "netmoat knows of no listener there, but that alone would give a RST: look for rules on the host that drop the SYN or \
         the RST (`nft list ruleset`), and whether an answer leaves it (`tcpdump`): if one does, it is lost on the way back"
    };
    Finding::new("not_answered_by_host", Outcome::Failed, what).next(next)
}

fn never_came(view: &AgentView) -> Finding {
    let what = format!(
        "no SYN of ours arrived on {}, where netmoat watches the server's host",
        view.interfaces.join(", ")
    );
    Finding::new("not_seen_by_netmoat", Outcome::Failed, what).next(
        "look for a firewall or a wrong route before the host, and whether the address is reached by another of its \
         interfaces",
    )
}

fn by_cookie(view: &AgentView) -> Finding {
    let proven = if view.proven {
        ", which the client's ACK proved"
    } else {
        ""
    };
    let what = format!(
        "netmoat on {} answered the SYN with a cookie{proven}",
        view.interfaces.join(", ")
    );
    Finding::new("answered_by_cookie", Outcome::Ok, what)
}
