//! The guards: pure rules, a small view of the packet in, a reason out.

pub mod arp;
pub mod icmp;
pub mod ip;
pub mod ndp;
pub mod neighbor;
pub mod tcp;
pub mod udp;
