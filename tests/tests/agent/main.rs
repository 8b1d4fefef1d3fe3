//! The agent: its life, its interfaces, what it is told and what it says.

mod budget;
mod capture;
mod confirm;
mod drop_events;
mod explain;
mod instances;
mod interfaces;
mod lives;
mod logs;
mod metrics;
mod pins;
mod privileges;
mod production;
mod reconcile;
mod refuses;
mod reload;
mod restart;
mod service_manager;
