//! A vigil over a protected server, as long as something is done to it: honest clients, to whom no gap in the service
//! may go unnoticed, and a blocked stranger, to whom no gap in the protection may.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpListener, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    process::Process,
    scene::{Info, PATIENCE, PORT, Scene, dial, patient},
    server::{Server, visit_from_here},
    topology::Host,
    wait,
};

/// Where the server waits for the stranger's datagrams.
const PROBED: u16 = 5353 + 1000;
/// Where the transfer goes.
const TRANSFER: u16 = PORT + 1;
/// Between two connections. Each is a handshake, a line of text and an end in order.
const VISIT_EVERY: Duration = Duration::from_millis(25);
/// Between two datagrams of the stranger: a gap as long is found.
const PROBE_EVERY: Duration = Duration::from_micros(500);
/// Between two portions of the transfer.
const PORTION_EVERY: Duration = Duration::from_millis(2);
/// Octets of one; a prime, so that none that is lost goes unseen.
const PORTION: usize = 1009;
/// A connection that takes longer has lost its SYN or the answer: they are sent again after 1 s (RFC 6298 section 2).
const LOST: Duration = Duration::from_millis(950);
/// Between two echo requests, in seconds as ping reads it; the default share of a host is 100 a second.
const PING_EVERY: &str = "0.02";

/// What blocks the stranger, in TOML.
pub fn block(scene: &Scene) -> String {
    format!(
        "[lists]\nblock = [\"{}\", \"{}\"]\n",
        scene.attacker.v4, scene.attacker.v6
    )
}

/// The watch; ends with [`Vigil::end`].
pub struct Vigil {
    course: Arc<Course>,
    visits: JoinHandle<Visits>,
    transfer: JoinHandle<Transfer>,
    probes: JoinHandle<Probes>,
    receiver: UdpSocket,
    ping: Process,
    // Listens until the last visit is over.
    _server: Server,
}

/// What its threads have in common.
#[derive(Default)]
struct Course {
    stop: AtomicBool,
    /// Connections that were served or failed, portions that came back, and the stranger's datagrams.
    done: [AtomicU64; 3],
}

impl Course {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, what: usize) {
        self.done[what].fetch_add(1, Ordering::Relaxed);
    }
}

/// Connections of the honest client.
#[derive(Debug, Default)]
pub struct Visits {
    /// Those that were served.
    pub served: u64,
    /// The longest.
    pub longest: Duration,
    /// What went wrong.
    pub failures: Vec<String>,
}

/// A connection that was open all the time.
#[derive(Debug, Default)]
pub struct Transfer {
    /// Octets that came back as they were sent.
    pub octets: u64,
    /// The longest time that a portion took to come back.
    pub longest: Duration,
    /// Segments sent again by either end.
    pub repeated: u32,
}

/// Datagrams of the stranger.
#[derive(Debug, Default)]
pub struct Probes {
    /// How many.
    pub sent: u64,
    /// The longest time without one, in which a gap would go unseen.
    pub longest_pause: Duration,
}

/// What was seen.
#[derive(Debug)]
pub struct Seen {
    /// By clients.
    pub visits: Visits,
    /// On an open connection.
    pub transfer: Transfer,
    /// Echo requests, and their answers.
    pub pings: (u64, u64),
    /// Of the stranger.
    pub probes: Probes,
    /// Numbers of the stranger's datagrams that came through.
    pub leaked: Vec<u64>,
}

impl Vigil {
    /// Begins, on IP version 4 or 6. The agent must have [`block`] in its config.
    pub fn begin(scene: &Scene, family: u8) -> Self {
        let server = Server::start(&scene.server.ns, scene.server.at(family, PORT)).unwrap();
        let course = Arc::default();
        let receiver = receiver(scene, family);
        let address = scene.server.ip(family).to_string();
        let mut ping = Command::new("ping");
        ping.args(["-n", "-q", "-i", PING_EVERY, &address]);
        let ping = Process::start(&scene.client.ns, &mut ping).unwrap();
        Self {
            visits: visits(scene, server.address(), &course),
            transfer: transfer(scene, family, &course),
            probes: probes(scene, family, &course),
            course,
            receiver,
            ping,
            _server: server,
        }
    }

    /// Waits until there were some more connections, portions and datagrams: about a second's worth.
    pub fn go_on(&self) {
        let done = || {
            self.course
                .done
                .each_ref()
                .map(|n| n.load(Ordering::Relaxed))
        };
        let before = done();
        wait::until("more of everything", PATIENCE, || {
            let mut grown = done().into_iter().zip(before).zip([30, 300, 1000]);
            grown.all(|((now, before), wanted)| now - before >= wanted)
        })
        .unwrap();
    }

    /// Ends, and tells.
    pub fn end(mut self) -> Seen {
        self.course.stop.store(true, Ordering::Relaxed);
        let visits = self.visits.join().unwrap();
        let transfer = self.transfer.join().unwrap();
        let probes = self.probes.join().unwrap();
        self.ping.signal(Signal::SIGINT).unwrap();
        self.ping.wait(PATIENCE).unwrap();
        Seen {
            visits,
            transfer,
            pings: pings(&self.ping.printed()),
            probes,
            leaked: received(&self.receiver),
        }
    }
}

impl Seen {
    /// Nobody honest lost anything, and the stranger never got in.
    ///
    /// # Panics
    /// Somebody did.
    pub fn assert_without_a_gap(&self) {
        assert_eq!(self.visits.failures, Vec::<String>::new(), "{self:#?}");
        assert!(self.visits.served > 0, "{self:#?}");
        assert!(self.visits.longest < LOST, "a SYN was lost: {self:#?}");
        assert!(self.transfer.octets > 0, "{self:#?}");
        assert_eq!(self.transfer.repeated, 0, "{self:#?}");
        let (sent, answered) = self.pings;
        // The last may be on its way when ping is told to end.
        assert!(sent > 0 && sent - answered <= 1, "{self:#?}");
        assert!(self.probes.sent > 0, "{self:#?}");
        assert_eq!(self.leaked, Vec::<u64>::new(), "{self:#?}");
    }
}

/// Whether a datagram of a host's reaches the server, asked until one does or `time` is over. No vigil may go on.
pub fn gets_in(scene: &Scene, from: &Host, family: u8, time: Duration) -> bool {
    let receiver = receiver(scene, family);
    let sender = sender(scene, from, family);
    wait::until("the datagram", time, || {
        sender.send(&0_u64.to_be_bytes()).unwrap();
        !received(&receiver).is_empty()
    })
    .is_ok()
}

fn receiver(scene: &Scene, family: u8) -> UdpSocket {
    let at = scene.server.at(family, PROBED);
    let socket = scene.server.ns.run(|| UdpSocket::bind(at)).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn sender(scene: &Scene, from: &Host, family: u8) -> UdpSocket {
    let at = from.at(family, 0);
    let socket = from.ns.run(|| UdpSocket::bind(at)).unwrap();
    socket.connect(scene.server.at(family, PROBED)).unwrap();
    socket
}

/// All that the receiver has; of a gap of a second its buffer holds the first part.
fn received(receiver: &UdpSocket) -> Vec<u64> {
    let mut numbers = Vec::new();
    let mut number = [0; 8];
    loop {
        match receiver.recv(&mut number) {
            Ok(8) => numbers.push(u64::from_be_bytes(number)),
            Ok(len) => panic!("a datagram of {len} octets"),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return numbers,
            Err(error) => panic!("the receiver: {error}"),
        }
    }
}

fn visits(scene: &Scene, to: SocketAddr, course: &Arc<Course>) -> JoinHandle<Visits> {
    let (door, course) = (scene.client.ns.door(), Arc::clone(course));
    thread::spawn(move || {
        door.enter();
        let mut seen = Visits::default();
        while course.goes_on() {
            let start = Instant::now();
            match visit_from_here(to, PATIENCE) {
                Ok(()) => seen.served += 1,
                Err(error) => seen.failures.push(format!("{error:#}")),
            }
            seen.longest = seen.longest.max(start.elapsed());
            course.count(0);
            thread::sleep(VISIT_EVERY);
        }
        seen
    })
}

fn transfer(scene: &Scene, family: u8, course: &Arc<Course>) -> JoinHandle<Transfer> {
    let at = scene.server.at(family, TRANSFER);
    let listener = scene.server.ns.run(|| TcpListener::bind(at)).unwrap();
    let mut client = dial(&scene.client, at);
    let mut server = patient(listener.accept().unwrap().0);
    let course = Arc::clone(course);
    let echo = thread::spawn(move || {
        let mut buffer = [0; 4 * PORTION];
        loop {
            match server.read(&mut buffer).unwrap() {
                0 => return Info::of(&server).repeated,
                len => server.write_all(&buffer[..len]).unwrap(),
            }
        }
    });
    thread::spawn(move || {
        let mut seen = Transfer::default();
        while course.goes_on() {
            let start = Instant::now();
            let said: Vec<u8> = (0..PORTION)
                .map(|n| (seen.octets >> 3) as u8 ^ n as u8)
                .collect();
            client.write_all(&said).unwrap();
            let mut heard = vec![0; PORTION];
            client.read_exact(&mut heard).unwrap();
            assert_eq!(heard, said, "after {} octets", seen.octets);
            seen.octets += PORTION as u64;
            seen.longest = seen.longest.max(start.elapsed());
            course.count(1);
            thread::sleep(PORTION_EVERY);
        }
        seen.repeated = Info::of(&client).repeated;
        drop(client);
        seen.repeated += echo.join().unwrap();
        seen
    })
}

fn probes(scene: &Scene, family: u8, course: &Arc<Course>) -> JoinHandle<Probes> {
    let (sender, course) = (sender(scene, &scene.attacker, family), Arc::clone(course));
    thread::spawn(move || {
        let mut seen = Probes::default();
        let mut last = Instant::now();
        while course.goes_on() {
            sender.send(&seen.sent.to_be_bytes()).unwrap();
            seen.sent += 1;
            seen.longest_pause = seen.longest_pause.max(last.elapsed());
            last = Instant::now();
            course.count(2);
            thread::sleep(PROBE_EVERY);
        }
        seen
    })
}

/// `N packets transmitted, M received`.
fn pings(printed: &str) -> (u64, u64) {
    let number = |what: &str| {
        let before = printed
            .split(what)
            .next()
            .filter(|s| s.len() < printed.len());
        let number = before.and_then(|text| text.rsplit([' ', '\n']).next());
        let number = number.and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("no number of{what}: {printed}"))
    };
    (number(" packets transmitted"), number(" received"))
}
