//! The guards of IP, ICMP, UDP and TCP without a listener: what the data path is told. Free of any I/O but for
//! [`resolvers::read`].

pub mod addresses;
pub mod resolvers;
pub mod sources;

use net_common::abi::{CLASSES, Class, ClassLimits, GuardSettings, Limit, OWN_WORDS};

use crate::{
    config::{
        GuardMode, GuardPolicy, Mode, RateLimit,
        guards::{ReversePath, Shares},
    },
    listeners::tolerance_ns,
};

/// Two of the coarsest steps of the kernel's coarse clock (CONFIG_HZ=100), nanoseconds: packets arrive between two
/// steps and are judged by the first, so a burst below it would let fewer pass than the rate says.
const LEAST_BURST_NS: u64 = 20_000_000;

/// Segments without a socket in peace, of those that are looked at: 10/s of one in
/// [`STRAY_SAMPLE`](net_common::abi::STRAY_SAMPLE), which is 640/s, with a burst of 20. A host that was started again
/// meets the segments of as many lost connections as it had, and its answers end them; an attack does not end.
const STRAYS: Limit = Limit {
    interval_ns: 100_000_000,
    tolerance_ns: 2_000_000_000,
};

/// What of the settings is not the operator's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Filter of own addresses.
    pub own: [u64; OWN_WORDS],
    /// What a trial begins with.
    pub trial: u64,
    /// Sampled drops the agent is told of, for each reason.
    pub events: Limit,
    /// Whether the kernel follows redirects.
    pub redirects: bool,
    /// Whether the kernel takes packets from outside with own addresses as their source.
    pub accept_local: bool,
    /// Whether packets for own addresses may be for others, behind this host.
    pub translates: bool,
}

fn limit(limit: RateLimit) -> Limit {
    let interval_ns = limit.rate.interval_ns();
    Limit {
        interval_ns,
        tolerance_ns: tolerance_ns(interval_ns, limit.burst).max(LEAST_BURST_NS),
    }
}

/// An interval of 0 is no limit.
fn limit_or_none(share: Option<RateLimit>) -> Limit {
    share.map(limit).unwrap_or_default()
}

fn class_limits(shares: &Shares) -> ClassLimits {
    ClassLimits {
        host: limit_or_none(shares.host),
        prefix: limit_or_none(shares.prefix),
        site: limit_or_none(shares.site),
        pool: limit_or_none(shares.pool),
        steady: limit_or_none(shares.steady),
        proven: limit_or_none(shares.proven),
    }
}

/// The limits of every class, by number.
pub fn limits(policy: &GuardPolicy) -> [ClassLimits; CLASSES as usize] {
    Class::ALL.map(|class| class_limits(policy.shares(class)))
}

/// The mode of a guard as it is in force: no more than observe while the agent only observes.
pub fn in_force(guard: GuardMode, agent: Mode) -> GuardMode {
    match (guard, agent) {
        (GuardMode::Enforce, Mode::Observe) => GuardMode::Observe,
        (guard, _) => guard,
    }
}

/// The settings of all guards.
pub fn settings(policy: &GuardPolicy, facts: &Facts) -> GuardSettings {
    let mut flags = 0;
    let mut set = |on: bool, flag: u32| flags |= if on { flag } else { 0 };
    for (mode, on, enforce) in [
        (policy.ip.mode, GuardSettings::IP, GuardSettings::IP_ENFORCE),
        (
            policy.icmp.mode,
            GuardSettings::ICMP,
            GuardSettings::ICMP_ENFORCE,
        ),
        (
            policy.udp.mode,
            GuardSettings::UDP,
            GuardSettings::UDP_ENFORCE,
        ),
        (
            policy.tcp.mode,
            GuardSettings::TCP,
            GuardSettings::TCP_ENFORCE,
        ),
    ] {
        set(mode != GuardMode::Off, on);
        set(mode == GuardMode::Enforce, enforce);
    }
    set(facts.redirects, GuardSettings::REDIRECTS);
    set(facts.accept_local, GuardSettings::ACCEPT_LOCAL);
    set(!facts.translates, GuardSettings::STRAYS);
    let reverse_path = policy.ip.reverse_path;
    set(
        reverse_path == ReversePath::Loose,
        GuardSettings::REVERSE_PATH_LOOSE,
    );
    set(
        reverse_path == ReversePath::Strict,
        GuardSettings::REVERSE_PATH_STRICT,
    );
    GuardSettings {
        own: facts.own,
        trial: facts.trial,
        events: facts.events,
        strays: STRAYS,
        connections: limit_or_none(policy.tcp.new_connections),
        open_connections: policy.tcp.open_connections,
        flags,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(text: &str) -> Option<RateLimit> {
        text.parse::<crate::config::guards::Share>().unwrap().0
    }

    #[test]
    fn modes_and_reverse_path_become_flags() {
        let mut policy = GuardPolicy::default();
        let router = Facts {
            translates: true,
            ..Facts::default()
        };
        let on = |policy: &GuardPolicy| settings(policy, &router).flags;
        assert_eq!(on(&policy), 0xff, "every guard is on and enforces");
        for (mode, flags) in [
            (GuardMode::Off, 0),
            (GuardMode::Observe, GuardSettings::IP),
            (
                GuardMode::Enforce,
                GuardSettings::IP | GuardSettings::IP_ENFORCE,
            ),
        ] {
            policy.ip.mode = mode;
            assert_eq!(on(&policy) & 3, flags, "{mode:?}");
        }
        for (reverse_path, flag) in [
            (ReversePath::Off, 0),
            (ReversePath::Loose, GuardSettings::REVERSE_PATH_LOOSE),
            (ReversePath::Strict, GuardSettings::REVERSE_PATH_STRICT),
        ] {
            policy.ip.reverse_path = reverse_path;
            assert_eq!(on(&policy) & !0xff, flag, "{reverse_path:?}");
        }
    }

    #[test]
    fn facts_of_the_host_become_flags() {
        for (redirects, accept_local, translates, flags) in [
            (true, false, true, GuardSettings::REDIRECTS),
            (false, true, true, GuardSettings::ACCEPT_LOCAL),
            (false, false, false, GuardSettings::STRAYS),
        ] {
            let facts = Facts {
                redirects,
                accept_local,
                translates,
                ..Facts::default()
            };
            let settings = settings(&GuardPolicy::default(), &facts);
            assert_eq!(settings.flags & !0xff, flags, "{facts:?}");
        }
    }

    #[test]
    fn limits_are_intervals_and_bursts_and_none_is_zero() {
        for (text, interval_ns, tolerance_ns) in [
            ("off", 0, 0),
            ("100/s", 10_000_000, 1_000_000_000),
            ("100/s burst 200", 10_000_000, 2_000_000_000),
            // What arrives within two steps of the clock.
            ("10k/s burst 1", 100_000, LEAST_BURST_NS),
        ] {
            let limit = limit_or_none(shares(text));
            assert_eq!(
                limit,
                Limit {
                    interval_ns,
                    tolerance_ns
                },
                "{text}"
            );
        }
    }

    #[test]
    fn every_class_has_its_own_limits() {
        let mut policy = GuardPolicy::default();
        policy.udp.reflection.pool = shares("7/s");
        policy.tcp.stray_syn_ack.host = None;
        let limits = limits(&policy);
        let of = |class: Class| limits[class as usize];
        assert_eq!(of(Class::Reflection).pool.interval_ns, 142_857_143);
        assert_eq!(of(Class::StraySynAck).host, Limit::default());
        assert_eq!(of(Class::Stray).host.interval_ns, 50_000_000);
        assert_eq!(of(Class::Fragment).host, Limit::default());
        assert_eq!(of(Class::Redirect).host.interval_ns, 200_000_000);
    }

    #[test]
    fn connections_are_not_limited_unless_the_operator_says_so() {
        let mut policy = GuardPolicy::default();
        let default = settings(&policy, &Facts::default());
        assert_eq!(
            (default.connections.interval_ns, default.open_connections),
            (0, 0)
        );
        policy.tcp.new_connections = shares("50/s burst 100");
        policy.tcp.open_connections = 400;
        let limited = settings(&policy, &Facts::default());
        assert_eq!(limited.connections.interval_ns, 20_000_000);
        assert_eq!(limited.open_connections, 400);
    }
}
