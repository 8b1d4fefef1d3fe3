//! What there is to say of a reason beside its sentence: the stage of the packet's way that gives it, the rules it is
//! of, and what to do when it hits honest traffic.

use net_common::{sources::Share, verdict::Reason};

/// The stage and the remedy of a reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// Where on the packet's way, in a word or two. Stable.
    pub name: &'static str,
    /// What to do when it hits honest traffic; empty for what drops nothing.
    pub remedy: &'static str,
}

const fn stage(name: &'static str, remedy: &'static str) -> Stage {
    Stage { name, remedy }
}

/// Where a reason is given, and the remedy.
pub const fn stage_of(reason: Reason) -> Stage {
    use Reason::*;
    match reason {
        NoRule => stage("pipeline", ""),
        UnknownEtherType | ParserLimit | IpMalformed | Fragment => stage("parser", ""),
        StackedPriorityTags => stage(
            "parser",
            "No honest host stacks these tags: find who does, or attach netmoat to the VLAN interface in place of its \
             parent (`interfaces`).",
        ),
        Internal => stage(
            "pipeline",
            "Nothing is dropped, but nothing was checked either: a defect of netmoat, please report it.",
        ),
        TcpPass | SynUnprotected => stage("TCP", ""),
        TcpHeader | TcpFlags | TcpPortZero => stage(
            "TCP sanity",
            "No honest stack sends this. If a peer of yours does, put its address on the allowlist (`netmoat allow \
             add`).",
        ),
        TcpSource | SourceMartian => stage(
            "IP sanity",
            "Nothing honest arrives from outside with such a source. Where it does, as behind some tunnels, set `[ip] \
             mode = \"observe\"` or leave the interface out of `interfaces`.",
        ),
        SourceRoute | FragmentTiny | FragmentOverlong | FragmentChain => stage(
            "IP sanity",
            "Set `[ip] mode = \"observe\"`, or put the sender on the allowlist (`netmoat allow add`).",
        ),
        SynFragment => stage(
            "TCP sanity",
            "No honest stack sends a SYN of several fragments. If a peer of yours does, put its address on the allowlist \
             (`netmoat allow add`).",
        ),
        ParserLimitShare => stage(
            "limits",
            "Raise the share in `[icmp.other]`, which such packets have too, or put the sender on the allowlist (`netmoat \
             allow add`).",
        ),
        FragmentLimit => stage(
            "limits",
            "Raise the share in `[ip.fragments]` that it met, or `netmoat allow add` the source.",
        ),
        SourceOwn => stage(
            "IP sanity",
            "Another host has this address, or the network sends frames back to us: look for a loop. `[ip] mode = \
             \"observe\"` lets them pass meanwhile.",
        ),
        ReversePath => stage(
            "IP sanity",
            "Routes that differ there and back are honest: set `[ip] reverse_path = \"loose\"` or \"off\".",
        ),
        ReversePathUnknown => stage(
            "IP sanity",
            "The check needs forwarding to be on for the interface (`net.ipv4.conf.IFACE.forwarding`), or `[ip] \
             reverse_path = \"off\"`.",
        ),
        SynInBudget | SynOnSocket | SynSigned | CookieProven | AckOnSocket | KernelCookie
        | CookieSent | HandshakeMade | SocketLookup | ReplyImpossible => stage("SYN cookies", ""),
        SynUntended => stage("SYN cookies", "Start the agent again."),
        CookieFalse => stage(
            "SYN cookies",
            "An ACK that came later than two minutes, or after netmoat was restarted: the client connects again. If \
             that happens often, set `mode = \"off\"` in a [[listener]] for the port.",
        ),
        AcceptFull => stage(
            "SYN cookies",
            "The application does not take its connections: see `netmoat queues`; a larger backlog, or a faster \
             application.",
        ),
        SynAckLimit => stage(
            "SYN cookies",
            "Many clients behind one NAT: raise `[syn] syn_ack_limit` and `syn_ack_burst`.",
        ),
        HandshakeRefused => stage(
            "SYN cookies",
            "Mostly duplicates of an ACK. If connections fail, `netmoat check` says what the kernel lacks.",
        ),
        ArpPass | NdPass | NeighborValid => stage("neighbour guard", ""),
        ArpMalformed | ArpSender => stage("neighbour guard", "Set `[arp] mode = \"observe\"`."),
        ArpValidate => stage("neighbour guard", "Take the check out of `[arp] validate`."),
        ArpSourceMac => stage("neighbour guard", ""),
        ArpUnsolicited => stage(
            "neighbour guard",
            "Set `[arp] mode = \"observe\"`, or unpin the neighbour (`netmoat neighbor unpin`).",
        ),
        ArpAnnounceLimit => stage(
            "neighbour guard",
            "Raise `[neighbors] announce_limit` and `announce_burst`.",
        ),
        ArpLimit | NdLimit => stage(
            "neighbour guard",
            "Raise `[neighbors] limit` for one source, `known_limit` and `unknown_limit` for an interface.",
        ),
        NeighborMismatch => stage(
            "neighbour guard",
            "If the neighbour has moved: a learned one follows by itself; pin another at its new link-layer address \
             (`netmoat neighbor pin`), or correct its [[neighbor]].",
        ),
        OwnAddressClaimed => stage(
            "neighbour guard",
            "Two hosts may have one address: `netmoat events` says which.",
        ),
        NdHopLimit | NdMalformed | NdFragment | NdImpossible => {
            stage("neighbour guard", "Set `[ndp] mode = \"observe\"`.")
        }
        NdRouterSource => stage("neighbour guard", "Set `[ndp] mode = \"observe\"`."),
        RaGuard => stage(
            "neighbour guard",
            "Name the router in `[ndp] routers`, or in a [[neighbor]] with `router = true`.",
        ),
        RaGuardHeader | NdHidden => stage(
            "neighbour guard",
            "Set `[ndp] mode = \"observe\"`; packets with such headers are worth a look.",
        ),
        RaLimit => stage(
            "neighbour guard",
            "Raise `[neighbors] router_limit` and `router_burst`.",
        ),
        NeighborEventLost => stage("events", ""),
        Allowed => stage("allowlist", ""),
        Blocked => stage(
            "blocklist",
            "Take the entry off (`netmoat block del`), or put the source on the allowlist, which wins (`netmoat allow \
             add`).",
        ),
        IcmpPass => stage("ICMP guard", ""),
        IcmpMalformed | IcmpBroadcast | IcmpDeprecated | PathMtuTooSmall => stage(
            "ICMP guard",
            "Set `[icmp] mode = \"observe\"`, or put the sender on the allowlist (`netmoat allow add`).",
        ),
        IcmpRedirect => stage(
            "ICMP guard",
            "If this host is to follow redirects, set `net.ipv4.conf.IFACE.accept_redirects` to 1.",
        ),
        EchoRequestLimit => stage(
            "limits",
            "Raise the share in `[icmp.echo_request]` that it met, or `netmoat allow add` the source.",
        ),
        EchoReplyLimit => stage(
            "limits",
            "Raise the share in `[icmp.echo_reply]` that it met, or `netmoat allow add` the source.",
        ),
        PathMtuLimit => stage(
            "limits",
            "Raise the share in `[icmp.path_mtu]` that it met, or `netmoat allow add` the source.",
        ),
        TimeExceededLimit => stage(
            "limits",
            "Raise the share in `[icmp.time_exceeded]` that it met, or `netmoat allow add` the source.",
        ),
        UnreachableLimit => stage(
            "limits",
            "Raise the share in `[icmp.unreachable]` that it met, or `netmoat allow add` the source.",
        ),
        RedirectLimit => stage(
            "limits",
            "Raise the share in `[icmp.redirect]` that it met, or `netmoat allow add` the source.",
        ),
        InformationalLimit => stage(
            "limits",
            "Raise the share in `[icmp.informational]` that it met, or `netmoat allow add` the source.",
        ),
        IcmpOtherLimit => stage(
            "limits",
            "Raise the share in `[icmp.other]` that it met, or `netmoat allow add` the source.",
        ),
        IcmpUnmatched => stage("ICMP guard", ""),
        UdpPass => stage("UDP guard", ""),
        UdpMalformed => stage("UDP guard", "Set `[udp] mode = \"observe\"`."),
        Reflection => stage(
            "UDP guard",
            "An answer that came after its socket was closed, or reflection: nobody would have got it. Set `[udp] mode \
             = \"observe\"` where a program reads such packets without a socket.",
        ),
        ReflectionLimit => stage(
            "limits",
            "Name the resolver or time server in `[udp] servers`, raise the share in `[udp.reflection]` that it met, or \
             `netmoat allow add` the source.",
        ),
        StrayRst => stage(
            "TCP guard",
            "The kernel ignores these anyway; `[tcp] mode = \"observe\"` lets them pass.",
        ),
        StrayLimit => stage(
            "limits",
            "Raise the share in `[tcp.stray]` that it met, or `netmoat allow add` the source.",
        ),
        StraySynAckLimit => stage(
            "limits",
            "Raise the share in `[tcp.stray_syn_ack]` that it met, or `netmoat allow add` the source.",
        ),
        NewConnectionLimit => stage("TCP guard", "Raise `[tcp] new_connections`."),
        OpenConnectionLimit => stage("TCP guard", "Raise `[tcp] open_connections`."),
        LimitHost => stage(
            "limits",
            "The share `host` of the class that the packet's own reason names.",
        ),
        LimitPrefix => stage(
            "limits",
            "The shares `prefix` and `site` of the class that the packet's own reason names.",
        ),
        LimitPool => stage(
            "limits",
            "The share `pool` of the class that the packet's own reason names. Known sources do not feel it.",
        ),
        LimitGlobal => stage(
            "limits",
            "The shares `steady` and `proven` of the class that the packet's own reason names.",
        ),
        SourceAdmitted | SourceReplaced | SourceTableFull => stage("limits", ""),
        DropEventLost | DropEventSent => stage("events", ""),
    }
}

/// The stable name of the share that refused a packet; None where none did.
pub const fn share_name(share: Share) -> Option<&'static str> {
    match share {
        Share::None => None,
        Share::Host => Some("host"),
        Share::Prefix => Some("prefix"),
        Share::Pool => Some("pool"),
        Share::Total => Some("total"),
    }
}

/// What a share of that name refused the packet by, as in "refused by what one address may send"; None for a name that
/// this version does not know.
pub fn share_words(name: &str) -> Option<&'static str> {
    Some(match name {
        "host" => "what one address may send (`host`)",
        "prefix" => "what one /24, /64 or /48 may send (`prefix`, `site`)",
        "pool" => "what all sources not seen before may send together (`pool`)",
        "total" => "what all sources as well known may send together (`steady`, `proven`)",
        _ => return None,
    })
}

/// The rules that a reason is of, as its sentence names them: `R-ICMP-4`.
pub fn rules(reason: Reason) -> Vec<&'static str> {
    reason
        .describe()
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| word.starts_with("R-"))
        .collect()
}

#[cfg(test)]
mod tests {
    use net_common::verdict::Action;

    use super::*;

    #[test]
    fn every_reason_that_drops_has_a_remedy() {
        for &reason in Reason::ALL {
            let Stage { name, remedy } = stage_of(reason);
            assert!(!name.is_empty(), "{reason:?}");
            assert!(
                reason.action() != Action::Drop || remedy.ends_with('.'),
                "{reason:?}: {remedy}"
            );
        }
    }

    #[test]
    fn rules_are_read_from_the_sentences() {
        for (reason, expected) in [
            (Reason::NoRule, &[][..]),
            (Reason::TcpHeader, &["R-TCP-1"]),
            (Reason::NeighborMismatch, &["R-ARP-6", "R-ND-6"]),
            (Reason::EchoRequestLimit, &["R-ICMP-4", "R-ICMP-7"]),
            (Reason::FragmentLimit, &["R-TCP-10", "R-UDP-4"]),
        ] {
            assert_eq!(rules(reason), expected, "{reason:?}");
        }
        // Whatever a sentence calls a rule is found.
        for &reason in Reason::ALL {
            let named = reason.describe().matches("R-").count();
            assert_eq!(rules(reason).len(), named, "{reason:?}");
        }
    }

    #[test]
    fn every_share_that_refuses_has_words() {
        assert_eq!(share_name(Share::from_number(0)), None);
        for number in 1..=4 {
            let name = share_name(Share::from_number(number));
            assert!(name.and_then(share_words).is_some(), "{number}");
        }
        assert_eq!(share_words("other"), None);
    }
}
