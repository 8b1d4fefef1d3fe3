//! One question to one server: over UDP, and over TCP when the answer does not fit, each try timed.
//! hickory reads and writes the messages; the sockets are ours, so that they are connected: then a server where nobody
//! listens is known at once by its ICMP error, not by silence.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, UdpSocket},
    time::{Instant as Deadline, timeout_at},
};

pub use super::answer::{Extended, QueryFacts};

/// What fits into a datagram without fragments on any path that is usual (DNS flag day 2020; RFC 9715, section 3.1).
const PAYLOAD: u16 = 1232;

/// One question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// About which name.
    pub name: Name,
    /// What of it.
    pub kind: RecordType,
    /// RD: the server is to find it out. Without, it says what it knows.
    pub recursion: bool,
    /// CD: the server is to hand out what does not validate, too (RFC 4035, section 3.2.2).
    pub unchecked: bool,
    /// DO: with signatures (RFC 3225).
    pub dnssec: bool,
}

impl Question {
    /// As a stub resolver asks its server.
    pub fn new(name: Name, kind: RecordType) -> Self {
        Self {
            name,
            kind,
            recursion: true,
            unchecked: false,
            dnssec: false,
        }
    }

    /// As one server asks another: no recursion, with signatures.
    pub fn iterative(name: Name, kind: RecordType) -> Self {
        Self {
            recursion: false,
            dnssec: true,
            ..Self::new(name, kind)
        }
    }

    /// The message, with an identifier of its own.
    fn message(&self, edns: bool) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = self.recursion;
        message.metadata.checking_disabled = self.unchecked;
        // RFC 6840, section 5.7: AD in a question says that the asker understands AD in the answer.
        message.metadata.authentic_data = !self.unchecked;
        message.add_query(Query::query(self.name.clone(), self.kind));
        if edns {
            let mut edns = Edns::new();
            edns.set_max_payload(PAYLOAD)
                .set_version(0)
                .set_dnssec_ok(self.dnssec);
            message.set_edns(edns);
        }
        message
    }
}

/// How long and how often a server is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// For each try over UDP, and for the whole of one over TCP.
    pub wait: Duration,
    /// How many datagrams are sent at most, at least one.
    pub tries: u32,
    /// TCP at once, without a datagram before.
    pub tcp_only: bool,
}

impl Patience {
    /// One datagram, then TCP if the answer does not fit.
    pub fn once(wait: Duration) -> Self {
        Self {
            wait,
            tries: 1,
            tcp_only: false,
        }
    }
}

/// How a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "they say it")]
pub enum Transport {
    Udp,
    Tcp,
}

impl Transport {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Silence {
    /// Nothing came in time.
    Timeout,
    /// Nobody listens there: port unreachable (ICMP), or a reset over TCP.
    Refused,
    /// There is no way there; in the kernel's words.
    Unreachable(String),
    /// The connection ended before the answer did.
    Closed,
    /// What came is no DNS message, or answers another question.
    Malformed(String),
}

impl Silence {
    /// In words, to follow "the server …".
    pub fn told(&self) -> String {
        match self {
            Self::Timeout => "does not answer".into(),
            Self::Refused => "has nobody listening on that port".into(),
            Self::Unreachable(why) => format!("cannot be reached ({why})"),
            Self::Closed => "closed the connection before the answer".into(),
            Self::Malformed(what) => format!("sent what is no answer ({what})"),
        }
    }

    fn from_io(error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        match error.kind() {
            Kind::ConnectionRefused => Self::Refused,
            Kind::TimedOut => Self::Timeout,
            Kind::ConnectionReset | Kind::UnexpectedEof | Kind::BrokenPipe => Self::Closed,
            _ => Self::Unreachable(error.to_string()),
        }
    }
}

/// One message sent, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// How it went.
    pub transport: Transport,
    /// Until its answer came or was given up, in microseconds.
    pub duration_us: u64,
    /// A response code in DNS's own word, `truncated`, or why there was no answer.
    pub end: String,
}

/// A question, its tries and its answer.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Who was asked.
    pub server: SocketAddr,
    /// What.
    pub question: Question,
    /// From the first message to the answer.
    pub took: Duration,
    /// Each message that was sent.
    pub tries: Vec<Try>,
    /// An answer over UDP was too long, so TCP was tried.
    pub truncated: bool,
    /// The server does not know EDNS; the answer came without.
    pub without_edns: bool,
    /// Octets of the answer.
    pub octets: usize,
    /// The answer.
    pub answer: Result<Message, Silence>,
}

impl Asked {
    /// The response code, if an answer came.
    pub fn code(&self) -> Option<ResponseCode> {
        self.answer.as_ref().ok().map(|a| a.metadata.response_code)
    }
}

/// Asks. Never fails: why there is no answer is in [`Asked::answer`].
pub async fn ask(server: SocketAddr, question: &Question, patience: Patience) -> Asked {
    let start = Instant::now();
    let mut asked = Asked {
        server,
        question: question.clone(),
        took: Duration::ZERO,
        tries: Vec::new(),
        truncated: false,
        without_edns: false,
        octets: 0,
        answer: Err(Silence::Timeout),
    };
    // A silent server may drop EDNS as well as be dead; only an error that says so leads to a question without it.
    asked.exchange(patience, true).await;
    if asked.edns_not_understood() {
        asked.without_edns = true;
        asked.exchange(patience, false).await;
    }
    asked.took = start.elapsed();
    asked
}

impl Asked {
    async fn exchange(&mut self, patience: Patience, edns: bool) {
        let mut tcp = patience.tcp_only;
        for _ in 0..patience.tries.max(1) {
            if tcp {
                break;
            }
            self.attempt(Transport::Udp, patience.wait, edns).await;
            match &self.answer {
                Ok(message) if message.metadata.truncation => {
                    self.truncated = true;
                    tcp = true;
                }
                Err(Silence::Timeout) => {}
                _ => return,
            }
        }
        if tcp {
            self.attempt(Transport::Tcp, patience.wait, edns).await;
        }
    }

    async fn attempt(&mut self, transport: Transport, wait: Duration, edns: bool) {
        let start = Instant::now();
        let deadline = Deadline::now() + wait;
        let message = self.question.message(edns);
        let answer = timeout_at(deadline, async {
            match transport {
                Transport::Udp => over_udp(self.server, &message).await,
                Transport::Tcp => over_tcp(self.server, &message).await,
            }
        });
        let answer = answer.await.unwrap_or(Err(Silence::Timeout));
        let end = match &answer {
            Ok((message, _)) if message.metadata.truncation => "truncated".into(),
            Ok((message, _)) => super::answer::word(message.metadata.response_code),
            Err(silence) => silence.told(),
        };
        self.tries.push(Try {
            transport,
            duration_us: micros(start.elapsed()),
            end,
        });
        self.octets = answer.as_ref().map_or(0, |(_, octets)| *octets);
        self.answer = answer.map(|(message, _)| message);
    }

    /// RFC 6891, section 7: a server from before EDNS answers with an error and without an OPT record.
    fn edns_not_understood(&self) -> bool {
        self.answer.as_ref().is_ok_and(|answer| {
            answer.edns.is_none()
                && matches!(
                    answer.metadata.response_code,
                    ResponseCode::FormErr | ResponseCode::NotImp
                )
        })
    }
}

async fn over_udp(server: SocketAddr, message: &Message) -> Result<(Message, usize), Silence> {
    let octets = written(message)?;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // Port 0: the kernel takes one at random, which a forger has to guess.
    let receive = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(&octets).await?;
        let mut buffer = vec![0; usize::from(u16::MAX)];
        loop {
            let length = socket.recv(&mut buffer).await?;
            let datagram = buffer.get(..length).unwrap_or_default();
            match read(datagram, message) {
                // Perhaps forged: who answers another question is not let spoil ours.
                Err(Silence::Malformed(_)) if !same_id(datagram, message) => {}
                read => return Ok(read.map(|answer| (answer, length))),
            }
        }
    };
    receive
        .await
        .unwrap_or_else(|error: io::Error| Err(Silence::from_io(&error)))
}

async fn over_tcp(server: SocketAddr, message: &Message) -> Result<(Message, usize), Silence> {
    let octets = written(message)?;
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        // RFC 1035, section 4.2.2: two octets of length before each message; RFC 7766, section 8: in one segment.
        let mut framed = (octets.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&octets);
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut buffer = vec![0; length];
        stream.read_exact(&mut buffer).await?;
        Ok(buffer)
    };
    let buffer = exchange
        .await
        .map_err(|error: io::Error| Silence::from_io(&error))?;
    read(&buffer, message).map(|answer| (answer, buffer.len()))
}

fn written(message: &Message) -> Result<Vec<u8>, Silence> {
    let octets = message.to_vec();
    octets.map_err(|error| Silence::Malformed(format!("the question cannot be written: {error}")))
}

/// Whether a datagram bears the identifier of the question: its first two octets (RFC 1035, section 4.1.1).
fn same_id(datagram: &[u8], question: &Message) -> bool {
    datagram.first_chunk() == Some(&question.metadata.id.to_be_bytes())
}

/// An answer to this very question.
fn read(octets: &[u8], question: &Message) -> Result<Message, Silence> {
    let malformed = |what: &str| Silence::Malformed(what.to_owned());
    let answer = Message::from_vec(octets)
        .map_err(|error| Silence::Malformed(error.to_string().escape_debug().to_string()))?;
    let head = &answer.metadata;
    if head.id != question.metadata.id {
        return Err(malformed("another identifier"));
    }
    if head.message_type != MessageType::Response || head.op_code != OpCode::Query {
        return Err(malformed("not a response to a query"));
    }
    // A server that could not read the question may leave it out (RFC 1035, section 4.1.1: format error).
    let unread = answer.queries.is_empty() && !matches!(head.response_code, ResponseCode::NoError);
    if !unread && answer.queries != question.queries {
        return Err(malformed("another question"));
    }
    let foreign = answer
        .answers
        .iter()
        .any(|record| record.dns_class != DNSClass::IN);
    if foreign {
        return Err(malformed("records of another class"));
    }
    Ok(answer)
}

/// Microseconds, as the report has them.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
