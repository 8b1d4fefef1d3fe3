//! Queues of real listeners, and what is said of them.

mod cost;
mod figures;
mod floods;
mod flows;
mod listeners;
mod once;
mod states;
mod top;
mod tune;
mod verdicts;
