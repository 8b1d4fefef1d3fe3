//! Metric families in the text of OpenMetrics 1.0, and the same in the older text of Prometheus.

use std::fmt;

use prometheus_client::{
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, MetricEncoder, NoLabelSet,
    },
    metrics::MetricType,
    registry::Unit,
};

/// Names of labels with their values.
pub(super) type Labels<const N: usize> = [(&'static str, String); N];

/// A page that is being written.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// A family of gauges.
    pub(super) fn gauges<const N: usize, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<N>, V)>,
    ) -> fmt::Result {
        self.family(
            name,
            unit,
            help,
            MetricType::Gauge,
            rows,
            |metric, value| metric.encode_gauge(value),
        )
    }

    /// One gauge without labels.
    pub(super) fn gauge<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: V,
    ) -> fmt::Result {
        self.gauges(name, unit, help, [([], value)])
    }

    /// A family of counters; `_total` is added to the name.
    pub(super) fn counters<const N: usize, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        rows: impl IntoIterator<Item = (Labels<N>, V)>,
    ) -> fmt::Result {
        self.family(
            name,
            unit,
            help,
            MetricType::Counter,
            rows,
            |metric, value| metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        )
    }

    /// One counter without labels.
    pub(super) fn counter<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        value: V,
    ) -> fmt::Result {
        self.counters(name, unit, help, [([], value)])
    }

    fn family<const N: usize, V>(
        &mut self,
        name: &str,
        unit: Option<Unit>,
        help: &str,
        kind: MetricType,
        rows: impl IntoIterator<Item = (Labels<N>, V)>,
        encode: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), kind)?;
        for (labels, value) in rows {
            if N == 0 {
                encode(&mut metric, &value)?;
            } else {
                encode(&mut metric.encode_family(&labels)?, &value)?;
            }
        }
        Ok(())
    }
}

/// The same page as Prometheus read it before OpenMetrics (text format 0.0.4): a counter's family bears the name of its
/// samples, and units and the end are not told.
pub(super) fn classic(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help = None;
    for line in open.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            help = of.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|of| of.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, words)) = help.take() {
                text += &format!("# HELP {name}{suffix} {words}\n");
            }
            text += &format!("# TYPE {name}{suffix} {kind}\n");
        } else if !line.starts_with('#') {
            text += line;
            text.push('\n');
        }
    }
    text
}
