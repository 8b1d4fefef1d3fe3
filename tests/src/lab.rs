//! The laboratory's programs in the kernel: [`Pass`] and [`Generator`].

use std::{
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
    programs::{ProgramError, Xdp, XdpMode},
};
use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::prctl::set_timerslack,
    unistd::Pid,
};

use crate::{
    flood::{Flood, abi},
    interrupt,
    link::Link,
    netns::{Door, Namespace},
    topology::Host,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab-bpf"));

// SAFETY: repr(C), made of integers, and the size asserted beside it shows there is no padding.
unsafe impl Pod for abi::Flood {}

/// A link of the generator that is never up.
const IDLE: &str = "lab-idle";
/// Frames that the kernel makes of one batch. A veth ring has 256 places.
const BATCH: u32 = 64;
/// Frames of one system call when nothing is paced: some tens of milliseconds.
const STRETCH: u64 = 32 * 1024;

fn load(programs: &[&str]) -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new()
        .load(OBJECT)
        .context("the laboratory's object cannot be loaded")?;
    for name in programs {
        let program: &mut Xdp = ebpf
            .program_mut(name)
            .with_context(|| format!("the laboratory's object has no {name}"))?
            .try_into()?;
        program
            .load()
            .with_context(|| format!("{name} cannot be loaded"))?;
    }
    Ok(ebpf)
}

fn xdp<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("no {name}"))?
        .try_into()?)
}

/// `lab_pass` on links: makes them take frames that XDP sends. Detached when dropped.
pub struct Pass(Ebpf);

impl Pass {
    /// Loads it.
    ///
    /// # Errors
    /// Not root.
    pub fn load() -> Result<Self> {
        Ok(Self(load(&["lab_pass"])?))
    }

    /// Attaches it to one more link.
    ///
    /// # Errors
    /// The link has an XDP program already.
    pub fn attach(&mut self, namespace: &Namespace, link: &Link) -> Result<()> {
        let program = xdp(&mut self.0, "lab_pass")?;
        namespace
            .run(|| program.attach_to_if_index(link.ifindex, XdpMode::Driver))
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
    /// So many packets a second, in chunks of 64 or less; what the sender is late with is not made up for.
    PerSecond(u32),
}

impl Pace {
    /// Frames of one system call.
    fn chunk(self) -> u64 {
        match self {
            Self::FlatOut => STRETCH,
            // A millisecond's worth, as long as it fits a batch.
            Self::PerSecond(rate) => u64::from((rate / 1000).clamp(1, BATCH)),
        }
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
    /// Loads the programs and attaches the counter to the host's interface.
    ///
    /// # Errors
    /// Not root, or the interface has an XDP program already.
    pub fn new(host: &Host) -> Result<Self> {
        Self::on_cpu(host, None)
    }

    /// As [`Self::new`]; the generator will run on one CPU, and so will what its frames cause, as far as
    /// veth pairs reach.
    ///
    /// # Errors
    /// See there.
    pub fn on_cpu(host: &Host, cpu: Option<usize>) -> Result<Self> {
        let mut ebpf = load(&["lab_flood", "lab_sink"])?;
        let sink = xdp(&mut ebpf, "lab_sink")?;
        host.ns
            .run(|| sink.attach_to_if_index(host.link.ifindex, XdpMode::Driver))
            .with_context(|| format!("lab_sink cannot be attached in {}", host.ns.name()))?;
        // The kernel keeps a direct call for every XDP program in use, and adds and removes one around each test
        // run of a program that is not (bpf_prog_change_xdp): tens of milliseconds. So it is in use, where no
        // packet ever comes.
        host.ns
            .ip(&format!("link add {IDLE} type veth peer name {IDLE}-peer"))?;
        let flood = xdp(&mut ebpf, "lab_flood")?;
        host.ns
            .run(|| flood.attach(IDLE, XdpMode::Driver))
            .with_context(|| format!("lab_flood cannot be attached in {}", host.ns.name()))?;
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
                let mut cpus = CpuSet::new();
                cpus.set(cpu)?;
                sched_setaffinity(Pid::from_raw(0), &cpus)
                    .with_context(|| format!("CPU {cpu} cannot be used"))?;
            }
            // Sleeps end when asked, not up to 50 µs later.
            set_timerslack(1)?;
            let before = self.generated()?;
            let start = Instant::now();
            let (mut left, mut due) = (packets, start);
            while left > 0 && start.elapsed() < time && !stop.load(Ordering::Relaxed) {
                interrupt::check()?;
                let chunk = pace.chunk().min(left);
                self.inject(chunk)?;
                left -= chunk;
                if let Pace::PerSecond(rate) = pace {
                    due += Duration::from_secs_f64(chunk as f64 / f64::from(rate));
                    let now = Instant::now();
                    thread::sleep(due.saturating_duration_since(now));
                    due = due.max(now);
                }
            }
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
        let frame = [0; 96];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = [0, len, 0, self.link.ifindex, 0, 0]
            .map(u32::to_ne_bytes)
            .concat();
        let mut ebpf = self.ebpf.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = xdp(&mut ebpf, "lab_flood")?.test_run(TestRunOptions {
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
