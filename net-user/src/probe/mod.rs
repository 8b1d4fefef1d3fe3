//! The way from a URL to its page, layer by layer, as a browser goes it: name, route and neighbour, TCP, TLS, HTTP, close.
//! Each stage is timed, judged and explained; a file each. What they found is a [`Report`].

pub mod agent;
pub mod close;
pub mod http;
mod inward;
mod meter;
pub mod name;
mod patience;
mod plan;
mod report;
pub mod route;
pub mod tcp;
pub mod tls;
pub mod trace;

use std::{
    net::{IpAddr, SocketAddr},
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use url::Url;

pub use plan::{
    Family, Given, HttpVersion, Names, Plan, Thresholds, Trace, parse_given, parse_url,
};
pub use report::{Facts, Fetch, Finding, Layer, Lines, Outcome, Report, Stage, VERSION};

use crate::control::client::Client;
use patience::within;

/// What every stage knows.
pub struct Walk<'a> {
    /// What is to be done.
    pub plan: &'a Plan,
    /// Told what is being done now, for whoever waits.
    pub progress: &'a (dyn Fn(&str) + Sync),
    start: Instant,
}

impl Walk<'_> {
    /// Microseconds since the walk began.
    pub fn now_us(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// From `start_us` until now, as [`Stage::new`] takes it.
    pub fn since(&self, start_us: u64) -> (u64, u64) {
        (start_us, self.now_us().saturating_sub(start_us))
    }
}

/// Walks. Never fails: what fails is in the report. With `agent`, what it saw of the connections is joined in.
pub async fn walk(plan: &Plan, agent: Option<&Client>, progress: &(dyn Fn(&str) + Sync)) -> Report {
    let started_ms = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64);
    let walk = Walk {
        plan,
        progress,
        start: Instant::now(),
    };
    let mut fetches = Vec::new();
    let mut next = Some(plan.url.clone());
    while let Some(url) = next {
        let from = fetches.last().and_then(connected);
        let (fetch, redirect) = fetch(&walk, agent, &url, (fetches.len() as u32, from)).await;
        fetches.push(fetch);
        next = redirect.filter(|to| !http::looped(&mut fetches, to));
    }
    let slow = plan.slow.total;
    Report::new(plan.url.clone(), started_ms, walk.now_us(), slow, fetches)
}

/// Whose answer a fetch got.
fn connected(fetch: &Fetch) -> Option<IpAddr> {
    fetch.stages.iter().find_map(|stage| match &stage.facts {
        Facts::Tcp(facts) => Some(facts.remote?.ip()),
        _ => None,
    })
}

/// How many redirects led to a URL, and from whom the last one came.
type Led = (u32, Option<IpAddr>);

/// One URL; and where its answer leads, if that is to be followed.
async fn fetch(
    walk: &Walk<'_>,
    agent: Option<&Client>,
    url: &Url,
    led: Led,
) -> (Fetch, Option<Url>) {
    let mut stages = Vec::new();
    let mut watch = None;
    let next = stages_of(walk, agent, url, led, &mut stages, &mut watch).await;
    let seen = match watch {
        Some(watch) => agent::seen(watch, &mut stages).await,
        None => None,
    };
    let fetch = Fetch {
        url: url.clone(),
        stages,
        agent: seen,
    };
    (fetch, next)
}

async fn stages_of(
    walk: &Walk<'_>,
    agent: Option<&Client>,
    url: &Url,
    (depth, from): Led,
    stages: &mut Vec<Stage>,
    watch: &mut Option<agent::Watch>,
) -> Option<Url> {
    let port = url.port_or_known_default()?;
    let resolving = name::resolve(walk, url, port);
    let (stage, addresses) = within(walk, Layer::Name, stages, resolving).await?;
    stages.push(stage);
    if addresses.is_empty() {
        return None;
    }
    if walk.plan.stay_outside
        && let Some(stage) = from.and_then(|from| inward::refuse(walk, url, from, &addresses))
    {
        stages.push(stage);
        return None;
    }
    let looking = route::look(walk, agent, &addresses);
    let stage = within(walk, Layer::Route, stages, looking).await?;
    stages.push(stage);
    if let Some(agent) = agent {
        *watch = agent::watch(agent, &addresses, port).await;
    }
    let addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect();
    let connecting = tcp::connect(walk, &addresses);
    let (stage, connection) = within(walk, Layer::Tcp, stages, connecting).await?;
    let connected = connection.as_ref().map(|c| c.socket.remote.ip());
    if let Some(route) = stages.last_mut() {
        route::look_again(walk, route, connected).await;
    }
    stages.push(stage);
    let connection = connection?;
    let socket = connection.socket.clone();
    if let Some(watch) = watch {
        watch.connected(&socket);
    }
    let stream = if url.scheme() == "https" {
        let handshake = tls::handshake(walk, url, connection);
        let (stage, stream) = within(walk, Layer::Tls, stages, handshake).await?;
        stages.push(stage);
        stream
    } else {
        Some(http::Stream::plain(connection))
    };
    let mut next = None;
    if let Some(stream) = stream {
        let fetching = http::fetch(walk, url, stream, depth);
        let exchange = within(walk, Layer::Http, stages, fetching).await?;
        stages.push(exchange.stage);
        next = exchange.next;
        tcp::look_back(&socket, stages).await;
        let closing = close::end(walk, &socket, exchange.open);
        if let Some(stage) = within(walk, Layer::Close, stages, closing).await {
            stages.push(stage);
        }
    } else {
        tcp::look_back(&socket, stages).await;
    }
    next
}
