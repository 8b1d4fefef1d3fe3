//! Changes of lists that go back unless they are confirmed, and the lists of the config, which a reload replaces.

use std::time::{Duration, Instant};

use anyhow::Result;
use net_common::lists::Prefix;
use tracing::{info, warn};

use super::{Agent, Gone, Order, Worker, failed, lock, refused};
use crate::{
    config::{HumanDuration, ListPolicy},
    confirm::{self, Former, FormerList, Record},
    control::{
        changes::{Confirmed, PendingChange},
        lists::ListRequest,
        protocol::{Reply, RequestError, VERSION},
    },
    lists::{
        CONFIG, List, Lists,
        guard::{Change, Victim},
        now_ns,
        text::{Entry, line, parse_prefix, show},
    },
};

/// After which going back is tried again when it failed.
const AGAIN: Duration = Duration::from_secs(1);

/// A change that waits for its confirmation, as both threads know it.
#[derive(Clone, Debug)]
pub(in crate::agent) struct Waiting {
    /// In plain words.
    pub(in crate::agent) what: String,
    /// When the former state returns.
    pub(in crate::agent) deadline: Instant,
    /// The same, seconds since 1970.
    pub(in crate::agent) until: u64,
    /// Whether the former state lets in who may be kept out now, and does not return by itself when the agent dies.
    pub(in crate::agent) shuts_out: bool,
}

impl Waiting {
    /// Of a change that is made now.
    pub(in crate::agent) fn new(what: String, within: HumanDuration) -> Self {
        let now = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        Self {
            what,
            deadline: Instant::now() + within.get(),
            until: (now.unwrap_or_default() + within.get()).as_secs(),
            shuts_out: false,
        }
    }

    /// As `status` tells it.
    pub(in crate::agent) fn tell(&self) -> PendingChange {
        PendingChange {
            what: self.what.clone(),
            until: self.until,
            left_s: self.left().as_secs(),
        }
    }

    /// How long until the former state returns.
    pub(in crate::agent) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// What the thread must know to confirm a change, or to go back.
pub(super) struct Held {
    former: FormerList,
    /// What is listed for as long as it says once it is confirmed; none where only entries were taken off.
    wanted: Vec<Entry>,
    made: Instant,
    waiting: Waiting,
}

impl Held {
    /// Whether a change of this list would be lost, or kept, by what is held.
    fn is_of(&self, list: List, name: &str) -> bool {
        self.former.list == list && self.former.name == name
    }
}

/// The lists of the config, as they are to be from now on.
pub(in crate::agent) struct Configure {
    pub(in crate::agent) policy: ListPolicy,
    pub(in crate::agent) victims: Vec<Victim>,
    pub(in crate::agent) force: bool,
    pub(in crate::agent) reply: tokio::sync::oneshot::Sender<Result<(), RequestError>>,
}

/// What a request is to do, in plain words, if it asks for a confirmation.
pub(super) fn asks(request: &ListRequest) -> Option<(Waiting, HumanDuration)> {
    let (within, what, shuts_out) = match request {
        ListRequest::Add(add, _) => {
            let what = format!("{} of {}", add.list.word(), few(&add.prefixes));
            (add.confirm_within?, what, false)
        }
        ListRequest::Delete(delete, _) if delete.all => {
            let what = format!(
                "the deletion of {} list {:?}",
                delete.list.word(),
                delete.name
            );
            (delete.confirm_within?, what, delete.list == List::Allow)
        }
        ListRequest::Delete(delete, _) => {
            let (list, prefixes) = (delete.list.word(), few(&delete.prefixes));
            let what = format!(
                "the deletion of {prefixes} from {list} list {:?}",
                delete.name
            );
            (delete.confirm_within?, what, delete.list == List::Allow)
        }
        ListRequest::Import(import, _) => {
            let what = format!(
                "the import into {} list {:?}",
                import.list.word(),
                import.name
            );
            (import.confirm_within?, what, import.list == List::Allow)
        }
        ListRequest::Page(..) | ListRequest::Find(..) | ListRequest::Names(..) => return None,
    };
    let waiting = Waiting::new(what, within);
    Some((
        Waiting {
            shuts_out,
            ..waiting
        },
        within,
    ))
}

fn few(prefixes: &[String]) -> String {
    match prefixes {
        [one] => one.escape_debug().to_string(),
        [first, rest @ ..] => format!("{} and {} more", first.escape_debug(), rest.len()),
        [] => "nothing".to_owned(),
    }
}

impl Agent {
    /// What waits for its confirmation in the lists.
    pub(in crate::agent) fn waiting_list(&self) -> Option<Waiting> {
        lock(&self.lists.shared).waiting.clone()
    }

    /// Makes the change that waits in the lists one for good.
    pub(in crate::agent) fn confirm_list(&self, reply: Reply<Confirmed>) {
        self.lists.order(Order::Confirm(reply));
    }
}

impl Worker {
    /// Refuses to change a list of which a change waits for its confirmation.
    pub(super) fn check_held(&self, list: List, name: &str) -> Result<(), RequestError> {
        match &self.held {
            Some(held) if held.is_of(list, name) => refused(format!(
                "{} waits for its confirmation, and until then its list does not change: `netmoat confirm`, or wait {} s \
                 for the former state",
                held.waiting.what,
                held.waiting.left().as_secs() + 1
            )),
            _ => Ok(()),
        }
    }

    /// Keeps what a change will replace, on the disk first: `touched` of a named list, or all of it.
    pub(super) fn hold(
        &mut self,
        list: List,
        name: &str,
        touched: Option<&[Prefix]>,
        wanted: &[Entry],
    ) -> Result<Option<Duration>, RequestError> {
        let Some(waiting) = self.asked.take() else {
            return Ok(None);
        };
        let former = FormerList {
            list,
            name: name.to_owned(),
            touched: touched.map(|all| all.iter().copied().map(show).collect()),
            entries: self.lines(list, name, touched).map_err(failed)?,
        };
        let record = Record::new(waiting.what.clone(), Former::List(former.clone()));
        record.write(&self.state_dir).map_err(failed)?;
        let left = waiting.left();
        self.held = Some(Held {
            former,
            wanted: wanted.to_vec(),
            made: Instant::now(),
            waiting,
        });
        Ok(Some(left))
    }

    /// The change was not made after all.
    pub(super) fn release(&mut self) {
        self.asked = None;
        let held = self.held.take();
        lock(&self.shared).waiting = None;
        // A record that is not of this change stays.
        if held.is_some()
            && let Err(error) = confirm::forget(&self.state_dir)
        {
            warn!("{error:#}");
        }
    }

    /// Entries of a name as lines, with their ends as times of day.
    fn lines(&self, list: List, name: &str, of: Option<&[Prefix]>) -> Result<String> {
        let (now, wall) = (now_ns()?, super::wall()?);
        let all = self.lists.page(list, Some(name), None, now);
        let wanted = all.filter(|entry| of.is_none_or(|of| of.contains(&entry.prefix)));
        let lines = wanted.map(|entry| {
            let end = entry.left.map(|left| (wall + left).as_secs() + 1);
            line(entry.prefix, end, &entry.reason)
        });
        Ok(lines.collect())
    }

    /// What is listed until the change is confirmed: no new entry lives longer, and none that was there longer than it
    /// would have. So the data path goes back by itself if the agent dies.
    pub(super) fn bounded(
        &self,
        list: List,
        name: &str,
        wanted: &[Entry],
        left: Option<Duration>,
    ) -> Vec<Entry> {
        let Some(left) = left else {
            return wanted.to_vec();
        };
        let now = now_ns().unwrap_or_default();
        let bound = |entry: &Entry| {
            let there = self.lists.under(list, name, entry.prefix, now);
            let most = there.map_or(Some(left), |there| there.left);
            let ttl = match (entry.ttl, most) {
                (Some(ttl), Some(most)) => Some(ttl.min(most)),
                (ttl, most) => ttl.or(most),
            };
            Entry {
                ttl,
                ..entry.clone()
            }
        };
        wanted.iter().map(bound).collect()
    }

    /// How long the thread may sleep before the former state returns.
    pub(super) fn patience(&self) -> Duration {
        self.held
            .as_ref()
            .map_or(Duration::MAX, |held| held.waiting.left())
    }

    /// Goes back when nobody has confirmed in time.
    pub(super) fn go_back_in_time(&mut self) {
        let Some(mut held) = self.held.take_if(|held| held.waiting.left().is_zero()) else {
            return;
        };
        let what = &held.waiting.what;
        let FormerList { list, name, .. } = &held.former;
        let put_back = put_back(&mut self.lists, &held.former);
        let saved = put_back.and_then(|()| self.save(*list, name));
        match saved.and_then(|()| confirm::forget(&self.state_dir)) {
            Ok(()) => {
                info!(
                    target: "netmoat::audit", verb = "rollback", outcome = "done",
                    "{what} was not confirmed, and is undone"
                );
                lock(&self.shared).waiting = None;
            }
            Err(error) => {
                warn!(
                    target: "netmoat::audit", verb = "rollback", outcome = "failed",
                    "{what} is not undone: {error:#}"
                );
                lock(&self.shared).now = Some(format!("{what} is not undone: {error:#}"));
                held.waiting.deadline = Instant::now() + AGAIN;
                self.held = Some(held);
            }
        }
        self.publish();
    }

    /// What was changed is for good.
    pub(super) fn confirm(&mut self) -> Result<Confirmed, RequestError> {
        let Some(held) = self.held.take() else {
            return refused("nothing waits for a confirmation");
        };
        let FormerList {
            list,
            name,
            touched,
            ..
        } = &held.former;
        let left_s = held.waiting.left().as_secs();
        let now = now_ns().map_err(failed)?;
        // They have lived for a while already.
        let passed = held.made.elapsed();
        let wanted = held.wanted.iter().map(|entry| Entry {
            ttl: entry
                .ttl
                .map(|ttl| ttl.saturating_sub(passed).max(Duration::from_millis(1))),
            ..entry.clone()
        });
        let wanted: Vec<_> = wanted.collect();
        let made = match touched {
            _ if wanted.is_empty() => Ok(()),
            Some(_) => self.lists.add(*list, name, &wanted, now).map(drop),
            None => self.lists.replace(*list, name, &wanted, now).map(drop),
        };
        if let Err(error) = made {
            self.held = Some(held);
            return Err(failed(error));
        }
        let saved = self.save(*list, name);
        if saved.is_err() {
            self.save_later(*list, name);
        }
        // Confirmed it is, saved or not: a start must not undo it.
        let forgotten = confirm::forget(&self.state_dir);
        lock(&self.shared).waiting = None;
        Ok(Confirmed {
            version: VERSION,
            what: held.waiting.what,
            left_s,
            warnings: [saved, forgotten]
                .into_iter()
                .filter_map(Result::err)
                .map(|error| format!("{error:#}"))
                .collect(),
        })
    }

    /// Makes the lists of the config others. In between both old and new ones are allowed: who is allowed by either is
    /// never blocked meanwhile.
    pub(super) fn configure(&mut self, order: &Configure) -> Result<(), RequestError> {
        let before = self.policy.clone();
        let made = self.try_configure(order);
        if made.is_err() {
            let back = Configure {
                policy: before,
                victims: Vec::new(),
                force: true,
                reply: tokio::sync::oneshot::channel().0,
            };
            if let Err(error) = self.try_configure(&back) {
                warn!("the config's lists are not as they were: {error}");
                lock(&self.shared).now =
                    Some(format!("the config's lists are not as they were: {error}"));
            }
        }
        made
    }

    fn try_configure(&mut self, order: &Configure) -> Result<(), RequestError> {
        let now = now_ns().map_err(failed)?;
        let Configure {
            policy,
            force,
            victims,
            ..
        } = order;
        let either: Vec<_> = self
            .policy
            .allow
            .iter()
            .chain(&policy.allow)
            .cloned()
            .collect();
        let lists = &mut self.lists;
        lists
            .replace(List::Allow, CONFIG, &either, now)
            .map_err(failed)?;
        lists
            .replace(List::Block, CONFIG, &policy.block, now)
            .map_err(failed)?;
        let change = Change {
            list: List::Allow,
            name: CONFIG,
            wanted: &policy.allow,
            gone: Gone::All,
        };
        self.guard(&change, victims.clone(), None, *force, now)?;
        let lists = &mut self.lists;
        lists
            .replace(List::Allow, CONFIG, &policy.allow, now)
            .map_err(failed)?;
        self.policy = policy.clone();
        Ok(())
    }
}

/// Makes a list as it was.
pub(super) fn put_back(lists: &mut Lists, former: &FormerList) -> Result<()> {
    let (now, entries) = (now_ns()?, former.entries()?);
    let (list, name) = (former.list, former.name.as_str());
    let Some(touched) = &former.touched else {
        lists.replace(list, name, &entries, now)?;
        return Ok(());
    };
    let gone: Result<Vec<_>, _> = touched.iter().map(|text| parse_prefix(text)).collect();
    let mut gone = gone.map_err(anyhow::Error::msg)?;
    gone.retain(|prefix| entries.iter().all(|entry| entry.prefix != *prefix));
    // Who was allowed is let in first.
    lists.add(list, name, &entries, now)?;
    lists.remove(list, name, &gone)?;
    Ok(())
}
