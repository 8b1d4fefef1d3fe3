use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{
    candidates::{CANDIDATES, Candidates},
    watch::HOLDS,
    *,
};
use crate::neighbor::ports::key;

const A: Mac = Mac::new([2, 0, 0, 0, 0, 0xa]);
const B: Mac = Mac::new([2, 0, 0, 0, 0, 0xb]);
const C: Mac = Mac::new([2, 0, 0, 0, 0, 0xc]);
const GROUP: Mac = Mac::new([3, 0, 0, 0, 0, 1]);

fn gateway(n: u32) -> NeighborKey {
    key(Ipv4Addr::from_bits(0xc000_0200 + n).into(), 2, 0)
}

fn mac(n: u64) -> Mac {
    Mac::new([2, 1, 0, (n >> 16) as u8, (n >> 8) as u8, n as u8])
}

/// A binding, hosts that answer for it, and a clock of 10 ms steps.
struct Lab {
    verifier: Verifier,
    macs: Vec<Mac>,
    past: Vec<Mac>,
    fixed: bool,
    up: bool,
    /// Asks fail.
    mute: bool,
    /// Who answers for the address when asked.
    alive: Vec<Mac>,
    now: Duration,
    asks: Vec<(Duration, Option<Mac>)>,
    decided: Vec<(Duration, Decision)>,
}

impl Lab {
    fn new(macs: &[Mac], alive: &[Mac]) -> Self {
        Self {
            verifier: Verifier::default(),
            macs: macs.to_vec(),
            past: Vec::new(),
            fixed: false,
            up: true,
            mute: false,
            alive: alive.to_vec(),
            now: Duration::from_secs(1000),
            asks: Vec::new(),
            decided: Vec::new(),
        }
    }

    /// Calls the verifier and plays the network: who is asked and alive answers.
    fn call(&mut self, what: impl FnOnce(&mut Verifier, Known<'_>, Duration, &mut Vec<Output>)) {
        let mut out = Vec::new();
        let (macs, past) = (self.macs.clone(), self.past.clone());
        let known = Known {
            macs: &macs,
            past: &past,
            fixed: self.fixed,
            up: self.up,
        };
        what(&mut self.verifier, known, self.now, &mut out);
        let mut answers = Vec::new();
        for output in out {
            match output {
                Output::Ask { to, .. } if self.mute => {
                    self.verifier.ask_failed(&gateway(1));
                    self.asks.push((self.now, to));
                }
                Output::Ask { to, .. } => {
                    self.asks.push((self.now, to));
                    let reached = self
                        .alive
                        .iter()
                        .filter(|mac| to.is_none_or(|to| to == **mac));
                    answers.extend(reached.copied());
                }
                Output::Decided { decision, .. } => {
                    match &decision {
                        Decision::Moved { to } => self
                            .past
                            .extend(std::mem::replace(&mut self.macs, vec![*to])),
                        Decision::Learned { mac } => self.macs = vec![*mac],
                        _ => {}
                    }
                    self.decided.push((self.now, decision));
                }
            }
        }
        for mac in answers {
            self.answer(mac);
        }
    }

    /// As the kernel tells it.
    fn answer(&mut self, mac: Mac) {
        let holder = self.macs.is_empty() || self.macs.contains(&mac);
        self.call(|v, known, now, out| {
            if holder {
                v.answer(gateway(1), known, mac, now, out);
            } else {
                v.claim(gateway(1), known, mac, Answers::Us, now, out);
            }
        });
    }

    fn claim(&mut self, mac: Mac) {
        self.call(|v, known, now, out| v.claim(gateway(1), known, mac, Answers::Nobody, now, out));
    }

    fn learn(&mut self) {
        self.call(|v, known, now, out| v.learn(gateway(1), known, now, out));
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += Duration::from_millis(10);
            self.call(|v, known, now, out| v.tick(|_| Some(known), now, out));
        }
    }

    fn take(&mut self) -> Vec<Decision> {
        self.decided
            .drain(..)
            .map(|(_, decision)| decision)
            .collect()
    }
}

const SHORT: Duration = Duration::from_millis(1300);

fn spoof(claimed: Mac, holder: Mac) -> Decision {
    Decision::Spoof { claimed, holder }
}

#[test]
fn a_claim_ends_as_who_answers_says() {
    use Decision::*;
    let contested = |macs: &[Mac]| Contested {
        macs: macs.to_vec(),
    };
    struct Case {
        description: &'static str,
        macs: &'static [Mac],
        past: &'static [Mac],
        fixed: bool,
        alive: &'static [Mac],
        claims: &'static [Mac],
        expected: Vec<Decision>,
    }
    let case = |description, macs, past, fixed, alive, claims, expected| Case {
        description,
        macs,
        past,
        fixed,
        alive,
        claims,
        expected,
    };
    for case in [
        case(
            "holder answers",
            &[A],
            &[],
            false,
            &[A],
            &[B],
            vec![spoof(B, A)],
        ),
        case(
            "both answer",
            &[A],
            &[],
            false,
            &[A, B],
            &[B],
            vec![spoof(B, A)],
        ),
        case(
            "second of a set answers",
            &[A, C],
            &[],
            false,
            &[C],
            &[B],
            vec![spoof(B, C)],
        ),
        case(
            "failover",
            &[A],
            &[],
            false,
            &[B],
            &[B],
            vec![Moved { to: B }],
        ),
        case(
            "claimant answers nothing",
            &[A],
            &[],
            false,
            &[],
            &[B],
            vec![Moved { to: B }],
        ),
        case(
            "another than the claimant answers",
            &[A],
            &[],
            false,
            &[C],
            &[B],
            vec![Moved { to: C }],
        ),
        case(
            "two answer",
            &[A],
            &[],
            false,
            &[B, C],
            &[B],
            vec![contested(&[B, C])],
        ),
        case(
            "two answer, one had it before",
            &[A],
            &[C],
            false,
            &[B, C],
            &[B],
            vec![Moved { to: C }],
        ),
        case(
            "two claim, none answers",
            &[A],
            &[],
            false,
            &[],
            &[B, C],
            vec![contested(&[B, C])],
        ),
        case(
            "a claim that cannot be read",
            &[A],
            &[],
            false,
            &[],
            &[Mac::NONE],
            vec![contested(&[])],
        ),
        case(
            "the same, holder alive",
            &[A],
            &[],
            false,
            &[A],
            &[Mac::NONE],
            vec![spoof(Mac::NONE, A)],
        ),
        case(
            "a group",
            &[A],
            &[],
            false,
            &[GROUP],
            &[GROUP],
            vec![contested(&[])],
        ),
        case(
            "named by the operator",
            &[A],
            &[],
            true,
            &[B],
            &[B],
            vec![contested(&[B])],
        ),
        case(
            "named, claimant mute",
            &[A],
            &[],
            true,
            &[],
            &[B],
            vec![contested(&[B])],
        ),
        case(
            "named, holder alive",
            &[A],
            &[],
            true,
            &[A],
            &[B],
            vec![spoof(B, A)],
        ),
        case("no contradiction", &[A], &[], false, &[], &[A], vec![]),
    ] {
        let mut lab = Lab::new(case.macs, case.alive);
        lab.past = case.past.to_vec();
        lab.fixed = case.fixed;
        let began = lab.now;
        for claim in case.claims {
            lab.claim(*claim);
        }
        lab.run(SHORT);
        let late = lab
            .decided
            .iter()
            .any(|(at, _)| *at > began + Duration::from_secs(2));
        assert!(!late, "{}: a decision takes under 2 s", case.description);
        // Of several claims the first starts the round, and the holder answers it at once.
        assert_eq!(lab.take(), case.expected, "{}", case.description);
    }
}

#[test]
fn a_round_asks_the_holder_three_times_and_everybody_once() {
    let mut lab = Lab::new(&[A, C], &[]);
    let began = lab.now;
    lab.claim(B);
    lab.run(SHORT);
    let asked: Vec<_> = lab
        .asks
        .iter()
        .map(|(at, to)| ((*at - began).as_millis(), *to))
        .collect();
    assert_eq!(
        asked,
        [
            (0, Some(A)),
            (0, Some(C)),
            (250, Some(A)),
            (250, Some(C)),
            (600, Some(A)),
            (600, Some(C)),
            (600, None),
            // Nobody answered.
            (900, None)
        ]
    );
    assert_eq!((lab.decided[0].0 - began).as_millis(), 1200);
}

#[test]
fn an_agent_that_was_stopped_has_not_waited_for_an_answer() {
    let mut lab = Lab::new(&[A], &[]);
    lab.claim(B);
    lab.now += Duration::from_secs(60);
    lab.alive = vec![A];
    lab.run(SHORT);
    assert_eq!(
        lab.take(),
        [spoof(B, A)],
        "its first tick asks again, and does not conclude"
    );
}

#[test]
fn lost_events_and_unsent_asks_prove_nothing() {
    let mut lab = Lab::new(&[A], &[]);
    lab.claim(B);
    lab.run(Duration::from_millis(800));
    lab.verifier.events_lost();
    lab.run(Duration::from_millis(800));
    assert_eq!(lab.take(), [], "the answer may be among them");
    lab.run(SHORT);
    assert_eq!(
        lab.take(),
        [Decision::Moved { to: B }],
        "the round was repeated"
    );

    let mut lab = Lab::new(&[A], &[A]);
    lab.mute = true;
    for _ in 0..200 {
        // As if it answered the kernel's requests.
        lab.call(|v, known, now, out| v.claim(gateway(1), known, B, Answers::Us, now, out));
        lab.run(Duration::from_millis(100));
    }
    assert_eq!(lab.take(), []);
    assert!(lab.asks.len() < 100, "{}", lab.asks.len());
    lab.mute = false;
    lab.run(Duration::from_secs(3));
    assert_eq!(lab.take(), [spoof(B, A)]);
}

#[test]
fn a_dead_link_proves_nothing() {
    let mut lab = Lab::new(&[A], &[]);
    lab.claim(B);
    lab.run(Duration::from_millis(700));
    lab.up = false;
    lab.verifier.link_lost(2);
    lab.run(Duration::from_secs(5));
    assert_eq!((lab.take(), lab.verifier.running), (vec![], 0));
    lab.up = true;
    lab.alive = vec![A];
    lab.run(SHORT);
    assert_eq!(lab.take(), [spoof(B, A)]);
}

#[test]
fn a_false_claim_is_not_looked_at_for_2_to_30_seconds() {
    let mut lab = Lab::new(&[A], &[A]);
    let mut seen = Vec::new();
    for _ in 0..12_000 {
        lab.claim(B);
        lab.run(Duration::from_millis(10));
        seen.extend(lab.decided.drain(..).map(|(at, _)| at));
    }
    let gaps: Vec<_> = seen.windows(2).map(|w| (w[1] - w[0]).as_secs()).collect();
    assert_eq!(
        gaps,
        [2, 4, 8, 16, 30, 30, 30],
        "claims during a hold are looked at when it ends"
    );
    // Another claim is looked at at once.
    lab.claim(C);
    assert_eq!(lab.take(), [spoof(C, A)]);
}

#[test]
fn who_keeps_claiming_does_not_stop_a_failover() {
    for random in [false, true] {
        let mut lab = Lab::new(&[A], &[A]);
        let mut n = 0;
        let mut flood = |lab: &mut Lab, time: Duration| {
            let end = lab.now + time;
            while lab.now < end {
                n += 1;
                lab.claim(if random { mac(n) } else { B });
                lab.run(Duration::from_millis(10));
            }
        };
        flood(&mut lab, Duration::from_secs(100));
        assert!(
            lab.take()
                .iter()
                .all(|d| matches!(d, Decision::Spoof { .. }))
        );
        // The holder dies, another takes over: it answers when all are asked.
        lab.alive = vec![C];
        let died = lab.now;
        lab.claim(C);
        flood(&mut lab, Duration::from_secs(3));
        let (at, decision) = lab.decided.first().expect("a decision").clone();
        assert_eq!(decision, Decision::Moved { to: C }, "random {random}");
        assert!(at - died < Duration::from_millis(2300), "{:?}", at - died);
    }
}

#[test]
fn an_answer_displaces_claims_and_a_former_holder_displaces_answers() {
    let mut candidates = Candidates::default();
    for n in 0..100 {
        candidates.note(mac(n), Answers::Nobody, 0, &[]);
    }
    for n in 200..300 {
        candidates.note(mac(n), Answers::Us, 0, &[]);
    }
    for n in 400..500 {
        candidates.note(mac(n), Answers::Us, 1, &[]);
    }
    candidates.note(B, Answers::Us, 1, &[B]);
    candidates.note(C, Answers::Us, 1, &[B]);
    candidates.note(A, Answers::Nobody, 1, &[A]);
    let (answered, claimed) = candidates.possible(None);
    assert_eq!((answered.len(), claimed.len()), (CANDIDATES, 0));
    assert!(answered.contains(&B) && !answered.contains(&C) && !answered.contains(&A));
    candidates.note(mac(400), Answers::Us, 2, &[B]);
    candidates.note(mac(401), Answers::Nobody, 2, &[B]);
    assert_eq!(
        candidates.possible(Some(2)).0.len(),
        CANDIDATES,
        "each was asked once"
    );
}

#[test]
fn who_forges_answers_from_ever_new_addresses_does_not_hide_who_answers_each_time() {
    let mut lab = Lab::new(&[A], &[C]);
    for n in 0..1000 {
        // As many as the kernel tells of.
        lab.call(|v, known, now, out| v.claim(gateway(1), known, mac(n), Answers::Us, now, out));
        lab.run(Duration::from_millis(50));
        if let Some((at, decision)) = lab.decided.first() {
            assert_eq!(*decision, Decision::Moved { to: C });
            assert!(*at - Duration::from_secs(1000) < Duration::from_millis(1300));
            return;
        }
    }
    panic!("nothing was decided");
}

#[test]
fn a_contest_is_asked_about_until_it_is_over() {
    let mut lab = Lab::new(&[A], &[B, C]);
    lab.claim(B);
    lab.run(Duration::from_secs(300));
    assert_eq!(
        lab.take(),
        [Decision::Contested { macs: vec![B, C] }],
        "told once"
    );
    assert_eq!(lab.verifier.standing(&gateway(1)), Standing::Contested);
    let broadcasts = lab.asks.iter().filter(|(_, to)| to.is_none()).count();
    assert!((12..=20).contains(&broadcasts), "{broadcasts}");
    lab.alive = vec![C];
    lab.run(Duration::from_secs(70));
    assert_eq!(
        lab.take(),
        [
            Decision::Moved { to: C },
            Decision::ContestOver { holder: C }
        ]
    );

    let mut lab = Lab::new(&[A], &[B]);
    lab.fixed = true;
    lab.claim(B);
    lab.run(SHORT);
    assert_eq!(lab.take(), [Decision::Contested { macs: vec![B] }]);
    // The holder is back, and the kernel asked it.
    lab.alive = vec![A];
    lab.answer(A);
    lab.run(Duration::from_secs(1));
    assert_eq!(lab.take(), [Decision::ContestOver { holder: A }]);
    lab.run(Duration::from_secs(100));
    assert_eq!(lab.verifier.watches.len(), 0, "nothing is left to remember");
}

#[test]
fn a_gateway_is_learned_when_exactly_one_host_answers() {
    use Decision::*;
    for (description, alive, expected) in [
        ("one", &[A][..], vec![Learned { mac: A }]),
        ("none", &[], vec![]),
        ("two", &[A, B], vec![Contested { macs: vec![A, B] }]),
        ("a group beside it", &[A, GROUP], vec![Learned { mac: A }]),
    ] {
        let mut lab = Lab::new(&[], alive);
        let began = lab.now;
        lab.learn();
        lab.run(Duration::from_millis(1600));
        let decided = lab.decided.first().map(|(at, _)| (*at - began).as_millis());
        assert_eq!(lab.take(), expected, "{description}");
        assert!(
            decided.is_none_or(|ms| ms == 1500),
            "{description}: {decided:?}"
        );
        let first: Vec<_> = lab
            .asks
            .iter()
            .take(3)
            .map(|(at, to)| ((*at - began).as_millis(), *to))
            .collect();
        assert_eq!(
            first,
            [(0, None), (500, None), (1000, None)],
            "{description}"
        );
    }
}

#[test]
fn a_gateway_that_is_silent_at_first_is_learned_when_it_speaks() {
    let mut lab = Lab::new(&[], &[]);
    lab.learn();
    lab.run(Duration::from_secs(300));
    assert_eq!(lab.take(), []);
    assert!((20..80).contains(&lab.asks.len()), "{}", lab.asks.len());
    // The kernel asked, and it answered.
    lab.alive = vec![A];
    lab.answer(A);
    lab.run(Duration::from_secs(2));
    assert_eq!(lab.take(), [Decision::Learned { mac: A }]);
}

#[test]
fn bindings_that_wait_are_served_in_turn() {
    const ALL: u32 = 200;
    let mut verifier = Verifier::default();
    let (macs, mut now) = ([A], Duration::from_secs(1000));
    let known = Known {
        macs: &macs,
        past: &[],
        fixed: true,
        up: true,
    };
    let mut asked = BTreeMap::<NeighborKey, u32>::new();
    let mut most = 0;
    for step in 0..1000 {
        let mut out = Vec::new();
        for n in 0..ALL {
            verifier.claim(gateway(n), known, mac(step), Answers::Nobody, now, &mut out);
        }
        verifier.tick(|_| Some(known), now, &mut out);
        most = most.max(verifier.running);
        for output in out {
            if let Output::Ask { key, to: None } = output {
                *asked.entry(key).or_default() += 1;
            }
        }
        now += Duration::from_millis(50);
    }
    assert_eq!(most, ROUNDS);
    // 50 s of 64 rounds that take 1.2 s each and ask everybody twice.
    let (least, greatest) = (asked.values().min().unwrap(), asked.values().max().unwrap());
    assert_eq!(asked.len(), ALL as usize);
    assert!(
        *least >= 26 && greatest - least <= 2,
        "{least} to {greatest}"
    );
}

#[test]
fn who_answers_again_displaces_those_who_answered_once_r_arp_6() {
    let mut candidates = Candidates::default();
    for n in 0..100 {
        candidates.note(mac(n), Answers::Us, 2, &[]);
    }
    // Its first answer was lost among those of others.
    candidates.note(B, Answers::UsAgain, 2, &[]);
    assert_eq!(candidates.possible(Some(2)).0, [B]);
}

#[derive(Clone, Debug)]
enum Step {
    Claim(u32, u64, Answers),
    Answer(u32),
    Tick(u64),
    Lost,
    Mute(bool),
    Link(bool),
    Forget(u32),
    Learn(u32),
}

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![
        Just(Answers::Nobody),
        Just(Answers::Us),
        Just(Answers::UsAgain)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..100_u32, 0..20_u64, answers()).prop_map(|(k, m, a)| Step::Claim(k, m, a)),
        2 => (0..100_u32).prop_map(Step::Answer),
        6 => (1..400_u64).prop_map(Step::Tick),
        1 => Just(Step::Lost),
        1 => any::<bool>().prop_map(Step::Mute),
        1 => any::<bool>().prop_map(Step::Link),
        1 => (0..100_u32).prop_map(Step::Forget),
        1 => (0..100_u32).prop_map(Step::Learn),
    ]
}

proptest! {
    /// Whatever happens: the bounds hold, and what is fixed does not move. Every third binding is fixed, every
    /// fifth is learned.
    #[test]
    fn bounds_hold_whatever_happens(steps in prop::collection::vec(step(), 1..600)) {
        let mut verifier = Verifier::default();
        let mut macs: BTreeMap<NeighborKey, (Vec<Mac>, bool)> = (0..100)
            .map(|n| (gateway(n), (if n % 5 == 0 { vec![] } else { vec![A] }, n % 3 == 0 && n % 5 != 0)))
            .collect();
        let (mut now, mut up, mut mute) = (Duration::from_secs(1000), true, false);
        let mut rounds = BTreeMap::<NeighborKey, Vec<Duration>>::new();
        for step in steps {
            let mut out = Vec::new();
            let known_of = |key: &NeighborKey| {
                let (macs, fixed) = macs.get(key)?;
                Some(Known { macs, past: &[], fixed: *fixed, up })
            };
            match step {
                Step::Claim(n, m, answers) => {
                    if let Some(known) = known_of(&gateway(n)) {
                        verifier.claim(gateway(n), known, mac(m), answers, now, &mut out);
                    }
                }
                Step::Answer(n) => {
                    if let Some(known) = known_of(&gateway(n)) {
                        let holder = known.macs.first().copied().unwrap_or(A);
                        verifier.answer(gateway(n), known, holder, now, &mut out);
                        if !known.macs.is_empty() {
                            let idle = verifier.watches.get(&gateway(n)).is_none_or(|w| w.round.is_none() || w.contest.is_some());
                            prop_assert!(idle, "an answer ends the round");
                        }
                    }
                }
                Step::Tick(ms) => {
                    now += Duration::from_millis(ms);
                    verifier.tick(known_of, now, &mut out);
                }
                Step::Lost => verifier.events_lost(),
                Step::Mute(on) => mute = on,
                Step::Link(on) => {
                    up = on;
                    if !up {
                        verifier.link_lost(2);
                    }
                }
                Step::Forget(n) => {
                    verifier.forget(&gateway(n));
                    rounds.remove(&gateway(n));
                }
                Step::Learn(n) => {
                    if let Some(known) = known_of(&gateway(n)).filter(|k| k.macs.is_empty()) {
                        verifier.learn(gateway(n), known, now, &mut out);
                    }
                }
            }
            for output in out {
                match output {
                    Output::Ask { key, to } => {
                        prop_assert!(up, "nothing is asked through a dead link");
                        let first = verifier.watches.get(&key).and_then(|w| w.round.as_ref()).is_some_and(|r| r.asks == 1);
                        if first && (to.is_some() || macs[&key].0.is_empty()) {
                            rounds.entry(key).or_default().push(now);
                        }
                        if mute {
                            verifier.ask_failed(&key);
                        }
                    }
                    Output::Decided { key, decision } => match decision {
                        Decision::Moved { to } => {
                            let (macs, fixed) = macs.get_mut(&key).unwrap();
                            prop_assert!(!*fixed && !macs.contains(&to) && !to.is_group());
                            *macs = vec![to];
                        }
                        Decision::Learned { mac } => macs.get_mut(&key).unwrap().0 = vec![mac],
                        Decision::Contested { macs } => prop_assert!(macs.len() <= CANDIDATES),
                        Decision::Spoof { claimed, holder } => {
                            prop_assert!(claimed != holder && macs[&key].0.contains(&holder));
                        }
                        Decision::ContestOver { .. } => {}
                    },
                }
            }
            let running = verifier.watches.values().filter(|w| w.round.is_some()).count();
            prop_assert_eq!(running, verifier.running);
            prop_assert!(running <= ROUNDS);
            let queued = verifier.watches.values().filter(|w| w.queued).count();
            prop_assert_eq!(queued, verifier.queue.len());
            for watch in verifier.watches.values() {
                prop_assert!(watch.pending.0.len() <= CANDIDATES && watch.holds.len() <= HOLDS);
            }
        }
        for (key, began) in rounds {
            for (i, first) in began.iter().enumerate() {
                let within = began[i..].iter().filter(|at| **at < *first + Duration::from_secs(3)).count();
                prop_assert!(within <= BURST as usize + 3, "{key:?}: {within} rounds in 3 s");
            }
        }
    }

    /// A holder that answers is never taken for silent, whoever claims what and when.
    #[test]
    fn a_holder_that_answers_keeps_its_address(claims in prop::collection::vec((0..20_u64, 0..3000_u64, any::<bool>()), 1..60)) {
        let mut lab = Lab::new(&[A], &[A, B]);
        for (n, wait, lost) in claims {
            lab.claim(mac(n));
            if lost {
                lab.verifier.events_lost();
            }
            lab.run(Duration::from_millis(wait));
        }
        let spoofs = lab.take().iter().all(|d| matches!(d, Decision::Spoof { holder, .. } if *holder == A));
        prop_assert!(spoofs);
    }
}
