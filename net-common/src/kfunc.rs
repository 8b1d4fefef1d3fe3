//! What the programs and the loader agree on about kernel functions.

/// Stands in the object where `bpf_sk_assign_tcp_reqsk` is called, until the loader replaces it.
pub const BPF_SK_ASSIGN_TCP_REQSK: u32 = 0x4b46_0001;

/// `struct bpf_tcp_req_attrs` (Linux 6.9, include/net/tcp.h). All host byte order.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpReqAttrs {
    /// Client's timestamp of the ACK.
    pub rcv_tsval: u32,
    /// Our timestamp that the client echoed; the connection's clock goes on from it.
    pub rcv_tsecr: u32,
    /// Client's MSS, octets.
    pub mss: u16,
    /// Our window scale.
    pub rcv_wscale: u8,
    /// Client's window scale.
    pub snd_wscale: u8,
    /// 1 when ECN was agreed.
    pub ecn_ok: u8,
    /// 1 when window scaling was agreed.
    pub wscale_ok: u8,
    /// 1 when SACK was agreed.
    pub sack_ok: u8,
    /// 1 when timestamps were agreed.
    pub tstamp_ok: u8,
    /// `usec_ts_ok` (timestamps in microseconds) and three reserved octets, all zero: one word, because
    /// three octets become a call of memset.
    pub usec_ts_ok_and_reserved: u32,
}

const _: () = assert!(size_of::<TcpReqAttrs>() == 20);
