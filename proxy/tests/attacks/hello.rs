//! Raw ClientHellos (RFC 8446, 4.1.2), including such as no library would send, and the server's
//! first record.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub const SSL3: u16 = 0x0300;
pub const TLS10: u16 = 0x0301;
pub const TLS11: u16 = 0x0302;
pub const TLS12: u16 = 0x0303;
pub const TLS13: u16 = 0x0304;

const SUPPORTED_GROUPS: u16 = 10;
const POINT_FORMATS: u16 = 11;
const SIGNATURE_ALGORITHMS: u16 = 13;
const ALPN: u16 = 16;
const SUPPORTED_VERSIONS: u16 = 43;
const KEY_SHARE: u16 = 51;

const LIMIT: Duration = Duration::from_secs(5);
/// The maximum payload of a record (RFC 8446, 5.1).
const RECORD: usize = 1 << 14;

#[derive(Clone, Debug)]
pub struct Hello {
    pub version: u16,
    pub suites: Vec<u16>,
    pub compressions: Vec<u8>,
    pub groups: Vec<u16>,
    pub schemes: Vec<u16>,
    pub alpn: Vec<u8>,
    /// Extensions besides those of the fields above.
    pub more: Vec<(u16, Vec<u8>)>,
}

/// The server's first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Hello(ServerHello),
    /// The alert's description (RFC 8446, 6).
    Alert(u8),
    Closed,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    pub version: u16,
    pub random: [u8; 32],
    pub suite: u16,
    pub compression: u8,
    pub extensions: Vec<u16>,
}

fn vector(bytes: usize, content: &[u8], to: &mut Vec<u8>) {
    let length = content.len().to_be_bytes();
    to.extend_from_slice(&length[length.len() - bytes..]);
    to.extend_from_slice(content);
}

fn words(of: &[u16]) -> Vec<u8> {
    of.iter().flat_map(|word| word.to_be_bytes()).collect()
}

impl Hello {
    /// Offers all common parameters, in this version alone.
    pub fn of(version: u16, alpn: &[u8]) -> Self {
        Self {
            version,
            suites: Vec::new(),
            compressions: vec![0],
            groups: vec![0x001d, 0x0017, 0x0018],
            schemes: vec![
                0x0403, 0x0503, 0x0804, 0x0805, 0x0806, 0x0401, 0x0501, 0x0601,
            ],
            alpn: alpn.to_vec(),
            more: Vec::new(),
        }
    }

    pub fn suites(mut self, suites: impl IntoIterator<Item = u16>) -> Self {
        self.suites = suites.into_iter().collect();
        self
    }

    fn extensions(&self) -> Vec<u8> {
        let mut all = Vec::new();
        let mut put = |kind: u16, content: &[u8]| {
            all.extend_from_slice(&kind.to_be_bytes());
            vector(2, content, &mut all);
        };
        let listed = |bytes: usize, content: &[u8]| {
            let mut list = Vec::new();
            vector(bytes, content, &mut list);
            list
        };
        put(SUPPORTED_GROUPS, &listed(2, &words(&self.groups)));
        put(POINT_FORMATS, &[1, 0]);
        put(SIGNATURE_ALGORITHMS, &listed(2, &words(&self.schemes)));
        put(ALPN, &listed(2, &listed(1, &self.alpn)));
        if self.version >= TLS13 {
            put(SUPPORTED_VERSIONS, &listed(1, &words(&[self.version])));
            // Without a key share the server sends a HelloRetryRequest, which has the chosen
            // parameters (RFC 8446, 4.1.4).
            put(KEY_SHARE, &[0, 0]);
        }
        for (kind, content) in &self.more {
            put(*kind, content);
        }
        all
    }

    fn message(&self) -> Vec<u8> {
        let mut body = self.version.min(TLS12).to_be_bytes().to_vec();
        body.extend_from_slice(&[7; 32]);
        vector(1, &[9; 32], &mut body);
        vector(2, &words(&self.suites), &mut body);
        vector(1, &self.compressions, &mut body);
        if self.version > SSL3 {
            vector(2, &self.extensions(), &mut body);
        }
        let mut message = vec![1];
        vector(3, &body, &mut message);
        message
    }

    /// Encodes the message in as few records as possible.
    pub fn records(&self) -> Vec<u8> {
        let mut records = Vec::new();
        for part in self.message().chunks(RECORD) {
            records.push(22);
            records.extend_from_slice(&self.version.min(TLS10).to_be_bytes());
            vector(2, part, &mut records);
        }
        records
    }

    pub async fn ask(&self, address: SocketAddr) -> Answer {
        ask(address, &self.records()).await
    }
}

/// Sends the bytes; returns the server's first record. Panics if the connection stays open without
/// one.
pub async fn ask(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before all is sent.
    let _ = stream.write_all(bytes).await;
    let answer = timeout(LIMIT, answer(&mut stream)).await;
    answer
        .expect("a record or a close in time")
        .unwrap_or(Answer::Closed)
}

/// Reads the first record, which must be a complete ServerHello or an alert.
async fn answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let mut content = vec![0; usize::from(u16::from_be_bytes([head[3], head[4]]))];
    stream.read_exact(&mut content).await.ok()?;
    match (head[0], content[0]) {
        (21, _) => Some(Answer::Alert(content[1])),
        (22, 2) => Some(Answer::Hello(server_hello(&content[4..]))),
        other => panic!("neither an alert nor a ServerHello: {other:?}"),
    }
}

fn server_hello(body: &[u8]) -> ServerHello {
    let word = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let session = 35 + usize::from(body[34]);
    let mut hello = ServerHello {
        version: word(0),
        random: body[2..34].try_into().unwrap(),
        suite: word(session),
        compression: body[session + 2],
        extensions: Vec::new(),
    };
    let mut at = session + 5;
    while at + 4 <= body.len().min(session + 5 + usize::from(word(session + 3))) {
        hello.extensions.push(word(at));
        if word(at) == SUPPORTED_VERSIONS {
            hello.version = word(at + 4);
        }
        at += 4 + usize::from(word(at + 2));
    }
    hello
}
