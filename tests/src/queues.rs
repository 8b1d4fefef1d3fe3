//! Applications that behave badly, clients in numbers, what `ss` and `nstat` say of them, and what netmoat does. Made for
//! tests: whatever fails panics.

pub mod app;
pub mod traffic;
pub mod truth;
pub mod watch;

use std::net::SocketAddr;

use crate::scene::Scene;

/// A second application's port.
pub const OTHER: u16 = 8081;
/// The kernel answers alone.
pub const OFF: &str = "[syn]\nmode = \"off\"";

/// Where both applications of the server listen: [`crate::scene::PORT`] and [`OTHER`].
pub fn both(scene: &Scene, family: u8) -> [SocketAddr; 2] {
    [crate::scene::PORT, OTHER].map(|port| scene.server.at(family, port))
}
