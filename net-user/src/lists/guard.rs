//! What keeps an operator from locking himself out: a change that would block who must reach this host is refused.

use std::{collections::HashSet, fmt, net::IpAddr};

use net_common::{
    lists::{EXPIRY_SHIFT, Expiry, Prefix},
    units::Version,
};

use super::{
    List,
    entries::Entries,
    expiry,
    text::{Entry, show, whole},
};

/// The shortest prefixes that are blocked unasked: a /8 is the largest block that was ever given to one holder, and a
/// /16 is far more than any registry gives.
const SHORTEST_V4: u8 = 8;
const SHORTEST_V6: u8 = 16;

/// Who must reach this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// From where.
    pub address: IpAddr,
    /// Who that is, as in "the default gateway".
    pub what: &'static str,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it would do.
    pub what: String,
    /// What to do instead on the command line.
    pub remedy: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, and nothing was changed; {}", self.what, self.remedy)
    }
}

/// What is to become of a named list.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Which list.
    pub list: List,
    /// The name.
    pub name: &'a str,
    /// What is listed from now on.
    pub wanted: &'a [Entry],
    /// What is listed no more.
    pub gone: Gone<'a>,
}

/// What a change takes out.
#[derive(Clone, Copy, Debug)]
pub enum Gone<'a> {
    /// These.
    These(&'a [Prefix]),
    /// All that the name had.
    All,
}

/// An entry that covers an address, and when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cover {
    prefix: Prefix,
    end: Expiry,
    /// The line of the change that it stands on; 0 for none.
    line: usize,
}

/// Whether `a` is later than `b`; never is the latest.
fn is_later(a: Expiry, b: Expiry) -> bool {
    match (a, b) {
        (None, b) => b.is_some(),
        (Some(_), None) => false,
        (Some(a), Some(b)) => a > b,
    }
}

fn latest(covers: impl Iterator<Item = Cover>) -> Option<Cover> {
    covers.reduce(|best, next| {
        if is_later(next.end, best.end) {
            next
        } else {
            best
        }
    })
}

/// Why a change is not made: it would block someone who is not blocked now, or much of the Internet. An allow
/// entry that lives as long as the block entry saves from it. `origin` is the number of the change's name, if it has one.
pub fn refusal(
    entries: &[Entries; 2],
    origin: Option<u32>,
    change: &Change<'_>,
    victims: &[Victim],
    now_ns: u64,
) -> Option<Refusal> {
    Guard::new(entries, origin, change, victims, now_ns).refusal()
}

struct Guard<'a> {
    entries: &'a [Entries; 2],
    origin: Option<u32>,
    change: &'a Change<'a>,
    victims: &'a [Victim],
    now_ns: u64,
    /// Prefixes whose entries of the name are others afterwards, unless all are.
    replaced: HashSet<Prefix>,
    /// For each victim, which of the wanted entries covers it longest.
    covers: Vec<Option<Cover>>,
}

impl<'a> Guard<'a> {
    fn new(
        entries: &'a [Entries; 2],
        origin: Option<u32>,
        change: &'a Change<'a>,
        victims: &'a [Victim],
        now_ns: u64,
    ) -> Self {
        let replaced = match change.gone {
            Gone::All => HashSet::new(),
            Gone::These(gone) => {
                let wanted = change.wanted.iter().map(|entry| entry.prefix);
                gone.iter().copied().chain(wanted).collect()
            }
        };
        let mut guard = Self {
            entries,
            origin,
            change,
            victims,
            now_ns,
            replaced,
            covers: vec![None; victims.len()],
        };
        guard.find_covers();
        guard
    }

    /// One pass over what may be a million entries.
    fn find_covers(&mut self) {
        let mut order: Vec<_> = self
            .victims
            .iter()
            .enumerate()
            .map(|(number, victim)| (first(whole(victim.address)), number))
            .collect();
        order.sort_unstable();
        for entry in self.change.wanted {
            let (from, to) = (first(entry.prefix), last(entry.prefix));
            let start = order.partition_point(|(address, _)| *address < from);
            let covered = order
                .iter()
                .skip(start)
                .take_while(|(address, _)| *address <= to);
            for &(_, number) in covered {
                let cover = Cover {
                    prefix: entry.prefix,
                    end: expiry(entry.ttl, self.now_ns),
                    line: entry.line,
                };
                if let Some(best) = self.covers.get_mut(number) {
                    *best = latest(best.iter().copied().chain([cover]));
                }
            }
        }
    }

    fn refusal(&self) -> Option<Refusal> {
        if self.change.list == List::Block
            && let Some(wide) = self.wide()
        {
            return Some(wide);
        }
        let mut out: Vec<(&Victim, Cover)> = Vec::new();
        for (number, victim) in self.victims.iter().enumerate() {
            let address = whole(victim.address);
            let Some(after) = self.locked(address, Some(number)) else {
                continue;
            };
            let before = self.locked(address, None);
            if before.is_some_and(|before| !is_later(after.end, before.end)) {
                continue;
            }
            if out.iter().all(|(named, _)| named.address != victim.address) {
                out.push((victim, after));
            }
        }
        let &(victim, by) = out.first()?;
        let entry = show(by.prefix);
        let who = names(out.iter().map(|(victim, _)| *victim));
        Some(match self.change.list {
            List::Block => Refusal {
                what: format!(
                    "blocking {entry}{} would lock out {who}{}",
                    on_line(by.line),
                    self.short_lived(victim)
                ),
                remedy: format!(
                    "allow it first (`netmoat allow add {}`), or use --force",
                    victim.address
                ),
            },
            List::Allow => Refusal {
                what: format!(
                    "without its allow entry {who} would be locked out by the block entry {entry}{}",
                    self.short_lived(victim)
                ),
                remedy: "delete that first, or use --force".to_owned(),
            },
        })
    }

    /// Of an allow entry that does not save, as it ends too early.
    fn short_lived(&self, victim: &Victim) -> String {
        let number = self.victims.iter().position(|other| other == victim);
        let allow = self.cover(List::Allow, whole(victim.address), number);
        allow.map_or(String::new(), |allow| {
            format!(
                " (its allow entry {} does not count, as it ends before)",
                show(allow.prefix)
            )
        })
    }

    /// A new block entry that covers too much.
    fn wide(&self) -> Option<Refusal> {
        let [allow, block] = self.entries;
        let now = self.now_ns >> EXPIRY_SHIFT;
        let wide = self.change.wanted.iter().find(|entry| {
            let prefix = entry.prefix;
            let end = expiry(entry.ttl, self.now_ns);
            let saved =
                |(_, _, record): (_, _, &super::entries::Record)| !is_later(end, record.expiry);
            prefix.len < shortest(prefix.version)
                && block
                    .expiry(prefix)
                    .is_none_or(|known| is_later(end, known))
                && !allow.covering(prefix, now).any(saved)
        })?;
        let (family, shortest) = match wide.prefix.version {
            Version::V4 => ("IPv4", SHORTEST_V4),
            Version::V6 => ("IPv6", SHORTEST_V6),
        };
        Some(Refusal {
            what: format!(
                "blocking {}{} would lock out much of {family}: it is shorter than /{shortest}",
                show(wide.prefix),
                on_line(wide.line)
            ),
            remedy: "write longer prefixes, or use --force".to_owned(),
        })
    }

    /// The block entry that keeps an address out, now or, for a victim's number, after the change.
    fn locked(&self, address: Prefix, victim: Option<usize>) -> Option<Cover> {
        let block = self.cover(List::Block, address, victim)?;
        match self.cover(List::Allow, address, victim) {
            Some(allow) if !is_later(block.end, allow.end) => None,
            _ => Some(block),
        }
    }

    fn cover(&self, list: List, address: Prefix, victim: Option<usize>) -> Option<Cover> {
        let changes = victim.is_some() && self.change.list == list;
        let stays = |prefix: &Prefix, origin: u32| {
            let replaced = matches!(self.change.gone, Gone::All) || self.replaced.contains(prefix);
            !(changes && self.origin == Some(origin) && replaced)
        };
        let entries = self.entries.get(list.number() as usize)?;
        let there = entries
            .covering(address, self.now_ns >> EXPIRY_SHIFT)
            .filter(|(prefix, origin, _)| stays(prefix, *origin))
            .map(|(prefix, _, record)| Cover {
                prefix,
                end: record.expiry,
                line: 0,
            });
        let wanted = victim
            .filter(|_| changes)
            .and_then(|number| self.covers.get(number).copied().flatten());
        latest(there.chain(wanted))
    }
}

/// Victims that are named in one sentence.
const NAMED: usize = 3;

/// Some of them in words, and how many more.
pub fn names<'a>(victims: impl ExactSizeIterator<Item = &'a Victim>) -> String {
    let more = victims.len().saturating_sub(NAMED);
    let named: Vec<_> = victims
        .take(NAMED)
        .map(|victim| format!("{} ({})", victim.address, victim.what))
        .collect();
    match more {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

fn on_line(line: usize) -> String {
    match line {
        0 => String::new(),
        line => format!(" (line {line})"),
    }
}

const fn shortest(version: Version) -> u8 {
    match version {
        Version::V4 => SHORTEST_V4,
        Version::V6 => SHORTEST_V6,
    }
}

/// The first address of a prefix, in an order of all addresses.
fn first(prefix: Prefix) -> (Version, u128) {
    let bits = u128::from(prefix.high) << 64 | u128::from(prefix.low);
    (prefix.version, bits)
}

/// The last address of a prefix.
fn last(prefix: Prefix) -> (Version, u128) {
    let (version, bits) = first(prefix);
    let rest = match version {
        Version::V4 => u128::from(u32::MAX.checked_shr(prefix.len.into()).unwrap_or_default()),
        Version::V6 => u128::MAX.checked_shr(prefix.len.into()).unwrap_or_default(),
    };
    (version, bits | rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lists::{entries::Record, text};

    const NOW: u64 = 1 << 40;

    fn entries(text: &str) -> Vec<Entry> {
        text::parse(&text.replace(',', "\n")).unwrap()
    }

    fn listed(text: &str) -> Entries {
        let mut listed = Entries::default();
        for entry in entries(text) {
            let record = Record {
                expiry: expiry(entry.ttl, NOW),
                ..Record::default()
            };
            listed.insert(entry.prefix, 0, record);
        }
        listed
    }

    fn ask(allow: &str, block: &str, list: List, wanted: &str, gone: Gone<'_>) -> Option<String> {
        let victims: Vec<_> = ["192.0.2.1", "198.51.100.7", "2001:db8::1", "fe80::1"]
            .map(|address| Victim {
                address: address.parse().unwrap(),
                what: "someone",
            })
            .into();
        let wanted = entries(wanted);
        let change = Change {
            list,
            name: "manual",
            wanted: &wanted,
            gone,
        };
        refusal(
            &[listed(allow), listed(block)],
            Some(0),
            &change,
            &victims,
            NOW,
        )
        .map(|refusal| refusal.to_string())
    }

    #[test]
    fn who_must_reach_the_host_is_not_blocked() {
        const NOTHING: Gone<'_> = Gone::These(&[]);
        for (allow, block, wanted, refused) in [
            ("", "", "192.0.2.2", None),
            ("", "", "192.0.2.1", Some("192.0.2.1")),
            ("", "", "192.0.2.2,192.0.2.0/24 1h", Some("192.0.2.0/24")),
            ("", "", "2001:db8::/32", Some("2001:db8::1")),
            ("", "", "fe80::/16", Some("fe80::1")),
            ("", "", "2001:db8::2", None),
            // Allow wins, for as long as it lives.
            ("192.0.2.1", "", "192.0.2.0/24", None),
            ("192.0.0.0/16", "", "192.0.2.1", None),
            ("192.0.2.1 1h", "", "192.0.2.0/24 59m", None),
            ("192.0.2.1 1h", "", "192.0.2.0/24 61m", Some("192.0.2.1")),
            ("192.0.2.1 1h", "", "192.0.2.0/24", Some("192.0.2.1")),
            // Who is blocked already loses nothing by more of the same.
            ("", "192.0.2.0/24", "192.0.2.1", None),
            ("", "192.0.2.0/24 1h", "192.0.2.1", Some("192.0.2.1")),
            ("", "192.0.2.1 1h", "192.0.2.1 1h", None),
            ("", "192.0.2.1 1h", "192.0.2.1 2h", Some("192.0.2.1")),
            // What is too wide.
            ("", "", "0.0.0.0/0", Some("much of IPv4")),
            ("", "", "16.0.0.0/7", Some("much of IPv4")),
            ("", "", "17.0.0.0/8", None),
            ("", "", "::/0", Some("much of IPv6")),
            ("", "", "2c00::/15", Some("much of IPv6")),
            ("", "", "2c00::/16", None),
            ("0.0.0.0/0", "", "0.0.0.0/0", None),
            ("", "16.0.0.0/7", "16.0.0.0/7", None),
        ] {
            let said = ask(allow, block, List::Block, wanted, NOTHING);
            match refused {
                None => assert_eq!(said, None, "{allow} | {block} | {wanted}"),
                Some(part) => {
                    let said = said.unwrap_or_else(|| panic!("{allow} | {block} | {wanted}"));
                    assert!(said.contains(part) && said.contains("--force"), "{said}");
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_the_line_and_who_is_meant() {
        let import = |allow, wanted| ask(allow, "", List::Block, wanted, Gone::All).unwrap();
        let said = import("", "10.1.2.3,192.0.2.0/24");
        assert!(
            said.contains("192.0.2.0/24 (line 2) would lock out 192.0.2.1 (someone), and"),
            "{said}"
        );
        assert!(import("", "10.1.2.3,10.1.2.4,0.0.0.0/0").contains("(line 3)"));
        let said = import(
            "",
            "0.0.0.0/8,192.0.0.0/8,198.0.0.0/8,2000::/16,2001::/16,fe80::/16",
        );
        assert!(
            said.contains(
                "192.0.2.1 (someone), 198.51.100.7 (someone), 2001:db8::1 (someone) and 1 more"
            ),
            "{said}"
        );
        let said = import("192.0.2.1 1h", "192.0.2.0/24");
        assert!(
            said.contains("its allow entry 192.0.2.1 does not count, as it ends before"),
            "{said}"
        );
    }

    #[test]
    fn an_allow_entry_that_someone_needs_is_not_deleted() {
        let gone = |text: &str| entries(text).iter().map(|e| e.prefix).collect::<Vec<_>>();
        for (allow, block, wanted, gone_ones, refused) in [
            ("192.0.2.1", "192.0.2.0/24", "", Some("192.0.2.1"), true),
            ("192.0.2.1", "", "", Some("192.0.2.1"), false),
            ("192.0.2.1", "192.0.3.0/24", "", Some("192.0.2.1"), false),
            (
                "192.0.2.1,192.0.0.0/16",
                "192.0.2.0/24",
                "",
                Some("192.0.2.1"),
                false,
            ),
            ("192.0.2.1", "192.0.2.0/24", "192.0.2.0/24", None, false),
            ("192.0.2.1", "192.0.2.0/24", "192.0.3.0/24", None, true),
            // A shorter life is a deletion to come.
            ("192.0.2.1", "192.0.2.0/24", "192.0.2.1 1h", Some(""), true),
            (
                "192.0.2.1",
                "192.0.2.0/24 1h",
                "192.0.2.1 2h",
                Some(""),
                false,
            ),
        ] {
            let prefixes = gone(gone_ones.unwrap_or_default());
            let how = match gone_ones {
                None => Gone::All,
                Some(_) => Gone::These(&prefixes),
            };
            let said = ask(allow, block, List::Allow, wanted, how);
            assert_eq!(
                said.is_some(),
                refused,
                "{allow} | {block} | {wanted}: {said:?}"
            );
        }
    }
}
