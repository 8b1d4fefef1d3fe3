//! Builds the eBPF object of the laboratory: generator, counter and pass programs.

#[path = "../xtask/src/ebpf.rs"]
mod ebpf;

fn main() {
    ebpf::embed("lab-bpf", &[]);
}
