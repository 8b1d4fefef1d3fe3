//! Guards of ICMP, UDP, scans and forged sources against real tools.

mod agent;
mod connections;
mod icmp;
mod icmp_errors;
mod scans;
mod spoofed;
mod udp;
