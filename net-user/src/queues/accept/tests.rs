use super::*;

fn length(waiting: u32) -> Length {
    Length {
        waiting,
        ..Length::default()
    }
}

const LOOK: Duration = Duration::from_millis(50);

#[test]
fn little_s_law_gives_the_mean_wait_of_a_steady_queue() {
    // Five wait at every look and 100 a second pass: 50 ms each.
    let mut now = Instant::now();
    let mut queue = AcceptQueue::default();
    for second in 1..=10_u64 {
        for _ in 0..20 {
            now += LOOK;
            queue.look(now, length(5), 0);
        }
        queue.count(now, Some(second * 100));
    }
    let told = queue.report(now);
    let mean = told.mean_us.unwrap();
    assert!((49_000..=51_000).contains(&mean), "{mean}");
    assert!((9.0..=101.0).contains(&queue.sums().accepted()));
    assert_eq!(queue.accepted(), 1000 - 5);
    assert!(told.oldest_ms <= 100, "{}", told.oldest_ms);
    assert_eq!(told.histogram.p90_us, Some(65_536));
}

#[test]
fn single_waits_are_told_by_first_in_first_out() {
    // Ten come in one look, and one leaves at each look from the 20th on.
    let mut now = Instant::now();
    let mut queue = AcceptQueue::uncounted();
    queue.look(now, length(0), 0);
    for look in 1..=40_u32 {
        now += LOOK;
        queue.look(
            now,
            length(10_u32.saturating_sub(look.saturating_sub(20))),
            0,
        );
        match look {
            20 => assert_eq!(queue.oldest(now), LOOK * 19),
            40 => assert_eq!(queue.oldest(now), Duration::ZERO),
            _ => {}
        }
    }
    let told = queue.report(now).histogram;
    // From 1000 ms to 1450 ms.
    assert_eq!(told.count, 10);
    let buckets: Vec<_> = told.buckets.iter().map(|b| (b.below_us, b.count)).collect();
    assert_eq!(buckets, [(1 << 20, 1), (1 << 21, 9)]);
    assert_eq!(queue.accepted(), 10);
}

#[test]
fn what_is_counted_passes_through_even_when_no_look_finds_it() {
    let mut now = Instant::now();
    let mut queue = AcceptQueue::default();
    for second in 1..=3_u64 {
        for _ in 0..20 {
            now += LOOK;
            queue.look(now, length(0), 0);
        }
        queue.count(now, Some(second * 200_000));
    }
    assert_eq!(queue.accepted(), 600_000);
    let told = queue.report(now);
    assert_eq!(told.mean_us, Some(0));
    assert_eq!(told.histogram.p99_us, Some(65_536));
    assert!(queue.fifo.len() <= 1);
}

#[test]
fn a_count_that_lags_behind_the_looks_is_not_counted_twice() {
    let mut now = Instant::now();
    let mut queue = AcceptQueue::default();
    queue.look(now, length(0), 0);
    now += LOOK;
    queue.look(now, length(7), 0);
    queue.count(now, Some(4));
    now += LOOK;
    queue.look(now, length(7), 0);
    queue.count(now, Some(7));
    assert_eq!((queue.arrivals, queue.departures), (7, 0));
    now += LOOK;
    queue.look(now, length(0), 0);
    queue.count(now, Some(9));
    assert_eq!((queue.arrivals, queue.departures), (9, 9));
}

#[test]
fn what_waited_before_the_first_look_is_not_among_the_accepted() {
    let mut now = Instant::now();
    let mut queue = AcceptQueue::uncounted();
    queue.look(now, length(3), 0);
    now += LOOK;
    queue.look(now, length(0), 0);
    now += LOOK;
    queue.look(now, length(2), 0);
    now += LOOK;
    queue.look(now, length(1), 0);
    assert_eq!(queue.accepted(), 1);
}

#[test]
fn memory_is_bounded_while_nobody_accepts() {
    let mut now = Instant::now();
    let mut queue = AcceptQueue::uncounted();
    for look in 0..10_000 {
        now += LOOK;
        queue.look(now, length(look), 0);
    }
    assert!(
        queue.fifo.len() <= FIFO && queue.seconds.len() <= 11 && queue.pending.len() <= PENDING
    );
    assert!(queue.oldest(now) >= LOOK * 9000);
}

#[test]
fn looks_that_were_left_out_count_and_make_no_wait_longer() {
    let start = Instant::now();
    let mut queue = AcceptQueue::default();
    queue.look(start, length(0), 0);
    queue.count(start, Some(0));
    // A second in which nothing was ever found to wait, though 20 came: each was accepted within a look.
    let now = start + Duration::from_secs(1);
    queue.look(now, length(0), 19);
    queue.count(now, Some(20));
    let sums = queue.sums();
    assert_eq!((sums.looks, sums.arrivals, sums.departures), (20, 20, 20));
    let waits = queue.report(now).histogram;
    assert_eq!((waits.count, waits.p99_us), (20, Some(65_536)));
}
