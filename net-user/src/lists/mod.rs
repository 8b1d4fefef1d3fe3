//! Block and allow lists.

pub mod memory;
