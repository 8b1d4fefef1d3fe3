//! From the file as written to plain values: defaults applied, texts read, limits checked, every problem
//! reported at once.

mod events;
mod guards;
mod lists;
mod metrics;
mod neighbors;
mod probe;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use super::error::{ConfigError, Problem, nearest};
use super::raw::{RawConfig, RawListener, RawSyn, Spanned, Text};
use super::sources::Sources;
use super::units::{HumanDuration, Rate, UnitError};
use super::{
    Config, DEFAULT_INSTANCE, DEFAULT_SOCKET, DEFAULT_STATE_DIR, GuardMode, ListenerPolicy, Mode,
    OnExit, Origin, Overrides, Pattern, SynMode, SynPolicy, XdpMode, guards::MAX_BURST,
    instance_name_fault, socket_of, state_dir_of,
};

/// A cookie is valid in its epoch and the next, and two keys are accepted: a key must outlive two epochs
/// of 2^36 ns (68.7 s) so that a change breaks no pending handshake (R-SYN-12).
const MIN_KEY_ROTATION: Duration = Duration::from_secs(180);
const MODES: [(&str, Mode); 2] = [("observe", Mode::Observe), ("enforce", Mode::Enforce)];
const XDP_MODES: [(&str, XdpMode); 3] = [
    ("auto", XdpMode::Auto),
    ("native", XdpMode::Native),
    ("generic", XdpMode::Generic),
];
const ON_EXIT: [(&str, OnExit); 2] = [("keep", OnExit::Keep), ("detach", OnExit::Detach)];
const GUARD_MODES: [(&str, GuardMode); 3] = [
    ("off", GuardMode::Off),
    ("observe", GuardMode::Observe),
    ("enforce", GuardMode::Enforce),
];
const SYN_MODES: [(&str, SynMode); 3] = [
    ("off", SynMode::Off),
    ("auto", SynMode::Auto),
    ("always", SynMode::Always),
];

/// A service manager starts the agent again, and protection goes on meanwhile; in the foreground nothing stays behind.
fn default_on_exit() -> OnExit {
    let managed = ["INVOCATION_ID", "NOTIFY_SOCKET"].map(|name| std::env::var_os(name).is_some());
    if managed.contains(&true) {
        OnExit::Keep
    } else {
        OnExit::Detach
    }
}

const DEFAULT_LISTENER: ListenerPolicy = ListenerPolicy {
    mode: SynMode::Auto,
    budget: Rate::per_second(100).unwrap(),
    burst: 128,
};
const DEFAULT_SYN_ACK_LIMIT: Rate = Rate::per_second(1000).unwrap();
const DEFAULT_SYN_ACK_BURST: u32 = 256;
const DEFAULT_KEY_ROTATION: Duration = Duration::from_secs(3600);

/// Resolves a config; `sources` are the files that it was read from.
pub(super) fn resolve(
    sources: &Sources,
    raw: RawConfig,
    overrides: &Overrides,
) -> Result<Config, ConfigError> {
    let mut reader = Reader {
        sources,
        problems: Vec::new(),
    };
    let interfaces = reader.interfaces(raw.interfaces.as_ref(), &overrides.interfaces);
    let mode = reader
        .word(raw.mode.as_ref(), "mode", &MODES)
        .unwrap_or(Mode::Enforce);
    let xdp_mode = reader
        .word(raw.xdp_mode.as_ref(), "XDP mode", &XDP_MODES)
        .unwrap_or(XdpMode::Auto);
    let instance = reader.instance(raw.instance.as_ref(), overrides.instance.as_deref());
    let on_exit = reader
        .word(raw.on_exit.as_ref(), "on_exit", &ON_EXIT)
        .unwrap_or_else(default_on_exit);
    let socket = reader.socket(raw.socket.as_ref(), overrides.socket.as_deref(), &instance);
    let state_dir = reader.state_dir(raw.state_dir.as_ref(), &instance);
    let syn = reader.syn(&raw.syn, &raw.listeners);
    let neighbors = reader.neighbors(&raw, &interfaces);
    let guards = reader.guards(&raw);
    let lists = reader.lists(&raw.lists);
    let events = reader.events(&raw.events);
    let metrics = reader.metrics(&raw.metrics, &socket);
    let probes = reader.probes(&raw.probes);
    if !reader.problems.is_empty() {
        return Err(ConfigError::Invalid {
            problems: reader.problems,
        });
    }
    Ok(Config {
        interfaces,
        mode: overrides.mode.unwrap_or(mode),
        xdp_mode: overrides.xdp_mode.unwrap_or(xdp_mode),
        instance,
        on_exit,
        socket,
        syn,
        neighbors,
        guards,
        lists,
        events,
        metrics,
        probes,
        state_dir,
        source: sources.paths().next().map(Path::to_owned),
        drop_ins: sources.paths().skip(1).map(Path::to_owned).collect(),
        origin: Origin::default(),
    })
}

/// Turns the TOML reader's error into a problem with place and remedy.
pub(super) fn explain_toml_error(sources: &Sources, error: &toml::de::Error) -> Problem {
    let message = error.message();
    // serde's wording of `Error::unknown_field`: "unknown field `x`, expected one of `a`, `b`".
    let mut quoted = message.split('`').skip(1).step_by(2);
    let (what, remedy) = if message.starts_with("unknown field") {
        let key = quoted.next().unwrap_or_default();
        let known: Vec<_> = quoted.collect();
        let remedy = match nearest(key, known.iter().copied()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("the keys known here are {}", known.join(", ")),
        };
        (format!("unknown key `{}`", key.escape_debug()), remedy)
    } else if message.starts_with("missing field") {
        let key = quoted.next().unwrap_or_default();
        (
            format!("the key `{key}` is missing"),
            format!("add `{key} = …` to this table"),
        )
    } else if message.ends_with("expected a sequence") {
        let at = error.span().and_then(|span| sources.text(span));
        match at {
            Some(table @ ("[neighbor]" | "[listener]" | "[probe]")) => (
                format!("there may be several `{table}`, and this is written as the only one"),
                format!("write `[{table}]`, also for one"),
            ),
            _ => (
                "a list is expected here".to_owned(),
                "put it in brackets, also when it is the only one: [ … ]".to_owned(),
            ),
        }
    } else if let Some((found, _)) = message.split_once(", expected struct ") {
        // The name that follows is ours, and says nothing to an operator.
        let found = found.trim_start_matches("invalid type: ");
        (
            format!("a table is expected here, and this is {found}"),
            "write its keys below its name in brackets, as in [icmp]".to_owned(),
        )
    } else {
        let remedy = if message.starts_with("invalid type") {
            "write the value in the type that is expected here"
        } else {
            "correct the TOML at this place (https://toml.io)"
        };
        (
            message.lines().collect::<Vec<_>>().join("; "),
            remedy.to_owned(),
        )
    };
    Problem {
        what,
        remedy,
        place: error.span().and_then(|span| sources.place(span)),
    }
}

/// Reads values and collects problems.
struct Reader<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
}

impl Reader<'_> {
    fn problem(&mut self, span: Option<Range<usize>>, what: String, remedy: String) {
        let place = span.and_then(|span| self.sources.place(span));
        self.problems.push(Problem {
            what,
            remedy,
            place,
        });
    }

    fn line(&self, span: Range<usize>) -> String {
        self.sources.line(span)
    }

    fn interfaces(
        &mut self,
        raw: Option<&Spanned<Vec<Spanned<String>>>>,
        given: &[String],
    ) -> Vec<Pattern> {
        let written: Vec<(&str, Option<Range<usize>>)> = if given.is_empty() {
            raw.map(|names| {
                names
                    .get_ref()
                    .iter()
                    .map(|n| (n.get_ref().as_str(), Some(n.span())))
                    .collect()
            })
            .unwrap_or_default()
        } else {
            given.iter().map(|name| (name.as_str(), None)).collect()
        };
        if written.is_empty() {
            let remedy = "give -i IFACE (as in `-i eth0`), or set `interfaces = [\"eth0\"]` in the config; \
                          `ip -brief link` lists them, and \"default-route\" means those of the default routes";
            self.problem(
                raw.map(Spanned::span),
                "no interface to protect is named".to_owned(),
                remedy.to_owned(),
            );
        }
        let mut patterns: Vec<Pattern> = Vec::new();
        for (text, span) in written {
            match text.parse() {
                Err(fault) => self.problem(
                    span,
                    format!(
                        "`{}` cannot be the name of an interface: {fault}",
                        text.escape_debug()
                    ),
                    "`ip -brief link` lists the interfaces of this host".to_owned(),
                ),
                Ok(pattern) if patterns.contains(&pattern) => self.problem(
                    span,
                    format!("interface `{pattern}` is named twice"),
                    "name it once".to_owned(),
                ),
                Ok(pattern) => patterns.push(pattern),
            }
        }
        patterns
    }

    fn instance(&mut self, raw: Option<&Spanned<Text>>, given: Option<&str>) -> String {
        let (name, span) = match (given, raw) {
            (Some(name), _) => (name, None),
            (None, Some(name)) => (name.get_ref().0.as_str(), Some(name.span())),
            (None, None) => (DEFAULT_INSTANCE, None),
        };
        if let Some(fault) = instance_name_fault(name) {
            self.problem(span, fault, "as in \"edge\"".to_owned());
        }
        name.to_owned()
    }

    fn socket(
        &mut self,
        raw: Option<&Spanned<Text>>,
        given: Option<&Path>,
        instance: &str,
    ) -> PathBuf {
        let (path, span) = match (given, raw) {
            (Some(path), _) => (path.to_owned(), None),
            (None, Some(path)) => (PathBuf::from(&path.get_ref().0), Some(path.span())),
            (None, None) => (socket_of(instance), None),
        };
        if !path.is_absolute() || path.file_name().is_none() {
            self.problem(
                span.clone(),
                format!(
                    "the control socket `{}` is no absolute path of a file",
                    path.display()
                ),
                format!("write it as in \"{DEFAULT_SOCKET}\""),
            );
        }
        // sun_path holds 108 octets with the closing zero (unix(7)).
        if path.as_os_str().len() > 107 {
            self.problem(
                span,
                format!(
                    "the path of the control socket has {} octets",
                    path.as_os_str().len()
                ),
                "shorten it to 107".to_owned(),
            );
        }
        path
    }

    fn state_dir(&mut self, raw: Option<&Spanned<Text>>, instance: &str) -> PathBuf {
        let Some(raw) = raw else {
            return state_dir_of(instance);
        };
        let path = PathBuf::from(&raw.get_ref().0);
        if !path.is_absolute() || path.file_name().is_none() {
            self.problem(
                Some(raw.span()),
                format!(
                    "the state directory `{}` is no absolute path below `/`",
                    raw.get_ref().0.escape_debug()
                ),
                format!("write it as in \"{DEFAULT_STATE_DIR}\""),
            );
        }
        path
    }

    fn syn(&mut self, raw: &RawSyn, listeners: &[RawListener]) -> SynPolicy {
        let default = self.listener(
            DEFAULT_LISTENER,
            raw.mode.as_ref(),
            raw.budget.as_ref(),
            raw.burst.as_ref(),
        );
        let mut overrides = BTreeMap::new();
        let mut places: BTreeMap<u16, Range<usize>> = BTreeMap::new();
        for listener in listeners {
            let policy = self.listener(
                default,
                listener.mode.as_ref(),
                listener.budget.as_ref(),
                listener.burst.as_ref(),
            );
            let span = listener.port.span();
            let Some(port) = self.port(&listener.port) else {
                continue;
            };
            if let Some(first) = places.get(&port) {
                let line = self.line(first.clone());
                self.problem(
                    Some(span.clone()),
                    format!(
                        "port {port} has a [[listener]] already, on {line}; this is a second one, on {}",
                        self.line(span)
                    ),
                    "keep one of the two".to_owned(),
                );
                continue;
            }
            places.insert(port, span);
            overrides.insert(port, policy);
        }
        for excluded in &raw.exclude_ports {
            let Some(port) = self.port(excluded) else {
                continue;
            };
            if let Some(listener) = places.get(&port)
                && overrides
                    .get(&port)
                    .is_some_and(|policy| policy.mode != SynMode::Off)
            {
                let line = self.line(listener.clone());
                self.problem(
                    Some(excluded.span()),
                    format!("port {port} is excluded here and has a [[listener]] on {line}"),
                    format!("take {port} out of `exclude_ports`, or remove its [[listener]]"),
                );
            }
            overrides.insert(
                port,
                ListenerPolicy {
                    mode: SynMode::Off,
                    ..default
                },
            );
        }
        SynPolicy {
            default,
            overrides,
            syn_ack_limit: self
                .unit(raw.syn_ack_limit.as_ref())
                .unwrap_or(DEFAULT_SYN_ACK_LIMIT),
            syn_ack_burst: self
                .burst(raw.syn_ack_burst.as_ref())
                .unwrap_or(DEFAULT_SYN_ACK_BURST),
            key_rotation: self
                .key_rotation(raw.key_rotation.as_ref())
                .unwrap_or(DEFAULT_KEY_ROTATION),
        }
    }

    fn listener(
        &mut self,
        default: ListenerPolicy,
        mode: Option<&Spanned<Text>>,
        budget: Option<&Spanned<Text>>,
        burst: Option<&Spanned<i64>>,
    ) -> ListenerPolicy {
        ListenerPolicy {
            mode: self.word(mode, "mode", &SYN_MODES).unwrap_or(default.mode),
            budget: self.unit(budget).unwrap_or(default.budget),
            burst: self.burst(burst).unwrap_or(default.burst),
        }
    }

    fn key_rotation(&mut self, raw: Option<&Spanned<Text>>) -> Option<Duration> {
        let rotation = self.unit::<HumanDuration>(raw)?.get();
        if rotation < MIN_KEY_ROTATION {
            self.problem(
                raw.map(Spanned::span),
                "the cookie key would change before its last cookies can come back".to_owned(),
                "write at least \"3m\"; \"1h\" is the default".to_owned(),
            );
        }
        Some(rotation)
    }

    fn word<T: Copy>(
        &mut self,
        raw: Option<&Spanned<Text>>,
        name: &str,
        known: &[(&str, T)],
    ) -> Option<T> {
        let raw = raw?;
        let text = raw.get_ref().0.as_str();
        if let Some((_, value)) = known.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let remedy = match nearest(text, known.iter().map(|(word, _)| *word)) {
            Some(near) => format!("did you mean \"{near}\"?"),
            None => {
                let words: Vec<_> = known
                    .iter()
                    .map(|(word, _)| format!("\"{word}\""))
                    .collect();
                format!("write one of {}", words.join(", "))
            }
        };
        self.problem(
            Some(raw.span()),
            format!("unknown {name} `{}`", text.escape_debug()),
            remedy,
        );
        None
    }

    fn unit<T: FromStr<Err = UnitError>>(&mut self, raw: Option<&Spanned<Text>>) -> Option<T> {
        let raw = raw?;
        raw.get_ref()
            .0
            .parse()
            .map_err(|e: UnitError| self.problem(Some(raw.span()), e.what, e.remedy))
            .ok()
    }

    fn port(&mut self, raw: &Spanned<i64>) -> Option<u16> {
        let port = u16::try_from(*raw.get_ref()).ok().filter(|port| *port != 0);
        if port.is_none() {
            self.problem(
                Some(raw.span()),
                format!("{} is no TCP port", raw.get_ref()),
                "write a number from 1 to 65535".to_owned(),
            );
        }
        port
    }

    fn burst(&mut self, raw: Option<&Spanned<i64>>) -> Option<u32> {
        self.burst_up_to(MAX_BURST, raw)
    }

    fn burst_up_to(&mut self, most: u32, raw: Option<&Spanned<i64>>) -> Option<u32> {
        let raw = raw?;
        let burst = u32::try_from(*raw.get_ref())
            .ok()
            .filter(|burst| (1..=most).contains(burst));
        if burst.is_none() {
            self.problem(
                Some(raw.span()),
                format!("a burst of {} is out of range", raw.get_ref()),
                format!("write a number from 1 to {most}"),
            );
        }
        burst
    }
}
