//! The command line: `netmoat OBJECT VERB` or a plain verb; a file a subcommand.

mod capture;
mod check;
mod completions;
mod config;
mod counters;
mod detach;
mod events;
mod explain;
mod failure;
mod key;
mod list;
mod log;
mod man;
mod mode;
mod neighbor;
mod netns;
mod output;
mod probe;
mod queues;
mod reload;
mod run;
mod status;
mod top;
mod tune;
mod version;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use failure::{Code, Failure};
use output::{Format, Output};

use crate::config::{Config, HumanDuration, Mode, Overrides, UnitError, XdpMode};
use crate::control::client::Client;
use crate::control::protocol::SetMode;
use crate::lists::List;

const EXIT_CODES: &str =
    "Exit codes: 0 ok, 1 error, 2 usage, 3 degraded or drift, 4 permission or unsupported.";

/// A host's moat: SYN cookies at XDP, and what the queues behind them look like
#[derive(Debug, Parser)]
#[command(name = "netmoat", version, long_version = version::long())]
#[command(after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Args)]
struct Global {
    /// Text for people, or JSON that stays stable
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Human)]
    output: Format,
    /// The agent's control socket [default: /run/netmoat/control.sock]
    // Not a clap default: `run` and `check` must know whether it was given, as the config may name another.
    #[arg(long, global = true, value_name = "PATH", env = "NETMOAT_SOCKET")]
    socket: Option<PathBuf>,
    /// The instance, of which each network namespace may have one [default: default]
    #[arg(long, global = true, value_name = "NAME", env = "NETMOAT_INSTANCE", value_parser = instance)]
    instance: Option<String>,
    /// How much to log to standard error
    #[arg(long, global = true, value_enum, default_value_t = log::Level::Info, env = "NETMOAT_LOG_LEVEL")]
    log_level: log::Level,
    /// How to log: `auto` is journald when standard error is the journal, text otherwise
    #[arg(long, global = true, value_enum, default_value_t = log::Format::Auto, env = "NETMOAT_LOG_FORMAT")]
    log_format: log::Format,
}

impl Global {
    fn client(&self) -> Client {
        Client::new(
            self.socket
                .clone()
                .unwrap_or_else(|| crate::config::socket_of(&self.instance_name())),
        )
    }

    fn instance_name(&self) -> String {
        let named = self.instance.as_deref();
        named.unwrap_or(crate::config::DEFAULT_INSTANCE).to_owned()
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the agent in the foreground, until SIGINT or SIGTERM
    #[command(after_help = run::EXAMPLES)]
    Run {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Read the config, look at the host, touch nothing
    #[command(after_help = check::EXAMPLES)]
    Check {
        #[command(flatten)]
        config: ConfigArgs,
    },
    /// Health, mode and interfaces of the running agent
    #[command(after_help = status::EXAMPLES)]
    Status,
    /// Packets by reason since the programs were loaded
    #[command(after_help = counters::EXAMPLES)]
    Counters {
        /// Also reasons that no packet met
        #[arg(long)]
        all: bool,
    },
    /// What happens to connections at every listener, and what to do about it
    #[command(after_help = queues::EXAMPLES)]
    Queues(queues::Args),
    /// The same live: listeners, verdicts, funnel, drops by reason
    #[command(after_help = top::EXAMPLES)]
    Top(top::Args),
    /// Which kernel settings to change for what was found; changes them when asked to
    #[command(after_help = tune::EXAMPLES)]
    Tune(tune::Args),
    /// Whether a URL works for its users, layer by layer: name, route, TCP, TLS, HTTP, close
    #[command(after_help = probe::EXAMPLES)]
    Probe(Box<probe::Args>),
    /// Take the programs off, with everything that netmoat keeps in the kernel
    #[command(after_help = detach::EXAMPLES)]
    Detach,
    /// Carry verdicts out, or only count them
    #[command(after_help = mode::EXAMPLES)]
    Mode {
        /// The mode from now on; the config's mode returns with the next start
        mode: Mode,
        /// Go back after so long, as in 60s, unless `netmoat confirm` comes before
        #[arg(long, value_name = "TIME", value_parser = within)]
        confirm_within: Option<HumanDuration>,
        /// Even if that locks someone out
        #[arg(long)]
        force: bool,
    },
    /// Read the config again, and put it in force as a whole
    #[command(after_help = reload::EXAMPLES)]
    Reload(reload::Args),
    /// Keep the change that was made with --confirm-within
    #[command(after_help = reload::CONFIRM_EXAMPLES)]
    Confirm,
    /// The config: in force, its schema, its defaults
    #[command(subcommand)]
    Config(config::Command),
    /// The cookie keys
    #[command(subcommand)]
    Key(KeyCommand),
    /// The neighbours that are held to their link-layer addresses
    #[command(subcommand)]
    Neighbor(neighbor::Command),
    /// Sources that are dropped
    #[command(subcommand)]
    Block(list::Command),
    /// Sources that always pass, whatever blocks them
    #[command(subcommand)]
    Allow(list::Command),
    /// What happened: forged claims, moves, new stations, sampled drops
    #[command(after_help = events::EXAMPLES)]
    Events(events::Args),
    /// What a reason in the counters means, or what becomes of a frame and why
    #[command(after_help = explain::EXAMPLES)]
    Explain {
        /// Its number or name, or a rule for its reasons, as R-ICMP-4; all without one
        #[arg(conflicts_with = "frame")]
        code: Option<String>,
        /// A capture (pcap, pcapng), a file of octets or hexadecimal digits, such digits, or `-` for standard input
        #[arg(long, value_name = "FILE|HEX|-")]
        frame: Option<String>,
        /// The attached interface on which it seems to arrive [default: the first]
        #[arg(long, value_name = "IFACE", requires = "frame")]
        interface: Option<String>,
        /// Only the packet of this number in the capture, from 1
        #[arg(long, value_name = "N", requires = "frame", value_parser = clap::value_parser!(u32).range(1..))]
        packet: Option<u32>,
    },
    /// Write dropped frames to a pcapng file as they come, each with its reason
    #[command(after_help = capture::EXAMPLES)]
    Capture(capture::Args),
    /// What was built: version, commit, ABI of the eBPF object, compiler
    #[command(after_help = version::EXAMPLES)]
    Version,
    /// Print the script that completes netmoat's command line in a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages into a directory; for packages
    #[command(hide = true, after_help = man::EXAMPLES)]
    Man {
        /// Made when absent
        directory: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum KeyCommand {
    /// Make new cookies with a fresh key; the key before is still honoured
    #[command(after_help = key::EXAMPLES)]
    Rotate {
        /// Even if that breaks handshakes that are pending
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The config file [default: /etc/netmoat/netmoat.toml if it exists]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// An interface to protect, in place of those in the config: a name, a glob as "ens*", or "default-route"; may be
    /// repeated
    #[arg(short, long = "interface", value_name = "IFACE")]
    interfaces: Vec<String>,
    /// The network namespace to protect: a name as `ip netns` has it, or a path
    #[arg(long, value_name = "NAME|PATH")]
    netns: Option<String>,
    /// Carry verdicts out, or only count them
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// How to attach XDP
    #[arg(long, value_enum)]
    xdp_mode: Option<XdpMode>,
}

impl ConfigArgs {
    /// Enters the namespace if one is named, and reads the config.
    fn load(self, global: &Global) -> Result<Config, Failure> {
        if let Some(namespace) = &self.netns {
            netns::enter(namespace)?;
        }
        let overrides = Overrides {
            interfaces: self.interfaces,
            mode: self.mode,
            xdp_mode: self.xdp_mode,
            socket: global.socket.clone(),
            instance: global.instance.clone(),
        };
        Ok(Config::load(self.config.as_deref(), &overrides)?)
    }
}

/// The whole program: reads the command line, does what it says, reports errors.
pub fn main() -> ExitCode {
    // Exits with 2 on a usage error, with 0 on --help and --version.
    let cli = Cli::parse();
    let logs = log::init(cli.global.log_level, cli.global.log_format);
    match logs.and_then(|()| cli.execute()) {
        Ok(code) => code.into(),
        Err(failure) => failure.report(),
    }
}

impl Cli {
    fn execute(self) -> Result<Code, Failure> {
        let Self { global, command } = self;
        let out = Output::new(global.output);
        match command {
            Command::Run { config } => run::run(config.load(&global)?),
            Command::Check { config } => check::check(&config.load(&global)?, &out),
            Command::Status => status::status(&global.client(), &out),
            Command::Counters { all } => counters::counters(&global.client(), &out, all),
            Command::Queues(args) => queues::queues(&global.client(), &out, &args),
            Command::Top(args) => top::top(&global.client(), &out, &args),
            Command::Tune(args) => tune::tune(&global.client(), &out, &args),
            Command::Probe(args) => probe::probe(&global.client(), &out, *args),
            Command::Mode {
                mode,
                confirm_within,
                force,
            } => {
                let set = SetMode {
                    mode,
                    force,
                    confirm_within,
                };
                mode::mode(&global.client(), &out, &set)
            }
            Command::Reload(args) => reload::reload(&global.client(), &out, &args),
            Command::Confirm => reload::confirm(&global.client(), &out),
            Command::Config(command) => config::run(&global, &out, command),
            Command::Detach => detach::detach(&global.client(), &out, &global.instance_name()),
            Command::Key(KeyCommand::Rotate { force }) => {
                key::rotate(&global.client(), &out, force)
            }
            Command::Neighbor(command) => neighbor::run(&global.client(), &out, command),
            Command::Block(command) => list::run(&global.client(), &out, List::Block, command),
            Command::Allow(command) => list::run(&global.client(), &out, List::Allow, command),
            Command::Events(args) => events::events(&global.client(), &out, &args),
            Command::Explain {
                frame: Some(frame),
                interface,
                packet,
                ..
            } => explain::frame::explain(
                &global.client(),
                &out,
                &frame,
                interface.as_deref(),
                packet.map(|n| n as usize),
            ),
            Command::Explain { code, .. } => explain::explain(&out, code.as_deref()),
            Command::Capture(args) => capture::capture(&global.client(), &args),
            Command::Version => version::version(&out),
            Command::Completions { shell } => completions::completions(shell),
            Command::Man { directory } => man::write(&directory),
        }
    }
}

fn instance(name: &str) -> Result<String, String> {
    match crate::config::instance_name_fault(name) {
        None => Ok(name.to_owned()),
        Some(fault) => Err(fault),
    }
}

/// How long a change may wait for its confirmation: long enough to type it, and no longer than anyone remembers it.
fn within(text: &str) -> Result<HumanDuration, String> {
    const LEAST: Duration = Duration::from_secs(1);
    const MOST: Duration = Duration::from_secs(24 * 60 * 60);
    let within: HumanDuration = text
        .parse()
        .map_err(|error: UnitError| format!("{error}: {}", error.remedy))?;
    if (LEAST..=MOST).contains(&within.get()) {
        return Ok(within);
    }
    Err("write 1s to 24h, as in 60s".to_owned())
}

/// Runs a client's exchange with the agent.
fn block_on<T, E>(future: impl Future<Output = Result<T, E>>) -> Result<T, Failure>
where
    Failure: From<E>,
{
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    Ok(runtime.block_on(future)?)
}

#[cfg(test)]
mod tests;
