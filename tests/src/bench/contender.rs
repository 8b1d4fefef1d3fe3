//! Who answers SYNs, each in namespaces of its own.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Serialize;

use crate::{
    agent::Agent,
    lab::{Counter, Generator, Pass},
    topology::{Host, Pair},
};

/// The port under attack.
pub const PORT: u16 = 8080;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Contender {
    /// The kernel's listener with `tcp_syncookies=1`.
    Kernel,
    /// nftables synproxy, with the options of its manual.
    Synproxy,
    /// netmoat, every SYN answered with a cookie.
    NetmoatAlways,
    /// netmoat as it comes: cookies beyond the budget.
    NetmoatAuto,
}

impl Contender {
    /// Who takes part over an IP version, in the order of each round.
    pub fn of(family: u8) -> &'static [Self] {
        if family == 4 {
            return &[
                Self::Kernel,
                Self::Synproxy,
                Self::NetmoatAlways,
                Self::NetmoatAuto,
            ];
        }
        // Linux 6.18's nft_synproxy_do_eval calls nf_ip_checksum whatever the version: what the NIC has not
        // verified is dropped over IPv6, on a veth every SYN.
        &[Self::Kernel, Self::NetmoatAlways, Self::NetmoatAuto]
    }

    /// For the table.
    pub fn label(self) -> &'static str {
        match self {
            Self::Kernel => "kernel, tcp_syncookies=1",
            Self::Synproxy => "nftables synproxy",
            Self::NetmoatAlways => "netmoat, mode always",
            Self::NetmoatAuto => "netmoat, mode auto",
        }
    }
}

/// A contender ready to be flooded: a listener on [`PORT`], a generator on the other end of a veth pair.
pub struct Stage {
    /// Sends and counts.
    pub generator: Generator,
    /// The agent, if netmoat answers.
    pub agent: Option<Agent>,
    /// What makes the kernel's veth take the frames, if netmoat does not.
    pub pass: Option<Pass>,
    listener: TcpListener,
    pair: Pair,
}

impl Stage {
    /// Sets it up; the generator runs on `cpu`.
    ///
    /// # Errors
    /// Not root, nftables is missing, or the agent refuses.
    pub fn new(contender: Contender, family: u8, cpu: usize) -> Result<Self> {
        let pair = Pair::new()?;
        let server = &pair.server;
        server.ns.sysctl("net.ipv4.tcp_syncookies", "1")?;
        let listener = server
            .ns
            .run(|| TcpListener::bind(server.at(family, PORT)))
            .context("no listener for the flood")?;
        if contender == Contender::Synproxy {
            server.ns.nft(&synproxy())?;
            // As the manual of nftables says: an ACK must not make an entry.
            server
                .ns
                .sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
        }
        let mode = match contender {
            Contender::Kernel | Contender::Synproxy => None,
            Contender::NetmoatAlways => Some("always"),
            Contender::NetmoatAuto => Some("auto"),
        };
        let (agent, pass) = match mode {
            Some(mode) => {
                let agent = Agent::start(server, &format!("[syn]\nmode = {mode:?}"))?;
                agent.await_listener(PORT, true)?;
                (Some(agent), None)
            }
            None => {
                let mut pass = Pass::load()?;
                pass.attach(&server.ns, &server.link)?;
                (None, Some(pass))
            }
        };
        let counter = if agent.is_some() {
            Counter::Xdp
        } else {
            Counter::Tc
        };
        let generator = Generator::with(&pair.attacker, counter, Some(cpu))?;
        Ok(Self {
            generator,
            agent,
            pass,
            listener,
            pair,
        })
    }

    /// The host that is flooded.
    pub fn server(&self) -> &Host {
        &self.pair.server
    }

    /// A connection from the attacker's host, both ends of it, and the client's address.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn connect(&self) -> Result<(TcpStream, TcpStream, SocketAddr)> {
        let to = self.listener.local_addr()?;
        let client = self
            .pair
            .attacker
            .ns
            .run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))
            .with_context(|| format!("no connection to {to}"))?;
        let (server, address) = self.listener.accept()?;
        Ok((client, server, address))
    }
}

/// The rules of nft(8), section "synproxy statement", for one port.
fn synproxy() -> String {
    format!(
        "table ip lab {{
            chain prerouting {{
                type filter hook prerouting priority raw; policy accept;
                tcp dport {PORT} tcp flags & (fin|syn|rst|ack) == syn notrack
            }}
            chain input {{
                type filter hook input priority filter; policy accept;
                tcp dport {PORT} ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm
                tcp dport {PORT} ct state invalid drop
            }}
        }}"
    )
}
