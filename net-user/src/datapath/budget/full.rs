//! What becomes of packets when a map is full.

/// For a map that is not named below.
pub const UNKNOWN: &str = "";

/// In plain words; [`UNKNOWN`] for a map that is not named here.
pub fn words(map: &str) -> &'static str {
    match map {
        "LISTENERS" => {
            "a listener that has no place is left to the kernel; `status` is degraded and says so"
        }
        "FLOW_SLOTS" => {
            "connections of a listener that has no place are counted for none; `status` is degraded and says so"
        }
        "BINDINGS" => {
            "a neighbour that has no place is a stranger, not held to its link-layer address; `status` is degraded and says so"
        }
        "ADDRESSES" => {
            "an own address that has no place is somebody else's: the guards let its packets pass; `status` is degraded and says so"
        }
        "LIST_PIECES" => {
            "the change to a list that does not fit is refused as a whole; what was listed stays in force"
        }
        "LIST_COMPACT" => "one table for each generation, which is never full",
        "SOURCES" => {
            "a place goes to who proved more; a source that finds none goes on as one not seen before, and is counted \
             (source_table_full)"
        }
        "NEWCOMERS" => "a source that is overwritten begins again to be known",
        "SOCKET_FILTER" => {
            "more SYNs beyond the budget cost a socket look-up; the agent renews it when more than a quarter of its bits are set"
        }
        "LIMIT_CELLS" | "SYN_ACK_LIMIT" | "NEIGHBOR_LIMIT" | "INTERFACE_LIMITS" => {
            "never: what collides shares one limit"
        }
        "ASKED" => "never: addresses that collide let more answers pass",
        "SEEN" => "never: what collides is told of again",
        "CANDIDATES" => "never: who is overwritten has answered for the first time again",
        "RECENT" => "the oldest is overwritten: data behind its ACK is sent again by the client",
        "SYN_LOG" | "LIST_HITS" => "the oldest are overwritten: what is left is a sample",
        "LISTENER_EVENTS" => {
            "an event is lost; looking at the sockets finds what it told, within 50 ms"
        }
        "NEIGHBOR_EVENTS" => {
            "an event is lost and counted (neighbor_event_lost); no question about a neighbour ends in silence then"
        }
        "DROP_EVENTS" => {
            "an event is lost and counted (drop_event_lost); the counters tell of every packet"
        }
        "WATCHED" => "who asks for one more connection to be watched is refused, and told so",
        "WATCH_EVENTS" => {
            "an event is lost, and whoever asked for it is told how many were, and draws no conclusion from what is missing"
        }
        "AYA_LOGS" => "a log line is lost",
        "SETTINGS" | "GENERATION" | "CHOSEN" | "SEED" | "COOKIE_KEYS" | "NEIGHBOR_SETTINGS"
        | "GUARD_SETTINGS" | "CLASS_LIMITS" | "CLASS_STATE" | "HEARTBEAT" | "ACTIVITY"
        | "PORTS" | "COUNTERS" | "LISTENER_STATS" | "FLOWS" | "SKETCHES" | "SOURCE_STATE"
        | "STRAYS" | "EVENT_LIMITS" | "LISTS" | "LIST_TABLES" | "WATCHING" | "ZERO" | "SCRATCH"
        | "NEIGHBOR_SCRATCH" => "never: it has a place for each",
        // What the compiler makes of constants and of statics.
        section if section.starts_with('.') => "never: it has a place for each",
        _ => UNKNOWN,
    }
}
