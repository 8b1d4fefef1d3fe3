//! What operators do to a running defence, in the middle of a flood.
use std::time::Duration;

use net_tests::{
    lab::Generator,
    scene::{ALWAYS, PORT, Scene},
    vigil::{self, Vigil, stranger_gets_in},
};

#[test]
fn baseline() {
    let scene = Scene::new();
    assert!(stranger_gets_in(&scene, 4, Duration::from_secs(5)));
    let agent = scene.protect(&(vigil::block(&scene) + ALWAYS));
    let generator = Generator::new(&scene.attacker).unwrap();
    let flooding = scene.flood(&generator, 4, PORT);
    for _ in 0..3 {
        let vigil = Vigil::begin(&scene, 4);
        std::thread::sleep(Duration::from_secs(4));
        let seen = vigil.end();
        eprintln!("{seen:#?}");
    }
    flooding.stop().unwrap();
    drop(agent);
}
