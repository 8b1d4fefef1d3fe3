//! The laboratory's programs in the kernel: [`Pass`] and [`Generator`].

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf, EbpfLoader, Pod, TestRun as _, TestRunAttrs, TestRunOptions,
    maps::{Array, MapData, PerCpuArray},
    programs::{
        Program, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode, links::LinkOrder,
        tc::TcAttachOptions,
    },
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::prctl::set_timerslack,
    unistd::Pid,
};

use crate::{
    flood::{self, Flood, abi},
    interrupt,
    link::Link,
    netns::{Door, Namespace},
    topology::Host,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab-bpf"));

// SAFETY: repr(C), made of integers, and the size asserted beside it shows there is no padding.
unsafe impl Pod for abi::Flood {}
// SAFETY: as above.
unsafe impl Pod for abi::Claims {}
// SAFETY: as above.
unsafe impl Pod for abi::Sources {}

/// How late a paced flood may be and still make up for it: about as long as another task's turn.
const LATE: Duration = Duration::from_millis(5);
/// A link of the generator that is never up.
const IDLE: &str = "lab-idle";
/// Frames that the kernel makes of one batch. A veth ring has 256 places.
const BATCH: u32 = 64;
/// Frames of one system call at most when they are paced: whatever else is on the link waits behind them.
const CHUNK: u32 = 32;
/// Frames of one system call when nothing is paced: some tens of milliseconds.
const STRETCH: u64 = 32 * 1024;

/// The laboratory's object in the kernel; its programs are loaded as they are needed.
fn load() -> Result<Ebpf> {
    EbpfLoader::new()
        .load(OBJECT)
        .context("the laboratory's object cannot be loaded")
}

/// A program of the object.
fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P>
where
    &'a mut P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .with_context(|| format!("the laboratory has no {name}"))?;
    program
        .try_into()
        .with_context(|| format!("{name} is of another type"))
}

/// `lab_pass` on links: makes them take frames that XDP sends. Detached when dropped.
pub struct Pass(Ebpf);

impl Pass {
    /// Loads it.
    ///
    /// # Errors
    /// Not root.
    pub fn load() -> Result<Self> {
        let mut ebpf = load()?;
        program::<Xdp>(&mut ebpf, "lab_pass")?
            .load()
            .context("lab_pass cannot be loaded")?;
        Ok(Self(ebpf))
    }

    /// Attaches it to one more link.
    ///
    /// # Errors
    /// The link has an XDP program already.
    pub fn attach(&mut self, namespace: &Namespace, link: &Link) -> Result<()> {
        let pass = program::<Xdp>(&mut self.0, "lab_pass")?;
        namespace
            .run(|| pass.attach_to_if_index(link.ifindex, XdpMode::Driver))
            .with_context(|| {
                format!(
                    "lab_pass cannot be attached to {} in {}",
                    link.name,
                    namespace.name()
                )
            })?;
        Ok(())
    }

    /// The program's id, as bpftool shows it.
    ///
    /// # Errors
    /// The kernel refuses the question.
    pub fn id(&self) -> Result<u32> {
        Ok(self
            .0
            .program("lab_pass")
            .context("no lab_pass")?
            .info()?
            .id())
    }
}

/// How fast a flood goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the sending CPU can.
    FlatOut,
    /// So many packets a second, in chunks of 32 or less; no burst makes up for more than [`LATE`].
    PerSecond(u32),
}

impl Pace {
    /// Frames of one system call.
    fn chunk(self) -> u64 {
        match self {
            Self::FlatOut => STRETCH,
            // A millisecond's worth.
            Self::PerSecond(rate) => u64::from((rate / 1000).clamp(1, CHUNK)),
        }
    }
}

/// Where answers are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    /// At XDP. Takes everything, and a veth brings answers of XDP programs no other way.
    Xdp,
    /// At TC: sees only what the kernel sent, but costs it less.
    Tc,
}

impl Counter {
    fn attach(self, ebpf: &mut Ebpf, host: &Host) -> Result<()> {
        let (door, ifindex, name) = (host.ns.door(), host.link.ifindex, &host.link.name);
        match self {
            Self::Xdp => {
                let sink: &mut Xdp = program(ebpf, "lab_sink")?;
                sink.load().context("lab_sink cannot be loaded")?;
                door.run(|| sink.attach_to_if_index(ifindex, XdpMode::Driver))
                    .map(drop)
            }
            Self::Tc => {
                let sink: &mut SchedClassifier = program(ebpf, "lab_sink_tc")?;
                sink.load().context("lab_sink_tc cannot be loaded")?;
                let order = TcAttachOptions::TcxOrder(LinkOrder::default());
                door.run(|| sink.attach_with_options(name, TcAttachType::Ingress, order))
                    .map(drop)
            }
        }
        .with_context(|| format!("answers cannot be counted in {}", host.ns.name()))
    }
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Frames.
    pub packets: u64,
    /// In this time.
    pub elapsed: Duration,
}

/// What came back to the flood's sources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sink {
    /// SYN-ACKs.
    pub syn_acks: u64,
    /// RSTs.
    pub rsts: u64,
    /// Other TCP segments.
    pub others: u64,
}

/// Sends floods from a host and counts what comes back, all in the kernel. SYN-ACKs and RSTs to the flood's
/// sources end at the host's interface; what is for the host itself passes.
pub struct Generator(Arc<Inner>);

struct Inner {
    ebpf: Mutex<Ebpf>,
    flood: Mutex<Array<MapData, abi::Flood>>,
    generated: PerCpuArray<MapData, u64>,
    sink: PerCpuArray<MapData, u64>,
    door: Door,
    link: Link,
    cpu: Option<usize>,
}

impl Generator {
    /// Loads the programs and attaches the counter to the host's interface. One a host.
    ///
    /// # Errors
    /// Not root, or the interface has an XDP program already.
    pub fn new(host: &Host) -> Result<Self> {
        Self::with(host, Counter::Xdp, None)
    }

    /// As [`Self::new`]; with a CPU the generator runs there alone, and so does what its frames cause, as far
    /// as veth pairs reach.
    ///
    /// # Errors
    /// See there.
    pub fn with(host: &Host, counter: Counter, cpu: Option<usize>) -> Result<Self> {
        let mut ebpf = load()?;
        // The kernel keeps a direct call for every XDP program in use, and adds and removes one around each test
        // run of a program that is not (bpf_prog_change_xdp): tens of milliseconds. So it is in use, where no
        // packet ever comes.
        host.ns
            .ip(&format!("link add {IDLE} type veth peer name {IDLE}-peer"))?;
        let flood: &mut Xdp = program(&mut ebpf, "lab_flood")?;
        flood.load().context("lab_flood cannot be loaded")?;
        host.ns
            .run(|| flood.attach(IDLE, XdpMode::Driver))
            .with_context(|| format!("lab_flood cannot be attached in {}", host.ns.name()))?;
        counter.attach(&mut ebpf, host)?;
        let mut take = |name| ebpf.take_map(name).ok_or_else(|| anyhow!("no map {name}"));
        Ok(Self(Arc::new(Inner {
            flood: Mutex::new(take("FLOOD")?.try_into()?),
            generated: take("GENERATED")?.try_into()?,
            sink: take("SINK")?.try_into()?,
            ebpf: Mutex::new(ebpf),
            door: host.ns.door(),
            link: host.link.clone(),
            cpu,
        })))
    }

    /// Sets what is sent from now on.
    ///
    /// # Errors
    /// Source and target are of different families.
    pub fn aim(&self, flood: &Flood) -> Result<()> {
        // Another sequence for each namespace and flood, the same in each run.
        let seed = u64::from(self.0.link.ifindex) << 32 | u64::from(flood.target.port());
        let value = flood.compile(self.0.link.mac, seed)?;
        let mut map = self.0.flood.lock().unwrap_or_else(PoisonError::into_inner);
        map.set(0, value, 0).context("FLOOD cannot be written")
    }

    /// Sends exactly so many frames, at once.
    ///
    /// # Errors
    /// Nothing was aimed at, or Ctrl-C was pressed.
    pub fn send(&self, packets: u64) -> Result<Sent> {
        self.run(Pace::FlatOut, packets, Duration::MAX)
    }

    /// Sends until `packets` are sent or `time` is over.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn run(&self, pace: Pace, packets: u64, time: Duration) -> Result<Sent> {
        self.0.run(pace, packets, time, &AtomicBool::new(false))
    }

    /// Sends on a thread of its own, for `time` at most.
    pub fn start(&self, pace: Pace, time: Duration) -> Flooding {
        let (inner, stop) = (Arc::clone(&self.0), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || inner.run(pace, u64::MAX, time, &stopped));
        Flooding {
            stop,
            thread: Some(thread),
        }
    }

    /// Frames sent since the programs were loaded.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn generated(&self) -> Result<u64> {
        self.0.generated()
    }

    /// What has come back since the programs were loaded.
    ///
    /// # Errors
    /// The kernel refuses the read.
    pub fn sink(&self) -> Result<Sink> {
        let read = |entry| -> Result<u64> { Ok(self.0.sink.get(&entry, 0)?.iter().sum()) };
        Ok(Sink {
            syn_acks: read(abi::SINK_SYN_ACKS)?,
            rsts: read(abi::SINK_RSTS)?,
            others: read(abi::SINK_OTHERS)?,
        })
    }
}

impl Inner {
    fn generated(&self) -> Result<u64> {
        Ok(self.generated.get(&0, 0)?.iter().sum())
    }

    /// On a thread of its own inside the namespace: live frames leave through an interface of the caller's.
    fn run(&self, pace: Pace, packets: u64, time: Duration, stop: &AtomicBool) -> Result<Sent> {
        self.door.run(|| {
            if let Some(cpu) = self.cpu {
                stay_on(cpu)?;
            }
            let before = self.generated()?;
            let start = Instant::now();
            paced(
                pace,
                packets,
                time,
                || stop.load(Ordering::Relaxed),
                |chunk| self.inject(chunk),
            )?;
            Ok(Sent {
                packets: self.generated()? - before,
                elapsed: start.elapsed(),
            })
        })
    }

    /// One system call.
    fn inject(&self, packets: u64) -> Result<()> {
        let len = {
            let map = self.flood.lock().unwrap_or_else(PoisonError::into_inner);
            map.get(&0, 0).context("FLOOD cannot be read")?.len
        };
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        inject(&mut ebpf, "lab_flood", &self.link, len, packets)
    }
}

/// Sends chunks until `packets` are sent, `time` is over or `stop` says so; how many were sent.
fn paced(
    pace: Pace,
    packets: u64,
    time: Duration,
    stop: impl Fn() -> bool,
    mut send: impl FnMut(u64) -> Result<()>,
) -> Result<u64> {
    // Sleeps end when asked, not up to 50 µs later.
    set_timerslack(1)?;
    let start = Instant::now();
    let (mut left, mut due) = (packets, start);
    while left > 0 && start.elapsed() < time && !stop() {
        interrupt::check()?;
        let chunk = pace.chunk().min(left);
        send(chunk)?;
        left -= chunk;
        if let Pace::PerSecond(rate) = pace {
            due += Duration::from_secs_f64(chunk as f64 / f64::from(rate));
            let now = Instant::now();
            thread::sleep(due.saturating_duration_since(now));
            due = due.max(now.checked_sub(LATE).unwrap_or(now));
        }
    }
    Ok(packets - left)
}

/// Runs a program on as many live frames of `len` octets, which it sends out of `link`. One system call.
fn inject(ebpf: &mut Ebpf, name: &str, link: &Link, len: u32, packets: u64) -> Result<()> {
    let frame = [0; 96];
    // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
    let context: Vec<u8> = [0, len, 0, link.ifindex, 0, 0]
        .map(u32::to_ne_bytes)
        .concat();
    let sent = program::<Xdp>(ebpf, name)?.test_run(TestRunOptions {
        data_in: Some(frame.get(..len as usize).context("no flood was aimed")?),
        ctx_in: Some(&context),
        repeat: u32::try_from(packets)?,
        attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
        ..TestRunOptions::new()
    });
    match sent {
        Ok(_) => Ok(()),
        // A signal came: whoever asked for an end is heard by the caller.
        Err(ProgramError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::EINTR as i32) =>
        {
            Ok(())
        }
        Err(error) => Err(error).context("live frames cannot be sent"),
    }
}

/// Keeps the calling thread on one CPU, and what its frames cause as far as veth pairs reach.
fn stay_on(cpu: usize) -> Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &cpus).with_context(|| format!("CPU {cpu} cannot be used"))
}

/// Claims of neighbours, one after the other from many addresses.
#[derive(Clone, Copy, Debug)]
pub struct Claims {
    /// An ARP packet or, with `ndp`, a neighbour advertisement; padded with zeros.
    pub frame: [u8; abi::CLAIM],
    /// Whether it is a neighbour advertisement.
    pub ndp: bool,
    /// The last word of the first sender (ARP) or target.
    pub first: u32,
    /// How many addresses there are.
    pub count: u32,
}

/// Sends [`Claims`] from a host.
pub struct ClaimGenerator(Pages<abi::Claims>);

impl ClaimGenerator {
    /// Loads the program; it runs on `cpu`.
    ///
    /// # Errors
    /// Not root, or the interface has an XDP program already.
    pub fn new(host: &Host, cpu: usize) -> Result<Self> {
        Ok(Self(Pages::new(host, cpu, "lab_claims", "CLAIMS")?))
    }

    /// Sends claims for `time`.
    ///
    /// # Errors
    /// The kernel refuses, or Ctrl-C was pressed.
    pub fn run(&mut self, claims: &Claims, time: Duration) -> Result<()> {
        let value = abi::Claims {
            frame: words(&claims.frame),
            first: claims.first,
            count: claims.count,
            ndp: claims.ndp.into(),
            reserved: 0,
        };
        self.0.send(value, Pace::FlatOut, u64::MAX, time).map(drop)
    }
}

/// Frames from many sources, one after the other in an order that no cache foresees.
#[derive(Clone, Copy, Debug)]
pub struct Sources {
    /// The frame, padded with zeros.
    pub frame: [u8; abi::CLAIM],
    /// Whether it is IPv6.
    pub ipv6: bool,
    /// Number of the first source; see [`source_address`].
    pub first: u32,
    /// How many there are.
    pub count: u32,
    /// Whether the checksum that the source is part of is put right: of the IPv4 header, or of an ICMPv6 message.
    pub checksum: bool,
}

impl Sources {
    /// What [`abi::Sources::sum`] is to be.
    fn sum(&self) -> u32 {
        if !self.checksum {
            return 0;
        }
        let mut frame = self.frame;
        let covered = if self.ipv6 {
            frame[14 + 40 + 2..][..2].fill(0);
            let len = usize::from(u16::from_be_bytes([frame[18], frame[19]]));
            // The length is part of the pseudo header, and so is the protocol.
            let pseudo = len as u32 + u32::from(frame[20]);
            let pseudo = u32::from((pseudo as u16).to_be());
            return pseudo + flood::sum(&frame[38..54 + len.next_multiple_of(2)]);
        } else {
            frame[24..26].fill(0);
            frame[26..30].fill(0);
            &frame[14..34]
        };
        flood::sum(covered)
    }
}

/// The `n`-th source of [`Sources`]: unicast, all over the addresses.
pub fn source_address(n: u32, ipv6: bool) -> IpAddr {
    let [a, b, c, d] = abi::spread_address(n, ipv6);
    if !ipv6 {
        return Ipv4Addr::from_bits(a).into();
    }
    let bits = [a, b, c, d]
        .into_iter()
        .fold(0, |bits, word| bits << 32 | u128::from(word));
    Ipv6Addr::from_bits(bits).into()
}

/// Sends [`Sources`] from a host.
pub struct SourceGenerator(Pages<abi::Sources>);

impl SourceGenerator {
    /// Loads the program; it runs on `cpu`.
    ///
    /// # Errors
    /// Not root, or the interface has an XDP program already.
    pub fn new(host: &Host, cpu: usize) -> Result<Self> {
        Ok(Self(Pages::new(host, cpu, "lab_sources", "SOURCES")?))
    }

    /// Sends for `time`.
    ///
    /// # Errors
    /// The kernel refuses, or Ctrl-C was pressed.
    pub fn run(&mut self, sources: &Sources, time: Duration) -> Result<Sent> {
        self.send(sources, Pace::FlatOut, u64::MAX, time)
    }

    /// Sends until `packets` are sent or `time` is over.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn send(
        &mut self,
        sources: &Sources,
        pace: Pace,
        packets: u64,
        time: Duration,
    ) -> Result<Sent> {
        let value = abi::Sources {
            frame: words(&sources.frame),
            first: sources.first,
            count: sources.count,
            ipv6: sources.ipv6.into(),
            sum: sources.sum(),
        };
        self.0.send(value, pace, packets, time)
    }
}

fn words(octets: &[u8; abi::CLAIM]) -> [u64; abi::CLAIM / 8] {
    let mut frame = [0; abi::CLAIM / 8];
    for (word, octets) in frame.iter_mut().zip(octets.as_chunks::<8>().0) {
        *word = u64::from_ne_bytes(*octets);
    }
    frame
}

/// Sends pages of [`abi::CLAIM`] octets that a program writes as a value of type `V` says.
struct Pages<V: Pod> {
    ebpf: Ebpf,
    program: &'static str,
    value: Array<MapData, V>,
    door: Door,
    link: Link,
    cpu: usize,
}

impl<V: Pod> Pages<V> {
    fn new(host: &Host, cpu: usize, name: &'static str, map: &str) -> Result<Self> {
        let mut ebpf = load()?;
        let writer: &mut Xdp = program(&mut ebpf, name)?;
        writer
            .load()
            .with_context(|| format!("{name} cannot be loaded"))?;
        // A program in use somewhere spares each run tens of milliseconds, see `Generator::with`; and here it makes
        // the link take what the other end sends.
        let pass: &mut Xdp = program(&mut ebpf, "lab_pass")?;
        pass.load().context("lab_pass cannot be loaded")?;
        host.ns
            .run(|| pass.attach_to_if_index(host.link.ifindex, XdpMode::Driver))
            .with_context(|| format!("lab_pass cannot be attached in {}", host.ns.name()))?;
        host.ns
            .ip(&format!("link add {IDLE} type veth peer name {IDLE}-peer"))?;
        let writer: &mut Xdp = program(&mut ebpf, name)?;
        host.ns
            .run(|| writer.attach(IDLE, XdpMode::Driver))
            .with_context(|| format!("{name} cannot be attached in {}", host.ns.name()))?;
        let value = ebpf
            .take_map(map)
            .ok_or_else(|| anyhow!("no map {map}"))?
            .try_into()?;
        Ok(Self {
            ebpf,
            program: name,
            value,
            door: host.ns.door(),
            link: host.link.clone(),
            cpu,
        })
    }

    fn send(&mut self, value: V, pace: Pace, packets: u64, time: Duration) -> Result<Sent> {
        self.value
            .set(0, value, 0)
            .with_context(|| format!("{} takes no value", self.program))?;
        let (ebpf, program, link, cpu) = (&mut self.ebpf, self.program, &self.link, self.cpu);
        self.door.run(|| {
            stay_on(cpu)?;
            let start = Instant::now();
            let sent = paced(
                pace,
                packets,
                time,
                || false,
                |chunk| inject(ebpf, program, link, abi::CLAIM as u32, chunk),
            )?;
            Ok(Sent {
                packets: sent,
                elapsed: start.elapsed(),
            })
        })
    }
}

/// A flood under way; dropping it stops it.
pub struct Flooding {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<Sent>>>,
}

impl Flooding {
    /// Stops it and tells what was sent.
    ///
    /// # Errors
    /// It failed underway.
    pub fn stop(mut self) -> Result<Sent> {
        self.join().unwrap_or_else(|| Ok(Sent::default()))
    }

    fn join(&mut self) -> Option<Result<Sent>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl Drop for Flooding {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
