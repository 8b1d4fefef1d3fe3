//! Answers as the report tells them.

use std::net::SocketAddr;

use hickory_resolver::proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};
use serde::{Deserialize, Serialize};

use super::query::{Asked, Silence, Try, micros};

/// How much text of a server is shown, in characters.
const SHOWN: usize = 200;

/// How many records of one answer are shown.
const RECORDS: usize = 64;

/// One question to one server and how it ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueryFacts {
    /// The name that was asked for.
    pub name: String,
    /// The kind of record.
    pub kind: String,
    /// Who was asked.
    pub server: SocketAddr,
    /// From the first message to the answer, in microseconds.
    pub duration_us: u64,
    /// Each message that was sent.
    pub tries: Vec<Try>,
    /// The response code (`NOERROR`, `NXDOMAIN`, …); null without an answer.
    pub code: Option<String>,
    /// Why there is no answer; null with one.
    pub silence: Option<Silence>,
    /// The answer over UDP was cut (TC), so TCP was tried.
    pub truncated: bool,
    /// The server does not know EDNS.
    pub without_edns: bool,
    /// AA: the server owns the zone.
    pub authoritative: bool,
    /// RA: the server looks names up for others.
    pub recursion_available: bool,
    /// AD: the server validated all of the answer.
    pub authenticated: bool,
    /// Octets of the answer.
    pub octets: usize,
    /// What the server added in words or codes (RFC 8914).
    pub extended: Vec<Extended>,
    /// The records of the answer.
    pub answers: Vec<RecordFacts>,
}

/// An extended DNS error (RFC 8914).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extended {
    /// Its number in the IANA's register.
    pub code: u16,
    /// Its name there.
    pub name: String,
    /// The server's own words, escaped; often none.
    pub text: String,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordFacts {
    /// Whose.
    pub name: String,
    /// Its kind.
    pub kind: String,
    /// How long it may be kept, in seconds.
    pub ttl_s: u32,
    /// Its data as zone files have it, escaped.
    pub data: String,
}

impl From<&Asked> for QueryFacts {
    fn from(asked: &Asked) -> Self {
        let answer = asked.answer.as_ref().ok();
        let flag = |of: fn(&Message) -> bool| answer.is_some_and(of);
        Self {
            name: shown(&asked.question.name),
            kind: asked.question.kind.to_string(),
            server: asked.server,
            duration_us: micros(asked.took),
            tries: asked.tries.clone(),
            code: asked.code().map(word),
            silence: asked.answer.as_ref().err().cloned(),
            truncated: asked.truncated,
            without_edns: asked.without_edns,
            authoritative: flag(|m| m.metadata.authoritative),
            recursion_available: flag(|m| m.metadata.recursion_available),
            authenticated: flag(|m| m.metadata.authentic_data),
            octets: asked.octets,
            extended: answer.map(extended).unwrap_or_default(),
            answers: answer
                .map(|m| m.answers.iter().take(RECORDS).map(Into::into).collect())
                .unwrap_or_default(),
        }
    }
}

impl From<&Record> for RecordFacts {
    fn from(record: &Record) -> Self {
        Self {
            name: shown(&record.name),
            kind: record.record_type().to_string(),
            ttl_s: record.ttl,
            data: match &record.data {
                RData::CNAME(to) => shown(&to.0),
                RData::NS(to) => shown(&to.0),
                other => short(&other.to_string()),
            },
        }
    }
}

impl QueryFacts {
    /// `1.2 ms`, with what was unusual on the way.
    pub fn how(&self) -> String {
        let mut how = format!("{} ms", self.duration_us as f64 / 1000.0);
        if self.truncated {
            how.push_str(", too long for UDP, asked again over TCP");
        } else if self.tries.len() > 1 {
            how.push_str(&format!(", {} tries", self.tries.len()));
        }
        if self.without_edns {
            how.push_str(", without EDNS");
        }
        how
    }

    /// How it ended: the code with what the server added, or why there is no answer.
    pub fn end(&self) -> String {
        match (&self.code, &self.silence) {
            (Some(code), _) => match told(&self.extended) {
                added if added.is_empty() => code.clone(),
                added => format!("{code} ({added})"),
            },
            (None, Some(silence)) => silence.told(),
            (None, None) => "not asked".into(),
        }
    }
}

/// Extended errors in one line; empty without any.
pub fn told(extended: &[Extended]) -> String {
    let each = extended.iter().map(|e| match e.text.as_str() {
        "" => e.name.clone(),
        text => format!("{}: {text}", e.name),
    });
    each.collect::<Vec<_>>().join("; ")
}

/// A name without its last dot, escaped; the root as a dot.
pub fn shown(name: &Name) -> String {
    if name.is_root() {
        return ".".into();
    }
    short(name.to_ascii().trim_end_matches('.'))
}

/// Text of others: escaped and not longer than can be read.
pub fn short(text: &str) -> String {
    let mut escaped: String = text.escape_debug().take(SHOWN).collect();
    if text.escape_debug().nth(SHOWN).is_some() {
        escaped.push('…');
    }
    escaped
}

/// A response code as operators know it (IANA's register of DNS RCODEs).
pub fn word(code: ResponseCode) -> String {
    let word = match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        ResponseCode::NotAuth => "NOTAUTH",
        ResponseCode::BADVERS => "BADVERS",
        other => return format!("RCODE{}", u16::from(other)),
    };
    word.into()
}

/// The extended errors of an answer.
pub fn extended(message: &Message) -> Vec<Extended> {
    // RFC 8914, section 2: option 15; two octets of code, then UTF-8 that is not always there.
    const EXTENDED_ERROR: u16 = 15;
    let options = message
        .edns
        .iter()
        .flat_map(|edns| edns.options().get_all(EdnsCode::Unknown(EXTENDED_ERROR)));
    let read = options.filter_map(|option| {
        let EdnsOption::Unknown(_, data) = option else {
            return None;
        };
        let (code, text) = data.split_first_chunk()?;
        let code = u16::from_be_bytes(*code);
        Some(Extended {
            code,
            name: extended_name(code),
            text: short(String::from_utf8_lossy(text).trim_end_matches('\0')),
        })
    });
    read.take(8).collect()
}

/// RFC 8914, section 5.2, and the IANA's register after it.
fn extended_name(code: u16) -> String {
    const NAMES: [&str; 31] = [
        "other error",
        "unsupported DNSKEY algorithm",
        "unsupported DS digest type",
        "stale answer",
        "forged answer",
        "DNSSEC indeterminate",
        "DNSSEC bogus",
        "signature expired",
        "signature not yet valid",
        "DNSKEY missing",
        "RRSIGs missing",
        "no zone key bit set",
        "NSEC missing",
        "cached error",
        "not ready",
        "blocked",
        "censored",
        "filtered",
        "prohibited",
        "stale NXDOMAIN answer",
        "not authoritative",
        "not supported",
        "no reachable authority",
        "network error",
        "invalid data",
        "signature expired before valid",
        "too early",
        "unsupported NSEC3 iterations value",
        "unable to conform to policy",
        "synthesized",
        "invalid query type",
    ];
    let name = NAMES.get(usize::from(code));
    name.map_or_else(|| format!("extended error {code}"), |name| (*name).into())
}
