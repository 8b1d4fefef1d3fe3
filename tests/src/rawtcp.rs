//! A TCP peer without a kernel behind it: it sends what the test says and answers nothing by itself.

use std::{
    cell::RefCell,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use nix::{
    libc,
    sys::socket::{MsgFlags, recv, send},
};

use crate::{
    frames::{Envelope, segment},
    link,
    prog_run::{ack, linux_syn},
    topology::Host,
    wait,
};

/// How long an answer may take on a busy machine.
const ANSWER: Duration = Duration::from_secs(10);

/// A segment that the peer received.
#[derive(Clone, Debug)]
pub struct Segment {
    /// Its header.
    pub tcp: TcpHeader,
    /// Its data.
    pub data: Vec<u8>,
}

/// A peer on a host's interface, with an address that the host's own kernel does not have and so never
/// answers for.
pub struct RawPeer {
    socket: OwnedFd,
    envelope: Envelope,
    macs: [u8; 12],
    port: u16,
    inbox: RefCell<Vec<Segment>>,
}

impl RawPeer {
    /// A peer on the interface of `host` that talks to a port of `target`. There is one for a family.
    ///
    /// # Errors
    /// Not root.
    pub fn new(host: &Host, target: &Host, family: u8, port: u16) -> Result<Self> {
        let own: IpAddr = if family == 4 {
            "198.18.0.200".parse()?
        } else {
            "2001:2::c8".parse()?
        };
        // Nobody would answer for the address.
        let (mac, dev) = (link::text(host.link.mac), &target.link.name);
        target.ns.ip(&format!(
            "neigh replace {own} lladdr {mac} dev {dev} nud permanent"
        ))?;
        let envelope = if family == 4 {
            Envelope::V4
        } else {
            Envelope::V6
        };
        let mut macs = [0; 12];
        macs[..6].copy_from_slice(&target.link.mac);
        macs[6..].copy_from_slice(&host.link.mac);
        Ok(Self {
            socket: host.ns.run(|| packet_socket(host.link.ifindex))?,
            envelope: envelope.from(own).to(target.ip(family)),
            macs,
            port,
            inbox: RefCell::default(),
        })
    }

    /// Its address with a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.envelope.src, port)
    }

    /// Sends a segment as it is; only the checksum is made.
    ///
    /// # Errors
    /// The interface is down.
    pub fn send(&self, tcp: &TcpHeader, data: &[u8]) -> Result<()> {
        let mut frame = self.envelope.tcp(tcp, data);
        frame[..12].copy_from_slice(&self.macs);
        let sent = send(self.socket.as_raw_fd(), &frame, MsgFlags::empty())?;
        ensure!(sent == frame.len(), "sent {sent} octets of {}", frame.len());
        Ok(())
    }

    /// A SYN from a port of the peer, as Linux sends it.
    pub fn syn(&self, port: u16) -> TcpHeader {
        // Any initial sequence number does; one near the end of the space wraps.
        let mut syn = linux_syn(port, u32::MAX - u32::from(port));
        syn.destination_port = self.port;
        syn
    }

    /// A segment with these flags, without options.
    pub fn segment(&self, port: u16, seq: u32, letters: &str) -> TcpHeader {
        segment(port, self.port, seq, letters)
    }

    /// Sends a SYN and waits for the SYN-ACK.
    ///
    /// # Errors
    /// None comes.
    pub fn syn_ack(&self, syn: &TcpHeader) -> Result<TcpHeader> {
        self.send(syn, &[])?;
        let seq = syn.sequence_number.wrapping_add(1);
        let answer = self.receive("a SYN-ACK", syn.source_port, |s| {
            s.tcp.syn && s.tcp.ack && s.tcp.acknowledgment_number == seq
        })?;
        Ok(answer.tcp)
    }

    /// Opens a connection from a port; the ACK that completed it.
    ///
    /// # Errors
    /// No SYN-ACK comes.
    pub fn connect(&self, port: u16) -> Result<TcpHeader> {
        let syn = self.syn(port);
        let ack = ack(&syn, &self.syn_ack(&syn)?);
        self.send(&ack, &[])?;
        Ok(ack)
    }

    /// Takes the next segment to a port that is as wanted; those before it are kept.
    ///
    /// # Errors
    /// None comes.
    pub fn receive(
        &self,
        what: &str,
        port: u16,
        want: impl Fn(&Segment) -> bool,
    ) -> Result<Segment> {
        self.receive_within(ANSWER, what, port, want)
    }

    /// As [`Self::receive`], with another patience.
    ///
    /// # Errors
    /// None comes.
    pub fn receive_within(
        &self,
        timeout: Duration,
        what: &str,
        port: u16,
        want: impl Fn(&Segment) -> bool,
    ) -> Result<Segment> {
        let what = format!("{what} to port {port} of the raw peer");
        wait::until_some(&what, timeout, || {
            self.drain();
            let mut inbox = self.inbox.borrow_mut();
            let found = inbox
                .iter()
                .position(|s| s.tcp.destination_port == port && want(s))?;
            Some(inbox.remove(found))
        })
        .with_context(|| format!("it has received {:#?}", self.inbox.borrow()))
    }

    /// What has come to a port by now and was not taken.
    pub fn received(&self, port: u16) -> Vec<Segment> {
        self.drain();
        self.inbox
            .borrow()
            .iter()
            .filter(|s| s.tcp.destination_port == port)
            .cloned()
            .collect()
    }

    fn drain(&self) {
        let mut frame = vec![0; 1 << 16];
        while let Ok(len) = recv(self.socket.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
            self.inbox.borrow_mut().extend(self.read(&frame[..len]));
        }
    }

    /// A TCP segment to the peer's address. Checksums of the neighbour's kernel are not complete on a veth.
    fn read(&self, frame: &[u8]) -> Option<Segment> {
        let sliced = SlicedPacket::from_ethernet(frame).ok()?;
        let to: IpAddr = match &sliced.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().destination_addr().into(),
            Some(NetSlice::Ipv6(ip)) => ip.header().destination_addr().into(),
            _ => return None,
        };
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else {
            return None;
        };
        (to == self.envelope.src).then(|| Segment {
            tcp: tcp.to_header(),
            data: tcp.payload().to_vec(),
        })
    }
}

/// An AF_PACKET socket on one interface.
pub(crate) fn packet_socket(ifindex: u32) -> Result<OwnedFd> {
    let protocol = (libc::ETH_P_ALL as u16).to_be();
    // SAFETY: `socket` takes three integers and touches no memory of ours.
    let fd = unsafe {
        libc::socket(
            libc::AF_PACKET,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC,
            protocol.into(),
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error()).context("no packet socket (are you root?)");
    }
    // SAFETY: `fd` was just opened, is valid, and nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol,
        sll_ifindex: ifindex.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    ensure!(
        bound == 0,
        "the packet socket cannot be bound: {}",
        io::Error::last_os_error()
    );
    Ok(socket)
}
