//! What the data path tells of neighbours, and what becomes of it.

use net_common::{
    abi::{NeighborEvent, NeighborKey},
    guard::neighbor::EventKind,
    units::Mac,
};

use super::{
    NeighborWatch, Now,
    journal::{Kind, Place},
    known,
    stations::{Change, Probe},
    verify::Answers,
    words,
};

impl NeighborWatch {
    /// An entry of the ring buffer.
    pub fn on_event(&mut self, octets: &[u8], now: Now) {
        if octets.len() != size_of::<NeighborEvent>() {
            return;
        }
        // SAFETY: the length was checked, every pattern of bits is a NeighborEvent (integers, no padding), and no
        // alignment is asked for.
        let event = unsafe { octets.as_ptr().cast::<NeighborEvent>().read_unaligned() };
        self.happened(&event, now);
    }

    fn happened(&mut self, event: &NeighborEvent, now: Now) {
        let (key, mac) = (event.key, Mac(event.mac));
        match EventKind::from_number(event.kind) {
            Some(EventKind::Claim) => {
                let answers = if event.flags & NeighborEvent::SOLICITED == 0 {
                    Answers::Nobody
                } else if event.flags & NeighborEvent::STEADY != 0 {
                    Answers::UsAgain
                } else {
                    Answers::Us
                };
                let mut out = Vec::new();
                if let Some(known) = known(&self.bindings, &self.ports, &key) {
                    self.verifier
                        .claim(key, known, mac, answers, now.mono, &mut out);
                }
                self.carry_out(out, now);
            }
            Some(EventKind::Answer) => {
                if let Some(entry) = self.bindings.get_mut(&key)
                    && entry.macs.contains(&mac)
                {
                    entry.answered = Some((now.mono, mac));
                }
                let mut out = Vec::new();
                if let Some(known) = known(&self.bindings, &self.ports, &key) {
                    self.verifier.answer(key, known, mac, now.mono, &mut out);
                }
                self.carry_out(out, now);
            }
            Some(EventKind::OwnClaim) if !self.is_own_mac(mac) => {
                let text = words::own_address(&self.place(&key), mac, Mac(event.source));
                self.note(Kind::OwnAddress, &key, vec![mac], text, now);
            }
            Some(EventKind::Station) => self.station(&key, mac, now),
            Some(EventKind::ProbeAnswered) => self.probe(&key, mac, now),
            Some(EventKind::RogueRouter) => {
                let text = words::rogue_router(&self.place(&key), mac, Mac(event.source));
                self.note(Kind::RogueRouter, &key, vec![mac], text, now);
            }
            Some(EventKind::OwnClaim) | None => {}
        }
    }

    fn station(&mut self, key: &NeighborKey, mac: Mac, now: Now) {
        let Some(change) = self.stations.heard(*key, mac, now.mono) else {
            return;
        };
        // The operator, or verification, has said where a bound address may be.
        let bound = self
            .bindings
            .get(key)
            .is_some_and(|e| e.macs.contains(&mac));
        if bound && change != Change::New {
            return;
        }
        let (kind, macs) = match &change {
            Change::New => (Kind::Station, vec![mac]),
            Change::Changed { before } => (Kind::StationChanged, vec![mac, *before]),
            Change::FlipFlop { before } => (Kind::FlipFlop, vec![mac, *before]),
            Change::Many { macs } => (Kind::FlipFlop, macs.clone()),
        };
        let text = words::station(&self.place(key), mac, &change);
        self.note(kind, key, macs, text, now);
    }

    fn probe(&mut self, key: &NeighborKey, mac: Mac, now: Now) {
        // A bound address may have been asked for by a probe of ours, see `ask`.
        if self.bindings.get(key).is_some() || self.is_own_mac(mac) {
            return;
        }
        let place = self.place(key);
        match self.probes.answered(*key, mac, now.mono) {
            Probe::Known => {}
            Probe::InUse => {
                let text = words::probe_answered(&place, mac);
                self.note(Kind::ProbeAnswered, key, vec![mac], text, now);
            }
            Probe::Denial { addresses, macs } => {
                let text = words::dad_denial(&place, addresses, &macs);
                self.note(Kind::DadDenial, key, macs, text, now);
            }
        }
    }

    /// Whether silence is being waited for, which a lost event would make worthless.
    pub const fn is_asking(&self) -> bool {
        self.verifier.is_asking()
    }

    /// How many events the kernel could not tell of so far. To be called between the last event and [`Self::tick`].
    pub fn events_lost(&mut self, total: u64, now: Now) {
        let more = total.saturating_sub(self.lost);
        self.lost = total;
        if more > 0 {
            self.verifier.events_lost();
            let text = format!("{more} events of neighbours were lost: the agent did not keep up");
            self.journal
                .note(Kind::EventsLost, Place::default(), Vec::new(), text, now);
        }
    }
}
