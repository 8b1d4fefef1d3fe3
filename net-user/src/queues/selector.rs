//! Which listeners an operator means.

use std::{net::IpAddr, str::FromStr};

use thiserror::Error;

use crate::control::queues::{ListenerQueues, Owner};

/// Which listeners an operator means: `443`, `:443`, `192.0.2.1:443`, `[2001:db8::1]:443`, `192.0.2.1`, or the name of a
/// process or unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// A port, on whatever address.
    Port(u16),
    /// An address as it was bound, whatever the port.
    Address(IpAddr),
    /// Both.
    Socket(IpAddr, u16),
    /// A process or unit, by its whole name; a unit also without `.service`.
    Owner(String),
}

/// A text that names no listener.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{text:?} names no listener ({why}); give a port (443 or :443), an address (192.0.2.1), both (192.0.2.1:443, \
     [2001:db8::1]:443), or the name of a process or unit (nginx, nginx.service)"
)]
pub struct BadSelector {
    text: String,
    why: &'static str,
}

impl FromStr for Selector {
    type Err = BadSelector;

    fn from_str(text: &str) -> Result<Self, BadSelector> {
        let bad = |why| BadSelector {
            text: text.to_owned(),
            why,
        };
        let port = |digits: &str| match digits.parse::<u16>() {
            Ok(0) => Err(bad("nothing listens on port 0")),
            Ok(port) => Ok(port),
            Err(_) => Err(bad("ports go from 1 to 65535")),
        };
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if text.is_empty() {
            return Err(bad("it is empty"));
        }
        let bare = text.strip_prefix(':').unwrap_or(text);
        if digits(bare) {
            return port(bare).map(Self::Port);
        }
        if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
            return port(&socket.port().to_string())
                .map(|port| Self::Socket(canonical(socket.ip()), port));
        }
        let unbracketed = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(address) = unbracketed.parse() {
            return Ok(Self::Address(canonical(address)));
        }
        if text.contains([':', '[', ']', '/']) || text.contains(char::is_whitespace) {
            return Err(bad("it is no address and no name"));
        }
        if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(bad("it is no address"));
        }
        Ok(Self::Owner(text.to_owned()))
    }
}

/// A mapped address as IPv4, as sock_diag tells it.
fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

impl Selector {
    /// Whether this listener is meant.
    pub fn matches(&self, listener: &ListenerQueues) -> bool {
        let bound = |address: &IpAddr| listener.address.parse() == Ok(*address);
        match self {
            Self::Port(port) => listener.port == *port,
            Self::Address(address) => bound(address),
            Self::Socket(address, port) => listener.port == *port && bound(address),
            Self::Owner(name) => {
                let is = |owner: &Owner| {
                    let unit = owner.unit.as_deref();
                    owner.name == *name
                        || unit.is_some_and(|unit| {
                            unit == name || unit.strip_suffix(".service") == Some(name)
                        })
                };
                let mut owners = listener.sockets.iter().filter_map(|s| s.process.as_ref());
                owners.any(is)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::queues::ListenerSocket;

    #[test]
    fn a_selector_is_read_as_people_write_it() {
        let v4: IpAddr = [192, 0, 2, 1].into();
        let v6: IpAddr = "2001:db8::1".parse().unwrap();
        for (text, meant) in [
            ("443", Selector::Port(443)),
            (":443", Selector::Port(443)),
            ("192.0.2.1:443", Selector::Socket(v4, 443)),
            ("[::ffff:192.0.2.1]:443", Selector::Socket(v4, 443)),
            ("[2001:db8::1]:443", Selector::Socket(v6, 443)),
            ("192.0.2.1", Selector::Address(v4)),
            ("2001:db8::1", Selector::Address(v6)),
            ("[2001:db8::1]", Selector::Address(v6)),
            ("nginx", Selector::Owner("nginx".into())),
            ("nginx.service", Selector::Owner("nginx.service".into())),
        ] {
            assert_eq!(text.parse::<Selector>().unwrap(), meant, "{text}");
        }
        for text in [
            "",
            "0",
            "65536",
            ":0",
            "192.0.2",
            "192.0.2.1:0",
            "::1:",
            "a b",
            "10.0.0.0/8",
        ] {
            let error = text.parse::<Selector>().expect_err(text).to_string();
            assert!(error.contains("names no listener"), "{error}");
        }
    }

    #[test]
    fn a_selector_matches_what_it_names_and_nothing_else() {
        let listener = ListenerQueues {
            address: "192.0.2.1".into(),
            port: 443,
            sockets: vec![ListenerSocket {
                process: Some(Owner {
                    pid: 1,
                    name: "nginx".into(),
                    unit: Some("web.service".into()),
                }),
                ..ListenerSocket::default()
            }],
            ..ListenerQueues::default()
        };
        for (text, expected) in [
            ("443", true),
            ("80", false),
            ("192.0.2.1", true),
            ("192.0.2.2", false),
            ("192.0.2.1:443", true),
            ("192.0.2.1:80", false),
            ("nginx", true),
            ("web", true),
            ("web.service", true),
            ("ngin", false),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(&listener), expected, "{text}");
        }
    }
}
