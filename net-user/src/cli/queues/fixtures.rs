//! What an agent could say, for tests.

use crate::config::SynMode;
use crate::control::protocol::VERSION;
use crate::control::queues::{
    AcceptWait, Bucket, Budget, Confidence, Fix, Funnel, Histogram, InterfaceLoss, ListenerQueues,
    ListenerSocket, Loss, NamedCount, Owner, Queues, Rates, Setting, SoftnetLoss, Source, States,
    TopSource, Verdict, VerdictKind,
};

/// 2000-02-29T00:00:00Z
const SINCE: u64 = 951_782_400;

pub(in crate::cli) fn verdict(kind: VerdictKind, sentence: &str) -> Verdict {
    Verdict {
        kind,
        since: SINCE,
        sentence: sentence.to_owned(),
        evidence: vec![],
        confidence: Confidence::High,
        fixes: vec![],
    }
}

/// An agent that says everything, of a listener where all is well.
pub(in crate::cli) fn web() -> ListenerQueues {
    let owner = |pid| Owner {
        pid,
        name: "nginx".to_owned(),
        unit: Some("nginx.service".to_owned()),
    };
    let socket = |inode, drops| ListenerSocket {
        inode,
        process: Some(owner(700 + inode)),
        accept_queue: 1,
        accept_queue_limit: 511,
        drops,
    };
    ListenerQueues {
        address: "0.0.0.0".to_owned(),
        port: 443,
        family: 4,
        mode: SynMode::Auto,
        protected: true,
        syn_queue: 1,
        syn_queue_limit: 511,
        syn_queue_oldest_ms: Some(1_250),
        accept_queue: 2,
        accept_queue_limit: 1_022,
        syns: 1_000,
        syns_passed: 100,
        cookies_sent: 900,
        cookies_proven: 850,
        cookies_failed: 3,
        handshakes: 850,
        sockets: vec![socket(11, 4), socket(12, 3)],
        rates: Rates {
            syns: 40,
            connections: 31,
            resets: 2,
            ..Rates::default()
        },
        funnel: Funnel {
            since_s: 90,
            syns: Some(1_000),
            answered_cookie: Some(900),
            left_to_kernel: Some(100),
            not_answered: Some(0),
            proven: Some(940),
            proven_cookie: Some(850),
            accepted: Some(938),
            closed: Some(600),
            reset: Some(8),
            open: Some(330),
        },
        states: Some(States {
            established: 300,
            fin_wait_1: 3,
            fin_wait_1_retransmitting: 2,
            close_wait: 7,
            close_wait_old: 5,
            time_wait: 41,
            ..States::default()
        }),
        handshake: Some(Histogram {
            count: 90,
            p50_us: Some(512),
            p90_us: Some(1_024),
            p99_us: Some(2_048),
            buckets: vec![
                Bucket {
                    below_us: 512,
                    count: 60,
                },
                Bucket {
                    below_us: 2_048,
                    count: 30,
                },
            ],
        }),
        accept_wait: Some(AcceptWait {
            mean_us: Some(850),
            oldest_ms: 3,
            histogram: Histogram::default(),
        }),
        syn_ack_retransmits: Some(6),
        established_late: Some(2),
        resets_received: None,
        distinct_sources: Some(37),
        top_sources: vec![TopSource {
            address: "192.0.2.7".to_owned(),
            per_mille: 125,
        }],
        budget: Some(Budget {
            milli_per_second: 100_000,
            configured_milli_per_second: 100_000,
            estimated_syn_queue: 1,
        }),
        settings: vec![Setting {
            name: "net.core.somaxconn".to_owned(),
            value: "4096".to_owned(),
            effect: "above the backlog of 511: no effect".to_owned(),
        }],
        syn_ack_schedule_ms: vec![1_000, 3_000, 7_000],
        half_open_life_ms: 63_000,
        verdicts: vec![verdict(VerdictKind::Healthy, "All is well.")],
        ..ListenerQueues::default()
    }
}

/// One whose application does not accept.
pub(in crate::cli) fn stuck() -> ListenerQueues {
    let mut verdict = verdict(
        VerdictKind::AcceptFull,
        "The application does not accept: 512 connections wait, and more are turned away.",
    );
    verdict.evidence = vec!["512 of 511 for 40 s".to_owned()];
    verdict.fixes = vec![Fix {
        what: "look at what the process waits for".to_owned(),
        command: Some("gdb -p 811".to_owned()),
    }];
    ListenerQueues {
        address: "::".to_owned(),
        port: 80,
        family: 6,
        dual_stack: true,
        mode: SynMode::Always,
        protected: true,
        cookies_now: true,
        syn_queue_limit: 511,
        accept_queue: 512,
        accept_queue_limit: 511,
        accept_full: true,
        cookies_sent: 12_345,
        accept_full_drops: 4,
        syn_ack_limited: 1,
        verdicts: vec![
            verdict,
            self::verdict(VerdictKind::CloseWaitLeak, "It closes nothing."),
        ],
        ..ListenerQueues::default()
    }
}

/// One that netmoat leaves alone, of an agent that gives no verdict.
pub(in crate::cli) fn left() -> ListenerQueues {
    ListenerQueues {
        address: "192.0.2.1".to_owned(),
        port: 22,
        family: 4,
        mode: SynMode::Off,
        why_not: Some("the config says off".to_owned()),
        syn_queue_limit: 128,
        accept_queue_limit: 128,
        ..ListenerQueues::default()
    }
}

/// The three, and what is missing.
pub(in crate::cli) fn queues() -> Queues {
    let mut queues = Queues {
        version: VERSION,
        listeners: vec![left(), web(), stuck()],
        sources: vec![
            Source {
                name: "resets".to_owned(),
                tells: "resets that peers sent".to_owned(),
                missing: Some("the kernel has no tcp_receive_reset".to_owned()),
                ..Source::default()
            },
            Source {
                name: "xdp".to_owned(),
                ..Source::default()
            },
        ],
        ..Queues::default()
    };
    queues.host.loss = Loss {
        interfaces: vec![InterfaceLoss {
            name: "eth0".to_owned(),
            lost: vec![NamedCount {
                name: "rx_dropped".to_owned(),
                count: 17,
            }],
            busiest_queue_per_mille: Some(946),
            ..InterfaceLoss::default()
        }],
        softnet: vec![SoftnetLoss {
            squeezed: 3,
            ..SoftnetLoss::default()
        }],
    };
    queues
}
