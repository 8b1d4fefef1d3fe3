//! `netmoat probe` against real servers.

mod agent;
mod canary;
mod cases;
mod http;
mod name;
mod output;
mod tcp;
mod tls;
mod trace;
