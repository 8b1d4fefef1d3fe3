//! The files that a config is read from: the config itself and, in the order of their names, the files
//! `conf.d/*.toml` beside it, of which later ones win. A config of another name has a directory of its own, `blue.toml`
//! has `blue.d`: what is meant for one instance must not change another.
//!
//! A key of a later file takes the place of the same key of the files before it, with its whole value. Of
//! `[[listener]]`, `[[neighbor]]` and `[[probe]]` each is one value: one with the same port, the same address, interface
//! and VLAN, or the same name, takes the place of the one before it, and all others are added.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize as _;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Place};
use super::probe::default_name;
use super::raw::RawConfig;
use super::{MAX_FILE_BYTES, read_trusted, resolve};
use crate::probe::parse_url;

/// What stands beside a config of this name; beside another its own name with `.d` does.
const DIRECTORY: &str = "conf.d";
const USUAL_NAME: &str = "netmoat.toml";
/// Nobody has more.
const MAX_FILES: usize = 64;
/// Tables of which there may be several, and what tells one from another.
const REPEATED: [(&str, &[&str]); 3] = [
    ("listener", &["port"]),
    ("neighbor", &["address", "interface", "vlan"]),
    ("probe", &[NAME]),
];

/// What has none is called by its URL, as the reader of probes does it.
const NAME: &str = "name";
const URL: &str = "url";

/// The files of one config.
#[derive(Debug, Default)]
pub(super) struct Sources {
    files: Vec<Source>,
}

#[derive(Debug)]
struct Source {
    path: PathBuf,
    text: String,
    /// The octets of the files before it: with these added, a span tells of which file it is.
    base: usize,
}

impl Sources {
    /// One text, which `path` names.
    pub(super) fn of(path: &Path, text: &str) -> Self {
        let mut sources = Self::default();
        sources.push(path.to_owned(), text.to_owned());
        sources
    }

    /// Reads the config, unless it is missing and need not be there, and the files beside it.
    pub(super) fn read(path: &Path, required: bool) -> Result<Self, ConfigError> {
        let mut sources = Self::default();
        match read_trusted(path, MAX_FILE_BYTES) {
            Ok(text) => sources.push(path.to_owned(), text),
            Err(ConfigError::Read { source, .. })
                if !required && source.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for file in beside(path)? {
            let text = read_trusted(&file, MAX_FILE_BYTES)?;
            sources.push(file, text);
        }
        Ok(sources)
    }

    fn push(&mut self, path: PathBuf, text: String) {
        let base = self
            .files
            .last()
            .map_or(0, |last| last.base + last.text.len() + 1);
        self.files.push(Source { path, text, base });
    }

    /// The files, in the order in which they were read.
    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    fn file(&self, span: &Range<usize>) -> Option<&Source> {
        let mut files = self.files.iter().rev();
        files.find(|file| file.base <= span.start)
    }

    /// Where a span is.
    pub(super) fn place(&self, span: Range<usize>) -> Option<Place> {
        let file = self.file(&span)?;
        let span = span.start - file.base..span.end.saturating_sub(file.base);
        Some(Place::new(&file.path, &file.text, span))
    }

    /// The text of a span.
    pub(super) fn text(&self, span: Range<usize>) -> Option<&str> {
        let file = self.file(&span)?;
        file.text
            .get(span.start - file.base..span.end.saturating_sub(file.base))
    }

    /// A line in words, with its file if there are several.
    pub(super) fn line(&self, span: Range<usize>) -> String {
        match self.place(span) {
            Some(place) if self.files.len() > 1 => {
                format!("line {} of {}", place.line, place.path.display())
            }
            Some(place) => format!("line {}", place.line),
            None => "another line".to_owned(),
        }
    }

    /// All files as one. Each must be right by itself.
    pub(super) fn merge(&self) -> Result<RawConfig, ConfigError> {
        let padded: Vec<String> = self
            .files
            .iter()
            .map(|file| "\n".repeat(file.base) + &file.text)
            .collect();
        let explain = |error: toml::de::Error| resolve::explain_toml_error(self, &error);
        let mut problems = Vec::new();
        let mut merged: Option<DeTable<'_>> = None;
        for text in &padded {
            if let Err(error) = toml::from_str::<RawConfig>(text) {
                problems.push(explain(error));
                continue;
            }
            match DeTable::parse(text) {
                Ok(table) => match &mut merged {
                    Some(merged) => merge(merged, table.into_inner()),
                    None => merged = Some(table.into_inner()),
                },
                Err(error) => problems.push(explain(error)),
            }
        }
        if problems.is_empty() {
            let end = padded.last().map_or(0, String::len);
            let merged = Spanned::new(0..end, merged.unwrap_or_default());
            match RawConfig::deserialize(toml::de::Deserializer::from(merged)) {
                Ok(raw) => return Ok(raw),
                Err(error) => problems.push(explain(error)),
            }
        }
        Err(ConfigError::Invalid { problems })
    }
}

/// Where the files beside a config are.
fn directory(path: &Path) -> PathBuf {
    if path.file_name().is_some_and(|name| name == USUAL_NAME) {
        path.with_file_name(DIRECTORY)
    } else {
        path.with_extension("d")
    }
}

/// The files beside a config, in the order of their names.
fn beside(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let directory = directory(path);
    let error = |source| ConfigError::Read {
        path: directory.clone(),
        source,
    };
    let refuse = |what: String, remedy: String| ConfigError::Unsafe {
        path: directory.clone(),
        what,
        remedy,
    };
    let metadata = match fs::metadata(&directory) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        metadata => metadata.map_err(error)?,
    };
    let shown = directory.display();
    if nix::unistd::geteuid().is_root() && (metadata.uid() != 0 || metadata.mode() & 0o002 != 0) {
        return Err(refuse(
            format!(
                "others than root may put files into it (uid {}, mode {:04o})",
                metadata.uid(),
                metadata.mode() & 0o7777
            ),
            format!("chown root {shown} && chmod o-w {shown}"),
        ));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(&directory).map_err(error)? {
        let name = entry.map_err(error)?.file_name();
        let shown = name.to_string_lossy();
        // As everywhere, what begins with a dot is hidden: an editor's or a package manager's.
        if shown.ends_with(".toml") && !shown.starts_with('.') {
            files.push(directory.join(name));
        }
    }
    if files.len() > MAX_FILES {
        return Err(refuse(
            format!("it has {} files, and the limit is {MAX_FILES}", files.len()),
            "put several into one".to_owned(),
        ));
    }
    files.sort();
    Ok(files)
}

/// Puts what a later file says in the place of what was said before.
fn merge<'i>(into: &mut DeTable<'i>, later: DeTable<'i>) {
    for (key, value) in later {
        let identity = REPEATED
            .iter()
            .find(|(name, _)| *name == key.get_ref().as_ref());
        let Some(there) = into.get_mut(key.get_ref().as_ref()) else {
            into.insert(key, value);
            continue;
        };
        let span = value.span();
        match (there.get_mut(), value.into_inner(), identity) {
            (DeValue::Table(there), DeValue::Table(later), _) => merge(there, later),
            (DeValue::Array(there), DeValue::Array(later), Some((_, keys))) => {
                let before = std::mem::replace(there, DeArray::new()).into_iter();
                let stays = before.filter(|old| !later.iter().any(|new| is_same(old, new, keys)));
                let mut all: Vec<_> = stays.collect();
                all.extend(later);
                *there = all.into_iter().collect();
            }
            (_, value, _) => *there = Spanned::new(span, value),
        }
    }
}

/// Whether two tables are one by these keys.
fn is_same(a: &Spanned<DeValue<'_>>, b: &Spanned<DeValue<'_>>, keys: &[&str]) -> bool {
    let (DeValue::Table(a), DeValue::Table(b)) = (a.get_ref(), b.get_ref()) else {
        return false;
    };
    keys.iter().all(|key| match (a.get(*key), b.get(*key)) {
        _ if *key == NAME => name(a) == name(b),
        (Some(a), Some(b)) => word(a.get_ref()) == word(b.get_ref()),
        (None, None) => true,
        _ => false,
    })
}

/// What a probe is called.
fn name(table: &DeTable<'_>) -> Option<String> {
    let text = |key| match table.get(key).map(Spanned::get_ref) {
        Some(DeValue::String(text)) => Some(text.to_string()),
        _ => None,
    };
    text(NAME).or_else(|| {
        let url = text(URL)?;
        // One that is no URL is refused later, where its place can be told.
        Some(parse_url(&url).map_or(url, |url| default_name(&url)))
    })
}

/// A value that tells tables apart, as text.
fn word(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_lowercase()),
        DeValue::Integer(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Overrides, SynMode};
    use super::*;

    /// Writes a config and what is beside it, and reads them.
    fn load(main: &str, beside: &[(&str, &str)]) -> Result<Config, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("netmoat.toml");
        fs::write(&path, main).unwrap();
        fs::create_dir(directory.path().join(DIRECTORY)).unwrap();
        for (name, text) in beside {
            fs::write(directory.path().join(DIRECTORY).join(name), text).unwrap();
        }
        Config::load(Some(&path), &Overrides::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn later_files_win_key_by_key() {
        let config = load(
            "interfaces = [\"eth0\"]\nmode = \"observe\"\n[syn]\nbudget = \"7/s\"\nburst = 9\n\
             exclude_ports = [1, 2]\n[[listener]]\nport = 22\nmode = \"off\"\n[[listener]]\nport = 80\nmode = \"off\"\n",
            &[
                ("50-b.toml", "[syn]\nburst = 11\n[[listener]]\nport = 80\nmode = \"always\"\n"),
                ("10-a.toml", "mode = \"enforce\"\n[syn]\nburst = 10\nexclude_ports = [3]\n"),
                (".hidden.toml", "nonsense"),
                ("README", "nonsense"),
            ],
        )
        .unwrap();
        let syn = &config.syn;
        assert_eq!(config.mode, super::super::Mode::Enforce);
        assert_eq!(syn.default.budget.to_string(), "7/s");
        assert_eq!(syn.default.burst, 11);
        let modes = [1, 3, 22, 80].map(|port| syn.for_port(port).mode);
        let expected = [SynMode::Auto, SynMode::Off, SynMode::Off, SynMode::Always];
        assert_eq!(modes, expected);
        let names: Vec<_> = config
            .drop_ins
            .iter()
            .map(|p| p.file_name().unwrap())
            .collect();
        assert_eq!(names, ["10-a.toml", "50-b.toml"]);
    }

    #[test]
    fn a_config_of_another_name_has_a_directory_of_its_own() {
        for (config, expected) in [
            ("/etc/netmoat/netmoat.toml", "/etc/netmoat/conf.d"),
            ("/etc/netmoat/blue.toml", "/etc/netmoat/blue.d"),
            ("/etc/netmoat/a.b.toml", "/etc/netmoat/a.b.d"),
            ("/tmp/new", "/tmp/new.d"),
        ] {
            assert_eq!(
                directory(Path::new(config)),
                Path::new(expected),
                "{config}"
            );
        }
    }

    #[test]
    fn errors_name_their_file_and_line() {
        let main = "interfaces = [\"eth0\"]\n[syn]\nbudget = \"7/s\"\n";
        for (text, parts) in [
            (
                "\n[syn]\nburst = 0\n",
                &["conf.d/1.toml:3:9", "3 | burst = 0"][..],
            ),
            ("[sny]\n", &["conf.d/1.toml:1:2", "did you mean `syn`?"]),
            ("x = ", &["conf.d/1.toml:1:"]),
            ("[syn]\nburst = \"x\"\n", &["conf.d/1.toml:2:9"]),
        ] {
            let error = load(main, &[("1.toml", text)]).unwrap_err();
            for part in parts {
                assert!(error.contains(part), "{text}: no {part} in {error}");
            }
        }
        let error = load(
            "mode = \"x\"\ninterfaces = [\"eth0\"]\n",
            &[("1.toml", "[udp]\n")],
        );
        let error = error.unwrap_err();
        assert!(error.contains("netmoat.toml:1:8"), "{error}");
        let error = load(
            "interfaces = [\"eth0\"]\n[[listener]]\nport = 7\nmode = \"auto\"\n",
            &[("1.toml", "[syn]\nexclude_ports = [7]\n")],
        );
        let error = error.unwrap_err();
        assert!(error.contains("conf.d/1.toml:2:18"), "{error}");
        assert!(error.contains("line 3 of"), "{error}");
    }

    #[test]
    fn neighbours_of_the_same_place_take_each_others_place() {
        let neighbor = |address: &str, mac: u8, rest: &str| {
            format!(
                "[[neighbor]]\naddress = \"{address}\"\nmacs = [\"02:00:00:00:00:0{mac}\"]\n{rest}"
            )
        };
        let main = "interfaces = [\"eth0\"]\n".to_owned()
            + &neighbor("192.0.2.1", 1, "")
            + &neighbor("fe80::A", 2, "vlan = 7\n");
        let later = neighbor("192.0.2.1", 3, "")
            + &neighbor("fe80::a", 4, "vlan = 7\n")
            + &neighbor("fe80::b", 5, "");
        let config = load(&main, &[("1.toml", &later)]).unwrap();
        let bindings = config.neighbors.bindings.iter();
        let shown: Vec<_> = bindings
            .map(|b| format!("{} {}", b.address, b.macs[0]))
            .collect();
        let expected = [
            "192.0.2.1 02:00:00:00:00:03",
            "fe80::a 02:00:00:00:00:04",
            "fe80::b 02:00:00:00:00:05",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn probes_of_the_same_page_take_each_others_place_however_it_is_written() {
        let main = "interfaces = [\"eth0\"]\n[[probe]]\nurl = \"www.example.org\"\n\
                    [[probe]]\nurl = \"http://a.test/\"\nname = \"shop\"\n";
        let later = "[[probe]]\nurl = \"https://WWW.example.org:443/?x\"\nexpect = 204\n\
                     [[probe]]\nurl = \"http://b.test/\"\nname = \"shop\"\n";
        let config = load(main, &[("1.toml", later)]).unwrap();
        let shown: Vec<_> = config
            .probes
            .iter()
            .map(|p| (p.name.as_str(), p.url.as_str()))
            .collect();
        let expected = [
            ("https://www.example.org/", "https://www.example.org/?x"),
            ("shop", "http://b.test/"),
        ];
        assert_eq!(shown, expected);
    }
}
