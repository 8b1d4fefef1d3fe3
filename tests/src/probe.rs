//! `netmoat probe` as a user runs it, and what there is to probe.

pub mod cases;
pub mod certificates;
pub mod names;
pub mod netns_files;
pub mod script;
pub mod site;
pub mod web;

use std::process::Command;

use crate::{netns::Namespace, topology::Host};

/// What one probe gave.
#[derive(Debug)]
pub struct Probed {
    /// The report (`-o json`).
    pub report: serde_json::Value,
    /// The exit code.
    pub code: i32,
    /// What it wrote to standard error.
    pub errors: String,
}

/// Probes from a host, without an agent unless `args` name its socket.
pub fn probe(host: &Host, args: &[&str]) -> Probed {
    probe_from(&host.ns, args)
}

/// Probes from a namespace.
pub fn probe_from(ns: &Namespace, args: &[&str]) -> Probed {
    let mut command = Command::new(crate::process::workspace_binary("netmoat").unwrap());
    command.args(["probe", "-o", "json"]).args(args);
    let output = ns.run(|| command.output()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {args:?}: {errors}"));
    Probed {
        report,
        code: output.status.code().unwrap_or(-1),
        errors,
    }
}

impl Probed {
    /// The stage of a layer in the last fetch.
    pub fn stage(&self, layer: &str) -> &serde_json::Value {
        self.report["fetches"]
            .as_array()
            .and_then(|fetches| fetches.last())
            .and_then(|fetch| fetch["stages"].as_array())
            .and_then(|stages| stages.iter().find(|stage| stage["layer"] == layer))
            .unwrap_or_else(|| panic!("no stage {layer}: {:#}", self.report))
    }

    /// Panics unless the walk ended so.
    pub fn expect(&self, outcome: &str, layer: Option<&str>, code: Option<&str>) -> &Self {
        let told = (
            &self.report["outcome"],
            &self.report["layer"],
            &self.report["code"],
        );
        assert_eq!(
            told,
            (&outcome.into(), &layer.into(), &code.into()),
            "{:#}",
            self.report
        );
        self
    }
}
