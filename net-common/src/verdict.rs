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

            /// The reason of a number.
            #[inline(always)]
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($code => Some(Reason::$name),)+ _ => None }
            }

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
    /// Nothing that any rule concerns, or the guard that would is off.
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
    /// ARP that agrees with all rules and concerns no protected neighbour.
    ArpPass = 26, "arp_pass", Pass;
    /// Neighbour discovery that agrees with all rules and concerns no protected neighbour.
    NdPass = 27, "nd_pass", Pass;
    /// ARP or neighbour discovery that agrees with a protected binding.
    NeighborValid = 28, "neighbor_valid", Pass;
    /// ARP that is cut short or not of Ethernet and IPv4 (R-ARP-1); the kernel discards it.
    ArpMalformed = 29, "arp_malformed", Drop;
    /// ARP whose sender is a multicast, broadcast or loopback address, or a link-layer group (R-ARP-2).
    ArpSender = 30, "arp_sender", Drop;
    /// ARP that fails one of the checks chosen with `validate` (R-ARP-2).
    ArpValidate = 31, "arp_validate", Drop;
    /// ARP whose Ethernet source is not its sender, as VRRP sends it too (R-ARP-3).
    ArpSourceMac = 32, "arp_source_mac", Note;
    /// ARP reply for a protected neighbour that nobody here asked for in the last 3 s (R-ARP-8).
    ArpUnsolicited = 33, "arp_unsolicited", Drop;
    /// ARP announcement beyond its source's share (R-ARP-7).
    ArpAnnounceLimit = 34, "arp_announce_limit", Drop;
    /// ARP beyond the share of its source or, from strangers, of the interface (R-ARP-9).
    ArpLimit = 35, "arp_limit", Drop;
    /// Claim to a protected neighbour's address from another link-layer address: held back until the agent has
    /// asked the recorded holder (R-ARP-6, R-ND-6).
    NeighborMismatch = 36, "neighbor_mismatch", Drop;
    /// Someone else claims an address of ours (R-ARP-5, R-ND-5).
    OwnAddressClaimed = 37, "own_address_claimed", Note;
    /// Neighbour discovery that could have crossed a router: hop limit below 255 (R-ND-1).
    NdHopLimit = 38, "nd_hop_limit", Drop;
    /// Neighbour discovery of impossible code, length or options (R-ND-1).
    NdMalformed = 39, "nd_malformed", Drop;
    /// Neighbour discovery behind a fragment header (R-ND-2, RFC 6980).
    NdFragment = 40, "nd_fragment", Drop;
    /// Router advertisement or redirect from an address that is not link-local (R-ND-3).
    NdRouterSource = 41, "nd_router_source", Drop;
    /// Router advertisement from a router that is not on the list (R-ND-3, RFC 7113).
    RaGuard = 42, "ra_guard", Drop;
    /// Link-local packet of a protocol that is none, where a router advertisement could hide from the RA guard
    /// (R-ND-3, RFC 7113 section 3).
    RaGuardHeader = 43, "ra_guard_header", Drop;
    /// Solicitation or advertisement that duplicate address detection forbids, or of a multicast target (R-ND-4).
    NdImpossible = 44, "nd_impossible", Drop;
    /// Neighbour discovery beyond the share of its source or, from strangers, of the interface (R-ND-7).
    NdLimit = 45, "nd_limit", Drop;
    /// Router advertisement beyond the interface's share.
    RaLimit = 46, "ra_limit", Drop;
    /// The agent could not be told of a neighbour's claim or answer: its ring buffer was full.
    NeighborEventLost = 47, "neighbor_event_lost", Note;
    /// More than two VLAN tags with a priority tag (VLAN id 0) among them: no honest host stacks those, Linux peels
    /// them off, and ARP or neighbour discovery could hide behind them from the guards.
    StackedPriorityTags = 48, "stacked_priority_tags", Drop;
    /// IPv6 packet of this very link (hop limit 255) with more headers than the parser looks behind, or headers too far
    /// back in a jumbo frame: neighbour discovery could hide there from its guard (RFC 7113, RFC 8504 section 5.3).
    NdHidden = 49, "nd_hidden", Drop;
    /// Packet from a source on the allowlist: no rule drops it.
    Allowed = 50, "allowed", Pass;
    /// Packet from a source on the blocklist.
    Blocked = 51, "blocked", Drop;
    /// IPv4 packet with a source route (R-TCP-11, RFC 7126 section 4.3).
    SourceRoute = 52, "source_route", Drop;
    /// First fragment too short for its transport header, or a fragment at offset 1 that would overwrite one
    /// (R-TCP-10, RFC 1858, RFC 3128).
    FragmentTiny = 53, "fragment_tiny", Drop;
    /// Fragment that ends beyond 65535 octets, the ping of death (R-TCP-10).
    FragmentOverlong = 54, "fragment_overlong", Drop;
    /// First IPv6 fragment without all of the header chain (R-TCP-10, RFC 7112 section 5).
    FragmentChain = 55, "fragment_chain", Drop;
    /// Fragment beyond the share of its source (R-TCP-10, R-UDP-4).
    FragmentLimit = 56, "fragment_limit", Drop;
    /// Source address that no packet from a link bears: multicast, broadcast, loopback, the destination's own
    /// (R-TCP-3).
    SourceMartian = 57, "source_martian", Drop;
    /// Packet from outside with one of our own addresses as its source.
    SourceOwn = 58, "source_own", Drop;
    /// The way back to the source does not lead by this interface, or there is none (`reverse_path`).
    ReversePath = 59, "reverse_path", Drop;
    /// The way back could not be looked up: forwarding is off on this interface; the packet passes.
    ReversePathUnknown = 60, "reverse_path_unknown", Note;
    /// ICMP that agrees with all rules.
    IcmpPass = 61, "icmp_pass", Pass;
    /// ICMP cut short; the kernel discards it.
    IcmpMalformed = 62, "icmp_malformed", Drop;
    /// Echo request, or another request, to a broadcast or multicast address (R-ICMP-4).
    IcmpBroadcast = 63, "icmp_broadcast", Drop;
    /// ICMP type that is deprecated (R-ICMP-5, RFC 6633, RFC 6918).
    IcmpDeprecated = 64, "icmp_deprecated", Drop;
    /// IPv4 redirect, which this host is set not to follow (R-ICMP-5).
    IcmpRedirect = 65, "icmp_redirect", Drop;
    /// ICMPv6 "packet too big" with an MTU below 1280 (R-ICMP-2, RFC 8201 section 4).
    PathMtuTooSmall = 66, "path_mtu_too_small", Drop;
    /// Echo request beyond its source's share (R-ICMP-4, R-ICMP-7).
    EchoRequestLimit = 67, "echo_request_limit", Drop;
    /// Echo reply beyond its source's share (R-ICMP-7).
    EchoReplyLimit = 68, "echo_reply_limit", Drop;
    /// Path MTU message beyond its source's share: it quotes no packet of ours, or far too many came (R-ICMP-3).
    PathMtuLimit = 69, "path_mtu_limit", Drop;
    /// ICMP time exceeded beyond its source's share (R-ICMP-3).
    TimeExceededLimit = 70, "time_exceeded_limit", Drop;
    /// ICMP destination unreachable or parameter problem beyond its source's share (R-ICMP-3).
    UnreachableLimit = 71, "unreachable_limit", Drop;
    /// Redirect beyond its source's share.
    RedirectLimit = 72, "redirect_limit", Drop;
    /// ICMP timestamp, information or node information beyond its source's share (R-ICMP-5).
    InformationalLimit = 73, "informational_limit", Drop;
    /// ICMP of another type beyond its source's share.
    IcmpOtherLimit = 74, "icmp_other_limit", Drop;
    /// ICMP error that quotes no packet of ours: another source address, or no socket that could have sent it
    /// (R-ICMP-3). It counts as from a source not seen before.
    IcmpUnmatched = 75, "icmp_unmatched", Note;
    /// UDP that no rule concerns.
    UdpPass = 76, "udp_pass", Pass;
    /// UDP length below 8 or beyond the packet (R-UDP-1).
    UdpMalformed = 77, "udp_malformed", Drop;
    /// UDP from the port of a service that amplifies, to a port without a socket: reflection (R-UDP-2).
    Reflection = 78, "reflection", Drop;
    /// UDP from the port of a service that amplifies, to a socket, beyond its source's share (R-UDP-3).
    ReflectionLimit = 79, "reflection_limit", Drop;
    /// RST without a socket while such segments are an attack; the kernel ignores it (R-TCP-8).
    StrayRst = 80, "stray_rst", Drop;
    /// ACK or FIN without a socket, while such segments are an attack, beyond its source's share (R-TCP-8).
    StrayLimit = 81, "stray_limit", Drop;
    /// SYN-ACK that nobody here asked for, beyond its source's share (R-TCP-9).
    StraySynAckLimit = 82, "stray_syn_ack_limit", Drop;
    /// SYN of a source that completed more handshakes than it may.
    NewConnectionLimit = 83, "new_connection_limit", Drop;
    /// SYN of a source that has as many connections open as it may.
    OpenConnectionLimit = 84, "open_connection_limit", Drop;
    /// A share was refused by what one address may send.
    LimitHost = 85, "limit_host", Note;
    /// A share was refused by what one /24, /64 or /48 may send.
    LimitPrefix = 86, "limit_prefix", Note;
    /// A share was refused by what all sources not seen before may send together.
    LimitPool = 87, "limit_pool", Note;
    /// A share was refused by what all known sources may send together.
    LimitGlobal = 88, "limit_global", Note;
    /// A source got a place in the table of known sources.
    SourceAdmitted = 89, "source_admitted", Note;
    /// A source lost its place to another that has proved more.
    SourceReplaced = 90, "source_replaced", Note;
    /// A source found no place in the table of known sources: it goes on as one not seen before.
    SourceTableFull = 91, "source_table_full", Note;
    /// The agent could not be told of a dropped packet: the ring buffer was full.
    DropEventLost = 92, "drop_event_lost", Note;
    /// Dropped packets of which the agent was told.
    DropEventSent = 93, "drop_event_sent", Note;
    /// SYN in fragments: no honest one is so long, and no cookie could answer it (R-TCP-10).
    SynFragment = 94, "syn_fragment", Drop;
    /// IPv6 packet with headers beyond the parser's bounds, beyond its source's share: the guards could not look behind
    /// them (R-GEN-2).
    ParserLimitShare = 95, "parser_limit_share", Drop;
    /// SYN to a port whose listeners changed while no agent was there to look at them: nobody knows whether a cookie
    /// would fit, so that the kernel answers.
    SynUntended = 96, "syn_untended", Pass;
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

/// Numbers of the reasons that drop, as bits.
const DROPS: [u64; 2] = {
    let mut bits = [0; 2];
    let mut at = 0;
    while at < Reason::ALL.len() {
        if let Action::Drop = Reason::ALL[at].action() {
            bits[at / 64] |= 1 << (at % 64);
        }
        at += 1;
    }
    bits
};

const _: () = assert!(Reason::COUNT <= 128);

impl Reason {
    /// Whether a packet of the reason with this number is dropped in enforce mode: [`Reason::action`] without the many
    /// ways that the verifier would follow.
    #[inline(always)]
    pub const fn drops(number: u32) -> bool {
        let bits = if number < 64 { DROPS[0] } else { DROPS[1] };
        bits >> (number & 63) & 1 != 0
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
    fn what_drops_is_told_by_number_too() {
        for reason in Reason::ALL {
            let drops = reason.action() == Action::Drop;
            assert_eq!(Reason::drops(*reason as u32), drops, "{}", reason.name());
        }
        let replies = Reason::ALL.iter().filter(|r| r.action() == Action::Reply);
        assert_eq!(replies.collect::<Vec<_>>(), [&Reason::CookieSent]);
    }

    #[test]
    fn reason_names_are_unique() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
    }
}
