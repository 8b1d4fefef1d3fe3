//! The kernel's protocol counters: `/proc/net/netstat` and `/proc/net/snmp` (`net/ipv4/proc.c`).

use anyhow::{Context, Result};
use std::collections::HashMap;

/// The counters of the calling thread's network namespace under the names that nstat gives them:
/// `TcpExtListenOverflows`, `TcpExtSyncookiesSent`, `TcpInSegs`.
pub fn counters() -> Result<HashMap<String, u64>> {
    let mut counters = HashMap::new();
    // Not /proc/net: that is the namespace of the process's first thread.
    for path in [
        "/proc/thread-self/net/netstat",
        "/proc/thread-self/net/snmp",
    ] {
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        counters.extend(parse(&text));
    }
    Ok(counters)
}

/// Reads pairs of lines: `Group: name …`, then `Group: value …`. Values below zero (`Tcp: MaxConn -1`)
/// are no counters and are left out.
fn parse(text: &str) -> HashMap<String, u64> {
    let mut counters = HashMap::new();
    let mut lines = text.lines().map(str::split_whitespace);
    while let (Some(mut names), Some(values)) = (lines.next(), lines.next()) {
        let group = names.next().unwrap_or_default().trim_end_matches(':');
        for (name, value) in names.zip(values.skip(1)) {
            if let Ok(value) = value.parse() {
                counters.insert(format!("{group}{name}"), value);
            }
        }
    }
    counters
}

/// How many TCP sockets there are (`sockstat_seq_show`, `net/ipv4/proc.c`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockstat {
    /// In the calling thread's network namespace, of both families: listeners and connections, without those in TIME_WAIT.
    pub in_use: u32,
    /// Connections without a process, of all namespaces.
    pub orphans: u32,
    /// In TIME_WAIT, in this namespace; what `tcp_max_tw_buckets` limits.
    pub time_wait: u32,
    /// Full sockets that exist, of all namespaces.
    pub allocated: u32,
}

/// Reads `/proc/net/sockstat` of the calling thread's network namespace. Costs nothing: the kernel keeps these sums.
pub fn sockstat() -> Result<Sockstat> {
    let path = "/proc/thread-self/net/sockstat";
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    let mut sockstat = parse_sockstat(&text).with_context(|| format!("{path} has no TCP line"))?;
    // A kernel without IPv6 has none.
    if let Ok(text) = std::fs::read_to_string("/proc/thread-self/net/sockstat6") {
        sockstat.in_use += word_after(&text, "TCP6:", "inuse").unwrap_or(0);
    }
    Ok(sockstat)
}

fn parse_sockstat(text: &str) -> Option<Sockstat> {
    let of = |name| word_after(text, "TCP:", name);
    Some(Sockstat {
        in_use: of("inuse")?,
        orphans: of("orphan")?,
        time_wait: of("tw")?,
        allocated: of("alloc")?,
    })
}

/// The number behind a name in the line of a group.
fn word_after(text: &str, group: &str, name: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(group))?;
    let mut words = line.split_whitespace();
    words.find(|&word| word == name)?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockstat_is_read_by_group_and_name() {
        let text =
            "sockets: used 12\nTCP: inuse 5 orphan 1 tw 2 alloc 7 mem 3\nUDP: inuse 9 mem 0\n";
        let expected = Sockstat {
            in_use: 5,
            orphans: 1,
            time_wait: 2,
            allocated: 7,
        };
        assert_eq!(parse_sockstat(text), Some(expected));
        assert_eq!(parse_sockstat("sockets: used 12\nUDP: inuse 9\n"), None);
        assert_eq!(parse_sockstat("TCP: inuse 5\n"), None);
        assert_eq!(parse_sockstat("TCP: inuse\n"), None);
    }

    #[test]
    fn sockstat_counts_the_sockets_of_the_threads_namespace() {
        crate::host::testing::in_netns(|| {
            let before = sockstat().expect("sockstat");
            assert_eq!((before.in_use, before.time_wait), (0, 0));
            let server = std::net::TcpListener::bind("[::]:1001").expect("bind");
            let kept = std::net::TcpStream::connect("127.0.0.1:1001").expect("connect");
            let kept_accepted = server.accept().expect("accept");
            let client = std::net::TcpStream::connect("[::1]:1001").expect("connect");
            let accepted = server.accept().expect("accept");
            drop(client);
            drop(accepted);
            let now = sockstat().expect("sockstat");
            assert_eq!((now.in_use, now.time_wait), (3, 1));
            assert!(now.allocated >= 3);
            drop((kept, kept_accepted));
        });
    }

    #[test]
    fn names_and_values_are_paired_within_their_group() {
        let captured = "TcpExt: SyncookiesSent SyncookiesRecv ListenOverflows\nTcpExt: 7 0 18446744073709551615\n\
                        IpExt: InNoRoutes\nIpExt: 3\nTcp: RtoMin MaxConn ActiveOpens\nTcp: 200 -1 12\n";
        let counters = parse(captured);
        assert_eq!(counters["TcpExtSyncookiesSent"], 7);
        assert_eq!(counters["TcpExtListenOverflows"], u64::MAX);
        assert_eq!(counters["IpExtInNoRoutes"], 3);
        assert_eq!(counters["TcpActiveOpens"], 12);
        assert!(!counters.contains_key("TcpMaxConn"));
        assert_eq!(counters.len(), 6);
    }

    #[test]
    fn the_counters_are_those_of_the_threads_namespace() {
        crate::host::testing::in_netns(|| {
            let server = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
            let _client = std::net::TcpStream::connect(server.local_addr().expect("an address"))
                .expect("connect");
            let counters = counters().expect("counters");
            assert_eq!(
                (counters["TcpActiveOpens"], counters["TcpPassiveOpens"]),
                (1, 1)
            );
            assert!(counters.contains_key("TcpExtListenDrops"));
        });
    }
}
