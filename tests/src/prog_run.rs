//! The loaded programs, run on single frames (`BPF_PROG_TEST_RUN`) in a network namespace of the test's
//! own, so that their socket look-ups meet sockets that the test has opened.
//!
//! Without another device in its context the kernel runs a frame as one that came in on the loopback
//! device of the caller's namespace (Linux 6.12 `bpf_prog_test_run_xdp`); hence interface 1 in the keys.

pub mod flows;
pub mod guards;
pub mod neighbors;

use std::{
    collections::HashMap,
    io, mem,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use aya::{
    Ebpf,
    maps::{Array, MapData},
    programs::{
        SchedClassifier, TcAttachType, TestRun as _, TestRunOptions, Xdp, XdpMode,
        links::LinkOrder, tc::TcAttachOptions,
    },
};
use etherparse::{TcpHeader, TcpOptionElement};
use net_common::{
    abi::{CookieKeys, Listener, ListenerKey, ListenerStats, PortState, Settings},
    cookie,
    units::addr_words,
    verdict::{Action, Reason},
};
use net_user::datapath::{
    attach,
    load::{self, EGRESS_PROGRAM, TC_PROGRAM, XDP_PROGRAM},
    maps::{Maps, watch::WatchMaps},
};
use net_user::lists::Lists;
use nix::{
    libc,
    sys::{
        socket::{
            AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind,
            connect, recv, sendto, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike as _},
    },
    time::{ClockId, clock_gettime},
};

use crate::{
    frames::{CLIENT_V4, CLIENT_V6, Envelope, SERVER_MAC, SERVER_V4, SERVER_V6, segment},
    netns::Namespace,
};
use guards::Guards;
use neighbors::Neighbors;

/// The protected port.
pub const PORT: u16 = 8080;
/// Statistics slots of the listener, IPv4 and IPv6.
pub const SLOTS: [u32; 2] = [1, 2];
/// Keys that the test knows.
pub const KEYS: [[u64; 2]; 2] = [[0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908], [7, 11]];
/// An hour: longer than any test, so that no limit refills on its own.
pub const HOUR: u64 = 3_600_000_000_000;

const LOOPBACK: u32 = 1;
/// A device that the XDP program is attached to all the while, though nothing arrives there: the kernel prepares
/// for a program's first attachment or test run, and that would take 25 ms a frame.
const IDLE: &str = "idle";
/// The largest frame that a test run takes and a little more.
const ROOM: usize = 8192;

/// What came of one frame.
#[derive(Debug)]
pub struct Ran {
    /// The one verdict that was counted.
    pub reason: Reason,
    /// Counted as what would have happened.
    pub observed: bool,
    /// Counted beside the verdict.
    pub notes: Vec<Reason>,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// The programs, their maps, and a listener on [`PORT`] in the namespace of the calling thread.
pub struct Lab {
    ebpf: Ebpf,
    maps: Maps,
    ports: Array<MapData, PortState>,
    settings: Settings,
    /// Keeps the tracepoints attached.
    sockets_followed: Option<attach::Sockets>,
    /// Real listeners, IPv4 and IPv6.
    pub sockets: Option<[TcpListener; 2]>,
    /// What `LISTENERS` holds for them.
    pub listeners: [Listener; 2],
    /// The guards of ARP and neighbour discovery, which are off.
    pub neighbors: Neighbors,
    /// The guards of IP, ICMP, UDP and TCP without a socket, which are off.
    pub guards: Guards,
    /// Block and allow lists, which are empty.
    pub lists: Lists,
    /// Whose segments are told of one by one: nobody's.
    pub watches: WatchMaps,
}

/// Runs a test in a network namespace of its own with the addresses of [`crate::frames`] on its
/// loopback device.
pub fn in_namespace(test: impl FnOnce(&mut Lab) + Send) {
    let namespace = Namespace::new("frames").expect("a network namespace");
    let addresses = format!(
        "link add {IDLE} type veth peer name {IDLE}2\n\
         addr add {SERVER_V4}/32 dev lo\naddr add {CLIENT_V4}/32 dev lo\n\
         addr add {SERVER_V6}/128 dev lo nodad\naddr add {CLIENT_V6}/128 dev lo nodad\n"
    );
    namespace.ip(&addresses).expect("addresses");
    namespace.run(|| test(&mut Lab::new()));
}

/// Sets a sysctl of the calling thread's namespace.
pub fn sysctl(name: &str, value: &str) {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).unwrap_or_else(|e| panic!("{path}: {e}"));
}

/// Keeps outgoing packets that match an nftables expression from leaving the calling thread's host.
pub fn never_send(what: &str) {
    let rules = format!(
        "table inet silence {{ chain out {{ type filter hook output priority 0; {what} drop; }}; }}"
    );
    let status = std::process::Command::new("nft")
        .args(["--", &rules])
        .status();
    assert!(
        status.expect("nftables is installed").success(),
        "nft {rules}"
    );
}

/// The cookie epoch of this moment.
pub fn epoch() -> u32 {
    cookie::epoch(coarse_ns())
}

/// The data path's clock.
pub fn coarse_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// Repeats what must happen within one epoch until it did.
pub fn within_one_epoch<T>(mut what: impl FnMut(u32) -> T) -> T {
    loop {
        let before = epoch();
        let result = what(before);
        if epoch() == before {
            return result;
        }
    }
}

impl Lab {
    /// Programs loaded, the listener open and in mode `always`, no limit, nothing in the filter.
    fn new() -> Self {
        let mut ebpf = load::load().expect("the object loads");
        let ports = neighbors::open(&ebpf, "PORTS");
        let neighbors = Neighbors::open(&ebpf);
        let guards = Guards::open(&ebpf);
        let lists = Lists::new(&mut ebpf).expect("the lists' maps");
        let watches = WatchMaps::take(&mut ebpf).expect("the maps of watches");
        let xdp: &mut Xdp = load::program(&mut ebpf, XDP_PROGRAM).expect("the XDP program");
        xdp.attach(IDLE, XdpMode::Skb).expect("XDP on a device");
        let maps = Maps::take(&mut ebpf).expect("the maps");
        let (mac_front, mac_back) = Listener::split_mac(SERVER_MAC);
        let listener = Listener {
            interval_ns: HOUR,
            tolerance_ns: 0,
            slot: SLOTS[0],
            flags: Listener::ALWAYS
                | Listener::TIMESTAMPS
                | Listener::SACK
                | Listener::WINDOW_SCALING
                | Listener::ECN,
            mss: 1452,
            window: 43_210,
            wscale: 9,
            hop_limit: 61,
            mac_front,
            mac_back,
            reserved: 0,
        };
        let listeners = [
            listener,
            Listener {
                slot: SLOTS[1],
                mss: 1432,
                hop_limit: 62,
                ..listener
            },
        ];
        let settings = Settings {
            hash_seed: 0x1234_5678_9abc_def0,
            flags: Settings::FILTER_COMPLETE,
            ..Settings::default()
        };
        let mut lab = Self {
            ebpf,
            maps,
            ports,
            settings,
            sockets_followed: None,
            sockets: None,
            listeners,
            neighbors,
            guards,
            lists,
            watches,
        };
        // As of an agent that lives for an hour.
        lab.neighbors.beat(coarse_ns() + HOUR);
        lab.set_settings(|_| {});
        lab.set_keys(&CookieKeys {
            keys: [KEYS[0], [0; 2]],
            current: 0,
            valid: 1,
            since_ns: 0,
        });
        lab.set_listeners(|_| {});
        lab.open();
        lab
    }

    /// Opens the real listeners.
    pub fn open(&mut self) {
        let open = |addr: IpAddr| TcpListener::bind((addr, PORT)).expect("a listener");
        self.sockets = Some([open(SERVER_V4.into()), open(SERVER_V6.into())]);
    }

    /// Closes the real listeners; the data path is not told.
    pub fn close(&mut self) {
        self.sockets = None;
    }

    /// Changes the settings.
    pub fn set_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.maps.set_settings(&self.settings).expect("SETTINGS");
    }

    /// Sets or clears flags of the settings.
    pub fn set_flag(&mut self, flag: u32, on: bool) {
        self.set_settings(|s| {
            if on {
                s.flags |= flag;
            } else {
                s.flags &= !flag;
            }
        });
    }

    /// Writes the keys.
    pub fn set_keys(&mut self, keys: &CookieKeys) {
        self.maps.set_keys(keys).expect("COOKIE_KEYS");
    }

    /// Changes both listeners' entries.
    pub fn set_listeners(&mut self, change: impl Fn(&mut Listener)) {
        self.listeners.iter_mut().for_each(change);
        let keys = [SERVER_V4.into(), SERVER_V6.into()].map(|addr: IpAddr| ListenerKey {
            addr: addr_words(addr),
            ifindex: LOOPBACK,
            port: PORT,
            family: if addr.is_ipv4() { 4 } else { 6 },
        });
        let wanted: HashMap<_, _> = keys.into_iter().zip(self.listeners).collect();
        self.maps.set_listeners(&wanted).expect("LISTENERS");
    }

    /// Takes both entries out.
    pub fn forget_listeners(&mut self) {
        self.maps.set_listeners(&HashMap::new()).expect("LISTENERS");
    }

    /// The listener's entry for the envelope's family.
    pub fn listener(&self, envelope: &Envelope) -> Listener {
        self.listeners[usize::from(envelope.is_v6())]
    }

    /// The listener's statistics for the envelope's family.
    pub fn stats(&self, envelope: &Envelope) -> ListenerStats {
        self.maps
            .listener_stats(self.listener(envelope).slot)
            .expect("LISTENER_STATS")
    }

    /// Has the port's cookies look as if the last was sent in `epoch`; None for never.
    pub fn set_last_epoch(&mut self, epoch: Option<u32>) {
        let mut state = self.maps.port(PORT).expect("PORTS");
        state.last_epoch = epoch.map_or(0, |e| e.wrapping_add(1));
        self.ports.set(PORT.into(), state, 0).expect("PORTS");
    }

    /// The maps, as the agent has them.
    pub fn maps(&mut self) -> &mut Maps {
        &mut self.maps
    }

    /// The settings, as they were set last.
    pub fn settings(&self) -> Settings {
        self.settings
    }

    /// Has the port's listeners look as if they had changed at that second ([`PortState::changed_s`]).
    pub fn set_changed(&mut self, changed_s: u32) {
        let mut state = self.maps.port(PORT).expect("PORTS");
        state.changed_s = changed_s;
        self.ports.set(PORT.into(), state, 0).expect("PORTS");
    }

    /// Empties a half of the filter of sources that may hold a socket.
    pub fn clear_filter(&mut self, half: u32) {
        self.maps.clear_filter_half(half).expect("SOCKET_FILTER");
    }

    /// Adds a source to a half of the filter, as the agent does for sockets that it finds.
    pub fn add_to_filter(&mut self, half: u32, source: IpAddr) {
        let seed = self.settings.hash_seed;
        self.maps
            .add_to_filter(half, source, seed)
            .expect("SOCKET_FILTER");
    }

    /// Runs a frame through XDP. What holds for every frame is asserted here: one verdict is counted,
    /// exactly once; the return code is what that verdict says; a frame that is not answered is left
    /// as it was.
    pub fn run(&mut self, frame: &[u8]) -> Ran {
        self.run_split(frame, frame.len())
    }

    /// As [`Self::run`], with the frame's linear part ending after `linear` octets (Linux 6.18).
    pub fn run_split(&mut self, frame: &[u8], linear: usize) -> Ran {
        let context = [0, linear as u32, 0, LOOPBACK, 0, 0]
            .map(u32::to_ne_bytes)
            .concat();
        let mut out = vec![0; ROOM];
        let before = self.maps.counters().expect("COUNTERS");
        let xdp: &mut Xdp = load::program(&mut self.ebpf, XDP_PROGRAM).expect("the XDP program");
        let result = xdp
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..Default::default()
            })
            .unwrap_or_else(|e| {
                panic!("a test run of {} octets, {linear} linear: {e}", frame.len())
            });
        out.truncate(result.data_size_out as usize);
        let after = self.maps.counters().expect("COUNTERS");

        let moved = moved(&before, &after);
        let (notes, verdicts): (Vec<_>, Vec<_>) = moved
            .into_iter()
            .partition(|(reason, ..)| reason.action() == Action::Note);
        let &[(reason, enforced, observed)] = verdicts.as_slice() else {
            panic!("one verdict a frame, not {verdicts:?}");
        };
        assert_eq!(enforced + observed, 1, "{reason:?} is counted once");
        let (pass, drop, tx) = (2, 1, 3);
        let action = match reason.action() {
            _ if observed == 1 => pass,
            Action::Pass | Action::Note => pass,
            Action::Drop => drop,
            Action::Reply => tx,
        };
        assert_eq!(result.return_value, action, "return code for {reason:?}");
        if action != tx {
            assert_eq!(out, frame, "{reason:?} leaves the frame alone");
        }
        let notes = notes.into_iter().map(|(reason, ..)| reason).collect();
        Ran {
            reason,
            observed: observed == 1,
            notes,
            frame: out,
        }
    }

    /// What a frame that passes costs, nanoseconds: the mean of so many runs in a row.
    pub fn cost(&mut self, frame: &[u8], runs: u32) -> Duration {
        let xdp: &mut Xdp = load::program(&mut self.ebpf, XDP_PROGRAM).expect("the XDP program");
        let result = xdp
            .test_run(TestRunOptions {
                data_in: Some(frame),
                repeat: runs,
                ..Default::default()
            })
            .expect("test runs");
        assert_eq!(result.return_value, 2, "it passes");
        result.duration
    }

    /// Runs a frame through XDP and wants this verdict, enforced.
    #[track_caller]
    pub fn expect(&mut self, what: &str, frame: &[u8], reason: Reason) -> Ran {
        let ran = self.run(frame);
        assert_eq!((ran.reason, ran.observed), (reason, false), "{what}");
        ran
    }

    /// Runs a frame through TC. It goes on in any case; what is returned is what was counted.
    pub fn run_tc(&mut self, frame: &[u8]) -> Vec<Reason> {
        self.classify(TC_PROGRAM, frame)
    }

    /// Runs a frame through TC's egress, as one that the protected host sends. It counts nothing.
    pub fn run_egress(&mut self, frame: &[u8]) {
        let counted = self.classify(EGRESS_PROGRAM, frame);
        assert_eq!(counted, [], "TC egress");
    }

    /// As [`Self::run_egress`], for what this host asks: returns what was counted of whom it asked.
    pub fn ask(&mut self, frame: &[u8]) -> Vec<Reason> {
        self.classify(EGRESS_PROGRAM, frame)
    }

    fn classify(&mut self, program: &str, frame: &[u8]) -> Vec<Reason> {
        let before = self.maps.counters().expect("COUNTERS");
        // skb->skb_iif, which the program reads as ingress_ifindex: word 9 of struct __sk_buff.
        let mut context = [0u32; 48];
        context[9] = LOOPBACK;
        let context: Vec<u8> = context.iter().flat_map(|w| w.to_ne_bytes()).collect();
        let mut out = vec![0; ROOM];
        let tc: &mut SchedClassifier = load::program(&mut self.ebpf, program).expect(program);
        let result = tc
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ctx_in: Some(&context),
                ..Default::default()
            })
            .unwrap_or_else(|e| panic!("a test run of {} octets: {e}", frame.len()));
        out.truncate(result.data_size_out as usize);
        assert_eq!(
            result.return_value,
            u32::MAX,
            "TC_ACT_UNSPEC: whatever else is attached goes on"
        );
        assert_eq!(out, frame, "TC leaves the frame alone");
        let after = self.maps.counters().expect("COUNTERS");
        let moved = moved(&before, &after);
        assert!(
            moved.iter().all(|m| m.0.action() == Action::Note),
            "TC decides nothing: {moved:?}"
        );
        moved.into_iter().map(|(reason, ..)| reason).collect()
    }

    /// Attaches the TC program to the namespace's loopback device, for packets that really travel.
    pub fn attach_tc(&mut self) {
        let tc: &mut SchedClassifier =
            load::program(&mut self.ebpf, TC_PROGRAM).expect("the TC program");
        tc.attach_with_options(
            "lo",
            TcAttachType::Ingress,
            TcAttachOptions::TcxOrder(LinkOrder::default()),
        )
        .expect("TC on lo");
    }

    /// What was counted under a reason so far, enforced.
    pub fn count(&self, reason: Reason) -> u64 {
        self.maps.counters().expect("COUNTERS")[reason as usize]
    }
}

/// A reason and how often it was enforced and observed.
type Counted = (Reason, u64, u64);

fn moved(before: &[u64], after: &[u64]) -> Vec<Counted> {
    let difference = |entry: u32| after[entry as usize] - before[entry as usize];
    let all = Reason::ALL.iter();
    all.map(|&r| {
        (
            r,
            difference(r as u32),
            difference(Reason::COUNT + r as u32),
        )
    })
    .filter(|m| m.1 + m.2 > 0)
    .collect()
}

/// A SYN to [`PORT`] with these options.
pub fn syn(src_port: u16, isn: u32, options: &[TcpOptionElement]) -> TcpHeader {
    let mut tcp = segment(src_port, PORT, isn, "S");
    tcp.set_options(options).expect("40 octets of options");
    tcp
}

/// A SYN as Linux sends it.
pub fn linux_syn(src_port: u16, isn: u32) -> TcpHeader {
    use TcpOptionElement as E;
    let options = [
        E::MaximumSegmentSize(1460),
        E::SelectiveAcknowledgementPermitted,
        E::Timestamp(0x0102_0304, 0),
        E::Noop,
        E::WindowScale(7),
    ];
    syn(src_port, isn, &options)
}

/// The ACK with which an honest client answers a SYN-ACK to its SYN: timestamps when both have them.
pub fn ack(syn: &TcpHeader, synack: &TcpHeader) -> TcpHeader {
    let mut tcp = segment(
        syn.source_port,
        syn.destination_port,
        syn.sequence_number.wrapping_add(1),
        "A",
    );
    tcp.acknowledgment_number = synack.sequence_number.wrapping_add(1);
    if let Some(tsval) = timestamps(synack).map(|t| t.0) {
        use TcpOptionElement as E;
        tcp.set_options(&[E::Noop, E::Noop, E::Timestamp(0x0102_0309, tsval)])
            .expect("12 octets");
    }
    tcp
}

/// TSval and TSecr of a segment.
pub fn timestamps(tcp: &TcpHeader) -> Option<(u32, u32)> {
    tcp.options_iterator().find_map(|o| match o {
        Ok(TcpOptionElement::Timestamp(val, ecr)) => Some((val, ecr)),
        _ => None,
    })
}

/// Opens a connection from a given local address.
pub fn connect_from(src: SocketAddr, dst: SocketAddr) -> TcpStream {
    let family = if dst.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(fd.as_raw_fd(), &SockaddrStorage::from(src)).expect("the local address");
    connect(fd.as_raw_fd(), &SockaddrStorage::from(dst)).expect("a connection");
    fd.into()
}

/// Sends a segment as the namespace's own host would, by way of its loopback device.
pub fn send(envelope: &Envelope, tcp: &TcpHeader, data: &[u8]) {
    let frame = envelope.tcp(tcp, data);
    let raw = Raw::open(envelope.src);
    let to = SockaddrStorage::from(SocketAddr::new(envelope.dst, 0));
    let segment = &frame[envelope.l4()..];
    let sent = sendto(raw.fd.as_raw_fd(), segment, &to, MsgFlags::empty());
    assert_eq!(sent.expect("a raw send"), segment.len());
}

/// A raw TCP socket: sees every segment that arrives at its address.
pub struct Raw {
    fd: OwnedFd,
    /// Octets of IP header in front of what is received: IPv4 has it, IPv6 has not (raw(7), RFC 3542).
    header: usize,
}

impl Raw {
    /// Opens one on an address of the calling thread's namespace.
    pub fn open(addr: IpAddr) -> Self {
        let (family, header) = match addr {
            IpAddr::V4(_) => (AddressFamily::Inet, 20),
            IpAddr::V6(_) => (AddressFamily::Inet6, 0),
        };
        let fd = socket(
            family,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::Tcp,
        );
        let fd = fd.expect("a raw socket");
        let at = SockaddrStorage::from(SocketAddr::new(addr, 0));
        bind(fd.as_raw_fd(), &at).expect("the local address");
        let patience = TimeVal::seconds(5);
        setsockopt(&fd, sockopt::ReceiveTimeout, &patience).expect("SO_RCVTIMEO");
        Self { fd, header }
    }

    /// Waits for a segment that `wanted` picks by its header and data.
    pub fn wait(&self, wanted: impl Fn(&TcpHeader, &[u8]) -> bool) -> TcpHeader {
        let end = Instant::now() + Duration::from_secs(5);
        let mut packet = [0; 2048];
        loop {
            let len = recv(self.fd.as_raw_fd(), &mut packet, MsgFlags::empty());
            let len = len.expect("a segment within five seconds");
            let segment = TcpHeader::from_slice(&packet[self.header..len]);
            let (tcp, data) = segment.expect("a TCP header");
            if wanted(&tcp, data) {
                return tcp;
            }
            assert!(
                Instant::now() < end,
                "none of the segments was the one wanted"
            );
        }
    }
}

/// What the kernel keeps of a connection.
pub fn tcp_info(stream: &TcpStream) -> libc::tcp_info {
    // SAFETY: tcp_info is made of integers, for which zeros are valid.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the pointers are to a tcp_info and to its size.
    let result = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut len,
        )
    };
    assert_eq!(result, 0, "TCP_INFO: {}", io::Error::last_os_error());
    info
}
