//! The control socket: HTTP and JSON over a Unix socket (`curl --unix-socket` works), its verbs and
//! types ([`protocol`]), the agent's side ([`server`]) and the command line's ([`client`]).

pub mod bind;
pub mod changes;
pub mod client;
pub mod drops;
pub mod lists;
pub mod probes;
pub mod protocol;
pub mod queues;
pub mod server;
pub mod watch;
