//! What a walk found: stages with their outcome, times and findings. `netmoat probe -o json` prints it as it stands here.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    agent::AgentView, close::CloseFacts, http::HttpFacts, name::NameFacts, route::RouteFacts,
    tcp::TcpFacts, tls::TlsFacts,
};

/// The version of the JSON form.
pub const VERSION: u32 = 1;

/// One walk from a URL to its page, with every redirect on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`VERSION`].
    pub version: u32,
    /// What was asked for.
    pub url: Url,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// From the first question to the last segment, in microseconds, with all that only the probe does.
    pub duration_us: u64,
    /// What a user waits from URL to the last octet of the page, in microseconds: all stages but
    /// the look at the routes and the close.
    pub waited_us: u64,
    /// The worst of all stages.
    pub outcome: Outcome,
    /// The layer that decided the outcome: the first that failed, or else was wrong, or else slow. Null when all is well.
    pub layer: Option<Layer>,
    /// The code of the finding that decided it.
    pub code: Option<String>,
    /// One sentence for the operator.
    pub verdict: String,
    /// What to look at next, if anything.
    pub next: Option<String>,
    /// The URL itself, then where each redirect led.
    pub fetches: Vec<Fetch>,
}

/// One URL of the chain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Fetch {
    /// The URL.
    pub url: Url,
    /// In the order of the way; the last one is where it ended.
    pub stages: Vec<Stage>,
    /// What the agent saw of this very connection; null without an agent.
    pub agent: Option<AgentView>,
}

/// One layer of one fetch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    /// Which.
    pub layer: Layer,
    /// How it ended: the worst of its findings.
    pub outcome: Outcome,
    /// When it began, in microseconds since the walk began.
    pub start_us: u64,
    /// How long the user waits for it, in microseconds. What only the probe does (a second request, a trace) is not in it.
    pub duration_us: u64,
    /// One line: what happened.
    pub summary: String,
    /// What is to be said of it, the worst first.
    pub findings: Vec<Finding>,
    /// The details.
    pub facts: Facts,
}

/// A remark with consequences.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Its name, in snake_case; stable.
    pub code: String,
    /// How bad it is. `ok`: worth knowing.
    pub outcome: Outcome,
    /// What was found, on what evidence: one sentence without a full stop.
    pub what: String,
    /// What an operator looks at or does next.
    pub next: Option<String>,
}

/// How something ended, from good to bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should.
    Ok,
    /// As it should, but later than the threshold.
    Slow,
    /// The user gets something, but not all is as it should be: one of several servers is lame, a page is missing.
    Wrong,
    /// The user gets nothing of what was asked for.
    Failed,
}

impl Outcome {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Slow => "slow",
            Self::Wrong => "wrong",
            Self::Failed => "failed",
        }
    }
}

/// The layers of the way, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    /// Name resolution.
    Name,
    /// Route and neighbour.
    Route,
    /// The TCP connection.
    Tcp,
    /// TLS.
    Tls,
    /// HTTP.
    Http,
    /// The connection's end.
    Close,
}

impl Layer {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Name => "name",
            Self::Route => "route",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Http => "http",
            Self::Close => "close",
        }
    }
}

/// The details of a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is of the layer of its name")]
pub enum Facts {
    Name(Box<NameFacts>),
    Route(RouteFacts),
    Tcp(TcpFacts),
    Tls(Box<TlsFacts>),
    Http(Box<HttpFacts>),
    Close(CloseFacts),
}

/// Details as people read them: a label and a text each.
pub type Lines = Vec<(String, String)>;

impl Facts {
    /// For the terminal and the picture.
    pub fn lines(&self) -> Lines {
        match self {
            Self::Name(facts) => facts.lines(),
            Self::Route(facts) => facts.lines(),
            Self::Tcp(facts) => facts.lines(),
            Self::Tls(facts) => facts.lines(),
            Self::Http(facts) => facts.lines(),
            Self::Close(facts) => facts.lines(),
        }
    }
}

impl Finding {
    /// A finding without advice.
    pub fn new(code: &str, outcome: Outcome, what: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            outcome,
            what: what.into(),
            next: None,
        }
    }

    /// With what to do or look at next.
    pub fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

impl Stage {
    /// What of it a user waits for, in microseconds: nobody waits for our look at the routes, nor for the close.
    pub const fn waited_us(&self) -> u64 {
        match self.layer {
            Layer::Route | Layer::Close => 0,
            _ => self.duration_us,
        }
    }

    /// Replaces the findings, when more is known.
    pub(super) fn judge(&mut self, mut findings: Vec<Finding>) {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.outcome));
        self.outcome = findings.first().map_or(Outcome::Ok, |f| f.outcome);
        self.findings = findings;
    }

    /// Adds what was found later.
    pub(super) fn add(&mut self, finding: Finding) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.push(finding);
        self.judge(findings);
    }

    /// Adds what was found later and says more than what is there of the same outcome.
    pub(super) fn add_first(&mut self, finding: Finding) {
        let mut findings = std::mem::take(&mut self.findings);
        findings.insert(0, finding);
        self.judge(findings);
    }

    /// A stage from `start_us` for `duration_us`; its outcome is the worst of its findings.
    pub fn new(
        layer: Layer,
        (start_us, duration_us): (u64, u64),
        summary: impl Into<String>,
        mut findings: Vec<Finding>,
        facts: Facts,
    ) -> Self {
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.outcome));
        Self {
            layer,
            outcome: findings.first().map_or(Outcome::Ok, |f| f.outcome),
            start_us,
            duration_us,
            summary: summary.into(),
            findings,
            facts,
        }
    }
}

/// The sum of what users wait for.
fn waited(fetches: &[Fetch]) -> u64 {
    let stages = fetches.iter().flat_map(|fetch| &fetch.stages);
    stages.map(Stage::waited_us).sum()
}

impl Report {
    /// The whole from its fetches.
    pub(super) fn new(
        url: Url,
        started_ms: u64,
        duration_us: u64,
        slow: Duration,
        mut fetches: Vec<Fetch>,
    ) -> Self {
        let waited_us = waited(&fetches);
        // Only where no stage is slow by itself; what failed was not waited for.
        let is_sound = |fetch: &Fetch| fetch.stages.iter().all(|s| s.outcome == Outcome::Ok);
        if u128::from(waited_us) > slow.as_micros() && fetches.iter().all(is_sound) {
            let last = fetches.iter_mut().flat_map(|fetch| &mut fetch.stages);
            if let Some(stage) = last.filter(|stage| stage.layer == Layer::Http).last() {
                stage.outcome = Outcome::Slow;
                let what = format!(
                    "the page took {} ms in all, more than {} ms, though no stage is slow by itself",
                    waited_us / 1000,
                    slow.as_millis()
                );
                stage.findings.insert(
                    0,
                    Finding::new("slow_in_all", Outcome::Slow, what)
                        .next("look at the longest bars; each redirect costs a whole way"),
                );
            }
        }
        let stages = || fetches.iter().flat_map(|fetch| &fetch.stages);
        let outcome = stages().map(|s| s.outcome).max().unwrap_or(Outcome::Failed);
        let deciding = stages()
            .find(|stage| stage.outcome == outcome)
            .filter(|_| outcome != Outcome::Ok);
        let finding = deciding.and_then(|stage| stage.findings.first());
        let verdict = match finding {
            Some(finding) => finding.what.clone(),
            None => stages()
                .rfind(|stage| stage.layer == Layer::Http)
                .map_or_else(|| "nothing was asked for".to_owned(), |s| s.summary.clone()),
        };
        Self {
            version: VERSION,
            url,
            started_ms,
            duration_us,
            waited_us,
            outcome,
            layer: deciding.map(|stage| stage.layer),
            code: finding.map(|finding| finding.code.clone()),
            verdict,
            next: finding.and_then(|finding| finding.next.clone()),
            fetches,
        }
    }

    /// The stages of the last URL that was asked for, by layer.
    pub fn last(&self, layer: Layer) -> Option<&Stage> {
        let fetch = self.fetches.last()?;
        fetch.stages.iter().find(|stage| stage.layer == layer)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    /// What findings begin with.
    const SUBJECTS: [&str; 12] = [
        "name",
        "dns",
        "route",
        "link",
        "neighbor",
        "path",
        "tcp",
        "tls",
        "certificate",
        "staple",
        "http",
        "http2",
    ];
    /// Reasons of drops that tests name.
    const NO_CODES: [&str; 2] = ["tcp_flags", "tcp_pass"];

    #[test]
    fn every_code_is_explained_in_the_documentation() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR"));
        let explained = fs::read_to_string(package.join("../docs/probe.md")).unwrap();
        let mut codes = BTreeSet::new();
        let mut directories = vec![package.join("src/probe")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                    continue;
                }
                let source = fs::read_to_string(path).unwrap();
                codes.extend(
                    source
                        .split('"')
                        .filter(|text| is_code(text))
                        .map(str::to_owned),
                );
            }
        }
        assert!(codes.len() > 150, "{codes:?}");
        codes.retain(|code| !explained.contains(&format!("`{code}`")));
        assert_eq!(codes, NO_CODES.map(str::to_owned).into());
    }

    fn is_code(text: &str) -> bool {
        let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        text.chars().all(word)
            && text
                .split_once('_')
                .is_some_and(|(subject, rest)| SUBJECTS.contains(&subject) && !rest.is_empty())
    }
}
