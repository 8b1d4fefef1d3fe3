//! The netmoat agent: policy, the facts of the host, the data path's life, the control socket and the
//! command line. The binary `netmoat` is a thin shell around [`cli::main`].

pub mod agent;
pub mod build_info;
pub mod canaries;
pub mod cli;
pub mod config;
pub mod confirm;
pub mod control;
pub mod datapath;
pub mod drops;
pub mod filter;
pub mod guards;
pub mod host;
pub mod keys;
pub mod listeners;
pub mod lists;
pub mod metrics;
pub mod neighbor;
pub mod privileges;
pub mod probe;
pub mod queues;
pub mod reasons;
pub mod service;
