//! What travels over the control socket about dropped packets and trials of frames; see [`super::protocol`].

use serde::{Deserialize, Serialize};

use crate::config::Mode;
use crate::drops::seen::Seen;

/// The largest frame that can be tried, octets: a jumbo frame. What the kernel takes may be less.
pub const MAX_FRAME: usize = 9018;
/// The smallest: an Ethernet header.
pub const MIN_FRAME: usize = 14;

/// A sampled drop, where it is one of the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropDetails {
    /// The reason's number; `netmoat explain` knows it.
    pub code: u32,
    /// The reason's name.
    pub reason: String,
    /// Whether observe mode let it pass.
    pub observed: bool,
    /// The share that refused it: `host`, `prefix` (/24, /64 or /48), `pool` of all sources not seen before, `total` of all
    /// that are as well known; absent where no share did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// Octets of the whole frame.
    pub length: u32,
    /// Its headers.
    pub seen: Seen,
}

/// Dropped packets since the programs were loaded, those that were only observed too, and of how many the agent was
/// told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropTotals {
    /// All.
    pub packets: u64,
    /// Of these, told to the agent.
    pub told: u64,
    /// To be told, but the ring buffer was full.
    pub lost: u64,
    /// Left out, as others of the same reason were told.
    pub not_sampled: u64,
}

/// Sampled drops with their frames.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// A number that differs for each start of the agent, as in `/v1/events`.
    pub agent: u64,
    /// Number of the last event there is; ask for those after it next time.
    pub last: u64,
    /// Whether samples after the one asked for were already forgotten.
    pub forgotten: bool,
    /// Of all drops.
    pub totals: DropTotals,
    /// Oldest first.
    pub drops: Vec<DroppedFrame>,
}

/// One sampled drop with the first octets of its frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedFrame {
    /// Its number among all events.
    pub sequence: u64,
    /// When, seconds since 1970.
    pub at_s: u64,
    /// And so many nanoseconds; apart, so that every reader of JSON keeps both exact.
    pub at_ns: u32,
    /// Index of the interface.
    pub ifindex: u32,
    /// The interface.
    pub interface: String,
    /// The reason's number.
    pub code: u32,
    /// The reason's name.
    pub reason: String,
    /// Whether observe mode let it pass.
    pub observed: bool,
    /// The share that refused it: `host`, `prefix` (/24, /64 or /48), `pool` of all sources not seen before, `total` of all
    /// that are as well known; absent where no share did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// Octets of the whole frame.
    pub length: u32,
    /// Its first octets, as hexadecimal digits.
    pub frame: String,
}

/// Body of `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainFrame {
    /// The frame from its Ethernet header on, as hexadecimal digits.
    pub frame: String,
    /// The attached interface on which it is to seem to arrive; the first one when absent.
    #[serde(default)]
    pub interface: Option<String>,
}

/// What the loaded program did with a frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameExplained {
    /// [`super::protocol::VERSION`].
    pub version: u32,
    /// What becomes of it: `pass`, `drop` or `reply`.
    pub verdict: String,
    /// The reason's number.
    pub code: u32,
    /// The reason's name.
    pub reason: String,
    /// What the reason does in enforce mode: `pass`, `drop` or `reply`.
    pub action: String,
    /// Whether observe mode kept it from being done.
    pub observed: bool,
    /// The share that refused it: `host`, `prefix` (/24, /64 or /48), `pool` of all sources not seen before, `total` of all
    /// that are as well known; absent where no share did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// The agent's mode. A guard may have one of its own.
    pub mode: Mode,
    /// The interface on which it seemed to arrive.
    pub interface: String,
    /// Octets of the frame.
    pub length: u32,
    /// What the parser saw.
    pub seen: Seen,
    /// The entries that list the source, for what was allowed or blocked.
    #[serde(default)]
    pub listed: Vec<ListedBy>,
}

/// An entry of the allowlist or blocklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedBy {
    /// The entry, as `192.0.2.0/24`.
    pub entry: String,
    /// The name of the list it is of.
    pub origin: String,
    /// Why, in the words of whoever added it.
    pub reason: String,
    /// How much longer, seconds; null for always.
    pub left_s: Option<u64>,
}

/// Octets as hexadecimal digits.
pub fn hex(octets: &[u8]) -> String {
    use std::fmt::Write as _;
    octets.iter().fold(
        String::with_capacity(octets.len() * 2),
        |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        },
    )
}

/// The octets of hexadecimal digits, two each and nothing else; None for other texts.
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|d| d as u8);
    text.as_bytes()
        .chunks(2)
        .map(|pair| match *pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_back() {
        let octets: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&octets)), Some(octets));
        for bad in ["0", "0g", "0x00", " 00", "é"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }
}
