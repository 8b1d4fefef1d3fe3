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

#[cfg(test)]
mod tests {
    use super::*;

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
