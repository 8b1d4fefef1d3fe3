use std::{net::Ipv4Addr, time::Duration};

use hickory_resolver::proto::{
    op::OpCode,
    rr::{
        Record,
        rdata::{A, CNAME, NS, SOA},
    },
};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn record(owner: &str, data: RData) -> Record {
    Record::from_rdata(name(owner), 60, data)
}

fn a(owner: &str, last: u8) -> Record {
    record(owner, RData::A(A(Ipv4Addr::new(192, 0, 2, last))))
}

fn alias(owner: &str, to: &str) -> Record {
    record(owner, RData::CNAME(CNAME(name(to))))
}

fn ns(owner: &str, to: &str) -> Record {
    record(owner, RData::NS(NS(name(to))))
}

fn said(code: ResponseCode, own: bool, answers: &[Record], authorities: &[Record]) -> Asked {
    let mut message = Message::response(1, OpCode::Query);
    message.metadata.response_code = code;
    message.metadata.authoritative = own;
    message.insert_answers(answers.to_vec());
    message.insert_authorities(authorities.to_vec());
    asked(Ok(message))
}

fn asked(answer: Result<Message, Silence>) -> Asked {
    Asked {
        server: ([192, 0, 2, 53], 53).into(),
        question: Question::iterative(name("www.shop.test."), RecordType::A),
        took: Duration::from_millis(1),
        tries: Vec::new(),
        truncated: false,
        without_edns: false,
        octets: 0,
        answer,
    }
}

#[test]
fn each_kind_of_answer_is_understood() {
    use ResponseCode as Code;
    let soa = SOA::new(name("a."), name("b."), 1, 1, 1, 1, 1);
    let soa = record("shop.test.", RData::SOA(soa));
    let down = ns("shop.test.", "ns1.shop.test.");
    let lame = |how: &str| Meaning::Lame(how.to_owned());
    let referral = Meaning::Referral(name("shop.test."));
    for (zone, asked, meaning) in [
        (
            "test.",
            said(Code::NoError, false, &[], std::slice::from_ref(&down)),
            referral,
        ),
        (
            "shop.test.",
            said(Code::NoError, true, &[a("www.shop.test.", 1)], &[]),
            Meaning::Answer,
        ),
        (
            "shop.test.",
            said(Code::NoError, false, &[a("WWW.shop.test.", 1)], &[]),
            lame("answers from a cache, not as the zone's own server"),
        ),
        (
            "shop.test.",
            said(Code::NoError, true, &[], std::slice::from_ref(&soa)),
            Meaning::NoData,
        ),
        (
            "shop.test.",
            said(Code::NXDomain, true, &[], &[soa]),
            Meaning::NoName,
        ),
        (
            "shop.test.",
            said(Code::NoError, false, &[], &[ns(".", "a.roots.")]),
            lame("refers to servers that are not further down"),
        ),
        (
            "shop.test.",
            said(Code::NoError, false, &[], &[down]),
            lame("refers to servers that are not further down"),
        ),
        (
            "shop.test.",
            said(Code::NoError, false, &[], &[]),
            lame("has nothing to say"),
        ),
        (
            "shop.test.",
            said(Code::Refused, false, &[], &[]),
            lame("answers REFUSED"),
        ),
        (
            "shop.test.",
            said(Code::ServFail, false, &[], &[]),
            Meaning::Failure,
        ),
        (
            "shop.test.",
            said(Code::FormErr, false, &[], &[]),
            Meaning::Odd("FORMERR".into()),
        ),
        (
            "shop.test.",
            asked(Err(Silence::Timeout)),
            Meaning::Silent(Silence::Timeout),
        ),
    ] {
        assert_eq!(
            Meaning::of(&name(zone), &name("www.shop.test."), &asked),
            meaning,
            "{asked:?}"
        );
    }
}

#[test]
fn a_server_is_believed_only_about_its_own_zone() {
    let answers = [
        alias("www.shop.test.", "www.bank.test."),
        a("www.bank.test.", 66),
    ];
    let asked = said(ResponseCode::NoError, true, &answers, &[]);
    let (aliases, addresses) = follow(
        &name("shop.test."),
        &name("www.shop.test."),
        asked.answer.as_ref().unwrap(),
    );
    assert_eq!(aliases, [name("www.bank.test.")]);
    assert!(addresses.is_empty(), "{addresses:?}");
    let (_, addresses) = follow(
        &name("test."),
        &name("www.shop.test."),
        asked.answer.as_ref().unwrap(),
    );
    assert_eq!(addresses, [IpAddr::from([192, 0, 2, 66])]);
}

#[test]
fn aliases_in_a_circle_end() {
    let answers = [alias("a.test.", "b.test."), alias("b.test.", "a.test.")];
    let asked = said(ResponseCode::NoError, true, &answers, &[]);
    let (aliases, addresses) = follow(
        &name("test."),
        &name("a.test."),
        asked.answer.as_ref().unwrap(),
    );
    assert_eq!(aliases, [name("b.test."), name("a.test.")]);
    assert!(addresses.is_empty());
}

#[test]
fn of_a_referral_no_more_is_taken_than_is_sane() {
    let authorities: Vec<_> = (0..40)
        .map(|n| ns("shop.test.", &format!("ns{n}.shop.test.")))
        .collect();
    let mut additionals: Vec<_> = (0..40).map(|n| a("ns1.shop.test.", n)).collect();
    additionals.push(a("ns2.shop.example.", 1));
    additionals.push(a("stranger.shop.test.", 1));
    let mut message = Message::response(1, OpCode::Query);
    message.insert_authorities(authorities);
    message.insert_additionals(additionals);
    let (names, servers) = delegation(&name("test."), &name("shop.test."), &message);
    assert_eq!(names.len(), SERVERS);
    assert_eq!(servers.len(), ADDRESSES);
    assert!(
        servers
            .iter()
            .all(|server| server.name == name("ns1.shop.test."))
    );
}

#[test]
fn aliases_without_an_end_are_bounded() {
    let answers: Vec<_> = (0..1000)
        .map(|n| alias(&format!("n{n}.test."), &format!("n{}.test.", n + 1)))
        .collect();
    let asked = said(ResponseCode::NoError, true, &answers, &[]);
    let (aliases, _) = follow(
        &name("test."),
        &name("n0.test."),
        asked.answer.as_ref().unwrap(),
    );
    assert_eq!(aliases.len(), 16);
}

#[test]
fn the_zone_of_an_answer_is_told_by_its_soa_record() {
    let soa = |owner| {
        record(
            owner,
            RData::SOA(SOA::new(name("a."), name("b."), 7, 1, 1, 1, 1)),
        )
    };
    let of = |owner| {
        let asked = said(ResponseCode::NXDomain, true, &[], &[soa(owner)]);
        apex(
            &name("test."),
            &name("www.shop.test."),
            &asked.answer.unwrap(),
        )
    };
    assert_eq!(of("Shop.test."), Some((name("shop.test."), 7)));
    // Neither of another zone below, nor of one above.
    assert_eq!(of("bank.test."), None);
    assert_eq!(of("."), None);
}

#[tokio::test]
async fn servers_that_lead_to_ever_more_servers_are_given_up() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let hostile = async {
        let (mut buffer, mut asked) = (vec![0; 2000], 0_u32);
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let question = Message::from_vec(&buffer[..length]).unwrap();
            let owner = question.queries[0].name().clone();
            let mut answer = Message::response(question.metadata.id, OpCode::Query);
            answer.add_query(question.queries[0].clone());
            // A zone of its own for each name; its servers are in as many zones that nobody has met.
            let servers = (0..13).map(|n| NS(name(&format!("ns.z{asked}-{n}.test."))));
            let servers = servers.map(|ns| Record::from_rdata(owner.clone(), 60, RData::NS(ns)));
            answer.insert_authorities(servers.collect());
            socket
                .send_to(&answer.to_vec().unwrap(), from)
                .await
                .unwrap();
            asked += 1;
            assert!(asked <= QUESTIONS, "more than {QUESTIONS} questions");
        }
    };
    let server = Server {
        name: name("a.roots."),
        address: Ipv4Addr::LOCALHOST.into(),
    };
    let roots = Cut {
        zone: Name::root(),
        servers: vec![server],
    };
    let cuts = Cuts::new(roots, None, port);
    let www = name("www.shop.test.");
    tokio::select! {
        never = hostile => never,
        answer = cuts.ask(&www, RecordType::A, 0) => assert_eq!(answer, None),
    }
    assert!(cuts.is_spent());
}
