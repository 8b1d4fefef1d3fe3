//! Sysctls that bear on ARP and neighbour discovery, and what their values mean for this host. Reported only
//! (R-ARP-11): LVS, failover and router set-ups need values that look odd.
//!
//! IPv4 combines the value of an interface with that of `all` (`IN_DEV_MAXCONF`, `IN_DEV_ORCONF`,
//! `IN_DEV_RX_REDIRECTS` in `include/linux/inetdevice.h`); IPv6 looks at the interface alone. The one told is
//! the one that decides.

use super::sysctl::{if_present, read};
use crate::control::protocol::KernelSetting;
use anyhow::Result;

/// What is said of a value, and whether it weakens the host.
type Meaning = (&'static str, bool);

/// Reads those that are in force on an interface, in the calling thread's network namespace. A family that the
/// interface does not have, and a setting that the kernel does not know, are left out.
pub fn settings(interface: &str) -> Result<Vec<KernelSetting>> {
    let mut settings = Vec::new();
    ipv4(interface, &mut settings)?;
    ipv6(interface, &mut settings)?;
    Ok(settings)
}

fn ipv4(interface: &str, settings: &mut Vec<KernelSetting>) -> Result<()> {
    let Some(forwards) = value("ipv4", interface, "forwarding")? else {
        return Ok(());
    };
    // The greater value decides; of switches that is the one that is on.
    push(settings, interface, "arp_ignore", i64::gt, arp_ignore)?;
    push(settings, interface, "arp_announce", i64::gt, arp_announce)?;
    push(settings, interface, "arp_accept", i64::gt, arp_accept)?;
    push(settings, interface, "arp_filter", i64::gt, arp_filter)?;
    push(
        settings,
        interface,
        "drop_gratuitous_arp",
        i64::gt,
        drop_gratuitous_arp,
    )?;
    // A router takes redirects when both say so, a host when one does.
    let all_decides = if forwards == 0 { i64::gt } else { i64::lt };
    push(
        settings,
        interface,
        "accept_redirects",
        all_decides,
        accept_redirects_v4,
    )
}

/// Adds the setting of the interface, or of `all` where that `decides` over it.
fn push(
    settings: &mut Vec<KernelSetting>,
    interface: &str,
    name: &str,
    decides: impl Fn(&i64, &i64) -> bool,
    meaning: impl Fn(i64) -> Meaning,
) -> Result<()> {
    let all = value("ipv4", "all", name)?;
    let own = value("ipv4", interface, name)?;
    if let Some((all, own)) = all.zip(own) {
        let (holder, value) = if decides(&all, &own) {
            ("all", all)
        } else {
            (interface, own)
        };
        settings.push(setting("ipv4", holder, name, value, meaning(value)));
    }
    Ok(())
}

fn ipv6(interface: &str, settings: &mut Vec<KernelSetting>) -> Result<()> {
    if value("ipv6", interface, "disable_ipv6")? != Some(0) {
        return Ok(());
    }
    let forwards = value("ipv6", interface, "forwarding")?.unwrap_or(0) != 0;
    let read = |name| value("ipv6", interface, name);
    let mut add = |name, value: Option<i64>, meaning: &dyn Fn(i64) -> Meaning| {
        settings.extend(value.map(|value| setting("ipv6", interface, name, value, meaning(value))));
    };
    add("accept_ra", read("accept_ra")?, &|v| accept_ra(v, forwards));
    add("accept_redirects", read("accept_redirects")?, &|v| {
        accept_redirects_v6(v, forwards)
    });
    add(
        "drop_unsolicited_na",
        read("drop_unsolicited_na")?,
        &drop_unsolicited_na,
    );
    Ok(())
}

fn value(family: &str, holder: &str, name: &str) -> Result<Option<i64>> {
    if_present(read(&format!("{family}/conf/{holder}/{name}")))
}

fn setting(
    family: &str,
    holder: &str,
    name: &str,
    value: i64,
    (meaning, weak): Meaning,
) -> KernelSetting {
    // sysctl(8) takes a slash for a dot in a name's part: net.ipv4.conf.eth0/100.arp_ignore.
    let holder = holder.replace('.', "/");
    KernelSetting {
        name: format!("net.{family}.conf.{holder}.{name}"),
        value,
        meaning: meaning.to_owned(),
        weak,
    }
}

fn arp_ignore(value: i64) -> Meaning {
    let meaning = match value {
        1 => "answers ARP only for addresses of the interface that is asked",
        2 => {
            "answers ARP only for addresses of the interface that is asked, and only askers of the same subnet"
        }
        3 => "answers ARP for every own address but those of scope host",
        8 => "answers no ARP at all: neighbours cannot resolve this host",
        // `arp_ignore` of `net/ipv4/arp.c` takes all others for 0.
        _ => "answers ARP for every own address, also for those of other interfaces",
    };
    (meaning, false)
}

fn arp_announce(value: i64) -> Meaning {
    let meaning = match value {
        1 => "ARP requests name a sender of the asked subnet where there is one",
        2 => "ARP requests name the best own address for the asked one",
        _ => "ARP requests may name an own address of another interface as the sender",
    };
    (meaning, false)
}

fn arp_accept(value: i64) -> Meaning {
    match value {
        1 => (
            "unsolicited ARP makes new neighbour entries: anyone on the link can fill the table",
            true,
        ),
        2 => (
            "unsolicited ARP makes new neighbour entries for addresses of the own subnets: anyone on the link can do so",
            true,
        ),
        _ => (
            "unsolicited ARP makes no new neighbour entries, but changes those that are there",
            false,
        ),
    }
}

fn arp_filter(value: i64) -> Meaning {
    let meaning = match value {
        0 => "answers ARP by whichever interface it is asked",
        _ => "answers ARP only by the interface that the route to the asker takes",
    };
    (meaning, false)
}

fn drop_gratuitous_arp(value: i64) -> Meaning {
    let meaning = match value {
        0 => "gratuitous ARP is taken, as failover needs it",
        _ => {
            "gratuitous ARP is dropped: a failover announced by it is noticed only when the old entry expires"
        }
    };
    (meaning, false)
}

fn accept_redirects_v4(value: i64) -> Meaning {
    match value {
        0 => ("ICMP redirects are ignored", false),
        _ => (
            "ICMP redirects are followed: whoever sends in the gateway's name can turn traffic to another neighbour",
            true,
        ),
    }
}

fn accept_redirects_v6(value: i64, forwards: bool) -> Meaning {
    match value {
        0 => ("ICMPv6 redirects are ignored", false),
        _ if forwards => (
            "ICMPv6 redirects are ignored, since this host forwards IPv6",
            false,
        ),
        _ => (
            "ICMPv6 redirects are followed: whoever sends in the router's name can turn traffic to another neighbour",
            true,
        ),
    }
}

/// `ipv6_accept_ra` (`include/net/ipv6.h`): a host that forwards takes them only with 2.
fn accept_ra(value: i64, forwards: bool) -> Meaning {
    match value {
        0 => (
            "the kernel takes no router advertisements (a network manager may still do)",
            false,
        ),
        2 if forwards => (
            "takes router advertisements although it forwards IPv6: anyone on the link may become its router, but for the RA guard",
            true,
        ),
        _ if forwards => (
            "takes no router advertisements, since this host forwards IPv6",
            false,
        ),
        _ => (
            "takes router advertisements: anyone on the link may become its router, but for the RA guard",
            true,
        ),
    }
}

fn drop_unsolicited_na(value: i64) -> Meaning {
    let meaning = match value {
        0 => "unsolicited neighbour advertisements are taken, as failover needs them",
        _ => {
            "unsolicited neighbour advertisements are dropped: a failover announced by them is noticed only when the old entry is probed"
        }
    };
    (meaning, false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_netns, run};
    use std::fs;

    fn set(name: &str, value: &str) {
        fs::write(format!("/proc/sys/net/{name}"), value).expect(name);
    }

    fn find(interface: &str, name: &str) -> KernelSetting {
        let all = settings(interface).expect("settings");
        all.iter()
            .find(|setting| setting.name.ends_with(&format!(".{name}")))
            .unwrap_or_else(|| panic!("{name}: {all:?}"))
            .clone()
    }

    #[test]
    fn the_deciding_setting_is_told_with_its_meaning() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            for (writes, name, told, value, weak, words) in [
                (&[][..], "arp_ignore", "lab0", 0, false, "other interfaces"),
                (
                    &[("all", "1")],
                    "arp_ignore",
                    "all",
                    1,
                    false,
                    "the interface that is asked",
                ),
                (
                    &[("all", "1"), ("lab0", "8")],
                    "arp_ignore",
                    "lab0",
                    8,
                    false,
                    "no ARP at all",
                ),
                (
                    &[("lab0", "2")],
                    "arp_announce",
                    "lab0",
                    2,
                    false,
                    "best own",
                ),
                (&[], "arp_accept", "lab0", 0, false, "no new"),
                (
                    &[("all", "1")],
                    "arp_accept",
                    "all",
                    1,
                    true,
                    "fill the table",
                ),
                (
                    &[("lab0", "1")],
                    "arp_filter",
                    "lab0",
                    1,
                    false,
                    "the route",
                ),
                (
                    &[("all", "1")],
                    "drop_gratuitous_arp",
                    "all",
                    1,
                    false,
                    "failover",
                ),
                (
                    &[("all", "0"), ("lab0", "1"), ("lab0/forwarding", "0")],
                    "accept_redirects",
                    "lab0",
                    1,
                    true,
                    "are followed",
                ),
                (
                    &[("all", "1"), ("lab0", "0")],
                    "accept_redirects",
                    "all",
                    1,
                    true,
                    "are followed",
                ),
                (
                    &[("all", "0"), ("lab0", "1"), ("lab0/forwarding", "1")],
                    "accept_redirects",
                    "all",
                    0,
                    false,
                    "ignored",
                ),
            ] {
                for (holder, value) in writes {
                    match holder.split_once('/') {
                        Some(_) => set(&format!("ipv4/conf/{holder}"), value),
                        None => set(&format!("ipv4/conf/{holder}/{name}"), value),
                    }
                }
                // The first of its name is IPv4's.
                let setting = find("lab0", name);
                let told = format!("net.ipv4.conf.{told}.{name}");
                assert_eq!((&setting.name, setting.value), (&told, value), "{writes:?}");
                assert_eq!(setting.weak, weak, "{setting:?}");
                assert!(setting.meaning.contains(words), "{setting:?}");
            }
        });
    }

    #[test]
    fn forwarding_changes_what_accept_ra_and_redirects_mean() {
        in_netns(|| {
            run("ip", "link add lab0 type veth peer name lab1");
            // By accept_ra and forwarding: weak, and the words.
            for (accept, forwarding, weak, words) in [
                ("0", "0", false, "takes no router advertisements"),
                ("1", "0", true, "may become its router"),
                ("2", "0", true, "may become its router"),
                ("1", "1", false, "since this host forwards"),
                ("2", "1", true, "although it forwards"),
            ] {
                set("ipv6/conf/lab0/forwarding", forwarding);
                set("ipv6/conf/lab0/accept_ra", accept);
                let setting = find("lab0", "accept_ra");
                assert_eq!(setting.name, "net.ipv6.conf.lab0.accept_ra");
                assert_eq!(setting.weak, weak, "{setting:?}");
                assert!(setting.meaning.contains(words), "{setting:?}");
            }
            // Forwarding is still on.
            let redirects = settings("lab0").expect("settings");
            let redirects = redirects
                .iter()
                .find(|s| s.name == "net.ipv6.conf.lab0.accept_redirects")
                .expect("told");
            assert!(!redirects.weak, "{redirects:?}");
            assert!(!find("lab0", "drop_unsolicited_na").weak);
        });
    }

    #[test]
    fn absent_interfaces_and_families_are_left_out() {
        in_netns(|| {
            assert_eq!(settings("absent").expect("no error"), []);
            run("ip", "link add lab0 type veth peer name lab1");
            run("ip", "link add link lab0 name lab0.7 type macvlan");
            set("ipv6/conf/lab0.7/disable_ipv6", "1");
            let told = settings("lab0.7").expect("settings");
            assert_eq!(told[0].name, "net.ipv4.conf.lab0/7.arp_ignore");
            assert!(told.iter().all(|s| s.name.contains("ipv4")), "{told:?}");
        });
    }
}
