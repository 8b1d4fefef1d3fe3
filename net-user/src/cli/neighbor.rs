//! `netmoat neighbor`

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::anyhow;
use clap::{Args, Subcommand};
use net_common::units::Mac;

use super::output::{Output, Tone, age, plural, table, time, tone};
use super::{Code, Failure, block_on};
use crate::config::units::UnitError;
use crate::config::{GuardMode, NeighborConfig, parse_mac};
use crate::control::client::Client;
use crate::control::protocol::{
    AuditEntry, AuditVerdict, BindingOrigin, BindingState, NeighborAudit, NeighborBinding,
    Neighbors, NeighborsChanged, PinNeighbor, UnpinNeighbor,
};

const LIST_EXAMPLES: &str = "\
Examples:
  netmoat neighbor list               every neighbour that is held to its MACs
  netmoat neighbor list --history     and what happened to it
  netmoat neighbor list -o json       for programs; with --history that too

ORIGIN: `config` for [[neighbor]], `pinned` for `netmoat neighbor pin`,
`learned` for the next hops of default routes. STATE: claims are held to a
`protected` binding; `asking` means that one contradicts it and its holder is
being asked; `contested` that nobody can say who is right. Nothing is held to
what is `unguarded`, as its guard is off, and `own` is an address of this
host.";

const PIN_EXAMPLES: &str = "\
Examples:
  netmoat neighbor pin 192.0.2.1               to the MAC that was learned
  netmoat neighbor pin 192.0.2.1 02:00:00:00:00:01
  netmoat neighbor pin 192.0.2.1 02:00:00:00:00:01 00:00:5e:00:01:33   # VRRP
  netmoat neighbor pin fe80::1 02:00:00:00:00:01 --router --interface eth0

A pinned neighbour is never taken to have moved, and the pin outlives the
agent. For good it stands better in the config, as [[neighbor]]. Only root and
the agent's own user may pin.";

const UNPIN_EXAMPLES: &str = "\
Examples:
  netmoat neighbor unpin 192.0.2.1
  netmoat neighbor unpin 192.0.2.1 --interface eth0 --vlan 100

The next hop of a default route is learned again after it. Only root and the
agent's own user may unpin.";

const AUDIT_EXAMPLES: &str = "\
Examples:
  netmoat neighbor audit              the kernel's table against the bindings
  netmoat neighbor audit --repair     and mend what is poisoned

Kernel settings are shown, never changed. Permanent entries are the operator's
own and are not repaired. Exit code 3 when an entry contradicts a binding and
was not repaired.";

/// The subcommands of `netmoat neighbor`.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The neighbours that are held to their link-layer addresses
    #[command(after_help = LIST_EXAMPLES)]
    List {
        /// Also what happened to each, the last 32 entries
        #[arg(long)]
        history: bool,
    },
    /// Hold a neighbour to link-layer addresses from now on
    #[command(after_help = PIN_EXAMPLES)]
    Pin {
        #[command(flatten)]
        place: Place,
        /// The link-layer addresses that it may be at, up to 8; what was learned without any
        #[arg(value_name = "MAC", value_parser = mac)]
        macs: Vec<Mac>,
        /// It may send router advertisements while the RA guard is on; IPv6 link-local only
        #[arg(long)]
        router: bool,
    },
    /// Take a pin back
    #[command(after_help = UNPIN_EXAMPLES)]
    Unpin {
        #[command(flatten)]
        place: Place,
    },
    /// Compare the kernel's neighbour table with the bindings
    #[command(after_help = AUDIT_EXAMPLES)]
    Audit {
        /// Give poisoned entries the right link-layer address; permanent ones are left alone
        #[arg(long)]
        repair: bool,
    },
}

/// Which neighbour.
#[derive(Debug, Args)]
pub(super) struct Place {
    /// The neighbour's IP address
    #[arg(value_name = "ADDRESS")]
    address: IpAddr,
    /// The attached interface where it is; every one without it
    #[arg(long, value_name = "IFACE")]
    interface: Option<String>,
    /// VLAN id of its frames, 0 for untagged
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(u16).range(..=4094))]
    vlan: u16,
}

/// clap shows the message alone.
fn mac(text: &str) -> Result<Mac, String> {
    parse_mac(text).map_err(|error| words(&error))
}

fn words(error: &UnitError) -> String {
    format!("{}; {}", error.what, error.remedy)
}

pub(super) fn run(client: &Client, out: &Output, command: Command) -> Result<Code, Failure> {
    match command {
        Command::List { history } => {
            out.print(&block_on(client.neighbors(history))?, |n| list(n, history))?;
        }
        Command::Pin {
            place,
            macs,
            router,
        } => {
            let pin = PinNeighbor {
                address: place.address,
                macs: macs.iter().map(ToString::to_string).collect(),
                interface: place.interface,
                vlan: place.vlan,
                router,
            };
            // Here too, so that a slip is told without an agent.
            NeighborConfig::from_pin(&pin)
                .map_err(|error| Failure::new(Code::Usage, anyhow!("{}", words(&error))))?;
            out.print(&block_on(client.pin_neighbor(&pin))?, pinned)?;
        }
        Command::Unpin { place } => {
            let unpin = UnpinNeighbor {
                address: place.address,
                interface: place.interface,
                vlan: place.vlan,
            };
            out.print(&block_on(client.unpin_neighbor(&unpin))?, unpinned)?;
        }
        Command::Audit { repair } => {
            let audit = if repair {
                block_on(client.repair_neighbors())?
            } else {
                block_on(client.audit_neighbors())?
            };
            out.print(&audit, |audit| audited(audit, repair))?;
            if audit.entries.iter().any(contradicts) {
                return Ok(Code::Degraded);
            }
        }
    }
    Ok(Code::Ok)
}

/// What a guard does.
pub(super) const fn guard(mode: GuardMode) -> &'static str {
    match mode {
        GuardMode::Off => "off",
        GuardMode::Observe => "observing",
        GuardMode::Enforce => "enforcing",
    }
}

pub(super) fn list(neighbors: &Neighbors, history: bool) -> String {
    let count = |state| {
        let of_state = neighbors.bindings.iter().filter(|b| b.state == state);
        of_state.count() as u64
    };
    let contested = count(BindingState::Contested);
    let learning = count(BindingState::Learning);
    let unguarded = count(BindingState::Unguarded);
    let held = |b: &&NeighborBinding| {
        let nothing = matches!(b.state, BindingState::Unguarded | BindingState::Own);
        !nothing && !b.macs.is_empty()
    };
    let protected = neighbors.bindings.iter().filter(held).count() as u64;
    let mut text = format!("{} protected", plural(protected, "neighbour"));
    if learning > 0 {
        text += &format!(", {learning} being learned");
    }
    if unguarded > 0 {
        text += &format!(", {unguarded} unguarded");
    }
    if contested > 0 {
        text += &tone(&format!(", {contested} contested"), Tone::Bad);
    }
    text += &format!(
        "; ARP guard {}, NDP guard {}, RA guard {}.\n",
        guard(neighbors.arp),
        guard(neighbors.ndp),
        if neighbors.ra_guard { "on" } else { "off" }
    );
    if neighbors.bindings.is_empty() {
        return text;
    }
    text += "\n";
    text += &table(
        &[
            "ADDRESS",
            "INTERFACE",
            "MACS",
            "ORIGIN",
            "STATE",
            "ROUTER",
            "LAST ANSWER",
            "SPOOFS",
        ],
        &[7],
        neighbors.bindings.iter().map(|binding| {
            vec![
                binding.address.clone(),
                interface(binding),
                macs(&binding.macs),
                origin(binding.origin).to_owned(),
                state(binding.state),
                if binding.router { "yes" } else { "-" }.to_owned(),
                binding
                    .answered_s
                    .map_or("-".to_owned(), |s| format!("{} ago", age(s))),
                binding.spoofs.to_string(),
            ]
        }),
    );
    if history {
        for binding in &neighbors.bindings {
            text += &format!("\n{}\n", place(binding));
            for entry in &binding.history {
                text += &format!("  {}  {}\n", time(entry.at), entry.what);
            }
            if binding.history.is_empty() {
                text += "  nothing happened to it yet\n";
            }
        }
    }
    text
}

pub(super) fn pinned(changed: &NeighborsChanged) -> String {
    let lines = changed.bindings.iter().map(|binding| {
        let router = if binding.router {
            ", and may advertise itself as a router"
        } else {
            ""
        };
        let (place, macs) = (place(binding), binding.macs.join(", "));
        if binding.state == BindingState::Unguarded {
            return format!(
                "{place} is pinned to {macs}, and nothing is held to that while its guard is off; set `mode` in \
                 [arp] or [ndp] of the config.\n"
            );
        }
        format!("{place} is held to {macs} from now on{router}.\n")
    });
    let mut text = or_nothing(lines);
    for warning in &changed.warnings {
        text += &format!("{} {warning}\n", tone("warning:", Tone::Bad));
    }
    text
}

pub(super) fn unpinned(changed: &NeighborsChanged) -> String {
    let lines = changed.bindings.iter().map(|binding| {
        format!(
            "{} is not pinned any more; it was held to {}.\n",
            place(binding),
            macs(&binding.macs)
        )
    });
    or_nothing(lines)
}

fn or_nothing(lines: impl Iterator<Item = String>) -> String {
    let text: String = lines.collect();
    if text.is_empty() {
        "Nothing to change.\n".to_owned()
    } else {
        text
    }
}

/// Whether the kernel's entry leads elsewhere than the binding, after whatever repair there was.
fn contradicts(entry: &AuditEntry) -> bool {
    let poisoned = matches!(
        entry.verdict,
        AuditVerdict::Poisoned | AuditVerdict::Permanent
    );
    poisoned && !entry.repaired
}

pub(super) fn audited(audit: &NeighborAudit, repair: bool) -> String {
    let count = |test: fn(&AuditEntry) -> bool| audit.entries.iter().filter(|e| test(e)).count();
    let left = count(contradicts) as u64;
    let permanent = count(|e| contradicts(e) && e.verdict == AuditVerdict::Permanent) as u64;
    let repaired = count(|e| e.repaired) as u64;
    let unknown = count(|e| matches!(e.verdict, AuditVerdict::Absent | AuditVerdict::Learning));
    let mut text = match (left, repaired) {
        (0, 0) if unknown > 0 || audit.entries.is_empty() => tone(
            "Nothing in the kernel's neighbour table contradicts the bindings.",
            Tone::Good,
        ),
        (0, 0) => tone(
            "The kernel's neighbour table agrees with every binding.",
            Tone::Good,
        ),
        (0, n) => tone(
            &format!(
                "Repaired {n}: nothing in the kernel's neighbour table contradicts the bindings now."
            ),
            Tone::Good,
        ),
        (1, _) => tone(
            "1 entry of the kernel's neighbour table contradicts its binding.",
            Tone::Bad,
        ),
        (n, _) => tone(
            &format!("{n} entries of the kernel's neighbour table contradict their bindings."),
            Tone::Bad,
        ),
    };
    text.push('\n');
    if left > 0 && repaired > 0 {
        text += &format!("{repaired} repaired.\n");
    }
    let contested: BTreeSet<_> = audit
        .entries
        .iter()
        .filter(|entry| entry.contested)
        .map(|entry| entry.address.as_str())
        .collect();
    if !contested.is_empty() {
        let addresses: Vec<_> = contested.into_iter().collect();
        let contested = format!(
            "Contested, so that the binding itself may be wrong: {} (`netmoat events` says by whom).",
            addresses.join(", ")
        );
        text += &(tone(&contested, Tone::Bad) + "\n");
    }
    if permanent > 0 {
        text += &format!(
            "{permanent} of them set for good by the operator, which is never changed: correct it with `ip neigh \
             replace`, or the binding.\n"
        );
    }
    if left > permanent {
        text += if repair {
            "The agent's log says why the others could not be repaired.\n"
        } else {
            "`netmoat neighbor audit --repair` mends what is poisoned.\n"
        };
    }
    if !audit.entries.is_empty() {
        text += "\n";
        text += &table(
            &[
                "ADDRESS",
                "INTERFACE",
                "KERNEL",
                "STATE",
                "BOUND TO",
                "VERDICT",
            ],
            &[],
            audit.entries.iter().map(|entry| {
                vec![
                    entry.address.clone(),
                    entry.interface.clone(),
                    entry.mac.clone().unwrap_or("-".to_owned()),
                    entry.state.clone().unwrap_or("-".to_owned()),
                    macs(&entry.bound),
                    verdict(entry),
                ]
            }),
        );
    }
    let weak: Vec<_> = audit.settings.iter().filter(|s| s.weak).collect();
    if !weak.is_empty() {
        text += "\nKernel settings to think over:\n";
        for setting in weak {
            text += &format!(
                "  {} = {}: {}\n",
                setting.name, setting.value, setting.meaning
            );
        }
    }
    text
}

fn verdict(entry: &AuditEntry) -> String {
    let verdict = kernels_verdict(entry);
    if entry.contested {
        return verdict + &tone(", contested", Tone::Bad);
    }
    verdict
}

fn kernels_verdict(entry: &AuditEntry) -> String {
    if entry.repaired {
        return tone("repaired", Tone::Good);
    }
    match entry.verdict {
        AuditVerdict::Good => "good".to_owned(),
        AuditVerdict::Absent => "no entry".to_owned(),
        AuditVerdict::Poisoned => tone("poisoned", Tone::Bad),
        AuditVerdict::Permanent => tone("contradicts, permanent", Tone::Bad),
        AuditVerdict::Learning => "being learned".to_owned(),
    }
}

const fn origin(origin: BindingOrigin) -> &'static str {
    match origin {
        BindingOrigin::Config => "config",
        BindingOrigin::Pinned => "pinned",
        BindingOrigin::Learned => "learned",
    }
}

fn state(state: BindingState) -> String {
    match state {
        BindingState::Learning => "learning".to_owned(),
        BindingState::Protected => "protected".to_owned(),
        BindingState::Asking => "asking".to_owned(),
        BindingState::Contested => tone("contested", Tone::Bad),
        BindingState::Unguarded => "unguarded".to_owned(),
        BindingState::Own => "own".to_owned(),
    }
}

/// The interface, and the VLAN as `ip link` usually names it.
fn interface(binding: &NeighborBinding) -> String {
    match binding.vlan {
        0 => binding.interface.clone(),
        vlan => format!("{} VLAN {vlan}", binding.interface),
    }
}

fn place(binding: &NeighborBinding) -> String {
    format!("{} on {}", binding.address, interface(binding))
}

fn macs(macs: &[String]) -> String {
    if macs.is_empty() {
        "-".to_owned()
    } else {
        macs.join(", ")
    }
}
