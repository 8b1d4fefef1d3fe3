//! Figures and names as people read them.

use std::time::Duration;

use crate::control::queues::{Fix, Owner};

/// A number with a comma between thousands.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A number with its noun: `1 connection`, `48,000 connections`.
pub(super) fn many(n: u64, noun: &str) -> String {
    match n {
        1 => format!("1 {noun}"),
        _ => format!("{} {noun}s", number(n)),
    }
}

/// A number as the estimate it is: two figures.
pub(super) fn about(n: u64) -> String {
    let unit = 10_u64.pow(n.max(1).ilog10().saturating_sub(1));
    number((n + unit / 2) / unit * unit)
}

/// A rate: `0.3 SYNs a second`, `1 connection a second`, `48,000 SYNs a second`.
pub(super) fn rate(per_second: f64, noun: &str) -> String {
    let text = if per_second > 0.0 && per_second < 9.5 {
        let text = format!("{per_second:.1}");
        text.strip_suffix(".0").unwrap_or(&text).to_owned()
    } else {
        number(per_second.round() as u64)
    };
    let plural = if text == "1" { "" } else { "s" };
    format!("{text} {noun}{plural} a second")
}

/// A time: `350 ms`, `12 s`, `5 min`.
pub(super) fn time(span: Duration) -> String {
    match span.as_secs() {
        0 => format!("{} ms", span.as_millis()),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s => format!("{} h", s / 3600),
    }
}

/// A share of a whole, per cent; 0 of nothing.
pub(super) fn per_cent(part: u64, whole: u64) -> u64 {
    (part.saturating_mul(100)).checked_div(whole).unwrap_or(0)
}

/// A process as sentences name it.
pub(super) fn owner(owner: Option<&Owner>) -> String {
    owner.map_or_else(
        || "the application".to_owned(),
        |owner| format!("{} (pid {})", owner.name, owner.pid),
    )
}

/// A fix in words alone.
pub(super) fn advice(what: impl Into<String>) -> Fix {
    Fix {
        what: what.into(),
        command: None,
    }
}

/// A fix with what to type.
pub(super) fn command(what: impl Into<String>, command: impl Into<String>) -> Fix {
    Fix {
        what: what.into(),
        command: Some(command.into()),
    }
}

/// A sysctl to set.
pub(super) fn sysctl(what: impl Into<String>, name: &str, value: impl std::fmt::Display) -> Fix {
    command(what, format!("sysctl -w {name}={value}"))
}

/// How the application that owns a listener is told a longer backlog. `listen()` has to be called again for it to hold:
/// neither it nor somaxconn changes a queue that is there (Linux 6.12 `__inet_listen_sk`).
pub(super) fn backlog(owner: Option<&Owner>, port: u16, to: u32) -> Fix {
    let name = owner.map(|owner| owner.name.as_str()).unwrap_or_default();
    let line = match name {
        "nginx" | "openresty" | "angie" => Some(format!("listen {port} backlog={to};")),
        "apache2" | "httpd" => Some(format!("ListenBacklog {to}")),
        "haproxy" => Some(format!("bind :{port} backlog {to}")),
        "redis-server" | "valkey-server" => Some(format!("tcp-backlog {to}")),
        "mysqld" | "mariadbd" => Some(format!("back_log = {to}")),
        "gunicorn" | "uvicorn" | "hypercorn" => Some(format!("{name} --backlog {to}")),
        "lighttpd" => Some(format!("server.listen-backlog = {to}")),
        "uwsgi" => Some(format!("listen = {to}")),
        "php-fpm" => Some(format!("listen.backlog = {to}")),
        "memcached" => Some(format!("memcached -b {to}")),
        "node" => Some(format!("server.listen({{ port: {port}, backlog: {to} }})")),
        "systemd" => Some(format!("Backlog={to}")),
        _ => None,
    };
    let where_to = match name {
        "nginx" | "openresty" | "angie" => {
            "in nginx's configuration (with `reuseport` each worker has a queue of its own)"
        }
        // max_connections bounds it: PostgreSQL listens with twice that (`src/backend/libpq/pqcomm.c`, StreamServerPort).
        "postgres" => "by max_connections, of which postgres takes twice as its backlog",
        "sshd" => {
            "by socket activation: sshd itself always listens with 128 (ssh.socket, Backlog=)"
        }
        "systemd" => "in the socket unit",
        "" => "in the application: the second argument of its listen()",
        _ if line.is_none() => "in its configuration or code: the second argument of its listen()",
        _ => "in its configuration",
    };
    let who = if name.is_empty() {
        "The application"
    } else {
        name
    };
    Fix {
        what: format!(
            "{who}: ask for a backlog of {to} {where_to}; it holds from its next listen(), so restart it"
        ),
        command: line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(number(0), "0");
        assert_eq!(number(999), "999");
        assert_eq!(number(1_234_567), "1,234,567");
        assert_eq!(many(1, "connection"), "1 connection");
        assert_eq!(many(2000, "SYN"), "2,000 SYNs");
        for (n, text) in [
            (0, "0"),
            (7, "7"),
            (47, "47"),
            (47_812, "48,000"),
            (995, "1,000"),
        ] {
            assert_eq!(about(n), text);
        }
        for (r, text) in [
            (0.0, "0 SYNs a second"),
            (0.31, "0.3 SYNs a second"),
            (0.98, "1 SYN a second"),
            (3.0, "3 SYNs a second"),
            (1234.4, "1,234 SYNs a second"),
        ] {
            assert_eq!(rate(r, "SYN"), text);
        }
        for (ms, text) in [
            (350, "350 ms"),
            (12_400, "12 s"),
            (300_000, "5 min"),
            (7_200_000, "2 h"),
        ] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
        assert_eq!(per_cent(1, 0), 0);
    }

    #[test]
    fn each_application_is_told_its_backlog_in_its_own_words() {
        let of = |name: &str| {
            let owner = Owner {
                pid: 1,
                name: name.into(),
                unit: None,
            };
            backlog(Some(&owner), 80, 4096)
        };
        assert_eq!(
            of("nginx").command.as_deref(),
            Some("listen 80 backlog=4096;")
        );
        assert_eq!(of("apache2").command.as_deref(), Some("ListenBacklog 4096"));
        assert_eq!(of("mine").command, None);
        for fix in [of("nginx"), of("sshd"), of("mine"), backlog(None, 80, 4096)] {
            assert!(fix.what.contains("listen()"), "{}", fix.what);
        }
    }
}
