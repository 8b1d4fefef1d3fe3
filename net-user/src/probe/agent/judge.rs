//! Which layer it was, by what the agent saw: what the connection's own end cannot know.

use net_common::verdict::Reason;

use super::{AgentView, ListenerView, Syn, add, outcome, stage_mut};
use crate::{
    probe::{Finding, Layer, Outcome, Stage},
    reasons::stage_of,
};

/// Adds what follows from a view to the stages.
pub(super) fn judge(view: &mut AgentView, stages: &mut [Stage], connected: bool) {
    let tcp = outcome(stages, Layer::Tcp);
    let later = outcome(stages, Layer::Tls).max(outcome(stages, Layer::Http));
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
        add(stage, finding, true);
    } else if let Some(listener) = full.filter(|_| unanswered || later == Outcome::Failed) {
        add(stage, accept_full(listener), true);
    } else if unanswered && view.syn == Syn::Cookie {
        add(stage, cookie_lost(view), true);
    } else if unanswered && view.syn == Syn::Passed {
        add(stage, left_alone(view), true);
    } else if unanswered && view.syn == Syn::NotSeen && !view.loopback {
        // What the connection's own end says may be more precise.
        add(stage, never_came(view), false);
    }
    if connected && view.syn == Syn::Cookie {
        add(stage, by_cookie(view), false);
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
        add(stage, finding, false);
    }
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
        "netmoat on {} dropped {} from {} to {}, {} in all: {} ({}){by}",
        first.interface,
        match first.flags.as_str() {
            "SYN" => "the SYN",
            _ => "a segment",
        },
        first.from,
        first.to,
        view.drops.len(),
        first.reason,
        first.code,
    );
    Some(Finding::new("dropped_by_netmoat", bad, what).next(stage_of(reason).remedy))
}

fn accept_full(listener: &ListenerView) -> Finding {
    let what = format!(
        "the application behind {} port {} does not take its connections: {}, so its accept queue is full",
        listener.address,
        listener.port,
        listener.queues()
    );
    Finding::new("accept_queue_full", Outcome::Failed, what).next(format!(
        "look at what the application waits for (`netmoat queues {}`); a larger backlog helps against bursts alone",
        listener.port
    ))
}

fn cookie_lost(view: &AgentView) -> Finding {
    let place = view.interfaces.join(", ");
    let what = if view.proven {
        "netmoat answered the SYN with a cookie and its ACK came back, but no connection came of it"
            .to_owned()
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
            "netmoat let the SYN pass and the kernel did not answer: {}",
            listener.sentence.trim_end_matches('.')
        );
        return Finding::new("listener_overwhelmed", Outcome::Failed, what).next(format!(
            "`netmoat queues {}` has the evidence and what to do; a listener without cookies is not protected",
            listener.port
        ));
    }
    let what = format!(
        "the SYN arrived on {} and netmoat let it pass, but the host behind it did not answer",
        view.interfaces.join(", ")
    );
    let next = if view.listener.is_some() {
        "look for rules on the host that drop it (`nft list ruleset`), and whether the SYN-ACK leaves it (`tcpdump`)"
    } else {
        "nothing listens on that address and port: start the service, or look for rules that drop its answer (`nft list \
         ruleset`)"
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
