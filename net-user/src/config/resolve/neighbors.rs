//! `[arp]`, `[ndp]`, `[neighbors]` and every `[[neighbor]]`.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;

use net_common::abi::BINDING_MACS;
use net_common::units::Mac;

use super::super::interface::{self, Pattern};
use super::super::neighbor::{
    MAX_VLAN, address_fault, is_link_local, named_twice, no_router, no_vlan, parse_mac,
    parse_router, too_many,
};
use super::super::raw::{RawConfig, RawNeighbor, Spanned, Text};
use super::super::{ArpValidate, NeighborConfig, NeighborPolicy, RateLimit};
use super::{GUARD_MODES, Reader};

const GATEWAY: [(&str, bool); 2] = [("auto", true), ("off", false)];

impl Reader<'_> {
    pub(super) fn neighbors(&mut self, raw: &RawConfig, interfaces: &[Pattern]) -> NeighborPolicy {
        let default = NeighborPolicy::default();
        let limits = &raw.neighbors;
        NeighborPolicy {
            arp: self
                .word(raw.arp.mode.as_ref(), "mode", &GUARD_MODES)
                .unwrap_or(default.arp),
            ndp: self
                .word(raw.ndp.mode.as_ref(), "mode", &GUARD_MODES)
                .unwrap_or(default.ndp),
            validate: self.validate(&raw.arp.validate),
            routers: self.routers(&raw.ndp.routers),
            learn_gateways: self
                .word(limits.gateway.as_ref(), "way to learn gateways", &GATEWAY)
                .unwrap_or(default.learn_gateways),
            limit: self.rate_limit(&limits.limit, &limits.burst, default.limit),
            announce_limit: self.rate_limit(
                &limits.announce_limit,
                &limits.announce_burst,
                default.announce_limit,
            ),
            known_limit: self.rate_limit(
                &limits.known_limit,
                &limits.known_burst,
                default.known_limit,
            ),
            unknown_limit: self.rate_limit(
                &limits.unknown_limit,
                &limits.unknown_burst,
                default.unknown_limit,
            ),
            router_limit: self.rate_limit(
                &limits.router_limit,
                &limits.router_burst,
                default.router_limit,
            ),
            share: self.rate_limit(&limits.share, &limits.share_burst, default.share),
            bindings: self.bindings(&raw.neighbor, interfaces),
        }
    }

    pub(super) fn complain(&mut self, span: Range<usize>, (what, remedy): (String, &str)) {
        self.problem(Some(span), what, remedy.to_owned());
    }

    fn rate_limit(
        &mut self,
        rate: &Option<Spanned<Text>>,
        burst: &Option<Spanned<i64>>,
        default: RateLimit,
    ) -> RateLimit {
        RateLimit {
            rate: self.unit(rate.as_ref()).unwrap_or(default.rate),
            burst: self.burst(burst.as_ref()).unwrap_or(default.burst),
        }
    }

    fn validate(&mut self, words: &[Spanned<Text>]) -> ArpValidate {
        type Switch = fn(&mut ArpValidate);
        const CHECKS: [(&str, Switch); 3] = [
            ("src-mac", |validate| validate.src_mac = true),
            ("dst-mac", |validate| validate.dst_mac = true),
            ("ip", |validate| validate.ip = true),
        ];
        let mut validate = ArpValidate::default();
        for word in words {
            if let Some(switch) = self.word(Some(word), "check of ARP", &CHECKS) {
                switch(&mut validate);
            }
        }
        validate
    }

    fn routers(&mut self, raw: &[Spanned<Text>]) -> Vec<Ipv6Addr> {
        let mut routers = Vec::new();
        for router in raw {
            match parse_router(&router.get_ref().0) {
                Ok(address) if routers.contains(&address) => self.complain(
                    router.span(),
                    (format!("router {address} is named twice"), "name it once"),
                ),
                Ok(address) => routers.push(address),
                Err(fault) => self.complain(router.span(), fault),
            }
        }
        routers
    }

    fn bindings(&mut self, raw: &[RawNeighbor], interfaces: &[Pattern]) -> Vec<NeighborConfig> {
        let mut bindings: Vec<NeighborConfig> = Vec::new();
        let mut places: Vec<Range<usize>> = Vec::new();
        for neighbor in raw {
            let before = self.problems.len();
            let address = self.address(neighbor);
            let macs = self.macs(neighbor);
            let interface = self.attached(neighbor, interfaces);
            let vlan = self.vlan(neighbor);
            // Without an address nothing more can be said of it.
            let Some(address) = address else { continue };
            let router = neighbor.router.as_ref().is_some_and(|r| *r.get_ref());
            if let Some(raw) = &neighbor.router
                && router
                && !is_link_local(address)
            {
                self.complain(raw.span(), no_router(address));
            }
            let span = neighbor.address.span();
            let binding = NeighborConfig {
                address,
                macs,
                interface,
                vlan,
                router,
            };
            if self.problems.len() == before
                && let Some(at) = bindings.iter().position(|known| overlap(known, &binding))
            {
                let (first, second) = (self.line(places[at].clone()), self.line(span.clone()));
                self.problem(
                    Some(span),
                    format!(
                        "{} has a [[neighbor]] already, on {first}; this is a second one, on {second}",
                        place(&binding, &bindings[at])
                    ),
                    "keep one of the two, with all link-layer addresses in its `macs`".to_owned(),
                );
                continue;
            }
            bindings.push(binding);
            places.push(span);
        }
        bindings
    }

    fn address(&mut self, neighbor: &RawNeighbor) -> Option<IpAddr> {
        let text = neighbor.address.get_ref().0.as_str();
        let fault = match text.parse() {
            Ok(address) => match address_fault(address) {
                Ok(()) => return Some(address),
                Err(fault) => fault,
            },
            Err(_) => (
                format!("`{}` is no IP address", text.escape_debug()),
                "write one address, as in \"192.0.2.1\" or \"fe80::1\"",
            ),
        };
        self.complain(neighbor.address.span(), fault);
        None
    }

    fn macs(&mut self, neighbor: &RawNeighbor) -> Vec<Mac> {
        let mut macs = Vec::new();
        for raw in neighbor.macs.get_ref() {
            match parse_mac(&raw.get_ref().0) {
                Ok(mac) if macs.contains(&mac) => self.complain(raw.span(), named_twice(mac)),
                Ok(mac) => macs.push(mac),
                Err(error) => self.problem(Some(raw.span()), error.what, error.remedy),
            }
        }
        let count = neighbor.macs.get_ref().len();
        if count == 0 {
            self.complain(
                neighbor.macs.span(),
                (
                    "no link-layer address is named".to_owned(),
                    "name where the neighbour is, as in [\"02:00:00:00:00:01\"]; `ip neigh` shows it after `lladdr`",
                ),
            );
        } else if count > BINDING_MACS {
            self.complain(neighbor.macs.span(), too_many(count));
        }
        macs
    }

    fn attached(&mut self, neighbor: &RawNeighbor, interfaces: &[Pattern]) -> Option<String> {
        let raw = neighbor.interface.as_ref()?;
        let name = raw.get_ref().0.as_str();
        // Without any interface there is one complaint already.
        // Where the default routes lead is not known here, and changes.
        let may_be = |known: &Pattern| known.is_default_route() || known.matches(name);
        if !interfaces.is_empty() && !interfaces.iter().any(may_be) {
            self.problem(
                Some(raw.span()),
                format!(
                    "interface `{}` is not among those to attach to: {}",
                    name.escape_debug(),
                    interface::list(interfaces)
                ),
                "name it in `interfaces` (or with -i) too, or leave `interface` out to mean all of them; of a \
                 VLAN name the interface below, and its id in `vlan`"
                    .to_owned(),
            );
        }
        Some(name.to_owned())
    }

    fn vlan(&mut self, neighbor: &RawNeighbor) -> u16 {
        let Some(raw) = &neighbor.vlan else { return 0 };
        match u16::try_from(*raw.get_ref()) {
            Ok(vlan) if vlan <= MAX_VLAN => vlan,
            _ => {
                self.complain(raw.span(), no_vlan(*raw.get_ref()));
                0
            }
        }
    }
}

/// Whether two bindings speak of the same address at the same place; no interface means all.
fn overlap(a: &NeighborConfig, b: &NeighborConfig) -> bool {
    let interface = match (&a.interface, &b.interface) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    };
    a.address == b.address && a.vlan == b.vlan && interface
}

/// What two overlapping bindings share, in words.
fn place(a: &NeighborConfig, b: &NeighborConfig) -> String {
    let mut text = a.address.to_string();
    if let Some(interface) = a.interface.as_ref().or(b.interface.as_ref()) {
        text += &format!(" on {interface}");
    }
    if a.vlan != 0 {
        text += &format!(" in VLAN {}", a.vlan);
    }
    text
}
