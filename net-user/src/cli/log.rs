//! Logs to standard error; under systemd in the journal's own terms.

use std::fmt;
use std::io::{self, IsTerminal as _};

use tracing::{Event, Level as TracingLevel, Subscriber};
use tracing_subscriber::field::MakeVisitor as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// Sets the process's logger, which also takes records of the `log` crate (aya-log's among them).
pub(super) fn init(level: Level) {
    // netlink_proto warns of every message that comes while a monitor is being closed.
    let targets = Targets::new()
        .with_default(level)
        .with_target("netlink_proto", LevelFilter::ERROR);
    let builder = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr);
    if stderr_is_journal() {
        let builder = builder.with_ansi(false).event_format(Journal);
        builder.finish().with(targets).init();
    } else {
        let colour =
            io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let builder = builder.with_ansi(colour).with_target(false);
        builder.finish().with(targets).init();
    }
}

/// JOURNAL_STREAM names the device and inode of the journal's stream (systemd.exec(5)); it is inherited
/// by children whose standard error goes elsewhere.
fn stderr_is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    nix::sys::stat::fstat(io::stderr())
        .is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// `<4>message`: the journal takes the priority from the prefix (sd-daemon(3)) and knows the time itself.
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        event.record(&mut DefaultFields::new().make_visitor(Writer::new(&mut line)));
        let priority = priority(*event.metadata().level());
        // Each line is a record of its own to the journal.
        for line in line.lines() {
            writeln!(writer, "<{priority}>{line}")?;
        }
        Ok(())
    }
}

const fn priority(level: TracingLevel) -> u8 {
    match level {
        TracingLevel::ERROR => 3,
        TracingLevel::WARN => 4,
        TracingLevel::INFO => 6,
        TracingLevel::DEBUG | TracingLevel::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Seek as _};
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_journal_gets_a_priority_a_line_and_no_time() {
        let mut file = tempfile::tempfile().unwrap();
        let writer = Arc::new(file.try_clone().unwrap());
        let logger = tracing_subscriber::fmt()
            .with_max_level(Level::Debug)
            .with_writer(writer)
            .with_ansi(false)
            .event_format(Journal)
            .finish();
        tracing::subscriber::with_default(logger, || {
            tracing::error!("broken\nin two");
            tracing::warn!(ifindex = 2, "slow");
            tracing::info!("ready");
            tracing::debug!("detail");
            tracing::trace!("not wanted");
        });
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(
            text,
            "<3>broken\n<3>in two\n<4>slow ifindex=2\n<6>ready\n<7>detail\n"
        );
    }
}
