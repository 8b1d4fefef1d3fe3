//! Programs onto interfaces, and off again.

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaXdpMode,
        links::{FdLink, LinkError, LinkOrder, PinnedLink},
        tc::{SchedClassifierLink, TcAttachOptions},
        xdp::XdpLink,
    },
};
use aya_obj::programs::XdpAttachType;
use tracing::{info, warn};

use super::{
    bpf,
    load::{
        EGRESS_PROGRAM, OPTIONAL_PROGRAMS, SOCK_PROGRAM, TC_PROGRAM, XDP_PROGRAM, load_optional,
        program,
    },
    pin::{Pins, Place},
};
use crate::config::XdpMode;

/// An interface with all programs on it. Dropped, it takes them off again, unless [`Attached::settle`] pinned them: then
/// they stay, whatever becomes of the agent. Links that stood before, and that were not settled, get back the programs
/// they had.
#[derive(Debug)]
pub struct Attached {
    /// Interface name when it was attached.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Native (in the driver), or else generic (behind an skb).
    pub native: bool,
    /// Whether the programs were put into the place of those of an agent before, without a gap.
    pub adopted: bool,
    /// XDP, TC ingress, TC egress.
    links: [Held; 3],
}

/// A link that is held here.
#[derive(Debug)]
struct Held {
    place: Place,
    state: State,
    /// The program that was on it when it was taken over, until the new one is settled.
    before: Option<Before>,
}

/// A program that is kept in the kernel; without a link, this alone keeps it.
#[derive(Debug)]
enum Before {
    Xdp(Xdp),
    Tc(SchedClassifier),
}

impl Before {
    /// The program on a pinned link, by its own pin: by its id the kernel gives it to CAP_SYS_ADMIN alone. None when another
    /// is pinned, as by an agent that was killed at the end of its start.
    ///
    /// # Errors
    /// It is not netmoat's, as far as the kernel tells; or it cannot be had.
    fn of(pins: &Pins, place: Place, link: &FdLink) -> Result<Option<Self>> {
        let id = link.info()?.program_id();
        let wanted = match place {
            Place::Xdp(_) => XDP_PROGRAM,
            Place::Ingress(_) => TC_PROGRAM,
            Place::Egress(_) => EGRESS_PROGRAM,
            Place::Socket(name) => name,
        };
        if let Some(found) = bpf::program_name(id) {
            ensure!(
                found == wanted,
                "{place} has the program {found} (id {id}), which is not netmoat's; look at it with `bpftool prog show \
                 id {id}`, or take everything off with `netmoat detach`"
            );
        }
        let Some(path) = pins.program(place)? else {
            return Ok(None);
        };
        let (before, pinned) = match place {
            Place::Xdp(_) => {
                let xdp = Xdp::from_pin(path, XdpAttachType::Interface)?;
                let pinned = xdp.info()?.id();
                (Self::Xdp(xdp), pinned)
            }
            _ => {
                let tc = SchedClassifier::from_pin(path)?;
                let pinned = tc.info()?.id();
                (Self::Tc(tc), pinned)
            }
        };
        Ok((pinned == id).then_some(before))
    }
}

#[derive(Debug)]
enum State {
    /// Goes with the process.
    Own(FdLink),
    /// Stays without it.
    Pinned(PinnedLink),
    /// Only while one state gives way to another.
    Gone,
}

impl Drop for Held {
    fn drop(&mut self) {
        let Some(before) = self.before.take() else {
            return;
        };
        let State::Pinned(link) = std::mem::replace(&mut self.state, State::Gone) else {
            return;
        };
        // Nothing else can be done about it here; the new program works, too.
        match give_back(link, before) {
            Ok(()) => info!("{}: the program before is on it again", self.place),
            Err(error) => warn!("{}: the program before is lost: {error:#}", self.place),
        }
    }
}

/// Puts a former program onto a pinned link.
fn give_back(link: PinnedLink, before: Before) -> Result<()> {
    let link = FdLink::from(link);
    // The link's pin keeps it.
    match before {
        Before::Xdp(mut xdp) => {
            let id = xdp.attach_to_link(XdpLink::try_from(link)?)?;
            drop(xdp.take_link(id)?);
        }
        Before::Tc(mut tc) => {
            let id = tc.attach_to_link(SchedClassifierLink::try_from(link)?)?;
            drop(tc.take_link(id)?);
        }
    }
    Ok(())
}

impl Held {
    /// A link of an agent before, which has the new program now.
    fn adopted(place: Place, pins: &Pins, before: Option<Before>) -> Result<Self> {
        let link = pins
            .link(place)?
            .with_context(|| format!("{place}: its pin is gone"))?;
        Ok(Self {
            place,
            state: State::Pinned(link),
            before,
        })
    }

    fn own(place: Place, link: FdLink) -> Self {
        Self {
            place,
            state: State::Own(link),
            before: None,
        }
    }

    /// From now on it stays without the process.
    fn settle(&mut self, pins: &Pins) -> Result<()> {
        self.before = None;
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Own(link) => State::Pinned(pins.pin_link(self.place, link)?),
            other => other,
        };
        Ok(())
    }

    /// Removes the pin, so that it goes with the process.
    fn unpin(&mut self) -> Result<()> {
        self.before = None;
        self.state = match std::mem::replace(&mut self.state, State::Gone) {
            State::Pinned(link) => State::Own(
                link.unpin()
                    .with_context(|| format!("{}: the pin cannot be removed", self.place))?,
            ),
            other => other,
        };
        Ok(())
    }
}

impl Attached {
    /// Makes it final: with pins, the programs stay whatever becomes of the agent; without, they go with it, also those
    /// that were pinned before.
    ///
    /// # Errors
    /// A pin cannot be made or removed.
    pub fn settle(&mut self, pins: Option<&Pins>) -> Result<()> {
        for held in &mut self.links {
            match pins {
                Some(pins) => held.settle(pins)?,
                None => held.unpin()?,
            }
        }
        pins.map_or(Ok(()), |pins| pins.note_mode(self.ifindex, self.native))
    }

    /// Puts back what others have taken off; `missing` says which of XDP, TC ingress and TC egress. What is still there
    /// stays. With pins, the new links are pinned in place of the old.
    ///
    /// # Errors
    /// As of [`attach`]. What could be put back is.
    pub fn mend(
        &mut self,
        ebpf: &mut Ebpf,
        pins: Option<&Pins>,
        missing: [bool; 3],
        mode: XdpMode,
    ) -> Result<()> {
        // XDP last, as in the beginning.
        for (held, missing) in self.links.iter_mut().zip(missing).rev() {
            if !missing {
                continue;
            }
            // The link is dead, and so is its pin.
            if let Err(error) = held.unpin() {
                warn!("{error:#}");
            }
            let name = &self.name;
            *held = match held.place {
                Place::Xdp(ifindex) => {
                    let (held, native) = attach_xdp(ebpf, None, name, ifindex, mode)?;
                    self.native = native;
                    held
                }
                place => attach_tc(ebpf, None, name, place)?,
            };
            if let Some(pins) = pins {
                held.settle(pins)?;
            }
        }
        pins.map_or(Ok(()), |pins| pins.note_mode(self.ifindex, self.native))
    }

    /// Takes the programs off: first XDP, so that nothing is answered that TC would have to finish.
    ///
    /// # Errors
    /// A pin cannot be removed; the others are.
    pub fn take_off(mut self) -> Result<()> {
        let mut first = Ok(());
        for held in &mut self.links {
            let done = held.unpin();
            held.state = State::Gone;
            first = first.and(done);
        }
        first
    }
}

/// Pins the programs of interfaces in the place of those that an agent before has pinned, so that the next one can put them
/// back when its own start fails.
///
/// # Errors
/// A pin cannot be made.
pub fn keep_programs(ebpf: &mut Ebpf, pins: &Pins) -> Result<()> {
    // Which interface is all the same.
    let xdp = program::<Xdp>(ebpf, XDP_PROGRAM)?;
    pins.pin_program(Place::Xdp(0), |path| xdp.pin(path))?;
    for (name, place) in [
        (TC_PROGRAM, Place::Ingress(0)),
        (EGRESS_PROGRAM, Place::Egress(0)),
    ] {
        let tc = program::<SchedClassifier>(ebpf, name)?;
        pins.pin_program(place, |path| tc.pin(path))?;
    }
    Ok(())
}

/// The sockets' tracepoints with our programs on them; as [`Attached`].
#[derive(Debug)]
pub struct Sockets {
    links: Vec<Held>,
    /// Those of an agent before, which count until the new ones are settled.
    former: Vec<PinnedLink>,
    /// Which optional sources are missing, each with the reason and what to do about it.
    pub missing: Vec<(&'static str, String)>,
}

impl Sockets {
    /// Makes it final, as [`Attached::settle`] does. The links of an agent before end here.
    ///
    /// # Errors
    /// A pin cannot be made or removed.
    pub fn settle(&mut self, pins: Option<&Pins>) -> Result<()> {
        for former in self.former.drain(..) {
            former
                .unpin()
                .context("the pin of a tracepoint's link cannot be removed")?;
        }
        if let Some(pins) = pins {
            for held in &mut self.links {
                held.settle(pins)?;
            }
        }
        Ok(())
    }

    /// Takes the programs off.
    ///
    /// # Errors
    /// A pin cannot be removed; the others are.
    pub fn take_off(&mut self) -> Result<()> {
        let mut first = Ok(());
        for mut held in self.links.drain(..) {
            first = first.and(held.unpin());
        }
        first
    }
}

/// Names of [`OPTIONAL_PROGRAMS`] as sources of queue health, and what is not known without them.
const OPTIONAL_SOURCES: [(&str, &str); 2] = [
    ("retransmits", "SYN-ACKs that were sent again"),
    ("resets", "resets that peers sent"),
];

/// Follows the kernel's sockets from now on.
///
/// # Errors
/// The kernel refuses tracing programs.
pub fn attach_sockets(ebpf: &mut Ebpf, pins: Option<&Pins>) -> Result<Sockets> {
    // A tracepoint's link takes no other program (`bpf_raw_tp_link_lops`, kernel/bpf/syscall.c): the new ones come beside
    // the old ones. Both write what is so, and what is counted twice is so for an instant.
    let former = pins.map_or_else(|| Ok(Vec::new()), Pins::socket_links)?;
    let mut sockets = Sockets {
        links: vec![Held::own(
            Place::Socket(SOCK_PROGRAM),
            follow(ebpf, SOCK_PROGRAM, "inet_sock_set_state")?,
        )],
        former,
        missing: Vec::new(),
    };
    for ((name, tracepoint), (source, what)) in OPTIONAL_PROGRAMS.into_iter().zip(OPTIONAL_SOURCES)
    {
        match attach_optional(ebpf, name, tracepoint) {
            Ok(link) => sockets.links.push(Held::own(Place::Socket(name), link)),
            Err(error) => {
                let reason = format!(
                    "{what} are not counted: {error:#}. They are on a kernel with the tracepoint {tracepoint} whose BTF \
                     netmoat may read, as Linux 6.9 and newer have it; restart netmoat then"
                );
                sockets.missing.push((source, reason));
            }
        }
    }
    Ok(sockets)
}

fn follow(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<FdLink> {
    let program = program::<BtfTracePoint>(ebpf, name)?;
    let id = program
        .attach()
        .with_context(|| format!("the tracepoint {tracepoint} cannot be attached"))?;
    Ok(program.take_link(id)?.into())
}

fn attach_optional(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<FdLink> {
    if program::<BtfTracePoint>(ebpf, name)?.fd().is_err() {
        // It was refused; asking again tells why.
        load_optional(ebpf, name, tracepoint, &Btf::from_sys_fs()?)?;
    }
    follow(ebpf, name, tracepoint)
}

/// Puts TC and then XDP onto an interface: an ACK that XDP proves finds its other half in place, and what was asked
/// for is noted before answers are judged. Pinned links of an agent before take the new programs in place of the old.
/// Until [`Attached::settle`] nothing is pinned and everything can be taken back.
///
/// # Errors
/// The interface has another XDP program, or refuses the mode that was demanded.
pub fn attach(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    name: &str,
    ifindex: u32,
    mode: XdpMode,
) -> Result<Attached> {
    let ingress = attach_tc(ebpf, pins, name, Place::Ingress(ifindex))?;
    let egress = attach_tc(ebpf, pins, name, Place::Egress(ifindex))?;
    let (xdp, native) = attach_xdp(ebpf, pins, name, ifindex, mode)?;
    Ok(Attached {
        name: name.to_owned(),
        ifindex,
        native,
        adopted: matches!(xdp.state, State::Pinned(_)),
        links: [xdp, ingress, egress],
    })
}

fn attach_tc(ebpf: &mut Ebpf, pins: Option<&Pins>, name: &str, place: Place) -> Result<Held> {
    let (tc_program, direction) = match place {
        Place::Egress(_) => (EGRESS_PROGRAM, TcAttachType::Egress),
        _ => (TC_PROGRAM, TcAttachType::Ingress),
    };
    let tc = program::<SchedClassifier>(ebpf, tc_program)?;
    if let Some((pins, link)) = former(pins, place)? {
        let before = Before::of(pins, place, &link)?;
        match tc.attach_to_link(SchedClassifierLink::try_from(link)?) {
            Ok(id) => {
                drop(tc.take_link(id)?);
                return Held::adopted(place, pins, before);
            }
            // Its interface was deleted; its number may be another's now.
            Err(e) if errno(&e) == Some(nix::libc::ENOLINK) => pins.forget(place)?,
            Err(e) => {
                return Err(anyhow!(e)).with_context(|| {
                    format!("{name}: {tc_program} does not take the place of the one before")
                });
            }
        }
    }
    let order = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = tc
        .attach_with_options(name, direction, order)
        .with_context(|| format!("{name}: {tc_program} cannot be attached (TCX, Linux 6.6)"))?;
    let link = FdLink::try_from(tc.take_link(id)?)?;
    Ok(Held::own(place, link))
}

/// The link of an agent before.
fn former(pins: Option<&Pins>, place: Place) -> Result<Option<(&Pins, FdLink)>> {
    let Some(pins) = pins else {
        return Ok(None);
    };
    Ok(pins.link(place)?.map(|link| (pins, FdLink::from(link))))
}

fn attach_xdp(
    ebpf: &mut Ebpf,
    pins: Option<&Pins>,
    name: &str,
    ifindex: u32,
    mode: XdpMode,
) -> Result<(Held, bool)> {
    let place = Place::Xdp(ifindex);
    let xdp = program::<Xdp>(ebpf, XDP_PROGRAM)?;
    if let Some((pins, link)) = former(pins, place)? {
        let native = pins.was_native(ifindex);
        let wanted = match mode {
            XdpMode::Native => Some(true),
            XdpMode::Generic => Some(false),
            XdpMode::Auto => None,
        };
        if wanted.is_some_and(|wanted| wanted != native) {
            bail!(
                "{name}: netmoat's program is on it in {} mode, which cannot change in place; run `netmoat detach` \
                 first, or leave xdp_mode as it was",
                if native { "native" } else { "generic" }
            );
        }
        let before = Before::of(pins, place, &link)?;
        match xdp.attach_to_link(XdpLink::try_from(link)?) {
            Ok(id) => {
                drop(xdp.take_link(id)?);
                return Ok((Held::adopted(place, pins, before)?, native));
            }
            Err(e) if errno(&e) == Some(nix::libc::ENOLINK) => pins.forget(place)?,
            Err(e) => {
                return Err(anyhow!(e)).with_context(|| {
                    format!("{name}: {XDP_PROGRAM} does not take the place of the one before")
                });
            }
        }
    }
    let mut put = |mode| -> Result<FdLink, ProgramError> {
        let id = xdp.attach_to_if_index(ifindex, mode)?;
        // A kernel without XDP links (before 5.9) would end here; netmoat needs 6.6 anyway.
        FdLink::try_from(xdp.take_link(id)?).map_err(|e| match e {
            LinkError::SyscallError(e) => ProgramError::SyscallError(e),
            _ => ProgramError::NotAttached,
        })
    };
    let (link, native) = match mode {
        XdpMode::Native => {
            let link = put(AyaXdpMode::Driver).map_err(|e| explain(name, "native", e))?;
            (link, true)
        }
        XdpMode::Generic => {
            let link = put(AyaXdpMode::Skb).map_err(|e| explain(name, "generic", e))?;
            (link, false)
        }
        XdpMode::Auto => match put(AyaXdpMode::Driver) {
            Ok(link) => (link, true),
            Err(e) if errno(&e) == Some(nix::libc::EBUSY) => {
                return Err(explain(name, "native", e));
            }
            Err(e) => {
                let link = put(AyaXdpMode::Skb).map_err(|e| explain(name, "generic", e))?;
                warn!(
                    "{name}: the driver takes no native XDP ({e}); attached in generic mode, which works \
                     but is several times slower. A driver with XDP support, or a smaller MTU, helps"
                );
                (link, false)
            }
        },
    };
    Ok((Held::own(place, link), native))
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::SyscallError(e) => e.io_error.raw_os_error(),
        _ => None,
    }
}

fn explain(name: &str, mode: &str, error: ProgramError) -> anyhow::Error {
    match errno(&error) {
        Some(nix::libc::EBUSY) => anyhow!(
            "{name}: another XDP program is attached. See it with `bpftool net show dev {name}`; remove it with \
             `ip link set dev {name} xdp off` (or its own tool) and start again"
        ),
        Some(nix::libc::EOPNOTSUPP) => anyhow!(
            "{name}: the driver has no {mode} XDP; use `--xdp-mode auto` or `--xdp-mode generic`"
        ),
        _ => anyhow!(
            "{name}: XDP cannot be attached in {mode} mode ({error}); with a jumbo MTU, lower it or use \
             `--xdp-mode generic`"
        ),
    }
}
