use std::sync::{Arc, Mutex};

use net_common::{
    abi::{EVENT_FRAME, NeighborEvent},
    guard::neighbor::EventKind,
    verdict::Reason,
};

use super::*;
use crate::config::NeighborConfig;
use crate::control::protocol::{
    AuditVerdict, BindingOrigin, BindingState, EventLevel, PinNeighbor, RequestError, UnpinNeighbor,
};
use crate::host::testing::link;
use ports::tests::own;

const A: Mac = Mac::new([2, 0, 0, 0, 1, 0xa]);
const B: Mac = Mac::new([2, 0, 0, 0, 1, 0xb]);
const GATEWAY: &str = "192.0.2.1";

type Sent = Arc<Mutex<Vec<(u32, Vec<u8>)>>>;

/// eth0 (2) with 192.0.2.7/24 and a default route, and what the agent does about it.
struct Lab {
    watch: NeighborWatch,
    links: Vec<Link>,
    sent: Sent,
    now: Now,
    /// Who answers requests for [`GATEWAY`].
    alive: Vec<Mac>,
    directory: tempfile::TempDir,
}

impl Lab {
    fn with(policy: NeighborPolicy) -> Self {
        Self::on(policy, tempfile::tempdir().unwrap(), vec![link(2, "eth0")])
    }

    fn on(policy: NeighborPolicy, directory: tempfile::TempDir, links: Vec<Link>) -> Self {
        let (store, saved, usable) = Store::open(directory.path());
        usable.unwrap();
        let sent = Sent::default();
        let record = Arc::clone(&sent);
        let send: Send = Box::new(move |via, frame| {
            record.lock().unwrap().push((via, frame.to_vec()));
            Ok(())
        });
        let wanted = links.iter().filter(|l| l.kind.is_none());
        let wanted = wanted.map(|l| (l.name.clone(), l.index)).collect();
        let now = Now::at(1000);
        let watch = NeighborWatch::new(policy, wanted, store, saved, send, now);
        let mut lab = Self {
            watch,
            links,
            sent,
            now,
            alive: vec![A],
            directory,
        };
        lab.refresh(&[(2, GATEWAY.parse().unwrap())]);
        lab
    }

    fn new() -> Self {
        Self::with(NeighborPolicy {
            arp: GuardMode::Enforce,
            ..NeighborPolicy::default()
        })
    }

    fn refresh(&mut self, gateways: &[(u32, IpAddr)]) {
        let addresses = [own(2, "192.0.2.7", 24)];
        self.watch
            .refresh(&self.links, &addresses, gateways, self.now)
            .unwrap();
    }

    fn gateway(&self) -> NeighborKey {
        ports::key(GATEWAY.parse().unwrap(), 2, 0)
    }

    fn event(&mut self, kind: EventKind, key: NeighborKey, mac: Mac, flags: u32) {
        let event = NeighborEvent {
            time_ns: self.now.mono.as_nanos() as u64,
            mac: mac.0,
            source: mac.0,
            key,
            kind: kind as u32,
            flags,
            reason: Reason::NeighborMismatch as u32,
            len: 0,
            frame: [0; EVENT_FRAME],
        };
        // SAFETY: plain integers without padding.
        let octets = unsafe { *(&raw const event).cast::<[u8; size_of::<NeighborEvent>()]>() };
        self.watch.on_event(&octets, self.now);
    }

    /// As the kernel tells of a claim: by what stands in its map.
    fn claim(&mut self, mac: Mac, flags: u32) {
        let key = self.gateway();
        let binding = self.compiled().get(&key).copied();
        let protected = binding.filter(|b| b.flags & Binding::PROTECTED != 0);
        let solicited = flags & NeighborEvent::SOLICITED != 0;
        match protected {
            Some(b) if !b.macs.contains(&mac.0) => self.event(EventKind::Claim, key, mac, flags),
            _ if solicited => self.event(EventKind::Answer, key, mac, flags),
            _ => {}
        }
    }

    fn compiled(&self) -> HashMap<NeighborKey, Binding> {
        self.watch
            .bindings
            .compile(&self.watch.ports, &self.watch.policy.routers)
    }

    /// Time passes in ticks of 50 ms; requests are answered between them.
    fn run(&mut self, time: Duration) {
        let end = self.now.mono + time;
        while self.now.mono < end {
            let sent = std::mem::take(&mut *self.sent.lock().unwrap());
            for (_, frame) in sent {
                let to = Mac::new(frame[..6].try_into().unwrap());
                for mac in self.alive.clone() {
                    if to.is_group() || to == mac {
                        self.claim(mac, NeighborEvent::SOLICITED | NeighborEvent::REPLY);
                    }
                }
            }
            self.now.mono += Duration::from_millis(50);
            self.now.wall += Duration::from_millis(50);
            if let Some(outcome) = self.watch.tick(self.now) {
                outcome.unwrap();
            }
        }
    }

    fn learned() -> Self {
        let mut lab = Self::new();
        lab.run(Duration::from_secs(2));
        assert_eq!(
            lab.states(),
            [(BindingState::Protected, vec![A.to_string()])]
        );
        lab
    }

    fn states(&self) -> Vec<(BindingState, Vec<String>)> {
        let list = self.watch.list(true, self.now).bindings;
        list.into_iter().map(|b| (b.state, b.macs)).collect()
    }

    fn kinds(&self) -> Vec<String> {
        self.watch
            .events(0)
            .events
            .into_iter()
            .map(|e| e.kind)
            .collect()
    }

    fn pin(&mut self, address: &str, macs: &[Mac]) -> Result<Vec<String>, RequestError> {
        let pin = PinNeighbor {
            address: address.parse().unwrap(),
            macs: macs.iter().map(ToString::to_string).collect(),
            interface: None,
            vlan: 0,
            router: false,
        };
        let changed = self.watch.pin(&pin, self.now)?;
        Ok(changed.bindings.into_iter().map(|b| b.interface).collect())
    }

    fn unpin(&mut self, address: &str) -> Result<usize, RequestError> {
        let unpin = UnpinNeighbor {
            address: address.parse().unwrap(),
            interface: None,
            vlan: 0,
        };
        Ok(self.watch.unpin(&unpin, self.now)?.bindings.len())
    }
}

#[test]
fn the_gateway_is_learned_and_a_spoof_is_told_from_a_move() {
    let mut lab = Lab::learned();
    let key = lab.gateway();
    assert_eq!(lab.compiled()[&key].flags, Binding::PROTECTED);
    assert_eq!(
        lab.watch.followers(),
        [],
        "learning touches no entry of the kernel's"
    );

    lab.claim(B, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.kinds(), ["learned", "spoof"]);
    let spoof = &lab.watch.events(1).events[0];
    assert_eq!(spoof.macs, [B.to_string(), A.to_string()]);
    assert_eq!(
        (
            spoof.level,
            spoof.address.as_str(),
            spoof.interface.as_str()
        ),
        (EventLevel::Alert, GATEWAY, "eth0")
    );
    assert_eq!(lab.watch.list(true, lab.now).bindings[0].spoofs, 1);

    lab.alive = vec![B];
    lab.run(Duration::from_secs(3));
    lab.claim(B, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_millis(1300));
    assert_eq!(lab.kinds(), ["learned", "spoof", "moved"]);
    assert_eq!(
        lab.states(),
        [(BindingState::Protected, vec![B.to_string()])]
    );
    let follow = Follow {
        ip: GATEWAY.parse().unwrap(),
        mac: B,
        carriers: vec![2],
    };
    assert_eq!(lab.watch.followers(), [follow]);
    assert_eq!(lab.watch.followers(), []);
    let history: Vec<_> = lab.watch.list(true, lab.now).bindings[0]
        .history
        .iter()
        .map(|h| h.what.clone())
        .collect();
    let [_, falsely, _] = &history[..] else {
        panic!("{history:?}")
    };
    assert_eq!(*falsely, format!("falsely claimed by {B}"));

    // Both answer from now on, and the earlier holder claims: the alert names the way back.
    lab.alive = vec![A, B];
    lab.claim(A, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_secs(1));
    let text = &lab.watch.events(3).events[0].text;
    assert!(
        text.contains(&format!("netmoat neighbor pin {GATEWAY} {A}")),
        "{text}"
    );
}

#[test]
fn what_was_learned_and_pinned_outlives_the_agent() {
    let mut lab = Lab::learned();
    lab.pin("192.0.2.9", &[B]).unwrap();
    lab.watch.close().unwrap();
    let Lab {
        directory, watch, ..
    } = lab;
    drop(watch);
    let policy = NeighborPolicy {
        arp: GuardMode::Enforce,
        ..NeighborPolicy::default()
    };
    let lab = Lab::on(policy, directory, vec![link(2, "eth0")]);
    let list = lab.watch.list(true, lab.now).bindings;
    let told: Vec<_> = list
        .iter()
        .map(|b| (b.address.as_str(), b.origin, b.state, b.history.len()))
        .collect();
    assert_eq!(
        told,
        [
            (GATEWAY, BindingOrigin::Learned, BindingState::Protected, 1),
            (
                "192.0.2.9",
                BindingOrigin::Pinned,
                BindingState::Protected,
                1
            )
        ]
    );
    assert!(
        lab.sent.lock().unwrap().is_empty(),
        "nothing is learned again"
    );
}

#[test]
fn pins_are_refused_where_they_make_no_sense() {
    let policy = NeighborPolicy {
        bindings: vec![NeighborConfig {
            address: "192.0.2.5".parse().unwrap(),
            macs: vec![A],
            interface: None,
            vlan: 0,
            router: false,
        }],
        ..NeighborPolicy::default()
    };
    let mut lab = Lab::with(policy);
    for (address, macs, words) in [
        ("192.0.2.7", &[A][..], "address of this host"),
        ("224.0.0.1", &[A], "multicast"),
        ("0.0.0.0", &[A], "unspecified"),
        ("192.0.2.5", &[B], "config"),
        ("192.0.2.9", &[], "nothing was learned"),
        ("192.0.2.9", &[A, A], "twice"),
    ] {
        let Err(RequestError::Refused(why)) = lab.pin(address, macs) else {
            panic!("{address} was pinned")
        };
        assert!(why.contains(words), "{address}: {why}");
    }
    for (address, words) in [("192.0.2.5", "config"), ("192.0.2.99", "no binding")] {
        let Err(RequestError::Refused(why)) = lab.unpin(address) else {
            panic!("{address} was unpinned")
        };
        assert!(why.contains(words), "{address}: {why}");
    }
    // Not on the link: allowed, and said.
    assert_eq!(lab.pin("203.0.113.1", &[A]).unwrap(), ["eth0"]);
    let list = lab.watch.list(true, lab.now).bindings;
    let odd = list.iter().find(|b| b.address == "203.0.113.1").unwrap();
    assert!(
        odd.history.iter().any(|h| h.what.contains("no prefix")),
        "{odd:?}"
    );
}

#[test]
fn a_pin_takes_what_was_learned_and_unpinning_gives_it_back() {
    let mut lab = Lab::learned();
    lab.pin(GATEWAY, &[]).unwrap();
    let key = lab.gateway();
    assert_eq!(
        lab.compiled()[&key].flags,
        Binding::PROTECTED | Binding::PINNED
    );
    // The holder dies: what is pinned stays.
    lab.alive = vec![B];
    lab.claim(B, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_secs(2));
    assert_eq!(
        lab.states(),
        [(BindingState::Contested, vec![A.to_string()])]
    );
    assert_eq!(lab.kinds(), ["learned", "pinned", "contested"]);
    assert!(
        lab.watch.events(2).events[0]
            .text
            .contains("netmoat neighbor pin")
    );
    assert_eq!(lab.unpin(GATEWAY).unwrap(), 1);
    assert_eq!(
        lab.states(),
        [(BindingState::Protected, vec![A.to_string()])]
    );
    assert_eq!(lab.compiled()[&key].flags, Binding::PROTECTED);
    let history: Vec<_> = lab.watch.list(true, lab.now).bindings[0]
        .history
        .iter()
        .map(|h| h.what.clone())
        .collect();
    assert!(history[0].starts_with("learned"), "{history:?}");
    assert_eq!(history.last().unwrap(), "unpinned");
    // Nothing is left to take back; it moves as what is learned does.
    let Err(RequestError::Refused(why)) = lab.unpin(GATEWAY) else {
        panic!("a learned binding was unpinned")
    };
    assert!(why.contains("learned, not pinned"), "{why}");
    lab.claim(B, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_secs(2));
    assert_eq!(
        lab.states(),
        [(BindingState::Protected, vec![B.to_string()])]
    );
    assert_eq!(
        lab.watch.list(true, lab.now).bindings[0].origin,
        BindingOrigin::Learned
    );
}

#[test]
fn a_pin_of_another_address_goes() {
    let mut lab = Lab::learned();
    lab.pin("192.0.2.9", &[B]).unwrap();
    assert_eq!(lab.states().len(), 2);
    assert_eq!(lab.unpin("192.0.2.9").unwrap(), 1);
    assert_eq!(lab.states().len(), 1);
}

#[test]
fn pinning_again_keeps_a_router_one() {
    let mut lab = Lab::new();
    let mut pin = PinNeighbor {
        address: "fe80::1".parse().unwrap(),
        macs: vec![A.to_string()],
        interface: None,
        vlan: 0,
        router: true,
    };
    assert!(lab.watch.pin(&pin, lab.now).unwrap().bindings[0].router);
    (pin.router, pin.macs) = (false, vec![B.to_string()]);
    let again = &lab.watch.pin(&pin, lab.now).unwrap().bindings[0];
    assert_eq!(
        (again.router, &again.macs[..]),
        (true, &[B.to_string()][..])
    );
    assert_eq!(lab.unpin("fe80::1").unwrap(), 1);
    assert!(!lab.watch.pin(&pin, lab.now).unwrap().bindings[0].router);
}

#[test]
fn pins_of_absent_interfaces_can_be_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let links = vec![link(2, "eth0"), link(3, "eth1")];
    let mut lab = Lab::on(NeighborPolicy::default(), directory, links);
    assert_eq!(lab.pin("192.0.2.9", &[B]).unwrap(), ["eth0", "eth1"]);
    lab.watch.close().unwrap();
    let Lab {
        directory, watch, ..
    } = lab;
    drop(watch);
    let mut lab = Lab::on(NeighborPolicy::default(), directory, vec![link(2, "eth0")]);
    let mut unpin = UnpinNeighbor {
        address: "192.0.2.9".parse().unwrap(),
        interface: Some("eth2".to_owned()),
        vlan: 0,
    };
    assert!(lab.watch.unpin(&unpin, lab.now).is_err());
    unpin.interface = Some("eth1".to_owned());
    let gone = lab.watch.unpin(&unpin, lab.now).unwrap().bindings;
    assert_eq!((gone.len(), gone[0].interface.as_str()), (1, "eth1"));
    assert!(lab.watch.unpin(&unpin, lab.now).is_err());
    unpin.interface = None;
    let gone = lab.watch.unpin(&unpin, lab.now).unwrap().bindings;
    assert_eq!((gone.len(), gone[0].interface.as_str()), (1, "eth0"));
}

#[test]
fn what_could_not_be_read_at_the_start_is_held_to_later() {
    let mut first = Lab::learned();
    first.pin("192.0.2.9", &[B]).unwrap();
    first.watch.close().unwrap();
    // While the other agent has the directory nothing is known of it.
    let path = first.directory.path().to_owned();
    let (store, nothing, usable) = Store::open(&path);
    assert!(nothing.is_empty() && usable.is_err());
    let mut lab = Lab::new();
    lab.watch.store = store;
    drop(first.watch);
    let restored = |lab: &mut Lab| {
        lab.now.mono += Duration::from_millis(50);
        lab.watch.tick(lab.now).transpose().unwrap();
        lab.states().len() == 2
    };
    while !restored(&mut lab) {
        std::thread::yield_now();
    }
    assert!(lab.watch.changed, "the maps are to hold it");
    assert_eq!(lab.states()[1].1, [B.to_string()]);
}

#[test]
fn lost_pins_are_told_until_something_is_pinned() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("neighbors.json"), "damaged").unwrap();
    let mut lab = Lab::on(NeighborPolicy::default(), directory, vec![link(2, "eth0")]);
    lab.run(Duration::from_secs(5));
    assert!(lab.watch.lost_pins().is_some());
    lab.pin("192.0.2.9", &[B]).unwrap();
    assert_eq!(lab.watch.lost_pins(), None);
}

#[test]
fn changed_maps_are_written_until_it_succeeds() {
    let mut lab = Lab::learned();
    assert!(lab.watch.flush(|_| Err(anyhow!("full"))).is_err());
    let mut written = 0;
    for _ in 0..2 {
        lab.watch
            .flush(|all| {
                written += all.len();
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(written, 2, "the gateway and our own address, once");
    lab.refresh(&[(2, GATEWAY.parse().unwrap())]);
    lab.watch.flush(|_| panic!("nothing has changed")).unwrap();
    lab.links[0].mac = Some([2, 9, 9, 9, 9, 9]);
    lab.refresh(&[(2, GATEWAY.parse().unwrap())]);
    let own = ports::key("192.0.2.7".parse().unwrap(), 2, 0);
    lab.watch
        .flush(|all| {
            assert_eq!(all[&own].macs[0], Mac::new([2, 9, 9, 9, 9, 9]).0);
            Ok(())
        })
        .unwrap();
}

#[test]
fn gateways_are_learned_where_their_frames_arrive() {
    let mut lab = Lab::new();
    let mut vlan = link(4, "eth0.100");
    vlan.kind = Some("vlan".to_owned());
    (vlan.lower, vlan.vlan_id) = (Some(2), Some(100));
    let mut inner = vlan.clone();
    (inner.index, inner.lower, inner.vlan_id) = (5, Some(4), Some(7));
    lab.links.extend([vlan, inner, link(9, "other")]);
    let gateways = [
        (2, GATEWAY),
        (4, "198.51.100.1"),
        (5, "10.0.0.1"),
        (9, "10.0.0.2"),
        (2, "192.0.2.7"),
        (2, "fe80::1"),
    ];
    lab.refresh(&gateways.map(|(i, ip)| (i, ip.parse().unwrap())));
    let told: Vec<_> = lab
        .watch
        .list(true, lab.now)
        .bindings
        .into_iter()
        .map(|b| (b.address, b.vlan))
        .collect();
    // Not behind two tags, not elsewhere, not ourselves.
    for expected in [(GATEWAY, 0), ("198.51.100.1", 100), ("fe80::1", 0)] {
        assert!(told.contains(&(expected.0.into(), expected.1)), "{told:?}");
    }
    assert_eq!(told.len(), 3, "{told:?}");
}

#[test]
fn the_ports_of_a_bond_learn_together_and_ask_through_it() {
    let mut bond = link(7, "bond0");
    bond.kind = Some("bond".to_owned());
    let mut ports = [link(2, "eth0"), link(3, "eth1")];
    ports.iter_mut().for_each(|port| port.controller = Some(7));
    let [eth0, eth1] = ports;
    let mut lab = Lab::on(
        NeighborPolicy::default(),
        tempfile::tempdir().unwrap(),
        vec![eth0, eth1, bond],
    );
    lab.refresh(&[(7, GATEWAY.parse().unwrap())]);
    assert!(lab.sent.lock().unwrap().iter().all(|(via, _)| *via == 7));
    lab.run(Duration::from_secs(2));
    let protected = (BindingState::Protected, vec![A.to_string()]);
    assert_eq!(lab.states(), [protected.clone(), protected]);
    assert_eq!(lab.kinds(), ["learned"]);
}

#[test]
fn stations_own_addresses_probes_and_routers_are_told() {
    let mut lab = Lab::learned();
    let key = |ip: &str| ports::key(ip.parse().unwrap(), 2, 0);
    lab.run(stations::QUIET);
    for (kind, ip, mac) in [
        (EventKind::Station, "192.0.2.20", A),
        (EventKind::Station, "192.0.2.20", B),
        (EventKind::Station, "192.0.2.20", A),
        (EventKind::OwnClaim, "192.0.2.7", B),
        (
            EventKind::OwnClaim,
            "192.0.2.7",
            Mac::new([2, 0, 0, 0, 0, 2]),
        ),
        (EventKind::ProbeAnswered, "192.0.2.30", B),
        (EventKind::ProbeAnswered, "192.0.2.31", B),
        (EventKind::ProbeAnswered, "192.0.2.32", B),
        // Asked for by a probe of ours.
        (EventKind::ProbeAnswered, GATEWAY, B),
        (EventKind::RogueRouter, "fe80::bad", B),
        // The bindings know better.
        (EventKind::Station, GATEWAY, A),
    ] {
        lab.event(kind, key(ip), mac, 0);
    }
    assert_eq!(
        lab.kinds()[1..],
        [
            "station",
            "station_changed",
            "flip_flop",
            "own_address",
            "probe_answered",
            "probe_answered",
            "dad_denial",
            "rogue_router",
            "station"
        ]
    );
    for event in lab.watch.events(0).events {
        assert!(!event.text.contains(char::is_control), "{event:?}");
    }
}

#[test]
fn lost_events_are_an_alert_and_keep_rounds_from_ending_in_silence() {
    let mut lab = Lab::learned();
    lab.watch.events_lost(0, lab.now);
    lab.alive = Vec::new();
    lab.claim(B, 0);
    lab.run(Duration::from_secs(1));
    lab.watch.events_lost(5, lab.now);
    lab.run(Duration::from_millis(500));
    assert_eq!(lab.kinds(), ["learned", "events_lost"]);
    lab.watch.events_lost(5, lab.now);
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.kinds(), ["learned", "events_lost", "moved"]);
}

#[test]
fn the_audit_knows_the_interfaces_that_carry_an_address() {
    let mut lab = Lab::learned();
    let mut macvlan = link(6, "mac0");
    (macvlan.kind, macvlan.lower) = (Some("macvlan".to_owned()), Some(2));
    lab.links.push(macvlan);
    lab.refresh(&[(2, GATEWAY.parse().unwrap())]);
    let links = lab.links.iter().map(|l| (l.index, l.clone())).collect();
    let bound = lab.watch.bound(&links);
    assert_eq!(
        bound[0].carriers,
        [(2, "eth0".to_owned()), (6, "mac0".to_owned())]
    );
    assert_eq!(
        audit::compare(&bound, &[]).0[0].verdict,
        AuditVerdict::Absent
    );
}

#[test]
fn events_of_another_length_are_left_alone() {
    let mut lab = Lab::learned();
    lab.watch.on_event(&[1; 191], lab.now);
    lab.watch.on_event(&[0xff; 192], lab.now);
    assert_eq!(lab.kinds(), ["learned"]);
}

#[test]
fn what_is_in_force_is_told_and_not_what_was_configured() {
    let mut lab = Lab::learned();
    let modes = |lab: &Lab| {
        let (list, glance) = (lab.watch.list(false, lab.now), lab.watch.glance(lab.now));
        assert_eq!((list.arp, list.ndp), (glance.arp, glance.ndp));
        (list.arp, list.ndp)
    };
    assert_eq!(modes(&lab), (GuardMode::Enforce, GuardMode::Observe));
    lab.watch.set_observe(true);
    assert_eq!(modes(&lab), (GuardMode::Observe, GuardMode::Observe));
    assert!(
        lab.watch.list(false, lab.now).bindings[0]
            .history
            .is_empty()
    );
    assert!(!lab.watch.list(true, lab.now).bindings[0].history.is_empty());
}

#[test]
fn a_pin_tells_what_was_known_until_then() {
    let mut lab = Lab::learned();
    let mut warnings = |address: &str, macs: &[Mac]| {
        let pin = PinNeighbor {
            address: address.parse().unwrap(),
            macs: macs.iter().map(ToString::to_string).collect(),
            interface: None,
            vlan: 0,
            router: false,
        };
        lab.watch.pin(&pin, lab.now).unwrap().warnings
    };
    assert_eq!(warnings(GATEWAY, &[A, B]), [""; 0]);
    let told = warnings(GATEWAY, &[B]);
    let known = format!("until now {GATEWAY} on eth0 was at {A}, which answered ");
    assert!(told.len() == 1 && told[0].starts_with(&known), "{told:?}");
    let told = warnings("203.0.113.1", &[B]);
    assert!(told.len() == 1 && told[0].contains("no prefix"), "{told:?}");
}

#[test]
fn a_contested_gateway_is_named_at_a_glance() {
    let mut lab = Lab::learned();
    lab.pin(GATEWAY, &[A]).unwrap();
    lab.pin("192.0.2.9", &[A]).unwrap();
    assert_eq!(lab.watch.glance(lab.now).contested_gateways, [""; 0]);
    lab.alive = vec![B];
    lab.claim(B, NeighborEvent::ANNOUNCEMENT);
    lab.run(Duration::from_secs(2));
    let glance = lab.watch.glance(lab.now);
    assert_eq!((glance.protected, glance.contested), (2, 1));
    assert_eq!(
        glance.contested_gateways,
        [format!("{GATEWAY} on eth0")],
        "also when it is pinned"
    );
    let bound = lab.watch.bound(&HashMap::new());
    assert!(bound[0].contested && !bound[1].contested);
}

#[test]
fn nothing_is_called_protected_that_nothing_is_held_to() {
    let named = |address: &str| NeighborConfig {
        address: address.parse().unwrap(),
        macs: vec![A],
        interface: None,
        vlan: 0,
        router: false,
    };
    let lab = Lab::with(NeighborPolicy {
        ndp: GuardMode::Off,
        bindings: vec![named("192.0.2.7"), named("192.0.2.9"), named("fe80::9")],
        ..NeighborPolicy::default()
    });
    let list = lab.watch.list(false, lab.now).bindings;
    let state = |address: &str| list.iter().find(|b| b.address == address).unwrap().state;
    assert_eq!(state("192.0.2.7"), BindingState::Own);
    assert_eq!(state("192.0.2.9"), BindingState::Protected);
    assert_eq!(state("fe80::9"), BindingState::Unguarded);
    assert_eq!(lab.watch.glance(lab.now).protected, 1);
}
