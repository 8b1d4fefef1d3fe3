use std::io::Read as _;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::termios::{LocalFlags, tcgetattr};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::feed::Look;
use super::*;
use crate::cli::queues::fixtures::{queues, verdict};
use crate::config::Mode;
use crate::control::protocol::{Counters, Health, Status, VERSION};
use crate::control::queues::{ListenerQueues, Queues, VerdictKind};
use net_common::verdict::{COUNTERS, Reason};

const NONE: [u64; COUNTERS as usize] = [0; COUNTERS as usize];
const PLAIN: Paint = Paint {
    unicode: false,
    colour: false,
};
const RICH: Paint = Paint {
    unicode: true,
    colour: true,
};

fn look(at_s: u64, queues: Queues, cells: &[u64]) -> Look {
    Look {
        at_ms: at_s * 1_000,
        status: Status {
            version: VERSION,
            netmoat_version: "0.1.0".to_owned(),
            pid: 1,
            uptime_s: 5,
            mode: Mode::Enforce,
            health: Health::Ok,
            problems: vec![],
            interfaces: vec![],
            listeners_protected: 2,
            listeners_left_to_kernel: 1,
            cookies_active: true,
            keys_age_s: 5,
            neighbors: Default::default(),
            guards: Default::default(),
            lists: Default::default(),
            drops: Default::default(),
            privileges: Default::default(),
            interfaces_missing: vec![],
            notes: vec![],
            drift: Default::default(),
            data_path_alive: true,
            maps: vec![],
            pending: None,
            probes: crate::control::probes::ProbesAtAGlance::default(),
        },
        queues,
        counters: Counters::from_cells(cells),
    }
}

/// A host with three listeners, looked at twice, two seconds apart.
fn state(paint: Paint) -> State {
    let mut state = State::new("web1".to_owned(), paint);
    let mut cells = NONE;
    state.take(look(951_782_400, queues(), &cells));
    cells[Reason::TcpFlags as usize] = 240;
    cells[Reason::CookieSent as usize] = 999;
    let mut later = look(951_782_402, queues(), &cells);
    later.status.drops.enforced.per_second = 120;
    state.take(later);
    state
}

fn drawn(state: &State, width: u16, height: u16) -> Terminal<TestBackend> {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, state)).unwrap();
    terminal
}

fn screen(state: &State, width: u16, height: u16) -> Vec<String> {
    let terminal = drawn(state, width, height);
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(move |x| buffer[(x, y)].symbol());
    (0..height)
        .map(|y| row(y).collect::<String>().trim_end().to_owned())
        .collect()
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        assert!(!state.press(KeyEvent::new(KeyCode::Char(key), KeyModifiers::NONE)));
    }
}

#[test]
fn eighty_by_twenty_four_shows_all_that_matters() {
    let screen = screen(&state(PLAIN), 80, 24);
    let expected = "\
netmoat web1  enforce  ok  120 drops/s  3 listeners                    00:00:02Z
LISTENER      PROCESS  SYN QUEUE  ACCEPT QUEUE  CONN/S  DROPS  VERDICT
[::]:80       -            0/511       512/511       -      -  accept_full +1
0.0.0.0:443   nginx        1/511        2/1022      31      7  healthy
192.0.2.1:22  -            0/128         0/128       -      -  -
-- [::]:80: accept_full, high confidence, since 00:00:00Z ----------------------
The application does not accept: 512 connections wait, and more are turned away.
Fix: look at what the process waits for: gdb -p 811
- 512 of 511 for 40 s";
    for (line, expected) in screen.iter().zip(expected.lines()) {
        assert_eq!(line, expected);
    }
    assert_eq!(
        screen[23],
        " q quit  up/down j/k select  s sort: verdict  p pause  ? help"
    );
    assert_eq!(screen[19], "-".repeat(80));
    assert_eq!(screen[20], "Dropped/s   tcp_flags 120");
    assert_eq!(screen[21], "Sources     none");
    assert_eq!(
        screen[22],
        "Loss below  eth0 rx_dropped 17, eth0 busiest queue 95%, softnet squeezed 3"
    );
    assert!(screen.iter().all(|line| line.is_ascii()), "{screen:#?}");
}

#[test]
fn the_chosen_listeners_funnel_and_queues_are_drawn() {
    let mut state = state(PLAIN);
    press(&mut state, "j");
    let screen = screen(&state, 80, 24);
    assert_eq!(
        screen[5],
        "-- 0.0.0.0:443 nginx: healthy, high confidence, since 00:00:00Z ----------------"
    );
    let has = |words: &str| {
        assert!(
            screen.iter().any(|line| line.contains(words)),
            "{words} in {screen:#?}"
        );
    };
    has("SYNs seen                 1000 #########");
    has("  left to the kernel       100 #........");
    has("SYN queue #");
    has(" 1/511");
    has("SYN/s        40 ");
    has("Half-open     1 ");
    has("Half-open lives 63s");
    has("7 close-wait, 3 fin-wait-1, 300 estab");
    has("Sources     about 37 different, 192.0.2.7 12.5%");
}

#[test]
fn a_large_terminal_shows_every_column_and_lists_side_by_side() {
    let mut state = state(RICH);
    press(&mut state, "j");
    let screen = screen(&state, 200, 50);
    let heads = "CONN/S  RESET/S  HANDSHAKE   WAIT    COOKIES  DROPS  VERDICT";
    assert!(screen[1].ends_with(heads), "{screen:#?}");
    let lists = screen
        .iter()
        .find(|line| line.starts_with("Dropped/s"))
        .unwrap();
    assert!(lists.contains("Sources") && lists.contains("Loss below"));
    assert!(
        screen
            .iter()
            .any(|line| line.contains("of these by a cookie"))
    );
    assert!(screen.iter().any(|line| line.contains('█')));
    assert!(screen[49].starts_with(" q quit"));
}

#[test]
fn every_size_can_be_drawn_in_every_state() {
    let mut empty = State::new("web1".to_owned(), PLAIN);
    empty.take(look(1, Queues::default(), &NONE));
    let mut many = state(RICH);
    let mut all = queues();
    all.listeners = (1..500)
        .map(|port| ListenerQueues {
            port,
            ..queues().listeners[1].clone()
        })
        .collect();
    all.host.verdicts = vec![verdict(VerdictKind::TimeWaitPressure, "Too many.")];
    many.take(look(951_782_403, all, &NONE));
    many.miss("it is gone".to_owned());
    press(&mut many, "G?");
    let mut helpless = state(PLAIN);
    helpless.miss("it is gone".to_owned());
    for state in [&State::new(String::new(), RICH), &empty, &many, &helpless] {
        for (width, height) in [
            (1, 1),
            (40, 10),
            (41, 17),
            (60, 20),
            (80, 24),
            (300, 11),
            (40, 100),
        ] {
            let lines = screen(state, width, height);
            assert_eq!(lines.len(), usize::from(height));
        }
    }
    assert!(screen(&empty, 39, 24)[0].starts_with("netmoat top needs 40x10"));
    assert!(screen(&empty, 80, 24)[1].starts_with("No TCP listener"));
}

#[test]
fn the_chosen_listener_stays_in_sight_and_chosen() {
    let mut state = state(PLAIN);
    let mut all = queues();
    all.listeners = (1..500)
        .map(|port| ListenerQueues {
            port,
            ..queues().listeners[1].clone()
        })
        .collect();
    state.take(look(951_782_403, all.clone(), &NONE));
    press(&mut state, "Gk");
    assert!(
        screen(&state, 80, 24)
            .iter()
            .any(|l| l.starts_with("0.0.0.0:498 "))
    );
    // It comes first for its rate, and is the chosen one still.
    all.listeners[497].rates.connections = 9_000;
    state.take(look(951_782_404, all, &NONE));
    press(&mut state, "s");
    let screen = screen(&state, 80, 24);
    assert!(screen[2].starts_with("0.0.0.0:498 "), "{screen:#?}");
    assert!(screen.iter().any(|l| l.starts_with("-- 0.0.0.0:498 nginx")));
    assert!(screen[23].contains("sort: connections/s"));
}

#[test]
fn a_paused_picture_stays_and_goes_on() {
    let mut state = state(PLAIN);
    press(&mut state, "p");
    let held = screen(&state, 80, 24);
    assert!(held[0].contains("PAUSED") && held[23].contains("p go on"));
    state.take(look(951_782_500, Queues::default(), &NONE));
    assert_eq!(screen(&state, 80, 24), held);
    press(&mut state, "p");
    state.take(look(951_782_501, Queues::default(), &NONE));
    assert!(screen(&state, 80, 24)[1].starts_with("No TCP listener"));
}

#[test]
fn an_agent_that_is_gone_is_told_of_until_it_is_back() {
    let mut state = state(PLAIN);
    state.miss("cannot reach the agent".to_owned());
    let gone = screen(&state, 80, 24);
    assert_eq!(gone[1], "No answer, trying on: cannot reach the agent");
    assert!(
        gone[3].starts_with("[::]:80"),
        "what was known stays: {gone:#?}"
    );
    state.take(look(951_782_404, queues(), &NONE));
    assert!(screen(&state, 80, 24)[1].starts_with("LISTENER"));
}

#[test]
fn what_concerns_the_whole_host_stands_above_the_list() {
    let mut state = state(PLAIN);
    let mut queues = queues();
    queues.host.verdicts = vec![verdict(VerdictKind::PortExhaustion, "No port is left.")];
    let mut look = look(951_782_404, queues, &NONE);
    look.status.health = Health::Degraded;
    look.status.problems = vec!["eth1 is gone".to_owned(), "more".to_owned()];
    state.take(look);
    let screen = screen(&state, 80, 24);
    assert!(screen[0].contains("degraded"));
    assert_eq!(screen[1], "eth1 is gone (and 1 more: netmoat status)");
    assert_eq!(screen[2], "This host: port_exhaustion: No port is left.");
}

#[test]
fn drops_are_a_second_and_counters_of_another_start_are_none() {
    let mut state = state(PLAIN);
    assert_eq!(state.dropped.len(), 1, "replies are no drops");
    assert_eq!(state.dropped[0].per_second, 120);
    state.take(look(951_782_404, queues(), &NONE));
    assert_eq!(state.dropped, []);
}

#[test]
fn keys_end_help_and_program() {
    let mut state = state(PLAIN);
    press(&mut state, "?");
    assert!(
        screen(&state, 80, 24)
            .iter()
            .any(|l| l.contains("Any key closes this."))
    );
    press(&mut state, "q");
    assert!(!state.help, "q closes the help first");
    assert!(state.press(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(state.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
}

#[test]
fn colours_are_kept_out_when_they_are_not_wanted() {
    for (paint, expected) in [(RICH, Color::Red), (PLAIN, Color::Reset)] {
        let terminal = drawn(&state(paint), 80, 24);
        let rule = &terminal.backend().buffer()[(3, 5)];
        assert_eq!(rule.fg, expected);
        assert!(rule.modifier.contains(Modifier::BOLD));
    }
}

#[test]
fn text_is_wrapped_at_words_and_what_is_cut_ends_in_dots() {
    use crate::cli::output::wrap;
    assert_eq!(wrap("one two three", 7, 9), ["one two", "three"]);
    assert_eq!(wrap("one two three four", 9, 1), ["one t ..."]);
    assert_eq!(wrap("one", 9, 0), [""; 0]);
    assert_eq!(wrap("", 9, 2), [""; 0]);
}

#[test]
fn an_interval_is_read_and_not_too_short() {
    assert_eq!(interval("1s"), Ok(Duration::from_secs(1)));
    for text in ["99ms", "0s", "1", "x"] {
        assert!(interval(text).is_err(), "{text}");
    }
}

/// A real terminal, and a real panic while it is taken over: this test runs itself again with a pseudo-terminal as its
/// standard input and output.
#[test]
fn a_panic_gives_the_terminal_back_before_it_is_told() {
    const AGAIN: &str = "NETMOAT_TEST_PANICS_ON_THE_TERMINAL";
    if std::env::var_os(AGAIN).is_some() {
        let _ = on_terminal(|terminal| {
            terminal.draw(|frame| view::draw(frame, &state(PLAIN)))?;
            panic!("on purpose");
        });
        return;
    }
    let pty = openpty(None, None).unwrap();
    let cooked = tcgetattr(&pty.slave).unwrap().local_flags;
    assert!(cooked.contains(LocalFlags::ICANON | LocalFlags::ECHO));
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let name = "cli::top::tests::a_panic_gives_the_terminal_back_before_it_is_told";
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(AGAIN, "1")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    // Read while it writes, or the terminal's buffer would fill; the last reader's end is an error (EIO).
    let mut master = std::fs::File::from(pty.master.try_clone().unwrap());
    let reader = std::thread::spawn(move || {
        let mut written = Vec::new();
        let _ = master.read_to_end(&mut written);
        String::from_utf8_lossy(&written).into_owned()
    });
    assert!(!child.wait().unwrap().success());
    assert_eq!(tcgetattr(&pty.slave).unwrap().local_flags, cooked);
    drop(pty.slave);
    let written = reader.join().unwrap();
    let at = |what: &str| {
        written
            .find(what)
            .unwrap_or_else(|| panic!("{what:?} in {written:?}"))
    };
    // The alternate screen is entered, left, and only then the panic is told.
    assert!(at("\u{1b}[?1049h") < at("\u{1b}[?1049l"));
    assert!(at("\u{1b}[?1049l") < at("on purpose"));
}
