//! Entries as text, one a line: `address[/len] [ttl] [reason]`, `#` or `;` begins a comment. A time to live is a
//! duration, or `-` for none before a reason that would look like one. The agent's own files have `@` and the end as
//! seconds since 1970 in its place, and no comments after an entry.

use std::{
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, SystemTime},
};

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
    /// The line that it was read from, from 1 on; 0 if from none.
    pub line: usize,
}

/// The first line that is no entry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}{}", shown(.text))]
pub struct BadLine {
    /// Its number, from 1 on.
    pub line: usize,
    /// What is wrong with it, and what to write instead.
    pub what: String,
    /// The line, cut to [`MAX_SHOWN`] characters.
    pub text: String,
}

fn shown(text: &str) -> String {
    if text.is_empty() {
        return String::new();
    }
    format!("\n  {}", text.escape_debug())
}

/// Characters of a line that an error shows.
const MAX_SHOWN: usize = 120;
/// Most octets of a line.
const MAX_LINE: usize = 1024;
/// Most octets of a reason.
const MAX_REASON: usize = 200;

/// Reads entries. What ended already is left out.
///
/// # Errors
/// The first line that is none.
pub fn parse(text: &str) -> Result<Vec<Entry>, BadLine> {
    let mut reader = Reader::default();
    reader.push(text.as_bytes())?;
    reader.finish()
}

/// Reads entries as they come, in pieces of any size.
#[derive(Debug, Default)]
pub struct Reader {
    entries: Vec<Entry>,
    /// Lines read.
    line: usize,
    /// The begin of the next one.
    rest: Vec<u8>,
    /// In the agent's own files, the time, since 1970.
    own: Option<Duration>,
    /// Entries that were over already.
    pub ended: usize,
    /// The first bad line that was left out; the agent's own files alone have such.
    spoilt: Option<BadLine>,
}

impl Reader {
    /// Reads what the agent has written itself, and leaves bad lines out.
    pub fn of_own_files() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Self {
            // Before 1970 nothing is over.
            own: Some(now.unwrap_or_default()),
            ..Self::default()
        }
    }

    /// Reads the next piece.
    ///
    /// # Errors
    /// The first line that is no entry.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), BadLine> {
        while let Some(end) = piece.iter().position(|&octet| octet == b'\n') {
            let (line, rest) = piece.split_at(end);
            piece = rest.get(1..).unwrap_or_default();
            if self.rest.is_empty() {
                self.take(line)?;
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.take(&whole)?;
            }
        }
        self.rest.extend_from_slice(piece);
        if self.rest.len() > MAX_LINE {
            let line = std::mem::take(&mut self.rest);
            self.take(&line)?;
        }
        Ok(())
    }

    /// Entries read so far.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there was none so far.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entries.
    ///
    /// # Errors
    /// The last line has no end and is no entry.
    pub fn finish(mut self) -> Result<Vec<Entry>, BadLine> {
        let line = std::mem::take(&mut self.rest);
        if !line.is_empty() {
            self.take(&line)?;
        }
        Ok(self.entries)
    }

    /// The entries of a stream, which may have been cut: a line without its end may be a part of another.
    ///
    /// # Errors
    /// The last line has no end. Of the agent's own files it is left out; then, or if another line was, the first of
    /// them is told beside the entries.
    pub fn finish_stream(mut self) -> Result<(Vec<Entry>, Option<BadLine>), BadLine> {
        let line = std::mem::take(&mut self.rest);
        if !line.is_empty() {
            self.line += 1;
            let what = "the last line has no newline: was the stream cut? End it with one";
            self.spoil(self.bad(&line, what.to_owned()))?;
        }
        Ok((self.entries, self.spoilt))
    }

    fn bad(&self, line: &[u8], what: String) -> BadLine {
        let text = String::from_utf8_lossy(line);
        BadLine {
            line: self.line,
            what,
            text: text.trim().chars().take(MAX_SHOWN).collect(),
        }
    }

    /// A bad line ends the reading, but that of the agent's own files.
    fn spoil(&mut self, bad: BadLine) -> Result<(), BadLine> {
        if self.own.is_none() {
            return Err(bad);
        }
        self.spoilt.get_or_insert(bad);
        Ok(())
    }

    fn take(&mut self, line: &[u8]) -> Result<(), BadLine> {
        self.line += 1;
        if line.len() > MAX_LINE {
            return self.spoil(self.bad(line, format!("longer than {MAX_LINE} octets")));
        }
        let text = String::from_utf8_lossy(line);
        let text = match self.line {
            // What some editors write first.
            1 => text.trim_start_matches('\u{feff}'),
            _ => &text,
        };
        // A reason may have a semicolon.
        let is_comment = |c| c == '#' || c == ';' && self.own.is_none();
        let text = text.split(is_comment).next().unwrap_or_default().trim();
        if text.is_empty() {
            return Ok(());
        }
        match entry(text, self.own) {
            Ok(Some(entry)) => self.entries.push(Entry {
                line: self.line,
                ..entry
            }),
            Ok(None) => self.ended += 1,
            Err(what) => self.spoil(self.bad(line, what))?,
        }
        Ok(())
    }
}

/// None if it is over already. `own` is the time, since 1970, for what the agent has written itself.
pub(crate) fn entry(line: &str, own: Option<Duration>) -> Result<Option<Entry>, String> {
    let (prefix, rest) = cut(line);
    let prefix = parse_prefix(prefix)?;
    let (word, after) = cut(rest);
    // What begins like a number is meant as a time; reasons begin with a letter.
    let (ttl, reason) = if let Some(end) = word.strip_prefix('@') {
        let now = own.ok_or_else(|| {
            format!("{word:?} is no time to live: write it as in 1h30m, or - before a reason that begins with @")
        })?;
        let end = end
            .parse()
            .map_err(|_| format!("{word:?} is no end: write @ and seconds since 1970"))?;
        let left = Duration::from_secs(end).saturating_sub(now);
        if left.is_zero() {
            return Ok(None);
        }
        (Some(left), after)
    } else if word.starts_with(|c: char| c.is_ascii_digit()) {
        (Some(parse_ttl(word)?), after)
    } else if word == "-" {
        (None, after)
    } else {
        (None, rest)
    };
    let reason = reason.replace('\t', " ");
    check_reason(&reason)?;
    Ok(Some(Entry {
        prefix,
        ttl,
        reason,
        line: 0,
    }))
}

/// Reads a time to live.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl: HumanDuration = text
        .parse()
        .map_err(|e: UnitError| format!("{e} as a time to live: {}", e.remedy))?;
    if ttl.get().is_zero() {
        return Err("a time to live of 0 lists nothing".to_owned());
    }
    Ok(ttl.get())
}

/// Whether a reason can stand in a line.
///
/// # Errors
/// What is wrong, and what to write instead.
pub fn check_reason(reason: &str) -> Result<(), String> {
    if reason.len() > MAX_REASON {
        return Err(format!(
            "the reason has {} octets; write at most {MAX_REASON}",
            reason.len()
        ));
    }
    if reason.contains(|c: char| c == '#' || c.is_control()) {
        return Err("a reason has no # and no control characters; leave them out".to_owned());
    }
    if reason.trim() != reason {
        return Err("a reason neither begins nor ends with a space; leave it out".to_owned());
    }
    Ok(())
}

/// An entry as a line, which [`parse`] reads again; `end` is in seconds since 1970.
pub fn line(prefix: Prefix, end: Option<u64>, reason: &str) -> String {
    let mut line = show(prefix);
    match end {
        // Writing to a String cannot fail.
        Some(end) => drop(write!(line, " @{end}")),
        // The reader would take it for a time.
        None if reason.starts_with(|c: char| c.is_ascii_digit() || c == '@' || c == '-') => {
            line += " -";
        }
        None => {}
    }
    if !reason.is_empty() {
        line.push(' ');
        line += reason;
    }
    line.push('\n');
    line
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
    if let IpAddr::V6(v6) = address
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Err(format!(
            "{address} is an IPv4 address in IPv6's notation: write {v4}, with the length that it has there"
        ));
    }
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
    use proptest::prelude::*;

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
    fn an_end_is_a_time_of_day() {
        let now = Duration::from_secs(1000);
        let read = |line| entry(line, Some(now)).unwrap();
        let left = read("192.0.2.1 @1060 scan").unwrap();
        assert_eq!(
            (left.ttl, left.reason.as_str()),
            (Some(Duration::from_secs(60)), "scan")
        );
        assert_eq!(read("192.0.2.1 @1000 scan"), None, "over already");
        assert_eq!(read("192.0.2.1 - 3 strikes").unwrap().reason, "3 strikes");
        let mut reader = Reader::of_own_files();
        reader.push(b"192.0.2.1 @1 x\n192.0.2.2\n").unwrap();
        assert_eq!((reader.ended, reader.len()), (1, 1));
        // An operator writes how long.
        let bad = parse("192.0.2.1 @4000000000").unwrap_err();
        assert!(bad.what.contains("1h30m"), "{bad}");
    }

    #[test]
    fn what_others_write_is_read() {
        let entries = parse("\u{feff}; feed\r\n192.0.2.0/24 ; SBL1\n192.0.2.1 x ;y#z\n").unwrap();
        let told: Vec<_> = entries
            .iter()
            .map(|entry| (show(entry.prefix), entry.reason.as_str()))
            .collect();
        assert_eq!(
            told,
            [
                ("192.0.2.0/24".to_owned(), ""),
                ("192.0.2.1".to_owned(), "x")
            ]
        );
        parse("192.0.2.1\n\u{feff}192.0.2.2\n").unwrap_err();
    }

    #[test]
    fn a_stream_that_was_cut_is_no_list() {
        let stream = |text: &str| {
            let mut reader = Reader::default();
            reader.push(text.as_bytes()).unwrap();
            reader.finish_stream().map(|(entries, _)| entries)
        };
        assert_eq!(stream("192.0.2.1\n192.0.2.2\n").unwrap().len(), 2);
        let bad = stream("192.0.2.1\n\n192.0.2.1").unwrap_err();
        assert_eq!((bad.line, bad.text.as_str()), (3, "192.0.2.1"));
        assert_eq!(parse("192.0.2.1\n192.0.2.2").unwrap().len(), 2, "a file");
    }

    #[test]
    fn bad_lines_of_own_files_are_left_out() {
        let mut reader = Reader::of_own_files();
        reader
            .push(b"192.0.2.1 a;b\n192.0.2.x\n?\n192.0.2.3\n192.0.2.4")
            .unwrap();
        let (entries, spoilt) = reader.finish_stream().unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].reason, "a;b");
        assert_eq!(spoilt.unwrap().line, 2);
    }

    proptest! {
        /// What is saved is read again as it was, in pieces of any size.
        #[test]
        fn a_line_is_read_as_it_was_written(
            lines in proptest::collection::vec((any::<u32>(), 0u8..=32, proptest::option::of(2_000_000_000u64..4_000_000_000), "[-@ a-z0-9éß]{0,12}"), 0..20),
            size in 1usize..80,
        ) {
            let mut text = String::new();
            let mut written = Vec::new();
            for (address, len, end, reason) in lines {
                let prefix = whole(IpAddr::V4(address.into())).first(len);
                text += &line(prefix, end, reason.trim());
                written.push((prefix, end.is_some(), reason.trim().to_owned()));
            }
            let mut reader = Reader::of_own_files();
            for piece in text.as_bytes().chunks(size) {
                reader.push(piece).unwrap();
            }
            let read = reader.finish().unwrap().into_iter();
            let read: Vec<_> = read.map(|e| (e.prefix, e.ttl.is_some(), e.reason)).collect();
            prop_assert_eq!(read, written);
        }

        /// Whatever comes is read or refused.
        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut reader = Reader::default();
            let _ = reader.push(&octets).and_then(|()| reader.finish().map(drop));
        }
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
            ("192.0.2.1 @soon", 1, "no time to live"),
            ("::ffff:192.0.2.1", 1, "write 192.0.2.1"),
            ("192.0.2.1 a\u{1b}[2Jb", 1, "control characters"),
            (&format!("192.0.2.1 {}", "x".repeat(201)), 1, "at most 200"),
            (
                &format!("192.0.2.1 # {}", "x".repeat(1024)),
                1,
                "1024 octets",
            ),
        ] {
            let bad = parse(text).expect_err(text);
            assert_eq!(bad.line, line, "{text}: {bad}");
            assert!(bad.what.contains(part), "{text}: {bad}");
        }
    }
}
