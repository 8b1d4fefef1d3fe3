//! What is to be said of a look-up: which cause, on what evidence, and what to do next.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use hickory_resolver::proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{
    answer::{QueryFacts, shown},
    config::{Config, ServersFrom},
    facts::{added, joined, place},
    lookup::{Looked, Meaning, addresses, chain, is_lame, meaning, timed_out},
    query::{Asked, Silence},
};
use crate::probe::{Family, Finding, Outcome};

/// What a server that was of no use did, from the cause that says most to the one that says least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Its answer is too long for UDP, and TCP to it does not work.
    TcpBlocked,
    /// SERVFAIL.
    Failure,
    /// REFUSED.
    Refused,
    /// Another error code.
    Error,
    /// It does not look up for others, and does not own the zone.
    NoRecursion,
    /// No DNS message.
    Malformed,
    /// Nobody listens there.
    Down,
    /// No way there.
    Unreachable,
    /// Silence.
    Timeout,
}

impl Trouble {
    /// Of an answer that was of no use.
    pub fn of(asked: &Asked) -> Option<Self> {
        let trouble = match &asked.answer {
            Err(_) if asked.truncated => Self::TcpBlocked,
            Err(Silence::Timeout) => Self::Timeout,
            Err(Silence::Refused) => Self::Down,
            Err(Silence::Unreachable(_)) => Self::Unreachable,
            Err(Silence::Malformed(_) | Silence::Closed) => Self::Malformed,
            Ok(_) if meaning(asked) != Meaning::Useless => return None,
            Ok(message) => match message.metadata.response_code {
                ResponseCode::ServFail => Self::Failure,
                ResponseCode::Refused => Self::Refused,
                ResponseCode::NoError if is_lame(message, &asked.question.name) => {
                    Self::NoRecursion
                }
                _ => Self::Error,
            },
        };
        Some(trouble)
    }

    const fn code(self) -> &'static str {
        match self {
            Self::TcpBlocked => "name_tcp_blocked",
            Self::Failure => "name_servfail",
            Self::Refused => "name_refused",
            Self::Error => "name_server_error",
            Self::NoRecursion => "name_server_no_recursion",
            Self::Malformed => "name_server_malformed",
            Self::Down => "name_server_down",
            Self::Unreachable => "name_server_unreachable",
            Self::Timeout => "name_timeout",
        }
    }

    fn next(self, server: &str) -> String {
        match self {
            Self::TcpBlocked => format!("let TCP port 53 of {server} through; its answer does not fit into a datagram"),
            Self::Failure => "run it again with --trace-dns: it shows which server of the zone fails; then look at the log of the resolver".into(),
            Self::Refused => format!("allow this host at {server} (unbound: access-control, BIND: allow-recursion), or name another server in resolv.conf"),
            Self::Error => format!("look at the log of {server}"),
            Self::NoRecursion => format!("{server} serves its own zones only: name a resolver in resolv.conf in its place"),
            Self::Malformed => format!("look at what listens on port 53 of {server}: it does not speak DNS as it should"),
            Self::Down => format!("start the name server on {server}, or name another one in resolv.conf"),
            Self::Unreachable => format!("look at the route to {server} (`ip route get`)"),
            Self::Timeout => format!("look at whether {server} is up and whether a filter drops UDP port 53 on the way"),
        }
    }
}

/// Findings of a look-up that brought no address.
pub fn failure(looked: &Looked, config: &Config, family: Option<Family>) -> Finding {
    let failed = Outcome::Failed;
    // The name as it was asked for decides; what the search list adds is a guess of the machine.
    let asked_for = looked.tried.iter().find(|name| **name == looked.name);
    let name = asked_for.or(looked.tried.last()).unwrap_or(&looked.name);
    let last: Vec<&Asked> = looked.last_of(name).collect();
    let text = shown(name);
    let not_found = last.iter().find(|a| meaning(a) == Meaning::NotFound);
    if let Some(asked) = not_found {
        return missing(asked, looked, name);
    }
    // One kind answered "no record", the other not at all: the second may be where the addresses are.
    let worst = last.iter().filter_map(|a| Some((Trouble::of(a)?, *a)));
    let Some((trouble, asked)) = worst.min_by_key(|(trouble, _)| *trouble) else {
        return match last.first() {
            Some(asked) => no_address(asked, name, family),
            None => Finding::new(
                "name_timeout",
                failed,
                format!("no time was left to look {text} up"),
            )
            .next("give it more time with --timeout"),
        };
    };
    if config.facts.servers_from == ServersFrom::Default && trouble >= Trouble::Down {
        let what = format!(
            "resolv.conf names no name server, and {}, which is asked then, {}",
            place(&asked.server),
            QueryFacts::from(asked).end()
        );
        return Finding::new("name_config", failed, what)
            .next("name a resolver in resolv.conf: `nameserver ADDRESS`");
    }
    let server = place(&asked.server);
    let what = match trouble {
        Trouble::Timeout => {
            let silent = servers(looked, |a| Trouble::of(a) == Some(Trouble::Timeout));
            let sent = looked.asked.iter().map(|a| a.tries.len()).sum::<usize>();
            let seconds = looked
                .asked
                .iter()
                .map(|a| a.took)
                .max()
                .unwrap_or_default();
            format!(
                "no answer about {text} from {}: {sent} questions were sent, each waited {:.1} s",
                joined(&silent),
                seconds.as_secs_f64()
            )
        }
        Trouble::TcpBlocked => format!(
            "the answer about {text} is too long for UDP, and over TCP {server} {}",
            QueryFacts::from(asked).end()
        ),
        Trouble::NoRecursion => format!(
            "{server} does not look up {text} to its end: it offers no recursion, and answers with a referral or the begin of a chain of aliases"
        ),
        Trouble::Failure | Trouble::Refused | Trouble::Error => format!(
            "{server} answered {} for {text}{}",
            asked.code().map(super::answer::word).unwrap_or_default(),
            added(&asked.into())
        ),
        _ => format!("the name server {server} {}", QueryFacts::from(asked).end()),
    };
    Finding::new(trouble.code(), failed, what).next(trouble.next(&server))
}

fn missing(asked: &Asked, looked: &Looked, name: &Name) -> Finding {
    let text = shown(name);
    let server = place(&asked.server);
    let aliases = asked.answer.as_ref().map(|m| chain(m, name));
    if let Some((to, _)) = aliases.unwrap_or_default().pop() {
        let to = shown(&to);
        let what =
            format!("{text} is an alias of {to}, which does not exist (NXDOMAIN from {server})");
        return Finding::new("name_alias_dangling", Outcome::Failed, what).next(format!(
            "correct the CNAME record of {text}, or make {to}; an alias into a name that anybody can register is a risk"
        ));
    }
    let also: Vec<_> = looked
        .tried
        .iter()
        .filter(|t| *t != name)
        .map(shown)
        .collect();
    let mut what = format!(
        "{text} does not exist: NXDOMAIN from {server}{}",
        added(&asked.into())
    );
    if !also.is_empty() {
        what.push_str(&format!(", nor with the search list ({})", joined(&also)));
    }
    Finding::new("name_not_found", Outcome::Failed, what).next(special(name).unwrap_or_else(|| {
        format!("look at the spelling, and at whether {text} is in its zone on every name server (--trace-dns)")
    }))
}

/// Names that DNS does not know by design.
fn special(name: &Name) -> Option<String> {
    let last = name.iter().next_back()?;
    let is = |word: &str| last.eq_ignore_ascii_case(word.as_bytes());
    if is("local") {
        return Some("names in .local are looked up by multicast (RFC 6762), which the probe does not do: use another name, or --resolve".into());
    }
    if is("onion") {
        return Some("names in .onion exist in Tor only (RFC 7686)".into());
    }
    if is("invalid") {
        return Some("names in .invalid never exist (RFC 6761, section 6.4)".into());
    }
    None
}

fn no_address(asked: &Asked, name: &Name, family: Option<Family>) -> Finding {
    let text = shown(name);
    let end = asked
        .answer
        .as_ref()
        .map(|m| chain(m, name))
        .unwrap_or_default()
        .pop();
    let of = match end {
        Some((to, _)) => format!("{text} is an alias of {}, which", shown(&to)),
        None => format!("{text} exists, but"),
    };
    let (records, next) = match family {
        Some(Family::V4) => ("no A record", "run it without --ipv4, or add an A record"),
        Some(Family::V6) => (
            "no AAAA record",
            "run it without --ipv6, or add an AAAA record",
        ),
        None => (
            "neither an A nor an AAAA record",
            "add an A and an AAAA record to its zone",
        ),
    };
    let what = format!("{of} has {records} (NODATA from {})", place(&asked.server));
    Finding::new("name_no_address", Outcome::Failed, what).next(next)
}

/// Findings of a look-up that did bring addresses, though not as it should.
pub fn on_the_way(looked: &Looked, took: Duration, slow: Duration) -> Vec<Finding> {
    let mut findings = Vec::new();
    let unanswered = looked
        .last_of(&looked.name)
        .find(|a| Trouble::of(a).is_some());
    // Nobody answered that kind of question: that is one finding, not one for each server.
    let counts = |a: &&Asked| unanswered.is_none_or(|u| u.question.kind != a.question.kind);
    let useless = looked.asked.iter().filter(counts);
    let useless = useless.filter_map(|a| Some((a, Trouble::of(a)?)));
    let mut seen = BTreeSet::new();
    for (asked, trouble) in useless {
        if !seen.insert((asked.server, trouble)) {
            continue;
        }
        let helped = looked
            .asked
            .iter()
            .any(|a| a.server == asked.server && Trouble::of(a).is_none());
        findings.push(in_spite(asked, trouble, helped, looked));
    }
    if let Some(asked) = unanswered {
        let what = format!(
            "{} has addresses, but the question for its {} records ended with: {}",
            shown(&looked.name),
            asked.question.kind,
            QueryFacts::from(asked).end()
        );
        let finding = Finding::new("name_half_answered", Outcome::Wrong, what);
        findings.push(finding.next("run it again with --trace-dns: a name server of the zone mistreats questions of that kind; users wait for them"));
    }
    if looked.tried.len() > 1 && looked.tried.first() != Some(&looked.name) {
        let what = format!(
            "the name was found as {}, after {} other tries",
            shown(&looked.name),
            looked.tried.len() - 1
        );
        findings.push(Finding::new("name_search_list", Outcome::Ok, what));
    }
    for asked in &looked.asked {
        if asked.truncated && asked.answer.is_ok() {
            let what = format!(
                "the answer of {} octets for {} does not fit into a datagram; it came over TCP from {}",
                asked.octets,
                asked.question.kind,
                place(&asked.server)
            );
            findings.push(Finding::new("name_truncated", Outcome::Ok, what));
        }
    }
    findings.extend(unusual(looked));
    if took > slow && findings.iter().all(|f| f.outcome < Outcome::Slow) {
        let what = format!(
            "the look-up took {} ms; {} ms is the threshold",
            took.as_millis(),
            slow.as_millis()
        );
        findings.push(Finding::new("name_slow", Outcome::Slow, what).next(
            "run it twice: when the second is fast, the resolver was waiting for the zone's servers (--trace-dns shows them)",
        ));
    }
    findings
}

fn in_spite(asked: &Asked, trouble: Trouble, helped: bool, looked: &Looked) -> Finding {
    let server = place(&asked.server);
    if timed_out(asked) {
        let waited: Duration = looked
            .asked
            .iter()
            .filter(|a| a.server == asked.server && a.question.kind == asked.question.kind)
            .filter(|a| timed_out(a))
            .map(|a| a.took)
            .sum();
        let (code, what) = if helped {
            (
                "name_retried",
                format!(
                    "{server} answered only when it was asked again, after {:.1} s",
                    waited.as_secs_f64()
                ),
            )
        } else {
            (
                "name_server_silent",
                format!(
                    "the name server {server} does not answer; {:.1} s were lost before another one was asked",
                    waited.as_secs_f64()
                ),
            )
        };
        return Finding::new(code, Outcome::Slow, what).next(trouble.next(&server));
    }
    let end = QueryFacts::from(asked).end();
    let what = format!(
        "the name server {server} is of no use for {}: {end}; another one answered",
        asked.question.kind
    );
    Finding::new(trouble.code(), Outcome::Wrong, what).next(trouble.next(&server))
}

/// Addresses that no public name should have.
fn unusual(looked: &Looked) -> Option<Finding> {
    let odd = looked
        .addresses
        .iter()
        .find(|a| a.is_unspecified() || a.is_loopback())?;
    let what = format!(
        "DNS says that {} is {odd}, which is this machine for everybody",
        shown(&looked.name)
    );
    Some(Finding::new("name_address_local", Outcome::Wrong, what).next(
        "a filtering resolver answers so for names that it blocks; else correct the record in the zone",
    ))
}

/// Findings about the servers that were not needed, beside the answer of the one that was.
pub fn spare(spare: &[Asked], looked: &Looked) -> Vec<Finding> {
    let mut findings = Vec::new();
    for asked in spare {
        let server = place(&asked.server);
        if let Some(trouble) = Trouble::of(asked) {
            let what = format!(
                "the name server {server}, asked when the others do not answer, is of no use: {}",
                QueryFacts::from(asked).end()
            );
            let code = match trouble {
                Trouble::Timeout => "name_server_silent",
                other => other.code(),
            };
            findings.push(Finding::new(code, Outcome::Wrong, what).next(trouble.next(&server)));
            continue;
        }
        let same_kind = looked
            .last_of(&looked.name)
            .find(|a| a.question.kind == asked.question.kind);
        if let Some(first) = same_kind
            && Trouble::of(first).is_none()
            && meaning(first) != meaning(asked)
        {
            let what = format!(
                "the name servers disagree about {}: {} says {}, {server} says {}",
                shown(&asked.question.name),
                place(&first.server),
                brief(first),
                brief(asked)
            );
            findings.push(
                Finding::new("name_servers_disagree", Outcome::Wrong, what).next(
                    "give all servers of resolv.conf the same view; users get the one or the other answer",
                ),
            );
        }
    }
    findings
}

fn brief(asked: &Asked) -> String {
    match meaning(asked) {
        Meaning::Addresses => joined(&addresses(asked)),
        Meaning::NoData => format!("no {} record", kind(asked.question.kind)),
        Meaning::NotFound => "NXDOMAIN".into(),
        Meaning::Useless => QueryFacts::from(asked).end(),
    }
}

fn kind(kind: RecordType) -> String {
    kind.to_string()
}

fn servers(looked: &Looked, which: impl Fn(&Asked) -> bool) -> Vec<String> {
    let asked = looked.asked.iter().filter(|asked| which(asked));
    let set: BTreeSet<SocketAddr> = asked.map(|asked| asked.server).collect();
    set.iter().map(place).collect()
}
