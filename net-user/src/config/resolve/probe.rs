//! Every `[[probe]]`.

use std::{ops::Range, path::PathBuf, time::Duration};

use super::Reader;
use crate::{
    config::{
        HumanDuration,
        probe::{FAMILIES, HTTP, MAX_PROBES, ProbePolicy, default_name},
        raw::{
            Spanned, Text,
            probe::{RawProbe, RawSlow},
        },
    },
    probe::{Thresholds, parse_given, parse_url},
};

/// Most characters of a name, which labels series and heads lines.
const MAX_NAME: usize = 128;
/// Bounds of `interval` and of `timeout`, with how they are written.
const INTERVALS: Bounds = [
    (Duration::from_secs(1), "1s"),
    (Duration::from_secs(86_400), "1d"),
];
const TIMEOUTS: Bounds = [
    (Duration::from_millis(100), "100ms"),
    (Duration::from_secs(60), "1m"),
];
/// A stage that takes none of its time is always slow.
const THRESHOLDS: Bounds = [
    (Duration::from_millis(1), "1ms"),
    (Duration::from_secs(60), "1m"),
];
const MAX_REDIRECTS: u32 = 50;

type Bounds = [(Duration, &'static str); 2];

impl Reader<'_> {
    pub(super) fn probes(&mut self, raw: &[RawProbe]) -> Vec<ProbePolicy> {
        let mut probes: Vec<ProbePolicy> = Vec::new();
        let mut places: Vec<Range<usize>> = Vec::new();
        for raw in raw {
            let Some(probe) = self.probe(raw) else {
                continue;
            };
            let span = raw.name.as_ref().map_or(raw.url.span(), Spanned::span);
            if let Some(at) = probes.iter().position(|other| other.name == probe.name) {
                let line = self.line(places[at].clone());
                self.problem(
                    Some(span),
                    format!(
                        "there is a [[probe]] of the name `{}` already, on {line}",
                        probe.name
                    ),
                    "give each a `name` of its own; without one it is called by its URL, less query and fragment".to_owned(),
                );
                continue;
            }
            probes.push(probe);
            places.push(span);
        }
        if probes.len() > MAX_PROBES {
            self.problem(
                places.last().cloned(),
                format!("there are {} [[probe]]", probes.len()),
                format!("keep the {MAX_PROBES} that tell most"),
            );
        }
        probes
    }

    fn probe(&mut self, raw: &RawProbe) -> Option<ProbePolicy> {
        let url = match parse_url(&raw.url.get_ref().0) {
            Ok(url) => url,
            Err((what, remedy)) => {
                self.problem(Some(raw.url.span()), what, remedy);
                return None;
            }
        };
        if !url.username().is_empty() || url.password().is_some() {
            self.problem(
                Some(raw.url.span()),
                "the URL has a user or a password, which status and metrics would show".to_owned(),
                "probe a page that needs none, such as a health check".to_owned(),
            );
        }
        let name = match &raw.name {
            Some(name) => name.get_ref().0.clone(),
            None => default_name(&url),
        };
        if name.is_empty() || name.chars().count() > MAX_NAME || name.contains(char::is_control) {
            let span = raw.name.as_ref().map_or(raw.url.span(), Spanned::span);
            self.problem(
                Some(span),
                format!("`{}` cannot be the name of a probe", name.escape_debug()),
                format!("give it a `name` of 1 to {MAX_NAME} characters, as in \"shop\""),
            );
        }
        let default = ProbePolicy::new(name, url);
        Some(ProbePolicy {
            interval: self
                .bounded(raw.interval.as_ref(), "interval", INTERVALS)
                .unwrap_or(default.interval),
            timeout: self
                .bounded(raw.timeout.as_ref(), "timeout", TIMEOUTS)
                .unwrap_or(default.timeout),
            slow: self.thresholds(&raw.slow, default.slow),
            expect: self.expect(raw.expect.as_ref()),
            ca: self.roots(raw.ca.as_ref()),
            http: self
                .word(raw.http.as_ref(), "version of HTTP", &HTTP)
                .unwrap_or(default.http),
            family: self.word(raw.family.as_ref(), "family", &FAMILIES),
            resolve: self.given(&raw.resolve),
            redirects: self
                .redirects(raw.redirects.as_ref())
                .unwrap_or(default.redirects),
            ..default
        })
    }

    fn given(&mut self, raw: &[Spanned<Text>]) -> Vec<crate::probe::Given> {
        let mut all = Vec::new();
        for raw in raw {
            match parse_given(&raw.get_ref().0) {
                Ok(given) => all.push(given),
                Err((what, remedy)) => self.problem(Some(raw.span()), what, remedy),
            }
        }
        all
    }

    fn bounded(
        &mut self,
        raw: Option<&Spanned<Text>>,
        what: &str,
        [(least, least_text), (most, most_text)]: Bounds,
    ) -> Option<Duration> {
        let duration = self.unit::<HumanDuration>(raw)?.get();
        let fault = if duration < least {
            format!("the {what} is shorter than {least_text}")
        } else if duration > most {
            format!("the {what} is longer than {most_text}")
        } else {
            return Some(duration);
        };
        self.problem(
            raw.map(Spanned::span),
            fault,
            format!("write a time from \"{least_text}\" to \"{most_text}\""),
        );
        None
    }

    fn thresholds(&mut self, raw: &RawSlow, default: Thresholds) -> Thresholds {
        let mut read = |raw: &Option<Spanned<Text>>, default| {
            self.bounded(raw.as_ref(), "threshold", THRESHOLDS)
                .unwrap_or(default)
        };
        Thresholds {
            name: read(&raw.name, default.name),
            tcp: read(&raw.tcp, default.tcp),
            tls: read(&raw.tls, default.tls),
            first_byte: read(&raw.first_byte, default.first_byte),
            total: read(&raw.total, default.total),
        }
    }

    fn expect(&mut self, raw: Option<&Spanned<i64>>) -> Option<u16> {
        let raw = raw?;
        let status = u16::try_from(*raw.get_ref()).ok();
        let status = status.filter(|status| (100..600).contains(status));
        if status.is_none() {
            self.problem(
                Some(raw.span()),
                format!("{} is no status of HTTP", raw.get_ref()),
                "write a number from 100 to 599, as in 200".to_owned(),
            );
        }
        status
    }

    fn redirects(&mut self, raw: Option<&Spanned<i64>>) -> Option<u32> {
        let raw = raw?;
        let count = u32::try_from(*raw.get_ref()).ok();
        let count = count.filter(|count| *count <= MAX_REDIRECTS);
        if count.is_none() {
            self.problem(
                Some(raw.span()),
                format!("{} redirects cannot be followed", raw.get_ref()),
                format!("write a number from 0 to {MAX_REDIRECTS}"),
            );
        }
        count
    }

    /// The file is read by each walk, as certificates are renewed; that one is missing must keep no agent from starting.
    fn roots(&mut self, raw: Option<&Spanned<Text>>) -> Option<PathBuf> {
        let raw = raw?;
        let path = PathBuf::from(&raw.get_ref().0);
        if !path.is_absolute() {
            let fault = format!("`{}` is no absolute path", raw.get_ref().0.escape_debug());
            self.complain(raw.span(), (fault, "begin it with `/`"));
            return None;
        }
        Some(path)
    }
}
