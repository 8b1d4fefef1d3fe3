//! Limits per source that survive spoofing, and connections of one source, through the loaded XDP program.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    process::Command,
    time::Duration,
};

use net_common::{
    abi::{Class, Limit, SourceState},
    sources::{RENEW_S, Tier},
    verdict::Reason,
};
use net_tests::{
    frames::{Envelope, SERVER_V4, SERVER_V6, datagram::stranger, segment},
    prog_run::{
        HOUR, Lab, coarse_ns, connect_from,
        guards::{Guard, now_s},
        in_namespace,
        neighbors::only,
    },
    wait,
};
use nix::sys::socket::{setsockopt, sockopt};

const ECHO: Class = Class::EchoRequest;
const BEYOND: Reason = Reason::EchoRequestLimit;

/// An echo request from an address.
fn echo(src: IpAddr) -> Vec<u8> {
    let v6 = src.is_ipv6();
    let envelope = Envelope::PLAIN[usize::from(v6)].from(src);
    envelope.icmp(if v6 { 128 } else { 8 }, 0, 1, &[])
}

/// Runs an echo request, which passes when no share refuses it; what was counted beside it.
#[track_caller]
fn passes(lab: &mut Lab, src: IpAddr, notes: &[Reason]) {
    let ran = lab.expect(&src.to_string(), &echo(src), Reason::IcmpPass);
    assert_eq!(ran.notes, notes, "{src}");
}

#[track_caller]
fn refused(lab: &mut Lab, src: IpAddr, by: Reason) {
    let ran = lab.expect(&src.to_string(), &echo(src), BEYOND);
    assert_eq!(ran.notes, [by], "{src}");
}

/// Addresses of a family, each of a /24 or /64 of its own; those of IPv6 are of one /48.
fn sources(plain: &Envelope) -> impl Fn(u8) -> IpAddr + use<> {
    let like = plain.src;
    move |net| stranger(like, net, 1)
}

#[test]
fn each_share_refuses_what_is_beyond_it_and_names_itself_r_icmp_7_c_42() {
    use Reason::{LimitGlobal, LimitHost, LimitPool, LimitPrefix};
    in_namespace(|lab| {
        lab.enforce_guards();
        for plain in Envelope::PLAIN {
            let of = sources(&plain);
            let host = |n| stranger(plain.src, 1, n);
            lab.guards.unlimit(ECHO);
            lab.guards.limit(ECHO, |l| l.host = only(2));
            for n in [1, 2] {
                passes(lab, host(n), &[]);
                passes(lab, host(n), &[]);
                refused(lab, host(n), LimitHost);
                lab.rest(ECHO, host(n));
            }
            lab.guards.unlimit(ECHO);
            lab.guards.limit(ECHO, |l| l.prefix = only(3));
            for n in 1..=3 {
                passes(lab, host(n), &[]);
            }
            refused(lab, host(4), LimitPrefix);
            passes(lab, of(2), &[]);
            lab.rest(ECHO, host(1));

            lab.guards.unlimit(ECHO);
            lab.guards.limit(ECHO, |l| l.site = only(3));
            for net in 11..14 {
                passes(lab, of(net), &[]);
            }
            if plain.is_v6() {
                refused(lab, of(14), LimitPrefix);
                passes(lab, "2001:db8:78::1".parse().unwrap(), &[]);
            } else {
                passes(lab, of(14), &[]);
            }

            // Whoever is refused takes nothing of what others share.
            lab.guards.unlimit(ECHO);
            lab.guards
                .limit(ECHO, |l| (l.host, l.pool) = (only(1), only(3)));
            passes(lab, of(21), &[]);
            for _ in 0..5 {
                refused(lab, of(21), LimitHost);
            }
            passes(lab, of(22), &[]);
            passes(lab, of(23), &[]);
            for net in 24..30 {
                refused(lab, of(net), LimitPool);
            }
            lab.guards.limit(ECHO, |l| l.pool = Limit::default());
            for net in 24..30 {
                passes(lab, of(net), &[]);
            }

            // The known do not notice what the unseen do, nor one tier what the other does.
            lab.guards.unlimit(ECHO);
            lab.guards.limit(ECHO, |l| {
                l.pool = only(1);
                l.steady = only(2);
                l.proven = only(3);
            });
            let tiers = [
                (31, Tier::Steady),
                (32, Tier::Steady),
                (33, Tier::Asked),
                (34, Tier::Proven),
            ];
            for (net, tier) in tiers {
                lab.set_tier(of(net), tier, 0);
            }
            passes(lab, of(30), &[]);
            refused(lab, of(35), LimitPool);
            passes(lab, of(31), &[]);
            passes(lab, of(32), &[]);
            refused(lab, of(31), LimitGlobal);
            refused(lab, of(32), LimitGlobal);
            passes(lab, of(33), &[]);
            passes(lab, of(34), &[]);
            passes(lab, of(33), &[]);
            refused(lab, of(33), LimitGlobal);
            refused(lab, of(34), LimitGlobal);
            // Another class has limits of its own.
            let reply = if plain.is_v6() { 129 } else { 0 };
            let reply = plain.from(of(34)).icmp(reply, 0, 1, &[]);
            lab.expect("another class", &reply, Reason::IcmpPass);
            lab.expect_guarded(
                Guard::Icmp,
                "the pool",
                &echo(of(36)),
                BEYOND,
                Reason::NoRule,
            );

            // The cells of the known are apart from those of the unseen: becoming known begins a share anew.
            lab.guards.unlimit(ECHO);
            lab.guards.limit(ECHO, |l| l.host = only(1));
            passes(lab, of(40), &[]);
            refused(lab, of(40), LimitHost);
            lab.set_tier(of(40), Tier::Proven, 0);
            passes(lab, of(40), &[]);
            refused(lab, of(40), LimitHost);
            // One proof whitelists nobody (R-SYN-13).
            for net in [30, 35] {
                lab.forget_source(of(net));
            }
        }
    });
}

#[test]
fn who_passes_the_pool_again_after_a_while_is_steady_and_stays_so_while_it_sends() {
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.remember_newcomers(0);
        for plain in Envelope::PLAIN {
            let of = sources(&plain);
            lab.guards.unlimit(ECHO);
            // By the clock.
            passes(lab, of(1), &[]);
            assert_eq!(lab.tier(of(1)), Tier::Unseen);
            wait::until("a steady source", Duration::from_secs(10), || {
                lab.expect("an echo", &echo(of(1)), Reason::IcmpPass);
                lab.tier(of(1)) == Tier::Steady
            })
            .unwrap();

            for (age_s, steady) in [(0, false), (2, true), (59, true), (63, false)] {
                lab.forget_source(of(2));
                lab.set_newcomer(of(2), age_s);
                let notes: &[Reason] = if steady {
                    &[Reason::SourceAdmitted]
                } else {
                    &[]
                };
                // A second may begin meanwhile.
                if age_s != 0 {
                    passes(lab, of(2), notes);
                    assert_eq!(lab.tier(of(2)) == Tier::Steady, steady, "after {age_s} s");
                }
            }
            // What a share refuses makes nobody known.
            lab.forget_source(of(3));
            lab.guards.limit(ECHO, |l| l.pool = only(1));
            passes(lab, of(4), &[]);
            lab.set_newcomer(of(3), 5);
            for _ in 0..5 {
                refused(lab, of(3), Reason::LimitPool);
            }
            assert_eq!(lab.tier(of(3)), Tier::Unseen);

            // It is noted that the known were seen, now and then, and not of those that were asked.
            lab.guards.unlimit(ECHO);
            for (tier, age_s, renews) in [
                (Tier::Steady, RENEW_S + 1, true),
                (Tier::Steady, 118, true),
                (Tier::Steady, RENEW_S - 4, false),
                (Tier::Proven, 3590, true),
                (Tier::Asked, 20, false),
            ] {
                lab.set_tier(of(5), tier, age_s);
                let before = lab.seen_s(of(5)).unwrap();
                passes(lab, of(5), &[]);
                assert_eq!(lab.tier(of(5)), tier);
                let after = lab.seen_s(of(5)).unwrap();
                assert_eq!(after > before, renews, "{tier:?} after {age_s} s");
                assert!(!renews || now_s() - after <= 2);
            }
            // Who was not seen for its tier's life begins again.
            lab.set_tier(of(6), Tier::Steady, 125);
            lab.guards.limit(ECHO, |l| l.pool = only(1));
            passes(lab, of(6), &[]);
            refused(lab, of(6), Reason::LimitPool);
        }
    });
}

#[test]
fn only_who_proves_itself_takes_a_place_that_is_held() {
    use Reason::{SourceAdmitted, SourceTableFull};
    in_namespace(|lab| {
        lab.enforce_guards();
        lab.guards.remember_newcomers(0);
        for plain in Envelope::PLAIN {
            let src = sources(&plain)(1);
            let question = |plain: &Envelope| plain.back().to(src).udp(45_009, 53, &[7]);
            // Who would be steady, by its second packet; who is asked, by a question.
            for (crowd, steady, asked) in [
                (Tier::Unseen, vec![SourceAdmitted], vec![SourceAdmitted]),
                (Tier::Steady, vec![SourceTableFull], vec![SourceTableFull]),
                (Tier::Asked, vec![SourceTableFull], vec![SourceTableFull]),
                (Tier::Proven, vec![SourceTableFull], vec![SourceTableFull]),
            ] {
                lab.forget_source(src);
                lab.crowd(src, crowd);
                lab.set_newcomer(src, 5);
                passes(lab, src, &steady);
                let known = steady == [SourceAdmitted];
                assert_eq!(lab.tier(src) == Tier::Steady, known, "among {crowd:?}");

                lab.crowd(src, crowd);
                assert_eq!(lab.ask(&question(&plain)), asked, "among {crowd:?}");
                let known = asked[0] == SourceAdmitted;
                assert_eq!(lab.tier(src) == Tier::Asked, known, "among {crowd:?}");
            }
            // A tier that it has is raised in its place.
            lab.forget_source(src);
            lab.set_tier(src, Tier::Steady, 0);
            assert_eq!(lab.ask(&question(&plain)), []);
            assert_eq!(lab.tier(src), Tier::Asked);
            lab.set_tier(src, Tier::Proven, 0);
            assert_eq!(lab.ask(&question(&plain)), []);
            assert_eq!(lab.tier(src), Tier::Proven, "never lowered");
        }
    });
}

/// Closes a connection with RST, which leaves no TIME_WAIT behind.
fn reset(stream: TcpStream) {
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
}

/// Waits until a source has so many connections open.
fn await_open(lab: &Lab, src: IpAddr, open: u32) {
    wait::until("the connections counted", Duration::from_secs(5), || {
        lab.connections(src).is_some_and(|state| state.open == open)
    })
    .unwrap();
}

#[test]
fn a_source_that_completes_handshakes_has_proved_itself_and_may_have_so_many_connections() {
    const PORT: u16 = 7777;
    use Reason::{NewConnectionLimit, OpenConnectionLimit, SynUnprotected};
    in_namespace(|lab| {
        lab.enforce_guards();
        // The tracepoint sees every namespace: addresses of this test's own.
        for shared in [SERVER_V4.into(), SERVER_V6.into()] as [IpAddr; 2] {
            lab.set_role(shared, 0);
        }
        lab.attach_sock();
        for (own, peer, other) in [
            ("198.18.7.1", "198.18.7.2", "198.18.7.3"),
            (
                "2001:db8:5eed::1",
                "2001:db8:5eed:2::1",
                "2001:db8:5eed:3::1",
            ),
        ] {
            let [own, peer, other]: [IpAddr; 3] = [own, peer, other].map(|a| a.parse().unwrap());
            for address in [own, peer] {
                let (family, len, nodad) = if own.is_ipv4() {
                    ("-4", "32", None)
                } else {
                    ("-6", "128", Some("nodad"))
                };
                let status = Command::new("ip")
                    .args([
                        family,
                        "addr",
                        "add",
                        &format!("{address}/{len}"),
                        "dev",
                        "lo",
                    ])
                    .args(nodad)
                    .status();
                assert!(status.unwrap().success());
            }
            lab.set_role(own, net_common::abi::AddressRole::OWN);
            let plain = Envelope::PLAIN[usize::from(own.is_ipv6())].to(own);
            let syn = |from: IpAddr| plain.from(from).tcp(&segment(9, PORT, 3, "S"), &[]);
            lab.guards.set(|s| {
                s.connections = only(2);
                s.open_connections = 2;
            });
            let listener = TcpListener::bind((own, PORT)).unwrap();
            let connect = || {
                let client = connect_from(SocketAddr::new(peer, 0), SocketAddr::new(own, PORT));
                (client, listener.accept().unwrap().0)
            };

            // A SYN proves nothing, however many there are.
            for _ in 0..5 {
                lab.expect("before", &syn(peer), SynUnprotected);
            }
            assert_eq!(
                (lab.tier(peer), lab.connections(peer)),
                (Tier::Unseen, None)
            );
            let first = connect();
            await_open(lab, peer, 1);
            assert_eq!(lab.tier(peer), Tier::Proven);
            assert_eq!(lab.tier(own), Tier::Unseen, "who asked is not who answered");
            lab.expect("one of two", &syn(peer), SynUnprotected);
            let second = connect();
            await_open(lab, peer, 2);
            lab.expect_guarded(
                Guard::Tcp,
                "two of two",
                &syn(peer),
                NewConnectionLimit,
                SynUnprotected,
            );
            lab.expect("another source", &syn(other), SynUnprotected);
            let elsewhere = plain.from(peer).to(stranger(own, 9, 9));
            let elsewhere = elsewhere.tcp(&segment(9, PORT, 3, "S"), &[]);
            lab.expect("to another host", &elsewhere, SynUnprotected);
            for letters in ["A", "FA", "R"] {
                let frame = plain.from(peer).tcp(&segment(9, PORT, 3, letters), &[]);
                lab.expect("no SYN", &frame, Reason::TcpPass);
            }

            // What has been opened lately is one thing, what is open another.
            lab.guards.set(|s| s.connections = Limit::default());
            lab.expect_guarded(
                Guard::Tcp,
                "both open",
                &syn(peer),
                OpenConnectionLimit,
                SynUnprotected,
            );
            reset(first.0);
            await_open(lab, peer, 1);
            lab.expect("one open", &syn(peer), SynUnprotected);
            reset(second.0);
            await_open(lab, peer, 0);
            lab.guards
                .set(|s| (s.connections, s.open_connections) = (only(2), 0));
            lab.expect("the rate goes on", &syn(peer), NewConnectionLimit);
            lab.set_connections(
                peer,
                SourceState {
                    tat_ns: coarse_ns() + HOUR / 2,
                    ..Default::default()
                },
            );
            lab.expect("it has refilled", &syn(peer), SynUnprotected);

            // Without limits the proof is noted all the same.
            lab.guards.set(|s| s.connections = Limit::default());
            lab.forget_source(peer);
            let third = connect();
            wait::until("a proof", Duration::from_secs(5), || {
                lab.tier(peer) == Tier::Proven
            })
            .unwrap();
            lab.expect("no limit", &syn(peer), SynUnprotected);
            drop((third, first.1, second.1));
        }
    });
}
