//! Where a walk from the roots begins: their names and addresses, and the keys that are trusted.

use std::{fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use hickory_resolver::proto::{
    dnssec::{
        TrustAnchors,
        rdata::{DNSSECRData, DS},
    },
    rr::{Name, RData, Record},
    serialize::txt::Parser,
};

use super::cuts::{Cut, Server};

/// The roots as the IANA publishes them (named.root of 2026; b.root's addresses are those since November 2023).
const ROOTS: &str = include_str!("named.root");
/// The largest file that is read, octets.
const LONGEST: u64 = 1 << 20;

/// What the root's key is compared with.
#[derive(Clone)]
pub(super) struct Anchors {
    /// Keys themselves.
    pub keys: TrustAnchors,
    /// Digests of keys.
    pub digests: Vec<DS>,
}

/// The roots of a file, or the IANA's.
pub(super) fn hints(file: Option<&Path>) -> Result<Cut> {
    match file {
        Some(path) => parse(&read(path)?)
            .with_context(|| format!("{} is no list of root servers", path.display())),
        None => parse(ROOTS),
    }
}

/// The trusted keys of a file, or the IANA's as hickory has them.
pub(super) fn anchors(file: Option<&Path>) -> Result<Anchors> {
    let Some(path) = file else {
        return Ok(Anchors {
            keys: TrustAnchors::default(),
            digests: Vec::new(),
        });
    };
    let text = read(path)?;
    digests_or_keys(&text).with_context(|| {
        format!(
            "{} has neither DNSKEY nor DS records of the root",
            path.display()
        )
    })
}

fn digests_or_keys(text: &str) -> Result<Anchors> {
    // hickory reads files of DNSKEY records as anchors, and DS records as a zone.
    if let Ok(keys) = text.parse::<TrustAnchors>()
        && !keys.is_empty()
    {
        return Ok(Anchors {
            keys,
            digests: Vec::new(),
        });
    }
    let digests: Vec<_> = records(text)?
        .into_iter()
        .filter(|record| record.name.is_root())
        .filter_map(|record| match record.data {
            RData::DNSSEC(DNSSECRData::DS(ds)) => Some(ds),
            _ => None,
        })
        .collect();
    if digests.is_empty() {
        bail!("no record of the root is in it");
    }
    Ok(Anchors {
        keys: TrustAnchors::empty(),
        digests,
    })
}

fn read(path: &Path) -> Result<String> {
    let cannot = || format!("{} cannot be read", path.display());
    let size = fs::metadata(path).with_context(cannot)?.len();
    if size > LONGEST {
        bail!("{} has {size} octets; {LONGEST} are read", path.display());
    }
    fs::read_to_string(path).with_context(cannot)
}

fn parse(text: &str) -> Result<Cut> {
    let records = records(text)?;
    let mut servers = Vec::new();
    for record in records.iter().filter(|record| record.name.is_root()) {
        let RData::NS(name) = &record.data else {
            continue;
        };
        let of_it = |address: &Record| (address.name == name.0).then(|| address_of(&address.data));
        let addresses = records.iter().filter_map(of_it).flatten();
        servers.extend(addresses.map(|address| Server {
            name: name.0.clone(),
            address,
        }));
    }
    if servers.is_empty() {
        bail!("it names no server of the root with an address");
    }
    Ok(Cut {
        zone: Name::root(),
        servers,
    })
}

fn records(text: &str) -> Result<Vec<Record>> {
    // Records of keys are often written without a TTL, which a zone must have.
    let text = format!("$TTL 3600\n{text}");
    let (_, sets) = Parser::new(text, None, Some(Name::root())).parse()?;
    Ok(sets
        .into_values()
        .flat_map(|set| set.records_without_rrsigs().cloned().collect::<Vec<_>>())
        .collect())
}

/// The address in a record, if it is one of an address.
pub(super) fn address_of(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thirteen_roots_are_known_by_both_families() {
        let roots = hints(None).unwrap();
        assert_eq!(roots.servers.len(), 26);
        assert_eq!(
            roots.servers.iter().filter(|s| s.address.is_ipv6()).count(),
            13
        );
    }

    #[test]
    fn anchors_are_read_as_keys_and_as_digests() {
        let key = ". IN DNSKEY 257 3 13 LRb6IMbBTGmPYBKobPM5mgWC/58WV3LAxJ+YdhnYkZpi2/S89GTPmKjQV0mca/sXrSEiM7ti1v0Mr2O4CfjWiA== ;{id = 1}\n";
        let digest =
            ". IN DS 33690 13 2 59c18034e47ed05e553c665b65d06bf331749f6fa46649fc11ed30a7dc289d03\n";
        assert_eq!(digests_or_keys(key).unwrap().keys.len(), 1);
        let anchors = digests_or_keys(digest).unwrap();
        assert_eq!(anchors.digests.len(), 1);
        assert_eq!(anchors.digests[0].key_tag(), 33690);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        for text in ["", "hello\n", "a. 60 IN A 192.0.2.1\n"] {
            assert!(parse(text).is_err(), "{text}");
            assert!(digests_or_keys(text).is_err(), "{text}");
        }
    }
}
