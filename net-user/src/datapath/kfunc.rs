//! Calls of kernel functions, for aya 0.14, which has no support for them. `net-ebpf/src/kfunc.rs`
//! compiles such a call as a helper call with a number that no helper has; here it becomes a kfunc
//! call (`BPF_PSEUDO_KFUNC_CALL`, Linux 5.13) with the function's BTF id. A later aya with ksym support
//! replaces both files.

use anyhow::{Context as _, Result, ensure};
use aya::Btf;
use aya_obj::btf::BtfKind;
use net_common::kfunc::BPF_SK_ASSIGN_TCP_REQSK;
use object::{Object as _, ObjectSection as _, SectionKind};

/// Marker in the object and kernel function, for every kfunc that the programs call.
const KFUNCS: &[(u32, &str)] = &[(BPF_SK_ASSIGN_TCP_REQSK, "bpf_sk_assign_tcp_reqsk")];

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `src_reg` of a kfunc call; the upper half of an instruction's second octet.
const PSEUDO_KFUNC_CALL: u8 = 2 << 4;
/// Octets of an instruction.
const INSTRUCTION: usize = 8;

/// Returns the object with every marked call made a kfunc call.
///
/// # Errors
/// The kernel has no such function, the object is no ELF file, or a marker is not called anywhere.
pub fn resolve(object: &[u8], btf: &Btf) -> Result<Vec<u8>> {
    let mut out = object.to_vec();
    let file = object::File::parse(object).context("the embedded eBPF object is no ELF file")?;
    for (marker, name) in KFUNCS {
        let id = btf.id_by_type_name_kind(name, BtfKind::Func).with_context(|| {
            format!("the kernel has no function {name} (Linux 6.9 with CONFIG_SYN_COOKIES); upgrade the kernel")
        })?;
        let mut calls = 0;
        for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
            let (offset, size) = section.file_range().unwrap_or_default();
            let code = &mut out[offset as usize..(offset + size) as usize];
            for insn in code.chunks_exact_mut(INSTRUCTION) {
                if insn[0] == CALL && insn[1] >> 4 == 0 && insn[4..8] == marker.to_le_bytes() {
                    insn[1] |= PSEUDO_KFUNC_CALL;
                    insn[4..8].copy_from_slice(&id.to_le_bytes());
                    calls += 1;
                }
            }
        }
        ensure!(
            calls > 0,
            "the embedded eBPF object never calls {name}: build and loader disagree"
        );
    }
    Ok(out)
}
