//! The way of connections, from the first SYN to the end.

use std::time::Duration;

use net_common::abi::{FlowStats, ListenerStats};

use crate::control::queues::{Funnel, States};

/// The funnel of a listener that is known for `known`: of the counts of the data path and of the tracepoints, how many were
/// accepted, and its connections at the last walk. What has no source is null.
pub(super) fn of(
    known: Duration,
    stats: Option<&ListenerStats>,
    flows: Option<&FlowStats>,
    accepted: u64,
    states: Option<&States>,
) -> Funnel {
    Funnel {
        since_s: known.as_secs(),
        syns: stats.map(|s| s.syns),
        answered_cookie: stats.map(|s| s.cookies_sent),
        left_to_kernel: stats.map(|s| s.syns_passed),
        not_answered: stats.map(|s| s.accept_full.saturating_add(s.syn_ack_limited)),
        proven: flows.map(|f| f.established),
        proven_cookie: stats.map(|s| s.handshakes),
        // Never more than came: the look and the count are not of the same moment. Without the count it is what was seen to
        // leave the queue, a lower bound.
        accepted: Some(flows.map_or(accepted, |f| accepted.min(f.established))),
        closed: flows.map(|f| f.closed),
        reset: flows.map(|f| f.reset),
        open: states.map(|s| u64::from(open(s))),
    }
}

/// Connections between the end of the handshake and the last FIN.
pub(super) fn open(states: &States) -> u32 {
    [
        states.established,
        states.fin_wait_1,
        states.fin_wait_2,
        states.closing,
        states.close_wait,
        states.last_ack,
    ]
    .iter()
    .fold(0, |sum, n| sum.saturating_add(*n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_without_a_source_is_null_and_the_others_stand() {
        let none = of(Duration::from_secs(5), None, None, 3, None);
        assert_eq!((none.since_s, none.syns, none.proven), (5, None, None));
        assert_eq!((none.accepted, none.open), (Some(3), None));
        let stats = ListenerStats {
            syns: 100,
            syns_passed: 20,
            cookies_sent: 70,
            accept_full: 6,
            syn_ack_limited: 4,
            handshakes: 9,
            ..ListenerStats::default()
        };
        let flows = FlowStats {
            established: 25,
            closed: 8,
            reset: 2,
            ..FlowStats::default()
        };
        let states = States {
            syn_recv: 50,
            established: 10,
            close_wait: 3,
            time_wait: 40,
            ..States::default()
        };
        let told = of(
            Duration::ZERO,
            Some(&stats),
            Some(&flows),
            26,
            Some(&states),
        );
        assert_eq!(
            (
                told.syns,
                told.answered_cookie,
                told.left_to_kernel,
                told.not_answered
            ),
            (Some(100), Some(70), Some(20), Some(10))
        );
        assert_eq!(
            (told.proven, told.proven_cookie, told.accepted),
            (Some(25), Some(9), Some(25))
        );
        assert_eq!(
            (told.closed, told.reset, told.open),
            (Some(8), Some(2), Some(13))
        );
    }
}
