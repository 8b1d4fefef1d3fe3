//! The kernel's neighbour table held against the bindings.

use std::net::IpAddr;

use net_common::units::Mac;

use crate::{
    control::protocol::{AuditEntry, AuditVerdict},
    host::neighbors::KernelNeighbor,
};

/// A binding as the audit sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its address.
    pub ip: IpAddr,
    /// The attached interface.
    pub interface: String,
    /// The interfaces whose entries are for it, by index, with their names.
    pub carriers: Vec<(u32, String)>,
    /// Its link-layer addresses; none while it is learned.
    pub macs: Vec<Mac>,
    /// Which of them an entry is to be mended to.
    pub mac: Option<Mac>,
    /// It is unclear who has the address.
    pub contested: bool,
}

/// A poisoned entry, and what to make it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// Index of the line of the audit.
    pub line: usize,
    /// The interface of the entry.
    pub ifindex: u32,
    /// Its address.
    pub ip: IpAddr,
    /// The link-layer address that it is to have.
    pub mac: Mac,
}

/// Compares. Gives every binding, with each of the kernel's entries for it, and what can be mended.
pub fn compare(bindings: &[Bound], kernel: &[KernelNeighbor]) -> (Vec<AuditEntry>, Vec<Repair>) {
    let mut lines = Vec::new();
    let mut repairs = Vec::new();
    for bound in bindings {
        let mut found = false;
        for (ifindex, name) in &bound.carriers {
            let entry = kernel
                .iter()
                .find(|k| k.ifindex == *ifindex && k.ip == bound.ip);
            let Some(entry) = entry else { continue };
            found = true;
            let verdict = verdict(bound, Some(entry));
            if let (AuditVerdict::Poisoned, Some(mac)) = (verdict, bound.mac) {
                repairs.push(Repair {
                    line: lines.len(),
                    ifindex: *ifindex,
                    ip: bound.ip,
                    mac,
                });
            }
            lines.push(line(bound, name, Some(entry), verdict));
        }
        if !found {
            lines.push(line(bound, &bound.interface, None, verdict(bound, None)));
        }
    }
    (lines, repairs)
}

fn verdict(bound: &Bound, entry: Option<&KernelNeighbor>) -> AuditVerdict {
    if bound.macs.is_empty() {
        return AuditVerdict::Learning;
    }
    match entry {
        Some(KernelNeighbor {
            usable: true,
            permanent,
            mac: Some(mac),
            ..
        }) => {
            if bound.macs.contains(mac) {
                AuditVerdict::Good
            } else if *permanent {
                AuditVerdict::Permanent
            } else {
                AuditVerdict::Poisoned
            }
        }
        _ => AuditVerdict::Absent,
    }
}

fn line(
    bound: &Bound,
    interface: &str,
    entry: Option<&KernelNeighbor>,
    verdict: AuditVerdict,
) -> AuditEntry {
    AuditEntry {
        address: bound.ip.to_string(),
        interface: interface.to_owned(),
        mac: entry.and_then(|entry| entry.mac).map(|mac| mac.to_string()),
        state: entry.map(|entry| entry.state.to_string()),
        bound: bound.macs.iter().map(ToString::to_string).collect(),
        contested: bound.contested,
        verdict,
        repaired: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::neighbors::NeighborState;

    const GOOD: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac::new([2, 0, 0, 0, 0, 2]);
    const BAD: Mac = Mac::new([2, 0, 0, 0, 0, 3]);

    fn bound(macs: &[Mac]) -> Bound {
        Bound {
            ip: "192.0.2.1".parse().unwrap(),
            interface: "eth0".into(),
            carriers: vec![(2, "eth0".into()), (3, "mac0".into())],
            macs: macs.to_vec(),
            mac: macs.first().copied(),
            contested: macs.is_empty(),
        }
    }

    fn entry(ifindex: u32, mac: Option<Mac>, state: NeighborState) -> KernelNeighbor {
        KernelNeighbor {
            ifindex,
            ip: "192.0.2.1".parse().unwrap(),
            mac,
            state,
            permanent: state == NeighborState::Permanent,
            usable: !matches!(state, NeighborState::Failed | NeighborState::Incomplete),
        }
    }

    #[test]
    fn each_entry_gets_its_verdict() {
        use {AuditVerdict as V, NeighborState as S};
        for (macs, mac, state, verdict, mended) in [
            (&[GOOD][..], Some(GOOD), S::Stale, V::Good, None),
            (&[OTHER, GOOD], Some(GOOD), S::Reachable, V::Good, None),
            (
                &[OTHER, GOOD],
                Some(BAD),
                S::Reachable,
                V::Poisoned,
                Some(OTHER),
            ),
            (&[GOOD], Some(BAD), S::Permanent, V::Permanent, None),
            (&[GOOD], Some(GOOD), S::Permanent, V::Good, None),
            (&[GOOD], Some(BAD), S::Failed, V::Absent, None),
            (&[GOOD], None, S::Incomplete, V::Absent, None),
            (&[], Some(BAD), S::Reachable, V::Learning, None),
        ] {
            let (lines, repairs) = compare(&[bound(macs)], &[entry(2, mac, state)]);
            assert_eq!(lines.len(), 1);
            assert_eq!(lines[0].verdict, verdict, "{macs:?} {mac:?} {state}");
            assert_eq!(lines[0].contested, macs.is_empty());
            assert_eq!(lines[0].mac, mac.map(|m| m.to_string()));
            assert_eq!(repairs.first().map(|r| r.mac), mended);
        }
    }

    #[test]
    fn entries_of_other_interfaces_and_addresses_are_not_for_it() {
        let mut elsewhere = entry(9, Some(BAD), NeighborState::Stale);
        let (lines, repairs) = compare(&[bound(&[GOOD])], &[elsewhere]);
        assert_eq!(
            (lines[0].verdict, lines[0].state.as_deref(), repairs.len()),
            (AuditVerdict::Absent, None, 0)
        );
        (elsewhere.ifindex, elsewhere.ip) = (2, "192.0.2.9".parse().unwrap());
        assert_eq!(compare(&[bound(&[GOOD])], &[elsewhere]).1, []);
    }

    #[test]
    fn an_address_with_entries_on_two_interfaces_has_a_line_for_each() {
        let kernel = [
            entry(2, Some(GOOD), NeighborState::Stale),
            entry(3, Some(BAD), NeighborState::Stale),
        ];
        let (lines, repairs) = compare(&[bound(&[GOOD])], &kernel);
        let told: Vec<_> = lines
            .iter()
            .map(|l| (l.interface.as_str(), l.verdict))
            .collect();
        assert_eq!(
            told,
            [
                ("eth0", AuditVerdict::Good),
                ("mac0", AuditVerdict::Poisoned)
            ]
        );
        assert_eq!(
            repairs,
            [Repair {
                line: 1,
                ifindex: 3,
                ip: lines[1].address.parse().unwrap(),
                mac: GOOD
            }]
        );
    }
}
