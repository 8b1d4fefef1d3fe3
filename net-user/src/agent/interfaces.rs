//! Which interfaces the programs are on: those that the config means, as interfaces and default routes come and go.
//!
//! A rename takes no protection away: an interface that was attached by its name stays so until another has that name. One
//! that goes to another network namespace is gone from here, and its programs are taken off.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use tracing::{info, warn};

use super::{Agent, names};
use crate::{
    config::{Pattern, XdpMode},
    control::protocol::{InterfaceStatus, MissingInterface},
    datapath::{
        attach::{self, Attached},
        bpf::{self, Tcx},
        preflight::NATIVE_MTU,
    },
    host::{
        links::{self, Link, XdpMode as InUse},
        selection::{Chosen, Selection, select},
    },
};

/// Least time between two attempts to attach to an interface that has not changed.
const RETRY: Duration = Duration::from_secs(5);
/// How long an interface of the default routes stays attached after the last of them: routes come and go with leases.
const UNROUTED: Duration = Duration::from_secs(60);

/// Ids of the programs that are put onto interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ProgramIds {
    pub(super) xdp: u32,
    pub(super) ingress: u32,
    pub(super) egress: u32,
}

/// By which word of the config an interface is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    pattern: Pattern,
    /// Since when no default route leads to it, while others lead elsewhere.
    unrouted: Option<Instant>,
}

/// An attempt that failed.
#[derive(Debug)]
struct Failed {
    /// The interface as it was then.
    link: Link,
    at: Instant,
    why: String,
}

/// What the agent knows of its interfaces beside [`Attached`].
#[derive(Debug, Default)]
pub(super) struct Followed {
    held: HashMap<u32, Hold>,
    failed: HashMap<u32, Failed>,
    selection: Selection,
    /// Wanted and not attached, with the reason.
    missing: Vec<(String, String)>,
    /// Attached, but a program is off and cannot be put back, by index.
    ailing: HashMap<u32, String>,
}

impl Followed {
    /// Whether every program is where it was put.
    fn is_whole(&self) -> bool {
        self.ailing.is_empty()
    }
}

/// What becomes of an interface that is attached.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// It stays, but the config means it by another name.
    Renamed,
    /// The programs are taken off, and why.
    Leaves(&'static str),
}

/// Decides it. `link` is the interface as it is now.
fn fate(
    hold: &mut Hold,
    link: Option<&Link>,
    selection: &Selection,
    patterns: &[Pattern],
    now: Instant,
) -> Fate {
    let Some(link) = link else {
        return Fate::Leaves("it is gone");
    };
    let chosen = selection.chosen.iter().find(|c| c.ifindex == link.index);
    if let Some(chosen) = chosen {
        hold.pattern = chosen.pattern.clone();
        hold.unrouted = None;
        return match chosen.fault {
            None => Fate::Stays,
            Some(_) => Fate::Leaves("netmoat cannot work on it any more"),
        };
    }
    if !patterns.contains(&hold.pattern) {
        return Fate::Leaves("the config means it no more");
    }
    if hold.pattern.is_default_route() {
        // Without any default route there is nothing that it gives way to.
        if selection.unmatched.contains(&hold.pattern) {
            return Fate::Stays;
        }
        let since = *hold.unrouted.get_or_insert(now);
        return if now.duration_since(since) < UNROUTED {
            Fate::Stays
        } else {
            Fate::Leaves("default routes lead elsewhere now")
        };
    }
    if hold.pattern.matches(&link.name) {
        return Fate::Leaves("it stands on another interface now, where its frames are judged");
    }
    let taken = |c: &Chosen| hold.pattern.name() == Some(c.name.as_str());
    if selection.chosen.iter().any(taken) {
        return Fate::Leaves("another interface has its name now");
    }
    Fate::Renamed
}

impl Agent {
    /// Whether packets meet the programs on every interface that was attached, and there is one if any is wanted.
    pub(super) fn is_attached(&self) -> bool {
        let idle = self.interfaces.is_empty() && !self.followed.missing.is_empty();
        self.followed.is_whole() && !idle
    }

    /// Whether programs are off every interface that was attached, and cannot be put back.
    pub(super) fn is_shut_out(&self) -> bool {
        let ailing = |i: &Attached| self.followed.ailing.contains_key(&i.ifindex);
        !self.interfaces.is_empty() && self.interfaces.iter().all(ailing)
    }

    /// Name and index of every interface that the programs are on.
    pub(super) fn attached(&self) -> Vec<(String, u32)> {
        let interfaces = self.interfaces.iter();
        interfaces.map(|i| (i.name.clone(), i.ifindex)).collect()
    }

    /// Notes by which word of the config interfaces were attached at the start.
    pub(super) fn hold(&mut self, selection: Selection) {
        for chosen in &selection.chosen {
            self.hold_one(chosen);
        }
        self.followed.selection = selection;
    }

    fn hold_one(&mut self, chosen: &Chosen) {
        let hold = Hold {
            pattern: chosen.pattern.clone(),
            unrouted: None,
        };
        self.followed.held.insert(chosen.ifindex, hold);
    }

    /// Puts the programs onto what the config means now, and takes them off what it means no more.
    ///
    /// # Errors
    /// What is wanted and not attached, each with its reason; all that can be done is.
    pub(super) fn follow_interfaces(&mut self, links: &[Link]) -> Result<()> {
        let selection = select(&self.config.interfaces, links, self.gateways.interfaces());
        let before = self.attached();
        self.followed.missing.clear();
        self.attach_chosen(&selection, links);
        let mut problems = self.release(&selection, links);
        for pattern in &selection.unmatched {
            let renamed = |i: &Attached| {
                let hold = self.followed.held.get(&i.ifindex);
                hold.is_some_and(|hold| hold.pattern == *pattern)
            };
            if let Some(name) = pattern.name()
                && !self.interfaces.iter().any(renamed)
            {
                let why = "is gone; it is attached to as soon as it is back".to_owned();
                self.followed.missing.push((name.to_owned(), why));
            }
        }
        let known = |index: &u32| links.iter().any(|link| link.index == *index);
        self.followed.failed.retain(|index, _| known(index));
        self.followed.selection = selection;
        let attached = self.attached();
        if attached != before {
            self.neighbors.set_interfaces(attached);
            self.reconciler.hurry();
        }
        let missing = &self.followed.missing;
        problems.extend(missing.iter().map(|(name, why)| format!("{name} {why}")));
        problems.extend(self.followed.ailing.values().cloned());
        if problems.is_empty() {
            return Ok(());
        }
        bail!("{}", problems.join("; "))
    }

    /// Attaches to what is meant and not attached yet.
    fn attach_chosen(&mut self, selection: &Selection, links: &[Link]) {
        for chosen in &selection.chosen {
            if self.interfaces.iter().any(|i| i.ifindex == chosen.ifindex) {
                continue;
            }
            let Some(link) = links.iter().find(|link| link.index == chosen.ifindex) else {
                continue;
            };
            let failed = self.followed.failed.get(&link.index);
            let again =
                failed.filter(|f| f.at.elapsed() < RETRY && same_but_traffic(&f.link, link));
            let why = match again {
                Some(failed) => failed.why.clone(),
                None => match self.put_on(chosen, link) {
                    Ok(attached) => {
                        self.take_up(chosen, attached);
                        continue;
                    }
                    Err(error) => {
                        let why = format!("is not protected: {error:#}");
                        let failed = Failed {
                            link: link.clone(),
                            at: Instant::now(),
                            why: why.clone(),
                        };
                        self.followed.failed.insert(link.index, failed);
                        why
                    }
                },
            };
            self.followed.missing.push((chosen.name.clone(), why));
        }
    }

    fn take_up(&mut self, chosen: &Chosen, attached: Attached) {
        info!(
            "{}: attached, {} XDP, as `interfaces` has {}",
            attached.name,
            if attached.native { "native" } else { "generic" },
            chosen.pattern
        );
        self.followed.failed.remove(&chosen.ifindex);
        self.hold_one(chosen);
        self.interfaces.push(attached);
    }

    /// Puts the programs onto one interface.
    fn put_on(&mut self, chosen: &Chosen, link: &Link) -> Result<Attached> {
        if let Some((what, remedy)) = &chosen.fault {
            bail!("{what}; {remedy}");
        }
        if let Some(foreign) = link.xdp.filter(|xdp| xdp.id != self.program_ids.xdp) {
            bail!("{}", foreign_program(&link.name, foreign.id));
        }
        let mut others = self.facts.links.values();
        if others.any(|other| other.is_vlan_of(link)) && links::strips_vlan_tags(&link.name)? {
            bail!(
                "it strips VLAN tags in hardware, so answers would lose theirs; `ethtool -K {} rxvlan off`",
                link.name
            );
        }
        let (pins, mode) = (self.kept.pins(), self.config.xdp_mode);
        let attached = attach::attach(&mut self.ebpf, pins, &link.name, link.index, mode);
        let mut attached = attached.with_context(|| jumbo(link, mode))?;
        attached.settle(self.kept.settling())?;
        Ok(attached)
    }

    /// Takes the programs off what is not meant any more. Gives what the operator should know of the others.
    fn release(&mut self, selection: &Selection, links: &[Link]) -> Vec<String> {
        let mut problems = Vec::new();
        let now = Instant::now();
        for mut attached in std::mem::take(&mut self.interfaces) {
            let index = attached.ifindex;
            let link = links.iter().find(|link| link.index == index);
            let Some(hold) = self.followed.held.get_mut(&index) else {
                self.interfaces.push(attached);
                continue;
            };
            match fate(hold, link, selection, &self.config.interfaces, now) {
                Fate::Leaves(why) => {
                    warn!("{}: {why}; the programs are taken off", attached.name);
                    self.followed.held.remove(&index);
                    self.followed.ailing.remove(&index);
                    if let Err(error) = attached.take_off() {
                        problems.push(format!("{error:#}"));
                    }
                    continue;
                }
                Fate::Renamed => problems.push(format!(
                    "{} is called {} now and stays protected; name it so in `interfaces`, or rename it",
                    hold.pattern,
                    link.map_or("", |link| &link.name),
                )),
                Fate::Stays => {}
            }
            if let Some(link) = link {
                attached.name.clone_from(&link.name);
            }
            self.interfaces.push(attached);
        }
        problems
    }

    /// Looks whether the programs are where they were put, and puts back what is not. Gives what was put back, in words.
    pub(super) fn mend_interfaces(&mut self, links: &[Link]) -> Vec<String> {
        let (ids, mode) = (self.program_ids, self.config.xdp_mode);
        let mut mended = Vec::new();
        self.followed.ailing.clear();
        for attached in &mut self.interfaces {
            let Some(link) = links.iter().find(|l| l.index == attached.ifindex) else {
                continue;
            };
            let outcome = off(link, ids).and_then(|missing| {
                if missing == [false; 3] {
                    return Ok(());
                }
                if let Some(foreign) = link.xdp.filter(|xdp| xdp.id != ids.xdp) {
                    bail!("{}", foreign_program(&link.name, foreign.id));
                }
                attached.mend(&mut self.ebpf, self.kept.settling(), missing, mode)?;
                let words = ["XDP", "TC ingress", "TC egress"].into_iter().zip(missing);
                let off: Vec<_> = words
                    .filter_map(|(word, off)| off.then_some(word))
                    .collect();
                mended.push(format!(
                    "{}: {} had been taken off",
                    link.name,
                    off.join(", ")
                ));
                Ok(())
            });
            if let Err(error) = outcome {
                let text = format!(
                    "netmoat's programs are no longer on {}: {error:#}",
                    link.name
                );
                self.followed.ailing.insert(attached.ifindex, text);
            }
        }
        mended
    }

    /// Every interface that was there at the last look, by index.
    pub(super) fn known_links(&self) -> Vec<Link> {
        let mut links: Vec<_> = self.facts.links.values().cloned().collect();
        links.sort_unstable_by_key(|link| link.index);
        links
    }

    /// Protects other interfaces from now on, whole or not at all: first the programs are put onto those that are new,
    /// then taken off those that are meant no more.
    ///
    /// # Errors
    /// One that is named is not there, or does not take the programs. Nothing has changed then.
    pub(super) fn set_interfaces(&mut self, patterns: &[Pattern]) -> Result<()> {
        let links = self.known_links();
        let selection = select(patterns, &links, self.gateways.interfaces());
        if let Some(name) = selection.unmatched.iter().find_map(Pattern::name) {
            let known: Vec<_> = links.iter().map(|link| link.name.as_str()).collect();
            bail!("{name}: no such interface; there are {}", known.join(", "));
        }
        let mut new = Vec::new();
        for chosen in &selection.chosen {
            if self.interfaces.iter().any(|i| i.ifindex == chosen.ifindex) {
                continue;
            }
            if let Some(link) = links.iter().find(|link| link.index == chosen.ifindex) {
                // Those before this one are dropped with the error.
                match self.put_on(chosen, link) {
                    Ok(attached) => new.push((chosen.clone(), attached)),
                    Err(error) => {
                        for (_, attached) in new {
                            attached.take_off()?;
                        }
                        return Err(error.context(format!("{} is not protected", link.name)));
                    }
                }
            }
        }
        for (chosen, attached) in new {
            self.take_up(&chosen, attached);
        }
        self.return_to_interfaces(patterns);
        Ok(())
    }

    /// Protects the interfaces of a config that was in force before. What is gone meanwhile, or does not take the programs,
    /// is a problem and is tried again.
    pub(super) fn return_to_interfaces(&mut self, patterns: &[Pattern]) {
        let links = self.known_links();
        self.config.interfaces = patterns.to_vec();
        self.neighbors.set_interfaces(self.attached());
        let followed = self.follow_interfaces(&links);
        self.note("interfaces", followed);
        self.recompile = true;
        info!("interfaces: {}", names(&self.interfaces));
    }

    /// What `status` says of each interface.
    pub(super) fn interface_status(&self) -> Vec<InterfaceStatus> {
        let status = |i: &Attached| {
            let link = self.facts.links.get(&i.ifindex);
            let hold = self.followed.held.get(&i.ifindex);
            InterfaceStatus {
                name: i.name.clone(),
                ifindex: i.ifindex,
                xdp_mode: match link.and_then(|l| l.xdp).map(|xdp| xdp.mode) {
                    Some(InUse::Native) => XdpMode::Native,
                    Some(InUse::Generic) => XdpMode::Generic,
                    _ if i.native => XdpMode::Native,
                    _ => XdpMode::Generic,
                },
                xdp_program_id: self.program_ids.xdp,
                tc_program_id: self.program_ids.ingress,
                tc_egress_program_id: self.program_ids.egress,
                mtu: link.map_or(0, |l| l.mtu),
                up: link.is_some_and(|l| l.up),
                carrier: link.is_some_and(|l| l.carrier),
                rx_packets: link.map_or(0, |l| l.rx_packets),
                pattern: hold.map_or_else(String::new, |hold| hold.pattern.to_string()),
                problem: self.followed.ailing.get(&i.ifindex).cloned(),
            }
        };
        self.interfaces.iter().map(status).collect()
    }

    /// Interfaces that are wanted and not protected.
    pub(super) fn missing_interfaces(&self) -> Vec<MissingInterface> {
        let missing = self.followed.missing.iter();
        let missing = missing.map(|(name, why)| MissingInterface {
            name: name.clone(),
            why: format!("{name} {why}"),
        });
        missing.collect()
    }

    /// What is as it may be, and what an operator may want to know of it.
    pub(super) fn interface_notes(&self) -> Vec<String> {
        let selection = &self.followed.selection;
        let mut notes = Vec::new();
        for pattern in selection.unmatched.iter().filter(|p| p.name().is_none()) {
            notes.push(if pattern.is_default_route() {
                "there is no default route now".to_owned()
            } else {
                format!("{pattern} matches no interface now")
            });
        }
        for (name, why) in &selection.left_out {
            notes.push(format!("{name} is left out: {why}"));
        }
        for i in self.interfaces.iter().filter(|i| !i.native) {
            let mtu = self.facts.links.get(&i.ifindex).map_or(0, |link| link.mtu);
            if self.config.xdp_mode == XdpMode::Auto && mtu > NATIVE_MTU {
                notes.push(format!(
                    "{} runs generic XDP, several times slower: its driver has no native XDP, or none for an MTU of \
                     {mtu}; with {NATIVE_MTU} or less, restart netmoat",
                    i.name
                ));
            }
        }
        notes
    }
}

/// Which of XDP, TC ingress and TC egress are off an interface.
fn off(link: &Link, ids: ProgramIds) -> Result<[bool; 3]> {
    let on = |hook, id| -> Result<bool> {
        let programs = bpf::tcx_programs(link.index, hook)
            .map_err(|error| anyhow!("the programs of TC cannot be listed: {error}"))?;
        Ok(programs.contains(&id))
    };
    Ok([
        link.xdp.is_none_or(|xdp| xdp.id != ids.xdp),
        !on(Tcx::Ingress, ids.ingress)?,
        !on(Tcx::Egress, ids.egress)?,
    ])
}

fn foreign_program(name: &str, id: u32) -> String {
    let program = bpf::program_name(id);
    format!(
        "it has another XDP program: id {id}, {}; stop its owner (`bpftool prog show id {id}` names it), or take it off \
         with `ip link set {name} xdp off`",
        program.as_deref().unwrap_or("of unknown name")
    )
}

/// What may be behind a refusal to attach.
pub(super) fn jumbo(link: &Link, mode: XdpMode) -> String {
    let (name, mtu) = (&link.name, link.mtu);
    if mode == XdpMode::Native && mtu > NATIVE_MTU {
        format!(
            "native XDP does not take the MTU of {mtu}, as of a driver without multi-buffer XDP: \
             `ip link set {name} mtu {NATIVE_MTU}`, or xdp_mode = \"auto\""
        )
    } else {
        "the programs cannot be attached".to_owned()
    }
}

/// Whether nothing about it has changed that attaching depends on.
fn same_but_traffic(a: &Link, b: &Link) -> bool {
    let rx_packets = b.rx_packets;
    *b == Link {
        rx_packets,
        ..a.clone()
    }
}

#[cfg(test)]
mod tests;
