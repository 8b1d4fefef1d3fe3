//! Logs: to standard error as text or JSON, or to the journal with fields of their own.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level as TracingLevel, Subscriber};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::field::MakeVisitor as _;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{DefaultFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::output::time;
use super::{Code, Failure};

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

/// In which form records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Format {
    /// To the journal, with fields, when standard error is the journal; text otherwise
    Auto,
    /// Lines for people
    Text,
    /// One JSON object a line: `time`, `level`, `target`, `message`, and the fields of the record
    Json,
    /// To the journal, with fields, wherever standard error goes
    Journald,
}

/// Fields of ours in the journal begin with this and `_`, as in NETMOAT_VERB.
const FIELDS: &str = "NETMOAT";

/// Sets the process's logger, which also takes records of the `log` crate (aya-log's among them).
///
/// # Errors
/// The journal was asked for, and is not there.
pub(super) fn init(level: Level, format: Format) -> Result<(), Failure> {
    let targets = targets(level);
    let builder = tracing_subscriber::fmt()
        .with_max_level(for_audit(level))
        .with_writer(io::stderr)
        .with_ansi(false);
    let of_journal = format == Format::Auto && stderr_is_journal();
    match format {
        Format::Journald => {
            let layer = journald().map_err(|error| {
                Failure::new(
                    Code::Error,
                    anyhow!(
                        "the journal does not take records at /run/systemd/journal/socket ({error}); \
                         write --log-format text"
                    ),
                )
            })?;
            tracing_subscriber::registry()
                .with(layer)
                .with(targets)
                .init();
        }
        // Without its socket, as in some containers, the journal still reads lines.
        Format::Auto if of_journal => match journald() {
            Ok(layer) => tracing_subscriber::registry()
                .with(layer)
                .with(targets)
                .init(),
            Err(_) => builder.event_format(Journal).finish().with(targets).init(),
        },
        Format::Json => builder.event_format(Json).finish().with(targets).init(),
        Format::Auto | Format::Text => {
            let colour = io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            let builder = builder.with_ansi(colour).with_target(false);
            builder.finish().with(targets).init();
        }
    }
    Ok(())
}

/// What is logged of whom.
fn targets(level: Level) -> Targets {
    // netlink_proto warns of every message that comes while a monitor is being closed. rustls_platform_verifier calls it
    // an error of ours when a server's certificate does not verify, which a probe tells as what it is.
    Targets::new()
        .with_default(level)
        .with_target("netmoat::audit", for_audit(level))
        .with_target("netlink_proto", LevelFilter::ERROR)
        .with_target("rustls_platform_verifier", LevelFilter::OFF)
}

/// Who changed what is told at any level.
fn for_audit(level: Level) -> LevelFilter {
    LevelFilter::from(level).max(LevelFilter::INFO)
}

/// The journal's own protocol, with priorities as in [`priority`].
fn journald() -> io::Result<tracing_journald::Layer> {
    let priorities = PriorityMappings {
        info: Priority::Informational,
        debug: Priority::Debug,
        ..PriorityMappings::new()
    };
    Ok(tracing_journald::layer()?
        .with_syslog_identifier("netmoat".to_owned())
        .with_field_prefix(Some(FIELDS.to_owned()))
        .with_priority_mappings(priorities))
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

/// One JSON object a line; fields of the record stand beside the four that each has.
struct Json;

impl<S, N> FormatEvent<S, N> for Json
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
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let Fields(mut object) = fields;
        let metadata = event.metadata();
        let second = time(now.as_secs());
        let second = second.trim_end_matches('Z');
        for (name, value) in [
            ("time", format!("{second}.{:06}Z", now.subsec_micros())),
            ("level", metadata.level().as_str().to_ascii_lowercase()),
            ("target", metadata.target().to_owned()),
        ] {
            object.insert(name.to_owned(), value.into());
        }
        writeln!(writer, "{}", Value::Object(object))
    }
}

/// The fields of a record.
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
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
    #[test]
    fn json_has_an_object_a_line_with_the_fields_of_the_record() {
        let mut file = tempfile::tempfile().unwrap();
        let writer = Arc::new(file.try_clone().unwrap());
        let logger = tracing_subscriber::fmt()
            .with_max_level(Level::Info)
            .with_writer(writer)
            .with_ansi(false)
            .event_format(Json)
            .finish();
        tracing::subscriber::with_default(logger, || {
            tracing::info!(target: "netmoat::audit", uid = 0, verb = "mode", forced = true, "two\n\"lines\"");
            tracing::debug!("not wanted");
        });
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let mut lines = text.lines();
        let mut object: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
        assert_eq!(lines.next(), None);
        let time = object.as_object_mut().unwrap().remove("time").unwrap();
        let time = time.as_str().unwrap();
        assert!(
            time.starts_with("20") && time.len() == "2026-11-22T21:00:00.000000Z".len(),
            "{time}"
        );
        assert_eq!(
            object,
            serde_json::json!({
                "level": "info", "target": "netmoat::audit", "message": "two\n\"lines\"", "uid": 0, "verb": "mode",
                "forced": true
            })
        );
    }
    #[test]
    fn who_changed_what_is_told_at_any_level() {
        for (level, others) in [
            (Level::Error, false),
            (Level::Warn, false),
            (Level::Info, true),
        ] {
            let targets = targets(level);
            assert!(targets.would_enable("netmoat::audit", &TracingLevel::INFO));
            assert_eq!(targets.would_enable("netmoat", &TracingLevel::INFO), others);
        }
    }
    #[test]
    fn fields_of_audit_records_can_be_asked_for_in_the_journal() {
        // In a mount namespace of this thread's own, a socket of ours is where the journal's is.
        use nix::mount::{MsFlags, mount};
        use nix::sched::{CloneFlags, unshare};
        let received = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("the tests run as root");
            let nothing = None::<&str>;
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(nothing, "/", nothing, private, nothing).unwrap();
            mount(
                Some("none"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                nothing,
            )
            .unwrap();
            std::fs::create_dir_all("/run/systemd/journal").unwrap();
            let journal =
                std::os::unix::net::UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
            let logger = tracing_subscriber::registry().with(journald().unwrap());
            tracing::subscriber::with_default(logger, || {
                tracing::info!(target: "netmoat::audit", uid = 1000, pid = 42, verb = "mode", "to observe");
            });
            let mut datagram = [0; 4096];
            // The first is empty: a look whether the journal is there.
            assert_eq!(journal.recv(&mut datagram).unwrap(), 0);
            let length = journal.recv(&mut datagram).unwrap();
            datagram[..length].to_vec()
        });
        let datagram = received.join().unwrap();
        // Values may hold line feeds, so each has its length before it (systemd's native journal protocol).
        let field = |name: &str, value: &str| {
            let mut octets = format!("{name}\n").into_bytes();
            octets.extend((value.len() as u64).to_le_bytes());
            octets.extend(format!("{value}\n").into_bytes());
            octets
        };
        for (name, value) in [
            ("PRIORITY", "6"),
            ("MESSAGE", "to observe"),
            ("NETMOAT_UID", "1000"),
            ("NETMOAT_PID", "42"),
            ("NETMOAT_VERB", "mode"),
            ("SYSLOG_IDENTIFIER", "netmoat"),
            ("TARGET", "netmoat::audit"),
        ] {
            let field = field(name, value);
            let there = datagram.windows(field.len()).any(|part| part == field);
            assert!(
                there,
                "{name}={value} in {}",
                String::from_utf8_lossy(&datagram)
            );
        }
    }
}
