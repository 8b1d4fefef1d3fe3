//! `[lists]`: sources that are allowed or blocked for as long as the config says so.

use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

use super::{ConfigError, read_trusted};
use crate::lists::text::{Entry, Reader};

/// The most entries there may be, of 128 octets each.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// What `[lists]` says, files included.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ListPolicy {
    /// Allowed sources; only their number is told.
    #[serde(serialize_with = "number")]
    pub allow: Vec<Entry>,
    /// Blocked sources; only their number is told.
    #[serde(serialize_with = "number")]
    pub block: Vec<Entry>,
    /// The files that some of them came from.
    pub files: Vec<PathBuf>,
    /// Of these, those of allowed sources, which are the first.
    #[serde(skip)]
    pub allow_files: usize,
    /// How many of `allow` and of `block`, in the order of [`crate::lists::List::ALL`], stand in the config itself;
    /// they are the first.
    #[serde(skip)]
    pub written: [usize; 2],
}

fn number<S: Serializer>(entries: &[Entry], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(entries.len() as u64)
}

impl ListPolicy {
    /// Whether nothing is listed.
    pub fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.block.is_empty()
    }
}

/// Reads a file of entries.
pub(super) fn read_file(path: &Path) -> Result<Vec<Entry>, (String, String)> {
    let text = read_trusted(path, MAX_FILE_BYTES).map_err(|error| match error {
        ConfigError::Read { source, .. } => (
            format!("{} cannot be read: {source}", path.display()),
            "name a file that the agent may read, or take it out".to_owned(),
        ),
        ConfigError::Unsafe { what, remedy, .. } => {
            (format!("refusing {}: {what}", path.display()), remedy)
        }
        error @ ConfigError::Invalid { .. } => (error.to_string(), "correct it".to_owned()),
    })?;
    let mut reader = Reader::default();
    let entries = reader.push(text.as_bytes()).and_then(|()| reader.finish());
    entries.map_err(|bad| {
        let what = format!(
            "{}:{}: {} in `{}`",
            path.display(),
            bad.line,
            bad.what,
            bad.text.escape_debug()
        );
        let remedy = "write one `address[/len] [ttl] [reason]` a line; # or ; begins a comment";
        (what, remedy.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use std::{fs, path::PathBuf};

    use super::super::{Config, Overrides};
    use crate::lists::text::show;

    fn read(lists: &str) -> Result<Config, String> {
        let text = format!("interfaces = [\"eth0\"]\n[lists]\n{lists}\n");
        Config::parse("netmoat.toml".as_ref(), &text, &Overrides::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn entries_and_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("feed");
        fs::write(&file, "# a feed\n192.0.2.1\n2001:db8::/32 1h x\n").unwrap();
        let config = read(&format!(
            "allow = [\"198.51.100.7 the office\"]\nblock = [\"203.0.113.0/24\", \"2001:db8:9::1\"]\n\
             block_files = [{file:?}]"
        ))
        .unwrap();
        let shown = |entries: &[crate::lists::text::Entry]| {
            let shown = entries
                .iter()
                .map(|e| format!("{} {}", show(e.prefix), e.reason));
            shown.collect::<Vec<_>>()
        };
        assert_eq!(shown(&config.lists.allow), ["198.51.100.7 the office"]);
        assert_eq!(
            shown(&config.lists.block),
            [
                "203.0.113.0/24 ",
                "2001:db8:9::1 ",
                "192.0.2.1 ",
                "2001:db8::/32 x"
            ]
        );
        assert_eq!(config.lists.files, [file]);
        let told = serde_json::to_value(&config.lists).unwrap();
        assert_eq!((&told["allow"], &told["block"]), (&1.into(), &4.into()));
    }

    #[test]
    fn errors_name_the_place() {
        let directory = tempfile::tempdir().unwrap();
        let bad = directory.path().join("bad");
        fs::write(&bad, "192.0.2.1\n\nexample.org\n").unwrap();
        let missing: PathBuf = directory.path().join("missing");
        for (lists, parts) in [
            (
                "allow = [\"192.0.2.1/24\"]".to_owned(),
                &["netmoat.toml:3:10", "192.0.2.0/24"][..],
            ),
            (
                "block = [\"192.0.2.1\", \"office\"]".to_owned(),
                &["netmoat.toml:3:23", "no IP address"],
            ),
            (
                "block = [\"192.0.2.1 1h x\"]".to_owned(),
                &["netmoat.toml:3:10", "no time to live"],
            ),
            ("block = \"192.0.2.1\"".to_owned(), &["brackets"]),
            ("deny = []".to_owned(), &["unknown key `deny`"]),
            (
                "block_files = [\"feed\"]".to_owned(),
                &["netmoat.toml:3:16", "absolute"],
            ),
            (
                format!("block_files = [{bad:?}]"),
                &["bad:3: ", "example.org", "netmoat.toml:3:16"],
            ),
            (
                format!("allow_files = [{missing:?}]"),
                &["missing cannot be read"],
            ),
            (
                format!("allow_files = [{:?}]", directory.path()),
                &["not a regular file"],
            ),
        ] {
            let error = read(&lists).expect_err(&lists);
            for part in parts {
                assert!(error.contains(part), "{lists}: no {part} in {error}");
            }
        }
    }
}
