//! Sockets met in earlier walks, by SO_COOKIE.

use std::{collections::HashMap, time::Instant};

/// Most sockets of one kind that are remembered.
pub(super) const MAX_REMEMBERED: usize = 65_536;

/// When a socket was first met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Met {
    pub(super) first: Instant,
    /// It was not there then; `None` when that is not known.
    pub(super) absent: Option<Instant>,
}

/// What one walk hands to the next. Of those met in a walk no more than [`MAX_REMEMBERED`] are kept; those known longest have
/// precedence.
#[derive(Debug, Default)]
pub(super) struct Memory {
    known: HashMap<u64, Met>,
    next: HashMap<u64, Met>,
    room: usize,
    /// When the last walk began, if it met all there were, and remembers them.
    last: Option<Instant>,
}

impl Memory {
    /// A walk begins.
    pub(super) fn begin(&mut self) {
        self.room = MAX_REMEMBERED.saturating_sub(self.known.len());
    }

    /// A socket is met, which is in its state since `first` or longer.
    pub(super) fn meet(&mut self, cookie: u64, first: Instant) -> Met {
        if let Some(&met) = self.known.get(&cookie) {
            self.next.insert(cookie, met);
            return met;
        }
        let met = Met {
            first,
            absent: self.last,
        };
        if self.next.contains_key(&cookie) {
            // A dump is no snapshot: seen twice.
        } else if self.room > 0 {
            self.room -= 1;
            self.next.insert(cookie, met);
        }
        met
    }

    /// The walk that began at `begun` has ended. What it did not meet is forgotten, even if it ended early: the kernel's order
    /// hardly changes, so that the next one meets the same part.
    pub(super) fn end(&mut self, begun: Instant, complete: bool) {
        self.last = (complete && self.room > 0).then_some(begun);
        self.known = std::mem::take(&mut self.next);
    }
}

#[cfg(test)]
impl Memory {
    pub(super) fn cookies(&self) -> impl Iterator<Item = u64> {
        self.known.keys().copied()
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.known.values().map(|met| met.first).min()
    }

    /// As if everything had been met that much earlier.
    pub(super) fn grow_older(&mut self, by: std::time::Duration) {
        for met in self.known.values_mut() {
            met.first = met.first.checked_sub(by).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_meeting_is_remembered_while_the_socket_is_there() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut walk = |s, cookies: &[u64]| {
            memory.begin();
            let met: Vec<_> = cookies.iter().map(|&c| memory.meet(c, at(s))).collect();
            memory.end(at(s), true);
            met
        };
        let met = |first, absent: Option<u64>| Met {
            first: at(first),
            absent: absent.map(at),
        };
        assert_eq!(walk(0, &[1]), [met(0, None)]);
        assert_eq!(walk(5, &[1, 2]), [met(0, None), met(5, Some(0))]);
        assert_eq!(walk(10, &[2]), [met(5, Some(0))]);
        assert_eq!(walk(15, &[1, 1]), [met(15, Some(10)); 2], "it was away");
    }

    #[test]
    fn it_holds_no_more_than_its_bound_and_keeps_the_oldest() {
        let mut memory = Memory::default();
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let most = MAX_REMEMBERED as u64;
        memory.begin();
        for cookie in 0..most / 2 {
            memory.meet(cookie, start);
        }
        memory.end(start, true);
        memory.begin();
        // The new ones come first.
        for cookie in most..3 * most {
            memory.meet(cookie, later);
        }
        for cookie in 0..most / 2 {
            assert_eq!(memory.meet(cookie, later).first, start);
        }
        memory.end(later, true);
        assert_eq!(memory.known.len(), MAX_REMEMBERED);
        assert!(memory.known.contains_key(&0));
        assert_eq!(memory.last, None, "some that were there are not remembered");
    }
}
