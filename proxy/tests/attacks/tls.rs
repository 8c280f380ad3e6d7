//! A TLS scan of a gateway's HTTPS port and of a pod's port: versions, suites, and known
//! weaknesses.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use weft_api::alpn;
use weft_ir::Mode;
use weft_testkit::pki::{Pki, ServerKey};

use super::among_others;
use super::hello::*;
use super::ports;
use super::support::gateway::TlsClient;
use super::support::*;

/// AEAD suites with forward secrecy (RFC 9325, 4.2).
const SUITES_13: [u16; 3] = [0x1301, 0x1302, 0x1303];
const SUITES_ECDSA: [u16; 3] = [0xc02b, 0xc02c, 0xcca9];
const SUITES_RSA: [u16; 3] = [0xc02f, 0xc030, 0xcca8];

const H2: &[u8] = b"h2";

/// A port to scan.
struct ScannedPort {
    name: &'static str,
    address: SocketAddr,
    alpn: &'static [u8],
    /// The accepted suites of each version.
    accepts: &'static [(u16, [u16; 3])],
}

/// Returns all suites that the port accepts in a version: offers the rest until none is accepted.
async fn accepted(port: &ScannedPort, version: u16) -> BTreeSet<u16> {
    let mut accepted = BTreeSet::new();
    // A quarter of all suite numbers fits into one ClientHello.
    for part in 0..4_u16 {
        let all = (part << 14)..=(part << 14 | 0x3fff);
        // 0x5600 and 0x00ff are signalling values, not suites (RFC 7507, RFC 5746).
        let mut left: Vec<u16> = all
            .filter(|suite| ![0x5600, 0x00ff].contains(suite))
            .collect();
        let hello = Hello::of(version, port.alpn);
        while let Answer::Hello(answer) = hello.clone().suites(left.clone()).ask(port.address).await
        {
            assert_eq!(
                (answer.version, answer.compression),
                (version, 0),
                "{}",
                port.name
            );
            assert!(
                left.contains(&answer.suite),
                "{}: {:#x}",
                port.name,
                answer.suite
            );
            left.retain(|suite| *suite != answer.suite);
            accepted.insert(answer.suite);
        }
    }
    accepted
}

async fn scan(port: &ScannedPort) {
    for version in [SSL3, TLS10, TLS11, TLS12, TLS13] {
        let of = port.accepts.iter().find(|(of, _)| *of == version);
        let expected: BTreeSet<u16> = of.map_or_else(BTreeSet::new, |(_, suites)| (*suites).into());
        let found = accepted(port, version).await;
        assert_eq!(found, expected, "{}: version {version:#x}", port.name);
    }
    for (version, suites) in port.accepts {
        weaknesses(port, Hello::of(*version, port.alpn).suites(*suites)).await;
    }
}

/// Checks that the port refuses weak variations of `good`, a ClientHello that it accepts.
async fn weaknesses(port: &ScannedPort, good: Hello) {
    let taken = |answer: &Answer| matches!(answer, Answer::Hello(_));
    assert!(taken(&good.ask(port.address).await), "{}", port.name);
    let with = |change: &dyn Fn(&mut Hello)| {
        let mut hello = good.clone();
        change(&mut hello);
        hello
    };
    for (weakness, hello) in [
        (
            "compression alone",
            with(&|hello| hello.compressions = vec![1]),
        ),
        // sect163k1, sect163r1, secp160k1, secp192r1, secp224r1, ffdhe2048.
        (
            "small groups",
            with(&|hello| hello.groups = vec![1, 2, 15, 19, 21, 256]),
        ),
        // RSA and ECDSA with SHA-1, RSA with MD5, ECDSA with SHA-224.
        (
            "old hashes",
            with(&|hello| hello.schemes = vec![0x0201, 0x0203, 0x0101, 0x0303]),
        ),
    ] {
        if weakness == "old hashes" && hello.version == TLS13 {
            // In TLS 1.3 they never apply to handshake signatures, whatever is offered (RFC 8446,
            // 4.2.3).
            continue;
        }
        let answer = hello.ask(port.address).await;
        assert!(!taken(&answer), "{}: {weakness}: {answer:?}", port.name);
    }
    let offered = with(&|hello| {
        hello.compressions = vec![1, 0];
        // Offers heartbeats (RFC 6520), renegotiation and early data (RFC 5746, RFC 8446 4.2.10).
        hello.more = vec![(15, vec![1]), (0xff01, vec![0]), (42, Vec::new())];
        if hello.version == TLS13 {
            // Early data needs a PSK; without one the server has nothing to refuse.
            hello.more.pop();
        }
    });
    match offered.ask(port.address).await {
        Answer::Hello(answer) => {
            assert_eq!(answer.compression, 0, "{}: compression", port.name);
            assert!(
                !answer.extensions.contains(&15),
                "{}: heartbeats",
                port.name
            );
            if answer.version == TLS12 {
                // Secure renegotiation is signalled (RFC 5746, 3.6), and a server that knows TLS
                // 1.3 marks the downgrade (RFC 8446, 4.1.3).
                assert!(
                    answer.extensions.contains(&0xff01),
                    "{}: {answer:?}",
                    port.name
                );
                assert_eq!(&answer.random[24..], b"DOWNGRD\x01", "{}", port.name);
            }
        }
        // RFC 8446, 4.1.2: TLS 1.3 forbids offering compression.
        Answer::Alert(47) if offered.version == TLS13 => {}
        other => panic!("{}: {other:?}", port.name),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_accepts_only_tls_1_2_and_1_3_with_aead_suites() {
    let _others = among_others().await;
    let app = ports::application(Version::Http1).await;
    for (key, accepts) in [
        (
            ServerKey::Ecdsa,
            &[(TLS12, SUITES_ECDSA), (TLS13, SUITES_13)],
        ),
        (ServerKey::Rsa, &[(TLS12, SUITES_RSA), (TLS13, SUITES_13)]),
    ] {
        let port = ports::gateway_https(app, &Pki::new().unwrap(), key);
        scan(&ScannedPort {
            name: port.name,
            address: port.address,
            alpn: H2,
            accepts,
        })
        .await;
        // An SSLv2 ClientHello with three of its suites.
        let old = b"\x80\x1f\x01\x00\x02\x00\x06\x00\x00\x00\x10\x07\x00\xc0\x05\x00\x80\x01\x00\x80__sixteen_bytes_";
        assert_eq!(ask(port.address, old).await, Answer::Closed);
        refuses_renegotiation(port.address).await;
    }
}

/// OpenSSL's client requests renegotiation on a TLS 1.2 connection, and is refused.
async fn refuses_renegotiation(address: SocketAddr) {
    let to = address.to_string();
    let client = Command::new("openssl")
        .args(["s_client", "-connect", &to, "-tls1_2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut client = client.expect("openssl");
    let mut stdin = client.stdin.take().unwrap();
    // A line with this letter alone requests renegotiation.
    stdin.write_all(b"R\n").await.unwrap();
    let ended = timeout(Duration::from_secs(10), client.wait_with_output()).await;
    drop(stdin);
    let output = ended.expect("the connection closes").unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("RENEGOTIATING"), "{said}");
    assert!(!output.status.success(), "renegotiated: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pod_accepts_only_tls_1_3() {
    let _others = among_others().await;
    let app = ports::application(Version::Http2).await;
    let pod = Pod::start(&Pki::new().unwrap(), "reviews", Mode::Strict);
    let address = pod.inbound(app);
    for alpn in alpn::ALL {
        let accepts = &[(TLS13, SUITES_13)];
        let name = "inbound";
        scan(&ScannedPort {
            name,
            address,
            alpn,
            accepts,
        })
        .await;
    }
    // A client that offers no ALPN protocol of the mesh is refused.
    let other = Hello::of(TLS13, H2).suites(SUITES_13).ask(address).await;
    assert_eq!(other, Answer::Closed);
}

/// How a client's first record is split.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    /// Each byte in its own packet.
    Bytes,
    /// In records of this many bytes.
    Records(usize),
    /// Both.
    BytesOfRecords(usize),
}

impl Pieces {
    fn cut(self, record: &[u8]) -> Vec<u8> {
        let (Self::Records(length) | Self::BytesOfRecords(length)) = self else {
            return record.to_vec();
        };
        let mut records = Vec::new();
        for part in record[5..].chunks(length) {
            records.extend_from_slice(&record[..3]);
            records.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            records.extend_from_slice(part);
        }
        records
    }

    async fn send(self, record: &[u8], to: &mut TcpStream) {
        let bytes = self.cut(record);
        let at_once = if matches!(self, Self::Records(_)) {
            bytes.len()
        } else {
            1
        };
        for piece in bytes.chunks(at_once) {
            to.write_all(piece).await.unwrap();
            // Lets the kernel send the piece before it can merge it with the next.
            tokio::task::yield_now().await;
        }
    }
}

/// Relays connections to `back`, the first record of each split.
async fn relay(back: SocketAddr, pieces: Pieces) -> SocketAddr {
    let listener = TcpListener::bind(ANY).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            let mut record = vec![0; 5];
            from.read_exact(&mut record).await.unwrap();
            let length = usize::from(u16::from_be_bytes([record[3], record[4]]));
            record.resize(5 + length, 0);
            from.read_exact(&mut record[5..]).await.unwrap();
            let mut to = TcpStream::connect(back).await.unwrap();
            to.set_nodelay(true).unwrap();
            pieces.send(&record, &mut to).await;
            tokio::spawn(async move { copy_bidirectional(&mut from, &mut to).await.ok() });
        }
    });
    address
}

const PIECES: [Pieces; 4] = [
    Pieces::Bytes,
    Pieces::Records(1),
    Pieces::Records(100),
    Pieces::BytesOfRecords(1),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragmented_client_hello_is_accepted() {
    let _others = among_others().await;
    let (http1, http2) = (
        ports::application(Version::Http1).await,
        ports::application(Version::Http2).await,
    );
    let pki = Pki::new().unwrap();
    let gateway = ports::gateway_https(http1, &pki, ServerKey::Ecdsa);
    let server = Pod::start(&pki, "reviews", Mode::Strict);
    let inbound = server.inbound(http2);
    let peer = Pod::start(&pki, "frontend", Mode::Strict);
    let config = peer
        .context
        .tls
        .client_config(&identity("reviews"), alpn::H2)
        .unwrap();
    for pieces in PIECES {
        let client = TlsClient::new(&pki).alpn("h2");
        let stream = client
            .connect(relay(gateway.address, pieces).await, "localhost")
            .await
            .unwrap();
        let mut client = Client::over(stream, Version::Http2).await;
        assert_eq!(client.get("/").await.status, 200, "gateway, {pieces:?}");

        let tcp = TcpStream::connect(relay(inbound, pieces).await)
            .await
            .unwrap();
        let name = ServerName::try_from("reviews").unwrap();
        let stream = TlsConnector::from(config.clone())
            .connect(name, tcp)
            .await
            .unwrap();
        let mut client = Client::over(stream, Version::Http2).await;
        assert_eq!(client.get("/").await.status, 200, "inbound, {pieces:?}");
    }
}
