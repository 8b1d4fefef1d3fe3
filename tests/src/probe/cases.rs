//! What breaks on the way from a URL to its page, each for real, and what the probe is to say of it.

pub mod agent;
pub mod close;
pub mod honest;
pub mod http;
pub mod name;
pub mod route;
pub mod tcp;
pub mod tls;
pub mod trace;

/// One broken (or sound) way.
pub struct Case {
    /// What is broken.
    pub name: &'static str,
    /// The layer to be named; none when all is well.
    pub layer: Option<&'static str>,
    /// The outcome to be told.
    pub outcome: &'static str,
    /// The finding's code.
    pub code: Option<&'static str>,
    /// Makes the scene, probes, gives the report.
    pub run: fn() -> serde_json::Value,
}
