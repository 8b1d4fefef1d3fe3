//! What the agent's own probes add to a verdict: whether honest users get through while a flood runs.

use super::Finding;
use crate::{canaries::Witness, control::queues::VerdictKind};

/// Probes that a verdict names, at most.
const NAMED: usize = 4;

/// Adds to a flood what the probes found that go to the same listener; those that fail first.
pub(super) fn hear(witnesses: &[Witness], finding: &mut Finding) {
    if !matches!(
        finding.kind,
        VerdictKind::SynFlood | VerdictKind::ConnectionFlood | VerdictKind::AcceptFull
    ) {
        return;
    }
    let of = |passes: bool| witnesses.iter().filter(move |of| of.passes == passes);
    let failing: Vec<_> = of(false).map(|of| of.name.as_str()).take(NAMED).collect();
    if !failing.is_empty() {
        let verb = if failing.len() == 1 { "fails" } else { "fail" };
        finding.sentence += &format!("; meanwhile canary {} {verb}", failing.join(", "));
    }
    let said = of(false).chain(of(true)).take(NAMED);
    finding.evidence.extend(said.map(|witness| {
        let Witness { name, words, .. } = witness;
        match witness.passes {
            true => format!("canary {name}: honest users get through, {words}"),
            false => format!("canary {name} {words}"),
        }
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queues::Confidence;

    fn heard(kind: VerdictKind, witnesses: &[Witness]) -> (String, Vec<String>) {
        let mut finding = Finding {
            kind,
            sentence: "SYN flood".to_owned(),
            evidence: vec!["many SYNs".to_owned()],
            confidence: Confidence::High,
            fixes: Vec::new(),
        };
        hear(witnesses, &mut finding);
        (finding.sentence, finding.evidence)
    }

    fn witness(name: &str, passes: bool, words: &str) -> Witness {
        Witness {
            name: name.to_owned(),
            passes,
            words: words.to_owned(),
        }
    }

    #[test]
    fn a_flood_names_the_canaries_that_fail_and_those_that_get_through() {
        let shop = witness("shop", true, "its page came in 3.0 ms");
        let desk = witness("desk", false, "fails at tcp: no answer");
        let both = [shop.clone(), desk.clone()];
        let (sentence, evidence) = heard(VerdictKind::SynFlood, &both);
        assert_eq!(sentence, "SYN flood; meanwhile canary desk fails");
        assert_eq!(
            evidence[1..],
            [
                "canary desk fails at tcp: no answer",
                "canary shop: honest users get through, its page came in 3.0 ms"
            ]
        );
        let (sentence, evidence) = heard(VerdictKind::ConnectionFlood, &[shop]);
        assert_eq!((sentence.as_str(), evidence.len()), ("SYN flood", 2));
        let (sentence, evidence) = heard(VerdictKind::CloseWaitLeak, &both);
        assert_eq!((sentence.as_str(), evidence.len()), ("SYN flood", 1));
        let many: Vec<_> = (0..9)
            .map(|n| witness(&n.to_string(), false, "fails"))
            .collect();
        let (sentence, evidence) = heard(VerdictKind::SynFlood, &many);
        assert_eq!(sentence, "SYN flood; meanwhile canary 0, 1, 2, 3 fail");
        assert_eq!(evidence.len(), 1 + NAMED);
    }
}
