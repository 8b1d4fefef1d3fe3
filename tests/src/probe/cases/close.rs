//! Close: in order from either side, with a RST, not at all. None of these takes anything from the page.

use serde_json::Value;

use super::{Case, tcp::url};
use crate::{
    probe::{
        probe,
        site::{End, Site},
    },
    scene::{PORT, Scene},
};

/// All of this layer.
pub fn cases() -> Vec<Case> {
    let case = |name, run| Case {
        name,
        layer: None,
        outcome: "ok",
        code: None,
        run,
    };
    vec![
        case("client closes first", client),
        case("server closes first", server),
        case("reset after the page", reset),
        case("server never closes", never),
    ]
}

/// Fetches a page of a site whose connections end so.
pub fn ending(end: End) -> Value {
    let scene = Scene::new();
    let at = scene.server.at(4, PORT);
    let _site = Site::start(&scene.server.ns, at, end, 10);
    probe(&scene.client, &["--no-checks", &url(&scene)]).report
}

fn client() -> Value {
    ending(End::Client)
}

fn server() -> Value {
    ending(End::Server)
}

fn reset() -> Value {
    ending(End::Reset)
}

fn never() -> Value {
    ending(End::Never)
}
