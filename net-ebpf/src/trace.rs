//! Log lines for debugging builds (feature `trace`); nothing otherwise. Never on in production: a line
//! a packet is an attacker's lever.

/// Logs through aya-log in a build with the feature `trace`.
#[cfg(feature = "trace")]
macro_rules! trace {
    ($ctx:expr, $($arg:tt)+) => { aya_log_ebpf::debug!($ctx, $($arg)+) };
}

#[cfg(not(feature = "trace"))]
macro_rules! trace {
    ($ctx:expr, $($arg:tt)+) => {{
        let _ = $ctx;
    }};
}

pub(crate) use trace;
