//! Close: who ended the connection, how, and what is left of it.

use std::{error::Error as _, io, time::Duration};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{
    Facts, Finding, Layer, Lines, Outcome, Stage, Walk,
    http::Open,
    tcp::{Socket, TcpInfo, TcpState},
};
use crate::host::sock_diag::Diag;

/// How long the other end is waited for. Nobody waits for a close but its measurement.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two looks at the socket's state, which tells no one when it changes.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// The details of an end.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CloseFacts {
    /// Who closed first.
    pub first: Closer,
    /// How it ended.
    pub how: How,
    /// The state of our end when all was over.
    pub state: TcpState,
    /// Who has to remember the connection for a while (RFC 9293 section 3.6).
    pub time_wait: TimeWait,
    /// From our FIN, or from the look that found the end, until the connection was over, microseconds; null when it was not over in time.
    pub took_us: Option<u64>,
    /// The connection as it was in the end.
    pub info: Option<TcpInfo>,
}

/// Who closed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closer {
    /// This end.
    Client,
    /// The other end.
    Server,
    /// It is not known.
    #[default]
    Unknown,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum How {
    /// A FIN from each side.
    Fin,
    /// A RST.
    Reset,
    /// By one of the two: the kernel does not tell whether it remembers the connection.
    Unknown,
    /// Our FIN was acknowledged, theirs has not come.
    HalfClosed,
    /// Our FIN was not acknowledged.
    #[default]
    NotAcknowledged,
}

/// Where TIME-WAIT is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeWait {
    /// Here: this end closed first.
    Here,
    /// There: the other end closed first.
    There,
    /// It is not known: the kernel does not list its sockets to us.
    Unknown,
    /// At neither: it was reset, or is not over.
    #[default]
    Nowhere,
}

impl CloseFacts {
    /// For people.
    pub fn lines(&self) -> Lines {
        let mut lines: Lines = vec![("how".into(), self.summary())];
        let left = match self.time_wait {
            TimeWait::Here => "TIME-WAIT here".to_owned(),
            TimeWait::There => "TIME-WAIT there".to_owned(),
            TimeWait::Unknown => "not known, as the kernel does not list its sockets".to_owned(),
            TimeWait::Nowhere => self.state.name().to_owned(),
        };
        lines.push(("left behind".into(), left));
        if let Some(info) = &self.info {
            lines.push((
                "in all".into(),
                format!(
                    "{} octets sent, {} received, {} segments sent again",
                    info.bytes_sent.saturating_sub(info.bytes_retransmitted),
                    info.bytes_received,
                    info.total_retransmits
                ),
            ));
        }
        lines
    }

    fn summary(&self) -> String {
        let who = match self.first {
            Closer::Client => "we closed first",
            Closer::Server => "the server closed first",
            Closer::Unknown => "closed",
        };
        match self.how {
            How::Fin => format!("{who} (FIN)"),
            How::Reset if self.first == Closer::Client => "reset (RST) when we closed".to_owned(),
            How::Reset => "reset by the server (RST)".to_owned(),
            How::Unknown => format!("{who}, by FIN or RST"),
            How::HalfClosed => "we closed, the server keeps its side open".to_owned(),
            How::NotAcknowledged => format!("{who}, and our FIN is not acknowledged"),
        }
    }
}

/// Ends the connection if the server has not, and looks at what is left. `open`: none when it ended already.
pub async fn end(walk: &Walk<'_>, socket: &Socket, open: Option<Open>) -> Stage {
    (walk.progress)("closing");
    let start = walk.now_us();
    let before = socket.info().ok();
    let mut reset = false;
    if let Some(open) = open {
        let closed = timeout(PATIENCE.min(walk.plan.timeout), open.close()).await;
        reset = closed.is_ok_and(|closed| closed.is_err_and(|error| is_reset(&error)));
    }
    // What owned the octets may have given them up without a FIN: this descriptor kept the connection.
    socket.shut();
    let over = ended(socket).await;
    let times = walk.since(start);
    let info = socket.info().ok();
    let time_wait = in_time_wait(socket).await;
    let mut facts = judge(before.as_ref(), info.as_ref(), time_wait, reset);
    facts.took_us = over.then_some(times.1);
    facts.info = info;
    let findings = findings(&facts).into_iter().collect();
    Stage::new(
        Layer::Close,
        times,
        facts.summary(),
        findings,
        Facts::Close(facts),
    )
}

/// Waits until both sides have closed, or it is clear that they will not soon.
async fn ended(socket: &Socket) -> bool {
    let until = Instant::now() + PATIENCE;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        match socket.info() {
            // TIME-WAIT is another, smaller socket: ours is CLOSED then.
            Ok(info) if info.state == TcpState::Closed => return true,
            Ok(_) if Instant::now() < until => {}
            _ => return false,
        }
    }
}

/// None where inet_diag does not answer: no such netlink, or seccomp.
async fn in_time_wait(socket: &Socket) -> Option<bool> {
    let (local, remote) = (socket.local, socket.remote);
    let look = move || Diag::open()?.is_in_time_wait(local, remote);
    let looked = tokio::task::spawn_blocking(look).await;
    looked.ok()?.ok()
}

/// Whether an error is a RST, at whatever depth it is reported.
fn is_reset(error: &io::Error) -> bool {
    let kind = |error: &io::Error| {
        matches!(
            error.kind(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        )
    };
    let mut inner = error
        .get_ref()
        .map(|inner| inner as &(dyn std::error::Error + 'static));
    let mut found = kind(error);
    while let Some(error) = inner {
        found |= error.downcast_ref().is_some_and(kind);
        inner = error.source();
    }
    found
        || error
            .source()
            .is_some_and(|e| e.downcast_ref().is_some_and(kind))
}

/// What it was, from the state before our close and after it.
fn judge(
    before: Option<&TcpInfo>,
    after: Option<&TcpInfo>,
    time_wait: Option<bool>,
    reset: bool,
) -> CloseFacts {
    let (Some(before), Some(after)) = (before, after) else {
        return CloseFacts::default();
    };
    let (time_wait_here, unknown) = (time_wait == Some(true), time_wait.is_none());
    let fin_acked = after.is_fin_acked();
    let over = after.state == TcpState::Closed;
    let first = match before.state {
        TcpState::Established | TcpState::FinWait1 | TcpState::FinWait2 => Closer::Client,
        state if state.has_their_fin() => Closer::Server,
        // It was over before this stage: who has to remember it closed first.
        _ if time_wait_here => Closer::Client,
        _ if fin_acked && !unknown => Closer::Server,
        _ => Closer::Unknown,
    };
    let how = match (over, first) {
        _ if time_wait_here => How::Fin,
        (true, Closer::Server) if fin_acked && !reset => How::Fin,
        (true, _) if unknown && fin_acked && !reset => How::Unknown,
        // An orderly end of ours leaves TIME-WAIT here: without it a RST came.
        (true, _) => How::Reset,
        (false, Closer::Client) if fin_acked => How::HalfClosed,
        (false, _) => How::NotAcknowledged,
    };
    // A RST that found the connection untouched is the server's.
    let first = match (how, before.state, first) {
        (How::Reset, TcpState::Closed, _) => Closer::Server,
        (_, _, first) => first,
    };
    CloseFacts {
        first,
        how,
        state: if time_wait_here {
            TcpState::TimeWait
        } else {
            after.state
        },
        time_wait: match (how, first) {
            _ if time_wait_here => TimeWait::Here,
            (How::Fin, Closer::Server) => TimeWait::There,
            (How::Unknown, _) => TimeWait::Unknown,
            _ => TimeWait::Nowhere,
        },
        took_us: None,
        info: None,
    }
}

fn findings(facts: &CloseFacts) -> Option<Finding> {
    let lost = facts.info.as_ref().is_some_and(|info| !info.is_all_acked());
    match facts.how {
        How::Fin | How::Unknown => None,
        How::Reset if lost => Some(
            // What was lost is not the request: that was answered, or the HTTP stage says what came instead.
            Finding::new(
                "close_reset",
                Outcome::Ok,
                "the server reset the connection (RST) before it had taken our last words",
            )
            .next("harmless after a whole page: a server that closes with our close_notify or GOAWAY unread resets (RFC 9112 section 9.6)"),
        ),
        How::Reset if facts.first == Closer::Client => Some(
            Finding::new(
                "close_reset",
                Outcome::Ok,
                "the server answered our close with a RST in place of a FIN; nothing that was sent is lost",
            )
            .next("harmless: a server that closes at once, with our last words (GOAWAY, close_notify) unread, resets (RFC 9112 section 9.6)"),
        ),
        How::Reset => Some(
            Finding::new(
                "close_reset",
                Outcome::Ok,
                "the connection ended with a RST in place of a FIN; nothing that was sent is lost",
            )
            .next("SO_LINGER 0, a firewall or a load balancer that ends idle connections so"),
        ),
        How::HalfClosed => Some(
            Finding::new(
                "close_half_open",
                Outcome::Ok,
                format!("the server has not closed its side {} s after ours", PATIENCE.as_secs()),
            )
            .next("connections that the application forgets stay there in CLOSE-WAIT: `netmoat queues` counts them"),
        ),
        How::NotAcknowledged if facts.state == TcpState::FinWait1 => Some(
            Finding::new(
                "close_silent",
                Outcome::Ok,
                format!("our FIN was not acknowledged within {} s", PATIENCE.as_secs()),
            )
            .next("the server went down, or the way to it was cut after the page had come"),
        ),
        How::NotAcknowledged => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: TcpState, acked: u64) -> TcpInfo {
        TcpInfo {
            state,
            bytes_sent: 100,
            bytes_acked: acked,
            ..TcpInfo::default()
        }
    }

    fn told(before: TcpInfo, after: TcpInfo, time_wait: bool) -> (Closer, How, TimeWait) {
        let facts = judge(Some(&before), Some(&after), Some(time_wait), false);
        (facts.first, facts.how, facts.time_wait)
    }

    #[test]
    fn who_closed_first_and_who_remembers_is_read_from_the_states() {
        let open = info(TcpState::Established, 101);
        let closed = info(TcpState::Closed, 102);
        assert_eq!(
            told(open, closed, true),
            (Closer::Client, How::Fin, TimeWait::Here)
        );
        let theirs = info(TcpState::CloseWait, 101);
        assert_eq!(
            told(theirs, closed, false),
            (Closer::Server, How::Fin, TimeWait::There)
        );
        assert_eq!(
            told(closed, closed, false),
            (Closer::Server, How::Fin, TimeWait::There),
            "over before"
        );
        assert_eq!(
            told(closed, closed, true),
            (Closer::Client, How::Fin, TimeWait::Here),
            "over before"
        );
    }

    #[test]
    fn a_reset_that_took_our_last_words_is_told_apart_and_harms_nobody() {
        let open = info(TcpState::Established, 101);
        for (acked, lost) in [(101, false), (41, true)] {
            let closed = info(TcpState::Closed, acked);
            let mut facts = judge(Some(&open), Some(&closed), Some(false), false);
            assert_eq!((facts.first, facts.how), (Closer::Client, How::Reset));
            facts.info = Some(closed);
            let finding = findings(&facts).expect("a finding");
            assert_eq!(
                (finding.code.as_str(), finding.outcome),
                ("close_reset", Outcome::Ok)
            );
            assert_eq!(finding.what.contains("our last words"), lost);
        }
        let found = told(
            info(TcpState::Closed, 101),
            info(TcpState::Closed, 101),
            false,
        );
        assert_eq!(found, (Closer::Server, How::Reset, TimeWait::Nowhere));
    }

    #[test]
    fn without_the_kernels_list_of_sockets_an_orderly_end_is_no_reset() {
        let open = info(TcpState::Established, 101);
        let theirs = info(TcpState::CloseWait, 101);
        let closed = |acked| info(TcpState::Closed, acked);
        for (before, after, reset, expected) in [
            (
                open,
                closed(102),
                false,
                (Closer::Client, How::Unknown, TimeWait::Unknown),
            ),
            (
                closed(102),
                closed(102),
                false,
                (Closer::Unknown, How::Unknown, TimeWait::Unknown),
            ),
            (
                theirs,
                closed(102),
                false,
                (Closer::Server, How::Fin, TimeWait::There),
            ),
            // What is known without it stays so.
            (
                open,
                closed(102),
                true,
                (Closer::Client, How::Reset, TimeWait::Nowhere),
            ),
            (
                open,
                closed(101),
                false,
                (Closer::Client, How::Reset, TimeWait::Nowhere),
            ),
        ] {
            let facts = judge(Some(&before), Some(&after), None, reset);
            assert_eq!((facts.first, facts.how, facts.time_wait), expected);
            let found = findings(&facts).map(|finding| finding.code);
            let reset = (expected.1 == How::Reset).then(|| "close_reset".to_owned());
            assert_eq!(found, reset);
        }
    }

    #[test]
    fn a_server_that_keeps_its_side_open_and_one_that_is_gone_are_told_apart() {
        let open = info(TcpState::Established, 101);
        let half = told(open, info(TcpState::FinWait2, 102), false);
        assert_eq!(half, (Closer::Client, How::HalfClosed, TimeWait::Nowhere));
        let gone = told(open, info(TcpState::FinWait1, 101), false);
        assert_eq!(
            gone,
            (Closer::Client, How::NotAcknowledged, TimeWait::Nowhere)
        );
    }

    #[test]
    fn a_reset_is_found_inside_other_errors() {
        let reset = || io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(is_reset(&reset()));
        assert!(is_reset(&io::Error::other(reset())));
        assert!(!is_reset(&io::Error::other("timed out")));
    }
}
