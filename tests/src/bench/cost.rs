//! What a packet costs in a program: the kernel's own account of run time and runs.

use std::{os::fd::OwnedFd, time::Duration};

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use serde::Serialize;

use super::contender::{Contender, PORT, Stage};
use crate::{
    agent::Agent,
    flood::Flood,
    lab::{Generator, Pace},
};

/// Mean cost of one kind of packet.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// For scripts.
    pub name: String,
    /// For people.
    pub what: String,
    /// Nanoseconds a packet, the kernel's own timing (some 20 to 40 ns) included.
    pub ns: f64,
    /// Packets that this is the mean of.
    pub packets: u64,
}

/// The kernel times every program's every run while this lives; also when we are killed it ends.
struct Timed(#[expect(dead_code, reason = "closing it ends the timing")] OwnedFd);

impl Timed {
    fn start() -> Result<Self> {
        Ok(Self(
            enable_stats(Stats::RunTime).context("the kernel does not time programs")?,
        ))
    }
}

/// Measures every kind of packet for `time` each.
///
/// # Errors
/// As [`Stage::new`].
pub fn measure(family: u8, cpu: usize, time: Duration) -> Result<Vec<Cost>> {
    let mut costs = Vec::new();
    let mut add = |name: &str, what: &str, (ns, packets)| {
        costs.push(Cost {
            name: name.to_owned(),
            what: what.to_owned(),
            ns,
            packets,
        });
    };
    let timed = |generator: &Generator, flood: &Flood, program, time| {
        generator.aim(flood)?;
        timed(program, time, |time| {
            generator.run(Pace::FlatOut, u64::MAX, time).map(drop)
        })
    };

    let stage = Stage::new(Contender::Kernel, family, cpu)?;
    let pass = stage
        .pass
        .as_ref()
        .context("the kernel's stage has lab_pass")?
        .id()?;
    let syn = Flood::syn(stage.server(), family, PORT);
    add(
        "pass",
        "a program that only passes",
        timed(&stage.generator, &syn, pass, time)?,
    );
    drop(stage);

    let stage = Stage::new(Contender::NetmoatAuto, family, cpu)?;
    let program = program_id(&stage)?;
    let connection = stage.connect()?;
    // Out of the window: the kernel drops it, and answers twice a second.
    let established = Flood::ack(connection.2, stage.server(), PORT, 0, 0);
    let syn = Flood::syn(stage.server(), family, PORT);
    let false_ack = Flood::false_ack(stage.server(), family, PORT);
    let mut run = |name: &str, what: &str, flood: &Flood| -> Result<()> {
        add(name, what, timed(&stage.generator, flood, program, time)?);
        Ok(())
    };
    run(
        "established_peace",
        "netmoat: segment of a connection, in peace",
        &established,
    )?;
    run("syn_auto", "netmoat: SYN answered, mode auto", &syn)?;
    run(
        "established_cookies",
        "netmoat: segment of a connection, cookies active",
        &established,
    )?;
    run("false_ack", "netmoat: false ACK dropped", &false_ack)?;
    drop(connection);
    drop(stage);

    let stage = Stage::new(Contender::NetmoatAlways, family, cpu)?;
    let (program, syn) = (
        program_id(&stage)?,
        Flood::syn(stage.server(), family, PORT),
    );
    add(
        "syn_always",
        "netmoat: SYN answered, mode always",
        timed(&stage.generator, &syn, program, time)?,
    );
    Ok(costs)
}

fn program_id(stage: &Stage) -> Result<u32> {
    xdp_program(stage.agent.as_ref().context("this stage has an agent")?)
}

/// Id of the agent's XDP program.
///
/// # Errors
/// The agent does not answer.
pub fn xdp_program(agent: &Agent) -> Result<u32> {
    Ok(agent
        .status()?
        .interfaces
        .first()
        .context("the agent is attached nowhere")?
        .xdp_program_id)
}

/// Floods for `time`, and divides the program's run time by its runs.
///
/// # Errors
/// The flood's, or no packet arrived.
pub fn timed(
    program: u32,
    time: Duration,
    mut flood: impl FnMut(Duration) -> Result<()>,
) -> Result<(f64, u64)> {
    // Caches and the branch predictor get to know it first; a budget is used up.
    flood(time / 10)?;
    let _timed = Timed::start()?;
    let before = account(program)?;
    flood(time)?;
    let after = account(program)?;
    let (ns, packets) = (after.0 - before.0, after.1 - before.1);
    ensure!(packets > 0, "no packet of the flood reached the program");
    Ok((ns as f64 / packets as f64, packets))
}

/// Nanoseconds and runs of a program so far.
fn account(id: u32) -> Result<(u64, u64)> {
    for program in loaded_programs() {
        let program = program?;
        if program.id() == id {
            return Ok((
                u64::try_from(program.run_time().as_nanos())?,
                program.run_count(),
            ));
        }
    }
    anyhow::bail!("program {id} is gone")
}
