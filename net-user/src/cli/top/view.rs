//! The screen, from the state alone.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::Style;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Clear, Paragraph, Row, Table, TableState};

use super::selected;
use super::state::State;
use crate::cli::output::{plural, time};
use crate::cli::queues::list::{VERDICT, fit};
use crate::cli::queues::words::{count, gravest, troubles};
use crate::config::Mode;
use crate::control::protocol::Health;
use crate::control::queues::{ListenerQueues, Loss};

/// Less shows nothing that helps.
const LEAST: (u16, u16) = (40, 10);

const HELP: [&str; 20] = [
    "up, down, j, k   select a listener; PageUp, PageDown, Home, End",
    "s                sort by verdict, connections/s, SYNs/s, accept queue, name",
    "p                hold the picture",
    "q, Ctrl-C        end",
    "",
    "SYN QUEUE        handshakes that wait for the client, and their limit",
    "ACCEPT QUEUE     connections that wait for the application; full means that",
    "                 it does not keep up",
    "CONN/S RESET/S   connections completed, and ended other than in order",
    "HANDSHAKE        SYN-ACK to ACK: half of them, 99 of 100",
    "WAIT             mean time from there to accept()",
    "COOKIES          sent/proven/false",
    "DROPS            segments dropped at its sockets",
    "-                the source is missing; `netmoat queues` says why. Blank: none",
    "",
    "`netmoat queues LISTENER` has all there is of one; `netmoat tune` what to",
    "change for it. Sparklines: the newest stands right, one mark each look.",
    "A drop marked (observed) is one that enforce mode would have carried out.",
    "",
    "Any key closes this.",
];

pub(super) fn draw(frame: &mut Frame, state: &State) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("netmoat top needs {}x{}; q quit", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let messages = messages(state);
    let listeners = state.listeners();
    // What the blocks between the first and the last line may take: a quarter for the list, at most a third for
    // what is below, the rest for the listener that was chosen.
    let middle = usize::from(area.height) - 2 - messages.len();
    let rows = listeners.len().clamp(1, (middle / 4).max(3)) + 1;
    let below = match middle {
        0..16 => 0,
        16..32 => 4,
        _ => middle / 4,
    };
    let [first, told, list, chosen, last, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(length(messages.len())),
        Constraint::Length(length(rows)),
        Constraint::Min(0),
        Constraint::Length(length(below)),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header(state, area.width.into())), first);
    let bad = state.paint.bad();
    let lines: Vec<_> = messages
        .into_iter()
        .map(|message| Line::styled(message, bad))
        .collect();
    frame.render_widget(Paragraph::new(lines), told);
    let at = state.chosen(&listeners);
    listed(frame, list, state, &listeners, at);
    if let Some(listener) = listeners.get(at) {
        selected::draw(frame, chosen, state, listener);
    }
    if below > 0 {
        lower(frame, last, state, listeners.get(at).copied());
    }
    let words = format!(
        " q quit  up/down j/k select  s sort: {}  p {}  ? help",
        state.sort.name(),
        if state.paused { "go on" } else { "pause" }
    );
    frame.render_widget(Paragraph::new(words).style(state.paint.head()), keys);
    if state.help {
        help(frame, area, state);
    }
}

fn length(lines: usize) -> u16 {
    u16::try_from(lines).unwrap_or(u16::MAX)
}

/// Where we are and how it is, and the time of the last look at the right.
fn header(state: &State, width: usize) -> Line<'static> {
    let mut spans = vec![Span::styled("netmoat", state.paint.head())];
    let mut right = String::new();
    spans.push(Span::raw(format!(" {}", state.host)));
    if let Some(look) = &state.look {
        let status = &look.status;
        spans.push(Span::raw(match status.mode {
            Mode::Enforce => "  enforce  ",
            Mode::Observe => "  observe  ",
        }));
        spans.push(match status.health {
            Health::Ok => Span::raw("ok"),
            Health::Degraded => Span::styled("degraded", state.paint.bad()),
        });
        let drops = match status.mode {
            Mode::Enforce => status.drops.enforced.per_second,
            Mode::Observe => status.drops.observed.per_second,
        };
        spans.push(Span::raw(format!(
            "  {} drops/s  {}",
            count(drops),
            plural(look.queues.listeners.len() as u64, "listener")
        )));
        // The time of day of an RFC 3339 one.
        let time = time(look.at_ms / 1_000);
        right += time.split('T').nth(1).unwrap_or_default();
    }
    if state.paused {
        spans.push(Span::styled("  PAUSED", state.paint.bad()));
    }
    let left: usize = spans.iter().map(Span::width).sum();
    // Where it does not fit there is none.
    if left + right.len() < width {
        let room = width - left - right.len();
        spans.push(Span::raw(format!("{:room$}{right}", "")));
    }
    Line::from(spans)
}

/// What concerns more than one listener, a line each.
fn messages(state: &State) -> Vec<String> {
    let mut messages = Vec::new();
    if let Some(why) = &state.gone {
        messages.push(format!("No answer, trying on: {why}"));
    }
    let Some(look) = &state.look else {
        return messages;
    };
    if let Some(problem) = look.status.problems.first() {
        let more = match look.status.problems.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more: netmoat status)"),
        };
        messages.push(format!("{problem}{more}"));
    }
    for verdict in troubles(&look.queues.host.verdicts).take(2) {
        messages.push(format!(
            "This host: {}: {}",
            verdict.kind.name(),
            verdict.sentence
        ));
    }
    messages
}

fn listed(frame: &mut Frame, area: Rect, state: &State, listeners: &[&ListenerQueues], at: usize) {
    if listeners.is_empty() {
        let words = "No TCP listener in this network namespace.";
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let columns = fit(listeners, Some(area.width.into()));
    let aligned = |text: &str, column: usize| {
        let width = columns.widths[column];
        if columns.figures[column] {
            format!("{text:>width$}")
        } else {
            text.to_owned()
        }
    };
    let heads = columns.heads.iter().enumerate();
    let heads: Vec<_> = heads.map(|(i, head)| aligned(head, i)).collect();
    let rows = columns.rows.iter().zip(listeners).map(|(row, listener)| {
        let verdict = state.paint.verdict(gravest(listener).map(|v| v.kind));
        let cells = row.iter().enumerate().map(|(i, text)| {
            let style = if columns.heads[i] == VERDICT {
                verdict
            } else {
                Style::new()
            };
            Cell::from(aligned(text, i)).style(style)
        });
        Row::new(cells.collect::<Vec<_>>())
    });
    let widths = columns
        .widths
        .iter()
        .map(|&width| Constraint::Length(length(width)));
    let table = Table::new(rows, widths)
        .header(Row::new(heads).style(state.paint.head()))
        .column_spacing(2)
        .row_highlight_style(state.paint.chosen());
    let mut place = TableState::new().with_selected(at);
    frame.render_stateful_widget(table, area, &mut place);
}

/// Drops by reason, sources of the chosen listener, and what was lost below: side by side where there is room, else
/// below each other.
fn lower(frame: &mut Frame, area: Rect, state: &State, listener: Option<&ListenerQueues>) {
    let [rule, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    let width = usize::from(area.width);
    frame.render_widget(Paragraph::new(state.paint.rule("", width)), rule);
    let blocks = [
        ("Dropped/s", dropped(state)),
        ("Sources", listener.map_or_else(Vec::new, sources)),
        (
            "Loss below",
            state
                .look
                .as_ref()
                .map_or_else(Vec::new, |look| loss(&look.queues.host.loss)),
        ),
    ];
    let side_by_side = area.width >= 100 && rest.height >= 5;
    let parts: [Rect; 3] = if side_by_side {
        Layout::horizontal([Constraint::Fill(1); 3])
            .spacing(2)
            .areas(rest)
    } else {
        Layout::vertical([Constraint::Fill(1); 3]).areas(rest)
    };
    for ((name, items), part) in blocks.into_iter().zip(parts) {
        let lines = if side_by_side {
            let head = Line::styled(name, state.paint.head());
            let none = items.is_empty().then(|| Line::raw("  none"));
            let items = items.into_iter().map(|item| Line::raw(format!("  {item}")));
            std::iter::once(head).chain(none).chain(items).collect()
        } else {
            let items = if items.is_empty() {
                "none".to_owned()
            } else {
                items.join(", ")
            };
            let room = usize::from(part.width).saturating_sub(12);
            let wrapped = crate::cli::output::wrap(&items, room, part.height.into());
            let mut label = name;
            wrapped
                .into_iter()
                .map(|line| {
                    let head = Span::styled(format!("{label:12}"), state.paint.head());
                    label = "";
                    Line::from(vec![head, Span::raw(line)])
                })
                .collect::<Vec<_>>()
        };
        frame.render_widget(Paragraph::new(lines), part);
    }
}

fn dropped(state: &State) -> Vec<String> {
    let reasons = state.dropped.iter();
    reasons
        .map(|reason| format!("{} {}", reason.reason, count(reason.per_second)))
        .collect()
}

fn sources(listener: &ListenerQueues) -> Vec<String> {
    let mut items = Vec::new();
    if let Some(distinct) = listener.distinct_sources {
        items.push(format!("about {} different", count(distinct)));
    }
    items.extend(listener.top_sources.iter().map(|source| {
        let share = source.per_mille;
        format!("{} {}.{}%", source.address, share / 10, share % 10)
    }));
    items
}

fn loss(loss: &Loss) -> Vec<String> {
    let mut items = Vec::new();
    for interface in &loss.interfaces {
        for lost in &interface.lost {
            items.push(format!(
                "{} {} {}",
                interface.name,
                lost.name,
                count(lost.count)
            ));
        }
        if let Some(share) = interface.busiest_queue_per_mille {
            items.push(format!(
                "{} busiest queue {}%",
                interface.name,
                (share + 5) / 10
            ));
        }
    }
    let sum = |of: fn(&crate::control::queues::SoftnetLoss) -> u64| -> u64 {
        loss.softnet.iter().map(of).fold(0, u64::saturating_add)
    };
    for (name, lost) in [
        ("softnet dropped", sum(|cpu| cpu.dropped)),
        ("softnet squeezed", sum(|cpu| cpu.squeezed)),
    ] {
        if lost > 0 {
            items.push(format!("{name} {}", count(lost)));
        }
    }
    items
}

fn help(frame: &mut Frame, area: Rect, state: &State) {
    let widest = HELP.iter().map(|line| line.len()).max().unwrap_or(0);
    let width = length(widest + 4).min(area.width);
    let height = length(HELP.len() + 2).min(area.height);
    let place = Rect {
        x: (area.width - width) / 2,
        y: (area.height - height) / 2,
        width,
        height,
    };
    let rule = state.paint.rule("", width.into());
    let lines = std::iter::once(rule.clone())
        .chain(HELP.iter().map(|line| format!("  {line}")))
        .chain([rule])
        .map(Line::raw);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), place);
}
