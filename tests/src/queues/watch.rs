//! What netmoat says of a listener, look by look.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    thread,
    time::{Duration, Instant},
};

use net_user::control::queues::{ListenerQueues, Queues, Verdict, VerdictKind};

use crate::agent::Agent;

/// Between two looks: verdicts change once a second.
const INTERVAL: Duration = Duration::from_millis(250);
/// The longest wait for a verdict: two walks and a window.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Looks at an agent's queues, and remembers every verdict it saw. Made for tests: whatever fails panics.
pub struct Watch<'a> {
    agent: &'a Agent,
    seen: RefCell<BTreeMap<u16, BTreeSet<VerdictKind>>>,
    host: RefCell<BTreeSet<VerdictKind>>,
}

impl<'a> Watch<'a> {
    /// Has seen nothing yet.
    pub fn new(agent: &'a Agent) -> Self {
        Self {
            agent,
            seen: RefCell::default(),
            host: RefCell::default(),
        }
    }

    /// One look.
    pub fn look(&self) -> Queues {
        let queues = self.agent.queues().unwrap();
        for listener in &queues.listeners {
            assert!(!listener.verdicts.is_empty(), "no verdict: {listener:#?}");
            let mut seen = self.seen.borrow_mut();
            seen.entry(listener.port)
                .or_default()
                .extend(kinds(&listener.verdicts));
        }
        self.host.borrow_mut().extend(kinds(&queues.host.verdicts));
        queues
    }

    /// The only listener on a port.
    pub fn listener(&self, port: u16) -> ListenerQueues {
        listener(&self.look(), port).clone()
    }

    /// Looks until `find` finds something.
    pub fn until_some<T>(&self, what: &str, mut find: impl FnMut(&Queues) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let queues = self.look();
            if let Some(found) = find(&queues) {
                return found;
            }
            assert!(
                Instant::now() < end,
                "waited {PATIENCE:?} in vain for {what}: {queues:#?}"
            );
            thread::sleep(INTERVAL);
        }
    }

    /// Looks until the listener on a port is as wanted; returns it.
    pub fn until(
        &self,
        what: &str,
        port: u16,
        want: impl Fn(&ListenerQueues) -> bool,
    ) -> ListenerQueues {
        self.until_some(what, |queues| {
            queues
                .listeners
                .iter()
                .find(|l| l.port == port && want(l))
                .cloned()
        })
    }

    /// Looks until there is a verdict of a kind on a port; the listener and the verdict, which is in order.
    pub fn verdict(&self, port: u16, kind: VerdictKind) -> (ListenerQueues, Verdict) {
        let listener = self.until(kind.name(), port, |l| has(&l.verdicts, kind));
        let verdict = verdict(&listener.verdicts, kind);
        assert_in_order(&verdict);
        (listener, verdict)
    }

    /// The same of the host.
    pub fn host_verdict(&self, kind: VerdictKind) -> (Queues, Verdict) {
        let queues = self.until_some(kind.name(), |queues| {
            has(&queues.host.verdicts, kind).then(|| queues.clone())
        });
        let verdict = verdict(&queues.host.verdicts, kind);
        assert_in_order(&verdict);
        (queues, verdict)
    }

    /// Looks until a port is healthy again.
    pub fn healthy(&self, port: u16) -> ListenerQueues {
        self.until("health", port, |l| {
            kinds(&l.verdicts) == [VerdictKind::Healthy]
        })
    }

    /// Looks for a while: as long as a verdict may take to come.
    pub fn on(&self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            self.look();
            thread::sleep(INTERVAL);
        }
    }

    /// All that was ever said of a port was this.
    pub fn assert_only(&self, port: u16, allowed: &[VerdictKind]) {
        let seen = self.seen.borrow();
        let seen = seen
            .get(&port)
            .unwrap_or_else(|| panic!("port {port} was never seen"));
        let surplus: Vec<_> = seen.iter().filter(|kind| !allowed.contains(kind)).collect();
        assert!(surplus.is_empty(), "port {port} was called {surplus:?}");
    }

    /// A port was healthy at every look.
    pub fn assert_healthy(&self, port: u16) {
        self.assert_only(port, &[VerdictKind::Healthy]);
    }

    /// Nothing was ever said of the host.
    pub fn assert_host_healthy(&self) {
        assert_eq!(*self.host.borrow(), BTreeSet::new());
    }
}

/// The only listener on a port.
pub fn listener(queues: &Queues, port: u16) -> &ListenerQueues {
    let mut on_port = queues.listeners.iter().filter(|l| l.port == port);
    let found = on_port
        .next()
        .unwrap_or_else(|| panic!("no listener on {port}: {queues:#?}"));
    assert!(on_port.next().is_none(), "several listeners on {port}");
    found
}

fn kinds(verdicts: &[Verdict]) -> Vec<VerdictKind> {
    verdicts.iter().map(|v| v.kind).collect()
}

fn has(verdicts: &[Verdict], kind: VerdictKind) -> bool {
    verdicts.iter().any(|v| v.kind == kind)
}

fn verdict(verdicts: &[Verdict], kind: VerdictKind) -> Verdict {
    verdicts.iter().find(|v| v.kind == kind).unwrap().clone()
}

/// One sentence, figures that bear it out, something to do, and a time that has passed.
fn assert_in_order(verdict: &Verdict) {
    let now = std::time::SystemTime::now();
    let now = now.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!((now - 600..=now).contains(&verdict.since), "{verdict:#?}");
    assert!(!verdict.sentence.is_empty(), "{verdict:#?}");
    assert!(
        !verdict.sentence.contains(". "),
        "one sentence: {verdict:#?}"
    );
    assert!(!verdict.fixes.is_empty(), "{verdict:#?}");
    let figures = |text: &String| text.contains(|c: char| c.is_ascii_digit());
    assert!(verdict.evidence.iter().any(figures), "{verdict:#?}");
}

/// All that a verdict says, on one line.
pub fn words(verdict: &Verdict) -> String {
    let mut words = vec![verdict.sentence.clone()];
    words.extend(verdict.evidence.iter().cloned());
    for fix in &verdict.fixes {
        words.push(fix.what.clone());
        words.extend(fix.command.clone());
    }
    words.join(" | ")
}
