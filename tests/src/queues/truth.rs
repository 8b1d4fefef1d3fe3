//! What others say of the same sockets: `ss` and `nstat`.

use std::{
    collections::{BTreeMap, HashMap},
    process::Command,
};

use crate::topology::Host;

/// A listening socket as `ss -ltn` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listening {
    /// Recv-Q: connections that wait for accept().
    pub accept_queue: u32,
    /// Send-Q: their limit.
    pub limit: u32,
    /// Its inode.
    pub inode: u32,
    /// The process that holds it.
    pub pid: u32,
    /// Segments dropped at it (`skmem`).
    pub drops: u32,
}

/// The listening sockets of a port, by inode.
pub fn listening(host: &Host, port: u16) -> Vec<Listening> {
    let shown = ss(host, &["-ltnepmO", &format!("sport = :{port}")]);
    let mut found: Vec<_> = shown.lines().map(listening_line).collect();
    found.sort_by_key(|socket| socket.inode);
    found
}

fn listening_line(line: &str) -> Listening {
    let words: Vec<_> = line.split_whitespace().collect();
    let after = |mark: &str| -> u32 {
        let (_, rest) = line
            .split_once(mark)
            .unwrap_or_else(|| panic!("no {mark} in {line}"));
        let end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        rest[..end].parse().unwrap()
    };
    Listening {
        accept_queue: words[1].parse().unwrap(),
        limit: words[2].parse().unwrap(),
        inode: after("ino:"),
        pid: after("pid="),
        drops: after(",d"),
    }
}

/// The only listening socket of a port.
pub fn listener(host: &Host, port: u16) -> Listening {
    match &listening(host, port)[..] {
        [one] => one.clone(),
        other => panic!("port {port} has not one listener: {other:#?}"),
    }
}

/// TCP sockets by state, as `ss` names them (`ESTAB`, `SYN-RECV`, `CLOSE-WAIT`), that match a filter of ss such as
/// `sport = :8080`. Listeners are left out.
pub fn states(host: &Host, filter: &str) -> BTreeMap<String, u32> {
    let mut states = BTreeMap::new();
    for line in ss(host, &["-tan", filter]).lines() {
        let state = line.split_whitespace().next().unwrap_or_default();
        if state != "LISTEN" {
            *states.entry(state.to_owned()).or_default() += 1;
        }
    }
    states
}

/// How many sockets of a local port are in a state.
pub fn in_state(host: &Host, port: u16, state: &str) -> u32 {
    states(host, &format!("sport = :{port}"))
        .get(state)
        .copied()
        .unwrap_or(0)
}

/// Handshakes of a port that wait for the client.
pub fn half_open(host: &Host, port: u16) -> u32 {
    in_state(host, port, "SYN-RECV")
}

fn ss(host: &Host, args: &[&str]) -> String {
    host.ns
        .succeed(Command::new("ss").arg("-H").args(args))
        .unwrap()
}

/// The kernel's counters since the namespace was made, by nstat's names; those that are zero too.
pub fn nstat(host: &Host) -> HashMap<String, u64> {
    let shown = host
        .ns
        .succeed(Command::new("nstat").args(["--ignore", "--noupdate", "--zeros"]))
        .unwrap();
    let counters = shown.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.parse().ok()?))
    });
    counters.collect()
}

/// How far counters moved from one look to another, those that did.
pub fn moved(before: &HashMap<String, u64>, after: &HashMap<String, u64>) -> BTreeMap<String, u64> {
    let moves = after.iter().map(|(name, value)| {
        let before = before.get(name).copied().unwrap_or(0);
        (name.clone(), value - before)
    });
    moves.filter(|(_, by)| *by > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_ss_tells_queue_limit_inode_process_and_drops() {
        let line = "LISTEN 17 16 198.18.0.1:8080 0.0.0.0:* users:((\"app\",pid=4711,fd=3)) ino:815 sk:1 cgroup:/ <-> \
                    skmem:(r0,rb131072,t0,tb16384,f0,w0,o0,bl0,d7)";
        let expected = Listening {
            accept_queue: 17,
            limit: 16,
            inode: 815,
            pid: 4711,
            drops: 7,
        };
        assert_eq!(listening_line(line), expected);
    }
}
