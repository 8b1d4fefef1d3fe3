//! `netmoat status`

use super::neighbor::guard;
use super::output::{Output, Tone, age, plural, size, table, tone};
use super::{Code, Failure, block_on};
use crate::config::guards::ReversePath;
use crate::config::{Mode, XdpMode};
use crate::control::client::Client;
use crate::control::lists::ListsAtAGlance;
use crate::control::probes::ProbesAtAGlance;
use crate::control::protocol::{
    ALERTS_OF_S, DriftAtAGlance, DropRate, GuardsAtAGlance, Health, InterfaceStatus, MapFill,
    NeighborsAtAGlance, SourcesAtAGlance, Status,
};
use crate::privileges::Privileges;

pub(super) const EXAMPLES: &str = "\
Examples:
  netmoat status              the first line says how it is
  netmoat status -o json      for monitoring; exit code 3 when degraded";

/// From this share on a map is called nearly full, per cent.
const NEARLY_FULL: u64 = 80;

pub(super) fn status(client: &Client, out: &Output) -> Result<Code, Failure> {
    let status = block_on(client.status())?;
    out.print(&status, human)?;
    Ok(match status.health {
        Health::Ok => Code::Ok,
        Health::Degraded => Code::Degraded,
    })
}

pub(super) fn human(status: &Status) -> String {
    let listeners = plural(u64::from(status.listeners_protected), "listener");
    let attacks = attacks(status);
    let mut text = match (status.health, status.mode) {
        (Health::Ok, Mode::Enforce) => tone(
            &format!("Healthy: {listeners} protected{attacks}."),
            Tone::Good,
        ),
        (Health::Ok, Mode::Observe) => {
            format!(
                "Healthy, in observe mode: {listeners} watched, nothing is dropped or answered{attacks}."
            )
        }
        (Health::Degraded, mode) => {
            let mode = if mode == Mode::Observe {
                ", in observe mode"
            } else {
                ""
            };
            let problems = plural(status.problems.len() as u64, "problem");
            tone(&format!("Degraded{mode}: {problems}{attacks}."), Tone::Bad)
        }
    };
    // Whoever has it has this host's traffic.
    let gateways = &status.neighbors.contested_gateways;
    if !gateways.is_empty() {
        let gateways = gateways.join(", ");
        let contested =
            format!(" Contested: default gateway {gateways} (`netmoat events` says by whom).");
        text += &tone(&contested, Tone::Bad);
    }
    text.push('\n');
    for problem in &status.problems {
        text += &format!("  - {problem}\n");
    }
    if let Some(pending) = &status.pending {
        let waits = format!(
            "Waiting for `netmoat confirm`: {}, undone in {} otherwise.\n",
            pending.what,
            age(pending.left_s)
        );
        text += &tone(&waits, Tone::Bad);
    }
    let cookies = match (status.cookies_active, status.mode) {
        (false, _) => "not needed at present",
        (true, Mode::Enforce) => "being sent",
        (true, Mode::Observe) => "would be sent, were it not for observe mode",
    };
    let left = status.listeners_left_to_kernel;
    text += &format!("\nSYN cookies      {cookies}\n");
    text += &format!(
        "Listeners        {} protected, {left} left to the kernel",
        status.listeners_protected
    );
    text += if left > 0 {
        " (`netmoat queues` says why)\n"
    } else {
        "\n"
    };
    text += &neighbors(&status.neighbors);
    text += &guards(&status.guards);
    text += &lists(&status.lists);
    text += &probes(&status.probes);
    text += &drift(&status.drift);
    text += &nearly_full(&status.maps);
    text += &format!("Cookie key       in use for {}\n", age(status.keys_age_s));
    text += &format!(
        "Agent            netmoat {}, pid {}, up {}\n",
        status.netmoat_version,
        status.pid,
        age(status.uptime_s)
    );
    text += &privileges(&status.privileges);
    text.push('\n');
    let rows = status.interfaces.iter().map(|interface| {
        vec![
            interface.name.clone(),
            interface.ifindex.to_string(),
            state(interface).to_owned(),
            match interface.xdp_mode {
                XdpMode::Generic => "generic (slower)".to_owned(),
                mode => format!("{mode:?}").to_lowercase(),
            },
            interface.xdp_program_id.to_string(),
            interface.tc_program_id.to_string(),
            interface.mtu.to_string(),
        ]
    });
    text += &table(
        &[
            "INTERFACE",
            "INDEX",
            "STATE",
            "XDP",
            "XDP PROGRAM",
            "TC PROGRAM",
            "MTU",
        ],
        &[1, 4, 5, 6],
        rows,
    );
    for note in &status.notes {
        text += &format!("Note: {note}.\n");
    }
    text
}

fn state(interface: &InterfaceStatus) -> &'static str {
    match interface {
        _ if interface.problem.is_some() => "not protected",
        // An agent of another version says nothing of it.
        _ if interface.pattern.is_empty() => "",
        _ if !interface.up => "down",
        _ if !interface.carrier => "no carrier",
        _ => "up",
    }
}

/// How many of the agent's own probes are in which state; of an agent without probes, nothing.
fn probes(glance: &ProbesAtAGlance) -> String {
    if glance.all == 0 {
        return String::new();
    }
    let known = glance.ok + glance.slow + glance.wrong + glance.failed;
    let parts: Vec<_> = [
        (glance.ok, "ok", Tone::Plain),
        (glance.slow, "slow", Tone::Bad),
        (glance.wrong, "wrong", Tone::Bad),
        (glance.failed, "failed", Tone::Bad),
        (
            glance.all.saturating_sub(known),
            "not known yet",
            Tone::Plain,
        ),
    ]
    .into_iter()
    .filter(|(count, ..)| *count > 0)
    .map(|(count, word, how)| tone(&format!("{count} {word}"), how))
    .collect();
    format!(
        "Probes           {} (`netmoat probe list`)\n",
        parts.join(", ")
    )
}

/// What others have changed in the kernel.
fn drift(glance: &DriftAtAGlance) -> String {
    let (Some(last), Some(ago)) = (&glance.last, glance.last_s) else {
        return String::new();
    };
    format!(
        "Drift            {} set right, the last {} ago: {last}\n",
        plural(glance.repaired, "change"),
        age(ago)
    )
}

fn privileges(left: &Privileges) -> String {
    // An agent of another version does not tell.
    if *left == Privileges::default() {
        return String::new();
    }
    let mut parts = vec![match left.capabilities.as_slice() {
        [] => "no capabilities".to_owned(),
        some => some.join(", "),
    }];
    if left.seccomp {
        parts.push("system calls filtered".to_owned());
    }
    if let Some(abi) = left.landlock_abi {
        parts.push(format!("files by Landlock (ABI {abi})"));
    }
    let mut text = format!("Privileges       {}\n", parts.join("; "));
    for shortcoming in &left.shortcomings {
        text += &format!("                 but {shortcoming}\n");
    }
    text
}

/// What belongs into the first sentence: what is being dropped now, and what is called an attack.
fn attacks(status: &Status) -> String {
    let mut text = String::new();
    let (enforced, observed) = (&status.drops.enforced, &status.drops.observed);
    for (doing, rate) in [("dropping", enforced), ("would drop", observed)] {
        text += &drop_rate(doing, rate);
    }
    if status.guards.stray_attack {
        text += "; an attack of TCP segments without a socket is going on";
    }
    text
}

fn drop_rate(doing: &str, rate: &DropRate) -> String {
    let packets = plural(rate.per_second, "packet");
    match &rate.mostly {
        Some(mostly) if rate.per_second > 0 => format!("; {doing} {packets}/s, mostly {mostly}"),
        _ => String::new(),
    }
}

/// Maps that are nearly full; what happens then is no secret, but comes late as news.
fn nearly_full(maps: &[MapFill]) -> String {
    let full: Vec<_> = maps
        .iter()
        .filter(|map| map.used * 100 >= map.capacity * NEARLY_FULL)
        .map(|map| format!("{} {}", map.name, percent(map.used, map.capacity)))
        .collect();
    if full.is_empty() {
        return String::new();
    }
    format!(
        "Nearly full      {} (`netmoat check -o json` says what happens then)\n",
        full.join(", ")
    )
}

fn lists(glance: &ListsAtAGlance) -> String {
    let mut text = format!(
        "Lists            {} allowed, {} blocked",
        glance.allowed, glance.blocked
    );
    if glance.allowed + glance.blocked > 0 {
        let most = glance.allowed.max(glance.blocked);
        text += &format!(
            " ({} of {} places, {} of the kernel's memory)",
            percent(most, glance.capacity),
            glance.capacity,
            size(glance.kernel_memory)
        );
    }
    if glance.drops > 0 {
        text += &format!(", {} dropped", plural(glance.drops, "packet"));
    }
    if glance.building {
        text += ", an import is being built";
    }
    text + "\n"
}

/// A share in words; some is never none.
fn percent(part: u64, whole: u64) -> String {
    match (part * 100).checked_div(whole) {
        None | Some(0) => "under 1 %".to_owned(),
        Some(percent) => format!("{percent} %"),
    }
}

/// What an operator needs to know of them first.
fn neighbors(glance: &NeighborsAtAGlance) -> String {
    let mut text = format!(
        "Neighbours       {} protected, ARP guard {}, NDP guard {}, RA guard {}",
        glance.protected,
        guard(glance.arp),
        guard(glance.ndp),
        if glance.ra_guard { "on" } else { "off" },
    );
    if glance.learning > 0 {
        text += &format!(", {} being learned", glance.learning);
    }
    if glance.contested > 0 {
        text += &tone(&format!(", {} contested", glance.contested), Tone::Bad);
    }
    text.push('\n');
    if let Some(last) = &glance.last_alert {
        let alerts = format!(
            "{} in the last {} (`netmoat events`), the last: {last}",
            plural(glance.alerts.into(), "alert"),
            age(ALERTS_OF_S),
        );
        text += &format!("                 {}\n", tone(&alerts, Tone::Bad));
    }
    text
}

/// The other guards' modes, what they cannot judge, and how full the table of known sources is.
fn guards(glance: &GuardsAtAGlance) -> String {
    let mut text = format!(
        "Guards           IP {}, ICMP {}, UDP {}, TCP {}",
        guard(glance.ip),
        guard(glance.icmp),
        guard(glance.udp),
        guard(glance.tcp),
    );
    text += match glance.reverse_path {
        ReversePath::Off => "",
        ReversePath::Loose => ", reverse path loose",
        ReversePath::Strict => ", reverse path strict",
    };
    text.push('\n');
    if let Some(why) = &glance.strays_left_alone {
        text += &format!("                 {why}: TCP segments without a socket are left alone\n");
    }
    text + &sources(&glance.sources)
}

fn sources(glance: &SourcesAtAGlance) -> String {
    let known = glance.steady + glance.asked + glance.proven;
    // An agent of another version says nothing of it.
    let share = u64::from(known) * 100 / u64::from(glance.places).max(1);
    let mut text = format!(
        "Known sources    {} proven, {} asked, {} steady; the table is {share} % full",
        glance.proven, glance.asked, glance.steady
    );
    if glance.replaced > 0 {
        text += &format!(", {} displaced", glance.replaced);
    }
    if glance.refused > 0 {
        text += &format!(
            ", and {} found no place",
            plural(glance.refused, "newcomer")
        );
    }
    text.push('\n');
    text
}
