//! `--netns`: the network namespace that the agent protects.

use std::{
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
};

use anyhow::anyhow;
use nix::{errno::Errno, sched::CloneFlags};

use super::{Code, Failure};

/// Where iproute2 keeps named namespaces (ip-netns(8)).
const NAMES: &str = "/run/netns";

/// Moves the calling thread, and every thread that it makes later, into a namespace: a name as `ip netns` has it, or a
/// path such as `/proc/4711/ns/net`. To be called before there is another thread.
///
/// # Errors
/// There is no such namespace, or no permission to enter it (CAP_SYS_ADMIN).
pub(super) fn enter(namespace: &str) -> Result<(), Failure> {
    let path = path(namespace);
    let shown = path.display();
    let file = File::open(&path).map_err(|error| {
        let code = match error.kind() {
            ErrorKind::PermissionDenied => Code::Permission,
            _ => Code::Error,
        };
        Failure::new(
            code,
            anyhow!(
                "the network namespace {namespace} cannot be opened ({shown}: {error}); {}",
                known()
            ),
        )
    })?;
    nix::sched::setns(&file, CloneFlags::CLONE_NEWNET).map_err(|errno| match errno {
        Errno::EPERM => Failure::new(
            Code::Permission,
            anyhow!("no permission to enter the network namespace {namespace}: run as root, or with CAP_SYS_ADMIN"),
        ),
        Errno::EINVAL => Failure::new(
            Code::Error,
            anyhow!("{shown} is no network namespace; {}", known()),
        ),
        errno => Failure::new(
            Code::Error,
            anyhow!("the network namespace {namespace} cannot be entered: {errno}"),
        ),
    })
}

/// A name has no slash (`netns_add`, iproute2).
fn path(namespace: &str) -> PathBuf {
    if namespace.contains('/') {
        PathBuf::from(namespace)
    } else {
        Path::new(NAMES).join(namespace)
    }
}

/// Which there are, in words.
fn known() -> String {
    let mut names: Vec<_> = fs::read_dir(NAMES)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .escape_debug()
                .to_string()
        })
        .collect();
    names.sort_unstable();
    if names.is_empty() {
        "`ip netns add NAME` makes one, and a path such as /proc/PID/ns/net is taken too".to_owned()
    } else {
        format!("there are {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_for_where_iproute2_keeps_it_and_a_path_is_taken_as_it_is() {
        assert_eq!(path("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path("/proc/1/ns/net"), Path::new("/proc/1/ns/net"));
        assert_eq!(path("./net"), Path::new("./net"));
    }

    #[test]
    fn what_is_no_namespace_is_refused_in_words() {
        let absent = enter("no-such-namespace").unwrap_err();
        assert_eq!(absent.code, Code::Error);
        assert!(absent.to_string().contains("no-such-namespace"), "{absent}");
        let other = enter("/dev/null").unwrap_err();
        assert!(
            other.to_string().contains("is no network namespace"),
            "{other}"
        );
    }
}
