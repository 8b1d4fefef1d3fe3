//! The report: one HTML file without scripts, and nothing in it comes from elsewhere.

use std::fmt::Write as _;

use super::{
    acts, chart,
    client::{INTERVAL, TIMEOUT, WORKERS},
    echo,
    figures::{Results, find, percent},
    live::milliseconds,
    spoof,
    summary::{COLUMNS, rows, thousands, verdict},
};

const STYLE: &str = include_str!("report.css");

/// The whole file.
pub fn html(results: &Results) -> String {
    let rate = thousands(results.rate.into());
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>netmoat demo: {rate} SYN/s</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>A server under a flood of {rate} SYN/s</h1>\n<p class=\"mute\">netmoat demo, {time}</p>\n\
         {cards}{sentences}<h2>Criteria</h2>\n{criteria}<h2>Second by second</h2>\n{plot}\
         <h2>The acts in figures</h2>\n{figures}<h2>What became of packets</h2>\n{fates}\
         <h2>A ping flood</h2>\n{echo}<h2>A neighbour that lies</h2>\n{spoof}\
         <h2>How to read this</h2>\n{reading}<h2>How it was measured</h2>\n{method}</body>\n</html>\n",
        time = results.machine.time,
        cards = cards(results),
        sentences = paragraphs(&verdict(results)),
        criteria = criteria(results),
        plot = chart::full(results),
        figures = figures(results),
        fates = fates(results),
        echo = echo(results),
        spoof = spoof(results),
        reading = list(&READING.map(str::to_owned)),
        method = list(&method(results)),
    )
}

const READING: [&str; 6] = [
    "An <em>attempt</em> succeeds when the whole page came. Times to connect are those of the TCP handshake as \
     <code>connect()</code> sees it, of all attempts: one that gave up counts as slower than all others. <em>Page</em> is the time until the \
     whole page was there.",
    "A point in the plot is what the attempts that <em>began</em> in that second came to. Workers that wait for \
     their timeout begin no other attempt; seconds in which none began have no point.",
    "<em>SYN-ACKs of the server</em> are those that came back to the flood's addresses. With cookies each SYN \
     gets one; without, only the few that find a place in the SYN queue.",
    "<em>SYN queue</em>: handshakes for which the kernel keeps state. netmoat's default leaves 100 handshakes a \
     second to the kernel and answers the rest with cookies, so some of the flood's SYNs wait there too.",
    "<em>CPU</em> is that of the whole machine and includes attacker, client and the bridge between them; \
     compare acts, do not take it for the server's cost. Busy is exact; soft interrupts are sampled at \
     clock ticks.",
    "After the flood netmoat sends no cookie any more; the SYN-ACKs that are left are the kernel's \
     repetitions for half-open handshakes.",
];

fn method(results: &Results) -> Vec<String> {
    let machine = &results.machine;
    let one_cpu = if machine.cpus == 1 {
        "There was only one CPU."
    } else {
        ""
    };
    vec![
        format!(
            "Linux {}, {} of {}, {}, netmoat {} with its default configuration, XDP on veth in native mode.",
            escape(&machine.kernel),
            if machine.cpus == 1 { "1 CPU".to_owned() } else { format!("{} CPUs", machine.cpus) },
            escape(&machine.cpu_model),
            escape(&machine.nginx),
            escape(&machine.netmoat),
        ),
        "Server, client and attacker are network namespaces on one bridge. All three share this machine: in a \
         real network the flood's cost of sending would not be the server's. They run at niceness -10, so that \
         other work on the machine disturbs the figures less; netmoat's agent does not."
            .to_owned(),
        format!(
            "The flood is paced smoothly, a chunk of at most 32 frames at a time, from random addresses of \
             10.0.0.0/8; of what the generator is late with it makes up for 5 ms at most. Generator and observer run on \
             CPU {}, so that what the flood causes in the kernel stays there, as with a network card's queue; \
             client and nginx run on {}. {one_cpu}",
            machine.flood_cpu,
            if machine.cpus == 1 { "the same" } else { "the others" },
        ),
        format!(
            "The client: {WORKERS} workers, each begins an attempt every {} ms unless its last is still under \
             way, and gives up connecting after {} s. It is the same in all acts. It closes connections first, so \
             that TIME_WAIT never is at the server.",
            INTERVAL.as_millis(),
            TIMEOUT.as_secs()
        ),
        format!(
            "The flood begins half a second before the client; an act lasts {} s, and the flood goes on until the last attempt has \
             ended. Between the kernel's acts nginx starts afresh and half-open handshakes are gone.",
            results.seconds
        ),
    ]
}

fn cards(results: &Results) -> String {
    let mut html = String::from("<div class=\"cards\">\n");
    for act in [acts::KERNEL, acts::KERNEL_COOKIES, acts::NETMOAT] {
        let Some(total) = find(&results.acts, act) else {
            continue;
        };
        let seen = &total.client;
        let class = if seen.success == Some(1.0) {
            "good"
        } else {
            "bad"
        };
        let _ = writeln!(
            html,
            "<div class=\"card\"><div>{}</div><div class=\"figure {class}\">{}</div>\
             <div class=\"mute\">of attempts succeed<br>p99 to connect {}&nbsp;ms, CPU {:.0}&nbsp;%</div></div>",
            act.title,
            percent(seen.success),
            escape(&milliseconds(seen, seen.connect_p99_ms)),
            total.rates.cpu * 100.0,
        );
    }
    html + "</div>\n"
}

fn criteria(results: &Results) -> String {
    let rows = results.criteria.iter().map(|criterion| {
        let (class, word) = if criterion.passed {
            ("good", "PASS")
        } else {
            ("bad", "FAIL")
        };
        let word = format!("<span class=\"{class}\">{word}</span>");
        vec![word, escape(&criterion.what), escape(&criterion.found)]
    });
    table("", &["", "what must hold", "found"], rows)
}

fn figures(results: &Results) -> String {
    let rows = rows(results).into_iter();
    let rows = rows.map(|row| row.iter().map(|cell| escape(cell)).collect());
    table("figures", &COLUMNS, rows)
}

fn fates(results: &Results) -> String {
    let mut html = String::new();
    for played in results.acts.iter().filter(|played| played.act.flood) {
        let _ = writeln!(html, "<h3>{}</h3>", played.act.title);
        let rows = played.fates.iter().map(|fate| {
            vec![
                fate.packets.to_string(),
                fate.by.to_owned(),
                format!("<code>{}</code>", escape(&fate.name)),
                escape(fate.meaning),
            ]
        });
        html += &table(
            "fates",
            &["packets", "counted by", "counter", "meaning"],
            rows,
        );
    }
    html
}

fn echo(results: &Results) -> String {
    format!(
        "<p><code>hping3</code> sends echo requests from random addresses to a host that a monitor pings 20 times a \
         second.</p>\n{}",
        table(
            "figures",
            &echo::COLUMNS,
            echo::rows(&results.echo).into_iter()
        ),
    )
}

fn spoof(results: &Results) -> String {
    let rows = spoof::rows(&results.spoof).into_iter();
    let rows = rows.map(|row| row.iter().map(|cell| escape(cell)).collect());
    let alerts: Vec<_> = results
        .spoof
        .iter()
        .filter_map(|half| half.alert.clone())
        .collect();
    format!(
        "<p>A victim sends data over its gateway while <code>arpspoof</code> claims the gateway's address.</p>\n{}{}",
        table("figures", &spoof::COLUMNS, rows),
        paragraphs(&alerts)
    )
}

fn table(class: &str, header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut html = format!("<div class=\"scroll\"><table class=\"{class}\">\n<tr>");
    for cell in header {
        let _ = write!(html, "<th>{}</th>", escape(cell));
    }
    html += "</tr>\n";
    for row in rows {
        let _ = writeln!(html, "<tr><td>{}</td></tr>", row.join("</td><td>"));
    }
    html + "</table></div>\n"
}

fn paragraphs(texts: &[String]) -> String {
    texts
        .iter()
        .map(|text| format!("<p>{}</p>\n", escape(text)))
        .collect()
}

fn list(items: &[String]) -> String {
    let items: String = items
        .iter()
        .map(|item| format!("<li>{item}</li>\n"))
        .collect();
    format!("<ul>\n{items}</ul>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
