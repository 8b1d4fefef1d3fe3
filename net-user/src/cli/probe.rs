//! `netmoat probe`

mod list;
mod page;
mod waterfall;

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use url::Url;

use super::output::{Format, Output, width};
use super::{Code, Failure, netns};
use crate::config::{HumanDuration, UnitError};
use crate::control::client::Client;
use crate::probe::{self, Family, Given, HttpVersion, Names, Outcome, Plan, Report, Trace};

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat probe https://www.example.org/    each stage timed and judged
  netmoat probe https://www.example.org/ --trace-dns
                                            the name from the roots on
  netmoat probe http://192.0.2.7:8080/health -o json
  netmoat probe https://example.org/ --resolve example.org:443:192.0.2.7
                                            this backend, under that name
  sudo netmoat probe https://10.0.0.1/ --from-netns blue --ca ca.pem
  netmoat probe https://www.example.org/ --html way.html
  netmoat probe list                        what the agent's own probes found

Exit code: 0 when all is well, 3 when the page came but something is slow or
wrong, 1 when it did not come.";

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    /// Where to: http:// or https://; without either, https://
    #[arg(required = true, value_parser = url)]
    url: Option<Url>,
    /// Walk from this network namespace: a name as `ip netns` has it, or a path
    #[arg(long, value_name = "NAME|PATH")]
    from_netns: Option<String>,
    /// How long each stage may take
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = patience)]
    timeout: HumanDuration,
    /// Only IPv4
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    ipv4: bool,
    /// Only IPv6
    #[arg(short = '6', long)]
    ipv6: bool,
    /// Do not look this host up: HOST:PORT:ADDRESS[,ADDRESS]…; may be repeated
    #[arg(long, value_name = "HOST:PORT:ADDRESS", value_parser = given)]
    resolve: Vec<Given>,
    /// Ask this name server instead of the host's: ADDRESS or ADDRESS:PORT; may be repeated
    #[arg(long, value_name = "SERVER", value_parser = server)]
    dns: Vec<std::net::SocketAddr>,
    /// Walk through the name from the roots, too
    #[arg(long)]
    trace_dns: bool,
    /// The roots' names and addresses, in the form of named.root [default: the IANA's]
    #[arg(long, value_name = "FILE", requires = "trace_dns")]
    root_hints: Option<PathBuf>,
    /// The root's keys, as DS or DNSKEY records [default: the IANA's]
    #[arg(long, value_name = "FILE", requires = "trace_dns")]
    trust_anchor: Option<PathBuf>,
    /// Trust the certificates of this file (PEM) in place of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Go on although the certificate does not verify
    #[arg(short = 'k', long)]
    insecure: bool,
    /// The version of HTTP
    #[arg(long, value_enum, default_value_t = HttpVersion::Auto)]
    http: HttpVersion,
    /// How many redirects are followed
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(..=50))]
    redirects: u32,
    /// The status that is right [default: any below 400]
    #[arg(long, value_name = "STATUS", value_parser = clap::value_parser!(u16).range(100..600))]
    expect: Option<u16>,
    /// Only fetch the page: no second request, no conditional, range, OPTIONS or HEAD requests
    #[arg(long, conflicts_with = "conformance")]
    no_checks: bool,
    /// Send what is wrong on purpose, too: a request without Host, a damaged one
    #[arg(long)]
    conformance: bool,
    /// Do not ask the agent what it saw
    #[arg(long)]
    no_agent: bool,
    /// The waterfall and what is wrong, without the details of each stage
    #[arg(long)]
    brief: bool,
    /// Write the waterfall as a web page into this file, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// The agent's own probes ([[probe]] of the config), and how they ended
    #[command(after_help = list::EXAMPLES)]
    List,
}

fn url(text: &str) -> Result<Url, String> {
    probe::parse_url(text).map_err(|(what, remedy)| format!("{what}; {remedy}"))
}

fn patience(text: &str) -> Result<HumanDuration, String> {
    text.parse()
        .map_err(|error: UnitError| format!("{error}: {}", error.remedy))
}

fn given(text: &str) -> Result<Given, String> {
    probe::parse_given(text).map_err(|(what, remedy)| format!("{what}; {remedy}"))
}

fn server(text: &str) -> Result<std::net::SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<std::net::IpAddr>() {
        return Ok((address, 53).into());
    }
    text.parse().map_err(|_| {
        format!("{text} is no address; write 192.0.2.53, 192.0.2.53:5353 or 2001:db8::53")
    })
}

impl Args {
    fn plan(self, url: Url) -> Plan {
        let names = match self
            .from_netns
            .as_deref()
            .filter(|name| !name.contains('/'))
        {
            Some(name) => Names::of_netns(name),
            None => Names::default(),
        };
        Plan {
            timeout: self.timeout.get(),
            family: match (self.ipv4, self.ipv6) {
                (true, _) => Some(Family::V4),
                (_, true) => Some(Family::V6),
                _ => None,
            },
            resolve: self.resolve,
            names: Names {
                servers: self.dns,
                ..names
            },
            trace: self.trace_dns.then_some(Trace {
                root_hints: self.root_hints,
                trust_anchor: self.trust_anchor,
            }),
            ca: self.ca,
            insecure: self.insecure,
            http: self.http,
            redirects: self.redirects,
            expect: self.expect,
            checks: !self.no_checks,
            conformance: self.conformance,
            ..Plan::new(url)
        }
    }
}

pub(super) fn probe(client: &Client, out: &Output, mut args: Args) -> Result<Code, Failure> {
    if let Some(Command::List) = args.command {
        return list::list(client, out);
    }
    let url = args
        .url
        .take()
        .context("no URL")
        .map_err(|e| Failure::new(Code::Usage, e))?;
    if let Some(ca) = &args.ca {
        probe::tls::read_roots(ca)
            .context("--ca")
            .map_err(|e| Failure::new(Code::Usage, e))?;
    }
    if let Some(namespace) = &args.from_netns {
        netns::enter(namespace)?;
    }
    let (html, brief) = (args.html.take(), args.brief);
    let agent = (!args.no_agent).then_some(client);
    let plan = args.plan(url);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let progress = waterfall::Progress::new(!out.is(Format::Json));
    let report = runtime.block_on(probe::walk(&plan, agent, &|what| progress.tell(what)));
    progress.clear();
    out.print(&report, |report| waterfall::human(report, brief, width()))?;
    if let Some(path) = &html {
        std::fs::write(path, page::html(&report)).map_err(|error| {
            Failure::new(
                Code::Error,
                anyhow!("cannot write {}: {error}", path.display()),
            )
        })?;
    }
    Ok(code(&report))
}

fn code(report: &Report) -> Code {
    match report.outcome {
        Outcome::Ok => Code::Ok,
        Outcome::Slow | Outcome::Wrong => Code::Degraded,
        Outcome::Failed => Code::Error,
    }
}
