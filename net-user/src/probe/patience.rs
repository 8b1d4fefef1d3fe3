//! How long a walk may take as a whole. What it found until then is kept, and the layer at which its time was over is named.

use std::time::Duration;

use tokio::time::timeout;

use super::{Facts, Finding, Layer, Outcome, Stage, Walk};

/// Does the work of a stage while the walk has time left. Otherwise the stage is one that says so.
pub(super) async fn within<T>(
    walk: &Walk<'_>,
    layer: Layer,
    stages: &mut Vec<Stage>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let Some(patience) = walk.plan.patience else {
        return Some(work.await);
    };
    let start_us = walk.now_us();
    let left = patience.saturating_sub(walk.start.elapsed());
    if let Ok(done) = timeout(left, work).await {
        return Some(done);
    }
    let stage = over(layer, walk.since(start_us), patience, stages);
    stages.push(stage);
    None
}

/// The stage in which the time was over.
fn over(layer: Layer, times: (u64, u64), patience: Duration, before: &[Stage]) -> Stage {
    let shown = |us: u64| format!("{} ms", us / 1000);
    let mut what = format!(
        "the {patience:?} of the whole walk were over {} after {} had begun",
        shown(times.1),
        layer.word()
    );
    if let Some(longest) = before.iter().max_by_key(|stage| stage.duration_us) {
        what += &format!(
            "; what took longest before was {} with {}",
            longest.layer.word(),
            shown(longest.duration_us)
        );
    }
    // At the close the page is there, and nobody waits for the end.
    let outcome = match layer {
        Layer::Close => Outcome::Slow,
        _ => Outcome::Failed,
    };
    let finding = Finding::new("walk_timeout", outcome, what).next(
        "walk it by hand (`netmoat probe URL`), which waits longer; if it takes so long in peace, raise the `timeout`",
    );
    let facts = match layer {
        Layer::Name => Facts::Name(Box::default()),
        Layer::Route => Facts::Route(Default::default()),
        Layer::Tcp => Facts::Tcp(Default::default()),
        Layer::Tls => Facts::Tls(Box::default()),
        Layer::Http => Facts::Http(Box::default()),
        Layer::Close => Facts::Close(Default::default()),
    };
    Stage::new(layer, times, "no time left", vec![finding], facts)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpListener,
        thread,
    };

    use super::*;
    use crate::probe::{Plan, walk};

    fn plan(listener: &TcpListener) -> Plan {
        let url = format!("http://{}/", listener.local_addr().unwrap());
        Plan {
            timeout: Duration::from_secs(60),
            patience: Some(Duration::from_millis(300)),
            checks: false,
            ..Plan::new(url.parse().unwrap())
        }
    }

    #[tokio::test]
    async fn a_walk_whose_time_is_over_names_the_layer_and_keeps_what_it_found() {
        // The kernel takes the connection, and nobody answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let report = walk(&plan(&silent), None, &|_| ()).await;
        assert_eq!(
            (report.outcome, report.layer, report.code.as_deref()),
            (Outcome::Failed, Some(Layer::Http), Some("walk_timeout"))
        );
        assert!(
            report
                .last(Layer::Tcp)
                .is_some_and(|tcp| tcp.outcome == Outcome::Ok)
        );
        assert!(report.verdict.contains("300ms"), "{}", report.verdict);
    }

    #[tokio::test]
    async fn redirects_share_the_time_of_one_walk() {
        let (first, silent) = ["127.0.0.1:0"; 2]
            .map(|any| TcpListener::bind(any).unwrap())
            .into();
        let location = format!("http://{}/", silent.local_addr().unwrap());
        let plan = plan(&first);
        thread::spawn(move || {
            let (mut stream, _) = first.accept().unwrap();
            // What is not read before the close makes it a reset, which takes the answer along.
            let request = stream.read(&mut [0; 4096]).unwrap();
            assert_ne!(request, 0);
            let answer = format!(
                "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let report = walk(&plan, None, &|_| ()).await;
        assert_eq!(report.code.as_deref(), Some("walk_timeout"), "{report:?}");
        assert_eq!(report.fetches.len(), 2);
        assert!(report.duration_us < 5_000_000, "{}", report.duration_us);
    }
}
