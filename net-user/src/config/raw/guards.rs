//! `[ip]`, `[icmp]`, `[udp]` and `[tcp]` as written.

use serde::Deserialize;
use toml::Spanned;

use super::Text;

/// Table `[ip]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIp {
    /// `off`, `observe` or `enforce`.
    pub mode: Option<Spanned<Text>>,
    /// `off`, `loose` or `strict`.
    pub reverse_path: Option<Spanned<Text>>,
    /// Fragments.
    #[serde(default)]
    pub fragments: RawShares,
}

/// Table `[icmp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawIcmp {
    /// `off`, `observe` or `enforce`.
    pub mode: Option<Spanned<Text>>,
    /// Echo requests.
    #[serde(default)]
    pub echo_request: RawShares,
    /// Echo replies.
    #[serde(default)]
    pub echo_reply: RawShares,
    /// "Fragmentation needed" and "packet too big".
    #[serde(default)]
    pub path_mtu: RawShares,
    /// Time exceeded.
    #[serde(default)]
    pub time_exceeded: RawShares,
    /// Destination unreachable, parameter problem.
    #[serde(default)]
    pub unreachable: RawShares,
    /// IPv4 redirects.
    #[serde(default)]
    pub redirect: RawShares,
    /// Timestamps and node information.
    #[serde(default)]
    pub informational: RawShares,
    /// Every other type.
    #[serde(default)]
    pub other: RawShares,
}

/// Table `[udp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawUdp {
    /// `off`, `observe` or `enforce`.
    pub mode: Option<Spanned<Text>>,
    /// From the port of a service that amplifies, to a socket.
    #[serde(default)]
    pub reflection: RawShares,
    /// Resolvers and time servers without limit.
    #[serde(default)]
    pub servers: Vec<Spanned<Text>>,
    /// Whether the name servers in `/etc/resolv.conf` are among them.
    pub resolv_conf: Option<Spanned<bool>>,
}

/// Table `[tcp]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawTcp {
    /// `off`, `observe` or `enforce`.
    pub mode: Option<Spanned<Text>>,
    /// Segments without a socket, while they are an attack.
    #[serde(default)]
    pub stray: RawShares,
    /// SYN-ACKs that nobody asked for.
    #[serde(default)]
    pub stray_syn_ack: RawShares,
    /// New connections of one source.
    pub new_connections: Option<Spanned<Text>>,
    /// Open connections of one source.
    pub open_connections: Option<Spanned<i64>>,
}

/// What one class of packets may come to: each a share, or `off`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawShares {
    /// One address.
    pub host: Option<Spanned<Text>>,
    /// One /24 or /64.
    pub prefix: Option<Spanned<Text>>,
    /// One /48.
    pub site: Option<Spanned<Text>>,
    /// All sources not seen before.
    pub pool: Option<Spanned<Text>>,
    /// All sources that have been seen for a while.
    pub steady: Option<Spanned<Text>>,
    /// All sources that have proved themselves.
    pub proven: Option<Spanned<Text>>,
}
