//! Results of `bench syn`: as a table, and as JSON whose fields are only ever added to.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde::Serialize;

use super::{contender::Contender, cost::Cost};

/// Everything measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Version of this format.
    pub version: u32,
    /// `uname -r`.
    pub kernel: String,
    /// Of /proc/cpuinfo.
    pub cpu_model: String,
    /// IP version of the flood.
    pub family: u8,
    /// Generator and receiver ran on this one.
    pub cpu: usize,
    /// Of each contender in each round.
    pub seconds: u64,
    /// What each contender did.
    pub rates: Vec<Rate>,
    /// netmoat against the others.
    pub ratios: Vec<Ratio>,
    /// Nanoseconds a packet.
    pub costs: Vec<Cost>,
    /// Whether every ratio has reached what it must.
    pub passed: bool,
    /// What to know when reading the figures.
    pub notes: Vec<&'static str>,
}

/// How many SYNs a contender answered.
#[derive(Debug, Serialize)]
pub struct Rate {
    /// Who.
    pub contender: Contender,
    /// Median of the rounds.
    pub syn_acks_per_s: f64,
    /// Each round.
    pub rounds: Vec<f64>,
    /// Median of what the generator sent, SYNs/s.
    pub syns_per_s: f64,
}

/// How much better netmoat does.
#[derive(Debug, Serialize)]
pub struct Ratio {
    /// netmoat in this mode…
    pub of: Contender,
    /// …against this contender.
    pub to: Contender,
    /// Median of the rounds' ratios.
    pub ratio: f64,
    /// What it must be.
    pub must: f64,
    /// What we aim for.
    pub aim: f64,
}

/// The middle one; the mean of both when there are two.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

impl Report {
    /// For the terminal.
    pub fn human(&self) -> String {
        let mut text = format!(
            "SYN flood over IPv{}, generator and receiver on CPU {} ({}, Linux {}), {} rounds of {} s\n",
            self.family,
            self.cpu,
            self.cpu_model,
            self.kernel,
            self.rates.first().map_or(0, |rate| rate.rounds.len()),
            self.seconds
        );
        let rates = self.rates.iter().map(|rate| {
            let rounds: Vec<_> = rate.rounds.iter().copied().map(thousands).collect();
            vec![
                rate.contender.label().to_owned(),
                thousands(rate.syn_acks_per_s),
                rounds.join(" "),
                thousands(rate.syns_per_s),
            ]
        });
        text += &table(
            &["who answers", "SYN-ACKs/s", "rounds", "SYNs/s sent"],
            rates,
        );
        let ratios = self.ratios.iter().map(|ratio| {
            vec![
                format!("{} / {}", ratio.of.label(), ratio.to.label()),
                format!("{:.2}", ratio.ratio),
                format!("{:.1}", ratio.must),
                format!("{:.1}", ratio.aim),
                if ratio.ratio >= ratio.must {
                    "ok"
                } else {
                    "TOO LOW"
                }
                .to_owned(),
            ]
        });
        text += &table(&["ratio", "median", "must", "aim", ""], ratios);
        text += &costs(&self.costs);
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

fn thousands(value: f64) -> String {
    format!("{:.0}k", value / 1e3)
}

/// The table of costs.
pub fn costs(costs: &[Cost]) -> String {
    let rows = costs.iter().map(|cost| {
        vec![
            cost.what.clone(),
            format!("{:.0}", cost.ns),
            thousands(cost.packets as f64),
        ]
    });
    table(
        &[
            "XDP program, by the kernel's account",
            "ns/packet",
            "packets",
        ],
        rows,
    )
}

fn table(header: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_header(header)
        .add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians_ignore_the_order_and_outliers() {
        for (values, expected) in [
            (&[3.0][..], 3.0),
            (&[9.0, 1.0], 5.0),
            (&[1.0, 1000.0, 2.0], 2.0),
        ] {
            assert_eq!(median(values.iter().copied()), expected, "{values:?}");
        }
        assert!(median([]).is_nan());
    }
}
