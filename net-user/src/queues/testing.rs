//! A listener whose life is told second by second.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
    time::{Duration, Instant},
};

use net_common::{
    abi::{FlowStats, ListenerStats, SKETCH_CELLS},
    sketch,
};

use super::{
    Health, Turn,
    looks::{DataPathLook, HostLook, ListenerLook, ListenerWalk, OwnersLook, QueueSettings, Walk},
};
use crate::{
    config::SynMode,
    control::queues::{
        Destination, ListenerQueues, Owner, States, TopSource, Verdict, VerdictKind,
    },
    host::sock_diag::ListenSocket,
    listeners::Identity,
};

pub const PORT: u16 = 80;
const LOOKS: u64 = 20;

/// An nginx with a backlog of 128 that netmoat protects, on a host where nothing happens. What a test changes stays so.
pub struct Sim {
    pub health: Health,
    pub now: Instant,
    pub wall: u64,
    pub sockets: Vec<ListenSocket>,
    pub protected: bool,
    pub mode: SynMode,
    pub why_not: Option<String>,
    pub stats: Option<ListenerStats>,
    pub flows: Option<FlowStats>,
    /// How many sources send in a second, ever new ones or ever the same.
    pub sources: Option<(u64, bool)>,
    pub host: HostLook,
    pub walk: ListenerWalk,
    pub destinations: Vec<Destination>,
    pub turns: Vec<Turn>,
    seconds: u64,
}

pub fn identity() -> Identity {
    Identity {
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: PORT,
        family: 4,
        ifindex: 0,
    }
}

pub fn socket(cookie: u64, limit: u32) -> ListenSocket {
    ListenSocket {
        family: 4,
        address: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        port: PORT,
        ifindex: 0,
        inode: u32::try_from(cookie).unwrap(),
        uid: 0,
        cookie,
        v6only: false,
        accept_queue: 0,
        accept_limit: limit,
        rcvbuf: 131_072,
        drops: 0,
        mptcp: false,
        md5: false,
    }
}

pub fn settings() -> QueueSettings {
    QueueSettings {
        somaxconn: 4096,
        max_syn_backlog: 4096,
        synack_retries: 5,
        syncookies: 1,
        fin_timeout: 60,
        max_tw_buckets: 65_536,
        tw_reuse: 2,
        local_port_range: (32_768, 60_999),
        ..QueueSettings::default()
    }
}

impl Sim {
    pub fn new() -> Self {
        let now = Instant::now();
        Self::of(Health::new(now), now)
    }

    pub fn of(mut health: Health, now: Instant) -> Self {
        let owner = |pid| Owner {
            pid,
            name: "nginx".into(),
            unit: Some("nginx.service".into()),
        };
        health.owners(OwnersLook {
            owners: HashMap::from([(1, owner(12)), (2, owner(13)), (900, owner(14))]),
            ..OwnersLook::default()
        });
        Self {
            health,
            now,
            wall: 1_000_000,
            sockets: vec![socket(1, 128)],
            protected: true,
            mode: SynMode::Auto,
            why_not: None,
            stats: Some(ListenerStats::default()),
            flows: Some(FlowStats::default()),
            sources: None,
            host: HostLook {
                settings: settings(),
                ..HostLook::default()
            },
            walk: ListenerWalk::default(),
            destinations: Vec::new(),
            turns: Vec::new(),
            seconds: 0,
        }
    }

    pub fn stats(&mut self) -> &mut ListenerStats {
        self.stats.get_or_insert_default()
    }

    pub fn flows(&mut self) -> &mut FlowStats {
        self.flows.get_or_insert_default()
    }

    pub fn states(&mut self) -> &mut States {
        &mut self.walk.states
    }

    /// `came` connections are completed, spread over the second.
    pub fn complete(&mut self, came: u64) {
        self.flows().established += came;
    }

    pub fn overflow(&mut self, times: u32) {
        self.sockets[0].drops += times;
        self.count("TcpExtListenOverflows", times.into());
    }

    pub fn count(&mut self, name: &str, by: u64) {
        *self.host.counters.entry(name.into()).or_default() += by;
    }

    pub fn top(&mut self, address: &str, per_mille: u32) {
        let source = TopSource {
            address: address.into(),
            per_mille,
        };
        self.health
            .sources(HashMap::from([(identity(), vec![source])]));
    }

    /// A look at the sockets, 50 ms on.
    pub fn look(&mut self) {
        self.now += Duration::from_millis(1000 / LOOKS);
        let look = ListenerLook {
            identity: identity(),
            sockets: self.sockets.clone(),
            interface: None,
            mode: self.mode,
            protected: self.protected,
            why_not: self.why_not.clone(),
        };
        self.health.listeners(self.now, vec![look]);
    }

    /// A second; `each` is called before each of its looks.
    pub fn second(&mut self, mut each: impl FnMut(&mut Self, u64)) {
        for look in 0..LOOKS {
            each(self, look);
            self.look();
        }
        self.seconds += 1;
        self.wall += 1;
        let sketch = self.sources.map(|(sources, new)| {
            let mut cells = [0; SKETCH_CELLS];
            let first = if new { self.seconds * sources } else { 0 };
            for source in first..first + sources {
                // SplitMix64, so that the hashes are spread.
                let mut z = (source + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                let (cell, bit) = sketch::place(z ^ (z >> 31));
                cells[cell] |= bit;
            }
            cells
        });
        let look = DataPathLook {
            stats: self.stats,
            flows: self.flows,
            sketch,
        };
        self.health
            .data_path(self.now, HashMap::from([(identity(), look)]));
        for name in ["TcpExtListenOverflows", "TcpExtTCPTimeWaitOverflow"] {
            self.count(name, 0);
        }
        self.health.host(self.now, self.host.clone());
        if self.seconds.is_multiple_of(5) {
            self.walk();
        }
        let turns = self.health.judge(self.now, self.wall);
        self.turns.extend(turns);
    }

    pub fn walk(&mut self) {
        self.health.walk(Walk {
            at: self.now,
            cost: Duration::from_millis(1),
            complete: true,
            listeners: HashMap::from([(identity(), self.walk.clone())]),
            states: self.walk.states,
            destinations: self.destinations.clone(),
        });
    }

    /// So many seconds, each begun with `each`.
    pub fn seconds(&mut self, count: u64, mut each: impl FnMut(&mut Self)) {
        for _ in 0..count {
            each(self);
            self.second(|_, _| {});
        }
    }

    pub fn report(&self) -> ListenerQueues {
        self.health.report(self.now).listeners.remove(0)
    }

    pub fn kinds(&self) -> Vec<VerdictKind> {
        self.report()
            .verdicts
            .iter()
            .map(|verdict| verdict.kind)
            .collect()
    }

    /// The verdict of this kind, which has to hold.
    pub fn verdict(&self, kind: VerdictKind) -> Verdict {
        let verdicts = self.report().verdicts;
        let found = verdicts.iter().find(|verdict| verdict.kind == kind);
        found
            .unwrap_or_else(|| panic!("no {kind:?} in {verdicts:#?}"))
            .clone()
    }
}
