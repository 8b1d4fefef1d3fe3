use std::{future::Future, net::SocketAddr};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        RData, Record,
        rdata::{A, AAAA, CNAME, SOA},
    },
};
use tokio::net::UdpSocket;

use super::*;
use crate::probe::{Names, Plan};

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// What a server of the test says to a question; `None`: nothing.
type Says = fn(&Message) -> Option<Message>;

/// An answer to a message, as a resolver gives it.
fn answer(asked: &Message, code: ResponseCode) -> Message {
    let mut message = asked.clone();
    message.metadata.message_type = MessageType::Response;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message
}

/// The addresses of `www.shop.test`, behind an alias; nothing else exists, and nothing is said without RD.
fn shop(asked: &Message) -> Option<Message> {
    let query = &asked.queries[0];
    if !asked.metadata.recursion_desired {
        return Some(answer(asked, ResponseCode::Refused));
    }
    if *query.name() != name("www.shop.test.") {
        return Some(answer(asked, ResponseCode::NXDomain));
    }
    let mut message = answer(asked, ResponseCode::NoError);
    let record = |name: &str, data| Record::from_rdata(self::name(name), 60, data);
    let to = CNAME(name("web.test."));
    message.add_answer(record("www.shop.test.", RData::CNAME(to)));
    match query.query_type() {
        RecordType::A => {
            message.add_answer(record("web.test.", RData::A(A::new(192, 0, 2, 7))));
            // Unasked for: a hostile server must not get another address in.
            message.add_answer(record("bank.test.", RData::A(A::new(198, 51, 100, 1))));
        }
        RecordType::AAAA => {
            let data = AAAA::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);
            message.add_answer(record("web.test.", RData::AAAA(data)));
        }
        _ => {}
    }
    Some(message)
}

fn servfail(asked: &Message) -> Option<Message> {
    Some(answer(asked, ResponseCode::ServFail))
}

fn refused(asked: &Message) -> Option<Message> {
    Some(answer(asked, ResponseCode::Refused))
}

fn silent(_: &Message) -> Option<Message> {
    None
}

/// As a resolver that validates: SERVFAIL until checking is disabled.
fn strict(asked: &Message) -> Option<Message> {
    match asked.metadata.checking_disabled {
        true => shop(asked),
        false => servfail(asked),
    }
}

fn empty(asked: &Message) -> Option<Message> {
    let mut message = answer(asked, ResponseCode::NoError);
    let soa = SOA::new(name("ns.test."), name("admin.test."), 1, 2, 3, 4, 5);
    message.add_authority(Record::from_rdata(name("test."), 60, RData::SOA(soa)));
    Some(message)
}

/// As a server that serves its own zones only.
fn referral(asked: &Message) -> Option<Message> {
    let mut message = answer(asked, ResponseCode::NoError);
    message.metadata.recursion_available = false;
    Some(message)
}

/// As a resolver that shows its cache to whoever asks: the name is in it.
fn warm(asked: &Message) -> Option<Message> {
    let mut asked = asked.clone();
    asked.metadata.recursion_desired = true;
    shop(&asked)
}

/// The same, and the name is not in it.
fn cold(asked: &Message) -> Option<Message> {
    match asked.metadata.recursion_desired {
        true => shop(asked),
        false => Some(answer(asked, ResponseCode::NoError)),
    }
}

/// As an authoritative server that knows the begin of a chain of aliases only.
fn begin(asked: &Message) -> Option<Message> {
    let mut message = shop(asked)?;
    message.metadata.recursion_available = false;
    message.metadata.authoritative = true;
    message.answers.truncate(1);
    Some(message)
}

/// AAAA goes wrong, A does not.
fn half(asked: &Message) -> Option<Message> {
    match asked.queries[0].query_type() {
        RecordType::AAAA => servfail(asked),
        _ => shop(asked),
    }
}

async fn serve(socket: UdpSocket, says: Says) {
    let mut buffer = vec![0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let asked = Message::from_vec(&buffer[..length]).unwrap();
        if let Some(answer) = says(&asked) {
            let octets = answer.to_vec().unwrap();
            socket.send_to(&octets, from).await.unwrap();
        }
    }
}

async fn server(says: Says) -> (SocketAddr, impl Future<Output = ()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    (socket.local_addr().unwrap(), serve(socket, says))
}

/// Resolves a URL with files of the test and these servers, in their order.
async fn resolved(
    url: &str,
    files: &[(&str, &str)],
    says: &[Says],
    change: fn(&mut Plan),
) -> Stage {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in files {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    let mut servers = Vec::new();
    let mut serving = Vec::new();
    for says in says {
        let (address, task) = server(*says).await;
        servers.push(address);
        serving.push(tokio::spawn(task));
    }
    let mut plan = Plan::new(url.parse().unwrap());
    plan.checks = false;
    plan.names = Names {
        hosts: dir.path().join("hosts"),
        resolv_conf: dir.path().join("resolv.conf"),
        nsswitch: dir.path().join("nsswitch.conf"),
        servers,
    };
    change(&mut plan);
    let walk = Walk {
        plan: &plan,
        progress: &|_| (),
        start: std::time::Instant::now(),
    };
    let port = plan.url.port_or_known_default().unwrap();
    let (stage, addresses) = resolve(&walk, &plan.url, port).await;
    assert_eq!(addresses, facts(&stage).addresses);
    for task in serving {
        task.abort();
    }
    stage
}

fn facts(stage: &Stage) -> &NameFacts {
    match &stage.facts {
        Facts::Name(facts) => facts,
        other => panic!("{other:?}"),
    }
}

fn told(stage: &Stage) -> (Outcome, Option<&str>) {
    (
        stage.outcome,
        stage.findings.first().map(|f| f.code.as_str()),
    )
}

const QUICK: (&str, &str) = ("resolv.conf", "options timeout:1 attempts:2\n");

#[tokio::test]
async fn an_alias_leads_to_both_addresses_and_to_no_other() {
    let stage = resolved("https://www.shop.test/", &[QUICK], &[shop], |_| ()).await;
    assert_eq!(told(&stage), (Outcome::Ok, None));
    let facts = facts(&stage);
    let addresses: Vec<_> = facts.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["2001:db8::7", "192.0.2.7"]);
    assert_eq!(facts.aliases[0].data, "web.test");
    assert_eq!(facts.source, Some(Source::Dns));
}

#[tokio::test]
async fn each_way_to_fail_has_its_code() {
    let cases: [(Says, &str); 7] = [
        (empty, "name_no_address"),
        (servfail, "name_servfail"),
        (strict, "name_bogus"),
        (refused, "name_refused"),
        (referral, "name_server_no_recursion"),
        (begin, "name_server_no_recursion"),
        (silent, "name_timeout"),
    ];
    for (says, code) in cases {
        let stage = resolved("https://www.shop.test/", &[QUICK], &[says], |_| ()).await;
        assert_eq!(told(&stage), (Outcome::Failed, Some(code)), "{stage:#?}");
    }
    let stage = resolved("https://nobody.test/", &[QUICK], &[shop], |_| ()).await;
    assert_eq!(told(&stage), (Outcome::Failed, Some("name_not_found")));
}

#[tokio::test]
async fn the_second_server_helps_out_and_the_first_is_named() {
    let slow = resolved("https://www.shop.test/", &[QUICK], &[silent, shop], |_| ()).await;
    assert_eq!(told(&slow), (Outcome::Slow, Some("name_server_silent")));
    assert!(slow.duration_us >= 1_000_000, "{}", slow.duration_us);
    let wrong = resolved("https://www.shop.test/", &[QUICK], &[refused, shop], |_| ()).await;
    assert_eq!(told(&wrong), (Outcome::Wrong, Some("name_refused")));
    assert_eq!(facts(&wrong).addresses.len(), 2);
}

#[tokio::test]
async fn one_kind_of_record_that_fails_alone_is_told_once() {
    let stage = resolved("https://www.shop.test/", &[QUICK], &[half], |_| ()).await;
    assert_eq!(told(&stage), (Outcome::Wrong, Some("name_half_answered")));
    assert_eq!(stage.findings.len(), 1);
}

#[tokio::test]
async fn the_hosts_file_comes_before_dns_and_nsswitch_can_turn_that_round() {
    let hosts = ("hosts", "198.51.100.9 www.shop.test\n");
    let stage = resolved("https://www.shop.test/", &[hosts, QUICK], &[shop], |_| ()).await;
    assert_eq!(facts(&stage).source, Some(Source::Hosts));
    assert_eq!(facts(&stage).queries, []);
    let nsswitch = ("nsswitch.conf", "hosts: dns files\n");
    let files = [hosts, QUICK, nsswitch];
    let stage = resolved("https://www.shop.test/", &files, &[shop], |_| ()).await;
    assert_eq!(facts(&stage).source, Some(Source::Dns));
    let nsswitch = ("nsswitch.conf", "hosts: files\n");
    let stage = resolved(
        "https://other.test/",
        &[hosts, QUICK, nsswitch],
        &[shop],
        |_| (),
    )
    .await;
    assert_eq!(told(&stage), (Outcome::Failed, Some("name_config")));
}

#[tokio::test]
async fn a_short_name_is_completed_from_the_search_list() {
    let conf = ("resolv.conf", "search nowhere.test shop.test\n");
    let stage = resolved("https://www/", &[conf], &[shop], |_| ()).await;
    assert_eq!(told(&stage), (Outcome::Ok, Some("name_search_list")));
    assert_eq!(facts(&stage).looked_up.as_deref(), Some("www.shop.test"));
}

#[tokio::test]
async fn addresses_in_the_url_and_given_ones_need_no_server() {
    let stage = resolved("https://[2001:db8::1]/", &[], &[], |_| ()).await;
    assert_eq!(facts(&stage).source, Some(Source::Literal));
    let stage = resolved("https://www.shop.test/", &[], &[], |plan| {
        plan.resolve = vec![(
            "www.shop.test".into(),
            443,
            vec![Ipv4Addr::LOCALHOST.into()],
        )];
    })
    .await;
    assert_eq!(facts(&stage).source, Some(Source::Given));
    let stage = resolved("https://192.0.2.1/", &[], &[], |plan| {
        plan.family = Some(crate::probe::Family::V6);
    })
    .await;
    assert_eq!(told(&stage), (Outcome::Failed, Some("name_no_address")));
}

#[tokio::test]
async fn localhost_is_never_asked_for() {
    let stage = resolved("http://app.localhost:8080/", &[QUICK], &[silent], |_| ()).await;
    assert_eq!(facts(&stage).source, Some(Source::Localhost));
    assert_eq!(facts(&stage).queries, []);
}

#[tokio::test]
async fn a_name_in_another_script_is_shown_as_asked_and_as_written() {
    let stage = resolved("https://www.bücher.test/", &[QUICK], &[shop], |_| ()).await;
    assert_eq!(facts(&stage).host, "www.xn--bcher-kva.test");
    assert_eq!(facts(&stage).unicode.as_deref(), Some("www.bücher.test"));
    assert_eq!(told(&stage), (Outcome::Failed, Some("name_not_found")));
}

#[tokio::test]
async fn a_label_that_is_too_long_is_no_name() {
    let url = format!("https://{}.test/", "a".repeat(64));
    let stage = resolved(&url, &[QUICK], &[shop], |_| ()).await;
    assert_eq!(told(&stage), (Outcome::Failed, Some("name_invalid")));
}

#[tokio::test]
async fn spare_servers_that_are_of_no_use_or_disagree_are_found() {
    let says: &[Says] = &[shop, refused, empty];
    let stage = resolved("https://www.shop.test/", &[QUICK], says, |plan| {
        plan.checks = true;
    })
    .await;
    let codes: Vec<_> = stage.findings.iter().map(|f| f.code.as_str()).collect();
    assert!(codes.contains(&"name_refused"), "{codes:?}");
    assert!(codes.contains(&"name_servers_disagree"), "{codes:?}");
    assert_eq!(stage.outcome, Outcome::Wrong);
}

#[tokio::test]
async fn a_cache_that_is_shown_is_looked_into() {
    for (says, state) in [
        (warm as Says, CacheState::Cached),
        (cold, CacheState::Fetched),
    ] {
        let checked = |plan: &mut Plan| plan.checks = true;
        let stage = resolved("https://www.shop.test/", &[QUICK], &[says], checked).await;
        assert_eq!(
            facts(&stage).cache.as_ref().map(|cache| cache.state),
            Some(state)
        );
    }
}

#[tokio::test]
async fn a_server_that_is_silent_about_https_records_is_slow_for_browsers() {
    let deaf: Says = |asked| match asked.queries[0].query_type() {
        RecordType::HTTPS => None,
        _ => shop(asked),
    };
    let stage = resolved("https://www.shop.test/", &[QUICK], &[deaf], |plan| {
        plan.checks = true;
    })
    .await;
    assert_eq!(told(&stage), (Outcome::Slow, Some("name_https_unanswered")));
}

#[tokio::test]
async fn garbage_from_a_server_ends_no_walk() {
    for octets in [0, 1, 11, 12, 200, 1400] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut plan = Plan::new("https://www.shop.test/".parse().unwrap());
        plan.timeout = Duration::from_millis(300);
        plan.names.servers = vec![socket.local_addr().unwrap()];
        let serving = tokio::spawn(async move {
            let mut buffer = vec![0; 1500];
            loop {
                let (_, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut garbage = buffer[..2].to_vec();
                garbage.extend((0..1400).map(|n: u32| (n * 151 % 253) as u8));
                socket.send_to(&garbage[..octets], from).await.unwrap();
            }
        });
        let walk = Walk {
            plan: &plan,
            progress: &|_| (),
            start: std::time::Instant::now(),
        };
        let (stage, addresses) = resolve(&walk, &plan.url, 443).await;
        assert_eq!(
            (stage.outcome, addresses),
            (Outcome::Failed, Vec::new()),
            "{octets}"
        );
        serving.abort();
    }
}
