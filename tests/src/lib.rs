//! The laboratory: network namespaces that clean up after themselves, the real agent in them, floods, and
//! what the tests, the benchmarks and the demo build on that.
//!
//! Everything that is set up returns `anyhow::Result`. Tests `unwrap()` it instead of returning it: the
//! state of namespaces and agents is printed when they are dropped by a panic.

pub mod agent;
pub mod bench;
pub mod bpftool;
pub mod builds;
pub mod demo;
pub mod flood;
pub mod frames;
pub mod guards;
pub mod interrupt;
pub mod lab;
pub mod link;
pub mod lists;
pub mod neighbors;
pub mod netns;
pub mod probe;
pub mod process;
pub mod prog_run;
pub mod queues;
pub mod rawtcp;
pub mod scene;
pub mod server;
pub mod topology;
pub mod vigil;
pub mod wait;
