//! Where metrics are served: table `[metrics]`.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Serialize, Serializer};

/// What `[metrics]` says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MetricsPolicy {
    /// Where they are served; nowhere when absent.
    pub listen: Option<Listen>,
}

/// Where metrics are served: never where another host could ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A socket in the file system, for root and the group of the control socket.
    Unix(PathBuf),
    /// A loopback address and a port, for every user of this host.
    Tcp(SocketAddr),
}

/// What is wrong with an address to listen on, and how to write it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {remedy}")]
pub struct ListenError {
    /// What is wrong.
    pub what: String,
    /// How to write it.
    pub remedy: String,
}

const REMEDY: &str =
    "write \"unix:/run/netmoat/metrics.sock\", \"127.0.0.1:9123\" or \"[::1]:9123\"";

impl FromStr for Listen {
    type Err = ListenError;

    fn from_str(text: &str) -> Result<Self, ListenError> {
        let error = |what: String| ListenError {
            what,
            remedy: REMEDY.to_owned(),
        };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = Path::new(path);
            // sun_path holds 108 octets with the closing zero (unix(7)).
            if !path.is_absolute() || path.file_name().is_none() || path.as_os_str().len() > 107 {
                return Err(error(format!(
                    "`{}` is no absolute path of a file of at most 107 octets",
                    path.display()
                )));
            }
            return Ok(Self::Unix(path.to_owned()));
        }
        let address: SocketAddr = text
            .parse()
            .map_err(|_| error(format!("`{}` is nowhere to listen", text.escape_debug())))?;
        if !address.ip().is_loopback() {
            return Err(ListenError {
                what: format!(
                    "metrics are served to this host only, and {} is no loopback address",
                    address.ip()
                ),
                remedy: format!(
                    "{REMEDY}, and let an exporter or proxy with access control stand before it"
                ),
            });
        }
        if address.port() == 0 {
            return Err(error("port 0 is no port to ask at".to_owned()));
        }
        Ok(Self::Tcp(address))
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl Serialize for Listen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_served_in_the_file_system_or_on_loopback_only() {
        for text in [
            "unix:/run/netmoat/metrics.sock",
            "127.0.0.1:9123",
            "127.1.2.3:9123",
            "[::1]:9123",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for (text, words) in [
            ("0.0.0.0:9123", "no loopback address"),
            ("[::]:9123", "no loopback address"),
            ("192.0.2.1:9123", "no loopback address"),
            ("[::ffff:192.0.2.1]:9123", "no loopback address"),
            ("127.0.0.1:0", "port 0"),
            ("127.0.0.1", "nowhere to listen"),
            ("localhost:9123", "nowhere to listen"),
            ("/run/netmoat/metrics.sock", "nowhere to listen"),
            ("unix:metrics.sock", "no absolute path"),
            ("unix:/", "no absolute path"),
            ("", "nowhere to listen"),
        ] {
            let error = text.parse::<Listen>().unwrap_err();
            assert!(error.what.contains(words), "{text}: {error}");
            assert!(error.remedy.contains("127.0.0.1:9123"), "{text}: {error}");
        }
    }
}
