//! `[ip]`, `[icmp]`, `[udp]` and `[tcp]` as written.

use std::{borrow::Cow, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer,
    de::{self, value::MapAccessDeserializer},
};

use super::{GuardMode, Spanned, Text};
use crate::config::guards::{ReversePath, Share};

/// Table `[ip]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawIp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// `off`, `loose` or `strict`.
    #[schemars(with = "Option<ReversePath>")]
    pub reverse_path: Option<Spanned<Text>>,
    /// Fragments.
    pub fragments: Option<Spanned<RawClass>>,
}

/// Table `[icmp]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawIcmp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// Echo requests.
    pub echo_request: Option<Spanned<RawClass>>,
    /// Echo replies.
    pub echo_reply: Option<Spanned<RawClass>>,
    /// "Fragmentation needed" and "packet too big".
    pub path_mtu: Option<Spanned<RawClass>>,
    /// Time exceeded.
    pub time_exceeded: Option<Spanned<RawClass>>,
    /// Destination unreachable, parameter problem.
    pub unreachable: Option<Spanned<RawClass>>,
    /// IPv4 redirects.
    pub redirect: Option<Spanned<RawClass>>,
    /// Timestamps and node information.
    pub informational: Option<Spanned<RawClass>>,
    /// Every other type.
    pub other: Option<Spanned<RawClass>>,
}

/// Table `[udp]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawUdp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// From the port of a service that amplifies, to a socket.
    pub reflection: Option<Spanned<RawClass>>,
    /// Resolvers and time servers without limit.
    #[serde(default)]
    pub servers: Vec<Spanned<Text>>,
    /// Whether the name servers in `/etc/resolv.conf` are among them.
    pub resolv_conf: Option<Spanned<bool>>,
}

/// Table `[tcp]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawTcp {
    /// `off`, `observe` or `enforce`.
    #[schemars(with = "Option<GuardMode>")]
    pub mode: Option<Spanned<Text>>,
    /// Segments without a socket, while they are an attack.
    pub stray: Option<Spanned<RawClass>>,
    /// SYN-ACKs that nobody asked for.
    pub stray_syn_ack: Option<Spanned<RawClass>>,
    /// New connections of one source.
    #[schemars(with = "Option<Share>")]
    pub new_connections: Option<Spanned<Text>>,
    /// Open connections of one source.
    pub open_connections: Option<Spanned<i64>>,
}

/// What one class of packets may come to: each a share, or `off`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawShares {
    /// One address.
    #[schemars(with = "Option<Share>")]
    pub host: Option<Spanned<Text>>,
    /// One /24 or /64.
    #[schemars(with = "Option<Share>")]
    pub prefix: Option<Spanned<Text>>,
    /// One /48.
    #[schemars(with = "Option<Share>")]
    pub site: Option<Spanned<Text>>,
    /// All sources not seen before.
    #[schemars(with = "Option<Share>")]
    pub pool: Option<Spanned<Text>>,
    /// All sources that have been seen for a while.
    #[schemars(with = "Option<Share>")]
    pub steady: Option<Spanned<Text>>,
    /// All sources that have proved themselves.
    #[schemars(with = "Option<Share>")]
    pub proven: Option<Spanned<Text>>,
}

/// The shares of a class, or a word in place of all of them.
#[derive(Debug)]
pub enum RawClass {
    /// Each on its own.
    Shares(Box<RawShares>),
    /// `off`; any other is an error that tells how shares are written.
    Word(Text),
}

impl JsonSchema for RawClass {
    fn schema_name() -> Cow<'static, str> {
        "Shares".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let shares = generator.subschema_for::<RawShares>();
        json_schema!({ "anyOf": [shares, { "const": "off" }] })
    }
}

impl<'de> Deserialize<'de> for RawClass {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> de::Visitor<'de> for Visitor {
            type Value = RawClass;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table of shares, or \"off\"")
            }

            fn visit_str<E: de::Error>(self, value: &str) -> Result<RawClass, E> {
                Ok(RawClass::Word(Text(value.to_owned())))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawClass, E> {
                Ok(RawClass::Word(Text(value.to_string())))
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<RawClass, A::Error> {
                RawShares::deserialize(MapAccessDeserializer::new(map))
                    .map(|shares| RawClass::Shares(Box::new(shares)))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}
