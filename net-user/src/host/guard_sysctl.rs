//! Sysctls that decide what the guards of sources and redirects may take for false, in the calling thread's network
//! namespace.
//!
//! IPv4 combines the value of an interface with that of `all` (`include/linux/inetdevice.h`): `IN_DEV_RX_REDIRECTS` is
//! both of a router and either of a host, `IN_DEV_ACCEPT_LOCAL` either, `IN_DEV_FORWARD` the interface's alone.

use super::sysctl::{if_present, read};
use anyhow::Result;

/// What IPv4's settings of an interface come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ipv4Settings {
    /// Redirects are followed.
    pub redirects: bool,
    /// Packets with an own address as their source are taken: two of this host's interfaces talk to each other by
    /// way of a network.
    pub accept_local: bool,
    /// Packets are forwarded.
    pub forwarding: bool,
}

impl Ipv4Settings {
    /// Those of an interface; the default for one without IPv4.
    pub fn read(interface: &str) -> Result<Self> {
        let Some(forwarding) = flag("ipv4", interface, "forwarding")? else {
            return Ok(Self::default());
        };
        let both = |name| -> Result<[bool; 2]> {
            let all = flag("ipv4", "all", name)?.unwrap_or(false);
            Ok([all, flag("ipv4", interface, name)?.unwrap_or(false)])
        };
        let redirects = both("accept_redirects")?;
        Ok(Self {
            redirects: if forwarding {
                redirects == [true; 2]
            } else {
                redirects != [false; 2]
            },
            accept_local: both("accept_local")? != [false; 2],
            forwarding,
        })
    }
}

/// Whether an interface forwards IPv6; none where it has no IPv6.
pub fn forwards_ipv6(interface: &str) -> Result<Option<bool>> {
    // Switched off is not removed: the settings are still there.
    match flag("ipv6", interface, "disable_ipv6")? {
        Some(false) => flag("ipv6", interface, "forwarding"),
        _ => Ok(None),
    }
}

fn flag(family: &str, holder: &str, name: &str) -> Result<Option<bool>> {
    let value = if_present(read::<i64>(&format!("{family}/conf/{holder}/{name}")))?;
    Ok(value.map(|value| value != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_netns, run};
    use std::fs;

    fn set(name: &str, value: u8) {
        fs::write(format!("/proc/sys/net/{name}"), value.to_string()).expect(name);
    }

    #[test]
    fn a_router_follows_redirects_when_both_say_so_and_a_host_when_one_does_r_icmp_5() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            // forwarding, all, the interface
            for (forwarding, all, own, redirects) in [
                (0, 0, 0, false),
                (0, 1, 0, true),
                (0, 0, 1, true),
                (1, 1, 0, false),
                (1, 0, 1, false),
                (1, 1, 1, true),
            ] {
                set("ipv4/conf/lab0/forwarding", forwarding);
                set("ipv4/conf/all/accept_redirects", all);
                set("ipv4/conf/lab0/accept_redirects", own);
                let settings = Ipv4Settings::read("lab0").expect("settings");
                assert_eq!(settings.redirects, redirects, "{forwarding} {all} {own}");
                assert_eq!(settings.forwarding, forwarding == 1);
            }
        });
    }

    #[test]
    fn own_sources_are_taken_when_all_or_the_interface_says_so() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            for (all, own) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
                set("ipv4/conf/all/accept_local", all);
                set("ipv4/conf/lab0/accept_local", own);
                let settings = Ipv4Settings::read("lab0").expect("settings");
                assert_eq!(settings.accept_local, all + own > 0, "{all} {own}");
            }
            assert_eq!(
                Ipv4Settings::read("absent").expect("no error"),
                Ipv4Settings::default()
            );
        });
    }

    #[test]
    fn ipv6_forwards_by_the_interface_alone() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            set("ipv6/conf/lab0/forwarding", 1);
            assert_eq!(forwards_ipv6("lab0").expect("read"), Some(true));
            assert_eq!(forwards_ipv6("lab1").expect("read"), Some(false));
            set("ipv6/conf/lab1/disable_ipv6", 1);
            assert_eq!(forwards_ipv6("lab1").expect("read"), None);
            assert_eq!(forwards_ipv6("absent").expect("read"), None);
        });
    }
}
