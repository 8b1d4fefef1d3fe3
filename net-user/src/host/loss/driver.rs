//! A driver's own statistics, as `ethtool -S` shows them. Their names are each driver's own.
//!
//! Names and values come by ioctl (`net/ethtool/ioctl.c`): ethtool netlink has the names, but of the values only those that
//! are the same for all drivers. No capability is needed.

use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use anyhow::{Result, ensure};
use nix::{
    libc,
    sys::socket::{AddressFamily, SockFlag, SockType, socket},
};

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSTATS: u32 = 0x1d;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETH_SS_STATS: u32 = 1;
/// ETH_GSTRING_LEN, the octets of a name.
const NAME_LENGTH: usize = 32;
/// Most statistics that are read; the largest drivers have some ten thousand.
const MAX_STATISTICS: usize = 1 << 17;
/// Words of the buffer: room for twice as many names, since the kernel is not told how large the buffer is, and a driver may
/// get more statistics (`ethtool -L`) between the question how many there are and the answer.
const BUFFER: usize = 2 * MAX_STATISTICS * NAME_LENGTH / 8;
/// More receive queues than any card has.
const MAX_QUEUES: usize = 4096;

/// The statistics of an interface of the calling thread's network namespace by name; none where the driver has none.
pub(super) fn statistics(interface: &str) -> Result<Vec<(String, u64)>> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let asked = Asked { socket, interface };
    match asked.statistics() {
        Err(error)
            if error
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error)
                .is_some_and(|errno| [libc::EOPNOTSUPP, libc::ENODEV].contains(&errno)) =>
        {
            Ok(Vec::new())
        }
        result => result,
    }
}

struct Asked<'a> {
    socket: OwnedFd,
    interface: &'a str,
}

impl Asked<'_> {
    fn statistics(&self) -> Result<Vec<(String, u64)>> {
        // Kept: pages that nobody writes to take no memory, but a heap that gets it back zeroes all of it the next time.
        static SPACE: Mutex<Vec<u64>> = Mutex::new(Vec::new());
        let mut space = SPACE.lock().unwrap_or_else(PoisonError::into_inner);
        let buffer = &mut *space;
        if buffer.is_empty() {
            *buffer = vec![0; BUFFER];
        }
        // struct ethtool_sset_info: command, reserved, mask of sets, number for each set.
        put(buffer, [ETHTOOL_GSSET_INFO, 0]);
        set(buffer, 1, 1 << ETH_SS_STATS);
        self.ask(buffer)?;
        if buffer.get(1) != Some(&(1 << ETH_SS_STATS)) {
            return Ok(Vec::new());
        }
        let [count, _] = halves(buffer.get(2));
        ensure!(
            count as usize <= MAX_STATISTICS,
            "the driver has {count} statistics, and no more than {MAX_STATISTICS} are read"
        );
        // struct ethtool_gstrings: command, set, number, names.
        put(buffer, [ETHTOOL_GSTRINGS, ETH_SS_STATS]);
        set(buffer, 1, u64::from(count));
        self.ask(buffer)?;
        let octets: Vec<u8> = buffer
            .iter()
            .skip(1)
            .take(1 + count as usize * NAME_LENGTH / 8)
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let names: Vec<String> = octets
            .get(4..)
            .unwrap_or_default()
            .chunks_exact(NAME_LENGTH)
            .map(name)
            .collect();
        let [named, _] = halves(buffer.get(1));
        // struct ethtool_stats: command, number, values.
        put(buffer, [ETHTOOL_GSTATS, count]);
        self.ask(buffer)?;
        let [_, valued] = halves(buffer.first());
        ensure!(
            named == count && valued == count,
            "the driver's statistics changed while they were read, from {count} to {named} and {valued}"
        );
        let values = buffer.iter().skip(1).copied();
        Ok(names.into_iter().zip(values).collect())
    }

    /// SIOCETHTOOL: the kernel reads the command at the buffer's start and writes its answer over it.
    fn ask(&self, buffer: &mut Vec<u64>) -> io::Result<()> {
        // SAFETY: all zeroes is a valid ifreq, which has no reference and no niche.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        let name = self.interface.as_bytes();
        if name.len() >= request.ifr_name.len() {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        }
        for (place, octet) in request.ifr_name.iter_mut().zip(name) {
            *place = octet.cast_signed();
        }
        request.ifr_ifru.ifru_data = buffer.as_mut_ptr().cast();
        // SAFETY: the request points to `buffer`, which outlives the call, is aligned for its words, and has room for twice the
        // answer to any command that `statistics` gives, as [`BUFFER`] says.
        let result = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Puts two words of 32 bits at the buffer's start.
fn put(buffer: &mut [u64], [first, second]: [u32; 2]) {
    let mut octets = [0; 8];
    let (low, high) = octets.split_at_mut(4);
    low.copy_from_slice(&first.to_ne_bytes());
    high.copy_from_slice(&second.to_ne_bytes());
    set(buffer, 0, u64::from_ne_bytes(octets));
}

fn set(buffer: &mut [u64], index: usize, value: u64) {
    if let Some(word) = buffer.get_mut(index) {
        *word = value;
    }
}

fn halves(word: Option<&u64>) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.copied().unwrap_or_default().to_ne_bytes();
    [[a, b, c, d], [e, f, g, h]].map(u32::from_ne_bytes)
}

/// A driver may use all octets, or fewer and a zero.
fn name(octets: &[u8]) -> String {
    let text = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).trim().to_owned()
}

/// Whether a statistic counts packets that were lost on their way in. What an XDP program drops is no loss.
pub(super) fn is_loss(name: &str) -> bool {
    let name = name.to_lowercase();
    let words = || name.split(|c: char| !c.is_ascii_alphanumeric());
    if words().any(|word| word.starts_with("tx")) || name.contains("xdp") {
        return false;
    }
    name.contains("no_buf")
        || name.contains("out_of_buf")
        || words().any(|word| {
            let ends = ["err", "errs", "error", "errors"];
            word.contains("drop")
                || word.contains("discard")
                || word.starts_with("miss")
                || word.starts_with("overrun")
                || word.starts_with("overflow")
                || ends.iter().any(|end| word.ends_with(end))
        })
}

/// How drivers name the packets of a receive queue, with its number between the two; the first that fits a driver counts.
const QUEUE_NAMES: [(&str, &str); 11] = [
    // igb, igc, ixgbe, ice, netvsc, and virtio_net to 6.7
    ("rx_queue_", "_packets"),
    // mlx4, mlx5, and virtio_net since 6.8
    ("rx", "_packets"),
    // i40e, iavf
    ("rx-", ".packets"),
    // sfc
    ("rx-", ".rx_packets"),
    // ena
    ("queue_", "_rx_cnt"),
    // bnxt, bnx2x
    ("[", "]: rx_ucast_packets"),
    // hns3
    ("rxq", "_packets"),
    // nfp
    ("rvec_", "_rx_pkts"),
    // atlantic
    ("queue[", "] inpackets"),
    // gve
    ("rx_packets[", "]"),
    // veth, which counts only what goes through NAPI: with an XDP program or GRO
    ("rx_queue_", "_xdp_packets"),
];

/// Packets by receive queue, as far as the names tell.
pub(super) fn packets_by_queue(statistics: &[(String, u64)]) -> Vec<u64> {
    let of = |(prefix, suffix): &(&str, &str)| {
        let queues: BTreeMap<usize, u64> = statistics
            .iter()
            .filter_map(|(name, count)| Some((queue_number(name, prefix, suffix)?, *count)))
            .collect();
        (!queues.is_empty()).then_some(queues)
    };
    let Some(queues) = QUEUE_NAMES.iter().find_map(of) else {
        return Vec::new();
    };
    let count = queues.last_key_value().map_or(0, |(last, _)| last + 1);
    (0..count)
        .map(|queue| queues.get(&queue).copied().unwrap_or(0))
        .collect()
}

fn queue_number(name: &str, prefix: &str, suffix: &str) -> Option<usize> {
    let name = name.to_lowercase();
    let number = name.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let digits = !number.is_empty() && number.bytes().all(|octet| octet.is_ascii_digit());
    let number = digits.then(|| number.parse().ok())??;
    (number < MAX_QUEUES).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_netns, run};

    #[test]
    fn the_packets_of_receive_queues_are_found_under_each_drivers_names() {
        for (description, names, expected) in [
            (
                "ixgbe",
                &[
                    "rx_packets",
                    "tx_queue_0_packets",
                    "rx_queue_0_packets",
                    "rx_queue_1_packets",
                    "rx_queue_0_bytes",
                ][..],
                &[2, 3][..],
            ),
            (
                "i40e",
                &[
                    "rx_packets",
                    "rx-0.packets",
                    "rx-0.bytes",
                    "rx-1.packets",
                    "tx-0.packets",
                ],
                &[1, 3],
            ),
            (
                "mlx5",
                &[
                    "rx_packets",
                    "rx0_packets",
                    "rx0_xdp_packets",
                    "rx1_packets",
                    "rx_xdp_tx_packets",
                ],
                &[1, 3],
            ),
            (
                "virtio_net to 6.7",
                &["rx_queue_0_packets", "rx_queue_0_xdp_packets"],
                &[0],
            ),
            (
                "virtio_net since 6.8",
                &["rx0_packets", "rx0_xdp_packets", "tx0_packets"],
                &[0],
            ),
            (
                "ena",
                &[
                    "queue_0_tx_cnt",
                    "queue_0_rx_cnt",
                    "queue_1_rx_cnt",
                    "queue_1_rx_bytes",
                ],
                &[1, 2],
            ),
            (
                "bnxt",
                &[
                    "[0]: rx_ucast_packets",
                    "[0]: rx_mcast_packets",
                    "[1]: rx_ucast_packets",
                ],
                &[0, 2],
            ),
            ("sfc", &["rx-0.rx_packets", "tx-0.tx_packets"], &[0]),
            (
                "hns3",
                &["rxq0_packets", "txq0_packets", "rxq1_packets"],
                &[0, 2],
            ),
            ("nfp", &["rvec_0_rx_pkts", "rvec_0_tx_pkts"], &[0]),
            (
                "atlantic",
                &["InPackets", "Queue[0] InPackets", "Queue[1] InPackets"],
                &[1, 2],
            ),
            (
                "veth",
                &[
                    "peer_ifindex",
                    "rx_queue_0_xdp_packets",
                    "rx_queue_0_xdp_bytes",
                    "rx_queue_1_xdp_packets",
                ],
                &[1, 3],
            ),
            (
                "queues out of order and one missing",
                &["rx2_packets", "rx0_packets"],
                &[1, 0, 0],
            ),
            (
                "no queues",
                &[
                    "rx_packets",
                    "rx_all_packets",
                    "rx-.packets",
                    "rx-1x.packets",
                    "rx_queue_99999_packets",
                ],
                &[],
            ),
        ] {
            // Each has its place for its count.
            let statistics: Vec<_> = names
                .iter()
                .map(|name| (*name).to_owned())
                .zip(0..)
                .collect();
            assert_eq!(packets_by_queue(&statistics), expected, "{description}");
        }
    }

    #[test]
    fn what_was_lost_is_told_from_what_was_not() {
        for name in [
            "rx_missed_errors",
            "rx_no_buffer_count",
            "rx_out_of_buffer",
            "rx_discards_phy",
            "rx0_buff_alloc_err",
            "rx_queue_0_drops",
            "rx_csum_err",
            "port.rx_dropped",
            "[0]: rx_discards",
            "InErrors",
            "rx_fifo_errors",
            "rx_overruns",
            "queue_0_rx_page_alloc_err",
        ] {
            assert!(is_loss(name), "{name}");
        }
        for name in [
            "rx_packets",
            "interrupts",
            "rx_queue_0_xdp_drops",
            "rx_xdp_drop",
            "tx_dropped",
            "tx_queue_0_xdp_xmit_errors",
            "port.tx_errors",
            "rx_deferred",
            "rx_permissions",
            "queue_0_tx_missed_tx",
        ] {
            assert!(!is_loss(name), "{name}");
        }
    }

    #[test]
    fn names_end_at_their_zero_or_their_length() {
        assert_eq!(name(b"rx_packets\0\0garbage"), "rx_packets");
        assert_eq!(name(&[b'x'; NAME_LENGTH]), "x".repeat(NAME_LENGTH));
        assert_eq!(name(b"     rx_bytes\0"), "rx_bytes");
        assert_eq!(name(b"\0"), "");
    }

    #[test]
    fn the_statistics_of_a_driver_are_those_that_ethtool_shows() {
        in_netns(|| {
            run(
                "ip",
                "link add lab0 numrxqueues 3 numtxqueues 3 type veth peer name lab1 numrxqueues 1 numtxqueues 1",
            );
            run("ip", "link set lab0 up");
            run("ip", "link set lab1 up");
            let told = statistics("lab0").unwrap();
            let shown = std::process::Command::new("ethtool")
                .args(["-S", "lab0"])
                .output()
                .unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            let names: Vec<_> = told.iter().map(|(name, _)| name.as_str()).collect();
            let expected: Vec<_> = shown
                .lines()
                .filter_map(|line| line.split_once(": "))
                .map(|(name, _)| name.trim())
                .collect();
            assert!(expected.len() > 3, "{shown}");
            assert_eq!(names, expected);
            let peer = nix::net::if_::if_nametoindex("lab1").unwrap();
            assert_eq!(told[0], ("peer_ifindex".to_owned(), u64::from(peer)));
            assert_eq!(packets_by_queue(&told).len(), 3);
            for without in ["lo", "gone", "a-name-longer-than-any"] {
                assert_eq!(statistics(without).unwrap(), [], "{without}");
            }
        });
    }
}
