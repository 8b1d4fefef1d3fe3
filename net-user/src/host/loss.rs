//! What is lost before it comes to the queues of listeners: at the network card, in its driver, and between the driver and
//! the protocols.

mod driver;

use std::{ffi::CString, fs, io};

use anyhow::{Context as _, Result};
use netlink_bindings::rt_link::{self, Ifinfomsg, RtnlLinkStats64};
use netlink_socket2::NetlinkSocket;
use nix::libc;
use tracing::debug;

use crate::control::queues::{InterfaceLoss, Loss, NamedCount, SoftnetLoss};

/// Most counters that are told of an interface, those with most losses.
const MAX_COUNTERS: usize = 64;
/// Packets from which on the shares of receive queues mean something.
const MEANINGFUL: u64 = 100;
const SOFTNET: &str = "/proc/thread-self/net/softnet_stat";

/// Looks at interfaces of the calling thread's network namespace, and at all CPUs. Blocking, since a driver may ask its card.
/// An interface that is gone is left out.
///
/// # Errors
/// The kernel tells nothing; a driver that does not is no error.
pub fn look(interfaces: &[String]) -> Result<Loss> {
    let text = fs::read_to_string(SOFTNET).with_context(|| format!("cannot read {SOFTNET}"))?;
    let mut loss = Loss {
        interfaces: Vec::new(),
        softnet: softnet(&text),
    };
    for name in interfaces {
        if let Some(stats) = link_stats(name)? {
            // A card that is being reset does not answer: the rest is told all the same.
            let driver = driver::statistics(name).unwrap_or_else(|error| {
                debug!("cannot read the driver's statistics of {name}: {error:#}");
                Vec::new()
            });
            loss.interfaces.push(of_interface(name, &stats, driver));
        }
    }
    Ok(loss)
}

/// The counters of the kernel by rtnetlink: sysfs shows the namespace it was mounted in, and `/proc/net/dev` adds
/// `rx_missed_errors` to `rx_dropped`, and others to one another (`dev_seq_printf_stats`, `net/core/net-procfs.c`). `None` for
/// an interface that is gone.
fn link_stats(interface: &str) -> Result<Option<RtnlLinkStats64>> {
    let name = CString::new(interface)?;
    let mut request = rt_link::Request::new().op_getlink_do(&Ifinfomsg::new());
    request.encode().push_ifname(&name);
    let mut socket = NetlinkSocket::new();
    let mut reply = socket.request(&request).context("cannot ask rtnetlink")?;
    match reply.recv_one().map_err(io::Error::from) {
        Ok((_, attributes)) => {
            Ok(Some(attributes.get_stats64().with_context(|| {
                format!("the kernel tells no statistics of {interface}")
            })?))
        }
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the statistics of {interface}"))
        }
    }
}

fn of_interface(name: &str, stats: &RtnlLinkStats64, driver: Vec<(String, u64)>) -> InterfaceLoss {
    // Not rx_otherhost_dropped: what was meant for others is not lost.
    let kernel = [
        ("rx_errors", stats.rx_errors),
        ("rx_dropped", stats.rx_dropped),
        ("rx_missed_errors", stats.rx_missed_errors),
        ("rx_fifo_errors", stats.rx_fifo_errors),
        ("rx_over_errors", stats.rx_over_errors),
        ("rx_length_errors", stats.rx_length_errors),
        ("rx_crc_errors", stats.rx_crc_errors),
        ("rx_frame_errors", stats.rx_frame_errors),
        ("rx_nohandler", stats.rx_nohandler),
    ];
    let queues = driver::packets_by_queue(&driver);
    let kernel = kernel.map(|(name, count)| (name.to_owned(), count));
    // Drivers have some of these under the same name.
    let is_new = |name: &str| kernel.iter().all(|(of_kernel, _)| of_kernel != name);
    let of_driver = driver
        .into_iter()
        .filter(|(name, _)| driver::is_loss(name) && is_new(name));
    let mut lost: Vec<_> = kernel
        .iter()
        .cloned()
        .chain(of_driver)
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| NamedCount { name, count })
        .collect();
    if lost.len() > MAX_COUNTERS {
        lost.sort_by_key(|counter| std::cmp::Reverse(counter.count));
        lost.truncate(MAX_COUNTERS);
    }
    InterfaceLoss {
        name: name.to_owned(),
        packets: stats.rx_packets,
        lost,
        busiest_queue_per_mille: busiest_per_mille(&queues),
        queues,
    }
}

/// The share of the busiest queue; none for a single queue, or too few packets to tell.
fn busiest_per_mille(queues: &[u64]) -> Option<u32> {
    let total: u128 = queues.iter().copied().map(u128::from).sum();
    let most = u128::from(*queues.iter().max()?);
    let told = queues.len() >= 2 && total >= u128::from(MEANINGFUL);
    // At most 1000.
    told.then(|| (most * 1000 / total) as u32)
}

/// Reads a line of hexadecimal columns for each CPU (`softnet_seq_show`, `net/core/net-procfs.c`). Their 13th is the number of
/// the CPU since 5.10; before, and on hosts where all are online, it is that of the line.
fn softnet(text: &str) -> Vec<SoftnetLoss> {
    text.lines()
        .zip(0..)
        .filter_map(|(line, number)| {
            let columns: Vec<u64> = line
                .split_whitespace()
                .map_while(|column| u64::from_str_radix(column, 16).ok())
                .collect();
            let &[processed, dropped, squeezed, ..] = columns.as_slice() else {
                return None;
            };
            let told = columns.get(12).and_then(|&cpu| u32::try_from(cpu).ok());
            Some(SoftnetLoss {
                cpu: told.unwrap_or(number),
                processed,
                dropped,
                squeezed,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::host::testing::{in_netns, run};

    #[test]
    fn softnet_is_read_of_new_kernels_and_old() {
        let of = |cpu, processed, dropped, squeezed| SoftnetLoss {
            cpu,
            processed,
            dropped,
            squeezed,
        };
        for (description, text, expected) in [
            (
                "6.18, CPU 1 offline",
                "0000da34 00000001 0000000a 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 \
                 00000000 00000000 00000000\n00001000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 \
                 00000000 00000000 00000000 00000002 00000000 00000000\n",
                vec![of(0, 0xda34, 1, 10), of(2, 0x1000, 0, 0)],
            ),
            (
                "4.19",
                "00000010 00000000 00000001 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n\
                 00000020 00000002 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000 00000000\n",
                vec![of(0, 16, 0, 1), of(1, 32, 2, 0)],
            ),
            ("not what it was", "processed 1 2 3\n1 2\n\n", vec![]),
        ] {
            assert_eq!(softnet(text), expected, "{description}");
        }
    }

    #[test]
    fn the_share_of_the_busiest_queue_needs_two_queues_and_a_hundred_packets() {
        for (queues, expected) in [
            (&[][..], None),
            (&[1000], None),
            (&[50, 49], None),
            (&[50, 50], Some(500)),
            (&[0, 0, 300, 100], Some(750)),
            (&[u64::MAX, 0], Some(1000)),
        ] {
            assert_eq!(busiest_per_mille(queues), expected, "{queues:?}");
        }
    }

    #[test]
    fn counters_of_kernel_and_driver_are_told_once_and_only_where_something_was_lost() {
        let stats = RtnlLinkStats64 {
            rx_packets: 500,
            rx_dropped: 3,
            rx_crc_errors: 2,
            rx_otherhost_dropped: 9,
            ..RtnlLinkStats64::default()
        };
        let driver = [
            ("rx_crc_errors", 2),
            ("rx_queue_0_packets", 300),
            ("rx_queue_1_packets", 100),
            ("rx_queue_0_drops", 7),
            ("rx_queue_0_xdp_drops", 70),
            ("rx_no_buffer_count", 0),
        ]
        .map(|(name, count)| (name.to_owned(), count));
        let found = of_interface("eth0", &stats, driver.to_vec());
        let lost: Vec<_> = found
            .lost
            .iter()
            .map(|c| (c.name.as_str(), c.count))
            .collect();
        assert_eq!(
            lost,
            [
                ("rx_dropped", 3),
                ("rx_crc_errors", 2),
                ("rx_queue_0_drops", 7)
            ]
        );
        assert_eq!((found.packets, found.queues), (500, vec![300, 100]));
        assert_eq!(found.busiest_queue_per_mille, Some(750));
    }

    /// The kernel's own counter, a driver's names and an interface of this namespace alone.
    #[test]
    fn an_interface_of_the_threads_namespace_is_read() {
        in_netns(|| {
            run(
                "ip",
                "link add lab0 numrxqueues 3 numtxqueues 3 type veth peer name lab1 numrxqueues 2 numtxqueues 2",
            );
            run("ip", "addr add 192.0.2.1/24 dev lab1");
            run("ip", "link set lab0 up");
            run("ip", "link set lab1 up");
            run(
                "ip",
                "neigh add 192.0.2.9 lladdr 02:00:00:00:00:09 dev lab1",
            );
            let socket = UdpSocket::bind("192.0.2.1:0").unwrap();
            let names = ["lab0".to_owned(), "gone".to_owned()];
            let packets = || {
                let loss = look(&names).unwrap();
                assert_eq!(loss.interfaces.len(), 1, "{loss:?}");
                assert!(!loss.softnet.is_empty());
                let interface = loss.interfaces[0].clone();
                assert_eq!(
                    (interface.name.as_str(), interface.queues.len()),
                    ("lab0", 3)
                );
                interface.packets
            };
            let before = packets();
            for _ in 0..10 {
                socket.send_to(b"lost", "192.0.2.9:9").unwrap();
            }
            let patience = std::time::Instant::now();
            while packets() < before + 10 {
                assert!(patience.elapsed().as_secs() < 5, "{}", packets());
            }
            // Loopback's driver has no statistics.
            let lo = look(&["lo".to_owned()]).unwrap();
            assert_eq!(lo.interfaces[0].queues, Vec::<u64>::new());
        });
    }
}
