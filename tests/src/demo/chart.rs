//! The plot: panels above one another, the acts side by side, as an SVG that stands alone.

use std::fmt::Write as _;

use super::{
    client::TIMEOUT,
    figures::{Played, Results, Second, percent},
    live::milliseconds,
    summary::thousands,
};

const STYLE: &str = include_str!("chart.css");

const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 44.0;
/// Between acts.
const GAP: f64 = 8.0;
/// Of a panel, its title included.
const PANEL: f64 = 150.0;
const TITLE: f64 = 30.0;
/// Shortest time that the panel of connect times shows, in ms.
const SHORTEST: f64 = 0.1;

/// One of the plots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Panel {
    Success,
    Connect,
    Segments,
    Queue,
    Cpu,
}

/// A line of a panel: its name, its class, and its value in a second with words for it.
struct Series {
    name: &'static str,
    class: &'static str,
    value: fn(&Second) -> Option<f64>,
    words: fn(&Second) -> String,
}

/// What fits a page that explains the rest.
pub fn picture(results: &Results) -> String {
    draw(results, &[Panel::Success, Panel::Connect, Panel::Segments])
}

/// Everything.
pub fn full(results: &Results) -> String {
    draw(
        results,
        &[
            Panel::Success,
            Panel::Connect,
            Panel::Segments,
            Panel::Queue,
            Panel::Cpu,
        ],
    )
}

fn draw(results: &Results, panels: &[Panel]) -> String {
    let height = TOP + PANEL * panels.len() as f64 + 24.0;
    let mut svg = format!(
        "<svg class=\"plot\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
         aria-label=\"What the client saw in each act, second by second\">\n<style>\n{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\"/>\n"
    );
    let columns = Columns::of(results);
    for (i, played) in results.acts.iter().enumerate() {
        let x = columns.start(i);
        let flood = if played.act.flood {
            format!("{} SYN/s", thousands(results.rate.into()))
        } else {
            "no flood".to_owned()
        };
        text(&mut svg, (x + 2.0, 18.0), "strong", played.act.title);
        text(&mut svg, (x + 2.0, 34.0), "mute", &flood);
    }
    for (i, panel) in panels.iter().enumerate() {
        panel.draw(&mut svg, results, &columns, TOP + PANEL * i as f64);
    }
    let bottom = height - 8.0;
    for (i, _) in results.acts.iter().enumerate() {
        for (second, class) in [(0, "mute"), (results.seconds, "mute end")] {
            let label = format!("{second} s");
            text(
                &mut svg,
                (columns.at(i, second.into()), bottom),
                class,
                &label,
            );
        }
    }
    svg + "</svg>\n"
}

/// Where acts and their seconds stand.
struct Columns {
    width: f64,
    seconds: f64,
}

impl Columns {
    fn of(results: &Results) -> Self {
        let acts = results.acts.len().max(1) as f64;
        Self {
            width: (WIDTH - LEFT - RIGHT - GAP * (acts - 1.0)) / acts,
            seconds: results.seconds.into(),
        }
    }

    fn start(&self, act: usize) -> f64 {
        LEFT + (self.width + GAP) * act as f64
    }

    fn at(&self, act: usize, second: f64) -> f64 {
        self.start(act) + self.width * second / self.seconds
    }
}

impl Panel {
    fn title(self) -> &'static str {
        match self {
            Self::Success => "Attempts of the client that get the page",
            Self::Connect => "Time to connect, logarithmic",
            Self::Segments => "Segments a second",
            Self::Queue => "Handshakes in the listener's SYN queue",
            Self::Cpu => "CPU of the whole machine, generator included",
        }
    }

    fn series(self) -> Vec<Series> {
        let series = |name, class, value, words| Series {
            name,
            class,
            value,
            words,
        };
        match self {
            Self::Success => vec![series(
                "success",
                "a",
                |s| s.client.success,
                |s| percent(s.client.success),
            )],
            Self::Connect => vec![
                series(
                    "99th percentile",
                    "b",
                    |s| connect(s, s.client.connect_p99_ms),
                    |s| milliseconds(&s.client, s.client.connect_p99_ms) + " ms",
                ),
                series(
                    "median",
                    "a",
                    |s| connect(s, s.client.connect_p50_ms),
                    |s| milliseconds(&s.client, s.client.connect_p50_ms) + " ms",
                ),
            ],
            Self::Segments => vec![
                series(
                    "SYNs of the attacker",
                    "b wide",
                    |s| Some(s.rates.syns_per_s),
                    |s| thousands(s.rates.syns_per_s),
                ),
                series(
                    "SYN-ACKs of the server",
                    "a",
                    |s| Some(s.rates.syn_acks_per_s),
                    |s| thousands(s.rates.syn_acks_per_s),
                ),
            ],
            Self::Queue => vec![series(
                "at the second's end",
                "a",
                |s| Some(s.queues.syn.into()),
                |s| format!("{} of {}", s.queues.syn, s.queues.limit),
            )],
            Self::Cpu => vec![
                series(
                    "busy",
                    "b",
                    |s| Some(s.rates.cpu),
                    |s| percent(Some(s.rates.cpu)),
                ),
                series(
                    "soft interrupts",
                    "a",
                    |s| Some(s.rates.softirq),
                    |s| percent(Some(s.rates.softirq)),
                ),
            ],
        }
    }

    /// Marks of the axis, the first at the bottom and the last at the top: value and label.
    fn ticks(self, results: &Results) -> Vec<(f64, String)> {
        let seconds = || results.acts.iter().flat_map(|played| &played.seconds);
        let thirds = |top: f64, label: fn(f64) -> String| {
            let marks = [0.0, 0.5, 1.0].map(|part| top * part);
            marks.map(|value| (value, label(value))).to_vec()
        };
        match self {
            Self::Success | Self::Cpu => thirds(1.0, |share| format!("{:.0} %", share * 100.0)),
            Self::Connect => [0.1, 1.0, 10.0, 100.0]
                .map(|ms| (ms, format!("{ms} ms")))
                .into_iter()
                .chain([(TIMEOUT.as_secs_f64() * 1e3, "gave up".to_owned())])
                .collect(),
            Self::Segments => {
                let most = seconds().map(|s| s.rates.syns_per_s.max(s.rates.syn_acks_per_s));
                thirds(round_up(most.fold(1.0, f64::max)), thousands)
            }
            Self::Queue => {
                let most = seconds().map(|s| s.queues.syn.max(s.queues.limit));
                thirds(most.max().unwrap_or(1).max(1).into(), |count| {
                    format!("{count:.0}")
                })
            }
        }
    }

    /// How high a value stands, 0 to 1, between the lowest and the highest mark.
    fn level(self, value: f64, (low, high): (f64, f64)) -> f64 {
        let level = match self {
            Self::Connect => (value.max(low) / low).ln() / (high / low).ln(),
            _ => (value - low) / (high - low),
        };
        level.clamp(0.0, 1.0)
    }

    fn draw(self, svg: &mut String, results: &Results, columns: &Columns, top: f64) {
        let series = self.series();
        let mut heading = format!("<tspan class=\"strong\">{}</tspan>", self.title());
        for one in &series {
            let _ = write!(
                heading,
                "<tspan class=\"{}\" dx=\"16\">{}</tspan>",
                one.class, one.name
            );
        }
        text(svg, (LEFT, top + TITLE - 10.0), "", &heading);
        let (floor, ceiling) = (top + PANEL - 12.0, top + TITLE);
        for (i, played) in results.acts.iter().enumerate() {
            let _ = writeln!(
                svg,
                "<rect class=\"{}\" x=\"{:.1}\" y=\"{ceiling}\" width=\"{:.1}\" height=\"{}\"/>",
                shade(played),
                columns.start(i),
                columns.width,
                floor - ceiling
            );
        }
        let ticks = self.ticks(results);
        let range = (
            ticks.first().map_or(0.0, |tick| tick.0),
            ticks.last().map_or(1.0, |tick| tick.0),
        );
        let y = |value: f64| floor - self.level(value, range) * (floor - ceiling);
        for (value, label) in &ticks {
            let y = y(*value);
            let _ = writeln!(
                svg,
                "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>",
                WIDTH - RIGHT
            );
            text(svg, (LEFT - 6.0, y + 4.0), "mute end", label);
        }
        for one in &series {
            for (i, played) in results.acts.iter().enumerate() {
                let points: Vec<_> = played
                    .seconds
                    .iter()
                    .enumerate()
                    .filter_map(|(second, row)| {
                        let at = columns.at(i, second as f64 + 0.5);
                        Some((at, y((one.value)(row)?), second, row))
                    })
                    .collect();
                line(svg, one, &points, self == Self::Success);
            }
        }
    }
}

/// One series in one act. Points carry their values as tooltips; `judged` ones are red unless all is well.
fn line(svg: &mut String, series: &Series, points: &[(f64, f64, usize, &Second)], judged: bool) {
    let _ = write!(svg, "<polyline class=\"{}\" points=\"", series.class);
    for (x, y, ..) in points {
        let _ = write!(svg, "{x:.1},{y:.1} ");
    }
    svg.push_str("\"/>\n");
    for (x, y, second, row) in points {
        let bad = judged && row.client.success.is_some_and(|share| share < 1.0);
        let _ = writeln!(
            svg,
            "<circle class=\"{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\"><title>second {}: {}, {}</title></circle>",
            if bad { "bad" } else { series.class },
            second + 1,
            series.name,
            (series.words)(row)
        );
    }
}

fn shade(played: &Played) -> &'static str {
    match (played.act.flood, played.act.netmoat) {
        (false, _) => "peace",
        (true, false) => "flood",
        (true, true) => "moat",
    }
}

/// A connect time; given up counts as the time after which that happens.
fn connect(second: &Second, time: Option<f64>) -> Option<f64> {
    let worst = (second.client.attempts > 0).then_some(TIMEOUT.as_secs_f64() * 1e3);
    time.map(|time| time.max(SHORTEST)).or(worst)
}

/// The next 1, 2, 2.5 or 5 times a power of ten.
fn round_up(value: f64) -> f64 {
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0, 10.0].map(|step| step * power);
    // A flood of a rate sends a frame more in one second than in another.
    steps
        .into_iter()
        .find(|&step| step * 1.02 >= value)
        .unwrap_or(value)
}

fn text(svg: &mut String, (x, y): (f64, f64), class: &str, text: &str) {
    let _ = writeln!(
        svg,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_values() {
        for (value, expected) in [
            (1.0, 1.0),
            (200_900.0, 200_000.0),
            (210_000.0, 250_000.0),
            (260_000.0, 500_000.0),
            (900_000.0, 1_000_000.0),
        ] {
            assert_eq!(round_up(value), expected, "{value}");
        }
    }

    #[test]
    fn connect_times_stand_by_their_logarithm() {
        let level = |ms| Panel::Connect.level(ms, (0.1, 1000.0));
        for (ms, expected) in [
            (0.05, 0.0),
            (0.1, 0.0),
            (1.0, 0.25),
            (10.0, 0.5),
            (1000.0, 1.0),
            (9e3, 1.0),
        ] {
            assert!((level(ms) - expected).abs() < 1e-9, "{ms}");
        }
    }
}
