//! Dropped frames as a pcapng file, each with its reason as comment.

use std::{borrow::Cow, io::Write, time::Duration};

use net_common::{
    abi::DROP_FRAME,
    verdict::{Action, Reason},
};
use pcap_file::{
    DataLink, Endianness, PcapError,
    pcapng::{
        PcapNgBlock as _, PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption},
            section_header::{SectionHeaderBlock, SectionHeaderOption},
        },
    },
};

use crate::{
    control::drops::{DroppedFrame, unhex},
    reasons::{rules, share_words},
};

/// Nanoseconds, as a power of ten (pcapng, `if_tsresol`). pcap-file writes times in this unit only.
const NANOSECONDS: u8 = 9;

/// Writes frames as they come.
pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// Index and name by the number of their block.
    interfaces: Vec<(u32, String)>,
}

impl<W: Write> Capture<W> {
    /// Begins a file.
    ///
    /// # Errors
    /// `out` takes nothing.
    pub fn new(out: W) -> std::io::Result<Self> {
        let section = SectionHeaderBlock {
            endianness: Endianness::native(),
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(
                concat!("netmoat ", env!("CARGO_PKG_VERSION")),
            ))],
            ..Default::default()
        };
        let mut capture = Self {
            writer: PcapNgWriter::with_section_header(out, section).map_err(io_error)?,
            interfaces: Vec::new(),
        };
        capture.writer.get_mut().flush()?;
        Ok(capture)
    }

    /// Writes one frame, and hands it on at once.
    ///
    /// # Errors
    /// `out` takes no more, or the frame is not in hexadecimal digits.
    pub fn write(&mut self, dropped: &DroppedFrame) -> std::io::Result<()> {
        let Some(data) = unhex(&dropped.frame) else {
            return Err(std::io::Error::other(
                "the agent sent a frame that is not in hexadecimal digits",
            ));
        };
        let interface_id = self.interface(dropped)?;
        let packet = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::new(dropped.at_s, dropped.at_ns),
            original_len: dropped.length.max(data.len() as u32),
            data: Cow::Owned(data),
            options: vec![EnhancedPacketOption::Comment(Cow::Owned(comment(dropped)))],
        };
        self.writer
            .write_block(&packet.into_block())
            .map_err(io_error)?;
        self.writer.get_mut().flush()
    }

    /// The number of the block of the frame's interface, which is written when it is the first.
    fn interface(&mut self, dropped: &DroppedFrame) -> std::io::Result<u32> {
        let known = self
            .interfaces
            .iter()
            .position(|(index, name)| (*index, name) == (dropped.ifindex, &dropped.interface));
        if let Some(number) = known {
            return Ok(number as u32);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: DROP_FRAME as u32,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(&dropped.interface)),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
            ],
        };
        self.writer
            .write_block(&block.into_block())
            .map_err(io_error)?;
        self.interfaces
            .push((dropped.ifindex, dropped.interface.clone()));
        Ok(self.interfaces.len() as u32 - 1)
    }
}

/// The reason in a line: `netmoat: drop tcp_flags (16), R-TCP-2, observed`.
pub fn comment(dropped: &DroppedFrame) -> String {
    let known = Reason::from_number(dropped.code).filter(|r| r.action() == Action::Drop);
    let mut text = format!("netmoat: drop {} ({})", dropped.reason, dropped.code);
    for rule in known.into_iter().flat_map(rules) {
        text = format!("{text}, {rule}");
    }
    if let Some(words) = dropped.share.as_deref().and_then(share_words) {
        text = format!("{text}, refused by {words}");
    }
    if dropped.observed {
        text += ", observed";
    }
    text
}

fn io_error(error: PcapError) -> std::io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => std::io::Error::other(other),
    }
}
