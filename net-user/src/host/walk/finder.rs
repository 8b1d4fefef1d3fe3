//! Which listener a connection came through.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    host::sock_diag::ListenSocket,
    listeners::{Identity, identity},
};

/// Finds listeners by the local end of a connection; a reuseport group is one.
pub(super) struct Finder {
    pub(super) identities: Vec<Identity>,
    by_port: HashMap<u16, Vec<Candidate>>,
}

struct Candidate {
    /// Place in `identities`.
    index: usize,
    identity: Identity,
    v6only: bool,
}

impl Finder {
    pub(super) fn new(listeners: &[ListenSocket]) -> Self {
        let mut finder = Self {
            identities: Vec::new(),
            by_port: HashMap::new(),
        };
        for socket in listeners {
            let identity = identity(socket);
            let candidates = finder.by_port.entry(socket.port).or_default();
            match candidates.iter_mut().find(|c| c.identity == identity) {
                Some(known) => known.v6only &= socket.v6only,
                None => {
                    candidates.push(Candidate {
                        index: finder.identities.len(),
                        identity,
                        v6only: socket.v6only,
                    });
                    finder.identities.push(identity);
                }
            }
        }
        finder
    }

    /// Whether any listener has the port.
    pub(super) fn has(&self, port: u16) -> bool {
        self.by_port.contains_key(&port)
    }

    /// The listener that a SYN to this address finds, as the kernel scores them (`inet_lookup_listener` and `compute_score`,
    /// `net/ipv4/inet_hashtables.c` of 6.12): an exact address before a wildcard, then one bound to the interface, then for
    /// IPv4 a socket of IPv4. `ifindex` is that of the connection, 0 when it is bound to none.
    pub(super) fn find(&self, local: IpAddr, port: u16, ifindex: u32) -> Option<usize> {
        let fits = |candidate: &&Candidate| {
            let of = &candidate.identity;
            let address = of.address == local
                || match of.address {
                    IpAddr::V4(any) => any.is_unspecified() && local.is_ipv4(),
                    IpAddr::V6(any) => {
                        any.is_unspecified() && (local.is_ipv6() || !candidate.v6only)
                    }
                };
            address && (of.ifindex == 0 || of.ifindex == ifindex)
        };
        let score = |candidate: &&Candidate| {
            let of = &candidate.identity;
            (of.address == local, of.ifindex != 0, of.family == 4)
        };
        self.by_port
            .get(&port)?
            .iter()
            .filter(fits)
            .max_by_key(score)
            .map(|candidate| candidate.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(address: &str, family: u8, v6only: bool, ifindex: u32) -> ListenSocket {
        ListenSocket {
            family,
            address: address.parse().unwrap(),
            port: 443,
            ifindex,
            inode: 1,
            uid: 0,
            cookie: 1,
            v6only,
            accept_queue: 0,
            accept_limit: 1,
            rcvbuf: 0,
            drops: 0,
            mptcp: false,
            md5: false,
        }
    }

    #[test]
    fn the_listener_is_found_that_the_kernel_would_choose() {
        let any4 = || listener("0.0.0.0", 4, false, 0);
        let dual = || listener("::", 6, false, 0);
        let own4 = || listener("192.0.2.1", 4, false, 0);
        let mapped = || listener("192.0.2.1", 6, false, 0);
        let v6only = || listener("::", 6, true, 0);
        let bound = || listener("0.0.0.0", 4, false, 2);
        let (v4, v6) = ("192.0.2.1", "2001:db8::1");
        for (description, listeners, local, ifindex, expected) in [
            ("a wildcard", vec![any4()], v4, 0, Some(0)),
            ("IPv6 to IPv4 alone", vec![any4()], v6, 0, None),
            ("IPv4 to dual-stack", vec![dual()], v4, 0, Some(0)),
            ("IPv6 to dual-stack", vec![dual()], v6, 0, Some(0)),
            ("IPv4 to v6only", vec![v6only()], v4, 0, None),
            ("IPv4 has its own", vec![dual(), any4()], v4, 0, Some(1)),
            ("IPv6 beside it", vec![any4(), dual()], v6, 0, Some(1)),
            ("exact first", vec![any4(), own4(), dual()], v4, 0, Some(1)),
            ("a mapped address", vec![any4(), mapped()], v4, 0, Some(1)),
            ("mapped and own", vec![mapped(), own4()], v4, 0, Some(1)),
            ("another address", vec![own4()], "192.0.2.2", 0, None),
            ("its interface", vec![any4(), bound()], v4, 2, Some(1)),
            ("another interface", vec![bound(), any4()], v4, 3, Some(1)),
            ("no interface told", vec![bound(), any4()], v4, 0, Some(1)),
            ("only elsewhere", vec![bound()], v4, 3, None),
            ("exact before bound", vec![bound(), own4()], v4, 2, Some(1)),
            ("reuseport", vec![any4(), any4()], v4, 0, Some(0)),
        ] {
            let finder = Finder::new(&listeners);
            let found = finder.find(local.parse().unwrap(), 443, ifindex);
            assert_eq!(found, expected, "{description}");
            assert_eq!(
                finder.find(local.parse().unwrap(), 80, ifindex),
                None,
                "{description}"
            );
            assert!(finder.has(443) && !finder.has(80));
        }
    }
}
