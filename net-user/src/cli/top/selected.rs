//! The listener that was chosen: what is going on, and its figures.

use std::collections::VecDeque;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, Sparkline};

use super::state::{History, State};
use crate::cli::output::{time, wrap};
use crate::cli::queues::words::{
    count, count_or_dash, gravest, millis, name, processes, stages, widest,
};
use crate::control::queues::{ListenerQueues, States, Verdict};

/// Cells of the funnel: name, figure, bar.
const FUNNEL: [usize; 3] = [24, 5, 9];
/// Stages that a low screen can do without.
const DISPENSABLE: [&str; 2] = ["not answered", "of these by a cookie"];

pub(super) fn draw(frame: &mut Frame, area: Rect, state: &State, listener: &ListenerQueues) {
    let width = usize::from(area.width);
    let verdict = gravest(listener);
    // At 24 lines four for the verdict leave eight for the figures.
    let room = usize::from(area.height);
    let most = if room < 13 { 4 } else { room / 3 };
    let words = verdict.map_or_else(|| vec!["No verdict.".to_owned()], |v| told(v, width, most));
    let [rule, text, figures] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(u16::try_from(words.len()).unwrap_or(u16::MAX)),
        Constraint::Min(0),
    ])
    .areas(area);
    let style = state.paint.verdict(verdict.map(|v| v.kind));
    let head = state.paint.rule(&title(listener, verdict), width);
    frame.render_widget(Paragraph::new(head).style(style), rule);
    let lines: Vec<_> = words.into_iter().map(Line::raw).collect();
    frame.render_widget(Paragraph::new(lines), text);
    let left = FUNNEL.iter().sum::<usize>() + 2;
    let [funnel_area, rest] = Layout::horizontal([
        Constraint::Length(u16::try_from(left).unwrap_or(u16::MAX)),
        Constraint::Min(0),
    ])
    .spacing(1)
    .areas(figures);
    frame.render_widget(
        Paragraph::new(funnel(state, listener, figures.height.into())),
        funnel_area,
    );
    meters(frame, rest, state, listener);
}

fn title(listener: &ListenerQueues, verdict: Option<&Verdict>) -> String {
    let mut title = name(listener);
    if let Some(owner) = processes(listener) {
        title += &format!(" {owner}");
    }
    if let Some(verdict) = verdict {
        let since = time(verdict.since);
        title += &format!(
            ": {}, {} confidence, since {}",
            verdict.kind.name(),
            verdict.confidence.name(),
            since.split('T').nth(1).unwrap_or(&since)
        );
    }
    title
}

/// The sentence, the first fix, and as much of the evidence as there is room for.
fn told(verdict: &Verdict, width: usize, most: usize) -> Vec<String> {
    let mut lines = wrap(&verdict.sentence, width, most.div_ceil(2));
    let mut rest = Vec::new();
    for fix in verdict.fixes.iter().take(1) {
        let command = fix.command.as_deref();
        let command = command.map_or(String::new(), |command| format!(": {command}"));
        rest.push(format!("Fix: {}{command}", fix.what));
    }
    rest.extend(verdict.evidence.iter().map(|e| format!("- {e}")));
    for text in rest {
        let room = most.saturating_sub(lines.len());
        lines.extend(wrap(&text, width, room));
    }
    lines
}

fn funnel(state: &State, listener: &ListenerQueues, height: usize) -> Vec<Line<'static>> {
    let whole = widest(listener);
    let stages = stages(listener).into_iter();
    let shown = stages.filter(|stage| height >= 10 || !DISPENSABLE.contains(&stage.0));
    let [label, figure, bar] = FUNNEL;
    shown
        .map(|(name, inset, value)| {
            let name = format!("{:1$}{name}", "", inset * 2);
            Line::from(vec![
                Span::raw(format!("{name:label$}")),
                Span::styled(
                    format!(" {:>figure$} ", count_or_dash(value)),
                    state.paint.figure(),
                ),
                Span::raw(match value {
                    Some(value) => state.paint.bar(value, whole, bar),
                    None => String::new(),
                }),
            ])
        })
        .collect()
}

/// Gauges of the queues, the states in a line, and four sparklines.
fn meters(frame: &mut Frame, area: Rect, state: &State, listener: &ListenerQueues) {
    let tall = area.height.saturating_sub(4) / 4;
    let [syn, accept, first, second, third, fourth, lives, states] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(tall),
        Constraint::Length(tall),
        Constraint::Length(tall),
        Constraint::Length(tall),
        Constraint::Length(1),
        Constraint::Length(1),
    ])
    .areas(area);
    for (place, label, queued, limit) in [
        (
            syn,
            "SYN queue",
            listener.syn_queue,
            listener.syn_queue_limit,
        ),
        (
            accept,
            "Accept",
            listener.accept_queue,
            listener.accept_queue_limit,
        ),
    ] {
        let figures = format!(" {queued}/{limit}");
        let room = usize::from(place.width).saturating_sub(10 + figures.len());
        let bar = state.paint.bar(queued.into(), limit.into(), room.min(40));
        frame.render_widget(Paragraph::new(format!("{label:10}{bar}{figures}")), place);
    }
    let none = History::default();
    let history = state.history(listener).unwrap_or(&none);
    for (place, label, values) in [
        (first, "SYN/s", &history.syns),
        (second, "Conn/s", &history.connections),
        (third, "Accept", &history.accept_queue),
        (fourth, "Half-open", &history.half_open),
    ] {
        sparkline(frame, place, state, label, values);
    }
    if listener.half_open_life_ms > 0 {
        let life = millis(listener.half_open_life_ms);
        frame.render_widget(Paragraph::new(format!("Half-open lives {life}")), lives);
    }
    if let Some(now) = &listener.states {
        frame.render_widget(Paragraph::new(in_a_line(now)), states);
    }
}

/// The newest at the right end.
fn sparkline(frame: &mut Frame, area: Rect, state: &State, label: &str, values: &VecDeque<u64>) {
    let [words, line] =
        Layout::horizontal([Constraint::Length(16), Constraint::Min(0)]).areas(area);
    let now = values.back().map_or(String::new(), |&value| count(value));
    frame.render_widget(Paragraph::new(format!("{label:10}{now:>5} ")), words);
    let room = usize::from(line.width);
    let shown = values.iter().skip(values.len().saturating_sub(room));
    let padding = room.saturating_sub(values.len());
    let data: Vec<Option<u64>> = std::iter::repeat_n(None, padding)
        .chain(shown.map(|&value| Some(value)))
        .collect();
    let sparkline = Sparkline::default()
        .data(data)
        .absent_value_symbol(" ")
        .bar_set(state.paint.bars())
        .style(state.paint.figure());
    frame.render_widget(sparkline, line);
}

/// What there is, leaks first.
fn in_a_line(states: &States) -> String {
    let parts: Vec<_> = [
        ("close-wait", states.close_wait),
        ("last-ack", states.last_ack),
        ("fin-wait-1", states.fin_wait_1),
        ("fin-wait-2", states.fin_wait_2),
        ("estab", states.established),
        ("time-wait", states.time_wait),
    ]
    .into_iter()
    .filter(|part| part.1 > 0)
    .map(|(name, n)| format!("{} {name}", count(n.into())))
    .collect();
    if parts.is_empty() {
        return "No connection".to_owned();
    }
    parts.join(", ")
}
