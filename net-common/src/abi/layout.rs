//! Which maps outlive the agent, and in what layout.

/// A map that stays in the kernel when the agent goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its name in the object.
    pub name: &'static str,
    /// Number of what its keys, values and places mean. A change to that raises it, and then only this map begins anew.
    pub layout: u32,
    /// What is lost then; empty when the agent writes it again from what it knows.
    pub lost: &'static str,
}

const fn kept(name: &'static str, layout: u32, lost: &'static str) -> Kept {
    Kept { name, layout, lost }
}

/// Every map that is kept. A build takes over what has the same layout, so that it need not know of builds before or
/// behind it. The lists' four maps share a number, as their contents refer to one another. Ring buffers and working
/// memory are not kept: nobody has read them, or need.
pub const KEPT: &[Kept] = &[
    kept("SETTINGS", 1, ""),
    kept("GENERATION", 1, ""),
    kept("SEED", 1, ""),
    kept("COOKIE_KEYS", 1, "handshakes with a pending cookie break"),
    kept("LISTENERS", 1, ""),
    kept(
        "PORTS",
        1,
        "cookies that are pending are not checked, and budgets begin full",
    ),
    kept("ACTIVITY", 1, "cookies that are pending are not checked"),
    kept("SYN_ACK_LIMIT", 1, "limits of SYN-ACKs begin full"),
    kept(
        "SOCKET_FILTER",
        1,
        "the filter of sources with a socket is built again",
    ),
    kept("COUNTERS", 1, "counters begin at 0"),
    kept("LISTENER_STATS", 1, "counters of listeners begin at 0"),
    kept("FLOW_SLOTS", 1, ""),
    kept("FLOWS", 1, "counters of connections begin at 0"),
    kept("SKETCHES", 1, ""),
    kept("SYN_LOG", 1, ""),
    kept("RECENT", 1, ""),
    kept("BINDINGS", 1, "shares of neighbours begin full"),
    kept("NEIGHBOR_SETTINGS", 1, ""),
    kept("HEARTBEAT", 1, ""),
    kept(
        "ASKED",
        1,
        "answers to questions of the last seconds count as unasked",
    ),
    kept("SEEN", 1, "neighbours seen before are told of again"),
    kept("CANDIDATES", 1, ""),
    kept("NEIGHBOR_LIMIT", 1, "limits of neighbours begin full"),
    kept("INTERFACE_LIMITS", 1, "limits of interfaces begin full"),
    kept("LISTS", 1, ""),
    kept("LIST_TABLES", 1, ""),
    kept("LIST_COMPACT", 1, ""),
    kept("LIST_PIECES", 1, ""),
    kept("LIST_HITS", 1, ""),
    kept("ADDRESSES", 1, ""),
    kept("GUARD_SETTINGS", 1, ""),
    kept("CLASS_LIMITS", 1, ""),
    kept("CLASS_STATE", 1, "limits of classes begin full"),
    kept("LIMIT_CELLS", 1, "limits of sources begin full"),
    kept("SOURCES", 1, "known sources begin anew"),
    kept(
        "SOURCE_STATE",
        1,
        "connections of sources are counted again",
    ),
    kept(
        "NEWCOMERS",
        1,
        "sources that were becoming known begin again",
    ),
    kept("STRAYS", 1, "an attack of stray segments is noticed again"),
    kept("EVENT_LIMITS", 1, ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_map_is_kept_twice_and_names_fit_the_file_system() {
        for (n, kept) in KEPT.iter().enumerate() {
            assert!(!kept.name.contains(['-', '.']), "{}", kept.name);
            assert!(
                KEPT[n + 1..].iter().all(|k| k.name != kept.name),
                "{}",
                kept.name
            );
        }
    }
}
