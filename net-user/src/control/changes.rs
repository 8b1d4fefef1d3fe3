//! What travels over the control socket about changes of the whole: reload, confirm, the config in force.

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use crate::config::show::Change;
use crate::config::{HumanDuration, Mode};

/// Body of `POST /v1/reload`; an empty body means the default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reload {
    /// Only say what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// Even if it locks someone out.
    #[serde(default)]
    pub force: bool,
    /// The former config returns after so long without a confirmation.
    #[serde(default)]
    pub confirm_within: Option<HumanDuration>,
    /// From where the operator is connected by SSH.
    #[serde(default)]
    pub ssh_peer: Option<IpAddr>,
}

/// Answer to `POST /v1/reload`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// Whether the changes are in force now; false for a dry run.
    pub applied: bool,
    /// What differs from before, by the file's keys.
    pub changes: Vec<Change>,
    /// What the operator should know, in plain words.
    pub warnings: Vec<String>,
    /// How long the change waits for its confirmation, seconds; null when it is for good.
    pub confirm_within_s: Option<u64>,
}

/// A change that waits for `netmoat confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingChange {
    /// What was changed, in plain words.
    pub what: String,
    /// When the former state returns, seconds since 1970.
    pub until: u64,
    /// How long until then, seconds.
    pub left_s: u64,
}

/// Answer to `POST /v1/confirm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confirmed {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// What is for good now, in plain words.
    pub what: String,
    /// How long there would still have been, seconds.
    pub left_s: u64,
    /// What the operator should know, in plain words.
    pub warnings: Vec<String>,
}

/// Answer to `GET /v1/config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigShown {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// The file that it came from; null for none.
    pub source: Option<PathBuf>,
    /// The files beside it, of which later ones win.
    pub drop_ins: Vec<PathBuf>,
    /// The mode that the file says, where `netmoat mode` has set another; else null.
    pub mode_in_file: Option<Mode>,
    /// Every key with its value, as the file has them, defaults included.
    pub config: Value,
    /// The same as a file.
    pub toml: String,
}
