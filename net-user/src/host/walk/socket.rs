//! One socket of a walk, and what is counted of it.

use std::{net::IpAddr, time::Duration};

use netlink_bindings::inet_diag::{Msg, TcpState};

use crate::{
    control::queues::States,
    host::sock_diag::{TIMER_OF_TIME_WAIT, address},
};

/// `idiag_timer` of a socket that waits for an acknowledgement (`inet_sk_diag_fill`, `net/ipv4/inet_diag.c`).
const TIMER_OF_RETRANSMITS: u8 = 1;
/// TCP_TIMEOUT_INIT and TCP_RTO_MAX (`include/net/tcp.h`).
const FIRST_TIMEOUT: Duration = Duration::from_secs(1);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(120);
/// From when on a request socket whose SYN-ACK was sent only once must have been acknowledged: its timer has run out by then
/// ([`FIRST_TIMEOUT`]), and only one that was acknowledged lives on without another SYN-ACK (`reqsk_timer_handler`). The
/// half second is for timers that run late.
pub(super) const ACKED_AFTER: Duration = Duration::from_millis(1500);
/// The same in the time that its timer has left: from the second one on it is set to two seconds or more.
const ACKED_WITH: Duration = Duration::from_millis(1050);

/// The state of a TCP socket, as far as it is counted.
#[derive(Clone, Copy, Debug)]
pub struct SocketState {
    /// As the kernel tells it; of one that only remembers a connection the state that it had.
    pub state: TcpState,
    /// It sends again what was not acknowledged.
    pub retransmitting: bool,
    /// No process has it, or none has yet.
    pub orphaned: bool,
    /// Accepted, and in CLOSE_WAIT for longer than [`crate::control::queues::CLOSE_WAIT_OLD_S`].
    pub old: bool,
}

impl SocketState {
    /// Counts it.
    pub fn count(&self, states: &mut States) {
        let counts: &mut [(&mut u32, bool)] = match self.state {
            TcpState::SynSent => &mut [(&mut states.syn_sent, true)],
            TcpState::SynRecv | TcpState::NewSynRecv => &mut [(&mut states.syn_recv, true)],
            TcpState::Established => &mut [(&mut states.established, true)],
            TcpState::FinWait1 => &mut [
                (&mut states.fin_wait_1, true),
                (&mut states.fin_wait_1_retransmitting, self.retransmitting),
            ],
            TcpState::FinWait2 => &mut [
                (&mut states.fin_wait_2, true),
                (&mut states.fin_wait_2_orphaned, self.orphaned),
            ],
            TcpState::Closing => &mut [(&mut states.closing, true)],
            TcpState::CloseWait => &mut [
                (&mut states.close_wait, true),
                (&mut states.close_wait_old, self.old),
            ],
            TcpState::LastAck => &mut [
                (&mut states.last_ack, true),
                (&mut states.last_ack_retransmitting, self.retransmitting),
            ],
            TcpState::TimeWait => &mut [(&mut states.time_wait, true)],
            TcpState::Close | TcpState::Listen | TcpState::BoundInactive => &mut [],
        };
        for (count, counts) in counts {
            **count = count.saturating_add(u32::from(*counts));
        }
    }
}

/// A socket as inet_diag tells it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    pub(super) state: SocketState,
    /// Nobody's any more: TIME_WAIT, or a FIN_WAIT2 that takes no full socket.
    pub(super) remembers: bool,
    pub(super) retransmits: u8,
    /// What its timer has left.
    pub(super) expires: Duration,
    /// 0 for a request socket, and for one without a process.
    pub(super) inode: u32,
    /// Of a request socket too; the connection that it becomes keeps it (`inet_csk_clone_lock`).
    pub(super) cookie: u64,
    pub(super) ifindex: u32,
    pub(super) local: (IpAddr, u16),
    pub(super) remote: (IpAddr, u16),
}

impl Socket {
    /// `None` for a state that is not known.
    pub(super) fn new(message: &Msg) -> Option<Self> {
        let id = &message.sockid;
        let state = TcpState::from_value(message.state.into())?;
        Some(Self {
            state: SocketState {
                state,
                retransmitting: message.timer == TIMER_OF_RETRANSMITS && message.retrans > 0,
                orphaned: message.inode == 0,
                old: false,
            },
            remembers: message.timer == TIMER_OF_TIME_WAIT,
            retransmits: message.retrans,
            expires: Duration::from_millis(message.expires.into()),
            inode: message.inode,
            cookie: u64::from_ne_bytes(id.cookie),
            ifindex: id.r#if,
            local: (address(message.family, &id.src), id.sport()),
            remote: (address(message.family, &id.dst), id.dport()),
        })
    }

    pub(super) fn is_half_open(&self) -> bool {
        matches!(self.state.state, TcpState::SynRecv | TcpState::NewSynRecv)
    }

    /// Whether both ends are still there, or one of them.
    pub(super) fn is_open(&self) -> bool {
        !self.remembers
            && matches!(
                self.state.state,
                TcpState::Established
                    | TcpState::FinWait1
                    | TcpState::FinWait2
                    | TcpState::CloseWait
                    | TcpState::LastAck
                    | TcpState::Closing
            )
    }

    /// Whether a request socket, first met `known` ago, has its client's ACK.
    pub(super) fn is_acked(&self, known: Duration) -> bool {
        self.retransmits == 0 && (known >= ACKED_AFTER || self.expires > ACKED_WITH)
    }

    /// The age of a request socket by the schedule of its SYN-ACKs (R-Q-5). An upper bound: clients that repeat their SYN make
    /// the kernel answer again out of turn.
    pub(super) fn request_age(&self, synack_retries: u32) -> Duration {
        let sent = u32::from(self.retransmits).min(synack_retries);
        let before: Duration = (0..sent).map(timeout).sum();
        before + timeout(sent).saturating_sub(self.expires)
    }
}

/// The timeout after the `n`th repetition (`tcp_reqsk_timeout`).
fn timeout(n: u32) -> Duration {
    // At most 120 s, which the seventh power of two exceeds.
    FIRST_TIMEOUT * (1 << n.min(7)).min(LONGEST_TIMEOUT.as_secs() as u32)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn request(retransmits: u8, expires: u64) -> Socket {
        let end = (Ipv4Addr::LOCALHOST.into(), 1);
        Socket {
            state: SocketState {
                state: TcpState::SynRecv,
                retransmitting: false,
                orphaned: true,
                old: false,
            },
            remembers: false,
            retransmits,
            expires: Duration::from_millis(expires),
            inode: 0,
            cookie: 1,
            ifindex: 0,
            local: end,
            remote: end,
        }
    }

    #[test]
    fn the_age_of_a_request_follows_from_its_retransmits_and_timer_r_q_5() {
        for (description, retransmits, expires, retries, age) in [
            ("just made", 0, 1000, 5, 0),
            ("before the first", 0, 300, 5, 700),
            ("after the first", 1, 2000, 5, 1000),
            ("before the second", 1, 1, 5, 2999),
            ("after the fifth", 5, 32_000, 5, 31_000),
            ("at its end", 5, 0, 5, 63_000),
            ("the timer is late", 0, 5000, 5, 0),
            ("more than the schedule has", 9, 2000, 2, 5000),
            ("the longest timeout", 8, 0, 8, 127_000 + 120_000 + 120_000),
            ("any number", 255, 0, 255, 127_000 + 249 * 120_000),
        ] {
            let found = request(retransmits, expires).request_age(retries);
            assert_eq!(found, Duration::from_millis(age), "{description}");
        }
    }

    #[test]
    fn a_request_that_lives_on_without_another_syn_ack_was_acknowledged_r_q_7() {
        for (description, retransmits, expires, known, acked) in [
            ("new", 0, 990, 0, false),
            ("about to be sent again", 0, 3, 1000, false),
            ("its second timer runs", 0, 1900, 0, true),
            ("met before", 0, 800, 1500, true),
            ("sent again", 1, 1900, 5000, false),
        ] {
            let known = Duration::from_millis(known);
            let found = request(retransmits, expires).is_acked(known);
            assert_eq!(found, acked, "{description}");
        }
    }
}
