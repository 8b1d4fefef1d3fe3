//! Frames from wherever the operator has them: pcap, pcapng, plain octets, hexadecimal digits.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use anyhow::{Context as _, Result, bail, ensure};
use pcap_file::{
    DataLink, PcapError,
    pcap::PcapParser,
    pcapng::{Block, PcapNgParser},
};

use crate::control::drops::MAX_FRAME;

/// The largest file that is read.
const MAX_FILE: u64 = 64 << 20;
/// Frames that are explained at most.
pub(super) const MAX_PACKETS: usize = 10_000;
const FEWER: &str = "choose some with `editcap -r IN OUT 1-100`, or one with --packet N";

/// One frame of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    /// Its number in the file, from 1, as Wireshark counts.
    pub(super) number: usize,
    /// From its Ethernet header on.
    pub(super) octets: Vec<u8>,
    /// Octets that the file does not have, and that are taken for zeros.
    pub(super) cut: usize,
}

/// The frames that `source` names: a file, `-` for standard input, or the octets themselves. With `only` just the one
/// of this number.
pub(super) fn read(source: &str, only: Option<usize>) -> Result<Vec<Packet>> {
    let content = if source == "-" {
        contents(io::stdin().lock(), "standard input")?
    } else {
        match File::open(source) {
            Ok(file) => contents(file, source)?,
            // Digits of a long frame are no possible name.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::InvalidFilename
                ) =>
            {
                let octets = from_hex(source).with_context(|| no_source(source))?;
                let packets = vec![whole(octets)];
                let packets = if only.unwrap_or(1) == 1 {
                    packets
                } else {
                    vec![]
                };
                return choose(packets, 1, only);
            }
            Err(error) => {
                let shown = Path::new(source).display().to_string();
                return Err(error)
                    .with_context(|| format!("{} cannot be read", shown.escape_debug()));
            }
        }
    };
    let name = if source == "-" {
        "standard input"
    } else {
        source
    };
    let (packets, seen) =
        packets(&content, only).with_context(|| format!("in {}", name.escape_debug()))?;
    choose(packets, seen, only)
}

fn no_source(source: &str) -> String {
    let shown: String = source.chars().take(40).collect();
    format!(
        "`{}` is no file, and not a frame in hexadecimal digits either",
        shown.escape_debug()
    )
}

fn contents(from: impl Read, name: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    from.take(MAX_FILE + 1)
        .read_to_end(&mut content)
        .with_context(|| format!("{} cannot be read", name.escape_debug()))?;
    ensure!(
        content.len() as u64 <= MAX_FILE,
        "{} has more than {} MiB; {FEWER}",
        name.escape_debug(),
        MAX_FILE >> 20
    );
    ensure!(
        !content.is_empty(),
        "{} is empty; give a capture, or a frame in hexadecimal digits",
        name.escape_debug()
    );
    Ok(content)
}

fn choose(packets: Vec<Packet>, seen: usize, only: Option<usize>) -> Result<Vec<Packet>> {
    match only {
        Some(number) if packets.is_empty() => bail!(
            "there is no packet {number}: the input has {seen}; --packet counts from 1, as Wireshark does"
        ),
        _ => {
            ensure!(!packets.is_empty(), "the capture has no packets");
            Ok(packets)
        }
    }
}

const fn whole(octets: Vec<u8>) -> Packet {
    Packet {
        number: 1,
        octets,
        cut: 0,
    }
}

/// The frames in a file's content, and how many there are.
fn packets(content: &[u8], only: Option<usize>) -> Result<(Vec<Packet>, usize)> {
    let mut found = Found {
        packets: Vec::new(),
        seen: 0,
        only,
    };
    match content.first_chunk() {
        Some(&[0x0a, 0x0d, 0x0d, 0x0a]) => pcapng(content, &mut found)?,
        Some(
            &([0xa1, 0xb2, 0xc3, 0xd4]
            | [0xd4, 0xc3, 0xb2, 0xa1]
            | [0xa1, 0xb2, 0x3c, 0x4d]
            | [0x4d, 0x3c, 0xb2, 0xa1]),
        ) => pcap(content, &mut found)?,
        _ => {
            // A frame of printable characters alone would have a MAC of them: nobody has one.
            let text = std::str::from_utf8(content)
                .ok()
                .filter(|text| !text.contains(|c: char| c.is_control() && !c.is_whitespace()));
            let octets = match text {
                Some(text) => from_hex(text)?,
                None => content.to_vec(),
            };
            let len = octets.len();
            found.add(&octets, len)?;
        }
    }
    Ok((found.packets, found.seen))
}

struct Found {
    packets: Vec<Packet>,
    seen: usize,
    only: Option<usize>,
}

impl Found {
    fn add(&mut self, octets: &[u8], len: usize) -> Result<()> {
        self.seen += 1;
        if self.only.is_some_and(|only| only != self.seen) {
            return Ok(());
        }
        ensure!(
            self.packets.len() < MAX_PACKETS,
            "there are more than {MAX_PACKETS} packets; {FEWER}"
        );
        // What is too long is refused later, in words; it need not be made up here.
        let cut = len.saturating_sub(octets.len()).min(MAX_FRAME);
        let mut octets = octets.to_vec();
        octets.resize(octets.len() + cut, 0);
        self.packets.push(Packet {
            number: self.seen,
            octets,
            cut,
        });
        Ok(())
    }

    /// What came of a parser's step; None at the end of what is whole.
    fn step<T>(&self, step: Result<T, PcapError>) -> Result<Option<T>> {
        match step {
            Ok(step) => Ok(Some(step)),
            Err(PcapError::IncompleteBuffer) => {
                tracing::warn!(
                    "the capture ends in the midst of a packet, after {}",
                    self.seen
                );
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| {
                format!(
                    "the capture is damaged behind packet {}; `editcap` may mend it",
                    self.seen
                )
            }),
        }
    }
}

fn pcap(content: &[u8], found: &mut Found) -> Result<()> {
    let (mut rest, parser) = PcapParser::new(content).context("the capture's header is damaged")?;
    ethernet(parser.header().datalink)?;
    while !rest.is_empty() {
        let Some((after, packet)) = found.step(parser.next_raw_packet(rest))? else {
            break;
        };
        rest = after;
        found.add(&packet.data, packet.orig_len as usize)?;
    }
    Ok(())
}

fn pcapng(content: &[u8], found: &mut Found) -> Result<()> {
    let (mut rest, mut parser) =
        PcapNgParser::new(content).context("the capture's header is damaged")?;
    while !rest.is_empty() {
        let Some((after, block)) = found.step(parser.next_block(rest))? else {
            break;
        };
        rest = after;
        let (interface, data, len) = match &block {
            Block::EnhancedPacket(p) => (p.interface_id as usize, &p.data, p.original_len),
            Block::SimplePacket(p) => (0, &p.data, p.original_len),
            Block::Packet(p) => (p.interface_id.into(), &p.data, p.original_len),
            _ => continue,
        };
        let interface = parser.interfaces().get(interface);
        ethernet(
            interface
                .context("a packet is of an interface that the capture does not describe")?
                .linktype,
        )?;
        found.add(data, len as usize)?;
    }
    Ok(())
}

fn ethernet(link: DataLink) -> Result<()> {
    ensure!(
        link == DataLink::ETHERNET,
        "the packets are of link type {link:?}, and netmoat judges Ethernet frames; capture them on an Ethernet \
         interface (not on `any`)"
    );
    Ok(())
}

/// The octets of a text of hexadecimal digits, two each. Between octets there may be white space, `:`, `-` and `,`, and
/// before them `0x`.
fn from_hex(text: &str) -> Result<Vec<u8>> {
    let mut octets = Vec::new();
    // The first digit of an octet, its place, and whether it may be the 0 of `0x`.
    let mut first: Option<(u8, usize, bool)> = None;
    let mut fresh = true;
    for (at, c) in text.chars().enumerate() {
        let at = at + 1;
        if let Some(digit) = c.to_digit(16) {
            first = match first {
                None => Some((digit as u8, at, fresh)),
                Some((high, ..)) => {
                    octets.push(high << 4 | digit as u8);
                    None
                }
            };
            fresh = false;
            continue;
        }
        match (c, first) {
            ('x' | 'X', Some((0, _, true))) => (first, fresh) = (None, false),
            (':' | '-' | ',', None) => fresh = true,
            (c, None) if c.is_whitespace() => fresh = true,
            (c, Some((_, lone, _))) if c.is_whitespace() || matches!(c, ':' | '-' | ',') => bail!(
                "character {lone} is a digit without its second; write two digits an octet, as in `02 00`"
            ),
            _ => bail!(
                "character {at} is `{}`, no hexadecimal digit; write octets as in `02:00:00` or `0x0200`",
                c.escape_debug()
            ),
        }
    }
    if let Some((_, lone, _)) = first {
        bail!("character {lone}, the last digit, is without its second; write two digits an octet");
    }
    ensure!(!octets.is_empty(), "there are no hexadecimal digits");
    Ok(octets)
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use pcap_file::pcap::{PcapHeader, PcapPacket, PcapWriter};

    use super::*;
    use crate::{control::drops::DroppedFrame, drops::pcapng::Capture};

    #[test]
    fn hexadecimal_digits_are_read_however_they_are_written() {
        for text in [
            "0200aBff",
            "02 00 ab ff",
            "02:00:ab:ff",
            "02-00-AB-FF\n",
            "0x0200abff",
            "0x02, 0x00, 0xab, 0xff",
            " 0x0200 0xabff ",
            "0X02 00\n\tab  ff",
        ] {
            assert_eq!(from_hex(text).unwrap(), [2, 0, 0xab, 0xff], "{text:?}");
        }
    }

    #[test]
    fn the_digits_of_a_long_frame_are_taken_for_no_file() {
        let packets = read(&"00".repeat(1514), None).unwrap();
        assert_eq!(packets.len(), 1);
        assert_eq!(packets[0].octets, [0; 1514]);
    }

    #[test]
    fn bad_hexadecimal_digits_are_named_with_their_place() {
        for (text, words) in [
            ("", "no hexadecimal digits"),
            ("0x", "no hexadecimal digits"),
            ("02 0", "character 4, the last digit"),
            ("02 0 00", "character 4 is a digit without its second"),
            ("02:00:zz", "character 7 is `z`"),
            ("020x00", "character 4 is `x`"),
            ("02.00", "character 3 is `.`"),
            ("0x0x00", "character 4 is `x`"),
            ("02\u{1b}00", "character 3 is `\\u{1b}`"),
        ] {
            let error = from_hex(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text:?}: {error}");
        }
    }

    fn written(link: DataLink) -> Vec<u8> {
        let header = PcapHeader {
            datalink: link,
            snaplen: 64,
            ..Default::default()
        };
        let mut writer = PcapWriter::with_header(Vec::new(), header).unwrap();
        for len in [60, 64] {
            let packet = PcapPacket::new(Duration::ZERO, len, &[7; 60]);
            writer.write_packet(&packet).unwrap();
        }
        writer.into_writer()
    }

    #[test]
    fn a_pcap_gives_all_its_packets_and_makes_up_what_was_cut() {
        let content = written(DataLink::ETHERNET);
        let (all, seen) = packets(&content, None).unwrap();
        assert_eq!((all.len(), seen), (2, 2));
        assert_eq!(
            (all[0].number, all[0].cut, &all[0].octets[..]),
            (1, 0, &[7; 60][..])
        );
        assert_eq!((all[1].number, all[1].cut, all[1].octets.len()), (2, 4, 64));
        assert_eq!(&all[1].octets[60..], [0; 4]);
        let (one, seen) = packets(&content, Some(2)).unwrap();
        assert_eq!((&one[..], seen), (&all[1..], 2));
        assert!(choose(vec![], 2, Some(3)).is_err());
        // The end is missing: what is whole counts.
        assert_eq!(packets(&content[..content.len() - 1], None).unwrap().1, 1);

        let error = packets(&written(DataLink::RAW), None).unwrap_err();
        assert!(error.to_string().contains("Ethernet"), "{error}");
    }

    #[test]
    fn a_capture_of_netmoats_own_can_be_explained() {
        let mut out = Vec::new();
        let mut capture = Capture::new(&mut out).unwrap();
        let frame = DroppedFrame {
            sequence: 1,
            at_s: 1_700_000_000,
            at_ns: 123_456_789,
            ifindex: 3,
            interface: "eth0".to_owned(),
            code: 16,
            reason: "tcp_flags".to_owned(),
            observed: false,
            share: None,
            length: 300,
            frame: "02".repeat(256),
        };
        capture.write(&frame).unwrap();
        capture.write(&frame).unwrap();
        let (found, _) = packets(&out, None).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!((found[1].octets.len(), found[1].cut), (300, 44));
    }

    #[test]
    fn other_files_are_octets_or_text() {
        let one = |content: &[u8]| packets(content, None).map(|(found, _)| found[0].octets.clone());
        assert_eq!(one(b"02:00\n0x03").unwrap(), [2, 0, 3]);
        assert_eq!(one(&[2, 0, 0, 1]).unwrap(), [2, 0, 0, 1]);
        assert_eq!(one(&[0xff; 20]).unwrap(), [0xff; 20]);
        let error = one(b"# a comment").unwrap_err().to_string();
        assert!(error.contains("character 1 is `#`"), "{error}");
    }

    #[test]
    fn no_content_is_too_strange() {
        let magics: [&[u8]; 3] = [
            &[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a],
            &[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0],
            &[],
        ];
        proptest::proptest!(|(which in 0..3_usize, octets: Vec<u8>)| {
            let content = Cow::from([magics[which], &octets].concat());
            let _ = packets(&content, None);
        });
    }
}
