//! What the agent probes by itself: every `[[probe]]`.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use url::Url;

use super::HumanDuration;
use crate::probe::{Family, Given, HttpVersion, Plan, Thresholds};

/// Most `[[probe]]`: each has series of its own in the metrics.
pub const MAX_PROBES: usize = 64;
/// A walk may take this many times what a stage may: then it is ended, wherever it is.
const WHOLE: u32 = 3;

/// What a probe is called that has no name: its URL without query and fragment, which may hold what is not for everybody.
pub(super) fn default_name(url: &Url) -> String {
    let mut bare = url.clone();
    bare.set_query(None);
    bare.set_fragment(None);
    bare.to_string()
}

/// The versions of HTTP as they are written.
pub(super) const HTTP: [(&str, HttpVersion); 4] = [
    ("auto", HttpVersion::Auto),
    ("1.0", HttpVersion::Http10),
    ("1.1", HttpVersion::Http11),
    ("2", HttpVersion::Http2),
];
/// The families as they are written.
pub(super) const FAMILIES: [(&str, Family); 2] = [("ipv4", Family::V4), ("ipv6", Family::V6)];

/// One `[[probe]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbePolicy {
    /// What it is called; no other is called so.
    pub name: String,
    /// Where it goes.
    pub url: Url,
    /// From the beginning of one walk to that of the next; each is put off or brought forward by up to a tenth.
    pub interval: Duration,
    /// How long each stage may take.
    pub timeout: Duration,
    /// Beyond which time a stage is slow.
    pub slow: Thresholds,
    /// The status that is right, in place of any below 400.
    pub expect: Option<u16>,
    /// Trust these roots (PEM) in place of the system's.
    pub ca: Option<PathBuf>,
    /// The version of HTTP.
    pub http: HttpVersion,
    /// Only this family.
    pub family: Option<Family>,
    /// Given addresses, in place of a look-up.
    pub resolve: Vec<Given>,
    /// How many redirects are followed.
    pub redirects: u32,
}

impl ProbePolicy {
    /// One with defaults.
    pub fn new(name: String, url: Url) -> Self {
        Self {
            name,
            url,
            interval: Duration::from_secs(60),
            timeout: Duration::from_secs(5),
            slow: Thresholds::default(),
            expect: None,
            ca: None,
            http: HttpVersion::Auto,
            family: None,
            resolve: Vec::new(),
            redirects: 10,
        }
    }

    /// The walk: the page alone, as what only a check asks is no honest user's, and comes every interval.
    pub fn plan(&self) -> Plan {
        Plan {
            timeout: self.timeout,
            slow: self.slow,
            family: self.family,
            resolve: self.resolve.clone(),
            ca: self.ca.clone(),
            http: self.http,
            redirects: self.redirects,
            expect: self.expect,
            checks: false,
            patience: Some(self.patience()),
            stay_outside: true,
            ..Plan::new(self.url.clone())
        }
    }

    /// Whether it goes the same way as another: only how often, and how slow is slow, may be others.
    pub fn walks_as(&self, other: &Self) -> bool {
        let Self { interval, slow, .. } = other;
        let like = Self {
            interval: *interval,
            slow: *slow,
            ..self.clone()
        };
        like == *other
    }

    /// How long a whole walk may take.
    pub fn patience(&self) -> Duration {
        self.timeout * WHOLE
    }

    /// As the file has it, defaults included.
    pub(super) fn table(&self) -> Value {
        let mut table = json!({
            "name": self.name, "url": self.url, "interval": humane(self.interval), "timeout": humane(self.timeout),
            "slow": {
                "name": humane(self.slow.name), "tcp": humane(self.slow.tcp), "tls": humane(self.slow.tls),
                "first_byte": humane(self.slow.first_byte), "total": humane(self.slow.total),
            },
            "http": word(&HTTP, self.http), "redirects": self.redirects,
            "resolve": self.resolve.iter().map(given).collect::<Vec<_>>(),
        });
        let optional = [
            ("expect", self.expect.map(|status| json!(status))),
            ("ca", self.ca.as_ref().map(|path| json!(path))),
            ("family", self.family.map(|of| json!(word(&FAMILIES, of)))),
        ];
        if let Some(table) = table.as_object_mut() {
            let set = optional.into_iter();
            table.extend(set.filter_map(|(key, value)| Some((key.to_owned(), value?))));
        }
        table
    }
}

impl Serialize for ProbePolicy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.table().serialize(serializer)
    }
}

/// It was read from such a text, or is a default.
fn humane(duration: Duration) -> Option<String> {
    HumanDuration::new(duration).map(|duration| duration.to_string())
}

fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> Option<&'static str> {
    let mut words = words.iter();
    words.find(|(_, of)| *of == value).map(|(word, _)| *word)
}

fn given((host, port, addresses): &Given) -> String {
    let addresses: Vec<_> = addresses
        .iter()
        .map(|address| {
            let shown = SocketAddr::new(*address, 0).to_string();
            shown.trim_end_matches(":0").to_owned()
        })
        .collect();
    format!("{host}:{port}:{}", addresses.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Overrides, show};

    fn parse(text: &str) -> Result<Config, String> {
        let text = format!("interfaces = [\"eth0\"]\n{text}");
        Config::parse("netmoat.toml".as_ref(), &text, &Overrides::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn a_probe_needs_no_more_than_its_url() {
        let config = parse("[[probe]]\nurl = \"https://www.example.org/\"").unwrap();
        let url: Url = "https://www.example.org/".parse().unwrap();
        let expected = ProbePolicy::new(url.to_string(), url);
        assert_eq!(config.probes, [expected]);
        let plan = config.probes[0].plan();
        assert!(!plan.checks && !plan.conformance && !plan.insecure);
        assert_eq!(plan.timeout, Duration::from_secs(5));
        assert_eq!(config.probes[0].patience(), Duration::from_secs(15));
        assert!(parse("").unwrap().probes.is_empty());
    }

    #[test]
    fn every_key_of_a_probe_is_read_and_shown() {
        let roots = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "[[probe]]\nname = \"shop\"\nurl = \"www.example.org:8443/health\"\ninterval = \"1s\"\ntimeout = \"250ms\"\n\
             slow = {{ tcp = \"20ms\", total = \"1s\" }}\nexpect = 204\nca = {:?}\nhttp = 1.1\nfamily = \"ipv6\"\n\
             resolve = [\"www.example.org:8443:192.0.2.7,[2001:db8::7]\"]\nredirects = 0",
            roots.path()
        );
        let config = parse(&text).unwrap();
        let [probe] = &config.probes[..] else {
            panic!("{:?}", config.probes);
        };
        assert_eq!(probe.url.as_str(), "https://www.example.org:8443/health");
        assert_eq!(
            (probe.interval.as_millis(), probe.timeout.as_millis()),
            (1000, 250)
        );
        assert_eq!(probe.slow.tcp, Duration::from_millis(20));
        assert_eq!(probe.slow.name, Thresholds::default().name);
        assert_eq!(
            (probe.http, probe.family),
            (HttpVersion::Http11, Some(Family::V6))
        );
        assert_eq!((probe.expect, probe.redirects), (Some(204), 0));
        let addresses = ["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()];
        assert_eq!(
            probe.resolve,
            [("www.example.org".to_owned(), 8443, addresses.to_vec())]
        );
        let shown = show::toml(&config).unwrap();
        let again = Config::parse("netmoat.toml".as_ref(), &shown, &Overrides::default());
        assert_eq!(again.unwrap().probes, config.probes, "{shown}");
    }

    #[test]
    fn every_version_of_http_is_read_with_quotes_and_without() {
        for (text, version) in [
            ("1.0", HttpVersion::Http10),
            ("1.1", HttpVersion::Http11),
            ("2", HttpVersion::Http2),
        ] {
            for text in [text.to_owned(), format!("\"{text}\"")] {
                let text = format!("[[probe]]\nurl = \"http://192.0.2.1/\"\nhttp = {text}");
                assert_eq!(parse(&text).unwrap().probes[0].http, version, "{text}");
            }
        }
    }

    #[test]
    fn a_query_is_no_part_of_a_name_that_nobody_gave() {
        let config =
            parse("[[probe]]\nurl = \"https://www.example.org/health?token=x#y\"").unwrap();
        let [probe] = &config.probes[..] else {
            panic!("{:?}", config.probes);
        };
        assert_eq!(probe.name, "https://www.example.org/health");
        assert_eq!(probe.url.query(), Some("token=x"));
    }

    #[test]
    fn changes_name_the_probe() {
        let before = parse("[[probe]]\nname = \"a\"\nurl = \"http://192.0.2.1/\"").unwrap();
        let after =
            parse("[[probe]]\nname = \"a\"\nurl = \"http://192.0.2.1/\"\nslow.tcp = \"1s\"");
        let changes: Vec<_> = show::changes(&before, &after.unwrap())
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(changes, ["probe[a].slow.tcp: 500ms → 1s"]);
    }

    #[test]
    fn what_is_wrong_with_a_probe_is_told_with_its_place() {
        const URL: &str = "url = \"http://192.0.2.1/\"";
        for (text, words) in [
            (
                "[[probe]]\nname = \"x\"".to_owned(),
                ["key `url` is missing", ":2:1"],
            ),
            (
                "[[probe]]\nurl = \"ftp://x/\"".to_owned(),
                ["ftp:// cannot be probed", ":3:7"],
            ),
            (
                "[[probe]]\nurl = \"http:// /\"".to_owned(),
                ["cannot be probed", ":3:7"],
            ),
            (
                "[[probe]]\nurl = \"http://me:secret@x/\"".to_owned(),
                ["user", ":3:7"],
            ),
            (
                format!("[[probe]]\n{URL}\ninterval = \"900ms\""),
                ["shorter than 1s", ":4:12"],
            ),
            (
                format!("[[probe]]\n{URL}\ninterval = 60"),
                ["no duration", ":4:12"],
            ),
            (
                format!("[[probe]]\n{URL}\ntimeout = \"0s\""),
                ["timeout", ":4:11"],
            ),
            (
                format!("[[probe]]\n{URL}\ntimeout = \"2m\""),
                ["longer than 1m", ":4:11"],
            ),
            (
                format!("[[probe]]\n{URL}\nexpect = 99"),
                ["99 is no status", ":4:10"],
            ),
            (
                format!("[[probe]]\n{URL}\nredirects = 51"),
                ["51 redirects", ":4:13"],
            ),
            (
                format!("[[probe]]\n{URL}\nhttp = \"3\""),
                ["version of HTTP `3`", ":4:8"],
            ),
            (
                format!("[[probe]]\n{URL}\nfamily = 4"),
                ["family `4`", ":4:10"],
            ),
            (
                format!("[[probe]]\n{URL}\nresolve = [\"x:80\"]"),
                ["x:80", ":4:12"],
            ),
            (
                format!("[[probe]]\n{URL}\nca = \"ca.pem\""),
                ["no absolute path", ":4:6"],
            ),
            (
                format!("[[probe]]\n{URL}\nslow = {{ tcp = \"x\" }}"),
                ["no duration", ":4:16"],
            ),
            (
                format!("[[probe]]\n{URL}\nname = \"a\\nb\""),
                ["a\\nb", ":4:8"],
            ),
            (
                format!("[[probe]]\n{URL}\n[[probe]]\n{URL}"),
                ["on line 3", ":5:7"],
            ),
            (format!("[probe]\n{URL}"), ["several `[probe]`", ":2:1"]),
            (
                format!("[[probe]]\n{URL}\nurls = []"),
                ["did you mean `url`?", ":4:1"],
            ),
        ] {
            let error = parse(&text).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{word}: {error}");
            }
        }
        let many: String = (0..=MAX_PROBES)
            .map(|n| format!("[[probe]]\nurl = \"http://192.0.2.1/{n}\"\n"))
            .collect();
        let error = parse(&many).unwrap_err();
        assert!(error.contains("65 [[probe]]"), "{error}");
    }
}
