//! Entries as text, one a line: `address[/len] [ttl] [reason]`, `#` begins a comment.

use std::{net::IpAddr, time::Duration};

use net_common::{
    lists::Prefix,
    units::{Version, addr_words},
};

use crate::config::{HumanDuration, UnitError};

/// One entry as the operator wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What is listed.
    pub prefix: Prefix,
    /// How long; None for always.
    pub ttl: Option<Duration>,
    /// Why; may be empty.
    pub reason: String,
}

/// The first line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadLine {
    /// Its number, from 1 on.
    pub line: usize,
    /// What is wrong with it, and what to write instead.
    pub what: String,
}

/// Reads entries.
///
/// # Errors
/// The first line that is none.
pub fn parse(text: &str) -> Result<Vec<Entry>, BadLine> {
    let mut entries = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if line.is_empty() {
            continue;
        }
        let entry = entry(line).map_err(|what| BadLine {
            line: number + 1,
            what,
        })?;
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(line: &str) -> Result<Entry, String> {
    let (prefix, rest) = cut(line);
    let prefix = parse_prefix(prefix)?;
    let (word, after) = cut(rest);
    // What begins like a number is meant as a time; reasons begin with a letter.
    let (ttl, reason) = if word.starts_with(|c: char| c.is_ascii_digit()) {
        let ttl: HumanDuration = word
            .parse()
            .map_err(|e: UnitError| format!("{e} as a time to live: {}", e.remedy))?;
        (Some(ttl.get()), after)
    } else {
        (None, rest)
    };
    if ttl.is_some_and(|ttl| ttl.is_zero()) {
        return Err("a time to live of 0 lists nothing".to_owned());
    }
    Ok(Entry {
        prefix,
        ttl,
        reason: reason.to_owned(),
    })
}

/// The first word, and what follows it.
fn cut(text: &str) -> (&str, &str) {
    match text.split_once(char::is_whitespace) {
        Some((word, rest)) => (word, rest.trim_start()),
        None => (text, ""),
    }
}

/// Reads `address` or `address/len`.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn parse_prefix(text: &str) -> Result<Prefix, String> {
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let address: IpAddr = address
        .parse()
        .map_err(|_| format!("{address:?} is no IP address"))?;
    let whole = whole(address);
    let Some(len) = len else {
        return Ok(whole);
    };
    let len: u8 = len
        .parse()
        .ok()
        .filter(|&n| n <= whole.len)
        .ok_or_else(|| format!("/{len} is no prefix length: 0 to {} are", whole.len))?;
    let prefix = whole.first(len);
    if prefix != (Prefix { len, ..whole }) {
        return Err(format!(
            "{text} has bits behind its length: did you mean {}, or {address}?",
            show(prefix)
        ));
    }
    Ok(prefix)
}

/// An address as a prefix of its whole length.
pub fn whole(address: IpAddr) -> Prefix {
    let version = if address.is_ipv4() {
        Version::V4
    } else {
        Version::V6
    };
    Prefix::address(version, &addr_words(address))
}

/// A prefix as text; a single address without its length.
pub fn show(prefix: Prefix) -> String {
    let (address, longest) = match prefix.version {
        Version::V4 => (IpAddr::V4((prefix.low as u32).into()), 32),
        Version::V6 => {
            let bits = u128::from(prefix.high) << 64 | u128::from(prefix.low);
            (IpAddr::V6(bits.into()), 128)
        }
    };
    if prefix.len == longest {
        address.to_string()
    } else {
        format!("{address}/{}", prefix.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_written() {
        let hour = Some(Duration::from_secs(3600));
        for (line, shown, ttl, reason) in [
            ("192.0.2.1", "192.0.2.1", None, ""),
            ("  192.0.2.1/32\t", "192.0.2.1", None, ""),
            ("192.0.2.0/24 1h", "192.0.2.0/24", hour, ""),
            (
                "192.0.2.0/24 1h  port scan # seen",
                "192.0.2.0/24",
                hour,
                "port scan",
            ),
            ("0.0.0.0/0 all of it", "0.0.0.0/0", None, "all of it"),
            ("2001:db8::/32 spam", "2001:db8::/32", None, "spam"),
            ("2001:DB8::1", "2001:db8::1", None, ""),
            ("::/0", "::/0", None, ""),
            (
                "2001:db8::8000:0:0:0/65 90s x",
                "2001:db8:0:0:8000::/65",
                Some(Duration::from_secs(90)),
                "x",
            ),
        ] {
            let entries = parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
            let [entry] = entries.as_slice() else {
                panic!("{line}: {entries:?}")
            };
            assert_eq!(show(entry.prefix), shown, "{line}");
            assert_eq!((entry.ttl, entry.reason.as_str()), (ttl, reason), "{line}");
        }
        assert_eq!(parse("\n# nothing\n   \n\r\n").unwrap(), []);
    }

    #[test]
    fn the_first_bad_line_is_named() {
        for (text, line, part) in [
            ("192.0.2.1\n\n# x\nexample.org\n!", 4, "no IP address"),
            ("192.0.2.1/33", 1, "0 to 32"),
            ("192.0.2.1/", 1, "0 to 32"),
            ("2001:db8::/129", 1, "0 to 128"),
            ("192.0.2.1/24", 1, "192.0.2.0/24"),
            ("192.0.2.1/-1", 1, "0 to 32"),
            ("192.0.2.1 5parsecs", 1, "5parsecs"),
            ("192.0.2.1 0s", 1, "0"),
            ("192.0.2", 1, "no IP address"),
            ("/24", 1, "no IP address"),
        ] {
            let bad = parse(text).expect_err(text);
            assert_eq!(bad.line, line, "{text}: {bad}");
            assert!(bad.what.contains(part), "{text}: {bad}");
        }
    }
}
