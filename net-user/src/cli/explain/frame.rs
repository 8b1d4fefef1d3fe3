//! `netmoat explain --frame`

use std::{
    io::IsTerminal as _,
    time::{Duration, Instant},
};

use anyhow::anyhow;
use net_common::verdict::Reason;
use serde::{Serialize, Serializer, ser::Error as _};

use super::input::{self, Packet};
use crate::cli::output::{Output, Tone, age, plural, table, tone};
use crate::cli::{Code, Failure, block_on};
use crate::config::Mode;
use crate::control::client::Client;
use crate::control::drops::{ExplainFrame, FrameExplained, MAX_FRAME, MIN_FRAME, hex};
use crate::control::protocol::VERSION;
use crate::reasons::{rules, share_words, stage_of};

/// How often it is said how far it is.
const PROGRESS: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct FramesJson {
    version: u32,
    frames: Vec<FrameJson>,
}

/// One frame; `error` in place of all else where it could not be tried.
#[derive(Serialize)]
struct FrameJson {
    packet: usize,
    /// Octets that were made up, as the capture has cut them off.
    cut: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten)]
    told: Option<Told>,
}

#[derive(Serialize)]
struct Told {
    #[serde(flatten, serialize_with = "without_version")]
    explained: FrameExplained,
    stage: &'static str,
    rules: Vec<&'static str>,
    meaning: &'static str,
    remedy: &'static str,
}

/// The version stands once, outside.
fn without_version<S: Serializer>(
    explained: &FrameExplained,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut value = serde_json::to_value(explained).map_err(S::Error::custom)?;
    if let Some(fields) = value.as_object_mut() {
        fields.remove("version");
    }
    value.serialize(serializer)
}

pub(in crate::cli) fn explain(
    client: &Client,
    out: &Output,
    source: &str,
    interface: Option<&str>,
    only: Option<usize>,
) -> Result<Code, Failure> {
    let packets = input::read(source, only).map_err(|error| Failure::new(Code::Error, error))?;
    let total = packets.len();
    let frames = block_on::<_, Failure>(async {
        let mut frames = Vec::with_capacity(total);
        let mut said = Instant::now();
        for packet in packets {
            frames.push(try_one(client, packet, interface).await?);
            if said.elapsed() >= PROGRESS && std::io::stderr().is_terminal() {
                said = Instant::now();
                eprintln!("netmoat: {} of {total} packets", frames.len());
            }
        }
        Ok(frames)
    })?;
    // One alone fails as a whole.
    if let [
        FrameJson {
            error: Some(why), ..
        },
    ] = frames.as_slice()
    {
        return Err(Failure::new(Code::Error, anyhow!("{why}")));
    }
    let failed = frames.iter().any(|frame| frame.error.is_some());
    out.print(
        &FramesJson {
            version: VERSION,
            frames,
        },
        human,
    )?;
    Ok(if failed { Code::Error } else { Code::Ok })
}

async fn try_one(
    client: &Client,
    packet: Packet,
    interface: Option<&str>,
) -> Result<FrameJson, Failure> {
    let len = packet.octets.len();
    let mut frame = FrameJson {
        packet: packet.number,
        cut: packet.cut,
        error: None,
        told: None,
    };
    if len < MIN_FRAME {
        frame.error = Some(format!(
            "the frame has {len} octets, fewer than an Ethernet header's {MIN_FRAME}; give all of it, from its \
             destination MAC on"
        ));
    } else if len > MAX_FRAME {
        frame.error = Some(format!(
            "the frame has {len} octets, and {MAX_FRAME} are the most that can be tried; cut it (the headers decide), \
             or capture with segmentation offloads off"
        ));
    } else {
        let asked = ExplainFrame {
            frame: hex(&packet.octets),
            interface: interface.map(str::to_owned),
        };
        frame.told = Some(told(client.explain(&asked).await?));
    }
    Ok(frame)
}

fn told(explained: FrameExplained) -> Told {
    // An agent of another version may know reasons that we do not.
    let known = Reason::from_number(explained.code).filter(|r| r.name() == explained.reason);
    Told {
        stage: known.map_or("", |reason| stage_of(reason).name),
        rules: known.map(rules).unwrap_or_default(),
        meaning: known.map_or("a reason that this version does not know", Reason::describe),
        remedy: known.map_or("", |reason| stage_of(reason).remedy),
        explained,
    }
}

fn human(frames: &FramesJson) -> String {
    match frames.frames.as_slice() {
        [
            FrameJson {
                cut,
                told: Some(told),
                ..
            },
        ] => one(told, *cut),
        frames => many(frames),
    }
}

fn verdict(told: &Told) -> String {
    match told.explained.verdict.as_str() {
        "drop" => tone("drop", Tone::Bad),
        "pass" => tone("pass", Tone::Good),
        other => tone(other, Tone::Plain),
    }
}

fn one(told: &Told, cut: usize) -> String {
    let e = &told.explained;
    let mode = match e.mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    };
    let mut rows = vec![
        ("Frame", format!("{}, on {}", e.seen.line, e.interface)),
        ("Verdict", verdict(told)),
        ("Reason", format!("{} ({})", e.reason, e.code)),
        ("Meaning", told.meaning.to_owned()),
        (
            "Refused by",
            e.share
                .as_deref()
                .and_then(share_words)
                .unwrap_or_default()
                .to_owned(),
        ),
        ("Stage", told.stage.to_owned()),
        ("Rules", told.rules.join(", ")),
        ("Mode", mode.to_owned()),
    ];
    if e.observed {
        rows.push((
            "Observed",
            format!("in enforce mode it would be: {}", e.action),
        ));
    }
    for entry in &e.listed {
        let left = entry
            .left_s
            .map_or_else(|| "for good".to_owned(), |s| format!("{} left", age(s)));
        let why = match entry.reason.as_str() {
            "" => String::new(),
            // Control characters only: quotes are what someone wrote, as `netmoat block list` shows them.
            why => format!(": {}", printable(why)),
        };
        rows.push((
            "Listed",
            format!(
                "{} in {}, {left}{why}",
                entry.entry,
                entry.origin.escape_debug()
            ),
        ));
    }
    if cut > 0 {
        rows.push((
            "Cut",
            format!("the last {cut} octets are not in the capture, and were taken for zeros"),
        ));
    }
    if e.action == "drop" {
        rows.push(("If honest", told.remedy.to_owned()));
    }
    rows.into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| format!("{name:<11}{text}\n"))
        .collect()
}

fn printable(text: &str) -> String {
    let escape = |c: char| match c {
        c if c.is_control() => c.escape_debug().to_string(),
        c => c.to_string(),
    };
    text.chars().map(escape).collect()
}

fn many(frames: &[FrameJson]) -> String {
    let rows = frames.iter().map(|frame| {
        let number = frame.packet.to_string();
        match &frame.told {
            Some(told) => {
                let e = &told.explained;
                let observed = if e.observed { "yes" } else { "no" };
                let reason = format!("{} ({})", e.reason, e.code);
                let stage = told.stage.to_owned();
                vec![
                    number,
                    verdict(told),
                    reason,
                    stage,
                    observed.to_owned(),
                    e.seen.line.clone(),
                ]
            }
            None => {
                let error = frame.error.clone().unwrap_or_default();
                let none = || "-".to_owned();
                vec![number, none(), none(), none(), none(), error]
            }
        }
    });
    let header = ["PACKET", "VERDICT", "REASON", "STAGE", "OBSERVED", "FRAME"];
    format!(
        "{}.\n\n{}",
        plural(frames.len() as u64, "packet"),
        table(&header, &[0], rows)
    )
}
