//! Families about the agent's own probes. The label is a name of the config, of which there are few.

use std::fmt;

use prometheus_client::registry::Unit;

use super::{exposition::Page, page::flag};
use crate::{
    control::probes::{LastWalk, ProbeStatus, Probes},
    probe::Outcome,
};

pub(super) fn write(page: &mut Page<'_>, probes: &Probes) -> fmt::Result {
    let all = || probes.probes.iter();
    let walked = || all().filter_map(|probe| Some((probe, probe.last.as_ref()?)));
    page.gauges(
        "probe_up",
        None,
        "1 while a probe gets through, 0 from the second walk in a row on that failed",
        all().filter_map(|probe| Some((label(probe), flag(probe.state? != Outcome::Failed)))),
    )?;
    page.gauges(
        "probe_outcome",
        None,
        "How the last walk of a probe ended: 0 ok, 1 slow, 2 wrong, 3 failed",
        walked().map(|(probe, last)| (label(probe), last.outcome as u32)),
    )?;
    page.gauges(
        "probe_duration",
        Some(Unit::Seconds),
        "What a user waits for the page, in the last walk of a probe",
        walked().map(|(probe, last)| (label(probe), seconds(last.waited_us))),
    )?;
    page.gauges(
        "probe_stage",
        Some(Unit::Seconds),
        "How long a layer took in the last walk of a probe, all redirects together",
        walked().flat_map(|(probe, last)| {
            let stages = stages(last).into_iter();
            stages.map(|(layer, duration_us)| {
                let [name] = label(probe);
                ([name, ("layer", layer.to_owned())], seconds(duration_us))
            })
        }),
    )?;
    page.gauges(
        "probe_last_walk_timestamp",
        Some(Unit::Seconds),
        "When the last walk of a probe began, since 1970",
        walked().map(|(probe, last)| (label(probe), last.started_ms as f64 / 1e3)),
    )?;
    page.counters(
        "probe_walks",
        None,
        "Walks of a probe that ended",
        all().map(|probe| (label(probe), probe.walks)),
    )?;
    page.counters(
        "probe_failures",
        None,
        "Walks of a probe that failed",
        all().map(|probe| (label(probe), probe.failures)),
    )
}

fn label(probe: &ProbeStatus) -> [(&'static str, String); 1] {
    [("probe", probe.name.clone())]
}

/// Each layer once.
fn stages(last: &LastWalk) -> Vec<(&'static str, u64)> {
    let fetches = last.report.iter().flat_map(|report| &report.fetches);
    let mut stages: Vec<(&str, u64)> = Vec::new();
    for stage in fetches.flat_map(|fetch| &fetch.stages) {
        let layer = stage.layer.word();
        match stages.iter_mut().find(|(known, _)| *known == layer) {
            Some((_, sum)) => *sum += stage.duration_us,
            None => stages.push((layer, stage.duration_us)),
        }
    }
    stages
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}
