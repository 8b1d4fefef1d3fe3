//! What becomes of interfaces that are attached.

use super::*;
use crate::host::testing::link;

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn hold(pattern: &str) -> Hold {
    Hold {
        pattern: pattern.parse().unwrap(),
        unrouted: None,
    }
}

/// The fate of interface 2, attached as `held`, among these links, with default routes to `default`.
fn fate_of(held: &str, config: &[&str], links: &[Link], default: &[u32]) -> Fate {
    let config = patterns(config);
    let selection = select(&config, links, &default.iter().copied().collect());
    let own = links.iter().find(|link| link.index == 2);
    fate(&mut hold(held), own, &selection, &config, Instant::now())
}

#[test]
fn an_interface_stays_while_it_is_meant_and_leaves_when_it_is_gone() {
    let eth0 = [link(2, "eth0")];
    assert_eq!(fate_of("eth0", &["eth0"], &eth0, &[]), Fate::Stays);
    assert_eq!(fate_of("e*", &["e*"], &eth0, &[]), Fate::Stays);
    assert_eq!(
        fate_of("eth0", &["eth0"], &[], &[]),
        Fate::Leaves("it is gone")
    );
    let gone = fate_of("eth0", &["ens3"], &eth0, &[]);
    assert_eq!(gone, Fate::Leaves("the config means it no more"));
}

#[test]
fn c_54_a_rename_takes_no_protection_away_until_another_has_the_name() {
    let renamed = [link(2, "wan0")];
    assert_eq!(fate_of("eth0", &["eth0"], &renamed, &[]), Fate::Renamed);
    assert_eq!(fate_of("e*", &["e*"], &renamed, &[]), Fate::Renamed);
    // The new name is meant too.
    assert_eq!(
        fate_of("eth0", &["eth0", "wan*"], &renamed, &[]),
        Fate::Stays
    );
    let taken = [link(2, "wan0"), link(3, "eth0")];
    assert!(matches!(
        fate_of("eth0", &["eth0"], &taken, &[]),
        Fate::Leaves(_)
    ));
}

#[test]
fn an_interface_of_the_default_routes_leaves_a_minute_after_they_lead_elsewhere() {
    let links = [link(2, "eth0"), link(3, "eth1")];
    let config = patterns(&["default-route"]);
    let elsewhere = select(&config, &links, &[3].into());
    let nowhere = select(&config, &links, &[].into());
    let there = select(&config, &links, &[2].into());
    let mut hold = hold("default-route");
    let start = Instant::now();
    let mut at = |seconds, selection: &Selection| {
        let now = start + Duration::from_secs(seconds);
        fate(&mut hold, Some(&links[0]), selection, &config, now)
    };
    assert_eq!(at(0, &there), Fate::Stays);
    assert_eq!(at(1, &elsewhere), Fate::Stays);
    assert_eq!(at(60, &elsewhere), Fate::Stays);
    assert_eq!(
        at(61, &elsewhere),
        Fate::Leaves("default routes lead elsewhere now")
    );
    // A lease that is renewed takes the route away for a while.
    assert_eq!(at(62, &there), Fate::Stays);
    assert_eq!(at(500, &nowhere), Fate::Stays);
    assert_eq!(at(501, &elsewhere), Fate::Stays, "the minute begins anew");
}

#[test]
fn what_a_glob_means_leaves_when_it_comes_to_stand_on_another() {
    let mut vlan = link(2, "eth0.7");
    vlan.kind = Some("vlan".to_owned());
    vlan.lower = Some(3);
    let links = [vlan, link(3, "eth0")];
    assert!(matches!(
        fate_of("eth*", &["eth*"], &links, &[]),
        Fate::Leaves(_)
    ));
}

#[test]
fn traffic_alone_is_no_reason_to_try_again() {
    let before = link(2, "eth0");
    let mut now = link(2, "eth0");
    now.rx_packets = 77;
    assert!(same_but_traffic(&before, &now));
    now.mtu = 9000;
    assert!(!same_but_traffic(&before, &now));
}

#[test]
fn a_jumbo_mtu_is_named_with_the_remedy_where_native_mode_was_demanded() {
    let mut jumbo_link = link(2, "eth0");
    jumbo_link.mtu = 9000;
    let text = jumbo(&jumbo_link, XdpMode::Native);
    for words in ["the MTU of 9000", "ip link set eth0 mtu 3498", "auto"] {
        assert!(text.contains(words), "{text}");
    }
    assert!(!jumbo(&jumbo_link, XdpMode::Generic).contains("MTU"));
}
