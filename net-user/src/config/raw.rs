//! The config file as written: every key optional, texts not yet read, each with its place.

pub mod guards;
pub mod probe;
mod spanned;

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

pub use spanned::Spanned;

use super::{GuardMode, HumanDuration, Mode, OnExit, Rate, SynMode, XdpMode};

/// netmoat's configuration.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawConfig {
    /// The interfaces to attach to: names, globs, `default-route`.
    pub interfaces: Option<Spanned<Vec<Spanned<String>>>>,
    /// `observe` or `enforce`.
    #[schemars(with = "Option<Mode>")]
    pub mode: Option<Spanned<Text>>,
    /// `auto`, `native` or `generic`.
    #[schemars(with = "Option<XdpMode>")]
    pub xdp_mode: Option<Spanned<Text>>,
    /// Name of the instance.
    pub instance: Option<Spanned<Text>>,
    /// `keep` or `detach`.
    #[schemars(with = "Option<OnExit>")]
    pub on_exit: Option<Spanned<Text>>,
    /// Path of the control socket.
    pub socket: Option<Spanned<Text>>,
    /// Directory of what outlives the agent.
    pub state_dir: Option<Spanned<Text>>,
    /// Defaults of all listeners.
    #[serde(default)]
    pub syn: RawSyn,
    /// Overrides per listening port.
    #[serde(default, rename = "listener")]
    pub listeners: Vec<RawListener>,
    /// The ARP guard.
    #[serde(default)]
    pub arp: RawArp,
    /// The NDP guard.
    #[serde(default)]
    pub ndp: RawNdp,
    /// What both have in common.
    #[serde(default)]
    pub neighbors: RawNeighbors,
    /// Neighbours named by the operator.
    #[serde(default)]
    pub neighbor: Vec<RawNeighbor>,
    /// The guard of IP.
    #[serde(default)]
    pub ip: guards::RawIp,
    /// The guard of ICMP.
    #[serde(default)]
    pub icmp: guards::RawIcmp,
    /// The guard of UDP.
    #[serde(default)]
    pub udp: guards::RawUdp,
    /// The guard of TCP.
    #[serde(default)]
    pub tcp: guards::RawTcp,
    /// Block and allow lists.
    #[serde(default)]
    pub lists: RawLists,
    /// Sampled drops.
    #[serde(default)]
    pub events: RawEvents,
    /// Where metrics are served.
    #[serde(default)]
    pub metrics: RawMetrics,
    /// What the agent probes by itself.
    #[serde(default, rename = "probe")]
    pub probes: Vec<probe::RawProbe>,
}

/// Table `[syn]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSyn {
    /// `off`, `auto` or `always`.
    #[schemars(with = "Option<SynMode>")]
    pub mode: Option<Spanned<Text>>,
    /// Plain handshakes per listening port in `auto`.
    #[schemars(with = "Option<Rate>")]
    pub budget: Option<Spanned<Text>>,
    /// Burst of the budget.
    pub burst: Option<Spanned<i64>>,
    /// SYN-ACKs per destination prefix.
    #[schemars(with = "Option<Rate>")]
    pub syn_ack_limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub syn_ack_burst: Option<Spanned<i64>>,
    /// Time between two changes of the cookie key.
    #[schemars(with = "Option<HumanDuration>")]
    pub key_rotation: Option<Spanned<Text>>,
    /// Listening ports that the kernel is to answer alone.
    #[serde(default)]
    pub exclude_ports: Vec<Spanned<i64>>,
}

/// One `[[listener]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawListener {
    /// The listening port.
    pub port: Spanned<i64>,
    /// As in `[syn]`.
    #[schemars(with = "Option<SynMode>")]
    pub mode: Option<Spanned<Text>>,
    /// As in `[syn]`.
    #[schemars(with = "Option<Rate>")]
    pub budget: Option<Spanned<Text>>,
    /// As in `[syn]`.
    pub burst: Option<Spanned<i64>>,
}

/// Table `[arp]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawArp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// Optional checks: `src-mac`, `dst-mac`, `ip`.
    #[serde(default)]
    #[schemars(with = "Vec<ArpCheck>")]
    pub validate: Vec<Spanned<Text>>,
}

/// Table `[ndp]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNdp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// Link-local addresses of the routers that may advertise themselves.
    #[serde(default)]
    pub routers: Vec<Spanned<Text>>,
}

/// Table `[neighbors]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNeighbors {
    /// `auto` or `off`.
    #[schemars(with = "Option<Gateway>")]
    pub gateway: Option<Spanned<Text>>,
    /// Frames of one source link-layer address.
    #[schemars(with = "Option<Rate>")]
    pub limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub burst: Option<Spanned<i64>>,
    /// ARP announcements of one source link-layer address.
    #[schemars(with = "Option<Rate>")]
    pub announce_limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub announce_burst: Option<Spanned<i64>>,
    /// Frames of known neighbours, an interface.
    #[schemars(with = "Option<Rate>")]
    pub known_limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub known_burst: Option<Spanned<i64>>,
    /// Frames of all others, an interface.
    #[schemars(with = "Option<Rate>")]
    pub unknown_limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub unknown_burst: Option<Spanned<i64>>,
    /// Router advertisements, an interface.
    #[schemars(with = "Option<Rate>")]
    pub router_limit: Option<Spanned<Text>>,
    /// Burst of the same.
    pub router_burst: Option<Spanned<i64>>,
    /// Share reserved for each protected neighbour.
    #[schemars(with = "Option<Rate>")]
    pub share: Option<Spanned<Text>>,
    /// Burst of the same.
    pub share_burst: Option<Spanned<i64>>,
}

/// One `[[neighbor]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawNeighbor {
    /// Its IP address.
    pub address: Spanned<Text>,
    /// The link-layer addresses that it may be at.
    pub macs: Spanned<Vec<Spanned<Text>>>,
    /// The interface where it is.
    pub interface: Option<Spanned<Text>>,
    /// VLAN id of its frames.
    pub vlan: Option<Spanned<i64>>,
    /// May send router advertisements while the RA guard is on.
    pub router: Option<Spanned<bool>>,
}

/// Table `[lists]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawLists {
    /// Allowed sources, each `address[/len] [reason]`.
    #[serde(default)]
    pub allow: Vec<Spanned<Text>>,
    /// Blocked sources, likewise.
    #[serde(default)]
    pub block: Vec<Spanned<Text>>,
    /// Files of allowed sources.
    #[serde(default)]
    pub allow_files: Vec<Spanned<Text>>,
    /// Files of blocked sources.
    #[serde(default)]
    pub block_files: Vec<Spanned<Text>>,
}

/// Table `[events]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawEvents {
    /// Dropped packets that are told of, for each reason.
    #[schemars(with = "Option<Rate>")]
    pub rate: Option<Spanned<Text>>,
    /// Burst of the same.
    pub burst: Option<Spanned<i64>>,
}

/// Table `[metrics]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawMetrics {
    /// `unix:PATH`, or a loopback address with a port.
    pub listen: Option<Spanned<Text>>,
}

/// A text, or a bare number taken as text, so that `budget = 100` meets the error that explains rates and
/// not one about TOML's types.
#[derive(Debug)]
pub struct Text(pub String);

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// Whether gateways are learned, in the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "its schema is all there is to it")]
enum Gateway {
    /// The next hops of default routes are learned, and then protected.
    Auto,
    /// Only neighbours that were named are protected.
    Off,
}

/// An optional check of ARP, in the schema.
#[derive(JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "its schema is all there is to it")]
enum ArpCheck {
    /// The Ethernet source is the sender. Breaks VRRP.
    SrcMac,
    /// The Ethernet destination of a reply is its target.
    DstMac,
    /// Sender, and target of a reply, are no unspecified, broadcast or multicast address; probes pass.
    Ip,
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text in quotes")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<Text, E> {
                Ok(Text(value.to_owned()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Text, E> {
                Ok(Text(value.to_string()))
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Text, E> {
                // 1.0 is written as 1.0, which `to_string` does not do.
                Ok(Text(format!("{value:?}")))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
