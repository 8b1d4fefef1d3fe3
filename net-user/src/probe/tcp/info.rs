//! What the kernel tells of a TCP socket (`struct tcp_info`, `linux/tcp.h`; `tcp_get_info`, `net/ipv4/tcp.c`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _},
};

use netlink_bindings::inet_diag::TcpInfo as Raw;
use nix::libc;
use serde::{Deserialize, Serialize};

/// Bits of `tcpi_options` (`TCPI_OPT_*`).
const TIMESTAMPS: u8 = 1;
const SACK: u8 = 2;
const WINDOW_SCALE: u8 = 4;
const ECN: u8 = 8;
const SYN_DATA: u8 = 32;

/// The state of a TCP socket (`TCP_*` of `net/tcp_states.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "RFC 9293 section 3.3.2 names them")]
pub enum TcpState {
    Established,
    SynSent,
    SynReceived,
    FinWait1,
    FinWait2,
    TimeWait,
    #[default]
    Closed,
    CloseWait,
    LastAck,
    Listen,
    Closing,
}

impl TcpState {
    /// From the kernel's number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Established,
            2 => Self::SynSent,
            // 12 is a request socket (`TCP_NEW_SYN_RECV`).
            3 | 12 => Self::SynReceived,
            4 => Self::FinWait1,
            5 => Self::FinWait2,
            6 => Self::TimeWait,
            8 => Self::CloseWait,
            9 => Self::LastAck,
            10 => Self::Listen,
            11 => Self::Closing,
            _ => Self::Closed,
        }
    }

    /// As RFC 9293 writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Established => "ESTABLISHED",
            Self::SynSent => "SYN-SENT",
            Self::SynReceived => "SYN-RECEIVED",
            Self::FinWait1 => "FIN-WAIT-1",
            Self::FinWait2 => "FIN-WAIT-2",
            Self::TimeWait => "TIME-WAIT",
            Self::Closed => "CLOSED",
            Self::CloseWait => "CLOSE-WAIT",
            Self::LastAck => "LAST-ACK",
            Self::Listen => "LISTEN",
            Self::Closing => "CLOSING",
        }
    }

    /// Whether the other end's FIN has come.
    pub const fn has_their_fin(self) -> bool {
        matches!(
            self,
            Self::CloseWait | Self::LastAck | Self::Closing | Self::TimeWait
        )
    }
}

/// One look at a TCP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpInfo {
    /// Its state.
    pub state: TcpState,
    /// Time-outs in a row without an acknowledgement (`icsk_retransmits`).
    pub retransmits: u8,
    /// How often the retransmission timer was doubled.
    pub backoff: u8,
    /// Both sides send timestamps (RFC 7323 section 3).
    pub timestamps: bool,
    /// Selective acknowledgements were agreed on (RFC 2018).
    pub sack: bool,
    /// Windows are scaled (RFC 7323 section 2).
    pub window_scaling: bool,
    /// Explicit congestion notification was agreed on (RFC 3168 section 6.1.1).
    pub ecn: bool,
    /// Data in the SYN was acknowledged (TCP Fast Open, RFC 7413).
    pub syn_data: bool,
    /// Shift of the windows that the other end advertises.
    pub send_window_scale: u8,
    /// Shift of the windows that we advertise.
    pub receive_window_scale: u8,
    /// Until the next retransmission, were something sent now, microseconds.
    pub rto_us: u32,
    /// Octets of data a segment that we send, without options.
    pub send_mss: u32,
    /// The same of what we receive, as estimated from what came.
    pub receive_mss: u32,
    /// What we let the other end send, less the options that every segment has.
    pub advertised_mss: u32,
    /// The path MTU, octets, as the kernel knows it.
    pub path_mtu: u32,
    /// Segments that were sent and not acknowledged.
    pub unacked: u32,
    /// Segments that were sent again since the beginning, SYNs among them.
    pub total_retransmits: u32,
    /// The smoothed round trip time, microseconds; 0 before the first sample.
    pub rtt_us: u32,
    /// Its variation, microseconds.
    pub rtt_variation_us: u32,
    /// The least that was measured, microseconds.
    pub min_rtt_us: u32,
    /// Since the last acknowledgement came, milliseconds.
    pub last_ack_received_ms: u32,
    /// Since the last data came, milliseconds.
    pub last_data_received_ms: u32,
    /// Octets that the other end acknowledged, the SYN as one (RFC 4898 tcpEStatsAppHCThruOctetsAcked).
    pub bytes_acked: u64,
    /// Octets of data that came in order; a FIN counts as one.
    pub bytes_received: u64,
    /// Octets of data that were sent, repetitions among them.
    pub bytes_sent: u64,
    /// Of these repetitions.
    pub bytes_retransmitted: u64,
    /// Segments that came while an earlier one was missing.
    pub out_of_order: u32,
    /// Segments that were sent.
    pub segments_out: u32,
    /// Segments that came.
    pub segments_in: u32,
    /// Of these with data.
    pub data_segments_in: u32,
    /// Sent again although it had arrived (RFC 2883).
    pub duplicates_reported: u32,
    /// The window that the other end advertised last, octets.
    pub send_window: u32,
}

impl TcpInfo {
    /// Asks the kernel.
    ///
    /// # Errors
    /// It is no TCP socket.
    pub fn of(socket: impl AsFd) -> io::Result<Self> {
        let mut buffer = [0_u8; Raw::len()];
        let mut len = buffer.len() as libc::socklen_t;
        // SAFETY: the pointers are to `buffer` and to its length, which outlive the call; the kernel writes no more than that.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                buffer.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        // An older kernel tells less: what is missing reads as 0.
        Ok(Self::from(&Raw::new_from_array(buffer)))
    }
}

impl TcpInfo {
    /// Whether all data that was sent has arrived, as far as it was acknowledged.
    pub const fn is_all_acked(&self) -> bool {
        self.bytes_acked > self.bytes_sent.saturating_sub(self.bytes_retransmitted)
    }

    /// Whether our FIN was acknowledged, too: it and the SYN count as an octet each (RFC 9293 section 3.4).
    pub const fn is_fin_acked(&self) -> bool {
        self.bytes_acked > self.bytes_sent.saturating_sub(self.bytes_retransmitted) + 1
    }
}

impl From<&Raw> for TcpInfo {
    fn from(raw: &Raw) -> Self {
        let has = |bit| raw.options & bit != 0;
        Self {
            state: TcpState::from_number(raw.state),
            retransmits: raw.retransmits,
            backoff: raw.backoff,
            timestamps: has(TIMESTAMPS),
            sack: has(SACK),
            window_scaling: has(WINDOW_SCALE),
            ecn: has(ECN),
            syn_data: has(SYN_DATA),
            send_window_scale: raw.snd_wscale(),
            receive_window_scale: raw.rcv_wscale(),
            rto_us: raw.rto,
            send_mss: raw.snd_mss,
            receive_mss: raw.rcv_mss,
            advertised_mss: raw.advmss,
            path_mtu: raw.pmtu,
            unacked: raw.unacked,
            total_retransmits: raw.total_retrans,
            rtt_us: raw.rtt,
            rtt_variation_us: raw.rttvar,
            min_rtt_us: raw.min_rtt,
            last_ack_received_ms: raw.last_ack_recv,
            last_data_received_ms: raw.last_data_recv,
            bytes_acked: raw.bytes_acked,
            bytes_received: raw.bytes_received,
            bytes_sent: raw.bytes_sent,
            bytes_retransmitted: raw.bytes_retrans,
            out_of_order: raw.rcv_ooopack,
            segments_out: raw.segs_out,
            segments_in: raw.segs_in,
            data_segments_in: raw.data_segs_in,
            duplicates_reported: raw.dsack_dups,
            send_window: raw.snd_wnd,
        }
    }
}

/// What was sent over a connection and is not acknowledged although it was sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Segments without an acknowledgement.
    pub unacked: u32,
    /// Time-outs in a row.
    pub retransmits: u8,
    /// How often the retransmission timer was doubled.
    pub backoff: u8,
    /// Since the other end acknowledged anything, milliseconds.
    pub for_ms: u32,
    /// Nothing that we sent after the handshake was ever acknowledged, and no data came: for the server the connection may
    /// not be there at all (its accept queue was full, or the way back is cut).
    pub from_the_start: bool,
}

impl Silence {
    /// Reads it out of a look at the socket; `None` while the other end answers.
    pub fn of(info: &TcpInfo) -> Option<Self> {
        let open = !matches!(
            info.state,
            TcpState::SynSent | TcpState::Listen | TcpState::TimeWait
        );
        (open && info.unacked > 0 && (info.retransmits > 0 || info.backoff > 0)).then_some(Self {
            unacked: info.unacked,
            retransmits: info.retransmits,
            backoff: info.backoff,
            for_ms: info.last_ack_received_ms,
            // Our SYN is the one octet that was acknowledged.
            from_the_start: info.bytes_acked <= 1 && info.bytes_received == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_is_read_as_the_kernel_has_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let stream = TcpStream::connect(listener.local_addr().expect("its address"))
            .expect("a connection to it");
        let info = TcpInfo::of(&stream).expect("TCP_INFO");
        assert_eq!(info.state, TcpState::Established);
        assert_eq!((info.unacked, info.total_retransmits), (0, 0));
        assert!(
            info.path_mtu > 1000 && info.advertised_mss > 1000,
            "{info:?}"
        );
        assert_eq!(Silence::of(&info), None);
        assert_eq!(
            TcpInfo::of(&listener).expect("TCP_INFO").state,
            TcpState::Listen
        );
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP socket");
        assert!(TcpInfo::of(&udp).is_err());
    }

    #[test]
    fn data_sent_again_without_an_answer_is_silence() {
        let mut info = TcpInfo {
            state: TcpState::Established,
            unacked: 1,
            bytes_acked: 1,
            last_ack_received_ms: 700,
            ..TcpInfo::default()
        };
        assert_eq!(Silence::of(&info), None, "sent once only");
        (info.retransmits, info.backoff) = (2, 2);
        let silence = Silence::of(&info).expect("sent again");
        assert_eq!((silence.retransmits, silence.for_ms), (2, 700));
        assert!(silence.from_the_start);
        info.bytes_acked = 100;
        assert!(!Silence::of(&info).expect("sent again").from_the_start);
        info.unacked = 0;
        assert_eq!(Silence::of(&info), None, "all acknowledged");
    }
}
