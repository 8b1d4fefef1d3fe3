//! What breaks, or is merely unusual, before there is an address.

use serde_json::Value;

use super::Case;
use crate::{
    probe::{
        names::{Names, Server},
        netns_files::NetnsFiles,
        probe,
        web::Site,
    },
    scene::Scene,
};

/// All of them.
pub fn cases() -> Vec<Case> {
    let case = |name, outcome, code, run| Case {
        name,
        layer: (outcome != "ok").then_some("name"),
        outcome,
        code,
        run,
    };
    vec![
        case("name in the hosts file", "ok", None, hosts_file),
        case("name behind an alias", "ok", None, alias),
        case("answer too long for UDP", "ok", None, truncated),
        case(
            "first name server dead",
            "slow",
            Some("name_server_silent"),
            dead_first,
        ),
        case(
            "no name server answers",
            "failed",
            Some("name_timeout"),
            dead,
        ),
        case(
            "name server refuses",
            "failed",
            Some("name_refused"),
            refused,
        ),
        case("name missing", "failed", Some("name_not_found"), missing),
        case(
            "alias of a missing name",
            "failed",
            Some("name_alias_dangling"),
            dangling,
        ),
        case(
            "name without address",
            "failed",
            Some("name_no_address"),
            no_address,
        ),
        case(
            "name server fails",
            "failed",
            Some("name_servfail"),
            servfail,
        ),
        case("signature wrong", "failed", Some("name_bogus"), bogus),
        case("signature expired", "failed", Some("name_bogus"), expired),
        case(
            "TCP to the name server filtered",
            "failed",
            Some("name_tcp_blocked"),
            stuck,
        ),
    ]
}

/// Probes a name from the client, with a real page behind it: by way of the recursive server, unless `words` name another
/// one, or `files` (a name in `/etc/netns/NAME`, and its text from the second line on; `SERVER` is the page's address).
fn page(url: &str, words: &[&str], files: Option<&str>) -> Value {
    let scene = Scene::new();
    let names = Names::start(&scene);
    let web = Site::new()
        .server("listen 80; listen [::]:80;")
        .start(&scene.server.ns);
    let at_dns = names.asked();
    let mut args = vec![url, "--no-checks"];
    args.extend(words);
    let files = files.map(|text| {
        let text = text.replace("SERVER", &scene.server.v4.to_string());
        let (file, text) = text.split_once('\n').unwrap();
        NetnsFiles::new(&scene.client.ns, &[(file, text)])
    });
    if files.is_some() {
        args.extend(["--from-netns", scene.client.ns.name()]);
    } else if !words.contains(&"--dns") {
        args.extend(at_dns.iter().map(String::as_str));
    }
    if words.is_empty() {
        // The recursive server's first way from the roots can be slow on a busy machine.
        probe(&scene.client, &args);
    }
    let report = probe(&scene.client, &args).report;
    drop(web);
    report
}

fn at(server: Server) -> String {
    server.v4().to_string()
}

fn hosts_file() -> Value {
    page("http://intranet/", &[], Some("hosts\nSERVER intranet\n"))
}

fn alias() -> Value {
    page("http://far.shop.test/", &[], None)
}

fn truncated() -> Value {
    page("http://www.big.test/", &[], None)
}

fn dead_first() -> Value {
    let (dead, alive) = (at(Server::DEAD), at(Server::RESOLVER));
    let file = format!("resolv.conf\nnameserver {dead}\nnameserver {alive}\noptions timeout:1\n");
    page("http://www.shop.test/", &[], Some(&file))
}

fn dead() -> Value {
    let words = ["--dns", &at(Server::DEAD), "--timeout", "1s"];
    page("http://www.shop.test/", &words, None)
}

fn refused() -> Value {
    page("http://www.shop.test/", &["--dns", &at(Server::LAME)], None)
}

fn missing() -> Value {
    page("http://nothing.test/", &[], None)
}

fn dangling() -> Value {
    page("http://lost.shop.test/", &[], None)
}

fn no_address() -> Value {
    page("http://text.shop.test/", &[], None)
}

fn servfail() -> Value {
    page("http://www.servfail.test/", &[], None)
}

fn bogus() -> Value {
    page("http://www.bogus.test/", &[], None)
}

fn expired() -> Value {
    page("http://www.expired.test/", &[], None)
}

fn stuck() -> Value {
    let words = ["--dns", &at(Server::STUCK), "--timeout", "2s"];
    page("http://www.stuck.test/", &words, None)
}
