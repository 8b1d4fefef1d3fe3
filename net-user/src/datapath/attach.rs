//! Programs onto interfaces, and off again.

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, ProgramError, SchedClassifier, TcAttachType, Xdp, XdpMode as AyaXdpMode,
        links::LinkOrder, tc::TcAttachOptions,
    },
};
use tracing::warn;

use super::load::{
    EGRESS_PROGRAM, OPTIONAL_PROGRAMS, SOCK_PROGRAM, TC_PROGRAM, XDP_PROGRAM, load_optional,
    program,
};
use crate::config::XdpMode;

/// An interface with all programs on it.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Interface name when it was attached.
    pub name: String,
    /// Interface index.
    pub ifindex: u32,
    /// Native (in the driver), or else generic (behind an skb).
    pub native: bool,
}

/// Names of [`OPTIONAL_PROGRAMS`] as sources of queue health, and what is not known without them.
const OPTIONAL_SOURCES: [(&str, &str); 2] = [
    ("retransmits", "SYN-ACKs that were sent again"),
    ("resets", "resets that peers sent"),
];

/// Follows the kernel's sockets from now on. Returns which optional sources are missing, each with the reason and what to
/// do about it.
///
/// # Errors
/// The kernel refuses tracing programs.
pub fn attach_sockets(ebpf: &mut Ebpf) -> Result<Vec<(&'static str, String)>> {
    program::<BtfTracePoint>(ebpf, SOCK_PROGRAM)?
        .attach()
        .context("the tracepoint inet_sock_set_state cannot be attached")?;
    let mut missing = Vec::new();
    for ((name, tracepoint), (source, what)) in OPTIONAL_PROGRAMS.into_iter().zip(OPTIONAL_SOURCES)
    {
        if let Err(error) = attach_optional(ebpf, name, tracepoint) {
            let reason = format!(
                "{what} are not counted: {error:#}. They are on a kernel with the tracepoint {tracepoint} whose BTF \
                 netmoat may read, as Linux 6.9 and newer have it; restart netmoat then"
            );
            missing.push((source, reason));
        }
    }
    Ok(missing)
}

fn attach_optional(ebpf: &mut Ebpf, name: &str, tracepoint: &str) -> Result<()> {
    if program::<BtfTracePoint>(ebpf, name)?.fd().is_err() {
        // It was refused; asking again tells why.
        load_optional(ebpf, name, tracepoint, &Btf::from_sys_fs()?)?;
    }
    program::<BtfTracePoint>(ebpf, name)?
        .attach()
        .with_context(|| format!("the tracepoint {tracepoint} cannot be attached"))?;
    Ok(())
}

/// Puts TC and then XDP onto an interface: an ACK that XDP proves finds its other half in place, and what was asked
/// for is noted before answers are judged. The links live in `ebpf` and go with it.
///
/// # Errors
/// The interface has another XDP program, or refuses the mode that was demanded.
pub fn attach(ebpf: &mut Ebpf, name: &str, ifindex: u32, mode: XdpMode) -> Result<Attached> {
    for (tc_program, direction) in [
        (TC_PROGRAM, TcAttachType::Ingress),
        (EGRESS_PROGRAM, TcAttachType::Egress),
    ] {
        let order = TcAttachOptions::TcxOrder(LinkOrder::default());
        program::<SchedClassifier>(ebpf, tc_program)?
            .attach_with_options(name, direction, order)
            .with_context(|| format!("{name}: {tc_program} cannot be attached (TCX, Linux 6.6)"))?;
    }
    let xdp = program::<Xdp>(ebpf, XDP_PROGRAM)?;
    let native = match mode {
        XdpMode::Native => {
            xdp.attach_to_if_index(ifindex, AyaXdpMode::Driver)
                .map_err(|e| explain(name, "native", e))?;
            true
        }
        XdpMode::Generic => {
            xdp.attach_to_if_index(ifindex, AyaXdpMode::Skb)
                .map_err(|e| explain(name, "generic", e))?;
            false
        }
        XdpMode::Auto => match xdp.attach_to_if_index(ifindex, AyaXdpMode::Driver) {
            Ok(_) => true,
            Err(e) if errno(&e) == Some(nix::libc::EBUSY) => {
                return Err(explain(name, "native", e));
            }
            Err(e) => {
                xdp.attach_to_if_index(ifindex, AyaXdpMode::Skb)
                    .map_err(|e| explain(name, "generic", e))?;
                warn!(
                    "{name}: the driver takes no native XDP ({e}); attached in generic mode, which works \
                     but is several times slower. A driver with XDP support, or a smaller MTU, helps"
                );
                false
            }
        },
    };
    Ok(Attached {
        name: name.to_owned(),
        ifindex,
        native,
    })
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
