//! Every outcome the data path knows, each with a number that never changes its meaning.

/// What happens to a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It goes on to the kernel's stack.
    Pass,
    /// It is dropped at the NIC.
    Drop,
    /// It was rewritten into an answer and goes back out of the same interface.
    Reply,
    /// Counted beside the packet's own verdict; decides nothing.
    Note,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $code:literal, $text:literal, $action:ident;)+) => {
        /// Why a packet met its fate. Append-only: a number is never reused or given another meaning,
        /// so that counters, events and scripts stay comparable across versions.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $code,)+ }

        impl Reason {
            /// All reasons, by number.
            pub const ALL: &[Reason] = &[$(Reason::$name,)+];
            /// How many there are; numbers are below it.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The stable name used in JSON, metrics and on the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)+ }
            }

            /// What this reason does to a packet in enforce mode.
            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Reason::$name => Action::$action,)+ }
            }

            /// One sentence for the operator.
            pub const fn describe(self) -> &'static str {
                match self { $(Reason::$name => concat!($($doc),+).trim_ascii(),)+ }
            }
        }
    };
}

reasons! {
    /// Not TCP, or nothing that any rule concerns.
    NoRule = 0, "no_rule", Pass;
    /// EtherType that the parser does not know (R-GEN-2).
    UnknownEtherType = 1, "unknown_ethertype", Pass;
    /// Headers beyond the parser's bounds: over two VLAN tags, a long IPv6 extension chain (R-GEN-2).
    ParserLimit = 2, "parser_limit", Pass;
    /// IP header that contradicts itself or the frame's length; the kernel discards it.
    IpMalformed = 3, "ip_malformed", Pass;
    /// Fragment without a TCP header.
    Fragment = 4, "fragment", Pass;
    /// TCP segment that no rule concerns, established connections above all.
    TcpPass = 5, "tcp_pass", Pass;
    /// SYN to an address and port where no fit listener is known.
    SynUnprotected = 6, "syn_unprotected", Pass;
    /// SYN inside the listener's budget of plain handshakes; the kernel answers.
    SynInBudget = 7, "syn_in_budget", Pass;
    /// SYN whose tuple a socket holds already: request, TIME_WAIT, established (R-SYN-8).
    SynOnSocket = 8, "syn_on_socket", Pass;
    /// SYN with an MD5 or AO signature, which only the kernel can answer (R-SYN-9).
    SynSigned = 9, "syn_signed", Pass;
    /// ACK that proves a cookie of ours.
    CookieProven = 10, "cookie_proven", Pass;
    /// ACK for which a socket exists, seen while cookies are outstanding.
    AckOnSocket = 11, "ack_on_socket", Pass;
    /// ACK that proves a cookie of the kernel's own.
    KernelCookie = 12, "kernel_cookie", Pass;
    /// Something of our own was missing (map value, scratch space); the packet passes.
    Internal = 13, "internal", Pass;
    /// SYN answered with a SYN cookie.
    CookieSent = 14, "cookie_sent", Reply;
    /// TCP data offset below 5 or beyond the segment (R-TCP-1, RFC 9293 section 3.1).
    TcpHeader = 15, "tcp_header", Drop;
    /// TCP flags of no honest segment: none, SYN+FIN, SYN+RST, FIN without ACK (R-TCP-2).
    TcpFlags = 16, "tcp_flags", Drop;
    /// Source address that no honest packet bears: equal to the destination, unspecified, multicast,
    /// broadcast, loopback or IPv4-mapped (R-TCP-3).
    TcpSource = 17, "tcp_source", Drop;
    /// TCP port 0 (R-TCP-4).
    TcpPortZero = 18, "tcp_port_zero", Drop;
    /// ACK to a listener, while cookies are outstanding, that proves neither our cookie nor one of the
    /// kernel's.
    CookieFalse = 19, "cookie_false", Drop;
    /// SYN beyond the budget while the accept queue is full: no cookie may be sent (R-SYN-14).
    AcceptFull = 20, "accept_full", Drop;
    /// SYN beyond the share of SYN-ACKs of its source prefix: reflection or one flooding source
    /// (R-SYN-11).
    SynAckLimit = 21, "syn_ack_limit", Drop;
    /// Proven ACK turned into a request socket at TC ingress.
    HandshakeMade = 22, "handshake_made", Note;
    /// Proven ACK for which the kernel refused a request socket.
    HandshakeRefused = 23, "handshake_refused", Note;
    /// Socket look-up made for a SYN because the filter could not rule a socket out.
    SocketLookup = 24, "socket_lookup", Note;
    /// The answer could not be written (frame too small to grow); the SYN goes to the kernel.
    ReplyImpossible = 25, "reply_impossible", Pass;
}

/// A decision about one packet.
#[must_use = "a verdict that nobody obeys protects nobody"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Why.
    pub reason: Reason,
    /// Decided in observe mode: counted as what would have happened, and passed.
    pub observed: bool,
}

impl From<Reason> for Verdict {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            observed: false,
        }
    }
}

/// Entries of the per-CPU counter map: [`Reason::COUNT`] that were enforced, then as many that were
/// only observed ("would have dropped").
pub const COUNTERS: u32 = Reason::COUNT * 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_numbers_are_dense_and_in_order() {
        for (i, r) in Reason::ALL.iter().enumerate() {
            assert_eq!(*r as usize, i, "{}", r.name());
        }
    }

    #[test]
    fn reason_names_are_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
