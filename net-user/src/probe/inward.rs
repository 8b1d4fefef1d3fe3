//! Redirects that lead from outside to what only this host and its neighbours can reach.

use std::net::IpAddr;

use url::Url;

use super::{Facts, Finding, Layer, Outcome, Stage, Walk};

/// The stage that ends a walk there, if it leads inward: whoever runs the server outside would else choose what is asked inside.
pub(super) fn refuse(
    walk: &Walk<'_>,
    url: &Url,
    from: IpAddr,
    addresses: &[IpAddr],
) -> Option<Stage> {
    let to = addresses.iter().find(|to| is_inner(**to))?;
    if is_inner(from) {
        return None;
    }
    let what = format!("{from} redirects to {url} at {to}, an address inside, which was not asked");
    let finding = Finding::new("redirect_inward", Outcome::Failed, what).next(
        "if it is meant to lead there, give the [[probe]] the inner URL, or `redirects = 0` with `expect`; if not, look at who \
         made that redirect or that name",
    );
    let facts = Facts::Http(Box::default());
    let times = walk.since(walk.now_us());
    Some(Stage::new(
        Layer::Http,
        times,
        "not asked",
        vec![finding],
        facts,
    ))
}

/// Whether an address is loopback, link-local, private, shared (RFC 6598) or none: what is not reached from outside. An IPv4
/// address within an IPv6 one (mapped, or of NAT64, RFC 6052) counts as itself.
fn is_inner(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            // 0.0.0.0/8 is this host: Linux connects to itself.
            let shared = a == 100 && b & 0xc0 == 64;
            a == 0 || ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared
        }
        IpAddr::V6(ip) => {
            if let [0x64, 0xff9b, 0, 0, 0, 0, high, low] = ip.segments() {
                let v4 = (u32::from(high) << 16) | u32::from(low);
                return is_inner(IpAddr::V4(v4.into()));
            }
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_unique_local()
                || ip.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::probe::Plan;

    #[test]
    fn a_redirect_from_outside_must_not_lead_inside() {
        let plan = Plan::new("http://shop.example/".parse().unwrap());
        let walk = Walk {
            plan: &plan,
            progress: &|_| (),
            start: Instant::now(),
        };
        for (from, to, refused) in [
            ("192.0.2.1", "127.0.0.1", true),
            ("192.0.2.1", "10.1.2.3", true),
            ("192.0.2.1", "172.16.0.1", true),
            ("192.0.2.1", "192.168.0.1", true),
            ("192.0.2.1", "169.254.169.254", true),
            ("192.0.2.1", "100.64.0.1", true),
            ("192.0.2.1", "0.0.0.0", true),
            ("192.0.2.1", "::1", true),
            ("192.0.2.1", "::ffff:10.0.0.1", true),
            ("192.0.2.1", "64:ff9b::7f00:1", true),
            ("2001:db8::1", "fe80::1", true),
            ("2001:db8::1", "fd00::1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.1", "100.128.0.1", false),
            ("2001:db8::1", "64:ff9b::c000:201", false),
            ("10.0.0.1", "10.0.0.2", false),
            ("127.0.0.1", "::1", false),
        ] {
            let [from, to] = [from, to].map(|ip| ip.parse().unwrap());
            let outer = "198.51.100.1".parse().unwrap();
            let stage = refuse(&walk, &plan.url, from, &[outer, to]);
            assert_eq!(stage.is_some(), refused, "{from} → {to}");
            if let Some(stage) = stage {
                assert_eq!(stage.findings[0].code, "redirect_inward");
                assert_eq!((stage.layer, stage.outcome), (Layer::Http, Outcome::Failed));
            }
        }
    }
}
