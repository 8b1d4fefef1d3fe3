//! Facts read from the kernel: sockets, links, addresses, neighbours, sysctls, counters, netfilter rules.
//!
//! Everything here reads and nothing writes, but for [`links::Links::set_neighbor`], [`queue_sysctl::set`] and [`tuning`], which sets what
//! an operator asked for. What is namespaced belongs to the network namespace of
//! the calling thread, or of the thread that opened the handle where there is one.

pub mod guard_sysctl;
pub mod links;
pub mod loss;
pub mod nat;
pub mod neighbor_sysctl;
pub mod neighbors;
pub mod netstat;
pub mod nft;
pub mod owners;
pub mod queue_sysctl;
pub mod routes;
pub mod selection;
pub mod sock_diag;
pub mod ssh;
pub mod sysctl;
pub mod tuning;
pub mod walk;

use crate::queues::looks::HostLook;

/// What the kernel counts for the calling thread's network namespace, and its settings that concern queues.
///
/// # Errors
/// /proc is not there, or lacks them.
pub fn look() -> anyhow::Result<HostLook> {
    let sockets = netstat::sockstat()?;
    Ok(HostLook {
        counters: netstat::counters()?,
        time_wait: sockets.time_wait,
        orphans: sockets.orphans,
        settings: queue_sysctl::read()?,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    //! A private network namespace for a test, and what may be in one.

    use super::links::Link;
    use nix::sched::{CloneFlags, unshare};
    use std::process::Command;

    /// An Ethernet interface whose link-layer address ends in its index.
    pub(crate) fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            mtu: 1500,
            up: true,
            carrier: true,
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            kind: None,
            lower: None,
            vlan_id: None,
            controller: None,
            xdp: None,
            rx_packets: 0,
        }
    }

    /// Runs `test` on a thread of its own in a new network namespace with `lo` up. Needs root.
    pub(crate) fn in_netns<T: Send>(test: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("unshare(CLONE_NEWNET): run as root");
                run("ip", "link set lo up");
                test()
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command in the calling thread's namespace.
    pub(crate) fn run(command: &str, arguments: &str) {
        let status = Command::new(command)
            .args(arguments.split_whitespace())
            .status();
        assert!(
            status.is_ok_and(|status| status.success()),
            "{command} {arguments}"
        );
    }

    /// A current-thread runtime: its I/O stays in the calling thread's namespace.
    pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(future)
    }
}
