//! Figures for Prometheus: `GET /metrics`, read-only, for this host alone.
//!
//! Labels are reasons, interfaces, ports and names out of fixed sets, never addresses: what an attacker sends can make
//! no new series, and what clients do is nobody's to collect.

mod exposition;
mod listeners;
mod own;
mod page;
mod probes;
mod server;

#[cfg(test)]
mod tests;

pub use page::{Reading, text};
pub use server::{Bound, serve};
