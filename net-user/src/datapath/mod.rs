//! The programs in the kernel: checking the host, loading, attaching, and their maps.

pub mod attach;
pub mod bpf;
pub mod budget;
pub mod kfunc;
pub mod load;
pub mod maps;
pub mod pin;
pub mod preflight;
