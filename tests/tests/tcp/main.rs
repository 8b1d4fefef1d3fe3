//! TCP behind SYN cookies: real stacks, real floods.

mod accept_queue;
mod attacks;
mod batches;
mod cookies;
mod fast_open;
mod flood;
mod left_to_kernel;
mod options;
mod sockets;
mod transfer;
