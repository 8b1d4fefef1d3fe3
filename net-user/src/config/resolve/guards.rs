//! `[ip]`, `[icmp]`, `[udp]` and `[tcp]`.

use std::net::IpAddr;

use super::super::guards::{
    GuardPolicy, IcmpPolicy, IpPolicy, ReversePath, Share, Shares, TcpPolicy, UdpPolicy,
};
use super::super::raw::guards::{RawClass, RawIcmp, RawIp, RawTcp, RawUdp};
use super::super::raw::{RawConfig, Spanned, Text};
use super::super::{GuardMode, RateLimit};
use super::{GUARD_MODES, Reader};

const REVERSE_PATHS: [(&str, ReversePath); 3] = [
    ("off", ReversePath::Off),
    ("loose", ReversePath::Loose),
    ("strict", ReversePath::Strict),
];
/// Nobody means more; it keeps the number within what the data path counts.
const MAX_OPEN: u32 = 1_000_000;

impl Reader<'_> {
    pub(super) fn guards(&mut self, raw: &RawConfig) -> GuardPolicy {
        GuardPolicy {
            ip: self.ip(&raw.ip),
            icmp: self.icmp(&raw.icmp),
            udp: self.udp(&raw.udp),
            tcp: self.tcp(&raw.tcp),
        }
    }

    fn ip(&mut self, raw: &RawIp) -> IpPolicy {
        let default = IpPolicy::default();
        IpPolicy {
            mode: self.guard_mode(raw.mode.as_ref(), default.mode),
            reverse_path: self
                .word(
                    raw.reverse_path.as_ref(),
                    "reverse-path check",
                    &REVERSE_PATHS,
                )
                .unwrap_or(default.reverse_path),
            fragments: self.shares(raw.fragments.as_ref(), default.fragments),
        }
    }

    fn icmp(&mut self, raw: &RawIcmp) -> IcmpPolicy {
        let default = IcmpPolicy::default();
        IcmpPolicy {
            mode: self.guard_mode(raw.mode.as_ref(), default.mode),
            echo_request: self.shares(raw.echo_request.as_ref(), default.echo_request),
            echo_reply: self.shares(raw.echo_reply.as_ref(), default.echo_reply),
            path_mtu: self.shares(raw.path_mtu.as_ref(), default.path_mtu),
            time_exceeded: self.shares(raw.time_exceeded.as_ref(), default.time_exceeded),
            unreachable: self.shares(raw.unreachable.as_ref(), default.unreachable),
            redirect: self.shares(raw.redirect.as_ref(), default.redirect),
            informational: self.shares(raw.informational.as_ref(), default.informational),
            other: self.shares(raw.other.as_ref(), default.other),
        }
    }

    fn udp(&mut self, raw: &RawUdp) -> UdpPolicy {
        let default = UdpPolicy::default();
        UdpPolicy {
            mode: self.guard_mode(raw.mode.as_ref(), default.mode),
            reflection: self.shares(raw.reflection.as_ref(), default.reflection),
            servers: self.servers(&raw.servers),
            resolv_conf: raw
                .resolv_conf
                .as_ref()
                .map_or(default.resolv_conf, |raw| *raw.get_ref()),
        }
    }

    fn tcp(&mut self, raw: &RawTcp) -> TcpPolicy {
        let default = TcpPolicy::default();
        TcpPolicy {
            mode: self.guard_mode(raw.mode.as_ref(), default.mode),
            stray: self.shares(raw.stray.as_ref(), default.stray),
            stray_syn_ack: self.shares(raw.stray_syn_ack.as_ref(), default.stray_syn_ack),
            new_connections: self.share(raw.new_connections.as_ref(), default.new_connections),
            open_connections: self
                .open_connections(raw.open_connections.as_ref())
                .unwrap_or(default.open_connections),
        }
    }

    fn guard_mode(&mut self, raw: Option<&Spanned<Text>>, default: GuardMode) -> GuardMode {
        self.word(raw, "mode", &GUARD_MODES).unwrap_or(default)
    }

    fn shares(&mut self, raw: Option<&Spanned<RawClass>>, default: Shares) -> Shares {
        let Some(class) = raw else { return default };
        let raw = match class.get_ref() {
            RawClass::Shares(raw) => raw,
            RawClass::Word(Text(word)) if word == "off" => return Shares::OFF,
            RawClass::Word(Text(word)) => {
                self.problem(
                    Some(class.span()),
                    format!(
                        "`{}` stands in place of several shares",
                        word.escape_debug()
                    ),
                    "write { host = \"100/s\", pool = \"1k/s\" }, each share with a rate of its own, or \"off\" for no \
                     limit at all"
                        .to_owned(),
                );
                return default;
            }
        };
        Shares {
            host: self.share(raw.host.as_ref(), default.host),
            prefix: self.share(raw.prefix.as_ref(), default.prefix),
            site: self.share(raw.site.as_ref(), default.site),
            pool: self.share(raw.pool.as_ref(), default.pool),
            steady: self.share(raw.steady.as_ref(), default.steady),
            proven: self.share(raw.proven.as_ref(), default.proven),
        }
    }

    fn share(
        &mut self,
        raw: Option<&Spanned<Text>>,
        default: Option<RateLimit>,
    ) -> Option<RateLimit> {
        self.unit::<Share>(raw).map_or(default, |share| share.0)
    }

    fn servers(&mut self, raw: &[Spanned<Text>]) -> Vec<IpAddr> {
        let mut servers: Vec<IpAddr> = Vec::new();
        for server in raw {
            let text = server.get_ref().0.as_str();
            let fault = match text.parse::<IpAddr>() {
                Ok(address) if servers.contains(&address) => {
                    Some((format!("server {address} is named twice"), "name it once"))
                }
                Ok(address) => match no_server(address) {
                    None => {
                        servers.push(address);
                        None
                    }
                    Some(kind) => Some((
                        format!("{address} is {kind}: no answer from there comes over a link"),
                        "write the unicast address that the server answers from; of a local resolver, those \
                         that it asks",
                    )),
                },
                Err(_) => Some((
                    format!("`{}` is no IP address", text.escape_debug()),
                    "write the address of each server, as in \"192.0.2.53\" or \"2001:db8::53\"; names are not \
                     looked up",
                )),
            };
            if let Some((what, remedy)) = fault {
                self.problem(Some(server.span()), what, remedy.to_owned());
            }
        }
        servers
    }

    fn open_connections(&mut self, raw: Option<&Spanned<i64>>) -> Option<u32> {
        let raw = raw?;
        let open = u32::try_from(*raw.get_ref()).ok();
        let open = open.filter(|open| *open <= MAX_OPEN);
        if open.is_none() {
            self.problem(
                Some(raw.span()),
                format!("{} open connections cannot be a limit", raw.get_ref()),
                format!("write a number from 1 to {MAX_OPEN}, or 0 for no limit"),
            );
        }
        open
    }
}

/// Why no answer can come from an address.
fn no_server(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("the unspecified address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4 address in IPv6's notation")
        }
        _ => None,
    }
}
