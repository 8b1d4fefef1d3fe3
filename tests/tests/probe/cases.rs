//! What `netmoat probe` says of each way that is broken, and of those that are not: a test a layer, each of which prints
//! its table.

use std::panic::{AssertUnwindSafe, catch_unwind};

use comfy_table::{ContentArrangement, Table, presets};
use net_tests::probe::cases::{self, Case};

/// Runs them one after the other; prints what each came to, and fails when any came to anything else.
fn all(cases: Vec<Case>) {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["CASE", "LAYER", "OUTCOME", "CODE", "VERDICT"]);
    let mut failures = Vec::new();
    for case in cases {
        // The next ones are tried in any case.
        let report = catch_unwind(AssertUnwindSafe(case.run)).unwrap_or_default();
        let told = ["layer", "outcome", "code", "verdict"].map(|field| {
            let word = report[field].as_str();
            word.unwrap_or("-").to_owned()
        });
        let wanted = [
            case.layer.unwrap_or("-"),
            case.outcome,
            case.code.unwrap_or("-"),
        ];
        if told[..3] != wanted {
            failures.push(format!("{}: wanted {wanted:?}: {report:#}", case.name));
        }
        table.add_row([vec![case.name.to_owned()], told.to_vec()].concat());
    }
    println!("{}", table.trim_fmt());
    assert!(!table.is_empty(), "no case at all");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn every_way_that_a_name_breaks_is_told_as_such() {
    all(cases::name::cases());
}

#[test]
fn every_way_that_leads_nowhere_or_to_somebody_else_is_told_as_such() {
    all(cases::route::cases());
}

#[test]
fn every_way_that_a_connection_fails_or_is_late_is_told_as_such() {
    all(cases::tcp::cases());
}

#[test]
fn no_way_that_a_connection_ends_takes_anything_from_the_page() {
    all(cases::close::cases());
}

#[test]
fn every_way_that_breaks_at_the_servers_host_is_told_by_its_agent() {
    all(cases::agent::cases());
}

#[test]
fn every_way_that_tls_breaks_is_told_as_such() {
    all(cases::tls::cases());
}

#[test]
fn every_way_that_http_breaks_is_told_as_such() {
    all(cases::http::cases());
}

#[test]
fn what_is_broken_between_the_roots_and_a_zone_is_found_by_the_trace() {
    all(cases::trace::cases());
}

#[test]
fn nothing_is_said_to_be_wrong_with_sites_that_are_sound() {
    all(cases::honest::cases());
}
