//! Sysctls that decide what a SYN-ACK may say, and the window that it advertises.
//!
//! `/proc/sys/net` shows the network namespace of the thread that opens it (`net_ctl_root`,
//! `net/sysctl_net.c`).

use anyhow::{Context, Result};
use std::fmt::Display;
use std::fs;
use std::io::ErrorKind;
use std::str::FromStr;

/// TCP_MAX_WSCALE (RFC 7323 section 2.3).
const MAX_WINDOW_SCALE: u32 = 14;
/// TCPOLEN_TSTAMP_ALIGNED: what the timestamps option takes from every segment.
const TIMESTAMPS_LENGTH: u32 = 12;

/// What the namespace's sysctls say of TCP (`Documentation/networking/ip-sysctl.rst`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpSettings {
    /// `tcp_syncookies`: 0 never, 1 when the SYN queue is full, 2 always.
    pub syncookies: u8,
    /// `tcp_timestamps`: 0 off, 1 with a secret offset, 2 without.
    pub timestamps: u8,
    /// `tcp_sack`.
    pub sack: bool,
    /// `tcp_window_scaling`.
    pub window_scaling: bool,
    /// `tcp_ecn`: 0 off, 1 asked for and accepted, 2 accepted.
    pub ecn: u8,
    /// `tcp_rmem`: minimum, default and maximum of the receive buffer, octets.
    pub rmem: [u32; 3],
    /// `net.core.rmem_max`, octets; global, and `None` where the kernel hides it from a namespace.
    pub rmem_max: Option<u32>,
    /// `tcp_workaround_signed_windows`: no initial window above 32767.
    pub signed_windows: bool,
    /// `net.core.somaxconn`.
    pub somaxconn: u32,
    /// `tcp_max_syn_backlog`; it limits nothing while syncookies are on.
    pub max_syn_backlog: u32,
    /// `ip_default_ttl`.
    pub ttl: u8,
    /// `nf_conntrack_tcp_loose`: whether a connection seen first in its middle is picked up; `None`
    /// without connection tracking.
    pub conntrack_loose: Option<bool>,
}

impl TcpSettings {
    /// Reads them for the calling thread's network namespace.
    pub fn read() -> Result<Self> {
        let rmem: String = read("ipv4/tcp_rmem")?;
        let rmem: Vec<u32> = rmem
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        Ok(Self {
            syncookies: read("ipv4/tcp_syncookies")?,
            timestamps: read("ipv4/tcp_timestamps")?,
            sack: read_bool("ipv4/tcp_sack")?,
            window_scaling: read_bool("ipv4/tcp_window_scaling")?,
            ecn: read("ipv4/tcp_ecn")?,
            rmem: rmem
                .try_into()
                .ok()
                .context("net/ipv4/tcp_rmem does not hold three numbers")?,
            rmem_max: if_present(read("core/rmem_max"))?,
            signed_windows: read_bool("ipv4/tcp_workaround_signed_windows")?,
            somaxconn: read("core/somaxconn")?,
            max_syn_backlog: read("ipv4/tcp_max_syn_backlog")?,
            ttl: read("ipv4/ip_default_ttl")?,
            conntrack_loose: if_present(read_bool("netfilter/nf_conntrack_tcp_loose"))?,
        })
    }

    /// Whether a listener may accept ECN (`tcp_ecn_create_request`).
    pub fn accepts_ecn(&self) -> bool {
        self.ecn != 0
    }
}

/// What an interface's IPv6 sysctls say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Settings {
    /// `hop_limit`; a router's advertisement may change it (RFC 4861 section 6.3.4).
    pub hop_limit: u8,
    /// `mtu`, octets; likewise.
    pub mtu: u32,
}

impl Ipv6Settings {
    /// Reads those of an interface; `None` where it has no IPv6.
    pub fn read(interface: &str) -> Result<Option<Self>> {
        let hop_limit = if_present(read(&format!("ipv6/conf/{interface}/hop_limit")))?;
        let mtu = if_present(read(&format!("ipv6/conf/{interface}/mtu")))?;
        Ok(hop_limit
            .zip(mtu)
            .map(|(hop_limit, mtu)| Self { hop_limit, mtu }))
    }
}

/// The window, unscaled, and the window scale that the kernel's own SYN-ACK would advertise for a
/// listener whose `sk_rcvbuf` is `rcvbuf` on a link that allows `mss`.
///
/// `tcp_openreq_init_rwin` (`net/ipv4/tcp_minisocks.c`) and `tcp_select_initial_window`
/// (`net/ipv4/tcp_output.c`) of 6.12, for a SYN with timestamps and window scaling. A window of half
/// the buffer is TCP_DEFAULT_SCALING_RATIO. Whether SO_RCVBUF was set is not told by
/// inet_diag: a buffer other than `tcp_rmem[1]` says so. Route metrics (`window`, `initrwnd`),
/// TCP_WINDOW_CLAMP and BPF sockops stay out of sight.
pub fn advertised(settings: &TcpSettings, rcvbuf: u32, mss: u16) -> (u16, u8) {
    let full_space = rcvbuf / 2;
    let clamp = if rcvbuf == settings.rmem[1] {
        u32::from(u16::MAX) << MAX_WINDOW_SCALE
    } else {
        full_space
    };
    let quantum = u32::from(mss).saturating_sub(TIMESTAMPS_LENGTH).max(1);
    let mut space = full_space.min(clamp);
    if space > quantum {
        space -= space % quantum;
    }
    let limit = if settings.signed_windows {
        i16::MAX as u32
    } else {
        u32::from(u16::MAX)
    };
    // Both fit: the window is at most 65535, the scale at most 14.
    let window = space.min(limit) as u16;
    if !settings.window_scaling {
        return (window, 0);
    }
    let largest = space
        .max(settings.rmem[2])
        .max(settings.rmem_max.unwrap_or(0))
        .min(clamp);
    (
        window,
        largest
            .max(1)
            .ilog2()
            .saturating_sub(15)
            .min(MAX_WINDOW_SCALE) as u8,
    )
}

pub(super) fn read<T: FromStr<Err: Display>>(name: &str) -> Result<T> {
    let path = format!("/proc/sys/net/{name}");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.trim()
        .parse()
        .map_err(|error| anyhow::anyhow!("{path} holds {:?}: {error}", text.trim()))
}

fn read_bool(name: &str) -> Result<bool> {
    Ok(read::<u32>(name)? != 0)
}

pub(super) fn if_present<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == ErrorKind::NotFound) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::in_netns;

    fn settings() -> TcpSettings {
        TcpSettings {
            syncookies: 1,
            timestamps: 1,
            sack: true,
            window_scaling: true,
            ecn: 2,
            rmem: [4096, 131_072, 6_291_456],
            rmem_max: Some(212_992),
            signed_windows: false,
            somaxconn: 4096,
            max_syn_backlog: 1024,
            ttl: 64,
            conntrack_loose: None,
        }
    }

    #[test]
    fn the_advertised_window_follows_buffer_mss_and_limits() {
        let defaults = settings();
        let table = [
            (
                "defaults of 6.12 on Ethernet",
                defaults.clone(),
                131_072,
                1460,
                (65_160, 7),
            ),
            (
                "IPv6 on Ethernet",
                defaults.clone(),
                131_072,
                1440,
                (64_260, 7),
            ),
            ("jumbo frames", defaults.clone(), 131_072, 8960, (62_636, 7)),
            (
                "loopback: the space is one segment",
                defaults.clone(),
                131_072,
                65_495,
                (65_483, 7),
            ),
            (
                "SO_RCVBUF of 8192",
                defaults.clone(),
                16_384,
                1460,
                (7_240, 0),
            ),
            (
                "SO_RCVBUF of 1 MiB",
                defaults.clone(),
                2_097_152,
                1460,
                (65_535, 5),
            ),
            (
                "a buffer below one segment",
                defaults.clone(),
                2_304,
                1460,
                (1_152, 0),
            ),
            ("no buffer told", defaults.clone(), 0, 1460, (0, 0)),
            ("no MSS told", defaults.clone(), 131_072, 0, (65_535, 7)),
            (
                "window scaling off",
                TcpSettings {
                    window_scaling: false,
                    ..defaults.clone()
                },
                131_072,
                1460,
                (65_160, 0),
            ),
            (
                "rmem_max above tcp_rmem",
                TcpSettings {
                    rmem_max: Some(1 << 28),
                    ..defaults.clone()
                },
                131_072,
                1460,
                (65_160, 13),
            ),
            (
                "more than any scale can say",
                TcpSettings {
                    rmem_max: Some(u32::MAX),
                    ..defaults.clone()
                },
                131_072,
                1460,
                (65_160, 14),
            ),
            (
                "signed windows",
                TcpSettings {
                    signed_windows: true,
                    ..defaults
                },
                131_072,
                1460,
                (32_767, 7),
            ),
        ];
        for (description, settings, rcvbuf, mss, expected) in table {
            assert_eq!(
                advertised(&settings, rcvbuf, mss),
                expected,
                "{description}"
            );
        }
    }

    #[test]
    fn the_settings_are_those_of_the_threads_namespace() {
        in_netns(|| {
            assert_eq!(TcpSettings::read().expect("settings").syncookies, 1);
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("a writable sysctl");
            fs::write("/proc/sys/net/ipv4/tcp_rmem", "4096 65536 1048576")
                .expect("a writable sysctl");
            fs::write("/proc/sys/net/ipv6/conf/lo/hop_limit", "61").expect("a writable sysctl");
            let settings = TcpSettings::read().expect("settings");
            assert_eq!(
                (settings.syncookies, settings.rmem),
                (2, [4096, 65_536, 1_048_576])
            );
            let ipv6 = Ipv6Settings::read("lo").expect("settings");
            assert_eq!(
                ipv6,
                Some(Ipv6Settings {
                    hop_limit: 61,
                    mtu: 65_536
                })
            );
            assert_eq!(Ipv6Settings::read("absent").expect("no error"), None);
        });
    }
}
