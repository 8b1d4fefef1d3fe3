//! Which interfaces to attach to: names, globs, and those of the default routes.

use std::{fmt, str::FromStr};

use serde::{Serialize, Serializer};

/// The word for the interfaces of the default routes.
const DEFAULT_ROUTE: &str = "default-route";
/// Longest name of an interface, octets (`IFNAMSIZ` less the closing zero, `linux/if.h`).
const MAX_NAME: usize = 15;

/// One entry of `interfaces`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Kind);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Name(String),
    Glob(String),
    DefaultRoute,
}

impl Pattern {
    /// Whether an interface of this name is meant. [`Self::is_default_route`] goes by no name.
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            Kind::Name(wanted) => wanted == name,
            Kind::Glob(glob) => glob_matches(glob.as_bytes(), name.as_bytes()),
            Kind::DefaultRoute => false,
        }
    }

    /// The one interface that is meant by its whole name.
    pub fn name(&self) -> Option<&str> {
        match &self.0 {
            Kind::Name(name) => Some(name),
            Kind::Glob(_) | Kind::DefaultRoute => None,
        }
    }

    /// Whether the interfaces of the default routes are meant.
    pub const fn is_default_route(&self) -> bool {
        matches!(self.0, Kind::DefaultRoute)
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    /// # Errors
    /// No interface can have such a name (`dev_valid_name`, `net/core/dev.c`).
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == DEFAULT_ROUTE {
            return Ok(Self(Kind::DefaultRoute));
        }
        let glob = text.contains(['*', '?']);
        if text.is_empty() {
            Err("it is empty")
        } else if text.replace('*', "").len() > MAX_NAME {
            Err("it is longer than 15 octets")
        } else if text == "." || text == ".." || text.contains(['/', ':']) {
            Err("`/`, `:`, `.` and `..` are not allowed")
        } else if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err("it contains white space or control characters")
        } else if glob {
            Ok(Self(Kind::Glob(text.to_owned())))
        } else {
            Ok(Self(Kind::Name(text.to_owned())))
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match &self.0 {
            Kind::Name(text) | Kind::Glob(text) => text,
            Kind::DefaultRoute => DEFAULT_ROUTE,
        })
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Patterns as a list in a sentence.
pub fn list(patterns: &[Pattern]) -> String {
    let names: Vec<_> = patterns.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// `*` is any octets, `?` is one. Goes back to the last star only, so it takes no more than glob × name steps.
fn glob_matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    // Where to go on when what follows the last star does not fit: behind it, one octet later in the name.
    let mut back = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                back = Some((g, n));
            }
            Some(&octet) if octet == b'?' || name.get(n) == Some(&octet) => {
                g += 1;
                n += 1;
            }
            _ => {
                let Some((behind, at)) = back else {
                    return false;
                };
                back = Some((behind, at + 1));
                (g, n) = (behind, at + 1);
            }
        }
    }
    glob.get(g..)
        .is_some_and(|rest| rest.iter().all(|&octet| octet == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_glob_matches_what_a_shell_would_match() {
        for (glob, name, matches) in [
            ("ens*", "ens3", true),
            ("ens*", "ens", true),
            ("ens*", "eth0", false),
            ("*", "whatever", true),
            ("e*h?", "eth0", true),
            ("e*h?", "eth", false),
            ("*0", "eth0.100", true),
            ("*0", "eth0.101", false),
            ("*0", "e0th0", true),
            ("*a*b*", "xxaxxbxx", true),
            ("*a*b*", "xxbxxaxx", false),
            ("eth?", "eth10", false),
            ("**", "e", true),
            ("?", "ü", false),
        ] {
            assert_eq!(pattern(glob).matches(name), matches, "{glob} on {name}");
        }
    }

    #[test]
    fn a_name_means_itself_alone_and_default_route_no_name_at_all() {
        assert!(pattern("eth0").matches("eth0"));
        assert!(!pattern("eth0").matches("eth01"));
        assert_eq!(pattern("eth0").name(), Some("eth0"));
        let default = pattern("default-route");
        assert!(default.is_default_route() && !default.matches("default-route"));
        assert_eq!(
            (default.name(), default.to_string()),
            (None, "default-route".to_owned())
        );
        assert_eq!(pattern("ens*").name(), None);
    }

    #[test]
    fn what_no_interface_can_be_called_is_refused() {
        for text in [
            "",
            "sixteen-octets-x",
            "a/b",
            "a:b",
            ".",
            "..",
            "a b",
            "a\tb",
            "?234567890123456",
        ] {
            assert!(text.parse::<Pattern>().is_err(), "{text:?}");
        }
        // A star stands for no octets, too.
        assert!(pattern("a234567890123*45").matches("a23456789012345"));
    }
}
