//! From the embedded object to programs in the kernel.

use std::{fs, os::unix::fs::MetadataExt as _};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Btf, Ebpf, EbpfLoader,
    programs::{BtfTracePoint, ProgramError, SchedClassifier, Xdp},
};
use btf_rs::{Btf as BtfTypes, Type};
use net_common::abi::{ABI_VERSION, SockOffsets, layout::KEPT};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use tracing::debug;

use super::{
    kfunc,
    pin::{Definition, Plan},
};

/// Name of the XDP program; how another agent's is recognized (15 octets are kept by the kernel).
pub const XDP_PROGRAM: &str = "netmoat_xdp";
/// Name of the TC program.
pub const TC_PROGRAM: &str = "netmoat_tc";
/// Name of the TC egress program.
pub const EGRESS_PROGRAM: &str = "netmoat_egress";
/// Name of the tracepoint program.
pub const SOCK_PROGRAM: &str = "netmoat_sock";
/// Tracepoint programs that the agent goes on without, and what each follows.
pub const OPTIONAL_PROGRAMS: [(&str, &str); 2] = [
    ("netmoat_retrans", "tcp_retransmit_synack"),
    ("netmoat_reset", "tcp_receive_reset"),
];
/// The kernel's own types.
pub const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The eBPF object, built from net-ebpf by build.rs.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/netmoat-bpf"));

/// What the verifier said of a program.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Program name.
    pub name: &'static str,
    /// Instructions that the verifier processed (limit: 1,000,000).
    pub instructions: u32,
    /// Instructions of the translated program.
    pub size: u32,
}

/// How the object defines the maps that are kept.
///
/// # Errors
/// The object cannot be read.
pub(crate) fn definitions() -> Result<Vec<Definition>> {
    let object = aya_obj::Object::parse(OBJECT).context("the embedded eBPF object is damaged")?;
    KEPT.iter()
        .map(|kept| {
            let map = object
                .maps
                .get(kept.name)
                .with_context(|| format!("the object has no map {}", kept.name))?;
            Ok(Definition {
                name: kept.name,
                kind: map.map_type(),
                key: map.key_size(),
                value: map.value_size(),
                entries: map.max_entries(),
                flags: map.map_flags(),
            })
        })
        .collect()
}

/// [`load_with`] new maps alone.
///
/// # Errors
/// See there.
pub fn load() -> Result<Ebpf> {
    load_with(&Plan::default())
}

/// Loads every program and map; those that the plan adopts are of an agent before. Nothing is attached yet. Of [`OPTIONAL_PROGRAMS`] those that the kernel
/// takes; [`super::attach::attach_sockets`] tells of the others.
///
/// # Errors
/// The kernel lacks BTF or the kfunc, or its verifier refuses a program (the log is in the error).
pub fn load_with(plan: &Plan) -> Result<Ebpf> {
    let btf = Btf::from_sys_fs().with_context(|| {
        format!("{VMLINUX_BTF} cannot be read: netmoat needs a kernel with CONFIG_DEBUG_INFO_BTF")
    })?;
    check_abi(OBJECT)?;
    let object = kfunc::resolve(OBJECT, &btf)?;
    let offsets = sock_offsets()?;
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(&btf))
        .override_global("SOCK_OFFSETS", &offsets, true);
    for (name, path) in &plan.adopted {
        loader.map_pin_path(name, path.as_path());
    }
    let mut ebpf = loader
        .load(&object)
        .context("the eBPF object cannot be loaded")?;
    program::<Xdp>(&mut ebpf, XDP_PROGRAM)?
        .load()
        .map_err(|e| refused(XDP_PROGRAM, e))?;
    for name in [TC_PROGRAM, EGRESS_PROGRAM] {
        program::<SchedClassifier>(&mut ebpf, name)?
            .load()
            .map_err(|e| refused(name, e))?;
    }
    program::<BtfTracePoint>(&mut ebpf, SOCK_PROGRAM)?
        .load("inet_sock_set_state", &btf)
        .map_err(|e| refused(SOCK_PROGRAM, e))?;
    for (name, tracepoint) in OPTIONAL_PROGRAMS {
        if let Err(error) = load_optional(&mut ebpf, name, tracepoint, &btf) {
            debug!("going on without {name}: {error:#}");
        }
    }
    Ok(ebpf)
}

/// Loads one of [`OPTIONAL_PROGRAMS`].
///
/// # Errors
/// The kernel has no such tracepoint, or its verifier refuses the program.
pub(super) fn load_optional(
    ebpf: &mut Ebpf,
    name: &str,
    tracepoint: &str,
    btf: &Btf,
) -> Result<()> {
    program::<BtfTracePoint>(ebpf, name)?
        .load(tracepoint, btf)
        .map_err(|e| match e {
            ProgramError::Btf(_) => anyhow!("this kernel has no tracepoint {tracepoint}"),
            other => refused(name, other),
        })
}

/// The loaded program of a name, as its type.
///
/// # Errors
/// The object has no such program, or it is of another type.
pub fn program<'a, T>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut T>
where
    &'a mut T: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let program = ebpf
        .program_mut(name)
        .ok_or_else(|| anyhow!("the object has no program {name}"))?;
    program
        .try_into()
        .map_err(|e| anyhow!("{name} is of another type: {e}"))
}

/// How much work the verifier had with each program that is loaded.
///
/// # Errors
/// A program is not loaded and not optional, or the kernel does not tell (before 5.16).
pub fn verified(ebpf: &Ebpf) -> Result<Vec<Verified>> {
    let loaded = |name: &&str| ebpf.program(name).is_some_and(|p| p.fd().is_ok());
    let optional = OPTIONAL_PROGRAMS.iter().map(|&(name, _)| name);
    [XDP_PROGRAM, TC_PROGRAM, EGRESS_PROGRAM, SOCK_PROGRAM]
        .into_iter()
        .chain(optional.filter(loaded))
        .map(|name| {
            let info = ebpf
                .program(name)
                .ok_or_else(|| anyhow!("no program {name}"))?
                .info()?;
            Ok(Verified {
                name,
                instructions: info
                    .verified_instruction_count()
                    .context("the kernel does not tell")?,
                size: info.size_translated().unwrap_or_default() / 8,
            })
        })
        .collect()
}

fn refused(name: &str, error: ProgramError) -> anyhow::Error {
    match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            if io_error.kind() == std::io::ErrorKind::PermissionDenied
                && verifier_log.to_string().is_empty()
            {
                anyhow!(
                    "no permission to load {name} ({io_error}): run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
                )
            } else {
                anyhow!(
                    "the kernel's verifier refuses {name} ({io_error}); please report this log:\n{verifier_log}"
                )
            }
        }
        other => anyhow!("{name} cannot be loaded: {other}"),
    }
}

/// The ABI number in the embedded object.
///
/// # Errors
/// The object was not built from net-ebpf.
pub fn embedded_abi() -> Result<u32> {
    abi_of(OBJECT)
}

/// The version of `net_common::abi` that an object was built with.
fn abi_of(object: &[u8]) -> Result<u32> {
    let file = object::File::parse(object).context("the embedded eBPF object is no ELF file")?;
    let symbol = file
        .symbol_by_name("ABI")
        .context("the eBPF object names no ABI version")?;
    let section = file.section_by_index(symbol.section_index().context("ABI has no section")?)?;
    let bytes = section
        .data_range(symbol.address(), 4)?
        .and_then(|b| b.try_into().ok())
        .context("the eBPF object's ABI version is cut off")?;
    Ok(u32::from_le_bytes(bytes))
}

/// Object and agent must mean the same by the bytes of a map.
fn check_abi(object: &[u8]) -> Result<()> {
    let found = abi_of(object)?;
    ensure!(
        found == ABI_VERSION,
        "the eBPF object has ABI {found}, the agent {ABI_VERSION}: build both together"
    );
    Ok(())
}

/// Its inode number is the number of our network namespace.
const OWN_NETNS: &str = "/proc/thread-self/ns/net";

/// Where this kernel's sockets have their fields, and which network namespace is ours.
fn sock_offsets() -> Result<SockOffsets> {
    let btf = BtfTypes::from_file(VMLINUX_BTF)
        .with_context(|| format!("{VMLINUX_BTF} cannot be parsed"))?;
    let find = |parent: &str, name: &str| -> Result<u32> {
        let structs = btf.resolve_types_by_name(parent)?;
        let found = structs.into_iter().find_map(|t| match t {
            Type::Struct(t) => field_offset(&btf, &t, name, 0),
            _ => None,
        });
        found
            .map(|bits| bits / 8)
            .with_context(|| format!("this kernel's struct {parent} has no {name}"))
    };
    let own = fs::metadata(OWN_NETNS)
        .with_context(|| format!("{OWN_NETNS} cannot be read: is /proc mounted?"))?;
    Ok(SockOffsets {
        daddr: find("sock_common", "skc_daddr")?,
        num: find("sock_common", "skc_num")?,
        family: find("sock_common", "skc_family")?,
        v6_daddr: find("sock_common", "skc_v6_daddr")?,
        net: find("sock_common", "skc_net")?,
        net_inum: find("net", "ns")? + find("ns_common", "inum")?,
        own_inum: u32::try_from(own.ino())
            .with_context(|| format!("{OWN_NETNS} has no number of 32 bits"))?,
        state: find("sock_common", "skc_state")?,
        err: find("sock", "sk_err")?,
        sport: find("inet_sock", "inet_sport")?,
        total_retrans: find("tcp_sock", "total_retrans")?,
        srtt: find("tcp_sock", "srtt_us")?,
    })
}

/// Offset in bits of a member, looked for in unnamed members too.
fn field_offset(btf: &BtfTypes, parent: &btf_rs::Struct, name: &str, base: u32) -> Option<u32> {
    parent.members.iter().find_map(|member| {
        let at = base + member.bit_offset();
        match btf.resolve_name(member).ok()?.as_str() {
            n if n == name => Some(at),
            "" => match btf.resolve_chained_type(member).ok()? {
                Type::Struct(inner) | Type::Union(inner) => field_offset(btf, &inner, name, at),
                _ => None,
            },
            _ => None,
        }
    })
}
