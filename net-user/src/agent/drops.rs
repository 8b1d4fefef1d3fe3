//! The agent's side of [`crate::drops`]: sampled drops in, frames through the loaded program.

use std::net::IpAddr;

use anyhow::{Context as _, Result, anyhow};
use aya::{
    maps::{MapData, RingBuf},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use net_common::{
    abi::Trial,
    sources::Share,
    verdict::{Action, Reason},
};

use tokio::sync::oneshot;

use super::{Agent, send};
use crate::{
    control::{
        drops::{Drops, ExplainFrame, FrameExplained, ListedBy, MAX_FRAME, MIN_FRAME, unhex},
        lists::{FindQuery, ListEntry, ListRequest},
        protocol::{Reply, Request, RequestError, VERSION, action_name},
    },
    datapath::load::{self, XDP_PROGRAM},
    drops::{read_event, seen::Seen, totals},
    neighbor::Now,
    reasons::share_name,
};

/// Octets of a trial's metadata.
const METADATA: usize = size_of::<Trial>();
/// What an answer may be longer than the frame: a SYN-ACK's options.
const GROWTH: usize = 256;
/// In `outcome` until the program has written it; no reason has this number.
const UNJUDGED: u64 = u64::MAX;

impl Agent {
    /// The sampled drops that the data path has told of since the last call.
    pub(super) fn take_drop_events(&mut self, ring: &mut RingBuf<MapData>) {
        let Ok(now) = Now::read() else { return };
        while let Some(octets) = ring.next() {
            let Some(event) = read_event(&octets) else {
                continue;
            };
            let attached = self.interfaces.iter().find(|i| i.ifindex == event.ifindex);
            let name = attached.map_or_else(|| format!("#{}", event.ifindex), |i| i.name.clone());
            self.neighbors.sample(event, name, now);
        }
    }

    /// Reads the counters for the rate of drops in `status`.
    pub(super) fn sample_drops(&mut self) {
        let cells = self.maps.counters();
        if let Some(cells) = self.note("counters", cells) {
            self.rates.push(self.started.elapsed(), cells);
        }
    }

    /// Answers what is about drops and events.
    pub(super) fn answer_of_drops(&mut self, request: Request) {
        match request {
            Request::Events { after, reply } => {
                let events = self.maps.counters().map(|cells| {
                    let mut events = self.neighbors.events(after);
                    events.drops = totals(&cells);
                    events
                });
                send(reply, events);
            }
            Request::Drops { after, reply } => send(reply, self.drops(after)),
            Request::Explain(frame, reply) => self.answer_explain(&frame, reply),
            _ => {}
        }
    }

    fn drops(&self, after: u64) -> Result<Drops> {
        Ok(self.neighbors.drops(after, totals(&self.maps.counters()?)))
    }

    fn answer_explain(&mut self, asked: &ExplainFrame, reply: Reply<FrameExplained>) {
        let mut explained = match self.explain(asked) {
            Ok(explained) => explained,
            refused => return drop(reply.send(refused)),
        };
        let Some(source) = listed_source(&explained) else {
            return drop(reply.send(Ok(explained)));
        };
        let (found, entries) = oneshot::channel();
        let query = FindQuery {
            prefix: source.to_string(),
            name: None,
        };
        self.answer_of_lists(ListRequest::Find(query, found));
        tokio::spawn(async move {
            // Without them the verdict is worth telling still.
            if let Ok(Ok(found)) = entries.await {
                explained.listed = found.entries.into_iter().map(listed_by).collect();
            }
            let _ = reply.send(Ok(explained));
        });
    }

    fn explain(&mut self, asked: &ExplainFrame) -> Result<FrameExplained, RequestError> {
        let refused = |why: String| Err(RequestError::Refused(why));
        let Some(frame) = unhex(&asked.frame) else {
            return refused(
                "the frame is not in hexadecimal digits; write two an octet".to_owned(),
            );
        };
        if !(MIN_FRAME..=MAX_FRAME).contains(&frame.len()) {
            return refused(format!(
                "the frame has {} octets; give one of {MIN_FRAME} to {MAX_FRAME}, from its Ethernet header on",
                frame.len()
            ));
        }
        let attached = match &asked.interface {
            Some(name) => self.interfaces.iter().find(|i| &i.name == name),
            None => self.interfaces.first(),
        };
        let Some((ifindex, interface)) = attached.map(|i| (i.ifindex, i.name.clone())) else {
            return refused(format!(
                "netmoat is not attached to {}; it is to {}",
                asked
                    .interface
                    .as_deref()
                    .unwrap_or("anything")
                    .escape_debug(),
                super::names(&self.interfaces)
            ));
        };
        let (reason, share, observed) = self
            .trial(&frame, ifindex)
            .map_err(|error| RequestError::Failed(format!("{error:#}")))?;
        let seen = Seen::of(&frame, frame.len());
        let action = reason.action();
        Ok(FrameExplained {
            version: VERSION,
            verdict: action_name(if observed { Action::Pass } else { action }).to_owned(),
            code: reason as u32,
            reason: reason.name().to_owned(),
            action: action_name(action).to_owned(),
            observed,
            share: share_name(share).map(str::to_owned),
            mode: self.config.mode,
            interface,
            length: frame.len() as u32,
            listed: Vec::new(),
            seen,
        })
    }

    /// Runs a frame through the loaded XDP program as a trial, whose verdict is not counted.
    fn trial(&mut self, frame: &[u8], ifindex: u32) -> Result<(Reason, Share, bool)> {
        let secret = self.guards.trial();
        let mut data = Vec::with_capacity(METADATA + frame.len());
        data.extend(secret.to_ne_bytes());
        data.extend(UNJUDGED.to_ne_bytes());
        data.extend(frame);
        // struct xdp_md: the metadata end, and the frame begins, at `data`.
        let context = [METADATA as u32, data.len() as u32, 0, ifindex, 0, 0];
        let context = context.map(u32::to_ne_bytes).concat();
        let mut after = vec![0; data.len() + GROWTH];
        let xdp: &mut Xdp = load::program(&mut self.ebpf, XDP_PROGRAM)?;
        let run = xdp
            .test_run(TestRunOptions {
                data_in: Some(&data),
                data_out: Some(&mut after),
                ctx_in: Some(&context),
                ..Default::default()
            })
            .with_context(|| {
                format!(
                    "the kernel refuses to run a frame of {} octets on this interface; is it still there (`netmoat \
                     status`), and is the frame no larger than a page?",
                    frame.len()
                )
            })?;
        outcome(&after, run.data_size_out as usize)
    }
}

/// The source of what was allowed or blocked.
fn listed_source(explained: &FrameExplained) -> Option<IpAddr> {
    let by_list = [Reason::Allowed as u32, Reason::Blocked as u32].contains(&explained.code);
    explained.seen.source.filter(|_| by_list)
}

fn listed_by(entry: ListEntry) -> ListedBy {
    ListedBy {
        entry: entry.prefix,
        origin: entry.name,
        reason: entry.reason,
        left_s: entry.left_s,
    }
}

/// What the program has written into the metadata.
fn outcome(after: &[u8], len: usize) -> Result<(Reason, Share, bool)> {
    let written = after
        .get(8..METADATA)
        .filter(|_| len >= METADATA)
        .and_then(|octets| Some(u64::from_ne_bytes(octets.try_into().ok()?)))
        .filter(|&outcome| outcome != UNJUDGED)
        .context("the loaded program did not take the frame as a trial; restart netmoat")?;
    let share = (written >> Trial::SHARE_SHIFT) as u8;
    let number = written & !Trial::OBSERVED & !(0xff << Trial::SHARE_SHIFT);
    let reason = u32::try_from(number)
        .ok()
        .and_then(Reason::from_number)
        .ok_or_else(|| anyhow!("the loaded program gave the unknown reason {number}"))?;
    let share = Share::from_number(share.into());
    Ok((reason, share, written & Trial::OBSERVED != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_counts_when_the_program_has_written_it() {
        let metadata = |outcome: u64| [7_u64.to_ne_bytes(), outcome.to_ne_bytes()].concat();
        for (written, expected) in [
            (0, (Reason::NoRule, Share::None, false)),
            (51, (Reason::Blocked, Share::None, false)),
            (51 | Trial::OBSERVED, (Reason::Blocked, Share::None, true)),
            (
                Reason::EchoRequestLimit as u64 | 3 << Trial::SHARE_SHIFT,
                (Reason::EchoRequestLimit, Share::Pool, false),
            ),
        ] {
            let found = outcome(&metadata(written), METADATA + 60).unwrap();
            assert_eq!(found, expected, "{written:#x}");
        }
        for (after, len) in [
            (metadata(UNJUDGED), METADATA + 60),
            (metadata(51), METADATA - 1),
            (metadata(Reason::COUNT.into()), METADATA + 60),
            (metadata(1 << 33), METADATA + 60),
            (vec![0; 4], METADATA + 60),
        ] {
            assert!(outcome(&after, len).is_err(), "{after:?} {len}");
        }
    }
}
