//! What breaks on the way from the roots to a name: `--trace-dns` tells which server of which zone it is.

use serde_json::Value;

use super::Case;
use crate::{
    probe::{
        names::{Names, Server},
        probe,
        web::Site,
    },
    scene::Scene,
};

/// All of them.
pub fn cases() -> Vec<Case> {
    let case = |name, outcome, code, run| Case {
        name,
        layer: Some("name"),
        outcome,
        code: Some(code),
        run,
    };
    vec![
        Case {
            name: "signed name from the roots",
            layer: None,
            outcome: "ok",
            code: None,
            run: || traced("www.shop.test"),
        },
        Case {
            name: "servers of a zone far away in the tree",
            layer: None,
            outcome: "ok",
            code: None,
            run: || traced("www.away.test"),
        },
        Case {
            name: "local name in a signed zone",
            layer: None,
            outcome: "ok",
            code: None,
            run: || traced("nas.shop.test"),
        },
        case("lame delegation", "wrong", "dns_lame", || {
            traced("www.lame.test")
        }),
        case("every server lame", "failed", "dns_lame", || {
            traced("www.lost.test")
        }),
        case("one server dead", "wrong", "dns_dead_server", || {
            traced("www.dead.test")
        }),
        case("every server dead", "failed", "dns_dead_server", || {
            traced("www.gone.test")
        }),
        case("one server slow", "slow", "dns_slow", || {
            traced("www.slow.test")
        }),
        case("zone not loaded", "failed", "dns_servfail", || {
            traced("www.servfail.test")
        }),
        case("name missing, traced", "failed", "dns_nxdomain", || {
            traced("nothing.test")
        }),
        case(
            "TCP filtered, answer long",
            "failed",
            "dns_tcp_filtered",
            || traced("www.stuck.test"),
        ),
        case("glue missing", "failed", "dns_missing_glue", || {
            traced("www.noglue.test")
        }),
        case("aliases in a circle", "failed", "dns_alias_loop", || {
            traced("www.loop.test")
        }),
        case(
            "another key than the parent's",
            "failed",
            "dns_bogus",
            || traced("www.nokey.test"),
        ),
        case("zone changed on one server", "wrong", "dns_differs", || {
            unchecked("www.differ.test")
        }),
        case(
            "signatures over, resolver lax",
            "wrong",
            "dns_bogus",
            || unchecked("www.expired.test"),
        ),
    ]
}

fn traced(name: &str) -> Value {
    fetched(name, &[])
}

/// By a server that does not validate.
fn unchecked(name: &str) -> Value {
    fetched(name, &["--dns", &Server::FIRST.v4().to_string()])
}

fn fetched(name: &str, instead: &[&str]) -> Value {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let _web = Site::new()
        .server("listen 80; listen [::]:80;")
        .start(&scene.server.ns);
    let url = format!("http://{name}/");
    let words = names.traced();
    // --dns and its server come first.
    let (asked, traced) = words.split_at(2);
    let mut args = vec![url.as_str(), "--no-checks", "--no-agent"];
    match instead {
        [] => args.extend(asked.iter().map(String::as_str)),
        _ => args.extend(instead),
    }
    args.extend(traced.iter().map(String::as_str));
    probe(&scene.client, &args).report
}
