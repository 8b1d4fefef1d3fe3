//! What the agent's own probes add to a verdict on a listener of their own host: whether the service answers at all while a
//! flood runs. They go over `lo`, past netmoat; whether users elsewhere get through they cannot know.

use super::Finding;
use crate::{
    canaries::{Heard, Witness},
    control::queues::VerdictKind,
};

/// Probes that a verdict names, at most.
const NAMED: usize = 4;

/// The verdicts that probes are asked about.
pub(in crate::queues) const FLOODS: [VerdictKind; 3] = [
    VerdictKind::SynFlood,
    VerdictKind::ConnectionFlood,
    VerdictKind::AcceptFull,
];

/// Adds to a flood what the probes found that go to the same listener; those that fail first. Only walks count that began after
/// the flood did, at `since`; when it begins there is none.
pub(super) fn hear(witnesses: &[Witness], since: Option<u64>, finding: &mut Finding) {
    let Some(since) = since.filter(|_| FLOODS.contains(&finding.kind)) else {
        return;
    };
    let fresh = || witnesses.iter().filter(|of| of.began_s > since);
    let fails = fresh().filter_map(|of| match &of.heard {
        Heard::Fails(words) => Some((&of.name, words)),
        Heard::Answers(_) => None,
    });
    let answers = fresh().filter_map(|of| match &of.heard {
        Heard::Answers(words) => Some((&of.name, words)),
        Heard::Fails(_) => None,
    });
    let failing: Vec<_> = fails.clone().map(|(name, _)| name.as_str()).collect();
    let failing = &failing[..failing.len().min(NAMED)];
    if !failing.is_empty() {
        let verb = if failing.len() == 1 { "fails" } else { "fail" };
        finding.sentence += &format!(
            "; meanwhile canary {} {verb} even on this host itself",
            failing.join(", ")
        );
    }
    let fails = fails.map(|(name, words)| {
        format!("canary {name} {words}; that was on this host itself, over lo, past netmoat")
    });
    let answers = answers.map(|(name, words)| {
        format!("canary {name}: the service answers on this host (over lo, past netmoat), {words}")
    });
    finding.evidence.extend(fails.chain(answers).take(NAMED));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queues::Confidence;

    const SINCE: u64 = 100;

    fn heard(
        kind: VerdictKind,
        since: Option<u64>,
        witnesses: &[Witness],
    ) -> (String, Vec<String>) {
        let mut finding = Finding {
            kind,
            sentence: "SYN flood".to_owned(),
            evidence: vec!["many SYNs".to_owned()],
            confidence: Confidence::High,
            fixes: Vec::new(),
        };
        hear(witnesses, since, &mut finding);
        (finding.sentence, finding.evidence)
    }

    fn witness(name: &str, heard: Heard) -> Witness {
        Witness {
            name: name.to_owned(),
            heard,
            began_s: SINCE + 1,
        }
    }

    #[test]
    fn a_flood_names_the_canaries_that_fail_on_this_host_and_claims_no_more_of_those_that_pass() {
        let since = Some(SINCE);
        let shop = witness(
            "shop",
            Heard::Answers("its answer came in 3.0 ms".to_owned()),
        );
        let desk = witness("desk", Heard::Fails("fails at tcp: no answer".to_owned()));
        let both = [shop.clone(), desk.clone()];
        let (sentence, evidence) = heard(VerdictKind::SynFlood, since, &both);
        assert_eq!(
            sentence,
            "SYN flood; meanwhile canary desk fails even on this host itself"
        );
        assert_eq!(
            evidence[1..],
            [
                "canary desk fails at tcp: no answer; that was on this host itself, over lo, past netmoat",
                "canary shop: the service answers on this host (over lo, past netmoat), its answer came in 3.0 ms"
            ]
        );
        let (sentence, evidence) = heard(VerdictKind::ConnectionFlood, since, &[shop]);
        assert_eq!((sentence.as_str(), evidence.len()), ("SYN flood", 2));
        let (sentence, evidence) = heard(VerdictKind::CloseWaitLeak, since, &both);
        assert_eq!((sentence.as_str(), evidence.len()), ("SYN flood", 1));
        let many: Vec<_> = (0..9)
            .map(|n| witness(&n.to_string(), Heard::Fails("fails".to_owned())))
            .collect();
        let (sentence, evidence) = heard(VerdictKind::SynFlood, since, &many);
        assert_eq!(
            sentence,
            "SYN flood; meanwhile canary 0, 1, 2, 3 fail even on this host itself"
        );
        assert_eq!(evidence.len(), 1 + NAMED);
    }

    #[test]
    fn a_walk_from_before_the_flood_says_nothing_of_it() {
        let desk = [witness("desk", Heard::Fails("fails at tcp".to_owned()))];
        for (since, expected) in [
            (None, 1),
            (Some(SINCE), 2),
            (Some(SINCE + 1), 1),
            (Some(SINCE + 600), 1),
        ] {
            let (_, evidence) = heard(VerdictKind::SynFlood, since, &desk);
            assert_eq!(evidence.len(), expected, "{since:?}");
        }
    }
}
