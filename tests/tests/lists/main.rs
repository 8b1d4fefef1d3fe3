//! Block and allow lists in the agent.

mod agent;
mod import;
