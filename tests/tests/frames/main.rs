//! Frames through the loaded programs (BPF_PROG_TEST_RUN), and what the verifier has to do with them.

mod ack;
mod arp;
mod events;
mod flows;
mod handshake;
mod icmp;
mod ip;
mod limits;
mod lists;
mod ndp;
mod parser;
mod qinq;
mod sanity;
mod sources;
mod stray;
mod syn;
mod udp;
mod untended;
mod verifier;
mod watch;
