use std::{future::Future, net::SocketAddr, time::Duration};

use hickory_resolver::proto::{
    op::{Message, MessageType, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, opt::EdnsOption},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, UdpSocket},
};

use super::*;

fn question() -> Question {
    Question::new(Name::from_ascii("www.shop.test.").unwrap(), RecordType::A)
}

/// The answer to a message, with one address.
fn answer(asked: &[u8]) -> Message {
    let mut message = Message::from_vec(asked).unwrap();
    message.metadata.message_type = MessageType::Response;
    let name = message.queries[0].name().clone();
    message.add_answer(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 7))));
    message
}

/// Asks a server of the test that treats each datagram so; it ends with the question.
async fn asked<F: Future<Output = ()>>(
    patience: Patience,
    serve: impl FnOnce(UdpSocket) -> F,
) -> Asked {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let serve = serve(socket);
    let question = question();
    let asking = ask(server, &question, patience);
    tokio::select! {
        asked = asking => asked,
        () = async { serve.await; std::future::pending().await } => unreachable!(),
    }
}

async fn received(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 1500];
    let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
    buffer.truncate(length);
    (buffer, from)
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_answer_over_udp_is_read() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let octets = answer(&query).to_vec().unwrap();
        socket.send_to(&octets, from).await.unwrap();
    })
    .await;
    assert_eq!(asked.code(), Some(ResponseCode::NoError));
    let facts = QueryFacts::from(&asked);
    assert_eq!(facts.answers[0].data, "192.0.2.7");
    assert_eq!(facts.answers[0].ttl_s, 60);
    assert_eq!((facts.tries.len(), facts.truncated), (1, false));
}

#[tokio::test]
async fn a_lost_datagram_is_sent_again_and_counted() {
    let patience = Patience {
        tries: 2,
        ..Patience::once(Duration::from_millis(300))
    };
    let asked = asked(patience, async |socket| {
        received(&socket).await;
        let (query, from) = received(&socket).await;
        let octets = answer(&query).to_vec().unwrap();
        socket.send_to(&octets, from).await.unwrap();
    })
    .await;
    assert!(asked.answer.is_ok(), "{asked:?}");
    assert_eq!(asked.tries.len(), 2);
    assert_eq!(asked.tries[0].end, Silence::Timeout.told());
    assert!(asked.took >= Duration::from_millis(300));
}

#[tokio::test]
async fn forged_answers_with_another_identifier_are_passed_over() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let mut forged = answer(&query);
        forged.metadata.id = forged.metadata.id.wrapping_add(1);
        forged.metadata.response_code = ResponseCode::NXDomain;
        let forged = forged.to_vec().unwrap();
        socket.send_to(&forged, from).await.unwrap();
        socket.send_to(b"x", from).await.unwrap();
        let octets = answer(&query).to_vec().unwrap();
        socket.send_to(&octets, from).await.unwrap();
    })
    .await;
    assert_eq!(asked.code(), Some(ResponseCode::NoError));
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let mut other = answer(&query);
        other.queries[0].set_name(Name::from_ascii("other.test.").unwrap());
        let other = other.to_vec().unwrap();
        socket.send_to(&other, from).await.unwrap();
    })
    .await;
    assert!(
        matches!(asked.answer, Err(Silence::Malformed(_))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn garbage_after_the_identifier_is_told_as_malformed() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let mut garbage = query[..2].to_vec();
        garbage.extend([0xff; 40]);
        socket.send_to(&garbage, from).await.unwrap();
    })
    .await;
    assert!(
        matches!(asked.answer, Err(Silence::Malformed(_))),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_known_without_waiting() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    drop(socket);
    let asked = ask(server, &question(), Patience::once(LONG)).await;
    assert_eq!(asked.answer.unwrap_err(), Silence::Refused);
    assert!(asked.took < LONG);
}

#[tokio::test]
async fn a_cut_answer_is_asked_for_over_tcp() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = tcp.local_addr().unwrap();
    let udp = UdpSocket::bind(server).await.unwrap();
    let serve = async {
        let (query, from) = received(&udp).await;
        let cut = answer(&query).truncate().to_vec().unwrap();
        udp.send_to(&cut, from).await.unwrap();
        let (mut stream, _) = tcp.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.unwrap();
        let whole = answer(&query).to_vec().unwrap();
        stream.write_u16(whole.len() as u16).await.unwrap();
        stream.write_all(&whole).await.unwrap();
    };
    let question = question();
    let (asked, ()) = tokio::join!(ask(server, &question, Patience::once(LONG)), serve);
    assert!(asked.truncated);
    assert_eq!(
        asked.tries.iter().map(|t| t.transport).collect::<Vec<_>>(),
        [Transport::Udp, Transport::Tcp]
    );
    assert_eq!(asked.answer.unwrap().answers.len(), 1);
}

#[tokio::test]
async fn a_connection_closed_in_the_middle_of_an_answer_is_told() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = tcp.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = tcp.accept().await.unwrap();
        let length = stream.read_u16().await.unwrap();
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await.unwrap();
        stream.write_u16(500).await.unwrap();
        stream.write_all(&query).await.unwrap();
    };
    let patience = Patience {
        tcp_only: true,
        ..Patience::once(LONG)
    };
    let question = question();
    let (asked, ()) = tokio::join!(ask(server, &question, patience), serve);
    assert_eq!(asked.answer.unwrap_err(), Silence::Closed);
}

#[tokio::test]
async fn a_server_without_edns_is_asked_again_without() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let mut error = Message::from_vec(&query).unwrap();
        assert!(error.edns.take().is_some());
        error.metadata.message_type = MessageType::Response;
        error.metadata.response_code = ResponseCode::FormErr;
        let error = error.to_vec().unwrap();
        socket.send_to(&error, from).await.unwrap();
        let (query, from) = received(&socket).await;
        assert!(Message::from_vec(&query).unwrap().edns.is_none());
        let octets = answer(&query).to_vec().unwrap();
        socket.send_to(&octets, from).await.unwrap();
    })
    .await;
    assert!(asked.without_edns);
    assert_eq!(asked.code(), Some(ResponseCode::NoError));
}

#[tokio::test]
async fn extended_errors_are_shown_escaped() {
    let asked = asked(Patience::once(LONG), async |socket| {
        let (query, from) = received(&socket).await;
        let mut failure = answer(&query);
        failure.metadata.response_code = ResponseCode::ServFail;
        let options = failure.edns.as_mut().unwrap().options_mut();
        options.insert(EdnsOption::Unknown(15, b"\0\x07old\x1b[2J".to_vec()));
        let failure = failure.to_vec().unwrap();
        socket.send_to(&failure, from).await.unwrap();
    })
    .await;
    let facts = QueryFacts::from(&asked);
    assert_eq!(facts.end(), "SERVFAIL (signature expired: old\\u{1b}[2J)");
}
