//! Rules of what gets lost: SYN-ACKs on their way, and connections that the application forgets.

use super::Finding;
use crate::{
    control::queues::{CLOSE_WAIT_OLD_S, Confidence, VerdictKind},
    queues::{
        facts::{Facts, Walked},
        history::per_second,
        words::{advice, command, many, number, per_cent},
    },
};

/// Least connections in the window that say something.
const ESTABLISHED: u64 = 10;
/// From this share on SYN-ACKs that had to be sent again are many, per cent.
const LATE: u64 = 20;
/// Half-open connections that have to pile up.
const PILE: u32 = 5;
/// Up to this many SYNs of one source in the window are what an honest one sends again.
const SYNS_PER_SOURCE: u64 = 10;
/// SYNs a second beyond which it is a flood, if anything.
const SYNS: f64 = 20.0;
/// Forgotten connections that make a leak.
const FORGOTTEN: u32 = 8;
/// Walks in which they have to grow.
const GREW: u32 = 3;

/// SYN-ACKs, or what answers them, get lost.
pub(super) fn syn_acks(facts: &Facts) -> Option<Finding> {
    // An ACK that found no room in the accept queue makes its SYN-ACK come again too (R-Q-3).
    if facts.accept_queue_full() || facts.overflows() > 0 {
        return None;
    }
    let flows = facts.lately.flows.unwrap_or_default();
    let share = per_cent(flows.late, flows.established);
    let (sentence, evidence, confidence) = if flows.established >= ESTABLISHED && share >= LATE {
        (
            format!(
                "SYN-ACKs or their ACKs get lost: {share} % of the clients needed more than one SYN-ACK to connect, which \
                     costs each a second or more"
            ),
            vec![
                format!(
                    "{} of {} connections in the last 10 s were completed after a SYN-ACK had been sent again",
                    number(flows.late),
                    number(flows.established)
                ),
                "the accept queue had room all the time".to_owned(),
            ],
            Confidence::High,
        )
    } else {
        let walk = piled_up(facts)?;
        (
            format!(
                "Nobody completes a connection, and {} have had their SYN-ACK sent again twice or more: it, or what \
                     answers it, may get lost",
                many(walk.resent_twice.into(), "client")
            ),
            vec![
                format!(
                    "{} half-open, far below the limit of {}, at a low rate of SYNs: too few for a flood",
                    number(facts.unanswered().into()),
                    number(facts.queues.syn_queue_limit.into())
                ),
                "clients that scan ports, and never answer, look the same".to_owned(),
            ],
            Confidence::Low,
        )
    };
    Some(Finding {
        kind: VerdictKind::SynAckLoss,
        sentence,
        evidence,
        confidence,
        fixes: vec![
            command(
                "See whether the SYN-ACKs leave by the interface that the SYNs came by, and whether ACKs come back",
                format!(
                    "tcpdump -ni any 'tcp port {} and tcp[tcpflags] & tcp-syn != 0'",
                    facts.queues.port
                ),
            ),
            advice(
                "Look at the way back: asymmetric routes (ip route get CLIENT), a firewall that drops SYN-ACKs or ACKs, \
                 packet loss on the uplink",
            ),
        ],
    })
}

/// Half-open connections of clients that look honest, and that nobody completes.
fn piled_up<'a>(facts: &'a Facts) -> Option<&'a Walked> {
    let walk = facts.lately.walk.as_ref()?;
    let lasting = if facts.once {
        walk.resent_twice
    } else {
        walk.resent_twice_lasting
    };
    let flows = facts.lately.flows?;
    let unanswered = u64::from(facts.unanswered());
    let below = unanswered * 100 < u64::from(facts.syn_limit()) * 80;
    let slow = facts.lately.data.is_none_or(|data| {
        let sources = facts.queues.distinct_sources.unwrap_or(1).max(1);
        per_second(data.syns, data.span) < SYNS
            && data.syns <= sources.saturating_mul(SYNS_PER_SOURCE)
    });
    (lasting >= PILE && flows.established == 0 && below && slow).then_some(walk)
}

/// The application never closes what its peers have closed.
pub(super) fn close_wait(facts: &Facts) -> Option<Finding> {
    let walk = facts.lately.walk.as_ref()?;
    let states = facts.queues.states?;
    let old = states.close_wait_old;
    let (forgotten, confidence) = if facts.once {
        // How long each has been there is not known from one walk; those that wait for accept() are not forgotten.
        let accepted = states.close_wait.saturating_sub(facts.queues.accept_queue);
        (old.max(accepted), Confidence::Low)
    } else {
        (old, Confidence::High)
    };
    if forgotten < FORGOTTEN || !facts.once && walk.close_wait_grew < GREW {
        return None;
    }
    let (who, pid) = match walk.forgetful.first() {
        Some((owner, _)) => (
            format!("{} (pid {})", owner.name, owner.pid),
            Some(owner.pid),
        ),
        None => {
            let owner = facts.owner();
            (
                crate::queues::words::owner(owner),
                owner.map(|owner| owner.pid),
            )
        }
    };
    let mut evidence = vec![match facts.once {
        true => format!(
            "{} in CLOSE_WAIT now; one look tells neither their age nor whether they grow",
            number(forgotten.into())
        ),
        false => format!(
            "{} in CLOSE_WAIT for more than {CLOSE_WAIT_OLD_S} s, more at each of {} walks and never fewer",
            number(forgotten.into()),
            walk.close_wait_grew
        ),
    }];
    for (owner, count) in walk.forgetful.iter().take(3) {
        evidence.push(format!(
            "{} (pid {}) holds {count} of those looked up",
            owner.name, owner.pid
        ));
    }
    evidence
        .push("only the application can end CLOSE_WAIT; no setting of the kernel does".to_owned());
    Some(Finding {
        kind: VerdictKind::CloseWaitLeak,
        sentence: format!(
            "{who} forgets to close: {} that the peers have closed{}",
            many(forgotten.into(), "connection"),
            if facts.once { "" } else { ", more and more" }
        ),
        evidence,
        confidence,
        fixes: vec![crate::control::queues::Fix {
            what: format!(
                "Mend {who}: close() each connection once read() gives 0 (a missing close on an error path, a pool that is never \
                     emptied); restarting it frees them until then"
            ),
            command: pid.map(|pid| format!("ss -tnp state close-wait | grep pid={pid},")),
        }],
    })
}
