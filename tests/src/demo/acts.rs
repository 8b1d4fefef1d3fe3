//! The acts, in their order.

use serde::Serialize;

/// Who answers the flood, and whether there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Act {
    /// For machines.
    pub key: &'static str,
    /// For people.
    pub title: &'static str,
    /// Whether the attacker sends.
    pub flood: bool,
    /// Whether the agent runs on the server.
    pub netmoat: bool,
    /// `net.ipv4.tcp_syncookies` of the server; 1 is the kernel's default.
    pub syncookies: u8,
}

/// What the others are compared with.
pub const IDLE: Act = Act {
    key: "idle",
    title: "no flood",
    flood: false,
    netmoat: false,
    syncookies: 1,
};
/// The kernel's SYN queue is all there is.
pub const KERNEL: Act = Act {
    key: "kernel",
    title: "kernel, syncookies off",
    flood: true,
    syncookies: 0,
    ..IDLE
};
/// The kernel's own defence.
pub const KERNEL_COOKIES: Act = Act {
    key: "kernel_cookies",
    title: "kernel, syncookies on",
    flood: true,
    ..IDLE
};
/// Ours, as it comes.
pub const NETMOAT: Act = Act {
    key: "netmoat",
    title: "netmoat",
    flood: true,
    netmoat: true,
    ..IDLE
};
/// Ours in peace.
pub const AFTER: Act = Act {
    key: "after",
    title: "netmoat, flood over",
    netmoat: true,
    ..IDLE
};

/// All of them.
pub const ACTS: [Act; 5] = [IDLE, KERNEL, KERNEL_COOKIES, NETMOAT, AFTER];
