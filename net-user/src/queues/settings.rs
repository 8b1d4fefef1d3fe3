//! The kernel's settings, and what each does to one listener (R-SYN-0, R-Q-1 to R-Q-8).

use std::time::Duration;

use super::{looks::QueueSettings, words::time};
use crate::control::queues::{ListenerQueues, Setting};

/// First time-out of a SYN-ACK (`TCP_TIMEOUT_INIT`); it doubles with each (R-Q-5).
const FIRST: Duration = Duration::from_secs(1);
/// The longest (`TCP_RTO_MAX`).
const LONGEST: Duration = Duration::from_secs(120);

/// When an unanswered SYN-ACK is sent again, after the first.
pub(super) fn schedule(retries: u32) -> Vec<Duration> {
    let mut at = Duration::ZERO;
    let mut wait = FIRST;
    let mut times = Vec::new();
    // tcp_synack_retries is at most 255.
    for _ in 0..retries.min(255) {
        at += wait;
        times.push(at);
        wait = (wait * 2).min(LONGEST);
    }
    times
}

/// How long a half-open connection lives that is never answered: until the time-out after the last SYN-ACK.
pub(super) fn life(retries: u32) -> Duration {
    schedule(retries.min(255) + 1)
        .last()
        .copied()
        .unwrap_or(FIRST)
}

/// What each setting does to this listener.
pub(super) fn effects(settings: &QueueSettings, queues: &ListenerQueues) -> Vec<Setting> {
    let setting = |name: &str, value: String, effect: String| Setting {
        name: name.to_owned(),
        value,
        effect,
    };
    // Of a group the shortest is the first to be full.
    let limits = queues
        .sockets
        .iter()
        .map(|socket| socket.accept_queue_limit);
    let backlog = limits.min().unwrap_or(queues.accept_queue_limit);
    let retries = settings.synack_retries;
    vec![
        setting(
            "net.core.somaxconn",
            settings.somaxconn.to_string(),
            somaxconn(settings.somaxconn, backlog),
        ),
        setting(
            "net.ipv4.tcp_max_syn_backlog",
            settings.max_syn_backlog.to_string(),
            max_syn_backlog(settings, backlog),
        ),
        setting("net.ipv4.tcp_synack_retries", retries.to_string(), synack_retries(retries, queues)),
        setting("net.ipv4.tcp_syncookies", settings.syncookies.to_string(), syncookies(settings, queues)),
        setting(
            "net.ipv4.tcp_abort_on_overflow",
            u8::from(settings.abort_on_overflow).to_string(),
            if settings.abort_on_overflow {
                "clients that complete a handshake while the accept queue is full are reset, even if it has room a moment later"
            } else {
                "clients that complete a handshake while the accept queue is full stay half-open, and may get in later"
            }
            .to_owned(),
        ),
        setting("net.ipv4.tcp_fin_timeout", settings.fin_timeout.to_string(), fin_timeout(settings, queues)),
        setting(
            "net.ipv4.tcp_max_tw_buckets",
            settings.max_tw_buckets.to_string(),
            max_tw_buckets(settings, queues),
        ),
    ]
}

fn somaxconn(somaxconn: u32, backlog: u32) -> String {
    match backlog.cmp(&somaxconn) {
        std::cmp::Ordering::Less => format!(
            "does not limit this listener: its backlog of {backlog} is below it, as the application asked for {backlog}"
        ),
        std::cmp::Ordering::Equal => format!(
            "limits this listener: its backlog of {backlog} equals it; raised, it holds once the application calls listen() \
             again"
        ),
        std::cmp::Ordering::Greater => format!(
            "was lowered since this listener called listen(): its backlog of {backlog} is kept until it does so again"
        ),
    }
}

fn max_syn_backlog(settings: &QueueSettings, backlog: u32) -> String {
    let kept = settings.max_syn_backlog - settings.max_syn_backlog / 4;
    match settings.syncookies {
        0 if kept < backlog => format!(
            "limits the SYN queue: beyond {kept} half-open the last quarter is for peers that the kernel knows, as cookies are off"
        ),
        0 => format!(
            "does not limit the SYN queue: its limit of {backlog}, that of the accept queue, is lower"
        ),
        _ => format!(
            "does not matter while tcp_syncookies is on: the SYN queue has the limit of the accept queue, {backlog}"
        ),
    }
}

fn synack_retries(retries: u32, queues: &ListenerQueues) -> String {
    let shown: Vec<_> = schedule(retries)
        .iter()
        .take(8)
        .map(|at| at.as_secs().to_string())
        .collect();
    let mut text = match shown.is_empty() {
        true => "an unanswered SYN-ACK is never sent again".to_owned(),
        false => format!(
            "an unanswered SYN-ACK is sent again after {} s",
            shown.join(", ")
        ),
    };
    text += &format!("; a half-open connection lives {}", time(life(retries)));
    // `reqsk_timer_handler`: twice the queue's length against the limit, or 8.
    if retries > 2 && u64::from(queues.syn_queue) * 2 > u64::from(queues.syn_queue_limit.max(8)) {
        text += &format!(
            "; now, with the SYN queue more than half full, the kernel gives up earlier, after {} at the least",
            time(life(2))
        );
    }
    text
}

fn syncookies(settings: &QueueSettings, queues: &ListenerQueues) -> String {
    let mut text = match settings.syncookies {
        0 => "the kernel sends no cookies and takes none: a full SYN queue drops SYNs",
        1 => "the kernel answers with cookies when the SYN queue is full",
        _ => "the kernel answers every SYN with a cookie, and loses TCP options where clients have no timestamps",
    }
    .to_owned();
    if settings.syncookies == 0 {
        text += "; netmoat's cookies need it as well";
    } else if queues.protected {
        text += "; netmoat answers before it comes to that";
    }
    text + "; a full accept queue it does not help"
}

fn fin_timeout(settings: &QueueSettings, queues: &ListenerQueues) -> String {
    let mut text = format!(
        "connections that the application closed and whose peer does not (FIN_WAIT_2 without a process) end after {} s; \
         nothing else depends on it",
        settings.fin_timeout
    );
    if let Some(states) = queues
        .states
        .filter(|states| states.fin_wait_2_orphaned > 0)
    {
        text += &format!("; {} now", states.fin_wait_2_orphaned);
    }
    text
}

fn max_tw_buckets(settings: &QueueSettings, queues: &ListenerQueues) -> String {
    let here = queues.states.map_or(0, |states| states.time_wait);
    format!(
        "TIME_WAIT, of all listeners together, is skipped beyond {}; {here} are of this one, each for 60 s",
        settings.max_tw_buckets
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(settings: &QueueSettings, queues: &ListenerQueues, name: &str) -> String {
        let all = effects(settings, queues);
        let found = all.iter().find(|s| s.name.ends_with(name)).unwrap();
        found.effect.clone()
    }

    #[test]
    fn r_q_5_a_half_open_connection_lives_63_seconds_with_five_retries_and_7_with_two() {
        let seconds =
            |retries| -> Vec<u64> { schedule(retries).iter().map(Duration::as_secs).collect() };
        assert_eq!(seconds(5), [1, 3, 7, 15, 31]);
        assert_eq!(seconds(0), [0_u64; 0]);
        for (retries, life_s) in [(0, 1), (1, 3), (2, 7), (5, 63), (6, 127), (7, 247)] {
            assert_eq!(life(retries).as_secs(), life_s, "{retries} retries");
        }
        let settings = QueueSettings {
            synack_retries: 5,
            ..QueueSettings::default()
        };
        for (half_open, shortened) in [(50, false), (51, true)] {
            let queues = ListenerQueues {
                syn_queue: half_open,
                syn_queue_limit: 100,
                ..ListenerQueues::default()
            };
            let text = effect(&settings, &queues, "synack_retries");
            assert!(
                text.contains("1, 3, 7, 15, 31 s; a half-open connection lives 63 s"),
                "{text}"
            );
            assert_eq!(text.contains("gives up earlier"), shortened, "{text}");
        }
    }

    #[test]
    fn r_q_1_somaxconn_limits_only_a_backlog_that_equals_it() {
        let settings = QueueSettings {
            somaxconn: 4096,
            ..QueueSettings::default()
        };
        for (backlog, says) in [
            (128, "the application asked for 128"),
            (4096, "limits this listener"),
            (8192, "was lowered since"),
        ] {
            let queues = ListenerQueues {
                accept_queue_limit: backlog,
                ..ListenerQueues::default()
            };
            let text = effect(&settings, &queues, "somaxconn");
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn r_q_2_tcp_max_syn_backlog_matters_only_without_cookies() {
        for (syncookies, max, says) in [
            (1, 128, "does not matter"),
            (0, 128, "beyond 96 half-open"),
            (0, 65_536, "does not limit"),
        ] {
            let settings = QueueSettings {
                syncookies,
                max_syn_backlog: max,
                ..QueueSettings::default()
            };
            let queues = ListenerQueues {
                accept_queue_limit: 511,
                ..ListenerQueues::default()
            };
            let text = effect(&settings, &queues, "max_syn_backlog");
            assert!(text.contains(says), "{text}");
        }
    }
}
