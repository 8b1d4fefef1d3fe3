//! What only the later stages bring to light of a connection: a handshake that ended here and not there.

use std::net::SocketAddr;

use super::{Socket, judge};
use crate::{
    host::sock_diag::{Diag, ListenSocket},
    probe::{Facts, Finding, Layer, Outcome, Stage},
};

/// Adds to the TCP stage what a later stage, which has failed, shows of the connection. To be called before the connection is
/// closed, when the stages are there.
pub async fn look_back(socket: &Socket, stages: &mut [Stage]) {
    let failed = |stage: &Stage| {
        matches!(stage.layer, Layer::Tls | Layer::Http) && stage.outcome == Outcome::Failed
    };
    if !stages.iter().any(failed) {
        return;
    }
    let Some(finding) = what_is_wrong(socket).await else {
        return;
    };
    if let Some(stage) = stages.iter_mut().rfind(|stage| stage.layer == Layer::Tcp) {
        if let (Facts::Tcp(facts), Ok(info)) = (&mut stage.facts, socket.info()) {
            facts.afterwards = Some(Box::new(info));
        }
        stage.add(finding);
    }
}

async fn what_is_wrong(socket: &Socket) -> Option<Finding> {
    let info = socket.info().ok()?;
    let remote = socket.remote;
    if let Some(silence) = socket.silence() {
        let waited = judge::seconds(u64::from(silence.for_ms) * 1000);
        if silence.from_the_start {
            if let Some(full) = full_here(socket.local, remote).await {
                return Some(accept_queue_full(
                    &remote.to_string(),
                    full.port,
                    (full.accept_queue, full.accept_limit),
                ));
            }
            let what = format!(
                "{remote} answered the SYN, but acknowledges nothing of what was sent then, {} times in {waited}",
                u32::from(silence.retransmits) + 1
            );
            return Some(Finding::new("tcp_silent", Outcome::Failed, what).next(
                "there the connection does not exist: its accept queue may be full (`ss -ltn` or `netmoat queues` at the server: Recv-Q above Send-Q), or something between takes the ACK",
            ));
        }
        let what = format!(
            "{remote} acknowledges nothing since {waited}, although {} segments were sent again {} times",
            silence.unacked, silence.retransmits
        );
        return Some(Finding::new("tcp_silent", Outcome::Failed, what).next(
            "the host went down or the way was cut in mid-connection; if only big segments are lost, an MTU on the way is too small and its ICMP is filtered",
        ));
    }
    // Segments out of order and none in order: the first ones of the answer are the big ones. Whoever gave up may have closed.
    (info.out_of_order > 0 && info.bytes_received == 0).then(|| {
        let what = format!(
            "the end of the answer of {remote} came, its beginning never did ({} segments out of order, none in order)",
            info.out_of_order
        );
        Finding::new("tcp_mtu_black_hole", Outcome::Failed, what).next(
            "big packets are lost and small ones pass: a link on the way has a smaller MTU and its ICMP is filtered (RFC 2923); lower the MTU or clamp the MSS there",
        )
    })
}

/// The listener on this very host with a full accept queue, if the connection went to one.
pub(super) async fn full_here(local: SocketAddr, remote: SocketAddr) -> Option<ListenSocket> {
    let here = local.ip() == remote.ip() || remote.ip().to_canonical().is_loopback();
    if !here {
        return None;
    }
    let listeners = tokio::task::spawn_blocking(|| Diag::open()?.listeners());
    let listeners = listeners.await.ok()?.ok()?;
    judge::full_listener(&listeners, remote).cloned()
}

/// The finding for a connection that has no room in the accept queue of the listener at `place`, where `waiting` wait of
/// `limit` (which holds one more, R-Q-1): its SYN or its ACK is dropped (`tcp_conn_request`, `tcp_v4_syn_recv_sock`).
pub fn accept_queue_full(place: &str, port: u16, (waiting, limit): (u32, u32)) -> Finding {
    let what = format!(
        "the accept queue of {place} is full ({waiting} wait, limit {limit}): its application does not take new connections"
    );
    Finding::new("accept_queue_full", Outcome::Failed, what).next(format!(
        "the application hangs or is too slow to accept(): see what it does (`netmoat queues {port}` there); a longer queue (backlog, net.core.somaxconn) only helps against bursts"
    ))
}
