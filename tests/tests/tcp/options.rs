//! C-13: whatever options a client has, a cookie agrees what the kernel alone would have agreed, as far as
//! the cookie carries it.

use std::net::{SocketAddr, TcpListener};

use net_common::{
    cookie::{MSS_V4, MSS_V6},
    verdict::Reason,
};
use net_tests::{
    scene::{ALWAYS, Info, PORT, Scene, assert_sound, talk},
    topology::Host,
};

/// A client's settings.
#[derive(Clone, Copy, Debug)]
struct Settings {
    family: u8,
    timestamps: bool,
    sack: bool,
    window_scaling: bool,
    ecn: bool,
    mss: u32,
}

impl Settings {
    /// Every combination; the MSS values stand at the steps of the table and between them.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for (family, values) in [
            (4, [1460, 1459, 1400, 1300, 1000, 536]),
            (6, [1440, 1439, 1420, 1300, 1221, 1220]),
        ] {
            for mss in values {
                for bits in 0..16 {
                    let bit = |n: u8| bits >> n & 1 == 1;
                    let (timestamps, sack, window_scaling, ecn) = (bit(0), bit(1), bit(2), bit(3));
                    all.push(Self {
                        family,
                        timestamps,
                        sack,
                        window_scaling,
                        ecn,
                        mss,
                    });
                }
            }
        }
        all
    }

    fn apply(&self, client: &Host, to: SocketAddr) {
        for (name, value) in [
            ("timestamps", self.timestamps),
            ("sack", self.sack),
            ("window_scaling", self.window_scaling),
            ("ecn", self.ecn),
        ] {
            let value = u8::from(value).to_string();
            client
                .ns
                .sysctl(&format!("net.ipv4.tcp_{name}"), &value)
                .unwrap();
        }
        let (to, dev, mss) = (to.ip(), &client.link.name, self.mss);
        client
            .ns
            .ip(&format!("route replace {to} dev {dev} advmss {mss}"))
            .unwrap();
    }

    /// The MSS as a cookie carries it.
    fn carried_mss(&self) -> u32 {
        let table = if self.family == 4 { MSS_V4 } else { MSS_V6 };
        table
            .into_iter()
            .map(u32::from)
            .rfind(|&mss| mss <= self.mss)
            .unwrap()
    }

    /// What a cookie makes of a connection that the kernel alone makes so, on the server's end or the
    /// client's.
    fn carried(&self, alone: Info, on_server: bool) -> Info {
        let mut want = alone;
        if on_server {
            let timestamps = if self.timestamps { 12 } else { 0 };
            assert_eq!(alone.snd_mss, self.mss - timestamps, "the kernel itself");
            want.snd_mss = self.carried_mss() - timestamps;
        }
        if !self.timestamps {
            (want.options, want.snd_wscale, want.rcv_wscale) = (0, 0, 0);
        }
        want
    }
}

/// What both ends know of a connection before anything is said, the server's first.
fn agreed(scene: &Scene, listener: &TcpListener, settings: &Settings) -> [Info; 2] {
    settings.apply(&scene.client, scene.server.at(settings.family, PORT));
    let (mut client, mut server) = scene.connect(listener, settings.family);
    let mut both = [Info::of(&server), Info::of(&client)];
    talk(&mut client, &mut server);
    // The kernel rounds the window that it advertises to the segments that it expects, and those are longer
    // without timestamps. What the client's window is follows from the client's kernel alone.
    if !settings.timestamps {
        both[1].snd_wnd = 0;
    }
    both[0].snd_wnd = 0;
    both
}

#[test]
fn c_13_every_combination_of_options_is_agreed_as_the_kernel_alone_agrees_it() {
    let scene = Scene::new();
    let [v4, v6] = [4, 6].map(|family| scene.listen(family));
    let listener = |s: &Settings| if s.family == 4 { &v4 } else { &v6 };
    let all = Settings::all();
    let alone: Vec<_> = all.iter().map(|s| agreed(&scene, listener(s), s)).collect();
    assert!(
        alone.iter().any(|[server, _]| server.options == 15),
        "all four at once"
    );

    let agent = scene.protect(ALWAYS);
    agent.await_listener(PORT, true).unwrap();
    for (settings, alone) in all.iter().zip(alone) {
        let [server, client] = agreed(&scene, listener(settings), settings);
        assert_eq!(
            server,
            settings.carried(alone[0], true),
            "{settings:?}, the server's end"
        );
        assert_eq!(
            client,
            settings.carried(alone[1], false),
            "{settings:?}, the client's end"
        );
    }
    assert_eq!(
        agent.packets(Reason::HandshakeMade).unwrap(),
        all.len() as u64
    );
    assert_eq!(agent.packets(Reason::CookieFalse).unwrap(), 0);
    assert_sound(&agent);
}
