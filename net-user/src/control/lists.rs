//! What travels over the control socket about block and allow lists.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::protocol::{Reply, RequestError};
use crate::{
    config::HumanDuration,
    lists::{List, Outcome, text::Entry},
};

/// The list that is meant when none is named.
pub const DEFAULT_NAME: &str = "manual";
/// Most entries of one answer; ask for those behind the last one next.
pub const MAX_PAGE: usize = 5_000;

/// A request about lists to the task that owns them.
#[derive(Debug)]
pub enum ListRequest {
    /// `POST /v1/lists/add`
    Add(AddEntries, Reply<ListChanged>),
    /// `POST /v1/lists/del`
    Delete(DeleteEntries, Reply<ListChanged>),
    /// `POST /v1/lists/import?list=LIST&name=NAME`, with the entries as text; `&allow_empty=1` takes none for an answer
    Import(ImportEntries, Reply<ListImported>),
    /// `GET /v1/lists?list=LIST`
    Page(ListQuery, Reply<ListPage>),
    /// `GET /v1/lists/find?list=LIST&prefix=PREFIX`
    Find(FindQuery, Reply<ListFound>),
    /// `GET /v1/lists/names`
    Names(Reply<ListNames>),
}

impl ListRequest {
    /// Answers that it is not done, and why.
    pub fn refuse(self, why: String) {
        let why = RequestError::Refused(why);
        // Nobody waits any longer: then nobody is told.
        let _ = match self {
            Self::Add(_, reply) | Self::Delete(_, reply) => reply.send(Err(why)).is_ok(),
            Self::Import(_, reply) => reply.send(Err(why)).is_ok(),
            Self::Page(_, reply) => reply.send(Err(why)).is_ok(),
            Self::Find(_, reply) => reply.send(Err(why)).is_ok(),
            Self::Names(reply) => reply.send(Err(why)).is_ok(),
        };
    }
}

/// Body of `POST /v1/lists/add`: all of it is done, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddEntries {
    /// Which list.
    pub list: List,
    /// The list's name.
    #[serde(default = "default_name")]
    pub name: String,
    /// Addresses and prefixes.
    pub prefixes: Vec<String>,
    /// For how long, as in "1h30m"; for good when absent.
    #[serde(default, rename = "for")]
    pub ttl: Option<HumanDuration>,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// Even if it locks someone out.
    #[serde(default)]
    pub force: bool,
    /// From where the operator is connected by SSH.
    #[serde(default)]
    pub ssh_peer: Option<IpAddr>,
    /// The former state returns after so long without a confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<HumanDuration>,
}

/// Body of `POST /v1/lists/del`: all of it is done, or nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeleteEntries {
    /// Which list.
    pub list: List,
    /// The list's name.
    #[serde(default = "default_name")]
    pub name: String,
    /// Addresses and prefixes, as they were listed.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// The whole list of that name instead.
    #[serde(default)]
    pub all: bool,
    /// What is not on the list is no error.
    #[serde(default)]
    pub ignore_missing: bool,
    /// Even if it locks someone out.
    #[serde(default)]
    pub force: bool,
    /// From where the operator is connected by SSH.
    #[serde(default)]
    pub ssh_peer: Option<IpAddr>,
    /// The former state returns after so long without a confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within: Option<HumanDuration>,
}

fn default_name() -> String {
    DEFAULT_NAME.to_owned()
}

/// A whole list that replaces the one of its name.
#[derive(Debug)]
pub struct ImportEntries {
    /// Which list.
    pub list: List,
    /// The list's name.
    pub name: String,
    /// Even if it locks someone out.
    pub force: bool,
    /// Even if it empties the list.
    pub allow_empty: bool,
    /// From where the operator is connected by SSH.
    pub ssh_peer: Option<IpAddr>,
    /// The former state returns after so long without a confirmation.
    pub confirm_within: Option<HumanDuration>,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// How long an import waits for another one, seconds.
pub const IMPORT_WAIT_S: u64 = 120;

/// Answer to `GET /v1/lists/import`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportState {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Whether an import is under way, so that another would wait.
    pub under_way: bool,
}

/// Answer to a change of single entries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListChanged {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Which list.
    pub list: List,
    /// The list's name.
    pub name: String,
    /// What became of each entry, in the order of the request; none when the whole list was deleted.
    pub entries: Vec<EntryChanged>,
    /// How many entries the list that was deleted as a whole had.
    #[serde(default)]
    pub deleted: u64,
    /// Whether blocked packets pass, as the mode is "observe".
    #[serde(default)]
    pub observe: bool,
    /// What the operator should know, in plain words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How long the change waits for its confirmation, seconds; absent when it is for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_s: Option<u64>,
}

/// What became of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryChanged {
    /// What is, or was, listed.
    pub prefix: String,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether it had an end before and has none now.
    #[serde(default)]
    pub now_for_good: bool,
}

/// Answer to an import.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListImported {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Which list.
    pub list: List,
    /// The list's name.
    pub name: String,
    /// Entries that it has now.
    pub entries: u64,
    /// Of these, those that it did not have.
    pub added: u64,
    /// Of these, those that it had with another end or reason.
    pub updated: u64,
    /// Entries that it had and has no more.
    pub removed: u64,
    /// How long building and turning to the new tables took, milliseconds.
    pub build_ms: u64,
    /// Octets of the kernel's memory that all lists take.
    pub kernel_memory: u64,
    /// Octets of memory that the agent has in use.
    pub agent_memory: u64,
    /// What the operator should know, in plain words.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How long the change waits for its confirmation, seconds; absent when it is for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_s: Option<u64>,
}

/// Which entries of a list are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListQuery {
    /// Which list.
    pub list: List,
    /// Only those of a name.
    pub name: Option<String>,
    /// At most so many, and [`MAX_PAGE`].
    pub limit: usize,
    /// Only those behind this one, as [`ListPage::next`] has it.
    pub after: Option<String>,
}

/// Some entries of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListPage {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// In the order of their addresses, IPv4 first.
    pub entries: Vec<ListEntry>,
    /// How many there are in all, of the name if one was asked for.
    pub total: u64,
    /// What to ask for with `after` to get the next ones; null when there are none.
    pub next: Option<String>,
}

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    /// What is listed.
    pub prefix: String,
    /// On which list.
    pub list: List,
    /// The list's name.
    pub name: String,
    /// Why.
    pub reason: String,
    /// How much longer, seconds; null for good.
    pub left_s: Option<u64>,
    /// Packets seen since the agent's start; under a flood estimated from a sample.
    pub hits: u64,
}

/// Which address is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FindQuery {
    /// The address or prefix.
    pub prefix: String,
    /// Only entries of a name.
    pub name: Option<String>,
}

/// What becomes of packets from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ListVerdict {
    /// They pass all stages.
    Allowed,
    /// They are dropped.
    Blocked,
    /// No list has it.
    Unlisted,
}

/// Every entry of both lists that covers an address, or a whole prefix.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListFound {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// What was asked for.
    pub prefix: String,
    /// What becomes of packets from there.
    pub verdict: ListVerdict,
    /// Whether blocked packets pass, as the mode is "observe".
    #[serde(default)]
    pub observe: bool,
    /// Allow entries first, as they win, each with the longest first; the first of all decides. Of a name if one was
    /// asked for; the verdict is by all.
    pub entries: Vec<ListEntry>,
}

/// Every named list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListNames {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Allow lists, then block lists.
    pub lists: Vec<NamedList>,
    /// Entries that all names of a list may have together.
    pub capacity: u64,
}

/// A named list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedList {
    /// Which list.
    pub list: List,
    /// Its name.
    pub name: String,
    /// How many entries it has.
    pub entries: u64,
}

/// What `status` says of lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListsAtAGlance {
    /// Allow entries.
    pub allowed: u64,
    /// Block entries.
    pub blocked: u64,
    /// Named lists.
    pub names: u64,
    /// Entries that the allow list and the block list may have each.
    pub capacity: u64,
    /// Octets of the kernel's memory.
    pub kernel_memory: u64,
    /// Packets dropped by the block list; in observe mode those that would have been.
    pub drops: u64,
    /// Packets let pass by the allow list.
    pub passes: u64,
    /// Whether a large change is being built at the moment.
    pub building: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_json_of_changes_is_stable_and_strict() {
        let add: AddEntries =
            serde_json::from_value(json!({ "list": "block", "prefixes": ["192.0.2.1"] })).unwrap();
        assert_eq!(
            json!(add),
            json!({ "list": "block", "name": "manual", "prefixes": ["192.0.2.1"], "for": null, "reason": "",
                    "force": false, "ssh_peer": null })
        );
        let delete: DeleteEntries = serde_json::from_value(
            json!({ "list": "allow", "prefixes": [], "ignore_missing": true }),
        )
        .unwrap();
        assert_eq!(
            json!(delete),
            json!({ "list": "allow", "name": "manual", "prefixes": [], "all": false, "ignore_missing": true,
                    "force": false, "ssh_peer": null })
        );
        for wrong in [
            json!({ "list": "deny", "prefixes": [] }),
            json!({ "list": "block" }),
            json!({ "list": "block", "prefixes": [], "ttl": "1h" }),
            json!({ "list": "block", "prefixes": [], "for": "soon" }),
        ] {
            assert!(serde_json::from_value::<AddEntries>(wrong).is_err());
        }
        let changed = ListChanged {
            version: 1,
            list: List::Block,
            name: "manual".to_owned(),
            entries: [
                Outcome::Added,
                Outcome::Updated,
                Outcome::Unchanged,
                Outcome::Removed,
                Outcome::Missing,
            ]
            .map(|outcome| EntryChanged {
                prefix: "192.0.2.1".to_owned(),
                outcome,
                now_for_good: false,
            })
            .into(),
            deleted: 0,
            observe: true,
            confirm_within_s: None,
            warnings: vec![],
        };
        let entries = ["added", "updated", "unchanged", "removed", "missing"].map(
            |outcome| json!({ "prefix": "192.0.2.1", "outcome": outcome, "now_for_good": false }),
        );
        assert_eq!(
            json!(changed),
            json!({ "version": 1, "list": "block", "name": "manual", "entries": entries, "deleted": 0,
                    "observe": true, "warnings": [] })
        );
    }

    #[test]
    fn the_json_of_answers_is_stable() {
        let entry = ListEntry {
            prefix: "192.0.2.0/24".to_owned(),
            list: List::Allow,
            name: "office".to_owned(),
            reason: "ours".to_owned(),
            left_s: Some(60),
            hits: 7,
        };
        let shown = json!({ "prefix": "192.0.2.0/24", "list": "allow", "name": "office", "reason": "ours",
                            "left_s": 60, "hits": 7 });
        let page = ListPage {
            version: 1,
            entries: vec![entry.clone()],
            total: 2,
            next: Some("192.0.2.0/24,office".to_owned()),
        };
        assert_eq!(
            json!(page),
            json!({ "version": 1, "entries": [shown], "total": 2, "next": "192.0.2.0/24,office" })
        );
        let found = ListFound {
            version: 1,
            prefix: "192.0.2.1".to_owned(),
            verdict: ListVerdict::Allowed,
            observe: false,
            entries: vec![entry],
        };
        assert_eq!(
            json!(found),
            json!({ "version": 1, "prefix": "192.0.2.1", "verdict": "allowed", "observe": false,
                    "entries": [shown] })
        );
        assert_eq!(
            json!([ListVerdict::Blocked, ListVerdict::Unlisted]),
            json!(["blocked", "unlisted"])
        );
        let imported = ListImported {
            version: 1,
            list: List::Block,
            name: "feed".to_owned(),
            entries: 3,
            added: 1,
            updated: 1,
            removed: 4,
            build_ms: 5,
            kernel_memory: 6,
            agent_memory: 7,
            confirm_within_s: None,
            warnings: vec![],
        };
        assert_eq!(
            json!(imported),
            json!({ "version": 1, "list": "block", "name": "feed", "entries": 3, "added": 1, "updated": 1,
                    "removed": 4, "build_ms": 5, "kernel_memory": 6, "agent_memory": 7, "warnings": [] })
        );
        let names = ListNames {
            version: 1,
            lists: vec![NamedList {
                list: List::Block,
                name: "feed".to_owned(),
                entries: 3,
            }],
            capacity: 10,
        };
        assert_eq!(
            json!(names),
            json!({ "version": 1, "lists": [{ "list": "block", "name": "feed", "entries": 3 }], "capacity": 10 })
        );
        assert_eq!(
            json!(ListsAtAGlance::default()),
            json!({ "allowed": 0, "blocked": 0, "names": 0, "capacity": 0, "kernel_memory": 0, "drops": 0, "passes": 0,
                    "building": false })
        );
    }
}
