//! What a walk is to do.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use url::Url;

/// Given addresses, in place of a look-up: host, port, addresses.
pub type Given = (String, u16, Vec<IpAddr>);

/// One walk.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where to; http or https.
    pub url: Url,
    /// How long each stage may take.
    pub timeout: Duration,
    /// How long the walk may take as a whole; no bound of its own without.
    pub patience: Option<Duration>,
    /// Beyond which a stage is slow.
    pub slow: Thresholds,
    /// Only this family.
    pub family: Option<Family>,
    /// Given addresses, in place of a look-up: host, port, addresses.
    pub resolve: Vec<Given>,
    /// Where names are looked up.
    pub names: Names,
    /// Walk from the roots too.
    pub trace: Option<Trace>,
    /// Trust these roots (PEM) in place of the system's.
    pub ca: Option<PathBuf>,
    /// Go on although the certificate does not verify; the finding stands.
    pub insecure: bool,
    /// The version of HTTP.
    pub http: HttpVersion,
    /// How many redirects are followed.
    pub redirects: u32,
    /// Whether a redirect from a public address may not lead to one that only this host and its neighbours can reach. For walks
    /// that nobody watches: else whoever runs a public server could let them ask what is inside.
    pub stay_outside: bool,
    /// The status that is right, in place of any below 400.
    pub expect: Option<u16>,
    /// Also ask what no browser asks: resumption, a second request, conditional and range requests, OPTIONS, HEAD.
    pub checks: bool,
    /// Also send what is wrong on purpose: no Host, a damaged request.
    pub conformance: bool,
}

impl Plan {
    /// A walk to `url` with nothing special.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            timeout: Duration::from_secs(10),
            patience: None,
            slow: Thresholds::default(),
            family: None,
            resolve: Vec::new(),
            names: Names::default(),
            trace: None,
            ca: None,
            insecure: false,
            http: HttpVersion::Auto,
            redirects: 10,
            stay_outside: false,
            expect: None,
            checks: true,
            conformance: false,
        }
    }
}

/// A family of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they say it")]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Whether an address is of it.
    pub const fn has(self, address: &IpAddr) -> bool {
        matches!(
            (self, address),
            (Self::V4, IpAddr::V4(_)) | (Self::V6, IpAddr::V6(_))
        )
    }
}

/// Beyond which time a stage is slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Thresholds {
    /// The look-up.
    pub name: Duration,
    /// SYN to established. A SYN sent again is slow in any case.
    pub tcp: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Request to the first octet of the answer.
    pub first_byte: Duration,
    /// The whole walk to the last octet of the page.
    pub total: Duration,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            name: Duration::from_millis(500),
            tcp: Duration::from_millis(500),
            tls: Duration::from_millis(750),
            first_byte: Duration::from_secs(1),
            total: Duration::from_secs(4),
        }
    }
}

/// Where names are looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The hosts file.
    pub hosts: PathBuf,
    /// The resolver configuration.
    pub resolv_conf: PathBuf,
    /// In which order the sources of names are asked.
    pub nsswitch: PathBuf,
    /// Ask these name servers instead of the host's.
    pub servers: Vec<SocketAddr>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            hosts: "/etc/hosts".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            nsswitch: "/etc/nsswitch.conf".into(),
            servers: Vec::new(),
        }
    }
}

impl Names {
    /// As `ip netns exec` has it: files in `/etc/netns/NAME` in place of those in `/etc` (ip-netns(8)).
    pub fn of_netns(name: &str) -> Self {
        let own = |file: &str| {
            let own = PathBuf::from("/etc/netns").join(name).join(file);
            if own.exists() {
                own
            } else {
                PathBuf::from("/etc").join(file)
            }
        };
        Self {
            hosts: own("hosts"),
            resolv_conf: own("resolv.conf"),
            nsswitch: own("nsswitch.conf"),
            servers: Vec::new(),
        }
    }
}

/// The walk from the roots.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    /// Root hints in the form of named.root; the IANA's without.
    pub root_hints: Option<PathBuf>,
    /// DS or DNSKEY records of the root's keys; the IANA's without.
    pub trust_anchor: Option<PathBuf>,
}

/// Which version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum HttpVersion {
    /// HTTP/2 where TLS agrees on it, HTTP/1.1 otherwise
    Auto,
    /// HTTP/1.0
    #[value(name = "1.0")]
    Http10,
    /// HTTP/1.1
    #[value(name = "1.1")]
    Http11,
    /// HTTP/2; without TLS with prior knowledge
    #[value(name = "2")]
    Http2,
}

/// Reads where to; without a scheme it is https.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn parse_url(text: &str) -> Result<Url, (String, String)> {
    let whole = if text.contains("://") {
        text.to_owned()
    } else {
        format!("https://{text}")
    };
    let url = Url::parse(&whole).map_err(|error| {
        (
            format!("`{}` cannot be probed: {error}", text.escape_debug()),
            "write https://www.example.org/ or http://192.0.2.7:8080/health".to_owned(),
        )
    })?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err((
            "the URL has a user or a password, which every report would show, and which is not sent".to_owned(),
            "leave them out; the status that is then right is told with expect, as 401".to_owned(),
        ));
    }
    match url.scheme() {
        "http" | "https" => Ok(url),
        other => Err((
            format!("{other}:// cannot be probed"),
            "write http:// or https://".to_owned(),
        )),
    }
}

/// Reads given addresses: `HOST:PORT:ADDRESS[,ADDRESS]…`.
///
/// # Errors
/// What is wrong, and how to write it.
pub fn parse_given(text: &str) -> Result<Given, (String, String)> {
    let form = |what: String| {
        (
            what,
            "write HOST:PORT:ADDRESS, as in www.example.org:443:192.0.2.7".to_owned(),
        )
    };
    let mut parts = text.splitn(3, ':');
    let (Some(host), Some(port), Some(addresses)) = (parts.next(), parts.next(), parts.next())
    else {
        return Err(form(format!("`{}` has no address", text.escape_debug())));
    };
    let port = port
        .parse()
        .map_err(|error| form(format!("port {}: {error}", port.escape_debug())))?;
    let addresses = addresses.split(',').map(|address| {
        let bare = address.trim_start_matches('[').trim_end_matches(']');
        bare.parse()
            .map_err(|error| form(format!("{}: {error}", address.escape_debug())))
    });
    Ok((
        host.to_ascii_lowercase(),
        port,
        addresses.collect::<Result<_, _>>()?,
    ))
}
