use super::*;

fn server(number: u8, status: ServerStatus, said: &str) -> TraceServer {
    TraceServer {
        name: format!("ns{number}.shop.test"),
        address: IpAddr::from([192, 0, 2, number]),
        duration_us: (status != ServerStatus::NoRoute).then_some(1200),
        status,
        said: said.into(),
        truncated: status == ServerStatus::TcpFiltered,
        serial: None,
        addresses: Vec::new(),
    }
}

fn good(number: u8, address: u8, serial: u32) -> TraceServer {
    let address = IpAddr::from([198, 51, 100, address]);
    TraceServer {
        serial: Some(serial),
        addresses: vec![address],
        ..server(number, ServerStatus::Good, &address.to_string())
    }
}

fn judged(servers: Vec<TraceServer>, without: &[&str]) -> Vec<(String, Outcome)> {
    let step = TraceStep {
        zone: "shop.test".into(),
        name: "www.shop.test".into(),
        leads: None,
        answered_for: None,
        servers,
        without_address: without.iter().map(ToString::to_string).collect(),
    };
    let findings = findings(&step, Duration::from_millis(500));
    findings.into_iter().map(|f| (f.code, f.outcome)).collect()
}

#[test]
fn sound_servers_leave_nothing_to_say() {
    assert_eq!(judged(vec![good(1, 1, 7), good(2, 1, 7)], &[]), []);
}

#[test]
fn trouble_is_wrong_while_another_server_works_and_failed_when_none_does() {
    for (status, code) in [
        (ServerStatus::Lame, "dns_lame"),
        (ServerStatus::Dead, "dns_dead_server"),
        (ServerStatus::Failure, "dns_servfail"),
        (ServerStatus::Odd, "dns_odd_answer"),
        (ServerStatus::TcpFiltered, "dns_tcp_filtered"),
    ] {
        let code = code.to_owned();
        let bad = server(2, status, "is in trouble");
        assert_eq!(
            judged(vec![good(1, 1, 7), bad.clone()], &[]),
            [(code.clone(), Outcome::Wrong)]
        );
        assert_eq!(judged(vec![bad], &[]), [(code, Outcome::Failed)]);
    }
}

#[test]
fn a_server_without_a_route_is_no_trouble_of_the_zones() {
    let away = server(2, ServerStatus::NoRoute, "no route from here, not asked");
    assert_eq!(judged(vec![good(1, 1, 7), away.clone()], &[]), []);
    assert_eq!(
        judged(vec![away], &[]),
        [("dns_unreachable".to_owned(), Outcome::Failed)]
    );
}

#[test]
fn missing_glue_is_wrong_or_failed() {
    let code = "dns_missing_glue".to_owned();
    assert_eq!(
        judged(vec![good(1, 1, 7)], &["ns2.shop.test"]),
        [(code.clone(), Outcome::Wrong)]
    );
    assert_eq!(
        judged(vec![], &["ns1.shop.test"]),
        [(code, Outcome::Failed)]
    );
}

#[test]
fn a_late_answer_is_slow() {
    let late = TraceServer {
        duration_us: Some(700_000),
        ..good(2, 1, 7)
    };
    assert_eq!(
        judged(vec![good(1, 1, 7), late], &[]),
        [("dns_slow".to_owned(), Outcome::Slow)]
    );
}

#[test]
fn servers_that_differ_are_told_apart_by_version() {
    let one = |code: &str, outcome| vec![(code.to_owned(), outcome)];
    for nothing in [NO_NAME, NO_ADDRESS] {
        for serial in [7, 8] {
            let mut without = good(2, 2, serial);
            (without.addresses, without.said) = (Vec::new(), nothing.into());
            assert_eq!(
                judged(vec![good(1, 1, 7), without], &[]),
                one("dns_differs", Outcome::Wrong)
            );
        }
    }
    // As at large networks, where the version is the second of the answer.
    assert_eq!(
        judged(vec![good(1, 1, 7), good(2, 2, 8)], &[]),
        one("dns_answers_vary", Outcome::Ok)
    );
    assert_eq!(
        judged(vec![good(1, 1, 7), good(2, 2, 7)], &[]),
        one("dns_answers_vary", Outcome::Ok)
    );
    assert_eq!(
        judged(vec![good(1, 1, 7), good(2, 1, 8)], &[]),
        one("dns_serials_differ", Outcome::Ok)
    );
}

#[test]
fn a_sentence_names_a_few_of_many_servers() {
    let many = (0..50).map(|n| server(n, ServerStatus::Lame, &format!("says {n}")));
    let step = TraceStep {
        zone: "shop.test".into(),
        name: "www.shop.test".into(),
        leads: None,
        answered_for: None,
        servers: many.collect(),
        without_address: vec!["x".repeat(200); 13],
    };
    let findings = findings(&step, Duration::from_millis(500));
    assert_eq!(findings.len(), 2);
    assert!(findings[0].what.ends_with("; and 42 more"), "{findings:?}");
    assert!(findings[1].what.ends_with(", and 5 more"), "{findings:?}");
}
