use proptest::{prelude::*, sample::select};

use super::*;
use crate::gcra;

const ROUTER: Mac = Mac::new([0x02, 0, 0, 0, 0, 1]);
const VIRTUAL: Mac = Mac::new([0, 0, 0x5e, 0, 1, 0x33]);
const STRANGER: Mac = Mac::new([0x02, 0, 0, 0, 0, 0x66]);
const ADDR: AddrWords = [0x0102_0304, 0, 0, 0];

const FORMS: [Form; 3] = [Form::Request, Form::Reply, Form::Announcement];
const STANDINGS: [Standing; 6] = [
    Standing::Unbound,
    Standing::OwnValid,
    Standing::OwnForeign,
    Standing::Valid,
    Standing::Unsolicited,
    Standing::Mismatch,
];

fn binding(flags: u32, macs: &[Mac]) -> Binding {
    let mut binding = Binding {
        flags,
        ..Binding::default()
    };
    for (place, mac) in binding.macs.iter_mut().zip(macs) {
        *place = mac.0;
    }
    binding
}

fn claim(version: Version, mac: Mac, form: Form) -> Claim {
    Claim {
        version,
        addr: ADDR,
        mac,
        sender: Mac::NONE,
        explicit: true,
        form,
    }
}

#[test]
fn a_set_holds_its_addresses_in_every_place_and_none_is_no_address_r_arp_6() {
    for place in 0..BINDING_MACS {
        let mut set = binding(Binding::PROTECTED, &[]);
        assert!(!holds(&set, ROUTER));
        set.macs[place] = ROUTER.0;
        assert!(holds(&set, ROUTER), "place {place}");
        assert!(!holds(&set, STRANGER), "place {place}");
        // Seven places are unused, and yet nothing is in them.
        assert!(!holds(&set, Mac::NONE), "place {place}");
    }
}

#[test]
fn a_claim_stands_to_its_binding_as_the_rules_say_r_arp_5_r_arp_6_r_arp_8_r_nd_5_r_nd_6() {
    use Standing as S;
    use Version::{V4, V6};
    let learning = binding(0, &[]);
    let learned = binding(Binding::PROTECTED, &[ROUTER, VIRTUAL]);
    let pinned = binding(Binding::PROTECTED | Binding::PINNED, &[ROUTER, VIRTUAL]);
    let router = binding(Binding::PROTECTED | Binding::ROUTER, &[ROUTER, VIRTUAL]);
    let own = binding(Binding::OWN, &[ROUTER]);
    let own_pinned = binding(
        Binding::OWN | Binding::PROTECTED | Binding::PINNED,
        &[ROUTER],
    );

    for version in [V4, V6] {
        for form in FORMS {
            for asked in [false, true] {
                let stands = |mac, binding| standing(&claim(version, mac, form), binding, asked);
                let what = format!("{version:?} {form:?}, asked {asked}");
                for mac in [ROUTER, STRANGER, Mac::NONE] {
                    assert_eq!(stands(mac, None), S::Unbound, "{what}, no binding");
                    assert_eq!(stands(mac, Some(&learning)), S::Unbound, "{what}, learning");
                }
                for own in [&own, &own_pinned] {
                    assert_eq!(stands(ROUTER, Some(own)), S::OwnValid, "{what}");
                    assert_eq!(stands(STRANGER, Some(own)), S::OwnForeign, "{what}");
                    assert_eq!(stands(Mac::NONE, Some(own)), S::OwnForeign, "{what}");
                }
                // The only difference between ARP and NDP: an advertisement says itself what it answers.
                let agrees = if version == V4 && form == Form::Reply && !asked {
                    S::Unsolicited
                } else {
                    S::Valid
                };
                for bound in [&learned, &pinned, &router] {
                    assert_eq!(stands(ROUTER, Some(bound)), agrees, "{what}");
                    assert_eq!(stands(VIRTUAL, Some(bound)), agrees, "{what}, virtual");
                    assert_eq!(stands(STRANGER, Some(bound)), S::Mismatch, "{what}");
                    assert_eq!(
                        stands(Mac::NONE, Some(bound)),
                        S::Mismatch,
                        "{what}, unread"
                    );
                }
            }
        }
    }
}

#[test]
fn what_contradicts_or_was_not_asked_for_is_dropped_and_nothing_else() {
    for standing in STANDINGS {
        let want = match standing {
            Standing::Mismatch => Some(Reason::NeighborMismatch),
            Standing::Unsolicited => Some(Reason::ArpUnsolicited),
            _ => None,
        };
        assert_eq!(standing.drop_reason(), want, "{standing:?}");
    }
}

#[test]
fn learned_bindings_need_the_agent_and_pinned_ones_do_not() {
    use Binding as B;
    let table = [
        (B::PROTECTED, true, true, true),
        (B::PROTECTED, true, false, false),
        (B::PROTECTED | B::ROUTER, true, false, false),
        (B::PROTECTED | B::PINNED, true, true, true),
        (B::PROTECTED | B::PINNED, true, false, true),
        (B::PROTECTED, false, true, false),
        (B::PROTECTED | B::PINNED, false, true, false),
        (B::PROTECTED | B::PINNED, false, false, false),
    ];
    for (flags, enforce, alive, want) in table {
        assert_eq!(
            enforced(flags, enforce, alive),
            want,
            "{flags:#x}, enforce {enforce}, alive {alive}"
        );
    }
}

#[test]
fn the_agent_is_told_what_it_needs_and_no_more() {
    use EventKind as E;
    use Standing as S;
    // Standing, form, MAC; bound, asked, probed, known; event.
    type Row = (S, Form, Mac, [bool; 4], Option<E>);
    let (no, yes) = (false, true);
    let table: &[(&str, Row)] = &[
        (
            "stranger",
            (
                S::Unbound,
                Form::Request,
                STRANGER,
                [no, no, no, no],
                Some(E::Station),
            ),
        ),
        (
            "stranger again",
            (S::Unbound, Form::Request, STRANGER, [no, no, no, yes], None),
        ),
        (
            "unread",
            (
                S::Unbound,
                Form::Announcement,
                Mac::NONE,
                [no, no, no, no],
                None,
            ),
        ),
        (
            "answer of no matter",
            (
                S::Unbound,
                Form::Reply,
                STRANGER,
                [no, yes, no, no],
                Some(E::Station),
            ),
        ),
        (
            "the same again",
            (S::Unbound, Form::Reply, STRANGER, [no, yes, no, yes], None),
        ),
        (
            "answer of one that is learned",
            (
                S::Unbound,
                Form::Reply,
                ROUTER,
                [yes, yes, no, no],
                Some(E::Answer),
            ),
        ),
        (
            "the same again",
            (
                S::Unbound,
                Form::Reply,
                ROUTER,
                [yes, yes, no, yes],
                Some(E::Answer),
            ),
        ),
        (
            "reply that nobody asked for, while learning",
            (S::Unbound, Form::Reply, ROUTER, [yes, no, no, yes], None),
        ),
        (
            "request of one that is learned",
            (S::Unbound, Form::Request, ROUTER, [yes, yes, no, yes], None),
        ),
        (
            "someone has what we probed",
            (
                S::Unbound,
                Form::Reply,
                STRANGER,
                [no, yes, yes, no],
                Some(E::ProbeAnswered),
            ),
        ),
        (
            "someone announces what we probed",
            (
                S::Unbound,
                Form::Announcement,
                STRANGER,
                [no, yes, yes, yes],
                Some(E::ProbeAnswered),
            ),
        ),
        (
            "holder answers",
            (
                S::Valid,
                Form::Reply,
                ROUTER,
                [yes, yes, no, yes],
                Some(E::Answer),
            ),
        ),
        (
            "holder asks",
            (S::Valid, Form::Request, ROUTER, [yes, yes, no, yes], None),
        ),
        (
            "holder announces itself",
            (
                S::Valid,
                Form::Announcement,
                ROUTER,
                [yes, yes, no, yes],
                None,
            ),
        ),
        (
            "holder seen first",
            (
                S::Valid,
                Form::Request,
                ROUTER,
                [yes, no, no, no],
                Some(E::Station),
            ),
        ),
        (
            "unsolicited",
            (S::Unsolicited, Form::Reply, ROUTER, [yes, no, no, no], None),
        ),
        (
            "contradiction",
            (
                S::Mismatch,
                Form::Reply,
                STRANGER,
                [yes, yes, no, no],
                Some(E::Claim),
            ),
        ),
        (
            "contradiction again",
            (
                S::Mismatch,
                Form::Reply,
                STRANGER,
                [yes, no, no, yes],
                Some(E::Claim),
            ),
        ),
        (
            "contradiction, unread",
            (
                S::Mismatch,
                Form::Request,
                Mac::NONE,
                [yes, no, no, no],
                Some(E::Claim),
            ),
        ),
        (
            "our own frame",
            (
                S::OwnValid,
                Form::Announcement,
                ROUTER,
                [yes, yes, yes, no],
                None,
            ),
        ),
        (
            "our address",
            (
                S::OwnForeign,
                Form::Announcement,
                STRANGER,
                [yes, no, no, no],
                Some(E::OwnClaim),
            ),
        ),
        (
            "our address again",
            (
                S::OwnForeign,
                Form::Request,
                STRANGER,
                [yes, yes, yes, yes],
                Some(E::OwnClaim),
            ),
        ),
    ];
    for (what, (standing, form, mac, [bound, asked, probed, known], want)) in table {
        for version in [Version::V4, Version::V6] {
            let claim = claim(version, *mac, *form);
            let got = event(*standing, &claim, *bound, *asked, *probed, *known);
            assert_eq!(got, *want, "{what}");
        }
    }
}

#[test]
fn an_event_says_what_carried_the_claim() {
    use NeighborEvent as N;
    assert_eq!(event_flags(Form::Request, true), 0);
    assert_eq!(event_flags(Form::Request, false), 0);
    assert_eq!(event_flags(Form::Reply, true), N::REPLY | N::SOLICITED);
    assert_eq!(event_flags(Form::Reply, false), N::REPLY);
    assert_eq!(event_flags(Form::Announcement, true), N::ANNOUNCEMENT);
    assert_eq!(event_flags(Form::Announcement, false), N::ANNOUNCEMENT);
}

#[test]
fn numbers_lead_back_to_what_they_stand_for() {
    for form in FORMS {
        assert_eq!(Form::from_number(form as u32), form);
    }
    for standing in STANDINGS {
        assert_eq!(Standing::from_number(standing as u32), standing);
    }
    for number in 0..6 {
        let kind = EventKind::from_number(number).expect("an event");
        assert_eq!(kind as u32, number);
    }
    for number in [6, 7, u32::MAX] {
        assert_eq!(EventKind::from_number(number), None);
        // A number of nobody's is read as what concerns no rule.
        assert_eq!(Standing::from_number(number), Standing::Unbound);
        assert_eq!(Form::from_number(number), Form::Request);
    }
}

#[test]
fn a_flood_of_any_event_is_bounded() {
    for (kind, rate, burst) in [
        (EventKind::Claim, 20, 40),
        (EventKind::Answer, 10, 20),
        (EventKind::Station, 100, 200),
        (EventKind::ProbeAnswered, 50, 50),
        (EventKind::OwnClaim, 5, 10),
        (EventKind::RogueRouter, 5, 10),
    ] {
        let limit = event_limit(kind);
        // A million frames a second for ten seconds.
        let (mut tat, mut told) = (0, 0);
        for now in (0..10_000_000).map(|n| 1_000_000_000 + n * 1000) {
            if let Some(next) = gcra::conform(tat, now, limit.interval_ns, limit.tolerance_ns) {
                (tat, told) = (next, told + 1);
            }
        }
        let most = burst + 10 * rate;
        assert!(
            (most - 1..=most).contains(&told),
            "{kind:?}: {told} of {most}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    /// The promises, whatever the binding and the claim.
    #[test]
    fn a_claim_is_dropped_for_a_protected_binding_alone(
        flags in 0u32..16, macs in any::<[u64; BINDING_MACS]>(), place in 0..BINDING_MACS,
        mac in prop_oneof![Just(0u64), any::<u64>()], member: bool,
        form in select(FORMS.to_vec()), is_v6: bool, asked: bool,
        alive: bool, enforce: bool, probed: bool, known: bool,
    ) {
        let mut binding = binding(flags, &[]);
        binding.macs = macs;
        if member {
            binding.macs[place] = mac;
        }
        let version = if is_v6 { Version::V6 } else { Version::V4 };
        let claim = claim(version, Mac(mac), form);
        let stands = standing(&claim, Some(&binding), asked);
        let inside = mac != 0 && binding.macs.contains(&mac);
        prop_assert_eq!(holds(&binding, Mac(mac)), inside);
        let (own, protected) = (flags & Binding::OWN != 0, flags & Binding::PROTECTED != 0);
        match stands.drop_reason() {
            Some(Reason::NeighborMismatch) => prop_assert!(protected && !own && !inside),
            Some(Reason::ArpUnsolicited) => {
                prop_assert!(protected && !own && inside && !is_v6 && form == Form::Reply && !asked);
            }
            Some(other) => prop_assert!(false, "{:?}", other),
            None => prop_assert!(own || !protected || inside),
        }
        // Nothing that contradicts goes untold, and an answer of the holder never does.
        let told = event(stands, &claim, true, asked, probed, known);
        if stands == Standing::Mismatch {
            prop_assert_eq!(told, Some(EventKind::Claim));
        }
        if stands == Standing::Valid && form == Form::Reply && asked {
            prop_assert_eq!(told, Some(EventKind::Answer));
        }
        prop_assert_eq!(
            enforced(flags, enforce, alive),
            enforce && (alive || flags & Binding::PINNED != 0)
        );
    }
}

#[test]
fn steady_is_who_answers_again_within_3_s_but_not_at_once_r_arp_6() {
    const MS: u64 = 1_000_000;
    let start = 1_000_000 * MS;
    let (first, cell) = steady(0, 7, start);
    assert!(!first, "never seen");
    for (what, after, expected) in [
        ("the same frame again", 0, false),
        ("300 ms later, as the agent asks", 300 * MS, true),
        ("2.5 s later", 2500 * MS, true),
        ("4 s later", 4000 * MS, false),
        ("an hour later", 3_600_000 * MS, false),
    ] {
        assert_eq!(steady(cell, 7, start + after).0, expected, "{what}");
        assert!(!steady(cell, 8, start + after).0, "another one, {what}");
    }
    let (_, cell) = steady(cell, 7, start + 300 * MS);
    assert!(steady(cell, 7, start + 2700 * MS).0, "each answer counts");
    let (_, cell) = steady(cell, 8, start + 300 * MS);
    assert!(!steady(cell, 7, start + 600 * MS).0, "overwritten");
}

#[test]
fn a_sender_that_matters_must_be_in_the_set_too_r_nd_3() {
    let mut set = binding(Binding::PROTECTED, &[ROUTER]);
    set.macs[1] = VIRTUAL.0;
    for (sender, expected) in [
        (Mac::NONE, Standing::Valid),
        (ROUTER, Standing::Valid),
        (VIRTUAL, Standing::Valid),
        (STRANGER, Standing::Mismatch),
    ] {
        let claim = Claim {
            sender,
            ..claim(Version::V6, ROUTER, Form::Announcement)
        };
        assert_eq!(standing(&claim, Some(&set), false), expected, "{sender}");
    }
}
