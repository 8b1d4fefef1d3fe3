//! Who is connected by SSH is found by sshd's name too. In a file of its own, as this process is called so.

use std::fs;

use net_tests::{
    lists::{done, refused},
    scene::{Scene, accept, dial, listener},
};

#[test]
fn the_peer_of_an_sshd_on_any_port_is_not_blocked_unasked() {
    let scene = Scene::new();
    let server = &scene.server;
    let agent = scene.protect("");
    let sshd = server.ns.run(|| listener(server.at(6, 2022), 8, false));
    let _session = dial(&scene.client, server.at(6, 2022));
    let _accepted = accept(&sshd);
    let peer = scene.client.v6;
    done(&agent, &format!("block add {peer}"));
    done(&agent, &format!("block del {peer}"));
    for name in ["sshd", "sshd-session"] {
        fs::write("/proc/self/comm", name).unwrap();
        let said = refused(&agent, &format!("block add {peer}"));
        assert!(
            said.contains("connected by SSH") && said.contains(&peer.to_string()),
            "{said}"
        );
    }
    // Whoever was allowed may be blocked.
    done(&agent, &format!("allow add {peer}"));
    done(&agent, &format!("block add {peer}"));
}
