//! The guards of IP, ICMP, UDP and TCP: tables `[ip]`, `[icmp]`, `[udp]` and `[tcp]`.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use net_common::abi::Class;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::units::{Rate, UnitError};
use super::{GuardMode, RateLimit};

/// The guards of IP, ICMP, UDP and TCP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GuardPolicy {
    /// `[ip]`
    pub ip: IpPolicy,
    /// `[icmp]`
    pub icmp: IcmpPolicy,
    /// `[udp]`
    pub udp: UdpPolicy,
    /// `[tcp]`
    pub tcp: TcpPolicy,
}

impl GuardPolicy {
    /// Whether a guard judges by whether a socket of this host waits, which translation takes elsewhere.
    pub fn asks_for_translation(&self) -> bool {
        self.tcp.mode != GuardMode::Off || self.udp.mode != GuardMode::Off
    }

    /// What a class of packets may come to.
    pub fn shares(&self, class: Class) -> &Shares {
        match class {
            Class::EchoRequest => &self.icmp.echo_request,
            Class::EchoReply => &self.icmp.echo_reply,
            Class::PathMtu => &self.icmp.path_mtu,
            Class::TimeExceeded => &self.icmp.time_exceeded,
            Class::Unreachable => &self.icmp.unreachable,
            Class::Redirect => &self.icmp.redirect,
            Class::Informational => &self.icmp.informational,
            Class::Other => &self.icmp.other,
            Class::Fragment => &self.ip.fragments,
            Class::Reflection => &self.udp.reflection,
            Class::Stray => &self.tcp.stray,
            Class::StraySynAck => &self.tcp.stray_syn_ack,
        }
    }
}

/// Where the config has the shares of a class: table and key.
pub const fn key_of(class: Class) -> (&'static str, &'static str) {
    match class {
        Class::EchoRequest => ("icmp", "echo_request"),
        Class::EchoReply => ("icmp", "echo_reply"),
        Class::PathMtu => ("icmp", "path_mtu"),
        Class::TimeExceeded => ("icmp", "time_exceeded"),
        Class::Unreachable => ("icmp", "unreachable"),
        Class::Redirect => ("icmp", "redirect"),
        Class::Informational => ("icmp", "informational"),
        Class::Other => ("icmp", "other"),
        Class::Fragment => ("ip", "fragments"),
        Class::Reflection => ("udp", "reflection"),
        Class::Stray => ("tcp", "stray"),
        Class::StraySynAck => ("tcp", "stray_syn_ack"),
    }
}

/// Headers, fragments and sources of IP packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IpPolicy {
    /// Whether it judges, and drops.
    pub mode: GuardMode,
    /// Whether the way back to a source is asked for.
    pub reverse_path: ReversePath,
    /// Fragments (R-TCP-10, R-UDP-4).
    pub fragments: Shares,
}

/// Whether the way back to a source is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReversePath {
    /// It is not.
    #[default]
    Off,
    /// There must be a route to the source.
    Loose,
    /// It must lead by the interface where the packet arrived.
    Strict,
}

/// ICMP and ICMPv6, but for neighbour discovery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IcmpPolicy {
    /// Whether it judges, and drops.
    pub mode: GuardMode,
    /// Echo requests (R-ICMP-4).
    pub echo_request: Shares,
    /// Echo replies.
    pub echo_reply: Shares,
    /// "Fragmentation needed" and "packet too big" (R-ICMP-1, R-ICMP-3).
    pub path_mtu: Shares,
    /// Time exceeded.
    pub time_exceeded: Shares,
    /// Destination unreachable, parameter problem.
    pub unreachable: Shares,
    /// IPv4 redirects (R-ICMP-5).
    pub redirect: Shares,
    /// Timestamps and node information (R-ICMP-5).
    pub informational: Shares,
    /// Every other type.
    pub other: Shares,
}

/// UDP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct UdpPolicy {
    /// Whether it judges, and drops.
    pub mode: GuardMode,
    /// From the port of a service that amplifies, to a socket (R-UDP-3).
    pub reflection: Shares,
    /// Resolvers and time servers without limit.
    pub servers: Vec<IpAddr>,
    /// Whether the name servers in `/etc/resolv.conf` are among them.
    pub resolv_conf: bool,
}

/// TCP segments without a socket, and connections of one source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcpPolicy {
    /// Whether it judges, and drops.
    pub mode: GuardMode,
    /// Segments without a socket, while they are an attack (R-TCP-8).
    pub stray: Shares,
    /// SYN-ACKs that nobody asked for (R-TCP-9).
    pub stray_syn_ack: Shares,
    /// New connections of one source; none is no limit.
    pub new_connections: Option<RateLimit>,
    /// Open connections of one source; 0 is no limit.
    pub open_connections: u32,
}

/// What one class of packets may come to. None is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Shares {
    /// Of one address.
    pub host: Option<RateLimit>,
    /// Of one /24 or /64.
    pub prefix: Option<RateLimit>,
    /// Of one /48 of IPv6.
    pub site: Option<RateLimit>,
    /// Of all sources not seen before together.
    pub pool: Option<RateLimit>,
    /// Of all that are known by nothing but having been seen for a while, together.
    pub steady: Option<RateLimit>,
    /// Of all that have proved themselves together.
    pub proven: Option<RateLimit>,
}

impl Shares {
    /// No limit at all.
    pub const OFF: Self = Self {
        host: None,
        prefix: None,
        site: None,
        pool: None,
        steady: None,
        proven: None,
    };

    /// Shares that are part of one another and grow the wrong way: the wider one, and the narrower one that never gets
    /// what it promises. R-ICMP-7.
    pub fn upside_down(&self) -> Vec<(NamedShare, NamedShare)> {
        let chains = [
            [
                ("host", self.host),
                ("prefix", self.prefix),
                ("site", self.site),
            ],
            [("host", self.host), ("proven", self.proven), ("", None)],
        ];
        let mut found = Vec::new();
        for chain in chains {
            let limited = chain
                .into_iter()
                .filter_map(|(name, limit)| Some((name, limit?.rate)));
            let limited: Vec<_> = limited.collect();
            for pair in limited.windows(2) {
                if let [narrow, wide] = *pair
                    && wide.1.interval_ns() > narrow.1.interval_ns()
                {
                    found.push((wide, narrow));
                }
            }
        }
        found
    }
}

/// The key of a share, and its rate.
pub type NamedShare = (&'static str, Rate);

/// A share as it is written: a rate, with its burst where that is not a second's worth, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub Option<RateLimit>);

const SHARE_REMEDY: &str = "write a rate with an optional burst, as in \"100/s\" or \"100/s burst 200\", or \"off\" \
     for no limit";

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A rate with an optional burst, as in \"100/s burst 200\", or \"off\" for no limit.",
            "type": "string",
            "pattern": "^(off|[0-9]+[kM]?/[smh]( burst [0-9]+)?)$"
        })
    }
}

/// As it is read.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("off"),
            Some(limit) if limit.burst == a_second_of(limit.rate) => write!(f, "{}", limit.rate),
            Some(limit) => write!(f, "{} burst {}", limit.rate, limit.burst),
        }
    }
}

impl FromStr for Share {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "off" {
            return Ok(Self(None));
        }
        let (rate, burst) = match text.split_once(" burst ") {
            Some((rate, burst)) => (rate, Some(burst)),
            None => (text, None),
        };
        let rate: Rate = rate.parse().map_err(|error: UnitError| UnitError {
            what: error.what,
            remedy: SHARE_REMEDY.to_owned(),
        })?;
        let burst = match burst {
            Some(text) => burst_of(text)?,
            None => a_second_of(rate),
        };
        Ok(Self(Some(RateLimit { rate, burst })))
    }
}

fn burst_of(text: &str) -> Result<u32, UnitError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let burst = text.parse().ok().filter(|n| (1..=MAX_BURST).contains(n));
    burst.filter(|_| digits).ok_or_else(|| UnitError {
        what: format!("a burst of `{}` is out of range", text.escape_debug()),
        remedy: format!("write a whole number from 1 to {MAX_BURST}"),
    })
}

/// The largest burst that may be written.
pub(super) const MAX_BURST: u32 = 1_000_000;

/// The burst of a share that names none; at least one, so that a rate below 1/s passes anything at all.
const fn a_second_of(rate: Rate) -> u32 {
    // The interval is at least 100 ns: the quotient is at most 10^7, and fits.
    let packets = 1_000_000_000 / rate.interval_ns();
    match packets {
        0 => 1,
        n if n > MAX_BURST as u64 => MAX_BURST,
        n => n as u32,
    }
}

const fn share(rate: u64) -> Option<RateLimit> {
    let rate = Rate::per_second(rate).unwrap();
    Some(RateLimit {
        rate,
        burst: a_second_of(rate),
    })
}

const fn bursting(rate: u64, burst: u32) -> Option<RateLimit> {
    Some(RateLimit {
        rate: Rate::per_second(rate).unwrap(),
        burst,
    })
}

/// Echo and what is not named otherwise: far more than monitoring needs, and little beside what a flood is.
const ECHO: Shares = Shares {
    host: bursting(100, 200),
    prefix: share(500),
    site: share(1_000),
    pool: share(1_000),
    steady: share(5_000),
    proven: share(10_000),
};

/// Errors that path MTU discovery and traceroute live by: shares of their own, and twice as large (R-ICMP-1).
const ERRORS: Shares = Shares {
    host: bursting(200, 400),
    prefix: share(1_000),
    site: share(2_000),
    pool: share(1_000),
    steady: share(5_000),
    proven: share(20_000),
};

/// Segments without a socket: what is left to answer peers that lost a connection's other end (R-TCP-8).
const STRAYS: Shares = Shares {
    host: bursting(20, 40),
    prefix: share(100),
    site: share(200),
    pool: share(200),
    steady: share(500),
    proven: share(1_000),
};

impl Default for IpPolicy {
    fn default() -> Self {
        Self {
            mode: GuardMode::Enforce,
            reverse_path: ReversePath::Off,
            // A file server that speaks NFS over UDP gets most of its traffic in fragments.
            fragments: Shares {
                host: None,
                prefix: share(50_000),
                site: share(100_000),
                pool: share(20_000),
                steady: share(200_000),
                proven: share(500_000),
            },
        }
    }
}

impl Default for IcmpPolicy {
    fn default() -> Self {
        Self {
            mode: GuardMode::Enforce,
            echo_request: ECHO,
            echo_reply: ECHO,
            path_mtu: ERRORS,
            time_exceeded: ERRORS,
            unreachable: ERRORS,
            redirect: Shares {
                host: share(5),
                prefix: share(20),
                site: share(50),
                pool: share(20),
                steady: share(50),
                proven: share(50),
            },
            informational: Shares {
                host: share(10),
                prefix: share(50),
                site: share(100),
                pool: share(50),
                steady: share(100),
                proven: share(200),
            },
            other: ECHO,
        }
    }
}

impl Default for UdpPolicy {
    fn default() -> Self {
        Self {
            mode: GuardMode::Enforce,
            reflection: Shares {
                host: bursting(1_000, 2_000),
                prefix: share(2_000),
                site: share(4_000),
                pool: share(5_000),
                steady: share(10_000),
                proven: share(50_000),
            },
            servers: Vec::new(),
            resolv_conf: true,
        }
    }
}

impl Default for TcpPolicy {
    fn default() -> Self {
        Self {
            mode: GuardMode::Enforce,
            stray: STRAYS,
            stray_syn_ack: STRAYS,
            new_connections: None,
            open_connections: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_with_their_burst_or_a_second_of_it() {
        for (text, expected) in [
            ("off", None),
            ("100/s", Some(("100/s", 100))),
            ("100/s burst 200", Some(("100/s", 200))),
            ("1k/s burst 1", Some(("1k/s", 1))),
            ("10M/s", Some(("10M/s", 1_000_000))),
            ("6k/m", Some(("6k/m", 100))),
            ("1/m", Some(("1/m", 1))),
            ("1/h burst 7", Some(("1/h", 7))),
        ] {
            let expected = expected.map(|(rate, burst): (&str, _)| RateLimit {
                rate: rate.parse().unwrap(),
                burst,
            });
            assert_eq!(text.parse(), Ok(Share(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_share_is_refused_with_a_remedy() {
        for (text, what, remedy) in [
            ("", "is no rate", "\"100/s burst 200\""),
            ("none", "is no rate", "\"off\""),
            ("Off", "is no rate", "\"off\""),
            ("0", "is no rate", "\"off\""),
            ("0/s", "is zero", "\"off\""),
            ("100/s  burst 2", "is no rate", "burst"),
            ("100/s burst", "is no rate", "burst"),
            ("100/s burst 0", "a burst of `0`", "from 1 to 1000000"),
            (
                "100/s burst 1000001",
                "a burst of `1000001`",
                "from 1 to 1000000",
            ),
            ("100/s burst +2", "a burst of `+2`", "whole number"),
            ("100/s burst 1k", "a burst of `1k`", "whole number"),
            ("100/s burst ", "a burst of ``", "whole number"),
        ] {
            let error = text.parse::<Share>().unwrap_err();
            assert!(error.what.contains(what), "{text:?}: {error:?}");
            assert!(error.remedy.contains(remedy), "{text:?}: {error:?}");
        }
    }

    #[test]
    fn a_wider_share_below_a_narrower_one_is_found() {
        let default = IcmpPolicy::default().echo_request;
        for (host, prefix, site, proven, expected) in [
            ("100/s", "500/s", "1k/s", "10k/s", &[][..]),
            ("10k/s", "1/s", "1k/s", "10k/s", &[("prefix", "host")]),
            ("100/s", "100/s", "99/s", "off", &[("site", "prefix")]),
            (
                "100/s",
                "off",
                "99/s",
                "99/s",
                &[("site", "host"), ("proven", "host")],
            ),
            ("off", "1/s", "off", "1/m", &[]),
        ] {
            let share = |text: &str| text.parse::<Share>().unwrap().0;
            let shares = Shares {
                host: share(host),
                prefix: share(prefix),
                site: share(site),
                proven: share(proven),
                ..default
            };
            let found = shares.upside_down();
            let found: Vec<_> = found
                .iter()
                .map(|(wide, narrow)| (wide.0, narrow.0))
                .collect();
            assert_eq!(found, expected, "{host} {prefix} {site} {proven}");
        }
        let policy = GuardPolicy::default();
        for class in Class::ALL {
            assert_eq!(policy.shares(class).upside_down(), [], "{class:?}");
        }
        assert!(Shares::OFF.upside_down().is_empty());
    }

    /// R-ICMP-7: what one address may send is part of what its prefix may, and that of what its site may.
    #[test]
    fn defaults_grow_from_host_to_site() {
        let policy = GuardPolicy::default();
        for class in Class::ALL {
            let shares = policy.shares(class);
            let rates = [shares.host, shares.prefix, shares.site].map(|share| {
                share.map_or(0, |limit| {
                    assert!(limit.burst >= 1);
                    1_000_000_000_000 / limit.rate.interval_ns()
                })
            });
            assert!(rates.is_sorted(), "{class:?}: {rates:?}");
            assert!(
                shares.pool.is_some() && shares.prefix.is_some(),
                "{class:?} is open to spoofed sources"
            );
        }
    }
}
