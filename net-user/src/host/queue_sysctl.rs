//! Sysctls that decide over queues, and the few of them that netmoat may change, in the calling thread's network namespace
//! (`net_ctl_root`, `net/sysctl_net.c`).

use std::{
    fs,
    io::{Error, ErrorKind},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::libc;

use super::sysctl::{if_present, read as read_number};
use crate::queues::looks::QueueSettings;

/// What `netmoat tune` may change; nothing else can be set here.
pub const CHANGEABLE: [&str; 8] = [
    "net.core.somaxconn",
    "net.ipv4.tcp_max_syn_backlog",
    "net.ipv4.tcp_synack_retries",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_max_tw_buckets",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_tw_reuse",
    "net.ipv4.tcp_fin_timeout",
];

/// Reads all that decide over queues.
///
/// # Errors
/// One is missing or does not hold what it should.
pub fn read() -> Result<QueueSettings> {
    let range = get("net.ipv4.ip_local_port_range")?;
    let local_port_range = range
        .split_once(' ')
        .and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
        .with_context(|| format!("net.ipv4.ip_local_port_range holds {range:?}, not two ports"))?;
    let reserved = get("net.ipv4.ip_local_reserved_ports")?;
    Ok(QueueSettings {
        somaxconn: read_number("core/somaxconn")?,
        max_syn_backlog: read_signed("ipv4/tcp_max_syn_backlog")?,
        synack_retries: read_number("ipv4/tcp_synack_retries")?,
        syncookies: read_number("ipv4/tcp_syncookies")?,
        abort_on_overflow: read_number::<u32>("ipv4/tcp_abort_on_overflow")? != 0,
        fin_timeout: read_number("ipv4/tcp_fin_timeout")?,
        max_tw_buckets: read_signed("ipv4/tcp_max_tw_buckets")?,
        tw_reuse: read_number("ipv4/tcp_tw_reuse")?,
        orphan_retries: read_number("ipv4/tcp_orphan_retries")?,
        local_port_range,
        reserved_ports: reserved_in(&reserved, local_port_range),
        netdev_max_backlog: if_present(read_number("core/netdev_max_backlog"))?,
    })
}

/// The value of a setting such as `net.core.somaxconn`, numbers apart by one space.
///
/// # Errors
/// There is no such setting.
pub fn get(name: &str) -> Result<String> {
    let path = path(name);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    Ok(plain(&text))
}

/// Sets one of [`CHANGEABLE`] to whole numbers, and makes sure that the kernel took them.
///
/// # Errors
/// It may not be changed, or not by us, or not to this; then it has its old value, unless the message says otherwise.
pub fn set(name: &str, value: &str) -> Result<()> {
    ensure!(
        CHANGEABLE.contains(&name),
        "{name} is no setting that netmoat changes; those are {}",
        CHANGEABLE.join(", ")
    );
    let value = plain(value);
    ensure!(
        !value.is_empty() && value.split(' ').all(|word| word.parse::<u32>().is_ok()),
        "{name} takes whole numbers, not {value:?}"
    );
    let path = path(name);
    if let Err(error) = fs::write(&path, &value) {
        bail!("cannot set {name} to {value}: {}", remedy(&error, &path));
    }
    let took = get(name)?;
    ensure!(
        took == value,
        "{name} was set to {value}, and the kernel made {took} of it"
    );
    Ok(())
}

fn remedy(error: &Error, path: &str) -> String {
    if error.raw_os_error() == Some(libc::EROFS) {
        return format!(
            "{path} is read-only here. In a systemd unit add `ReadWritePaths=/proc/sys/net` and no `ProtectKernelTunables=`, in \
             a container set it from the host or with the runtime's own option (`--sysctl`)"
        );
    }
    match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "{error}. The agent must be root, or have CAP_NET_ADMIN in the user namespace that the network namespace belongs to"
        ),
        ErrorKind::InvalidInput => "the kernel refuses the value".to_owned(),
        ErrorKind::NotFound => {
            "this kernel, or this network namespace, has no such setting".to_owned()
        }
        _ => error.to_string(),
    }
}

/// No name of ours has a dot in a component.
fn path(name: &str) -> String {
    format!("/proc/sys/{}", name.replace('.', "/"))
}

fn plain(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// A setting that the kernel keeps as a signed number, and lets be negative.
fn read_signed(name: &str) -> Result<u32> {
    let value: i64 = read_number(name)?;
    Ok(u32::try_from(value.max(0)).unwrap_or(u32::MAX))
}

/// How many ports of a range are reserved by a list such as `8080,9148-9150` (`proc_do_large_bitmap`, `kernel/sysctl.c`).
fn reserved_in(list: &str, (first, last): (u16, u16)) -> u32 {
    list.split(',')
        .filter_map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            Some((
                from.trim().parse::<u16>().ok()?,
                to.trim().parse::<u16>().ok()?,
            ))
        })
        .map(|(from, to)| {
            let (from, to) = (u32::from(from.max(first)), u32::from(to.min(last)));
            (to + 1).saturating_sub(from)
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::testing::{in_netns, run};

    #[test]
    fn the_settings_are_those_of_the_threads_namespace_and_can_be_set() {
        in_netns(|| {
            for (name, value) in [
                ("net.core.somaxconn", "77"),
                ("net.ipv4.tcp_max_syn_backlog", "78"),
                ("net.ipv4.tcp_synack_retries", "3"),
                ("net.ipv4.tcp_syncookies", "2"),
                ("net.ipv4.tcp_max_tw_buckets", "79"),
                ("net.ipv4.ip_local_port_range", "40000\t50000"),
                ("net.ipv4.tcp_tw_reuse", "0"),
                ("net.ipv4.tcp_fin_timeout", "31"),
            ] {
                assert_ne!(get(name).unwrap(), plain(value), "{name}");
                set(name, value).unwrap();
                assert_eq!(get(name).unwrap(), plain(value), "{name}");
            }
            fs::write(
                "/proc/sys/net/ipv4/ip_local_reserved_ports",
                "80,39998-40001,49999-50003",
            )
            .unwrap();
            fs::write("/proc/sys/net/ipv4/tcp_abort_on_overflow", "1").unwrap();
            let settings = read().unwrap();
            let expected = QueueSettings {
                somaxconn: 77,
                max_syn_backlog: 78,
                synack_retries: 3,
                syncookies: 2,
                abort_on_overflow: true,
                fin_timeout: 31,
                max_tw_buckets: 79,
                tw_reuse: 0,
                orphan_retries: 0,
                local_port_range: (40_000, 50_000),
                reserved_ports: 4,
                netdev_max_backlog: settings.netdev_max_backlog,
            };
            assert_eq!(settings, expected);
        });
    }

    #[test]
    fn what_cannot_be_set_says_why_and_stays() {
        in_netns(|| {
            for (name, value, part) in [
                (
                    "net.ipv4.ip_forward",
                    "1",
                    "no setting that netmoat changes",
                ),
                ("net/core/somaxconn", "1", "no setting that netmoat changes"),
                ("net.core.somaxconn", "many", "whole numbers"),
                ("net.core.somaxconn", "", "whole numbers"),
                ("net.core.somaxconn", "-1", "whole numbers"),
                ("net.ipv4.tcp_synack_retries", "256", "refuses the value"),
                (
                    "net.ipv4.ip_local_port_range",
                    "9000 8000",
                    "refuses the value",
                ),
            ] {
                let before = get(name).unwrap();
                let error = set(name, value).unwrap_err().to_string();
                assert!(error.contains(part), "{error}");
                assert_eq!(get(name).unwrap(), before, "{name}");
            }
            assert!(
                get("net.absent")
                    .unwrap_err()
                    .to_string()
                    .contains("/proc/sys/net/absent")
            );
        });
    }

    #[test]
    fn a_read_only_proc_sys_is_told_with_the_remedy() {
        in_netns(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            run("mount", "--make-rprivate /");
            run("mount", "--bind /proc/sys /proc/sys");
            run("mount", "-o remount,ro,bind /proc/sys");
            let error = set("net.core.somaxconn", "77").unwrap_err().to_string();
            for part in ["net.core.somaxconn", "read-only", "ReadWritePaths"] {
                assert!(error.contains(part), "no {part} in {error}");
            }
        });
    }
}
