//! The stage: three hosts on a bridge, nginx on one, a generator on another, and what is changed between acts.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use net_user::host::sock_diag::Diag;

use super::{
    acts::Act,
    client::{Load, TIMEOUT},
    cpus::Cpus,
    web::{self, Web},
};
use crate::{
    agent::Agent,
    flood::Flood,
    lab::{Counter, Generator},
    topology::{Host, Lan},
    wait,
};

/// A half-open connection of a listener that is gone lasts until its timer runs out.
const DRAIN: Duration = Duration::from_secs(40);

/// Everything that an act needs.
pub struct Stage {
    /// Who may use which CPU.
    pub cpus: Cpus,
    /// nginx's host.
    pub server: Host,
    /// The honest one.
    pub client: Host,
    /// The flood's.
    pub attacker: Host,
    /// What joins them.
    pub lan: Lan,
    /// On the attacker's host.
    pub generator: Generator,
    /// On the server, in the acts that have it.
    pub agent: Option<Agent>,
    /// Of the server's sockets.
    pub diag: Diag,
    web: Option<Web>,
}

impl Stage {
    /// Builds it, without a server.
    ///
    /// # Errors
    /// Not root, or something is missing.
    pub fn new(cpus: Cpus) -> Result<Self> {
        let lan = Lan::new()?;
        let server = lan.host("server")?;
        let client = lan.host("client")?;
        let attacker = lan.host("attacker")?;
        server.route_sources_via(&attacker)?;
        let generator = Generator::with(&attacker, Counter::Xdp, Some(cpus.flood))?;
        generator.aim(&Flood::syn(&server, 4, web::PORT))?;
        let diag = server.ns.run(Diag::open)?;
        Ok(Self {
            cpus,
            server,
            client,
            attacker,
            lan,
            generator,
            agent: None,
            diag,
            web: None,
        })
    }

    /// Where the client connects to.
    pub fn target(&self) -> SocketAddr {
        self.server.at(4, web::PORT)
    }

    /// Sets what the act needs. The kernel's queues are empty then, except that an agent which runs already
    /// goes on undisturbed.
    ///
    /// # Errors
    /// Something does not start or does not end in time.
    pub fn prepare(&mut self, act: &Act) -> Result<()> {
        if act.netmoat && self.agent.is_some() {
            return Ok(());
        }
        self.web = None;
        let diag = &mut self.diag;
        wait::until("the half-open connections to run out", DRAIN, || {
            diag.syn_recv_by_port()
                .is_ok_and(|ports| !ports.contains_key(&web::PORT))
        })?;
        self.server
            .ns
            .sysctl("net.ipv4.tcp_syncookies", &act.syncookies.to_string())?;
        let server = &self.server;
        self.web = Some(self.cpus.on_rest(|| Web::start(server))?);
        if act.netmoat {
            // The default: what `netmoat run -i eth0` does.
            let agent = self.cpus.on_all(|| Agent::start(server, ""))?;
            agent.await_listener(web::PORT, true)?;
            self.agent = Some(agent);
        }
        // Neighbours have found one another, and nginx has read the page.
        let attempts = self
            .load(Instant::now(), Duration::from_millis(1))?
            .finish();
        ensure!(
            attempts
                .iter()
                .any(|attempt| attempt.connect.is_some_and(|time| time < TIMEOUT)),
            "the client does not reach nginx, without any flood"
        );
        Ok(())
    }

    /// The client's workers, for so long.
    ///
    /// # Errors
    /// The CPUs are gone.
    pub fn load(&self, start: Instant, time: Duration) -> Result<Load> {
        let door = self.client.ns.door();
        let target = self.target();
        self.cpus
            .on_rest(|| Ok(Load::start(&door, target, start, time)))
    }

    /// Ends the agent in an orderly manner.
    ///
    /// # Errors
    /// It does not end.
    pub fn close(mut self) -> Result<()> {
        match self.agent.take() {
            Some(mut agent) => agent
                .terminate()
                .map(drop)
                .context("the agent does not end"),
            None => Ok(()),
        }
    }
}
