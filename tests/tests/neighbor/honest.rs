//! Honest networks that look odd, and pass in enforce mode without an alert: proxies, virtual routers, hosts with
//! many addresses, macvlan (R-ARP-3, R-ARP-7, R-ARP-10).

use std::net::IpAddr;

use net_common::verdict::Reason;
use net_tests::{
    agent::Agent,
    link,
    neighbors::{
        ENFORCE, PATIENCE, Scene,
        attack::{self, Attack},
        entry, mac, reaches,
        report::{assert_no_alert, assert_sound, await_alert, await_event, events_of, observed},
    },
    netns::Namespace,
    wait,
};

#[test]
fn r_arp_10_a_hundred_addresses_at_one_link_layer_address_pass() {
    let scene = Scene::new();
    let crowd = scene.host("crowd");
    let addresses: Vec<_> = (100..200)
        .map(|last| IpAddr::from([198, 18, 0, last]))
        .collect();
    let lines: Vec<_> = addresses
        .iter()
        .map(|address| format!("addr add {address}/32 dev eth0"))
        .collect();
    crowd.ns.ip(&lines.join("\n")).unwrap();
    let agent = scene.protect(4, ENFORCE);
    for &address in &addresses {
        assert!(scene.reaches(address), "{address}");
        assert_eq!(
            entry(&scene.victim, address).unwrap().lladdr,
            Some(mac(&crowd))
        );
    }
    assert_eq!(agent.packets(Reason::ArpLimit).unwrap(), 0);
    assert_no_alert(&agent);
    assert_sound(&agent);
}

#[test]
fn r_arp_10_a_macvlan_child_and_its_parent_pass_on_both_sides() {
    let scene = Scene::new();
    let own = "link add link eth0 name child address";
    let crowd = scene.host("crowd");
    for (host, address) in [(&crowd, "198.18.0.101"), (&scene.victim, "198.18.0.102")] {
        let mac = link::text([2, 0x6e, 0x6d, 0, 2, host.link.mac[5]]);
        host.ns
            .ip(&format!(
                "{own} {mac} type macvlan mode bridge\nlink set child up\n\
                 addr add {address}/32 dev child"
            ))
            .unwrap();
        // Each answers for its own addresses only, or the parent would answer for the child (R-ARP-11).
        host.ns.sysctl("net.ipv4.conf.all.arp_ignore", "1").unwrap();
    }
    let agent = scene.protect(4, ENFORCE);
    for address in [crowd.v4, [198, 18, 0, 101].into()] {
        assert!(scene.reaches(address.into()), "{address}");
    }
    for address in [scene.victim.v4, [198, 18, 0, 102].into()] {
        assert!(reaches(&crowd, address.into()), "{address}");
    }
    assert_ne!(
        entry(&scene.victim, IpAddr::from([198, 18, 0, 101]))
            .unwrap()
            .lladdr,
        Some(mac(&crowd))
    );
    assert_no_alert(&agent);
    assert_sound(&agent);
}

#[test]
fn r_arp_10_a_gateway_that_is_a_proxy_for_a_network_behind_it_passes() {
    let scene = Scene::new();
    let behind = Namespace::new("behind").unwrap();
    link::veth((&scene.gateway.ns, "eth1"), (&behind, "eth0"), (0x70, 0x71)).unwrap();
    scene
        .gateway
        .ns
        .ip("addr add 198.18.1.1/24 dev eth1")
        .unwrap();
    behind
        .ip("addr add 198.18.1.9/24 dev eth0\nroute add default via 198.18.1.1")
        .unwrap();
    // The victim takes all of it for one link.
    scene
        .victim
        .ns
        .ip("route add 198.18.1.0/24 dev eth0")
        .unwrap();
    let far: IpAddr = [198, 18, 1, 9].into();
    assert!(!scene.reaches(far), "nobody answers for it yet");
    scene
        .gateway
        .ns
        .sysctl("net.ipv4.conf.eth0.proxy_arp", "1")
        .unwrap();
    // A proxy waits up to 0.8 s by default.
    scene
        .gateway
        .ns
        .sysctl("net.ipv4.neigh.eth0.proxy_delay", "0")
        .unwrap();
    let agent = scene.protect(4, ENFORCE);
    assert!(scene.reaches(far));
    assert_eq!(
        entry(&scene.victim, far).unwrap().lladdr,
        Some(mac(&scene.gateway))
    );
    // Its own address, too.
    scene.transfer(4);
    assert_no_alert(&agent);
    assert_sound(&agent);
}

/// Answers for a virtual router as RFC 5798 section 8.1.2 has it: the sender is the virtual address, the Ethernet
/// source the physical one.
const VRRP: &str = "
from scapy.all import ARP, Ether, sendp, sniff
own, virtual, address = '{own}', '{virtual}', '{address}'
def answer(frame):
    asked = frame[ARP]
    if asked.op == 1 and asked.pdst == address and asked.hwsrc != own:
        reply = ARP(op=2, hwsrc=virtual, psrc=address, hwdst=asked.hwsrc, pdst=asked.psrc)
        sendp(Ether(src=own, dst=asked.hwsrc) / reply, iface='eth0', verbose=False)
sendp(Ether(src=own, dst='ff:ff:ff:ff:ff:ff') / ARP(op=1, hwsrc=virtual, psrc=address, pdst=address),
      iface='eth0', verbose=False)
print('ready', flush=True)
sniff(iface='eth0', filter='arp', prn=answer, store=False)
";

#[test]
fn r_arp_3_a_virtual_router_that_answers_from_its_physical_address_passes() {
    let scene = Scene::new();
    let (address, virtual_mac) = ("198.18.0.60", "00:00:5e:00:01:33");
    let spare = scene.host("router");
    let script = VRRP
        .replace("{own}", &mac(&spare))
        .replace("{virtual}", virtual_mac)
        .replace("{address}", address);
    let agent = Agent::start(
        &scene.victim,
        &format!("{ENFORCE}\n[[neighbor]]\naddress = \"{address}\"\nmacs = [\"{virtual_mac}\"]"),
    )
    .unwrap();
    let vrrp = Attack::start(&spare, &["/usr/bin/python3", "-c", &script]);
    wait::until("scapy to be ready", PATIENCE, || {
        vrrp.printed().contains("ready")
    })
    .unwrap();
    let address: IpAddr = address.parse().unwrap();
    // Nothing listens behind it: that the kernel knows its neighbour is enough.
    wait::until("the virtual router's entry", PATIENCE, || {
        let _ = scene
            .victim
            .ns
            .run(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (address, 9)));
        entry(&scene.victim, address).is_some_and(|e| e.lladdr.as_deref() == Some(virtual_mac))
    })
    .unwrap();
    assert!(agent.packets(Reason::ArpSourceMac).unwrap() > 0);
    assert_eq!(agent.packets(Reason::NeighborMismatch).unwrap(), 0);
    assert_no_alert(&agent);
    drop(agent);

    // `validate = ["src-mac"]` is for networks without such routers (R-ARP-2).
    let agent = Agent::start(
        &scene.victim,
        "[arp]\nmode = \"enforce\"\nvalidate = [\"src-mac\"]",
    )
    .unwrap();
    net_tests::neighbors::forget(&scene.victim, address);
    wait::until("an answer to be refused", PATIENCE, || {
        let _ = scene
            .victim
            .ns
            .run(|| std::net::UdpSocket::bind("0.0.0.0:0")?.send_to(b"?", (address, 9)));
        agent.packets(Reason::ArpValidate).unwrap() > 0
    })
    .unwrap();
    assert_eq!(
        entry(&scene.victim, address).and_then(|entry| entry.lladdr),
        None
    );
    drop(vrrp);
}

#[test]
fn r_arp_7_announcements_of_a_cluster_pass_and_an_address_that_changes_hosts_is_told_of() {
    let scene = Scene::new();
    let spare = scene.host("spare");
    let agent = scene.protect(4, ENFORCE);
    let address = "198.18.0.77";
    let known: IpAddr = address.parse().unwrap();
    let announce = |host| {
        let words = ["mausezahn", "eth0", "-q", "-c", "1", "-b", "bcast"];
        let arp = format!("request, smac={}, sip={address}, tip={address}", mac(host));
        attack::run(host, &[&words[..], &["-t", "arp", &arp]].concat());
    };
    announce(&scene.attacker);
    let station = await_event(&agent, "station", known);
    assert_eq!(station.macs, [mac(&scene.attacker)]);
    // In its first minute the agent takes every pair for new.
    announce(&spare);
    wait::until("the second host", PATIENCE, || {
        events_of(&agent, "station", known)
            .last()
            .is_some_and(|event| event.macs == [mac(&spare)])
    })
    .unwrap();
    assert_no_alert(&agent);
    // Back and forth.
    wait::until("a flip-flop", PATIENCE, || {
        announce(&scene.attacker);
        announce(&spare);
        !events_of(&agent, "flip_flop", known).is_empty()
    })
    .unwrap();
    await_alert(&agent, "flip_flop");
    // Nothing of it was dropped or would have been: the address is nobody's that we protect.
    for reason in [
        Reason::NeighborMismatch,
        Reason::ArpUnsolicited,
        Reason::ArpAnnounceLimit,
    ] {
        assert_eq!(agent.packets(reason).unwrap(), 0, "{}", reason.name());
        assert_eq!(observed(&agent, reason), 0, "{}", reason.name());
    }
    assert_sound(&agent);
}
