//! What follows from what an agent saw, without one.

use super::{
    judge::judge,
    view::{Place, Told},
    *,
};
use crate::{
    control::{queues::VerdictKind, watch::SeenSegment},
    probe::{Facts, Finding, tcp::TcpFacts},
};

const PORT: u16 = 443;
const CLIENT: &str = "192.0.2.9:40000";
const SERVER: &str = "192.0.2.1:443";

/// A segment from one end to the other, as the agent tells of it.
fn segment(from: &str, to: &str, flags: &str, reason: &str, action: &str) -> SeenSegment {
    let code = net_common::verdict::Reason::ALL
        .iter()
        .find(|r| r.name() == reason)
        .map(|r| *r as u32);
    SeenSegment {
        after_us: 1234,
        interface: "eth0".into(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        flags: flags.into(),
        code: code.unwrap(),
        reason: reason.into(),
        action: action.into(),
        observed: false,
        length: 74,
    }
}

fn syn(reason: &str, action: &str) -> SeenSegment {
    segment(CLIENT, SERVER, "SYN", reason, action)
}

fn cookie() -> SeenSegment {
    segment(SERVER, CLIENT, "SYN,ACK", "cookie_sent", "reply")
}

fn view(segments: Vec<SeenSegment>, listener: Option<ListenerView>) -> AgentView {
    told(segments, listener, ALL)
}

const ALL: Told = Told {
    all: true,
    passes: true,
};

fn told(segments: Vec<SeenSegment>, listener: Option<ListenerView>, told: Told) -> AgentView {
    let place = Place {
        interfaces: vec!["eth0".into()],
        observes: false,
        server: true,
        loopback: false,
    };
    AgentView::new(place, told, segments, PORT, listener)
}

/// The TCP stage, which ended with this finding, and an HTTP stage.
fn stages(tcp: Option<&str>, http: Outcome) -> Vec<Stage> {
    let stage = |layer, findings| {
        let facts = Facts::Tcp(TcpFacts::default());
        Stage::new(layer, (0, 0), "", findings, facts)
    };
    let findings = tcp.map(|code| Finding::new(code, Outcome::Failed, "no answer"));
    let later = Finding::new("http_timeout", http, "nothing came");
    vec![
        stage(Layer::Tcp, findings.into_iter().collect()),
        stage(Layer::Http, vec![later]),
    ]
}

fn listener_of(verdict: VerdictKind, accept_full: bool) -> ListenerView {
    ListenerView {
        address: "0.0.0.0".into(),
        port: PORT,
        accept_full,
        verdict,
        sentence: "As the agent has it.".into(),
        ..ListenerView::default()
    }
}

#[test]
fn what_failed_is_named_by_what_the_agent_saw() {
    let healthy = || Some(listener_of(VerdictKind::Healthy, false));
    let full = || Some(listener_of(VerdictKind::AcceptFull, true));
    let flooded = || Some(listener_of(VerdictKind::SynFlood, false));
    let passed = || vec![syn("syn_in_budget", "pass")];
    let (timeout, refused) = (Some("tcp_filtered"), Some("tcp_refused"));
    let (ok, failed) = (Outcome::Ok, Outcome::Failed);
    for (what, view, tcp, http, code) in [
        (
            "dropped",
            view(vec![syn("blocked", "drop")], healthy()),
            timeout,
            ok,
            "dropped_by_netmoat",
        ),
        (
            "dropped for a full queue",
            view(vec![syn("accept_full", "drop")], full()),
            timeout,
            ok,
            "accept_queue_full",
        ),
        (
            "dropped by the kernel for it",
            view(passed(), full()),
            timeout,
            ok,
            "accept_queue_full",
        ),
        (
            "never accepted",
            view(passed(), full()),
            None,
            failed,
            "accept_queue_full",
        ),
        (
            "never answered, and room",
            view(passed(), healthy()),
            None,
            failed,
            "",
        ),
        (
            "a cookie without an answer",
            view(vec![cookie()], healthy()),
            timeout,
            ok,
            "cookie_unanswered",
        ),
        (
            "drowned",
            view(passed(), flooded()),
            timeout,
            ok,
            "listener_overwhelmed",
        ),
        (
            "filtered behind",
            view(passed(), healthy()),
            timeout,
            ok,
            "not_answered_by_host",
        ),
        (
            "filtered before",
            view(Vec::new(), healthy()),
            timeout,
            ok,
            "tcp_filtered",
        ),
        ("refused", view(passed(), None), refused, ok, "tcp_refused"),
        (
            "all is well",
            view(vec![cookie()], healthy()),
            None,
            ok,
            "answered_by_cookie",
        ),
    ] {
        let mut view = view;
        let mut stages = stages(tcp, http);
        judge(&mut view, &mut stages, tcp.is_none());
        let [tcp_stage, _] = &stages[..] else {
            panic!("two stages")
        };
        let first = tcp_stage.findings.first();
        assert_eq!(
            first.map_or("", |f| &f.code),
            code,
            "{what}: {tcp_stage:#?}"
        );
        let worst = tcp_stage.findings.iter().map(|f| f.outcome).max();
        assert_eq!(tcp_stage.outcome, worst.unwrap_or(Outcome::Ok), "{what}");
        for finding in &tcp_stage.findings {
            assert!(!finding.what.ends_with('.'), "{what}: {}", finding.what);
        }
    }
}

/// A watch sees what its budget lets it: a busy client uses it up.
#[test]
fn nothing_is_concluded_from_what_is_missing_when_not_all_was_told() {
    let codes = |view: &AgentView| {
        let mut stages = stages(Some("tcp_filtered"), Outcome::Ok);
        judge(&mut view.clone(), &mut stages, false);
        let findings = std::mem::take(&mut stages[0].findings);
        findings.into_iter().map(|f| f.code).collect::<Vec<_>>()
    };
    let said = |view: &AgentView, word: &str| view.lines.iter().any(|line| line.contains(word));
    let whole = view(Vec::new(), None);
    assert_eq!(codes(&whole), ["tcp_filtered", "not_seen_by_netmoat"]);
    assert!(said(&whole, "saw nothing") && !said(&whole, "could not tell of all"));
    for some in [
        Told { all: false, ..ALL },
        Told {
            passes: false,
            ..ALL
        },
    ] {
        let view = told(Vec::new(), None, some);
        assert!(view.partial);
        assert_eq!(codes(&view), ["tcp_filtered"]);
        assert!(!said(&view, "saw nothing") && said(&view, "could not tell of all"));
    }
    // A long page alone is nothing to be told.
    let page = Told {
        passes: false,
        ..ALL
    };
    let view = told(vec![syn("syn_in_budget", "pass")], None, page);
    assert!(!view.partial && !said(&view, "could not tell of all"));
}

#[test]
fn who_is_blocked_is_the_source_of_what_was_dropped() {
    let answer = segment(SERVER, CLIENT, "SYN,ACK", "blocked", "drop");
    let server = "192.0.2.1".parse().unwrap();
    assert_eq!(view(vec![answer], None).blocked(), Some(server));
    let other = syn("tcp_flags", "drop");
    let client = "192.0.2.9".parse().unwrap();
    let both = vec![other.clone(), syn("blocked", "drop")];
    assert_eq!(view(both, None).blocked(), Some(client));
    assert_eq!(view(vec![other], None).blocked(), None);
}

#[test]
fn what_was_dropped_is_slow_where_the_connection_came_about() {
    let drop = segment(CLIENT, SERVER, "ACK", "cookie_false", "drop");
    let mut view = view(vec![syn("syn_in_budget", "pass"), drop], None);
    let mut stages = stages(None, Outcome::Ok);
    judge(&mut view, &mut stages, true);
    assert_eq!(
        (stages[0].outcome, stages[0].findings[0].code.as_str()),
        (Outcome::Slow, "dropped_by_netmoat")
    );
}

#[test]
fn of_several_syns_the_best_counts() {
    let dropped = || syn("blocked", "drop");
    let observed = || SeenSegment {
        observed: true,
        ..dropped()
    };
    let answer = |action| segment(SERVER, CLIENT, "SYN,ACK", "tcp_pass", action);
    let data = segment(CLIENT, SERVER, "ACK", "tcp_pass", "pass");
    for (segments, expected) in [
        (vec![], Syn::NotSeen),
        (vec![data.clone()], Syn::NotSeen),
        (vec![dropped(), dropped()], Syn::Dropped),
        (vec![dropped(), syn("syn_in_budget", "pass")], Syn::Passed),
        (
            vec![syn("syn_in_budget", "pass"), cookie(), data],
            Syn::Cookie,
        ),
        (vec![observed()], Syn::Passed),
        (vec![answer("pass")], Syn::Passed),
        (vec![answer("drop")], Syn::Dropped),
    ] {
        assert_eq!(view(segments.clone(), None).syn, expected, "{segments:?}");
    }
}

#[test]
fn the_lines_tell_the_handshake_and_what_was_dropped_and_no_more() {
    let data = segment(CLIENT, SERVER, "ACK", "tcp_pass", "pass");
    let healthy = listener_of(VerdictKind::Healthy, false);
    let lines = view(vec![cookie(), data], Some(healthy)).lines;
    assert_eq!(
        lines,
        [
            "SYN,ACK 192.0.2.1:443 → 192.0.2.9:40000 after 1.2 ms: sent in answer, with a cookie, cookie_sent (14)",
            "listener 0.0.0.0 port 443: 0 connections wait for accept(), of 0 that may, and 0 handshakes for their ACK; As \
             the agent has it.",
        ]
    );
    let lines = view(Vec::new(), None).lines;
    assert_eq!(lines, ["netmoat saw nothing of it on eth0"]);
}

#[test]
fn a_listener_is_found_as_the_kernel_finds_it() {
    let bound = |address: &str, port, dual_stack| ListenerQueues {
        address: address.into(),
        port,
        dual_stack,
        ..ListenerQueues::default()
    };
    let queues = |listeners: &[&ListenerQueues]| Queues {
        listeners: listeners.iter().copied().cloned().collect(),
        ..Queues::default()
    };
    let (one, any) = (
        bound("192.0.2.1", PORT, false),
        bound("0.0.0.0", PORT, false),
    );
    let (any6, dual) = (bound("::", PORT, false), bound("::", PORT, true));
    let other = bound("192.0.2.1", 80, false);
    for (listeners, end, expected) in [
        (&[&any, &one, &other][..], SERVER, Some("192.0.2.1")),
        (&[&one, &any], SERVER, Some("192.0.2.1")),
        (&[&one, &any], "192.0.2.2:443", Some("0.0.0.0")),
        (&[&any6, &other], SERVER, None),
        (&[&dual], SERVER, Some("::")),
        (&[&any, &any6], "[2001:db8::1]:443", Some("::")),
        (&[&any], "[2001:db8::1]:443", None),
    ] {
        let queues = queues(listeners);
        let found = listener(&queues, end.parse().unwrap());
        assert_eq!(found.map(|l| l.address.as_str()), expected, "{end}");
    }
}
