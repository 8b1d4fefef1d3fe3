//! ARP and NDP against real tools.

mod agent;
mod floods;
mod honest;
mod moves;
mod probes;
mod routers;
mod siege;
mod spoof;
