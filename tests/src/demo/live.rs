//! What is shown while acts play: on a terminal one line that is redrawn each second, else a line a second.

use std::io::{IsTerminal as _, Write as _};

use owo_colors::OwoColorize as _;

use super::{
    acts::Act,
    client::Attempt,
    figures::{Played, Seen, percent},
    watch::{Queues, Rates},
};

/// Writes to standard output, or to standard error if that is taken. Colours only on a terminal and without
/// NO_COLOR.
pub struct Live {
    redraws: bool,
    to_stderr: bool,
}

const HEADER: &str = "    second   SYN/s sent   SYN-ACK/s   handshakes/s   success    p50 ms    p99 ms   \
                      SYN queue   accept queue     CPU   softirq";

impl Live {
    /// Looks where it writes to.
    pub fn new(to_stderr: bool) -> Self {
        let redraws = if to_stderr {
            std::io::stderr().is_terminal()
        } else {
            std::io::stdout().is_terminal()
        };
        Self { redraws, to_stderr }
    }

    /// Some lines of text.
    pub fn say(&mut self, text: &str) {
        self.put(&format!("{}\n", text.trim_end()));
    }

    /// An act is about to begin.
    pub fn announce(&mut self, number: usize, of: usize, act: &Act) {
        self.say(&format!("\nAct {number} of {of}: {}", act.title.bold()));
        self.say(&HEADER.dimmed().to_string());
        if self.redraws {
            self.put("    preparing: half-open handshakes run out, servers start");
        }
    }

    /// A second is over; the client's attempts that ended in it.
    pub fn second(&mut self, second: u32, row: &(Rates, Queues), ended: &[Attempt]) {
        let seen = Seen::of(ended.iter());
        let handshakes = ended
            .iter()
            .filter(|attempt| attempt.connect.is_some())
            .count();
        self.row(&format!("{second:>10}"), handshakes as f64, &seen, row);
    }

    /// An act is over.
    pub fn done(&mut self, played: &Played) {
        let total = &played.total;
        let row = (total.rates, total.longest);
        self.row(
            &format!("{:>10}", "all".bold()),
            total.handshakes_per_s,
            &total.client,
            &row,
        );
        if self.redraws {
            self.put("\n");
        }
    }

    fn row(
        &mut self,
        label: &str,
        handshakes: f64,
        seen: &Seen,
        (rates, queues): &(Rates, Queues),
    ) {
        let success = format!("{:>10}", percent(seen.success));
        let success = match seen.success {
            Some(share) if share < 1.0 => success.red().bold().to_string(),
            Some(_) => success.green().to_string(),
            None => success,
        };
        let connect = |time| format!("{:>10}", milliseconds(seen, time));
        let line = format!(
            "{label} {:>12.0} {:>11.0} {handshakes:>14.0} {success}{}{} {:>11} {:>14} {:>5.0} % {:>7.0} %",
            rates.syns_per_s,
            rates.syn_acks_per_s,
            connect(seen.connect_p50_ms),
            connect(seen.connect_p99_ms),
            format!("{}/{}", queues.syn, queues.limit),
            format!("{}/{}", queues.accept, queues.limit),
            rates.cpu * 100.0,
            rates.softirq * 100.0,
        );
        // Back to the line's start, and clear it.
        self.put(&if self.redraws {
            format!("\r\x1b[K{line}")
        } else {
            format!("{line}\n")
        });
    }

    fn put(&mut self, text: &str) {
        // Nobody may be there to read; the report is still worth making.
        let _ = if self.to_stderr {
            anstream::stderr().lock().write_all(text.as_bytes())
        } else {
            let mut out = anstream::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
    }
}

/// A percentile of connecting, in milliseconds, for people.
pub fn milliseconds(seen: &Seen, time: Option<f64>) -> String {
    match time {
        None if seen.attempts == 0 => "-".to_owned(),
        None => format!("> {}", super::client::TIMEOUT.as_millis()),
        Some(time) if time < 10.0 => format!("{time:.2}"),
        Some(time) if time < 100.0 => format!("{time:.1}"),
        Some(time) => format!("{time:.0}"),
    }
}
