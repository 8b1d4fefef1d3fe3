//! The policy's two generations, and what becomes of SYNs without an agent, through the loaded XDP program.

use net_common::{
    abi::{Listener, Settings},
    sources::seconds,
    verdict::Reason,
};
use net_tests::{
    frames::Envelope,
    prog_run::{HOUR, coarse_ns, in_namespace, linux_syn},
};

const ENVELOPES: [Envelope; 2] = [Envelope::V4, Envelope::V6];

fn syn(envelope: &Envelope) -> Vec<u8> {
    envelope.tcp(&linux_syn(40_000, 5), &[])
}

#[test]
fn c_47_a_full_accept_queue_drops_nothing_when_nobody_would_see_that_it_has_room_again() {
    in_namespace(|lab| {
        for envelope in &ENVELOPES {
            lab.set_listeners(|l| l.flags |= Listener::ACCEPT_FULL);
            lab.neighbors.beat(coarse_ns());
            lab.expect("the agent lives", &syn(envelope), Reason::AcceptFull);
            lab.neighbors.stale();
            lab.expect("it is gone", &syn(envelope), Reason::CookieSent);
        }
    });
}

#[test]
fn c_47_a_port_whose_listeners_changed_without_an_agent_is_left_to_the_kernel() {
    in_namespace(|lab| {
        for envelope in &ENVELOPES {
            lab.neighbors.beat(coarse_ns());
            let now = seconds(coarse_ns());
            lab.set_changed(now);
            lab.expect("the agent sees to it", &syn(envelope), Reason::CookieSent);
            lab.neighbors.stale();
            lab.expect("nobody does", &syn(envelope), Reason::SynUntended);
            // 5 s and a little before now the agent was there; it had a second to see this.
            lab.set_changed(now - 8);
            lab.expect("it saw that", &syn(envelope), Reason::CookieSent);
            lab.set_changed(0);
            lab.expect("never changed", &syn(envelope), Reason::CookieSent);
        }
    });
}

#[test]
fn c_51_past_its_deadline_a_change_that_nobody_confirmed_is_only_observed() {
    in_namespace(|lab| {
        lab.neighbors.stale();
        for (until, observed) in [
            (0, false),
            (coarse_ns() + HOUR, false),
            (coarse_ns() - 1, true),
        ] {
            lab.set_settings(|s| s.tentative_until_ns = until);
            for envelope in &ENVELOPES {
                let ran = lab.run(&syn(envelope));
                assert_eq!((ran.reason, ran.observed), (Reason::CookieSent, observed));
                let flags = envelope.tcp(&net_tests::frames::segment(9, 9, 3, ""), &[]);
                let ran = lab.run(&flags);
                assert_eq!((ran.reason, ran.observed), (Reason::TcpFlags, observed));
            }
        }
    });
}

#[test]
fn packets_meet_a_new_policy_when_it_is_committed_and_not_before() {
    in_namespace(|lab| {
        let frame = syn(&Envelope::V4);
        let mut settings = lab.settings();
        let observed = |lab: &mut net_tests::prog_run::Lab| lab.run(&frame).observed;
        settings.flags |= Settings::OBSERVE;
        lab.maps().begin();
        lab.maps().set_settings(&settings).unwrap();
        assert!(!observed(lab), "begun");
        lab.maps().commit().unwrap();
        assert!(observed(lab), "committed");

        settings.flags &= !Settings::OBSERVE;
        lab.maps().begin();
        lab.maps().set_settings(&settings).unwrap();
        lab.maps().abandon();
        assert!(observed(lab), "given up");
        lab.maps().set_settings(&settings).unwrap();
        assert!(!observed(lab), "at once without a beginning");
    });
}
