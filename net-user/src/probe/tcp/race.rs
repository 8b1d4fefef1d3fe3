//! Happy eyeballs: attempts over IPv6 and IPv4 as browsers race them (RFC 8305).

use std::{
    collections::VecDeque,
    future::pending,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd as _, OwnedFd},
    pin::Pin,
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use nix::sys::socket::{SockaddrStorage, getsockname};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    attempt::{self, Attempt, End},
    judge,
};
use crate::probe::Walk;

/// Between the beginnings of two attempts, unless the first has failed by then ("Connection Attempt Delay", RFC 8305 section
/// 5: 250 ms recommended).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// How long attempts that lost are looked at, to know whether they would have succeeded: until a second SYN, sent after a
/// second (RFC 6298 section 2), would be answered.
const AFTERWARDS: Duration = Duration::from_millis(1300);

/// How a race ended.
pub(super) struct Race {
    /// The first that was established.
    pub(super) winner: Option<TcpStream>,
    /// When it was decided, in microseconds since the walk began.
    pub(super) decided_us: u64,
    /// All attempts in the order of their beginning.
    pub(super) attempts: Vec<Attempt>,
}

/// The source that the kernel would take; nothing is sent.
fn source_to(remote: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(remote).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// The order in which addresses are tried: families alternate, IPv6 first, each in the order given (RFC 8305 section 4);
/// what only a source of narrower scope could reach comes last, as getaddrinfo has it.
pub(super) fn order(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut order = alternate(addresses);
    order.sort_by_key(|remote| judge::is_beyond_scope(*remote, source_to(*remote)));
    order
}

fn alternate(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let of = |v6: bool| {
        let family = addresses.iter().filter(move |a| a.is_ipv6() == v6);
        family.copied().collect::<VecDeque<_>>()
    };
    let (mut v6, mut v4) = (of(true), of(false));
    let mut order: Vec<SocketAddr> = Vec::new();
    while !v6.is_empty() || !v4.is_empty() {
        for next in [v6.pop_front(), v4.pop_front()].into_iter().flatten() {
            if !order.contains(&next) {
                order.push(next);
            }
        }
    }
    order
}

struct Ended {
    index: usize,
    result: io::Result<TcpStream>,
}

type Running = Pin<Box<dyn Future<Output = Ended> + Send>>;

/// The attempts of one race.
struct Field<'a> {
    walk: &'a Walk<'a>,
    running: FuturesUnordered<Running>,
    attempts: Vec<Attempt>,
    /// A second descriptor of each, for what the kernel knows of it.
    looks: Vec<Option<OwnedFd>>,
    /// Which have ended.
    ended: Vec<bool>,
}

impl Field<'_> {
    fn start(&mut self, remote: SocketAddr) {
        let index = self.attempts.len();
        self.attempts.push(Attempt {
            remote,
            source: None,
            start_us: self.walk.now_us(),
            duration_us: 0,
            end: End::GivenUp,
            syns: 0,
            error: None,
            icmp: None,
        });
        self.ended.push(false);
        let (running, look): (Running, _) = match attempt::open(remote) {
            Ok((socket, look)) => {
                let connect = async move {
                    let result = socket.connect(remote).await;
                    Ended { index, result }
                };
                (Box::pin(connect), Some(look))
            }
            Err(error) => {
                let result = Err(error);
                (Box::pin(async move { Ended { index, result } }), None)
            }
        };
        self.looks.push(look);
        self.running.push(running);
    }

    /// Notes how an attempt ended; the stream, if it is there.
    fn end(&mut self, ended: Ended, won: bool) -> Option<TcpStream> {
        self.look(ended.index);
        let look = self.looks.get(ended.index)?.as_ref();
        let attempt = self.attempts.get_mut(ended.index)?;
        if let Some(done) = self.ended.get_mut(ended.index) {
            *done = true;
        }
        match ended.result {
            Ok(stream) => {
                if let Some(look) = look {
                    attempt::keep_errors(look, attempt.remote.is_ipv4(), false);
                }
                attempt.end = if won { End::Connected } else { End::Later };
                Some(stream)
            }
            Err(error) => {
                attempt.icmp = look.and_then(|look| attempt::icmp(look, attempt.source));
                attempt.end = attempt::end(&error, attempt.icmp.as_ref());
                attempt.error = Some(error.to_string());
                None
            }
        }
    }

    /// Notes what the kernel knows of an attempt now.
    fn look(&mut self, index: usize) {
        let now = self.walk.now_us();
        let Some(attempt) = self.attempts.get_mut(index) else {
            return;
        };
        attempt.duration_us = now.saturating_sub(attempt.start_us);
        if let Some(look) = self.looks.get(index).and_then(Option::as_ref) {
            attempt.syns = attempt::syns(look);
            attempt.source = source(look);
        }
    }

    /// Ends what still runs.
    fn stop(&mut self, end: End) {
        let still = self.ended.iter().enumerate().filter(|(_, ended)| !**ended);
        for index in still.map(|(index, _)| index).collect::<Vec<_>>() {
            self.look(index);
            if let Some(attempt) = self.attempts.get_mut(index) {
                // A second SYN without an answer is an end of its own.
                attempt.end = match end {
                    End::GivenUp if attempt.syns > 1 => End::NoAnswer,
                    end => end,
                };
            }
        }
        self.ended.fill(true);
        self.running.clear();
    }
}

/// The socket's own address; the kernel keeps it when an attempt fails, but not the port.
fn source(socket: &OwnedFd) -> Option<IpAddr> {
    let name = getsockname::<SockaddrStorage>(socket.as_raw_fd()).ok()?;
    let v4 = name.as_sockaddr_in().map(|v4| v4.ip().into());
    let v6 = || name.as_sockaddr_in6().map(|v6| v6.ip().into());
    v4.or_else(v6).filter(|ip: &IpAddr| !ip.is_unspecified())
}

/// Races. Attempts that lost are looked at a little longer if `afterwards`.
pub(super) async fn race(walk: &Walk<'_>, addresses: &[SocketAddr], afterwards: bool) -> Race {
    let end = Instant::now() + walk.plan.timeout;
    let mut field = Field {
        walk,
        running: FuturesUnordered::new(),
        attempts: Vec::new(),
        looks: Vec::new(),
        ended: Vec::new(),
    };
    let mut waiting: VecDeque<_> = order(addresses).into();
    let mut next_at = Instant::now();
    let mut winner = None;
    while winner.is_none() && (!waiting.is_empty() || !field.running.is_empty()) {
        let turn = async {
            if waiting.is_empty() {
                return pending().await;
            }
            // The timer would round what is due now up to the next millisecond.
            if Instant::now() < next_at {
                sleep_until(next_at).await;
            }
        };
        tokio::select! {
            biased;
            Some(ended) = field.running.next() => {
                winner = field.end(ended, true);
                // The next need not wait for one that has failed.
                next_at = Instant::now();
            }
            () = turn => {
                if let Some(remote) = waiting.pop_front() {
                    field.start(remote);
                }
                next_at = Instant::now() + ATTEMPT_DELAY;
            }
            () = sleep_until(end) => break,
        }
    }
    let decided_us = walk.now_us();
    if winner.is_none() {
        field.stop(End::NoAnswer);
    } else if afterwards {
        let until = end.min(Instant::now() + AFTERWARDS);
        while let Ok(Some(ended)) = timeout_at(until, field.running.next()).await {
            drop(field.end(ended, false));
        }
    }
    field.stop(End::GivenUp);
    Race {
        winner,
        decided_us,
        attempts: field.attempts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate_and_ipv6_is_first() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let given = [
            at("192.0.2.1:80"),
            at("192.0.2.2:80"),
            at("192.0.2.3:80"),
            at("[2001:db8::1]:80"),
            at("[2001:db8::2]:80"),
            at("192.0.2.1:80"),
        ];
        let expected = [
            "[2001:db8::1]:80",
            "192.0.2.1:80",
            "[2001:db8::2]:80",
            "192.0.2.2:80",
            "192.0.2.3:80",
        ]
        .map(at);
        assert_eq!(alternate(&given), expected);
        assert_eq!(alternate(&[]), []);
    }
}
