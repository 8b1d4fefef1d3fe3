//! Every `[[probe]]`, as written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Spanned, Text};
use crate::config::HumanDuration;

/// One `[[probe]]`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawProbe {
    /// Where to: `http://` or `https://`.
    pub url: Spanned<Text>,
    /// What it is called; its URL without query and fragment when absent.
    pub name: Option<Spanned<Text>>,
    /// How often.
    #[schemars(with = "Option<HumanDuration>")]
    pub interval: Option<Spanned<Text>>,
    /// How long each stage may take.
    #[schemars(with = "Option<HumanDuration>")]
    pub timeout: Option<Spanned<Text>>,
    /// Beyond which time a stage is slow.
    #[serde(default)]
    pub slow: RawSlow,
    /// The status that is right.
    pub expect: Option<Spanned<i64>>,
    /// File of the certificates (PEM) that are trusted in place of the system's.
    pub ca: Option<Spanned<Text>>,
    /// `auto`, `1.0`, `1.1` or `2`.
    #[schemars(with = "Option<Http>")]
    pub http: Option<Spanned<Text>>,
    /// `ipv4` or `ipv6`; both when absent.
    #[schemars(with = "Option<IpFamily>")]
    pub family: Option<Spanned<Text>>,
    /// Addresses in place of a look-up, each `HOST:PORT:ADDRESS[,ADDRESS]`.
    #[serde(default)]
    pub resolve: Vec<Spanned<Text>>,
    /// How many redirects are followed.
    pub redirects: Option<Spanned<i64>>,
}

/// Table `slow` of a `[[probe]]`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RawSlow {
    /// The look-up.
    #[schemars(with = "Option<HumanDuration>")]
    pub name: Option<Spanned<Text>>,
    /// SYN to established.
    #[schemars(with = "Option<HumanDuration>")]
    pub tcp: Option<Spanned<Text>>,
    /// The TLS handshake.
    #[schemars(with = "Option<HumanDuration>")]
    pub tls: Option<Spanned<Text>>,
    /// Request to the first octet of the answer.
    #[schemars(with = "Option<HumanDuration>")]
    pub first_byte: Option<Spanned<Text>>,
    /// The whole walk.
    #[schemars(with = "Option<HumanDuration>")]
    pub total: Option<Spanned<Text>>,
}

/// The version of HTTP, in the schema.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "its schema is all there is to it")]
enum Http {
    /// HTTP/2 where TLS agrees on it, HTTP/1.1 otherwise.
    #[schemars(rename = "auto")]
    Auto,
    /// HTTP/1.0.
    #[schemars(rename = "1.0")]
    Http10,
    /// HTTP/1.1.
    #[schemars(rename = "1.1")]
    Http11,
    /// HTTP/2; without TLS with prior knowledge.
    #[schemars(rename = "2")]
    Http2,
}

/// The family of addresses, in the schema.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
#[expect(dead_code, reason = "its schema is all there is to it")]
enum IpFamily {
    /// Only IPv4.
    Ipv4,
    /// Only IPv6.
    Ipv6,
}
